//! The section `telemetry` of the configuration file: logs, and exports to an OpenTelemetry collector.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use http::{Uri, uri::Scheme};

use super::{
    error::{FILTER_FORM, FilterError},
    log_filter::filter,
};
use crate::settings::{HOUR, SECOND, SettingError, check, check_time, without_user};

/// The section `telemetry`: logs, traces and metrics.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetrySettings {
    /// Which events are logged: a level (`off`, `error`, `warn`, `info`, `debug` or `trace`), or rules with commas
    /// between them, such as `tally=debug,warn`. Without a level alone, the other targets have the level `info`.
    pub log: String,
    /// The format of the log.
    pub format: LogFormat,
    /// The URL of the OpenTelemetry collector that receives traces, metrics and events by OTLP over gRPC, such as
    /// `http://127.0.0.1:4317`. The export has no TLS. If the key is not set, nothing is exported.
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
    /// Checks every key.
    ///
    /// # Errors
    /// [`SettingError`] for the first key that is out of bounds.
    pub fn check(&self) -> Result<(), SettingError> {
        filter(&self.log).map_err(|error| self.filter_error(&error))?;
        if let Some(endpoint) = &self.otlp_endpoint
            && !is_plain_url(endpoint)
        {
            return Err(endpoint_error(endpoint));
        }
        check("telemetry.trace_ratio", self.trace_ratio, &(0.0..=1.0), "0 to 1")?;
        let interval = SECOND..=HOUR;
        check_time(
            "telemetry.metrics_interval",
            self.metrics_interval,
            &interval,
            "1s to 1 hour",
        )
    }
    /// Returns the error that the filter can't be used.
    pub(super) fn filter_error(&self, error: &FilterError) -> SettingError {
        SettingError::new("telemetry.log", &self.log, format!("{FILTER_FORM}: {error}"))
    }

    /// Replaces values that only their owner may read: the user name and the password in the URL of the collector.
    pub fn hide_secrets(&mut self) {
        if let Some(endpoint) = &mut self.otlp_endpoint {
            *endpoint = without_user(endpoint);
        }
    }
}

/// Returns the error that `endpoint` is not the URL of a collector.
pub(super) fn endpoint_error(endpoint: &str) -> SettingError {
    let bound = "http://HOST:PORT, such as http://127.0.0.1:4317; the export has no TLS";
    SettingError::new("telemetry.otlp_endpoint", without_user(endpoint), bound)
}

/// Returns whether `endpoint` is an HTTP URL with a host.
fn is_plain_url(endpoint: &str) -> bool {
    endpoint.parse::<Uri>().is_ok_and(|uri| {
        uri.scheme() == Some(&Scheme::HTTP) && uri.host().is_some_and(|host| !host.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(settings: &TelemetrySettings) -> String {
        settings.check().unwrap_err().to_string()
    }

    #[test]
    fn an_endpoint_is_an_http_url_and_its_password_is_never_shown() {
        let with = |endpoint: &str| TelemetrySettings {
            otlp_endpoint: Some(endpoint.to_owned()),
            ..TelemetrySettings::default()
        };
        with("http://collector.example:4317").check().unwrap();
        with("http://user:secret@[::1]:4317/").check().unwrap();
        for endpoint in [
            "",
            "collector:4317",
            "127.0.0.1:4317",
            "https://collector:4317",
            "http://",
        ] {
            assert_eq!(
                refusal(&with(endpoint)),
                format!(
                    "telemetry.otlp_endpoint = {}: must be http://HOST:PORT, such as http://127.0.0.1:4317; the \
                     export has no TLS",
                    crate::settings::in_one_line(endpoint)
                )
            );
        }
        for endpoint in ["https://user:secret@collector:4317", "user:secret@collector:4317"] {
            let error = refusal(&with(endpoint));
            assert!(
                error.contains("***@collector:4317") && !error.contains("secret"),
                "{error}"
            );
        }
        let mut settings = with("http://user:secret@collector:4317/a");
        settings.hide_secrets();
        assert_eq!(settings.otlp_endpoint.unwrap(), "http://***@collector:4317/a");
    }

    #[test]
    fn an_unknown_word_in_the_filter_is_refused_with_the_levels() {
        let settings = TelemetrySettings {
            log: "debgu".to_owned(),
            ..TelemetrySettings::default()
        };
        assert_eq!(
            refusal(&settings),
            "telemetry.log = debgu: must be a level or TARGET=LEVEL, such as info or tally=debug,warn: unknown level \
             \"debgu\", the levels are off, error, warn, info, debug, trace; did you mean debug?"
        );
    }
}
