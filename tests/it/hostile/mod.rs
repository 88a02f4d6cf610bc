//! Tests with hostile clients that send HTTP/2 frame by frame. The service runs as a process. The tests check that the
//! service uses a bounded amount of memory and work for hostile clients, and serves an honest client at the same time.
//! The kernel measures the memory.
//!
//! `cargo test --test it hostile:: -- --nocapture` prints a table. It contains the bytes that each attack sends, the
//! memory that the server uses, and the latency of the honest client.

mod attacks;
mod rejections;
mod support;

use std::{future::Future, pin::Pin};

use support::{
    honest::HonestClient,
    memory::{forget_peak, peak, resident, wait_until_below, wait_until_settled},
    raw::{DATA, PING, PRIORITY, RST_STREAM, Raw, SETTINGS, UNKNOWN, WINDOW_UPDATE, frame, header_block},
};
use tally::{
    client::Client,
    proto::{Account, ProcessTransactionsResponse, transaction_result::Outcome},
};

use crate::support::{
    in_process::{account, pay},
    server::{ServerOptions, TestServer},
};

/// Maximum memory that the server may use during an attack, in bytes above its memory at rest.
const HELD_BYTES_MAX: u64 = 512 << 20;
/// Maximum memory that the server may keep after all attackers have left, in bytes above its memory at rest. The
/// allocator keeps some freed memory.
const KEPT_BYTES_MAX: u64 = 96 << 20;
/// Maximum memory that the server may use for unread watches of one client, in bytes: the client's half of `server.memory_max`, the window
/// of the feed, and the buffers of the writes.
const WATCHES_BYTES_MAX: u64 = 192 << 20;
/// The size of a message that consists only of unknown fields, in bytes.
const UNKNOWN_BYTES: usize = 8 << 20;
/// Number of frames in a flood. The frames belong to no call and no message. The server closes the connection before it
/// has read this number of frames.
const FLOOD_FRAMES: usize = 20_000;

/// Runs an attack from the client address with this last byte. Returns the open connections of the attacker.
type Attack = for<'a> fn(&'a TestServer, u8) -> Pin<Box<dyn Future<Output = Vec<Raw>> + Send + 'a>>;

/// All attacks on the memory of the server, by name.
const ATTACKS: [(&str, Attack); 12] = [
    ("claimed lengths", |server, client| {
        Box::pin(attacks::claimed_lengths(server, client))
    }),
    ("rejected transactions, unread", |server, client| {
        Box::pin(attacks::rejected_transactions(server, client))
    }),
    ("rejected messages of streams, unread", |server, client| {
        Box::pin(attacks::rejected_messages(server, client))
    }),
    ("too many transactions", |server, client| {
        Box::pin(attacks::too_many_transactions(server, client))
    }),
    ("too many accounts", |server, client| {
        Box::pin(attacks::too_many_accounts(server, client))
    }),
    ("too much metadata", |server, client| {
        Box::pin(attacks::too_much_metadata(server, client))
    }),
    ("pages of accounts, unread", |server, client| {
        Box::pin(attacks::unread_pages(server, client))
    }),
    ("streams, unread", |server, client| {
        Box::pin(attacks::unread_streams(server, client))
    }),
    ("bulks without an end", |server, client| {
        Box::pin(attacks::unfinished_bulks(server, client))
    }),
    ("calls of 440 headers", |server, client| {
        Box::pin(attacks::many_headers(server, client))
    }),
    ("open calls of 50 headers", |server, client| {
        Box::pin(attacks::open_calls(server, client))
    }),
    ("trailers", |server, client| {
        Box::pin(attacks::trailers(server, client))
    }),
];

/// Starts a server with 1000 accounts, of which 998 have the maximum size.
async fn server() -> (TestServer, Client) {
    let server = ServerOptions::default().start();
    let client = server.client().await;
    let large = |number: usize| Account {
        metadata: (0..16).map(|key| (key.to_string(), "x".repeat(62))).collect(),
        ..account(&format!("account-{number:055}"))
    };
    let mut accounts = ["a", "b"].map(account).to_vec();
    accounts.extend((0..998).map(large));
    client.batch_create_accounts(accounts).await.unwrap();
    (server, client)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_attack_makes_the_server_hold_much_memory_or_keep_it() {
    let (server, _client) = server().await;
    println!("| attack | sent | held above rest | kept afterwards | the honest client's p99 (calls) |");
    println!("|---|---|---|---|---|");
    let rest = resident(&server);
    for (name, attack) in ATTACKS {
        let honest = HonestClient::start(&server, name).await;
        honest.wait_until_served().await;
        forget_peak(&server);
        let before = resident(&server);
        let connections = attack(&server, 1).await;
        honest.wait_until_served().await;
        wait_until_settled(&server).await;
        let held = peak(&server).saturating_sub(before.min(rest));
        let sent: u64 = connections.iter().map(|raw| raw.sent).sum();
        drop(connections);
        let kept = wait_until_below(&server, rest + KEPT_BYTES_MAX)
            .await
            .saturating_sub(rest);
        let served = honest.finish().await;
        println!(
            "| {name} | {:.2} MiB | {:.0} MiB | {:.0} MiB | {:.1?} ({}) |",
            mebibytes(sent),
            mebibytes(held),
            mebibytes(kept),
            served.p99,
            served.calls
        );
        assert!(held <= HELD_BYTES_MAX, "{name}: {held} bytes");
        assert!(kept <= KEPT_BYTES_MAX, "{name}: {kept} bytes are kept");
    }
}

/// The watchers begin at the start of a ledger that is larger than the window that the service keeps for all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_watches_use_bounded_memory_and_an_honest_client_is_served() {
    let (server, client) = server().await;
    write_large_transactions(&client, "before").await;
    let honest = HonestClient::start(&server, "watches").await;
    honest.wait_until_served().await;
    let rest = resident(&server);
    forget_peak(&server);
    let watches = attacks::unread_watches(&server, 1).await;
    write_large_transactions(&client, "after").await;
    honest.wait_until_served().await;
    wait_until_settled(&server).await;
    let held = peak(&server).saturating_sub(rest);
    println!("unread watches: {:.0} MiB held above rest", mebibytes(held));
    assert!(held <= WATCHES_BYTES_MAX, "{held} bytes");
    drop(watches);
    honest.finish().await;
}

/// Writes 20 MiB of transactions.
async fn write_large_transactions(client: &Client, name: &str) {
    for batch in 0..40 {
        let transactions = (0..400).map(|number| {
            let mut large = pay(&format!("{name}-{batch}-{number}"));
            large.metadata.insert("text".to_owned(), "x".repeat(1000));
            large
        });
        client.process_transactions(transactions.collect()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_attacks_at_once_are_bounded_together_and_an_honest_client_is_served() {
    let (server, _client) = server().await;
    let honest = HonestClient::start(&server, "together").await;
    honest.wait_until_served().await;
    let rest = resident(&server);
    forget_peak(&server);
    // Each attacker has its own address, but the server has one memory budget for all clients together.
    let running = ATTACKS
        .iter()
        .zip(1..)
        .map(|((_, attack), client)| attack(&server, client));
    let connections: Vec<Raw> = futures_util::future::join_all(running)
        .await
        .into_iter()
        .flatten()
        .collect();
    honest.wait_until_served().await;
    wait_until_settled(&server).await;
    let held = peak(&server).saturating_sub(rest);
    let sent: u64 = connections.iter().map(|raw| raw.sent).sum();
    drop(connections);
    let kept = wait_until_below(&server, rest + KEPT_BYTES_MAX)
        .await
        .saturating_sub(rest);
    let served = honest.finish().await;
    println!(
        "| all at once | {:.2} MiB | {:.0} MiB | {:.0} MiB | {:.1?} ({}) |",
        mebibytes(sent),
        mebibytes(held),
        mebibytes(kept),
        served.p99,
        served.calls
    );
    assert!(held <= HELD_BYTES_MAX, "{held} bytes");
    assert!(kept <= KEPT_BYTES_MAX, "{kept} bytes are kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_fields_are_skipped_as_they_arrive_and_delay_no_other_client() {
    let (server, _client) = server().await;
    let honest = HonestClient::start(&server, "unknown").await;
    let body = attacks::unknown_fields(UNKNOWN_BYTES);
    let mut uploads = Vec::new();
    for client in [1, 2] {
        let mut raw = Raw::connect(&server, client, &[]).await;
        let (call, whole) = raw.upload(attacks::BULK, &body, false).await;
        assert!(whole, "rejected in the middle: {}", raw.rejection);
        honest.wait_until_served().await;
        uploads.push((raw, call));
    }
    for (mut raw, call) in uploads {
        raw.send(&frame(DATA, support::raw::END_STREAM, call, &[])).await;
        // The message has no transaction, so the answer is an error without a message.
        let (answer, ended) = raw.answer(call).await;
        assert!(ended && answer.is_empty());
    }
    honest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_closes_a_connection_that_floods_it_with_frames_without_a_call() {
    let (server, _client) = server().await;
    let honest = HonestClient::start(&server, "floods").await;
    for (name, frame) in [
        ("SETTINGS", frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0x10, 0])),
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("PRIORITY", frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 7])),
        ("unknown", frame(UNKNOWN, 0, 0, &[])),
        ("unknown, long", frame(UNKNOWN, 0, 0, &[0; 4096])),
    ] {
        let mut raw = attacks::flood(&server, 1, &frame, FLOOD_FRAMES).await;
        assert!(raw.receives_enhance_your_calm().await, "{name}");
    }
    honest.wait_until_served().await;
    honest.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_continues_after_rejections_receives_enhance_your_calm() {
    let (server, _client) = server().await;
    let mut raw = Raw::connect(&server, 1, &[]).await;
    let first = [header_block(attacks::STREAM), vec![0x40, 1, b'x', 1, b'y']].concat();
    let again = [header_block(attacks::STREAM), vec![0xbe; 100]].concat();
    let (_, bytes) = raw.begin(&first);
    raw.send(&bytes).await;
    // Each call is answered, because the client reads the answers.
    for _ in 0..100 {
        let (call, bytes) = raw.begin(&again);
        raw.send(&bytes).await;
        let (_, ended) = raw.answer(call).await;
        assert!(ended, "call {call}");
    }
    // Now the client does not read the answers, so the server must close the connection at some time.
    for _ in 0..2000 {
        let (_, bytes) = raw.begin(&again);
        raw.send(&bytes).await;
    }
    assert!(raw.receives_enhance_your_calm().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_write_only_a_few_log_lines() {
    let (server, _client) = server().await;
    let honest = HonestClient::start(&server, "resets").await;
    let connections = attacks::rapid_reset(&server, 1).await;
    for mut raw in connections {
        // Read until the end of the connection. The result is ignored, because the server may end the connection with
        // or without ENHANCE_YOUR_CALM.
        let _ = raw.receives_enhance_your_calm().await;
    }
    honest.wait_until_served().await;
    honest.finish().await;
    let log = server.stderr();
    let lines = log
        .lines()
        .filter(|line| line.contains("WARN") || line.contains("h2"))
        .count();
    assert!(lines < 10, "{lines} lines:\n{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_allowed_requests_are_served() {
    let (server, _client) = server().await;
    // A request with the maximum number of transactions, all of them invalid. The client reads the answer, so it must
    // be complete.
    let body = support::raw::message(&[0x0a, 0].repeat(8192));
    let mut raw = Raw::connect(&server, 1, &[0, 4, 0x7f, 0xff, 0xff, 0xff]).await;
    raw.send(&frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0, 0, 0])).await;
    let call = raw.call(attacks::BULK, &body, true).await;
    let (answer, ended) = raw.answer(call).await;
    assert!(ended);
    let answer: ProcessTransactionsResponse = prost::Message::decode(&answer[5..]).unwrap();
    assert_eq!(answer.results.len(), 8192);
    for result in answer.results {
        let Some(Outcome::Error(error)) = result.outcome else {
            panic!("{result:?}");
        };
        assert_eq!(error.code, 3);
        assert!(error.message.contains("transaction_id"), "{error:?}");
    }
    // 4096 streams that are open at the same time.
    let mut raw = Raw::connect(&server, 2, &[]).await;
    raw.send(&frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0, 0, 0])).await;
    let body = support::raw::message(&[0x0a, 0]);
    let calls = 4096;
    for _ in 0..calls {
        raw.call(attacks::STREAM, &body, false).await;
    }
    let mut answered = 0;
    while answered < calls {
        let received = raw.receive().await.expect("the connection is open");
        assert_ne!(received.kind, RST_STREAM, "{received:?}");
        answered += usize::from(received.kind == DATA);
    }
}
