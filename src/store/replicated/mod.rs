//! The replicated store: the blocks of the journal go through a partition of a log that speaks the Kafka protocol, and
//! several processes (replicas) hold the same ledger.
//!
//! - [`ReplicatedLog`] is what the commit pipeline of a replica writes to. [`Exchange`] connects it to the driver (`crate::replica`), which
//!   sends the blocks to a [`PartitionLog`].
//! - [`KafkaLog`] is a [`PartitionLog`] on brokers. [`unsafe_properties`] checks their topic.
//! - [`ResumePoint`] says where a replica continues to read after a start. [`DirectoryName`] says which directory goes on without the log.
//! - [`view`] is what the rest of the service knows about its replica: the [`Replica`] handle, and the [`ReplicaView`]
//!   that the driver publishes.
//! - [`settings`] is the section `store.replicated` of the configuration.

mod control;
pub mod directory_name;
mod exchange;
pub mod fault;
mod kafka_log;
mod log;
mod port;
pub mod resume;
pub mod settings;
mod topic_check;
pub mod view;

pub use control::{ClaimBody, EndBody, ResignBody};
pub use directory_name::DirectoryName;
pub use exchange::{Exchange, Leadership, OwnBlock};
pub use fault::ReplicaFault;
pub use kafka_log::{BrokerSettingsError, KafkaLog, REQUEST_BYTES_MAX};
pub use log::{LOG_DEPTH, ReplicatedLog};
pub use port::{
    AppendError, Appended, Doing, LogRecord, LogRecords, PartitionLog, ReadError, TopicFacts, TopicId,
};
pub use resume::{FAMILY, ResumeFiles, ResumePoint};
pub use settings::{
    BrokerIdentity, BrokerSasl, BrokerSecurity, BrokerTls, ReplicatedConfig, ReplicatedSettings,
    SaslMechanism, SecurityProtocol,
};
pub use topic_check::{UnsafeTopic, unsafe_properties};
pub use view::{
    IgnoredPeer, Replica, ReplicaCommand, ReplicaDriver, ReplicaIdentity, ReplicaRole, ReplicaView,
    ResignError, Resigned,
};
