//! What the reads of the history share.

use std::sync::{Arc, atomic::AtomicU64};

use tokio::sync::Semaphore;

use crate::store::embedded::HistoryReader;

/// Maximum number of reads of the history at a time. The others wait. A read takes up to about 16 MiB of memory.
pub const HISTORY_READS_MAX: usize = 4;

/// Maximum number of reads of pages for watches at a time.
const WATCH_READS_MAX: usize = 1;

/// What the reads of the history share.
#[derive(Debug, Clone)]
pub(super) struct HistoryReads {
    pub(super) reader: HistoryReader,
    pub(super) permits: Arc<Semaphore>,
    /// The permits for pages of watches. A watch may read pages without end, so its reads do not take the permits of
    /// the other reads.
    pub(super) watch_permits: Arc<Semaphore>,
    /// The number of reads since the start.
    pub(super) reads: Arc<AtomicU64>,
}

// ===== impl HistoryReads =====

impl HistoryReads {
    pub(super) fn new(reader: HistoryReader) -> Self {
        HistoryReads {
            reader,
            permits: Arc::new(Semaphore::new(HISTORY_READS_MAX)),
            watch_permits: Arc::new(Semaphore::new(WATCH_READS_MAX)),
            reads: Arc::default(),
        }
    }
}
