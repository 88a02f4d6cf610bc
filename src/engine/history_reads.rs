//! What the reads of the history share.

use std::sync::{Arc, atomic::AtomicU64};

use super::read_places::ReadPlaces;
use crate::store::embedded::HistoryReader;

/// Maximum number of reads of the history at a time. The others wait. A read takes up to about 16 MiB of memory.
pub const HISTORY_READS_MAX: usize = 4;
/// Maximum number of reads of the history of one client at a time, so that no client can keep the others from reading.
pub const HISTORY_READS_OF_CLIENT_MAX: usize = 3;
const _: () = assert!(HISTORY_READS_OF_CLIENT_MAX < HISTORY_READS_MAX);

/// Maximum number of reads of pages for watches at a time. The clients take turns.
const WATCH_READS_MAX: usize = 1;

/// Maximum number of reads of single records at a time, or of the records of some holds.
pub const RECORD_READS_MAX: usize = 8;
/// Maximum number of reads of single records of one client at a time.
pub const RECORD_READS_OF_CLIENT_MAX: usize = 6;
const _: () = assert!(RECORD_READS_OF_CLIENT_MAX < RECORD_READS_MAX);

/// Threads for what reads nothing for long: the feed's own reader, the encoding of batches, and certificates.
const OTHER_THREADS: usize = 3;
// All reads can be those of one NET thread. Then, too, each of them has a thread.
const _: () = assert!(
    HISTORY_READS_MAX + RECORD_READS_MAX + WATCH_READS_MAX + OTHER_THREADS
        <= tally_topology::BLOCKING_THREADS_MAX
);

/// What the reads of the history share.
#[derive(Debug, Clone)]
pub(super) struct HistoryReads {
    pub(super) reader: HistoryReader,
    pub(super) places: ReadPlaces,
    /// For the pages of watches, which can go on without end. They do not take the places of the other reads.
    pub(super) watch_places: ReadPlaces,
    /// For the records of transactions and holds that are read one by one.
    pub(super) record_places: ReadPlaces,
    /// The number of reads since the start.
    pub(super) reads: Arc<AtomicU64>,
}

// ===== impl HistoryReads =====

impl HistoryReads {
    pub(super) fn new(reader: HistoryReader) -> Self {
        HistoryReads {
            reader,
            places: ReadPlaces::new(HISTORY_READS_MAX, HISTORY_READS_OF_CLIENT_MAX),
            watch_places: ReadPlaces::new(WATCH_READS_MAX, WATCH_READS_MAX),
            record_places: ReadPlaces::new(RECORD_READS_MAX, RECORD_READS_OF_CLIENT_MAX),
            reads: Arc::default(),
        }
    }
}
