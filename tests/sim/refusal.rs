//! Starts that fail: finds the place of the damage in the error, and decides whether stale bytes excuse the failure.

use tally::{
    engine::StartError,
    store::embedded::{OpenError, RecordError},
};
use tally_journal::{Corruption, JournalError, Position};

use crate::world::{Failure, World};

/// The whole error of a start, as text.
pub(crate) fn shown(error: &StartError) -> String {
    format!("{error}: {error:?}")
}

pub(crate) fn cannot_start(error: &StartError) -> Failure {
    Failure(format!("the service can't start: {}", shown(error)))
}

/// Whether an error of a start names the place of the damage in the journal.
pub(crate) fn names_a_place(error: &str) -> bool {
    error.contains("journal segment") || error.contains("the record at") || error.contains("SEGMENTS-")
}

/// The damage of the journal that the error reports.
fn corruption(error: &StartError) -> Option<&Corruption> {
    let StartError::Open(
        OpenError::Store(JournalError::Corrupt(corruption))
        | OpenError::Record(RecordError::Store(JournalError::Corrupt(corruption))),
    ) = error
    else {
        return None;
    };
    Some(corruption)
}

// ===== impl World: refused starts =====

impl World {
    /// Whether a start may fail because the disk shows stale bytes: the damage is after the last durable block, and a
    /// crash since the last start has put stale bytes there.
    pub(crate) fn stale_bytes_excuse(&self, error: &StartError) -> bool {
        let Some(Corruption { position, path, .. }) = corruption(error) else {
            return false;
        };
        let blocks = self.pace.durable_blocks();
        let is_at_end = blocks
            .last()
            .is_none_or(|last| *position > Position::new(last.segment, last.offset));
        // The names of segments sort in the order of their numbers.
        let is_there = |stale_path: &std::path::Path, end: usize| {
            stale_path.parent() == path.parent()
                && (stale_path > path.as_path()
                    || (stale_path == path.as_path() && end as u64 > u64::from(position.offset())))
        };
        is_at_end && self.stale.iter().any(|(path, bytes)| is_there(path, bytes.end))
    }
}
