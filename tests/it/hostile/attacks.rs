//! The attacks. Each attack sends little data and tries to make the service use much memory or do much work. Each
//! attack returns its open connections, which count the bytes that they have sent. `client` is the last byte of the
//! client's address.

use super::support::raw::{DATA, FRAME_BYTES_MAX, NO_WINDOW, RST_STREAM, Raw, frame, header_block, message};
use crate::support::server::TestServer;

pub(super) const TRANSACTION: &str = "/tally.v1.TransactionService/ProcessTransaction";
pub(super) const BULK: &str = "/tally.v1.TransactionService/ProcessTransactions";
pub(super) const STREAM: &str = "/tally.v1.TransactionService/StreamTransactions";
pub(super) const ACCOUNTS: &str = "/tally.v1.AccountService/BatchCreateAccounts";
pub(super) const LIST: &str = "/tally.v1.AccountService/ListAccounts";
const WATCH: &str = "/tally.v1.TransactionService/WatchTransactions";

/// Announces messages of 16 MiB, and sends only one byte of each message.
pub(super) async fn claimed_lengths(server: &TestServer, client: u8) -> Vec<Raw> {
    let mut connections = Vec::new();
    for path in [BULK, TRANSACTION, ACCOUNTS, STREAM] {
        let mut raw = Raw::connect(server, client, &[]).await;
        for _ in 0..512 {
            raw.call(path, &[0, 0, 0xff, 0xff, 0xff, 0x0a], false).await;
        }
        connections.push(raw);
    }
    connections
}

/// Sends requests with many invalid transactions. Each transaction takes two bytes, and the error in the answer takes
/// hundreds of bytes. The client does not read the answers.
pub(super) async fn rejected_transactions(server: &TestServer, client: u8) -> Vec<Raw> {
    let body = message(&[0x0a, 0].repeat(8192));
    let mut connections = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::connect(server, client, NO_WINDOW).await;
        for _ in 0..24 {
            raw.call(BULK, &body, true).await;
        }
        connections.push(raw);
    }
    connections
}

/// Does the same as [`rejected_transactions`], but with messages in streams.
pub(super) async fn rejected_messages(server: &TestServer, client: u8) -> Vec<Raw> {
    let body = message(&[0x0a, 0]).repeat(8000);
    let mut connections = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::connect(server, client, NO_WINDOW).await;
        for _ in 0..24 {
            raw.call(STREAM, &body, false).await;
        }
        connections.push(raw);
    }
    connections
}

/// Sends as many transactions as fit into a message, which is more than the allowed number.
pub(super) async fn too_many_transactions(server: &TestServer, client: u8) -> Vec<Raw> {
    let body = message(&[0x0a, 0].repeat(4 << 20));
    let mut raw = Raw::connect(server, client, &[]).await;
    raw.upload(BULK, &body, true).await;
    vec![raw]
}

/// Does the same as [`too_many_transactions`], but with accounts. Accounts are decoded by generated code, and
/// transactions are not.
pub(super) async fn too_many_accounts(server: &TestServer, client: u8) -> Vec<Raw> {
    let body = message(&[0x0a, 0].repeat((4 << 20) / 2 - 8));
    let mut connections = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::connect(server, client, &[]).await;
        raw.upload(ACCOUNTS, &body, true).await;
        connections.push(raw);
    }
    connections
}

/// Sends an account with as many entries of metadata as fit into a message.
pub(super) async fn too_much_metadata(server: &TestServer, client: u8) -> Vec<Raw> {
    let entry = |number: u32| {
        let [_, a, b, c] = (number | 0x0041_4141).to_be_bytes().map(|byte| byte & 0x7f);
        [0x32, 5, 0x0a, 3, a, b, c]
    };
    let entries: Vec<u8> = (0..500_000).flat_map(entry).collect();
    let delimited = |payload: &[u8]| {
        let mut bytes = vec![0x0a];
        prost::encoding::encode_varint(payload.len() as u64, &mut bytes);
        bytes.extend_from_slice(payload);
        bytes
    };
    let body = message(&delimited(&delimited(&entries)));
    let mut raw = Raw::connect(server, client, &[]).await;
    raw.upload(ACCOUNTS, &body, true).await;
    vec![raw]
}

/// Requests pages of accounts, and does not read the answers.
pub(super) async fn unread_pages(server: &TestServer, client: u8) -> Vec<Raw> {
    let body = message(&[0x08, 0xe8, 0x07]);
    let mut connections = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::connect(server, client, NO_WINDOW).await;
        for _ in 0..200 {
            raw.call(LIST, &body, true).await;
        }
        connections.push(raw);
    }
    connections
}

/// Opens as many watches of the ledger as one client may have, and does not read them.
pub(super) async fn unread_watches(server: &TestServer, client: u8) -> Vec<Raw> {
    let mut connections = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::connect(server, client, &[]).await;
        for _ in 0..256 {
            raw.call(WATCH, &message(&[]), true).await;
        }
        connections.push(raw);
    }
    connections
}

/// Sends messages in many streams, and does not read the answers.
pub(super) async fn unread_streams(server: &TestServer, client: u8) -> Vec<Raw> {
    let body = message(&[0x0a, 0]).repeat(4);
    let mut connections = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::connect(server, client, NO_WINDOW).await;
        let mut calls = Vec::new();
        for _ in 0..1000 {
            calls.push(raw.call(STREAM, &body, false).await);
        }
        // Send until the flow-control windows are full.
        for call in calls.into_iter().take(60) {
            raw.send(&frame(DATA, 0, call, &[0; 1000])).await;
        }
        connections.push(raw);
    }
    connections
}

/// Sends requests with many valid transactions, but does not end them.
pub(super) async fn unfinished_bulks(server: &TestServer, client: u8) -> Vec<Raw> {
    let transaction = [&[0x0a, 100, 0x12, 98], [0; 98].as_slice()].concat();
    let length = u32::try_from(16 << 20).unwrap();
    let mut body = vec![0];
    body.extend(length.to_be_bytes());
    body.extend(transaction.repeat(8 << 10));
    let mut connections = Vec::new();
    for _ in 0..24 {
        let mut raw = Raw::connect(server, client, &[]).await;
        raw.upload(BULK, &body, false).await;
        connections.push(raw);
    }
    connections
}

/// Sends calls that consist only of headers. Each call repeats one header 440 times, and each repetition takes one
/// byte.
pub(super) async fn many_headers(server: &TestServer, client: u8) -> Vec<Raw> {
    headers(server, client, 440, 4096).await
}

/// Does the same as [`many_headers`], but with 50 headers, so that the server accepts the calls and they stay open.
pub(super) async fn open_calls(server: &TestServer, client: u8) -> Vec<Raw> {
    headers(server, client, 50, 4096).await
}

async fn headers(server: &TestServer, client: u8, count: usize, calls: usize) -> Vec<Raw> {
    let mut connections = Vec::new();
    for _ in 0..10 {
        let mut raw = Raw::connect(server, client, &[]).await;
        // The first call stores the header `x: y` in the table of the server's decoder. Later calls name the header by
        // its index, which takes one byte.
        let first = [header_block(STREAM), vec![0x40, 1, b'x', 1, b'y']].concat();
        let again = [header_block(STREAM), vec![0xbe; count]].concat();
        for call in 0..calls {
            let (_, bytes) = raw.begin(if call == 0 { &first } else { &again });
            raw.send(&bytes).await;
            if raw.closed {
                break;
            }
        }
        connections.push(raw);
    }
    connections
}

/// Sends trailers, which gRPC requests do not have. The server can't read the trailers yet, because it has not read the
/// messages before them.
pub(super) async fn trailers(server: &TestServer, client: u8) -> Vec<Raw> {
    let body = message(&[0x0a, 0]);
    let mut raw = Raw::connect(server, client, NO_WINDOW).await;
    let first = [header_block(STREAM), vec![0x40, 1, b'x', 1, b'y']].concat();
    for call in 0..2000 {
        let (number, mut bytes) = raw.begin(if call == 0 {
            &first
        } else {
            &first[..first.len() - 5]
        });
        for _ in 0..10 {
            bytes.extend(frame(DATA, 0, number, &body));
        }
        // HEADERS with END_STREAM and END_HEADERS.
        bytes.extend(frame(1, 5, number, &[0xbe; 440]));
        raw.send(&bytes).await;
        if raw.closed {
            break;
        }
    }
    vec![raw]
}

/// Sends `frame` `count` times, or until the server closes the connection.
pub(super) async fn flood(server: &TestServer, client: u8, frame: &[u8], count: usize) -> Raw {
    let mut raw = Raw::connect(server, client, &[]).await;
    let at_once = (FRAME_BYTES_MAX / frame.len()).max(1);
    let bytes = frame.repeat(at_once);
    for _ in 0..count.div_ceil(at_once) {
        raw.send(&bytes).await;
        if raw.closed {
            break;
        }
    }
    raw
}

/// Begins calls, and resets each call immediately.
pub(super) async fn rapid_reset(server: &TestServer, client: u8) -> Vec<Raw> {
    let mut connections = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::connect(server, client, &[]).await;
        let mut bytes = Vec::new();
        for _ in 0..500 {
            let (number, begin) = raw.begin(&header_block(TRANSACTION));
            bytes.extend(begin);
            bytes.extend(frame(RST_STREAM, 0, number, &[0, 0, 0, 8]));
        }
        raw.send(&bytes).await;
        connections.push(raw);
    }
    connections
}

/// Returns a message of unknown fields. The first field is longer than a frame, and many short fields follow.
pub(super) fn unknown_fields(bytes: usize) -> Vec<u8> {
    let long = 2 * FRAME_BYTES_MAX;
    let mut fields = vec![0x12];
    prost::encoding::encode_varint(long as u64, &mut fields);
    fields.resize(fields.len() + long, 0);
    fields.extend([0x18, 0].repeat((bytes - fields.len()) / 2));
    message(&fields)
}
