//! Reads the past of the ledger. These methods ask EXEC only where the chain of an account begins. Everything else is read from the
//! journal, by threads for blocking calls.

use std::sync::atomic::Ordering;

use tally_journal::Position;
use tokio::time::Instant;

use super::{
    command::{AccountHistory, Command, CommandReply},
    fault::EngineError,
    history_reads::HistoryReads,
    read_places::ReadPlace,
    tally_engine::{TallyEngine, unexpected},
};
use crate::{
    security::Client,
    store::embedded::{DurablePoint, HistoryReader, RecordError, history::Cancellation},
};

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

    /// Returns the point up to which everything is durable. Every answer that this process has sent before this call depends only
    /// on blocks before this point. Another replica may have acknowledged more: see [`TallyEngine::read_point`].
    #[must_use]
    pub fn durable(&self) -> DurablePoint {
        self.shared.pipeline.progress().durable
    }

    /// Returns the point up to which a read must show the ledger: everything that any replica has acknowledged before this call is before
    /// the point. A leader proves with a block that it still leads. A replica that follows returns what it has applied.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn read_point(&self, deadline: Option<Instant>) -> Result<DurablePoint, EngineError> {
        if self.replica().is_some() {
            let CommandReply::ReadPoint = self.read(Command::ReadPoint, deadline).await? else {
                return Err(unexpected());
            };
        }
        Ok(self.durable())
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
    /// [`EngineError::Store`]: the journal has failed, or this replica has lost its leadership.
    pub async fn durable_from(&self, sequence: u64) -> Result<DurablePoint, EngineError> {
        let progress = self.shared.pipeline.durable_from(sequence).await;
        if let Some(end) = progress.ended {
            return Err(end.before_execution().into());
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
    /// [`HISTORY_READS_MAX`](super::HISTORY_READS_MAX) reads run at a time, and at most
    /// [`HISTORY_READS_OF_CLIENT_MAX`](super::HISTORY_READS_OF_CLIENT_MAX) of one client. The others wait, but not longer than until
    /// `deadline`.
    ///
    /// # Errors
    /// [`EngineError`] if the journal can't be read, or if the deadline has passed before the read could begin.
    pub async fn read_history<T: Send + 'static>(
        &self,
        client: &Client,
        deadline: Option<Instant>,
        read: impl FnOnce(&HistoryReader, Position) -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let places = &self.shared.history.places;
        self.read_with(places.take(client, deadline), read).await
    }

    /// The same for a page of a watch. Such reads can go on without end, so they have a place of their own, and the other reads do not
    /// wait for them.
    ///
    /// # Errors
    /// [`EngineError`] if the journal can't be read.
    pub async fn read_history_for_watch<T: Send + 'static>(
        &self,
        client: &Client,
        read: impl FnOnce(&HistoryReader, Position) -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let places = &self.shared.history.watch_places;
        self.read_with(places.take(client, None), read).await
    }

    async fn read_with<T: Send + 'static>(
        &self,
        place: impl Future<Output = Result<ReadPlace, EngineError>>,
        read: impl FnOnce(&HistoryReader, Position) -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let HistoryReads { reader, reads, .. } = &self.shared.history;
        reads.fetch_add(1, Ordering::Relaxed);
        let end = self.durable().chain().position;
        let place = place.await?;
        // The thread goes on after this call has been cancelled. Then the read ends at its next step, so that its place is free.
        let cancellation = Cancellation::default();
        let _guard = cancellation.cancel_on_drop();
        let reader = reader.until(&cancellation);
        self.read_blocking(move || {
            let _place = place;
            read(&reader, end)
        })
        .await
    }
}
