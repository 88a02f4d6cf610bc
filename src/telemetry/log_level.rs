//! The log's filter. It can be changed while the service runs.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::{error::TelemetryError, targets::RPC_TARGET};

/// The levels of the HTTP libraries, unless the filter names them. They warn about frames that a client sends, so a client could
/// fill the disk with their warnings.
const HTTP_LIBRARIES: &str = "h2=error,hyper=error";

/// The log's filter. Clones share it.
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

/// Adds two rules to the operator's filter: the levels of the HTTP libraries, and no spans of calls. Only the exporter needs those
/// spans. In the log they would be context of log lines, and every call would pay for that. All rules are in one filter, because of
/// two layered filters each would enable what the other one rejects.
fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(format!("{HTTP_LIBRARIES},{text},{RPC_TARGET}=off")).map_err(|source| {
        TelemetryError::Filter {
            value: text.to_owned(),
            source,
        }
    })
}
