//! Collectors that are not there, or that never answer: transactions go on, spans are dropped and counted, and the service
//! ends when it is told to.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};
use tokio::net::TcpListener;

use crate::support::{
    in_process::{account, pay},
    operators::get,
    server::{ServerOptions, TestServer},
};

/// Transactions of a test: more than twice as many as there is room for spans.
const TRANSACTIONS: usize = 5000;
/// Spans that may wait for the collector.
const WAITING_MAX: u64 = 2048;
/// Calls under way.
const IN_FLIGHT: usize = 64;

/// Spans by what became of them, as the metrics tell.
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

/// Every transaction is executed, every span is accounted for, and the service stops at once when it is told to.
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
    // Each call has a span, and at most so many wait; all others are known to be lost.
    let lost = counts["failed"] + counts["dropped"];
    assert!(lost + WAITING_MAX >= TRANSACTIONS as u64, "{counts:?}");
    assert!(counts["dropped"] > 0, "{counts:?}");
    server.terminate();
    assert!(server.wait().success(), "{}", server.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_not_there_holds_nothing_up() {
    // A port that was free a moment ago, and that nobody listens on.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    goes_on_without(&endpoint).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_never_answers_holds_nothing_up() {
    // The kernel takes the connections, and nobody reads from them.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    goes_on_without(&endpoint).await;
    drop(listener);
}
