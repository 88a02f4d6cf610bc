//! Sends metrics to an OpenTelemetry collector.
//!
//! The exporter of the OpenTelemetry SDK can't send Tally's histograms. Version 0.33 of the SDK has observable counters
//! and gauges, but no observable histogram, and the fields of its `ResourceMetrics` are private. The engine counts its
//! histograms itself, so the code of each transaction would have to record every value a second time in an SDK
//! histogram. Instead, this module converts the metric families to OTLP messages.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric, number_data_point,
    },
    resource::v1::Resource,
};
use prometheus::proto::{LabelPair, MetricFamily, MetricType};
use tokio::time::{MissedTickBehavior, interval};
use tonic::transport::{Channel, Endpoint};

use super::{
    error::TelemetryError,
    export::{EXPORT_TIMEOUT, SERVICE_NAME},
    metrics::{Families, MetricSources},
    settings::endpoint_error,
};

/// Sends the metrics of `sources` to the collector at `endpoint` every `period`, for as long as the future is polled.
/// If several exports in a row fail, only the first failure is logged as a warning. The counts are cumulative, so the
/// next successful export contains the counts of a failed export, too.
///
/// # Errors
/// [`TelemetryError::Setting`] if `endpoint` is not a URL.
pub fn exporter(
    endpoint: &str,
    period: Duration,
    sources: MetricSources,
) -> Result<impl Future<Output = ()> + use<>, TelemetryError> {
    let address = Endpoint::from_shared(endpoint.to_owned()).map_err(|_| endpoint_error(endpoint))?;
    let channel = address.timeout(EXPORT_TIMEOUT).connect_lazy();
    Ok(export(channel, period, sources))
}

async fn export(channel: Channel, period: Duration, sources: MetricSources) {
    let mut client = MetricsServiceClient::new(channel);
    let started = SystemTime::now();
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        let request = request(&Families::collect(&sources), started, SystemTime::now());
        match client.export(request).await {
            Ok(_) => failing = false,
            Err(status) if failing => tracing::debug!(%status, "metrics could still not be exported"),
            Err(status) => {
                tracing::warn!(%status, "metrics could not be exported");
                failing = true;
            }
        }
    }
}

/// Converts the metric families to one export request. `started` is the time from which the counters count.
fn request(families: &Families, started: SystemTime, now: SystemTime) -> ExportMetricsServiceRequest {
    let times = Times {
        started: unix_nanos(started),
        now: unix_nanos(now),
    };
    let scope = InstrumentationScope {
        name: SERVICE_NAME.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let resource = Resource {
        attributes: vec![
            attribute("service.name", SERVICE_NAME),
            attribute("service.version", env!("CARGO_PKG_VERSION")),
        ],
        ..Resource::default()
    };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope),
                metrics: families
                    .as_slice()
                    .iter()
                    .map(|family| times.metric(family))
                    .collect(),
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    }
}

/// The time from which the counters count, and the time of the read, in nanoseconds since the Unix epoch.
#[derive(Debug, Clone, Copy)]
struct Times {
    started: u64,
    now: u64,
}

// ===== impl Times =====

impl Times {
    fn metric(self, family: &MetricFamily) -> Metric {
        let values = family.get_metric();
        let data = match family.get_field_type() {
            MetricType::COUNTER => metric::Data::Sum(Sum {
                data_points: values
                    .iter()
                    .map(|value| self.number(value.get_label(), value.get_counter().get_value()))
                    .collect(),
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
                is_monotonic: true,
            }),
            MetricType::HISTOGRAM => metric::Data::Histogram(Histogram {
                data_points: values
                    .iter()
                    .map(|value| self.distribution(value.get_label(), value.get_histogram()))
                    .collect(),
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
            }),
            MetricType::GAUGE | MetricType::SUMMARY | MetricType::UNTYPED => metric::Data::Gauge(Gauge {
                data_points: values
                    .iter()
                    .map(|value| self.number(value.get_label(), value.get_gauge().get_value()))
                    .collect(),
            }),
        };
        Metric {
            name: family.name().to_owned(),
            description: family.help().to_owned(),
            data: Some(data),
            ..Metric::default()
        }
    }

    fn number(self, labels: &[LabelPair], value: f64) -> NumberDataPoint {
        NumberDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: self.started,
            time_unix_nano: self.now,
            value: Some(number_data_point::Value::AsDouble(value)),
            ..NumberDataPoint::default()
        }
    }

    fn distribution(
        self,
        labels: &[LabelPair],
        histogram: &prometheus::proto::Histogram,
    ) -> HistogramDataPoint {
        let buckets = histogram.get_bucket();
        // The counts of Prometheus' buckets are cumulative. The counts of OTLP's buckets are not. OTLP also has one
        // more bucket, for the values above the last bound.
        let mut below = 0;
        let mut bucket_counts: Vec<u64> = buckets
            .iter()
            .map(|bucket| {
                let own = bucket.cumulative_count().saturating_sub(below);
                below = bucket.cumulative_count();
                own
            })
            .collect();
        let count = histogram.get_sample_count();
        bucket_counts.push(count.saturating_sub(below));
        HistogramDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: self.started,
            time_unix_nano: self.now,
            count,
            sum: Some(histogram.get_sample_sum()),
            bucket_counts,
            explicit_bounds: buckets
                .iter()
                .map(prometheus::proto::Bucket::upper_bound)
                .collect(),
            ..HistogramDataPoint::default()
        }
    }
}

fn attributes(labels: &[LabelPair]) -> Vec<KeyValue> {
    labels
        .iter()
        .map(|label| attribute(label.name(), label.value()))
        .collect()
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value.to_owned())),
        }),
        ..KeyValue::default()
    }
}

fn unix_nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
