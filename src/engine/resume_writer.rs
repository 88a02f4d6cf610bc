//! Writes the resume points of a replica.

use std::time::Duration;

use tally_journal::JournalError;
use tokio::time::Instant;

use crate::store::{
    embedded::DurablePoint,
    replicated::{Exchange, ResumeFiles},
};

/// Time between two resume points. After a crash, the next start reads again the part of the log that was written in
/// this time.
const INTERVAL: Duration = Duration::from_secs(1);

/// Writes the resume points that the driver of a replica gives it, when the journal is durable up to their blocks.
#[derive(Debug)]
pub(super) struct ResumeWriter {
    files: ResumeFiles,
    exchange: Exchange,
    next: Option<Instant>,
}

// ===== impl ResumeWriter =====

impl ResumeWriter {
    pub(super) const fn new(files: ResumeFiles, exchange: Exchange) -> Self {
        ResumeWriter {
            files,
            exchange,
            next: None,
        }
    }

    /// Writes the newest resume point, if the last one was written long enough ago.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk fails. A later point is written instead.
    pub(super) fn write_due(&mut self, durable: &DurablePoint, now: Instant) -> Result<(), JournalError> {
        if self.next.is_some_and(|next| now < next) {
            return Ok(());
        }
        let Some(point) = self.exchange.take_resume(durable.chain().last_block_sequence()) else {
            return Ok(());
        };
        self.next = Some(now + INTERVAL);
        self.files.write(&point)
    }
}
