//! The real binary against hostile clients that send HTTP/2 frame by frame. The tests check that the service holds a bounded amount
//! of memory for them (measured by the kernel), does a bounded amount of work for them, and serves an honest client at the same
//! time.
//!
//! `cargo test --test it hostile:: -- --nocapture` prints a table: the bytes that each attack sends, the memory that
//! the server holds, and the latency of the honest client.

mod attacks;
mod refusals;
mod support;

use std::{future::Future, pin::Pin};

use support::{
    good::Good,
    memory::{forget_peak, peak, resident, settles, shrinks_to},
    raw::{DATA, PING, PRIORITY, RST_STREAM, Raw, SETTINGS, UNKNOWN, WINDOW_UPDATE, frame, header_block},
};
use tally::{
    client::Client,
    proto::{Account, ProcessTransactionsResponse, transaction_result::Outcome},
};

use crate::support::{
    in_process::account,
    server::{ServerOptions, TestServer},
};

/// The most memory that the server may hold above its memory at rest.
const HELD_BYTES_MAX: u64 = 512 << 20;
/// The most memory that the server may keep above its memory at rest after all attackers have left. The allocator keeps
/// some of it.
const KEPT_BYTES_MAX: u64 = 96 << 20;
/// A message with unknown fields only.
const UNKNOWN_BYTES: usize = 8 << 20;
/// The number of frames in a flood. None of them belongs to a call or a message. The server closes the connection before it has
/// read this many.
const FLOOD_FRAMES: usize = 20_000;

type Attack = for<'a> fn(&'a TestServer, u8) -> Pin<Box<dyn Future<Output = Vec<Raw>> + Send + 'a>>;

/// All attacks on memory, by name.
const ATTACKS: [(&str, Attack); 12] = [
    ("claimed lengths", |server, client| {
        Box::pin(attacks::claimed_lengths(server, client))
    }),
    ("refused transactions, unread", |server, client| {
        Box::pin(attacks::refused_transactions(server, client))
    }),
    ("refused messages of streams, unread", |server, client| {
        Box::pin(attacks::refused_messages(server, client))
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

/// A server with a thousand accounts of the largest size.
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
    println!("| attack | sent | held above rest | kept afterwards | the other client's p99 (calls) |");
    println!("|---|---|---|---|---|");
    let rest = resident(&server);
    for (name, attack) in ATTACKS {
        let good = Good::start(&server, name).await;
        good.is_served().await;
        forget_peak(&server);
        let before = resident(&server);
        let connections = attack(&server, 1).await;
        good.is_served().await;
        settles(&server).await;
        let held = peak(&server).saturating_sub(before.min(rest));
        let sent: u64 = connections.iter().map(|raw| raw.sent).sum();
        drop(connections);
        let kept = shrinks_to(&server, rest + KEPT_BYTES_MAX)
            .await
            .saturating_sub(rest);
        let served = good.finish().await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_attacks_at_once_are_bounded_together_and_an_honest_client_is_served() {
    let (server, _client) = server().await;
    let good = Good::start(&server, "together").await;
    good.is_served().await;
    let rest = resident(&server);
    forget_peak(&server);
    // Each attacker has its own address. Together they share one budget.
    let running = ATTACKS
        .iter()
        .zip(1..)
        .map(|((_, attack), client)| attack(&server, client));
    let connections: Vec<Raw> = futures_util::future::join_all(running)
        .await
        .into_iter()
        .flatten()
        .collect();
    good.is_served().await;
    settles(&server).await;
    let held = peak(&server).saturating_sub(rest);
    let sent: u64 = connections.iter().map(|raw| raw.sent).sum();
    drop(connections);
    let kept = shrinks_to(&server, rest + KEPT_BYTES_MAX)
        .await
        .saturating_sub(rest);
    let served = good.finish().await;
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
    let good = Good::start(&server, "unknown").await;
    let body = attacks::unknown_fields(UNKNOWN_BYTES);
    let mut uploads = Vec::new();
    for client in [1, 2] {
        let mut raw = Raw::connect(&server, client, &[]).await;
        let (call, whole) = raw.upload(attacks::BULK, &body, false).await;
        assert!(whole, "refused in the middle: {}", raw.refusal);
        good.is_served().await;
        uploads.push((raw, call));
    }
    for (mut raw, call) in uploads {
        raw.send(&frame(DATA, support::raw::END_STREAM, call, &[])).await;
        // The message has no transaction.
        let (answer, ended) = raw.answer(call).await;
        assert!(ended && answer.is_empty());
    }
    good.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_empty_frames_end_with_their_connection() {
    let (server, _client) = server().await;
    let good = Good::start(&server, "floods").await;
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
    good.is_served().await;
    good.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_continues_after_rejections_receives_enhance_your_calm() {
    let (server, _client) = server().await;
    let mut raw = Raw::connect(&server, 1, &[]).await;
    let first = [header_block(attacks::STREAM), vec![0x40, 1, b'x', 1, b'y']].concat();
    let again = [header_block(attacks::STREAM), vec![0xbe; 100]].concat();
    let (_, bytes) = raw.begin(&first);
    raw.send(&bytes).await;
    // Each call has its answer.
    for _ in 0..100 {
        let (call, bytes) = raw.begin(&again);
        raw.send(&bytes).await;
        let (_, ended) = raw.answer(call).await;
        assert!(ended, "call {call}");
    }
    // A client that does not read its answers does not receive answers for ever.
    for _ in 0..2000 {
        let (_, bytes) = raw.begin(&again);
        raw.send(&bytes).await;
    }
    assert!(raw.receives_enhance_your_calm().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_write_only_a_few_log_lines() {
    let (server, _client) = server().await;
    let good = Good::start(&server, "resets").await;
    let connections = attacks::rapid_reset(&server, 1).await;
    for mut raw in connections {
        // Read until the end of the connection.
        let _ = raw.receives_enhance_your_calm().await;
    }
    good.is_served().await;
    good.finish().await;
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
    // The most invalid transactions of a request. The answer is complete when the client reads it.
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
    // 4096 concurrent streams.
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
