//! The gRPC service: it reads requests, checks them, calls the engine and writes answers.
//!
//! - `transactions`, `accounts` and `introspection` hold one service of `proto/tally/v1` each;
//! - `transport` serves connections and bounds what a client may use of them;
//! - `services` finds the method of a call and passes the call on;
//! - `status` makes every error that a client can get.
//!
//! [`serve`] starts one pinned, single-threaded runtime for each NET CPU. One task accepts all connections and hands them to
//! the runtimes in turn, so that a few heavy clients do not share one thread.

mod access;
mod accounts;
mod error_counts;
pub mod error_kind;
mod fields;
mod introspection;
mod limits;
mod methods;
mod protobuf;
mod services;
pub mod settings;
pub mod status;
mod transactions;
mod transport;

pub use error_counts::ErrorMetrics;
pub use introspection::{
    batch_stats::batch_stats_response, circuit::circuit_stats_response, topology::topology_response,
};
pub use limits::MESSAGE_BYTES_MAX;
pub use services::{Services, not_serving, services};
pub use settings::NetConfig;
pub use transport::clients::ConnectionMetrics;
pub use transport::net::{Listener, NetError, NetHandle, serve};
