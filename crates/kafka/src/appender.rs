//! Appends batches of records.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    batch,
    connection::Answer,
    error::{AppendError, Error, ErrorCode, Malformed},
    handshake::Ready,
    messages::{
        PRODUCE,
        produce::{self, TOPIC_IDS_FROM},
        target::Target,
    },
    partition::{Location, Partition, milliseconds},
};

/// Maximum number of records of one append.
pub const RECORDS_MAX: usize = 65_536;

/// Appends to the partition, over one connection to its leader.
///
/// [`Appender::submit`] fixes the order: the requests reach the leader in the order of the calls. Nothing is sent twice.
/// After any error of an [`Append`] the connection closes, and each later append that is in flight ends as
/// [`AppendError::Unresolved`]. Then call [`Appender::reconnect`].
#[derive(Debug)]
pub struct Appender {
    partition: Partition,
    location: Location,
    ready: Ready,
    version: i16,
}

/// The proof that records are appended: every in-sync replica has them, and there are at least `min.insync.replicas`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The offset of the first record. The other records follow without a gap.
    pub base_offset: i64,
    /// The time at which the leader appended, in ms since 1970. Only if the topic has
    /// `message.timestamp.type=LogAppendTime`.
    pub log_append_time_ms: Option<i64>,
    /// The first offset of the log.
    pub log_start_offset: i64,
}

// ===== impl Partition =====

impl Partition {
    /// Connects to the leader to append.
    ///
    /// # Errors
    ///
    /// Those of [`Partition::locate`].
    pub async fn appender(&self) -> Result<Appender, Error> {
        Appender::connect(self.clone()).await
    }
}

// ===== impl Appender =====

impl Appender {
    async fn connect(partition: Partition) -> Result<Self, Error> {
        let (ready, location) = partition.connect_to_leader().await?;
        let version = version(&ready, &location)?;
        Ok(Self {
            partition,
            location,
            ready,
            version,
        })
    }

    /// Closes the connection, asks for the leader and connects to it. An append that is in flight ends as
    /// [`AppendError::Unresolved`]. The old leader may still append the batches that it has received.
    ///
    /// # Errors
    ///
    /// Those of [`Partition::locate`]. After an error, the appender stays closed. Call this method again.
    pub async fn reconnect(&mut self) -> Result<(), Error> {
        self.close();
        let (ready, location) = self.partition.connect_to_leader().await?;
        self.version = version(&ready, &location)?;
        (self.ready, self.location) = (ready, location);
        Ok(())
    }

    /// Closes the connection. An append that is in flight ends as [`AppendError::Unresolved`].
    pub fn close(&self) {
        self.ready.connection.ending().want();
    }

    /// Returns where the partition was when this appender connected.
    #[must_use]
    pub const fn location(&self) -> &Location {
        &self.location
    }

    /// Returns when the broker ends the SASL session, and with it the connection (`connections.max.reauth.ms`). Call
    /// [`Appender::reconnect`] before this time, while nothing is in flight. `None`: the session never ends.
    #[must_use]
    pub const fn session_ends(&self) -> Option<Instant> {
        self.ready.expires
    }

    /// Sends one batch with a record for each of `values`, after all earlier appends, and returns the future of the
    /// append. The records have no key, and the timestamp `timestamp_ms` in ms since 1970.
    ///
    /// This method does not wait, and may be called on a thread without a runtime.
    ///
    /// # Errors
    ///
    /// [`AppendError::Refused`]: no byte was sent, because the batch is empty or larger than
    /// [`Settings::batch_bytes_max`](crate::Settings::batch_bytes_max), too many appends are in flight, or the connection
    /// is closed.
    pub fn submit(&mut self, values: &[Bytes], timestamp_ms: i64) -> Result<Append, AppendError> {
        let settings = self.partition.settings();
        let refuse = |bytes, bound| {
            AppendError::Refused(Error::BatchSize {
                records: values.len(),
                bytes,
                bound,
            })
        };
        let sum: usize = values.iter().map(Bytes::len).sum();
        if values.is_empty() || values.len() > RECORDS_MAX {
            return Err(refuse(sum, "1 to 65,536 records are allowed"));
        }
        let too_large = "the batch is larger than batch_bytes_max";
        if sum > settings.batch_bytes_max {
            return Err(refuse(sum, too_large));
        }
        let batch = batch::encode(values, timestamp_ms).ok_or_else(|| refuse(sum, too_large))?;
        if batch.length > settings.batch_bytes_max {
            return Err(refuse(batch.length, too_large));
        }
        let target = Target {
            topic: &settings.topic,
            topic_id: self.location.topic_id,
            partition: settings.partition,
        };
        let limit = milliseconds(settings.request_timeout);
        let body = produce::request(self.version, target, batch, limit);
        let answer = self
            .ready
            .connection
            .send(&PRODUCE, self.version, body, Duration::ZERO)
            .map_err(AppendError::Refused)?;
        Ok(Append {
            answer,
            version: self.version,
            partition: settings.partition,
        })
    }

    /// Submits one batch and waits for its completion.
    ///
    /// # Errors
    ///
    /// Those of [`Appender::submit`] and [`Append`].
    pub async fn append(&mut self, values: &[Bytes], timestamp_ms: i64) -> Result<Receipt, AppendError> {
        self.submit(values, timestamp_ms)?.await
    }
}

/// Returns the version of `Produce`.
fn version(ready: &Ready, location: &Location) -> Result<i16, Error> {
    let version = ready.connection.version(&PRODUCE)?;
    if version >= TOPIC_IDS_FROM && !location.topic_id.is_known() {
        return Err(Error::Unsupported {
            endpoint: location.leader.endpoint.to_string(),
            call: "Metadata with topic ids",
        });
    }
    Ok(version)
}

/// The future of an append. It can be polled without a runtime. If it is dropped, the append happens nevertheless.
///
/// The future resolves to a [`Receipt`], or to an [`AppendError`] that says what is known about the records.
#[derive(Debug)]
#[must_use = "only the completion says whether the records were appended"]
pub struct Append {
    answer: Answer,
    version: i16,
    partition: i32,
}

impl Append {
    fn judge(&self, answer: Result<Bytes, Error>) -> Result<Receipt, AppendError> {
        let ending = self.answer.ending();
        let answer = answer.map_err(AppendError::Unresolved)?;
        let answer = produce::answer(self.version, self.partition, answer)
            .map_err(|Malformed(what)| AppendError::Unresolved(ending.malformed(PRODUCE.name, what)))?;
        if answer.code != ErrorCode::NONE {
            let error = Error::Broker {
                endpoint: ending.endpoint().to_owned(),
                call: PRODUCE.name,
                code: answer.code,
                message: answer.message,
            };
            return Err(AppendError::from_answer(answer.code, error));
        }
        Ok(Receipt {
            base_offset: answer.base_offset,
            log_append_time_ms: (answer.log_append_time_ms >= 0).then_some(answer.log_append_time_ms),
            log_start_offset: answer.log_start,
        })
    }
}

impl Future for Append {
    type Output = Result<Receipt, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(answer) = Pin::new(&mut self.answer).poll(context) else {
            return Poll::Pending;
        };
        let outcome = self.judge(answer);
        if outcome.is_err() {
            self.answer.ending().want();
        }
        Poll::Ready(outcome)
    }
}
