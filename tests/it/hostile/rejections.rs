//! Tests with rejected calls from many addresses at the same time. The server rejects calls without a token, and calls
//! for which no memory is left because other clients use it.

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
        honest::HonestClient,
        memory::{forget_peak, peak, resident, wait_until_below, wait_until_settled},
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

/// Number of attacking addresses.
const ADDRESSES: u8 = 5;
/// Number of connections of each attacking address. It is below the limit for one client.
const CONNECTIONS_OF_EACH: usize = 300;
/// Number of open files that the test process needs, for the connections of this test and of other tests.
const FILES: u64 = 8192;

/// Checks the health of the service again and again, like the probe of an orchestrator. Each check uses a new
/// connection.
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
                checked.expect("a health check is answered even if other clients use all memory");
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
async fn unread_rejections_of_calls_without_a_token_use_bounded_memory() {
    tally::sys::limits::raise_open_files(FILES).unwrap();
    let (server, _home, _file) = with_tokens();
    let config = ClientConfig {
        token: Token::new(WRITE),
        ..ClientConfig::plain(&server.endpoint())
    };
    let client = Client::connect_with(&config).await.unwrap();
    let accounts = ["a", "b"].map(account).to_vec();
    client.batch_create_accounts(accounts).await.unwrap();
    let honest = HonestClient::start_with(&server, "without a token", Some(WRITE)).await;
    let probe = Probe::start(&server);
    honest.wait_until_served().await;
    let rest = resident(&server);
    forget_peak(&server);
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS_OF_EACH {
        for address in 1..=ADDRESSES {
            connections.push(Raw::connect(&server, address, &[]).await);
        }
    }
    honest.wait_until_served().await;
    wait_until_settled(&server).await;
    let idle = peak(&server).saturating_sub(rest);
    // In the first round, each connection makes fewer calls than the limit of rejected calls per connection, and ends
    // each call. In the second round, each connection makes more calls than the limit, and leaves them open.
    for (count, flags) in [(255, END_STREAM), (400, 0)] {
        for raw in &mut connections {
            calls(raw, attacks::TRANSACTION, count, flags).await;
        }
        honest.wait_until_served().await;
        wait_until_settled(&server).await;
    }
    let held = peak(&server).saturating_sub(rest);
    let sent: u64 = connections.iter().map(|raw| raw.sent).sum();
    drop(connections);
    let kept = wait_until_below(&server, rest + KEPT_BYTES_MAX)
        .await
        .saturating_sub(rest);
    let (served, checks) = (honest.finish().await, probe.finish().await);
    println!(
        "| rejections without a token, unread, {ADDRESSES} x {CONNECTIONS_OF_EACH} connections ({:.0} MiB idle) \
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
async fn a_client_that_uses_little_memory_is_served_when_others_use_all_memory() {
    let server = ServerOptions::default()
        .env("TALLY__SERVER__MEMORY_MAX", "64 MiB")
        .start();
    let client = server.client().await;
    let accounts = ["a", "b"].map(account).to_vec();
    client.batch_create_accounts(accounts).await.unwrap();
    let honest = HonestClient::start(&server, "little").await;
    let probe = Probe::start(&server);
    honest.wait_until_served().await;
    // One client may use at most half of the free memory. So several clients take memory with open calls, until less is
    // free than a call needs.
    let mut connections = Vec::new();
    for address in 1..=16 {
        for _ in 0..if address <= 2 { 2 } else { 1 } {
            let mut raw = Raw::connect(&server, address, &[]).await;
            calls(&mut raw, attacks::STREAM, 4096, 0).await;
            connections.push(raw);
        }
        honest.wait_until_served().await;
    }
    honest.wait_until_served().await;
    drop(connections);
    assert!(honest.finish().await.calls > 0);
    assert!(probe.finish().await > 0);
}
