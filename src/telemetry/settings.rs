//! The section `telemetry` of the configuration file: logs, and exports to an OpenTelemetry collector.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::settings::{HOUR, SECOND, SettingError, check, check_time};

/// The section `telemetry`: logs, traces and metrics.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetrySettings {
    /// Which events are logged, such as `info` or `tally=debug,warn`.
    pub log: String,
    /// The format of the log.
    pub format: LogFormat,
    /// The OpenTelemetry collector that receives traces, metrics and events by OTLP over gRPC, such as
    /// `http://127.0.0.1:4317`. If the key is not set, nothing is exported.
    pub otlp_endpoint: Option<String>,
    /// The share of the calls without a trace context that start a trace, 0 to 1. If a call has the header
    /// `traceparent`, the sampling flag in this header decides. A span for every call would cost more than the call
    /// itself.
    pub trace_ratio: f64,
    /// Interval between two exports of metrics, 1 s to 1 hour.
    #[serde(with = "humantime_serde")]
    pub metrics_interval: Duration,
}

/// The format of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// Lines of text.
    Text,
    /// One JSON object per line.
    Json,
}

// ===== impl TelemetrySettings =====

impl Default for TelemetrySettings {
    fn default() -> Self {
        TelemetrySettings {
            log: "info".to_owned(),
            format: LogFormat::Auto,
            otlp_endpoint: None,
            trace_ratio: 0.01,
            metrics_interval: Duration::from_secs(15),
        }
    }
}

impl TelemetrySettings {
    /// Checks the bounds of the numbers. [`init`](super::init) checks the filter and the endpoint.
    ///
    /// # Errors
    /// [`SettingError`] for the first key that is out of bounds.
    pub fn check(&self) -> Result<(), SettingError> {
        check("telemetry.trace_ratio", self.trace_ratio, &(0.0..=1.0), "0 to 1")?;
        let interval = SECOND..=HOUR;
        check_time(
            "telemetry.metrics_interval",
            self.metrics_interval,
            &interval,
            "1s to 1 hour",
        )
    }
}
