//! The errors of the setup of logs and traces.

use thiserror::Error;

use crate::settings::SettingError;

/// Why logs or traces could not be set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// A setting can't be used.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The exporter of traces or events could not be created.
    #[error("the exporter of telemetry.otlp_endpoint could not be created")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
    /// Logs are already set up in this process.
    #[error(transparent)]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// The form of a filter of the log.
pub(super) const FILTER_FORM: &str = "a level or TARGET=LEVEL, such as info or tally=debug,warn";

/// Why a filter of the log can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FilterError {
    /// A word that is not a level is in the place of a level.
    #[error(
        "unknown level {word:?}, the levels are off, error, warn, info, debug, trace{}",
        suggestion(meant.as_deref())
    )]
    Level {
        /// The word.
        word: String,
        /// The level that the operator probably meant.
        meant: Option<String>,
    },
    /// A target is almost the name of a crate of Tally.
    #[error("unknown target {word:?}; did you mean {meant}?")]
    Target {
        /// The first part of the target.
        word: String,
        /// The crate that the operator probably meant.
        meant: String,
    },
    /// A target is in a crate of Tally, but no event has it.
    #[error("unknown target {target:?}; the targets in {module} are {known}")]
    Module {
        /// The target.
        target: String,
        /// The innermost module of the target that exists.
        module: String,
        /// The names of the targets in this module.
        known: String,
    },
    /// There is no rule, or nothing between two commas, before the first comma or after the last comma.
    #[error(
        "a rule is empty; remove the comma that is too many, or write a level: the levels are off, error, warn, info, debug, trace"
    )]
    Empty,
    /// A rule is malformed.
    #[error("a rule has another form")]
    Syntax,
}

/// Why the filter of the log could not be replaced.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SetFilterError {
    /// The new filter can't be used.
    #[error("must be {form}: {0}", form = FILTER_FORM)]
    Filter(#[from] FilterError),
    /// The subscriber of the log no longer exists.
    #[error(transparent)]
    Reload(#[from] tracing_subscriber::reload::Error),
}

/// Returns the question whether the operator meant `meant`, as the end of a sentence.
fn suggestion(meant: Option<&str>) -> String {
    meant.map_or_else(String::new, |meant| format!("; did you mean {meant}?"))
}
