//! Serves connections, HTTP/2 and gRPC's frames, and bounds the memory, time and number of calls of each client.

pub(crate) mod budget;
pub(crate) mod clients;
mod connection;
pub(crate) mod connection_limits;
pub(crate) mod deadline;
pub(crate) mod frame;
pub(crate) mod framing;
mod governor;
pub(crate) mod http2;
pub(crate) mod lifetime;
pub(crate) mod net;
pub(crate) mod outbound;
pub(crate) mod receive_timeout;
pub(crate) mod request_body;
mod token_bucket;
mod windows;
