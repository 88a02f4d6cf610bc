//! Collects metric families from the parts of the service each time that metrics are read or exported. Prometheus
//! receives the families as text; an OpenTelemetry collector receives them by OTLP.

use std::{fmt, sync::Arc};

use prometheus::{
    TextEncoder,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

use tally_batch::distribution::Cumulative;

/// A part of the service that has metrics.
pub trait MetricSource: fmt::Debug + Send + Sync {
    /// Adds the current values to `families`.
    fn collect(&self, families: &mut Families);
}

/// Every part of the service that has metrics. Prometheus, a collector and the operators' page read the same parts.
pub type MetricSources = Arc<[Arc<dyn MetricSource>]>;

/// The metric families of one read.
#[derive(Default)]
pub struct Families(Vec<MetricFamily>);

/// Content type of [`Families::to_prometheus`].
pub const PROMETHEUS_TEXT: &str = prometheus::TEXT_FORMAT;

// ===== impl Families =====

impl Families {
    /// Collects the current values of `sources`.
    pub fn collect(sources: &[Arc<dyn MetricSource>]) -> Self {
        let mut families = Families::default();
        for source in sources {
            source.collect(&mut families);
        }
        families
    }

    /// Adds counters, which never decrease. Each value has its labels. The name must end in `_total`.
    pub fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Vec<(&'a str, &'a str)>, f64)>,
    ) {
        self.numbers(name, help, MetricType::COUNTER, values, |metric, value| {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        });
    }

    /// Adds a counter without labels.
    pub fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.counters(name, help, [(Vec::new(), value)]);
    }

    /// Adds gauges, which may increase and decrease. Each value has its labels.
    pub fn gauges<'a>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Vec<(&'a str, &'a str)>, f64)>,
    ) {
        self.numbers(name, help, MetricType::GAUGE, values, |metric, value| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        });
    }

    /// Adds a gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.gauges(name, help, [(Vec::new(), value)]);
    }

    /// Adds the open connections of a port, and the largest number that the port allows. Every port adds its values to the same
    /// two families.
    pub fn connections(&mut self, port: &str, open: usize, open_max: usize) {
        let labels = || vec![("port", port)];
        self.gauges(
            "tally_connections",
            "Open connections, by port: grpc is the port of the API, admin the operators' port.",
            [(labels(), open as f64)],
        );
        self.gauges(
            "tally_connections_max",
            "Largest allowed number of open connections, by port.",
            [(labels(), open_max as f64)],
        );
    }

    /// Adds a histogram. `scale` converts the values to the unit in the name: 1e-9 converts nanoseconds to seconds.
    pub fn histogram(&mut self, name: &str, help: &str, scale: f64, values: &Cumulative) {
        let buckets = values.buckets.iter().map(|(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound as f64 * scale);
            bucket.set_cumulative_count(*count);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(values.count);
        histogram.set_sample_sum(values.sum * scale);
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        self.family(name, help, MetricType::HISTOGRAM, vec![metric]);
    }

    /// Returns the families in Prometheus' text format.
    #[must_use]
    pub fn to_prometheus(&self) -> String {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.0, &mut text) {
            // Encoding fails only for a family without values or with a malformed name. Both are bugs, which the test
            // of the complete text would find.
            tracing::error!(%error, "metrics could not be encoded");
        }
        text
    }

    /// Returns the families.
    #[must_use]
    pub fn as_slice(&self) -> &[MetricFamily] {
        &self.0
    }

    fn numbers<'a>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        values: impl IntoIterator<Item = (Vec<(&'a str, &'a str)>, f64)>,
        put: impl Fn(&mut Metric, f64),
    ) {
        let metrics = values.into_iter().map(|(labels, value)| {
            let mut metric = labelled(&labels);
            put(&mut metric, value);
            metric
        });
        self.family(name, help, kind, metrics.collect());
    }

    /// Adds a family, or more values to the family of this name. Omits a family without values, because the format of Prometheus
    /// does not allow it.
    fn family(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            return;
        }
        if let Some(family) = self.0.iter_mut().find(|family| family.name() == name) {
            family.mut_metric().extend(metrics);
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }
}

impl fmt::Debug for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(MetricFamily::name))
            .finish()
    }
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}
