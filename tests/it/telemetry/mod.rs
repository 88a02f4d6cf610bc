//! Tests of the exports to an OpenTelemetry collector: metrics, breaker events, audit events and spans. The service
//! runs as a process.

mod collector;
mod unreachable;

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::{
    common::v1::{KeyValue, any_value},
    metrics::v1::{Metric, metric},
    trace::v1::status::StatusCode,
};
use tally::proto::{
    ProcessTransactionResponse, SetCircuitModeRequest, engine_service_client::EngineServiceClient,
    set_circuit_mode_request::Change, transaction_service_client::TransactionServiceClient,
};
use tonic::{Code, Request, Response, Status};

use self::collector::Collector;
use crate::support::{
    in_process::pay,
    server::{ServerOptions, TestServer},
};

const TRACE_ID: [u8; 16] = [
    0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36,
];
/// The header `traceparent` with [`TRACE_ID`]. Its last part is the sampling flag, which is set.
const TRACE_PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    let any_value::Value::StringValue(text) = found.value.as_ref()?.value.as_ref()? else {
        return None;
    };
    Some(text)
}

/// Returns the value of the attribute `key` if it is an integer.
fn number(attributes: &[KeyValue], key: &str) -> Option<i64> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    let any_value::Value::IntValue(number) = found.value.as_ref()?.value.as_ref()? else {
        return None;
    };
    Some(*number)
}

/// Returns the value of a gauge or counter whose attributes include `labels`.
fn value(metrics: &[Metric], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
    let metric = metrics.iter().find(|metric| metric.name == name)?;
    let points = match metric.data.as_ref()? {
        metric::Data::Gauge(gauge) => &gauge.data_points,
        metric::Data::Sum(sum) => {
            assert!(sum.is_monotonic, "{name}");
            &sum.data_points
        }
        metric::Data::Histogram(_) | metric::Data::ExponentialHistogram(_) | metric::Data::Summary(_) => {
            return None;
        }
    };
    let labelled = points.iter().find(|point| {
        labels
            .iter()
            .all(|(key, value)| attribute(&point.attributes, key) == Some(value))
    })?;
    match labelled.value? {
        Value::AsDouble(value) => Some(value),
        Value::AsInt(_) => None,
    }
}

/// Sends a transaction with a trace context of the caller.
async fn traced(server: &TestServer, id: &str) -> Result<Response<ProcessTransactionResponse>, Status> {
    let mut request = Request::new(pay(id));
    request
        .metadata_mut()
        .insert("traceparent", TRACE_PARENT.parse().unwrap());
    let mut client = TransactionServiceClient::connect(server.endpoint())
        .await
        .unwrap();
    client.process_transaction(request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_gets_metrics_events_and_spans() {
    let mut collector = Collector::start().await;
    let server = ServerOptions::default()
        .env("TALLY__TELEMETRY__OTLP_ENDPOINT", &collector.endpoint())
        .env("TALLY__TELEMETRY__METRICS_INTERVAL", "1s")
        .start();
    let mut engine = EngineServiceClient::connect(server.endpoint()).await.unwrap();
    engine
        .set_circuit_mode(SetCircuitModeRequest {
            key: "ProcessTransaction".to_owned(),
            change: Some(Change::OpenFor(prost_types::Duration {
                seconds: 3600,
                nanos: 0,
            })),
            comment: "maintenance".to_owned(),
        })
        .await
        .unwrap();
    traced(&server, "refused").await.unwrap_err();

    // Counters are cumulative, so any export after the call contains the rejected call.
    let key = ("key", "ProcessTransaction");
    let metrics = collector
        .metrics_until(|metrics| {
            value(
                metrics,
                "tally_breaker_calls_total",
                &[key, ("outcome", "rejected_open")],
            ) == Some(1.0)
        })
        .await;
    assert_eq!(
        value(&metrics, "tally_breaker_state", &[key, ("state", "open")]),
        Some(1.0)
    );
    assert_eq!(
        value(&metrics, "tally_breaker_state", &[key, ("state", "closed")]),
        Some(0.0)
    );
    let transition = [key, ("from", "closed"), ("to", "open"), ("reason", "forced")];
    assert_eq!(
        value(&metrics, "tally_breaker_transitions_total", &transition),
        Some(1.0)
    );
    let names: BTreeSet<_> = metrics.iter().map(|metric| metric.name.as_str()).collect();
    for name in [
        "tally_fsync_seconds",
        "tally_queue_depth",
        "tally_transactions_total",
    ] {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }

    let transition = collector.event("tally.breaker.transition").await;
    assert_eq!(
        attribute(&transition.attributes, "key"),
        Some("ProcessTransaction")
    );
    assert_eq!(attribute(&transition.attributes, "to"), Some("open"));
    assert_eq!(attribute(&transition.attributes, "reason"), Some("forced"));
    let audit = collector.event("tally.audit.circuit").await;
    assert_eq!(attribute(&audit.attributes, "action"), Some("open_for 1h"));
    assert_eq!(attribute(&audit.attributes, "comment"), Some("maintenance"));
    let peer = attribute(&audit.attributes, "peer").unwrap();
    assert!(peer.starts_with("127.0.0.1:"), "{peer}");

    let span = collector
        .span("tally.v1.TransactionService/ProcessTransaction")
        .await;
    assert_eq!(span.trace_id, TRACE_ID);
    let says = |key: &str| attribute(&span.attributes, key);
    assert_eq!(says("rpc.system"), Some("grpc"));
    assert_eq!(says("rpc.service"), Some("tally.v1.TransactionService"));
    assert_eq!(says("rpc.method"), Some("ProcessTransaction"));
    assert_eq!(says("network.peer.address"), Some("127.0.0.1"));
    let unavailable = i64::from(i32::from(Code::Unavailable));
    assert_eq!(
        number(&span.attributes, "rpc.grpc.status_code"),
        Some(unavailable)
    );
    let verdict = span.status.as_ref().map(|status| status.code);
    assert_eq!(verdict, Some(StatusCode::Error as i32));
    // The log contains the same events.
    server.wait_for_stderr("an administrator changed a circuit").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_span_of_a_commit_links_to_the_spans_of_its_calls() {
    let mut collector = Collector::start().await;
    let server = ServerOptions::default()
        .env("TALLY__TELEMETRY__OTLP_ENDPOINT", &collector.endpoint())
        .start();
    let accounts = ["a", "b"].map(crate::support::in_process::account).to_vec();
    server
        .client()
        .await
        .batch_create_accounts(accounts)
        .await
        .unwrap();
    traced(&server, "traced").await.unwrap();
    // The span of a commit belongs to a new trace, because a commit serves many calls. The span has a link to the span
    // of each call.
    let commit = collector.span("tally.commit").await;
    assert_ne!(commit.trace_id, TRACE_ID);
    let links: Vec<_> = commit.links.iter().map(|link| link.trace_id.as_slice()).collect();
    assert_eq!(links, [TRACE_ID]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_spans_are_sent_before_the_process_ends() {
    let mut collector = Collector::start().await;
    let mut server = ServerOptions::default()
        .env("TALLY__TELEMETRY__OTLP_ENDPOINT", &collector.endpoint())
        .start();
    // The accounts do not exist, so the ledger rejects the transaction. The call has a span nevertheless.
    traced(&server, "last").await.unwrap_err();
    server.terminate();
    let span = collector
        .span("tally.v1.TransactionService/ProcessTransaction")
        .await;
    assert_eq!(span.trace_id, TRACE_ID);
    let not_found = i64::from(i32::from(Code::NotFound));
    assert_eq!(number(&span.attributes, "rpc.grpc.status_code"), Some(not_found));
    let verdict = span.status.as_ref().map(|status| status.code);
    assert_ne!(
        verdict,
        Some(StatusCode::Error as i32),
        "the span has an error status, although the caller caused the error"
    );
    assert!(server.wait().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_ratio_0_only_calls_with_a_sampled_trace_context_are_traced() {
    let mut collector = Collector::start().await;
    let mut server = ServerOptions::default()
        .env("TALLY__TELEMETRY__OTLP_ENDPOINT", &collector.endpoint())
        .env("TALLY__TELEMETRY__TRACE_RATIO", "0")
        .start();
    let mut client = TransactionServiceClient::connect(server.endpoint())
        .await
        .unwrap();
    client.process_transaction(pay("without")).await.unwrap_err();
    let mut unsampled = Request::new(pay("unsampled"));
    let parent = TRACE_PARENT.replace("-01", "-00");
    unsampled
        .metadata_mut()
        .insert("traceparent", parent.parse().unwrap());
    client.process_transaction(unsampled).await.unwrap_err();
    traced(&server, "traced").await.unwrap_err();
    server.terminate();
    assert!(server.wait().success());
    let spans = collector.spans();
    let traces: Vec<_> = spans.iter().map(|span| span.trace_id.as_slice()).collect();
    assert_eq!(traces, [TRACE_ID]);
}
