//! The log's filter, which can be changed while the service runs.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::{RPC_TARGET, TelemetryError};

/// What the HTTP libraries log unless they are named in the setting. Their warnings are about what a client sends, one for each
/// frame: whoever likes could fill the disk with them.
const HTTP_LIBRARIES: &str = "h2=error,hyper=error";

/// What is logged. Clones share it.
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

    /// The filter in force.
    #[must_use]
    pub fn get(&self) -> String {
        self.text.lock().clone()
    }

    /// Sets another filter: `debug`, `tally=trace,warn`, ...
    ///
    /// # Errors
    /// [`TelemetryError::Filter`] if it is malformed; nothing has changed then.
    pub fn set(&self, text: &str) -> Result<(), TelemetryError> {
        let filter = filter(text)?;
        let mut present = self.text.lock();
        self.handle.reload(filter)?;
        text.clone_into(&mut present);
        Ok(())
    }
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogLevel").field(&self.get()).finish()
    }
}

/// The spans of calls are for the exporter; as context of log lines they would cost every call. One filter, not two on top
/// of each other: those would switch on, and pay for, whatever either of them lets through.
fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(format!("{HTTP_LIBRARIES},{text},{RPC_TARGET}=off")).map_err(|source| {
        TelemetryError::Filter {
            value: text.to_owned(),
            source,
        }
    })
}
