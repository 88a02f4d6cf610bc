//! The filter that decides which events are logged. The filter can be changed while the service runs.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::{error::TelemetryError, targets::RPC_TARGET};

/// The log levels of the HTTP libraries if the operator's filter does not name these libraries. The libraries log
/// warnings about malformed frames, so with a lower level a client could fill the disk with warnings.
const HTTP_LIBRARIES: &str = "h2=error,hyper=error";

/// A handle to the log's filter. Clones refer to the same filter.
#[derive(Clone)]
pub struct LogLevel {
    handle: reload::Handle<EnvFilter, Registry>,
    text: Arc<Mutex<String>>,
}

// ===== impl LogLevel =====

impl LogLevel {
    pub(super) fn new(text: &str) -> Result<(reload::Layer<EnvFilter, Registry>, Self), TelemetryError> {
        let (layer, handle) = reload::Layer::new(filter(text)?);
        let text = Arc::new(Mutex::new(text.to_owned()));
        Ok((layer, LogLevel { handle, text }))
    }

    /// Returns the filter in force.
    #[must_use]
    pub fn get(&self) -> String {
        self.text.lock().clone()
    }

    /// Replaces the filter: `debug`, `tally=trace,warn`, ...
    ///
    /// # Errors
    /// [`TelemetryError::Filter`] if `text` is malformed. The old filter then stays in force.
    pub fn set(&self, text: &str) -> Result<(), TelemetryError> {
        let filter = filter(text)?;
        let mut current = self.text.lock();
        self.handle.reload(filter)?;
        text.clone_into(&mut current);
        Ok(())
    }
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogLevel").field(&self.get()).finish()
    }
}

/// Parses the operator's filter, and adds two rules. The first rule sets the levels of the HTTP libraries. The second
/// rule excludes the spans of calls, which only the exporter needs. In the log, these spans would be repeated in every
/// log line of a call, and each call would pay for that. All rules are in one filter, because with two filters of this
/// kind, each filter would enable events that the other filter rejects.
fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(format!("{HTTP_LIBRARIES},{text},{RPC_TARGET}=off")).map_err(|source| {
        TelemetryError::Filter {
            value: text.to_owned(),
            source,
        }
    })
}
