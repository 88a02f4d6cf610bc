//! The replicated store: the blocks of the journal go through a partition of a log that speaks the Kafka protocol, and
//! several processes (replicas) hold the same ledger.
//!
//! - [`view`] is what the rest of the service knows about its replica: the [`Replica`] handle, and the [`ReplicaView`]
//!   that the driver of the replica publishes.
//! - [`settings`] is the section `store.replicated` of the configuration.

pub mod settings;
pub mod view;

pub use settings::{
    BrokerIdentity, BrokerSasl, BrokerSecurity, BrokerTls, ReplicatedConfig, ReplicatedSettings,
    SaslMechanism, SecurityProtocol,
};
pub use view::{Replica, ReplicaCommand, ReplicaDriver, ReplicaRole, ReplicaView, ResignError, Resigned};
