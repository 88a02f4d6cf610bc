//! A small client for one partition of a topic, on brokers that speak the Kafka protocol.
//!
//! The client is for a program that must know what happened to each append. It does nothing on its own: it never sends
//! a request twice, never chooses another offset, and never reconnects unless the caller says so.
//!
//! - [`Partition`] finds the leader, describes the topic ([`Description`]) and creates it.
//! - [`Appender`] sends batches in the order of [`Appender::submit`], several in flight. Each [`Append`] ends with a
//!   [`Receipt`], or with an [`AppendError`] that says whether the records may have been appended.
//! - [`Reader`] reads committed records, and checks each batch's CRC.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use tally_kafka::{AppendError, Error, Partition, Settings};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings::new(vec!["127.0.0.1:9092".parse()?], "blocks");
//! let partition = Partition::new(settings)?;
//! let mut appender = partition.appender().await?;
//! let first = appender.submit(&[Bytes::from("a"), Bytes::from("b")], 0)?;
//! let second = appender.submit(&[Bytes::from("c")], 0)?;
//! match first.await {
//!     Ok(receipt) => assert_eq!(second.await?.base_offset, receipt.base_offset + 2),
//!     Err(AppendError::Unresolved(error)) => eprintln!("read the log to find out: {error}"),
//!     Err(error) => return Err(error.into()),
//! }
//! let reader = partition.reader().await?;
//! let fetched = reader.fetch(0, Duration::from_millis(500), 1 << 20).await?;
//! for record in &fetched.records {
//!     eprintln!("{}: {} bytes", record.offset, record.value.len());
//! }
//! # Ok(()) }
//! ```
//!
//! **Time limits.** Each call has a time limit. A call that is not answered in time closes its connection, so a late
//! answer can never be taken for the answer to another call.
//!
//! **Memory.** A length that a peer claims never causes an allocation by itself: an answer is at most
//! [`Settings::fetch_bytes_max`] or [`Settings::batch_bytes_max`] plus 1 MiB, and lengths inside an answer are compared
//! with the bytes that are present. A connection holds at most [`Settings::in_flight_max`] requests.
//!
//! **Topic ids.** A topic that is deleted and created again is another topic. [`Partition::locate`] compares the ids
//! ([`Error::TopicReplaced`]). Brokers from Kafka 3.1 on also compare them on each fetch, and brokers from Kafka 4.1 on
//! on each append ([`ErrorCode::UNKNOWN_TOPIC_ID`]). On older brokers, call [`Partition::locate`] from time to time.
//!
//! **Not supported**: several partitions, consumer groups, transactions, idempotent producers, compression, SASL with
//! Kerberos or OAuth.

mod appender;
mod batch;
mod connection;
mod error;
mod handshake;
mod messages;
mod partition;
mod reader;
mod record;
mod scram;
mod settings;
mod topic_id;
mod wire;

pub use tokio_rustls::rustls;

pub use crate::{
    appender::{Append, Appender, RECORDS_MAX, Receipt},
    error::{AppendError, Error, ErrorCode},
    messages::{
        fetch::Edge,
        topic::{Broker, ConfigSource, NewTopic, TopicConfig},
    },
    partition::{Description, Location, Partition},
    reader::{Fetched, Reader},
    record::Record,
    settings::{
        BYTES_MAX, ENDPOINTS_MAX, Endpoint, IN_FLIGHT_MAX, Mechanism, Password, Sasl, Settings, TIMEOUT_MAX,
        Tls,
    },
    topic_id::TopicId,
};
