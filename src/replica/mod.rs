//! A replica: takes part in the replication of the ledger.
//!
//! Only the [`Driver`] talks to the replicated log. The driver runs on its own thread, and is always in one of two states:
//!
//! - **Following**: it reads the log, decides which blocks are accepted, lets the engine apply them, and watches whether the leader is
//!   alive. If not, it claims leadership.
//! - **Leading**: it sends the blocks of the engine to the log, and tells the engine which blocks are durable.
//!
//! The crate [`tally_replication`], which does no I/O, decides what may be accepted, answered and claimed. The log is a
//! [`PartitionLog`](crate::store::replicated::PartitionLog): a topic of the brokers, or a simulated log.
//!
//! ```text
//!            ┌────────── read ◀──────────┐                ┌── append ──▶┐
//!  engine ◀──┤ follow                    log     engine ──┤             log
//!            └── claim ─────────────────▶┘                └◀─ durable ──┘
//! ```

mod config;
mod driver;
mod follow;
mod lead;
mod peer_watch;
mod peers;
mod place;
mod prepare;
mod publish;
mod reports;

pub use config::DriverConfig;
pub use driver::{Driver, DriverParts, End};
pub use peer_watch::{AskPeer, PeerAnswer, watch_peers};
pub use peers::{PeerState, Peers, clock_ahead_ms};
pub use place::PlaceError;
pub use prepare::{PrepareError, check_resume, prepare, reach};
pub use publish::{
    PublishError, Published, check_own_topic, check_topic, detach, name_directory, publish, rejoin,
};
