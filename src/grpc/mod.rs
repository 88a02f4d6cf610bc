//! The gRPC service: reads requests, checks them, calls the engine and writes answers.
//!
//! - `transactions`, `accounts` and `introspection`: each holds one service of `proto/tally/v1`;
//! - `transport`: serves connections, and bounds the memory, time and number of calls of each client;
//! - `read_call`: what the read functions need to know about their caller, which is the gRPC port or the operators' port;
//! - `services`: finds the method of a call and passes the call to the code that answers it;
//! - `status`: makes every error that a client can get.
//!
//! [`serve`] starts a single-threaded runtime for each NET CPU (a CPU that serves connections), pinned to this CPU. One
//! task accepts all connections and gives each connection to the next runtime in turn. So a few clients with much work
//! do not all get the same thread.

mod access;
mod accounts;
mod check;
mod error_counts;
pub mod error_kind;
mod fields;
mod forwarding;
#[doc(hidden)]
pub mod fuzzing;
mod history;
mod introspection;
mod limits;
mod methods;
mod paging;
mod protobuf;
mod read_call;
mod rejection;
mod services;
pub mod settings;
pub mod status;
mod transactions;
mod transport;

pub use accounts::decode::is_never_updated;
pub use check::{InvalidField, check_account, check_transaction, check_update};
pub use error_counts::ErrorMetrics;
pub use forwarding::{ForwardingConfig, ForwardingError, ForwardingMetrics};
pub use history::{Described, Describer};
pub use introspection::{
    batch_stats::batch_stats_response, circuit::circuit_stats_response, replica::replica_state_response,
    topology::topology_response, values::COMMENT_BYTES_MAX,
};
pub use limits::MESSAGE_BYTES_MAX;
pub use rejection::Rejected;
pub use services::{Services, not_serving, services};
pub use settings::NetConfig;
pub use transport::clients::ConnectionMetrics;
pub use transport::net::{Listener, NetError, NetHandle, serve};

pub(crate) use accounts::{holds::holds_page, service::read_account};
pub(crate) use history::{entries_page, transactions_page};
pub(crate) use read_call::ReadCall;
pub(crate) use transactions::service::read_transaction;
