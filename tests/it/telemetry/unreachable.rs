//! Collectors that are unreachable or never answer: transactions are still processed, spans are dropped and counted, and the
//! service stops on a signal.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};
use tokio::net::TcpListener;

use crate::support::{
    in_process::{account, pay},
    operators::get,
    server::{ServerOptions, TestServer},
};

/// Transactions of a test: more than twice the number of spans that may wait.
const TRANSACTIONS: usize = 5000;
/// The limit of spans that wait for the collector.
const WAITING_MAX: u64 = 2048;
/// Calls in flight.
const IN_FLIGHT: usize = 64;

/// Spans by outcome, from the metrics.
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

/// Checks that every transaction is executed, every span is counted, and the service stops at once on a signal.
async fn goes_on_without(endpoint: &str) {
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
    // Each call has a span. At most `WAITING_MAX` spans wait; all others are counted as lost.
    let lost = counts["failed"] + counts["dropped"];
    assert!(lost + WAITING_MAX >= TRANSACTIONS as u64, "{counts:?}");
    assert!(counts["dropped"] > 0, "{counts:?}");
    server.terminate();
    assert!(server.wait().success(), "{}", server.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_collector_delays_nothing() {
    // A port that was free a moment ago, without a listener.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    goes_on_without(&endpoint).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_never_answers_delays_nothing() {
    // The kernel accepts the connections, and nobody reads from them.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    goes_on_without(&endpoint).await;
    drop(listener);
}
