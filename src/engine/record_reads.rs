//! Reads single records of the journal. A thread for blocking calls reads them, because neither EXEC nor NET may wait until a slow disk
//! returns an old record.

use tally_journal::Position;
use tokio::time::Instant;

use super::{
    command::{Command, CommandReply, OwnedKey},
    fault::EngineError,
    tally_engine::{TallyEngine, unexpected},
};
use crate::{
    security::Client,
    store::embedded::{FoundRecord, RecordError, RecordReader},
};

// ===== impl TallyEngine =====

impl TallyEngine {
    /// Finds the record with a key. Returns `None` if no record has the key.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn record(
        &self,
        key: OwnedKey,
        client: &Client,
        deadline: Option<Instant>,
    ) -> Result<Option<FoundRecord>, EngineError> {
        let CommandReply::Located(candidates) = self.read(Command::Locate(key.clone()), deadline).await?
        else {
            return Err(unexpected());
        };
        self.read_journal(client, deadline, move |records| {
            let mut found = candidates.into_iter();
            found
                .find_map(|position| records.find(position, key.borrow()).transpose())
                .transpose()
        })
        .await
    }

    /// Reads the records at these positions, where records are. EXEC must have returned the positions.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn records_at(
        &self,
        positions: Vec<Position>,
        client: &Client,
        deadline: Option<Instant>,
    ) -> Result<Vec<FoundRecord>, EngineError> {
        self.read_journal(client, deadline, move |records| {
            positions
                .into_iter()
                .map(|position| records.at(position))
                .collect()
        })
        .await
    }

    async fn read_journal<T: Send + 'static>(
        &self,
        client: &Client,
        deadline: Option<Instant>,
        read: impl FnOnce(&RecordReader) -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let place = self.shared.history.record_places.take(client, deadline).await?;
        let records = self.shared.records.clone();
        self.read_blocking(move || {
            let _place = place;
            read(&records)
        })
        .await
    }
}
