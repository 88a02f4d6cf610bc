//! The replicated log on brokers that speak the Kafka protocol.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tally_kafka::{
    Appender, Description, Edge, Error, ErrorCode, Fetched, Location, Mechanism, NewTopic, Partition,
    Password, Reader, Sasl, Settings, Tls, TopicConfig,
};
use thiserror::Error as ThisError;

use super::{
    port::{
        AppendError, Appended, Doing, LogRecord, LogRecords, PartitionLog, ReadError, TopicFacts, TopicId,
    },
    settings::{BrokerSasl, BrokerTls, ReplicatedConfig, SaslMechanism},
};
use crate::{
    certificates::{CertificateFileError, authorities, certificates, client_tls, pair, private_key},
    settings::read_bounded,
};

/// Maximum size of one request, in bytes. The topic must allow it (`max.message.bytes`). A block has at most 4 MiB by default.
pub const REQUEST_BYTES_MAX: usize = 8 << 20;
/// Stands for no leader epoch: less than every epoch.
const NO_EPOCH: i32 = -1;
/// Maximum size of the records of one read, in bytes.
const READ_BYTES_MAX: usize = 4 << 20;
/// Longest password in a file, in bytes.
const PASSWORD_BYTES_MAX: usize = 1024;
/// The settings with which a topic is made.
const TOPIC_SETTINGS: [(&str, &str); 8] = [
    ("compression.type", "producer"),
    ("min.insync.replicas", "2"),
    ("unclean.leader.election.enable", "false"),
    ("cleanup.policy", "delete"),
    ("retention.ms", "-1"),
    ("retention.bytes", "-1"),
    ("flush.messages", "1"),
    ("max.message.bytes", "8388608"),
];
/// The number of brokers with a copy of a topic that is made.
const REPLICATION_FACTOR: i16 = 3;

/// Why the brokers' settings can't be used.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum BrokerSettingsError {
    /// A file can't be read.
    #[error("store.replicated.{key} = {path}: {source}", path = .path.display())]
    File {
        /// The key of the setting.
        key: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A certificate or a key can't be used.
    #[error(transparent)]
    Certificate(#[from] CertificateFileError),
    /// The password is empty or too long.
    #[error("store.replicated.sasl_password_file = {path}: the password must have 1 to {PASSWORD_BYTES_MAX} bytes", path = .0.display())]
    Password(PathBuf),
    /// A setting is out of bounds.
    #[error(transparent)]
    Client(#[from] Error),
    /// TLS refuses the settings.
    #[error("the TLS settings for the brokers can't be used: {0}")]
    Tls(String),
}

/// A partition of a topic of the brokers.
#[derive(Debug)]
pub struct KafkaLog {
    partition: Partition,
    connections: Arc<Mutex<Connections>>,
    /// The newest leader epoch of the partition that was seen. A broker that is cut off from the others answers with an older epoch. Such
    /// a broker does not know the end of the log, and its answers are ignored.
    epoch: Arc<AtomicI32>,
}

#[derive(Debug, Default)]
struct Connections {
    appender: Option<Appender>,
    reader: Option<Arc<Reader>>,
}

// ===== impl KafkaLog =====

impl KafkaLog {
    /// Makes the log from the settings. Connects to no broker.
    ///
    /// # Errors
    /// [`BrokerSettingsError`].
    pub fn new(config: &ReplicatedConfig) -> Result<Self, BrokerSettingsError> {
        Self::of_topic(config, None)
    }

    /// Does the same as [`KafkaLog::new`], for the topic with this identity. If another topic has the name, every connection fails.
    ///
    /// # Errors
    /// [`BrokerSettingsError`].
    pub fn of_topic(
        config: &ReplicatedConfig,
        topic_id: Option<TopicId>,
    ) -> Result<Self, BrokerSettingsError> {
        let mut bootstrap = Vec::with_capacity(config.brokers.len());
        for broker in &config.brokers {
            bootstrap.push(broker.parse()?);
        }
        let settings = Settings {
            client_id: "tally".to_owned(),
            topic_id: topic_id.map(tally_kafka::TopicId),
            connect_timeout: config.request_timeout,
            request_timeout: config.request_timeout,
            in_flight_max: config.requests_in_flight.max(2),
            batch_bytes_max: REQUEST_BYTES_MAX,
            fetch_bytes_max: READ_BYTES_MAX,
            tls: config.security.tls.as_ref().map(tls).transpose()?,
            sasl: config.security.sasl.as_ref().map(sasl).transpose()?,
            ..Settings::new(bootstrap, config.topic.clone())
        };
        Ok(KafkaLog {
            partition: Partition::new(settings)?,
            connections: Arc::default(),
            epoch: Arc::new(AtomicI32::new(NO_EPOCH)),
        })
    }

    /// Makes the log ignore the answers of brokers that do not know this leader epoch.
    #[must_use]
    pub fn since_epoch(self, epoch: Option<i32>) -> Self {
        if let Some(epoch) = epoch {
            self.epoch.fetch_max(epoch, Ordering::Relaxed);
        }
        self
    }

    /// Makes the topic with safe settings. A topic that exists already stays as it is.
    ///
    /// # Errors
    /// The error of the brokers.
    pub async fn create_topic(&self) -> Result<(), Error> {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let topic = NewTopic {
            partitions: 1,
            replication_factor: REPLICATION_FACTOR,
            configs: TOPIC_SETTINGS.map(owned).to_vec(),
        };
        match self.partition.create_topic(&topic).await {
            Err(error) if error.code() == Some(ErrorCode::TOPIC_ALREADY_EXISTS) => Ok(()),
            created => created,
        }
    }
}

impl PartitionLog for KafkaLog {
    fn append(&mut self, blocks: Vec<Bytes>) -> Doing<Result<Appended, AppendError>> {
        let mut connections = self.connections.lock();
        let Some(appender) = &mut connections.appender else {
            let refused = AppendError::Refused("no broker is connected".to_owned());
            return Box::pin(std::future::ready(Err(refused)));
        };
        let submitted = appender.submit(&blocks, 0);
        drop(connections);
        Box::pin(async move {
            let receipt = match submitted {
                Ok(append) => append.await,
                Err(error) => Err(error),
            };
            let receipt = receipt.map_err(append_error)?;
            let first_offset = offset(receipt.base_offset).map_err(AppendError::Unresolved)?;
            Ok(Appended { first_offset })
        })
    }

    fn read(&mut self, from: u64, wait: Duration) -> Doing<Result<LogRecords, ReadError>> {
        let reader = self.connections.lock().reader.clone();
        let newest = Arc::clone(&self.epoch);
        Box::pin(async move {
            let Some(reader) = reader else {
                return Err(ReadError::Unavailable("no broker is connected".to_owned()));
            };
            let Ok(from) = i64::try_from(from) else {
                return Err(ReadError::Unusable(format!("offset {from} is beyond every log")));
            };
            let fetched = reader.fetch(from, wait, READ_BYTES_MAX).await;
            check_epoch(reader.location(), &newest)?;
            let records = fetched.map_err(read_error).and_then(records)?;
            if let Some(epoch) = records.records.iter().map(|record| record.epoch).max() {
                newest.fetch_max(epoch, Ordering::Relaxed);
            }
            Ok(records)
        })
    }

    fn reconnect(&mut self) -> Doing<Result<(), ReadError>> {
        // The old connections end now, so appends in flight are unresolved, and nothing arrives from them any more.
        *self.connections.lock() = Connections::default();
        let (partition, connections) = (self.partition.clone(), Arc::clone(&self.connections));
        let newest = Arc::clone(&self.epoch);
        Box::pin(async move {
            let (appender, reader) =
                tokio::try_join!(partition.appender(), partition.reader()).map_err(read_error)?;
            check_epoch(appender.location(), &newest)?;
            check_epoch(reader.location(), &newest)?;
            *connections.lock() = Connections {
                appender: Some(appender),
                reader: Some(Arc::new(reader)),
            };
            Ok(())
        })
    }

    fn inspect(&mut self) -> Doing<Result<TopicFacts, ReadError>> {
        let partition = self.partition.clone();
        Box::pin(async move {
            let description = partition.describe().await.map_err(read_error)?;
            let reader = partition.reader().await.map_err(read_error)?;
            let start = reader.offset(Edge::Start).await.map_err(read_error)?;
            let end = reader.offset(Edge::End).await.map_err(read_error)?;
            facts(&description, start, end)
        })
    }
}

/// Checks that a broker knows the newest leader epoch that was seen. If the broker knows a newer epoch, stores the newer epoch in
/// `newest`.
fn check_epoch(location: &Location, newest: &AtomicI32) -> Result<(), ReadError> {
    let known = newest.fetch_max(location.leader_epoch, Ordering::Relaxed);
    if location.leader_epoch >= known {
        return Ok(());
    }
    let (broker, epoch) = (&location.leader.endpoint, location.leader_epoch);
    Err(ReadError::Unavailable(format!(
        "broker {broker} leads in epoch {epoch} only, but epoch {known} was seen: it is cut off from the other brokers"
    )))
}

fn facts(description: &Description, start: i64, end: i64) -> Result<TopicFacts, ReadError> {
    let location = &description.location;
    let setting = |config: &TopicConfig| Some((config.name.clone(), config.value.clone()?));
    Ok(TopicFacts {
        topic_id: location.topic_id.0,
        partitions: location.partitions,
        replication_factor: location.replicas.len(),
        settings: description.configs.iter().filter_map(setting).collect(),
        start_offset: offset(start).map_err(ReadError::Unavailable)?,
        end_offset: offset(end).map_err(ReadError::Unavailable)?,
    })
}

fn records(fetched: Fetched) -> Result<LogRecords, ReadError> {
    let checked = |value: i64| offset(value).map_err(ReadError::Damaged);
    let mut records = Vec::with_capacity(fetched.records.len());
    for record in fetched.records {
        records.push(LogRecord {
            offset: checked(record.offset)?,
            epoch: record.leader_epoch,
            value: record.value,
        });
    }
    Ok(LogRecords {
        records,
        next_offset: checked(fetched.next_offset)?,
        end_offset: checked(fetched.high_watermark)?,
    })
}

/// Converts an offset that a broker sent.
fn offset(value: i64) -> Result<u64, String> {
    u64::try_from(value).map_err(|_| format!("a broker sent the offset {value}"))
}

fn append_error(error: tally_kafka::AppendError) -> AppendError {
    match error {
        tally_kafka::AppendError::Unresolved(error) => AppendError::Unresolved(error.to_string()),
        tally_kafka::AppendError::Refused(error) | tally_kafka::AppendError::Fatal(error) => {
            AppendError::Refused(error.to_string())
        }
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every other error can be temporary"
)]
fn read_error(error: Error) -> ReadError {
    match error {
        Error::OffsetOutOfRange {
            log_start, log_end, ..
        } => match (offset(log_start), offset(log_end)) {
            (Ok(start), Ok(end)) => ReadError::OutOfRange { start, end },
            (Err(error), _) | (_, Err(error)) => ReadError::Damaged(error),
        },
        error @ (Error::Corrupt { .. } | Error::Compressed { .. }) => ReadError::Damaged(error.to_string()),
        error @ Error::TopicReplaced { .. } => ReadError::Replaced(error.to_string()),
        error if error.is_fatal() => ReadError::Unusable(error.to_string()),
        error => ReadError::Unavailable(error.to_string()),
    }
}

fn tls(files: &BrokerTls) -> Result<Tls, BrokerSettingsError> {
    let ca = &files.ca;
    let roots = authorities(certificates(&read("tls_ca_file", ca)?, ca)?, ca)?;
    let identity = match &files.identity {
        None => None,
        Some(identity) => {
            let (certificate, key) = (&identity.certificate, &identity.key);
            let chain = certificates(&read("tls_cert_file", certificate)?, certificate)?;
            let private = private_key(&read("tls_key_file", key)?, key)?;
            pair(chain.clone(), private.clone_key(), certificate, key)?;
            Some((chain, private))
        }
    };
    let config = client_tls(roots, identity).map_err(|error| BrokerSettingsError::Tls(error.to_string()))?;
    Ok(Tls {
        config: Arc::new(config),
        server_name: None,
    })
}

fn sasl(account: &BrokerSasl) -> Result<Sasl, BrokerSettingsError> {
    let path = &account.password_file;
    let bytes = read("sasl_password_file", path)?;
    let text = String::from_utf8(bytes).map_err(|_| BrokerSettingsError::Password(path.clone()))?;
    // Editors and `echo` add a line break at the end.
    let password = text.strip_suffix('\n').map_or(text.as_str(), |text| text);
    if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
        return Err(BrokerSettingsError::Password(path.clone()));
    }
    Ok(Sasl {
        mechanism: match account.mechanism {
            SaslMechanism::Plain => Mechanism::Plain,
            SaslMechanism::ScramSha256 => Mechanism::ScramSha256,
            SaslMechanism::ScramSha512 => Mechanism::ScramSha512,
        },
        user: account.username.clone(),
        password: Password::new(password),
    })
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, BrokerSettingsError> {
    read_bounded(path).map_err(|source| BrokerSettingsError::File {
        key,
        path: path.to_owned(),
        source,
    })
}
