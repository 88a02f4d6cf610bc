//! Reads records.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    batch,
    error::{Error, ErrorCode, Malformed},
    handshake::Ready,
    messages::{
        Api, FETCH, LIST_OFFSETS,
        fetch::{self, Edge, Fetch, TOPIC_IDS_FROM},
        target::Target,
    },
    partition::{Location, Partition, milliseconds},
    record::Record,
    settings::TIMEOUT_MAX,
};

/// Reads from the leader of the partition, over one connection.
///
/// Every request names the leader epoch that the metadata had, so a broker that has lost its leadership, or has gained it again, refuses
/// the request. After an error other than [`Error::OffsetOutOfRange`], call [`Reader::reconnect`].
#[derive(Debug)]
pub struct Reader {
    partition: Partition,
    location: Location,
    ready: Ready,
}

/// The outcome of a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The records from the offset on, in order. Empty if no record came within `max_wait`.
    ///
    /// Offsets can have gaps: the ends of transactions take an offset each, and compaction removes records.
    pub records: Vec<Record>,
    /// The offset for the next fetch.
    pub next_offset: i64,
    /// The offset up to which records were committed (excluded) when the leader began to read.
    pub high_watermark: i64,
    /// The first offset of the log.
    pub log_start_offset: i64,
}

// ===== impl Partition =====

impl Partition {
    /// Connects to the leader to read. An [`Appender`](crate::Appender) has another connection, because a broker does not answer the next
    /// request on a connection while a fetch waits for records.
    ///
    /// # Errors
    ///
    /// Those of [`Partition::locate`].
    pub async fn reader(&self) -> Result<Reader, Error> {
        Reader::connect(self.clone()).await
    }
}

// ===== impl Reader =====

impl Reader {
    async fn connect(partition: Partition) -> Result<Self, Error> {
        let (ready, location) = partition.connect_to_leader().await?;
        Ok(Self {
            partition,
            location,
            ready,
        })
    }

    /// Closes the connection, asks for the leader and connects to it.
    ///
    /// # Errors
    ///
    /// Those of [`Partition::locate`]. After an error, the reader stays closed. Call this method again.
    pub async fn reconnect(&mut self) -> Result<(), Error> {
        self.ready.connection.ending().want();
        (self.ready, self.location) = self.partition.connect_to_leader().await?;
        Ok(())
    }

    /// Returns where the partition was when this reader connected.
    #[must_use]
    pub const fn location(&self) -> &Location {
        &self.location
    }

    /// Returns when the broker ends the SASL session, and with it the connection. Call [`Reader::reconnect`] before this time. `None`:
    /// the session never ends.
    #[must_use]
    pub const fn session_ends(&self) -> Option<Instant> {
        self.ready.expires
    }

    /// Reads committed records from `offset` on. If there is none, the leader waits up to `max_wait` for one.
    ///
    /// The leader returns at most `bytes_max` bytes of batches, or one batch if it is larger; `bytes_max` is limited to
    /// [`Settings::fetch_bytes_max`](crate::Settings::fetch_bytes_max), and `max_wait` to 600 s.
    ///
    /// # Errors
    ///
    /// [`Error::OffsetOutOfRange`]: the log does not have `offset`. [`Error::Corrupt`]: a batch is damaged; fetch it
    /// again. [`Error::Broker`] with [`ErrorCode::NOT_LEADER_OR_FOLLOWER`], [`ErrorCode::FENCED_LEADER_EPOCH`] or
    /// [`ErrorCode::UNKNOWN_LEADER_EPOCH`]: another broker leads, or the same broker was elected again. With
    /// [`ErrorCode::UNKNOWN_TOPIC_ID`]: the topic was deleted. After these codes, call [`Reader::reconnect`].
    pub async fn fetch(&self, offset: i64, max_wait: Duration, bytes_max: usize) -> Result<Fetched, Error> {
        let settings = self.partition.settings();
        let max_wait = max_wait.min(TIMEOUT_MAX);
        let version = self.version()?;
        let fetch = Fetch {
            offset,
            leader_epoch: self.location.leader_epoch,
            max_wait_ms: milliseconds(max_wait),
            bytes_max: i32::try_from(bytes_max.min(settings.fetch_bytes_max)).unwrap_or(i32::MAX),
        };
        let target = self.target();
        let body = fetch::fetch_request(version, target, fetch);
        let connection = &self.ready.connection;
        let answer = connection.call(&FETCH, version, body, max_wait).await?;
        let answer = fetch::fetch_answer(version, target, answer)
            .map_err(|Malformed(what)| self.malformed(&FETCH, what))?;
        match answer.code {
            ErrorCode::NONE => {}
            ErrorCode::OFFSET_OUT_OF_RANGE => return Err(self.out_of_range(offset).await?),
            code => return Err(self.refused(&FETCH, code)),
        }
        let (records, next_offset) = batch::decode(answer.records, offset)?;
        Ok(Fetched {
            records,
            next_offset,
            high_watermark: answer.high_watermark,
            log_start_offset: answer.log_start,
        })
    }

    /// Returns the first offset of the log, or the offset after the last committed record.
    ///
    /// # Errors
    ///
    /// Those of [`Reader::fetch`]. [`ErrorCode::LEADER_NOT_AVAILABLE`] can be transient after an election.
    pub async fn offset(&self, edge: Edge) -> Result<i64, Error> {
        let connection = &self.ready.connection;
        let version = connection.version(&LIST_OFFSETS)?;
        let target = self.target();
        let body = fetch::list_offsets_request(version, target, self.location.leader_epoch, edge);
        let answer = connection
            .call(&LIST_OFFSETS, version, body, Duration::ZERO)
            .await?;
        let (code, offset) = fetch::list_offsets_answer(version, target, answer)
            .map_err(|Malformed(what)| self.malformed(&LIST_OFFSETS, what))?;
        if code == ErrorCode::NONE {
            Ok(offset)
        } else {
            Err(self.refused(&LIST_OFFSETS, code))
        }
    }

    /// Returns the error for an offset outside the log, with the log's first and last offset.
    async fn out_of_range(&self, offset: i64) -> Result<Error, Error> {
        Ok(Error::OffsetOutOfRange {
            offset,
            log_start: self.offset(Edge::Start).await?,
            log_end: self.offset(Edge::End).await?,
            leader_epoch: self.location.leader_epoch,
        })
    }

    fn version(&self) -> Result<i16, Error> {
        let version = self.ready.connection.version(&FETCH)?;
        if version >= TOPIC_IDS_FROM && !self.location.topic_id.is_known() {
            return Err(Error::Unsupported {
                endpoint: self.location.leader.endpoint.to_string(),
                call: "Metadata with topic ids",
            });
        }
        Ok(version)
    }

    fn target(&self) -> Target<'_> {
        let settings = self.partition.settings();
        Target {
            topic: &settings.topic,
            topic_id: self.location.topic_id,
            partition: settings.partition,
        }
    }

    fn malformed(&self, api: &Api, what: &'static str) -> Error {
        self.ready.connection.ending().malformed(api.name, what)
    }

    fn refused(&self, api: &Api, code: ErrorCode) -> Error {
        Error::Broker {
            endpoint: self.ready.connection.ending().endpoint().to_owned(),
            call: api.name,
            code,
            message: None,
        }
    }
}
