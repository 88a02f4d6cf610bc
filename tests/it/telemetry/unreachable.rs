//! Tests with a collector that is unreachable or never answers. The service must still process transactions, count the
//! spans that it drops, and stop on a signal.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};
use tokio::net::TcpListener;

use crate::support::{
    in_process::{account, pay},
    operators::get,
    server::{ServerOptions, TestServer},
};

/// Number of transactions of a test, more than twice [`WAITING_MAX`].
const TRANSACTIONS: usize = 5000;
/// Maximum number of spans that wait for the collector.
const WAITING_MAX: u64 = 2048;
/// Number of calls in flight.
const IN_FLIGHT: usize = 64;

/// Reads the number of spans by outcome from the metrics.
async fn spans(server: &TestServer) -> BTreeMap<String, u64> {
    let (_, _, text) = get(server, "/metrics").await;
    let prefix = "tally_spans_total{outcome=\"";
    let lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
    lines
        .map(|line| {
            let (outcome, count) = line.split_once("\"} ").unwrap();
            (outcome.to_owned(), count.parse().unwrap())
        })
        .collect()
}

/// Checks that the service executes every transaction, counts every span, and stops on a signal, although it can't send
/// spans to `endpoint`.
async fn check_service_without_collector(endpoint: &str) {
    let mut server = ServerOptions::default()
        .env("TALLY__TELEMETRY__OTLP_ENDPOINT", endpoint)
        .env("TALLY__TELEMETRY__TRACE_RATIO", "1")
        .env("TALLY__TELEMETRY__METRICS_INTERVAL", "1s")
        .start();
    let client = server.client().await;
    let accounts = ["a", "b"].map(account).to_vec();
    client.batch_create_accounts(accounts).await.unwrap();
    let client = &client;
    let executed = stream::iter(0..TRANSACTIONS)
        .map(|number| async move { client.process_transaction(pay(&format!("t:{number}"))).await })
        .buffer_unordered(IN_FLIGHT)
        .filter(|answer| std::future::ready(answer.is_ok()))
        .count()
        .await;
    assert_eq!(executed, TRANSACTIONS);
    let counts = spans(&server).await;
    assert_eq!(counts["sent"], 0, "{counts:?}");
    // Each call has a span. At most `WAITING_MAX` spans wait. All other spans are counted as failed or dropped.
    let lost = counts["failed"] + counts["dropped"];
    assert!(lost + WAITING_MAX >= TRANSACTIONS as u64, "{counts:?}");
    assert!(counts["dropped"] > 0, "{counts:?}");
    server.terminate();
    assert!(server.wait().success(), "{}", server.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_processed_while_the_collector_is_unreachable() {
    // The listener finds a free port. After it is dropped, no process listens on the port.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    check_service_without_collector(&endpoint).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_processed_while_the_collector_does_not_answer() {
    // The kernel accepts connections for the listener, but no code reads from them.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    check_service_without_collector(&endpoint).await;
    drop(listener);
}
