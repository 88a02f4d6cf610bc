//! Rejected calls from many addresses at the same time: calls without a token, and calls for which no memory is left, because other
//! clients hold it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tally::client::{Client, ClientConfig, Token};
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{
    HELD_BYTES_MAX, KEPT_BYTES_MAX, attacks, mebibytes,
    support::{
        good::Good,
        memory::{forget_peak, peak, resident, settles, shrinks_to},
        raw::{END_HEADERS, END_STREAM, HEADERS, Raw, frame, header_block},
    },
};
use crate::{
    security::{WRITE, with_tokens},
    support::{
        in_process::account,
        server::{ServerOptions, TestServer},
    },
};

/// The number of attacking addresses, and the number of connections of each, which is below the limit of a client.
const ADDRESSES: u8 = 5;
const CONNECTIONS_OF_EACH: usize = 300;
/// The most open files of the test process: its connections, and those of other tests.
const FILES: u64 = 8192;

/// A prober that checks the health of the service, each time on a new connection.
struct Probe {
    stop: Arc<AtomicBool>,
    passed: Arc<AtomicUsize>,
    work: tokio::task::JoinHandle<()>,
}

impl Probe {
    fn start(server: &TestServer) -> Self {
        let (stop, passed) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let endpoint = Endpoint::from_shared(server.endpoint()).unwrap();
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&passed));
        let work = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let mut health = HealthClient::new(
                    endpoint
                        .connect()
                        .await
                        .expect("the server accepts the connection"),
                );
                let checked = health.check(HealthCheckRequest::default()).await;
                checked.expect("a health check is answered whatever memory other clients hold");
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        Probe { stop, passed, work }
    }

    /// Stops, and returns the number of successful checks.
    async fn finish(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.work.await.expect("every check was answered");
        self.passed.load(Ordering::Relaxed)
    }
}

/// Begins `count` calls in one write. The client does not read the answers.
async fn calls(raw: &mut Raw, path: &str, count: usize, flags: u8) {
    let block = header_block(path);
    let bytes: Vec<u8> = (0..count)
        .flat_map(|_| frame(HEADERS, flags | END_HEADERS, raw.call_number(), &block))
        .collect();
    raw.send(&bytes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_without_a_token_unread_on_many_connections_of_many_addresses_are_bounded() {
    tally::sys::limits::raise_open_files(FILES).unwrap();
    let (server, _home, _file) = with_tokens();
    let config = ClientConfig {
        token: Token::new(WRITE),
        ..ClientConfig::plain(&server.endpoint())
    };
    let client = Client::connect_with(&config).await.unwrap();
    let accounts = ["a", "b"].map(account).to_vec();
    client.batch_create_accounts(accounts).await.unwrap();
    let good = Good::start_with(&server, "turned away", Some(WRITE)).await;
    let probe = Probe::start(&server);
    good.is_served().await;
    let rest = resident(&server);
    forget_peak(&server);
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS_OF_EACH {
        for address in 1..=ADDRESSES {
            connections.push(Raw::connect(&server, address, &[]).await);
        }
    }
    good.is_served().await;
    settles(&server).await;
    let idle = peak(&server).saturating_sub(rest);
    // First, fewer calls than the limit of rejected calls per connection, all ended by the client. Then more calls, all left open.
    for (count, flags) in [(255, END_STREAM), (400, 0)] {
        for raw in &mut connections {
            calls(raw, attacks::TRANSACTION, count, flags).await;
        }
        good.is_served().await;
        settles(&server).await;
    }
    let held = peak(&server).saturating_sub(rest);
    let sent: u64 = connections.iter().map(|raw| raw.sent).sum();
    drop(connections);
    let kept = shrinks_to(&server, rest + KEPT_BYTES_MAX)
        .await
        .saturating_sub(rest);
    let (served, checks) = (good.finish().await, probe.finish().await);
    println!(
        "| refusals without a token, unread, {ADDRESSES} x {CONNECTIONS_OF_EACH} connections ({:.0} MiB idle) \
         | {:.2} MiB | {:.0} MiB | {:.0} MiB | {:.1?} ({}), {checks} health checks |",
        mebibytes(idle),
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
async fn a_client_that_holds_little_is_served_when_others_hold_all_memory() {
    let server = ServerOptions::default()
        .env("TALLY__SERVER__MEMORY_MAX", "64 MiB")
        .start();
    let client = server.client().await;
    let accounts = ["a", "b"].map(account).to_vec();
    client.batch_create_accounts(accounts).await.unwrap();
    let good = Good::start(&server, "little").await;
    let probe = Probe::start(&server);
    good.is_served().await;
    // Each client takes half of the free memory with open calls, until less is free than a call needs.
    let mut connections = Vec::new();
    for address in 1..=16 {
        for _ in 0..if address <= 2 { 2 } else { 1 } {
            let mut raw = Raw::connect(&server, address, &[]).await;
            calls(&mut raw, attacks::STREAM, 4096, 0).await;
            connections.push(raw);
        }
        good.is_served().await;
    }
    good.is_served().await;
    drop(connections);
    assert!(good.finish().await.calls > 0);
    assert!(probe.finish().await > 0);
}
