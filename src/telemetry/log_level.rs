//! The filter that decides which events are logged. The filter can be changed while the service runs.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::{
    error::{FilterError, SetFilterError},
    log_filter::filter,
};

/// A handle to the log's filter. Clones refer to the same filter.
#[derive(Clone)]
pub struct LogLevel {
    handle: reload::Handle<EnvFilter, Registry>,
    text: Arc<Mutex<String>>,
}

// ===== impl LogLevel =====

impl LogLevel {
    pub(super) fn new(text: &str) -> Result<(reload::Layer<EnvFilter, Registry>, Self), FilterError> {
        let (layer, handle) = reload::Layer::new(filter(text)?);
        let text = Arc::new(Mutex::new(text.to_owned()));
        Ok((layer, LogLevel { handle, text }))
    }

    /// Returns the filter in force.
    #[must_use]
    pub fn get(&self) -> String {
        self.text.lock().clone()
    }

    /// Replaces the filter: `debug`, `tally=trace,warn`, ... Returns the filter that was in force before.
    ///
    /// # Errors
    /// [`SetFilterError::Filter`] if `text` is malformed or has an unknown word. The old filter then stays in force.
    pub fn set(&self, text: &str) -> Result<String, SetFilterError> {
        let filter = filter(text)?;
        let mut current = self.text.lock();
        self.handle.reload(filter)?;
        Ok(std::mem::replace(&mut current, text.to_owned()))
    }
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogLevel").field(&self.get()).finish()
    }
}
