//! Reads the past of the ledger. These methods ask EXEC only where the chain of an account begins. Everything else is read from the
//! journal, by threads for blocking calls.

use std::sync::{Arc, atomic::Ordering};

use tally_batch::BatchError;
use tally_journal::Position;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::{
    command::{AccountHistory, Command, CommandReply},
    fault::{EngineError, StoreFault},
    history_reads::HistoryReads,
    tally_engine::{TallyEngine, unexpected},
};
use crate::store::embedded::{DurablePoint, HistoryReader, RecordError, history::Cancellation};

// ===== impl TallyEngine =====

impl TallyEngine {
    /// Reads an account, and where its history begins. Returns `None` if no account has the `id`.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn account_history(
        &self,
        id: String,
        deadline: Option<Instant>,
    ) -> Result<Option<Box<AccountHistory>>, EngineError> {
        let CommandReply::History(history) = self.read(Command::History(id), deadline).await? else {
            return Err(unexpected());
        };
        Ok(history)
    }

    /// Returns the point up to which everything is durable. Every answer that was sent before this call depends only on blocks before
    /// this point.
    #[must_use]
    pub fn durable(&self) -> DurablePoint {
        self.shared.pipeline.progress().durable
    }

    /// The number of reads of the history since the start, and the number of records of accounts' chains that they have read.
    #[must_use]
    pub fn history_figures(&self) -> (u64, u64) {
        let HistoryReads { reader, reads, .. } = &self.shared.history;
        (reads.load(Ordering::Relaxed), reader.records_read())
    }

    /// The number of bytes of blocks that lists and watches have read since the start.
    #[must_use]
    pub fn history_bytes_scanned(&self) -> u64 {
        self.shared.history.reader.bytes_scanned()
    }

    /// Waits until the record with this sequence is durable. Returns the point up to which everything is durable.
    ///
    /// # Errors
    /// [`StoreFault::Failed`] if the journal has failed.
    pub async fn durable_from(&self, sequence: u64) -> Result<DurablePoint, EngineError> {
        let progress = self.shared.pipeline.durable_from(sequence).await;
        if progress.failed {
            return Err(StoreFault::Failed.into());
        }
        Ok(progress.durable)
    }

    /// Reads the history on a thread for blocking calls. The read does not wait for other reads, so only the one reader that serves all
    /// watchers may call this method.
    ///
    /// # Errors
    /// [`EngineError`] if the journal can't be read.
    pub async fn follow_history<T: Send + 'static>(
        &self,
        read: impl FnOnce(&HistoryReader) -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let reader = self.shared.history.reader.clone();
        self.read_blocking(move || read(&reader)).await
    }

    /// Reads the history on a thread for blocking calls. `read` gets the reader, and the end of the durable blocks. At most
    /// [`HISTORY_READS_MAX`](super::HISTORY_READS_MAX) reads run at a time. The others wait, but not longer than until `deadline`.
    ///
    /// # Errors
    /// [`EngineError`] if the journal can't be read, or if the deadline has passed before the read could begin.
    pub async fn read_history<T: Send + 'static>(
        &self,
        deadline: Option<Instant>,
        read: impl FnOnce(&HistoryReader, Position) -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let permits = Arc::clone(&self.shared.history.permits);
        self.read_with(permits, deadline, read).await
    }

    /// Does the same as [`TallyEngine::read_history`], for a page of a watch. A watch may read page after page without end. So these
    /// reads have a separate permit, and the other reads do not wait for them.
    ///
    /// # Errors
    /// [`EngineError`] if the journal can't be read.
    pub async fn read_history_for_watch<T: Send + 'static>(
        &self,
        read: impl FnOnce(&HistoryReader, Position) -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let permits = Arc::clone(&self.shared.history.watch_permits);
        self.read_with(permits, None, read).await
    }

    async fn read_with<T: Send + 'static>(
        &self,
        permits: Arc<Semaphore>,
        deadline: Option<Instant>,
        read: impl FnOnce(&HistoryReader, Position) -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let HistoryReads { reader, reads, .. } = self.shared.history.clone();
        reads.fetch_add(1, Ordering::Relaxed);
        let end = self.durable().chain().position;
        let permit = permit(permits, deadline).await?;
        // The thread continues after this call was cancelled. The guard then makes the read end at its next step, so that its permit
        // becomes free.
        let cancellation = Cancellation::default();
        let _guard = cancellation.cancel_on_drop();
        let reader = reader.until(&cancellation);
        self.read_blocking(move || {
            let _permit = permit;
            read(&reader, end)
        })
        .await
    }
}

/// Waits for a permit until `deadline`.
async fn permit(
    permits: Arc<Semaphore>,
    deadline: Option<Instant>,
) -> Result<OwnedSemaphorePermit, EngineError> {
    // Try without a timer first, because most reads need not wait.
    if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
        return Ok(permit);
    }
    let waiting = permits.acquire_owned();
    let permit = match deadline {
        Some(deadline) => match timeout_at(deadline, waiting).await {
            Ok(permit) => permit,
            Err(_elapsed) => return Err(BatchError::ExpiredInQueue.into()),
        },
        None => waiting.await,
    };
    // The semaphore is never closed.
    permit.map_err(|_| StoreFault::ReadFailed.into())
}
