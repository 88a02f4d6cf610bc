//! An OpenTelemetry collector inside the test, which stores the metrics, events and spans that it receives.

use std::collections::VecDeque;

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{
            ExportLogsServiceRequest, ExportLogsServiceResponse,
            logs_service_server::{LogsService, LogsServiceServer},
        },
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    logs::v1::LogRecord,
    metrics::v1::Metric,
    trace::v1::Span,
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// Maximum number of stored items of each kind. No test causes this many.
const EXPORTS_MAX: usize = 4096;

/// A running collector.
pub(crate) struct Collector {
    endpoint: String,
    metrics: mpsc::Receiver<Vec<Metric>>,
    events: mpsc::Receiver<LogRecord>,
    spans: mpsc::Receiver<Span>,
    /// Events that arrived while [`Collector::event`] waited for an event with another name.
    other_events: VecDeque<LogRecord>,
}

/// The services of the collector. They pass what they receive to the [`Collector`].
#[derive(Clone)]
struct Inlet {
    metrics: mpsc::Sender<Vec<Metric>>,
    events: mpsc::Sender<LogRecord>,
    spans: mpsc::Sender<Span>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (metrics, metrics_out) = mpsc::channel(EXPORTS_MAX);
        let (events, events_out) = mpsc::channel(EXPORTS_MAX);
        let (spans, spans_out) = mpsc::channel(EXPORTS_MAX);
        let inlet = Inlet {
            metrics,
            events,
            spans,
        };
        let server = Server::builder()
            .add_service(MetricsServiceServer::new(inlet.clone()))
            .add_service(LogsServiceServer::new(inlet.clone()))
            .add_service(TraceServiceServer::new(inlet))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        Collector {
            endpoint,
            metrics: metrics_out,
            events: events_out,
            spans: spans_out,
            other_events: VecDeque::new(),
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// Waits for the first export of metrics that satisfies the condition.
    pub(crate) async fn metrics_until(&mut self, wanted: impl Fn(&[Metric]) -> bool) -> Vec<Metric> {
        loop {
            let metrics = self
                .metrics
                .recv()
                .await
                .expect("the service continues to export");
            if wanted(&metrics) {
                return metrics;
            }
        }
    }

    /// Waits for the next event with this name.
    pub(crate) async fn event(&mut self, name: &str) -> LogRecord {
        if let Some(place) = self
            .other_events
            .iter()
            .position(|event| event.event_name == name)
        {
            return self.other_events.remove(place).unwrap();
        }
        loop {
            let event = self.events.recv().await.expect("the service continues to export");
            if event.event_name == name {
                return event;
            }
            self.other_events.push_back(event);
        }
    }

    /// Waits for the next span with this name, and drops other spans.
    pub(crate) async fn span(&mut self, name: &str) -> Span {
        loop {
            let span = self.spans.recv().await.expect("the service continues to export");
            if span.name == name {
                return span;
            }
        }
    }

    /// Takes the spans that have arrived.
    pub(crate) fn spans(&mut self) -> Vec<Span> {
        std::iter::from_fn(|| self.spans.try_recv().ok()).collect()
    }
}

#[tonic::async_trait]
impl MetricsService for Inlet {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let scopes = request
            .into_inner()
            .resource_metrics
            .into_iter()
            .flat_map(|resource| resource.scope_metrics);
        let metrics = scopes.flat_map(|scope| scope.metrics).collect();
        // The result is ignored, because the receiver no longer exists when the test has ended.
        let _ = self.metrics.send(metrics).await;
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Inlet {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let scopes = request
            .into_inner()
            .resource_logs
            .into_iter()
            .flat_map(|resource| resource.scope_logs);
        for record in scopes.flat_map(|scope| scope.log_records) {
            let _ = self.events.send(record).await;
        }
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl TraceService for Inlet {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request
            .into_inner()
            .resource_spans
            .into_iter()
            .flat_map(|resource| resource.scope_spans);
        for span in scopes.flat_map(|scope| scope.spans) {
            let _ = self.spans.send(span).await;
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
