//! Connections, HTTP/2 and gRPC's frames, and the bounds on what a client may use of the service.

mod bucket;
pub(crate) mod budget;
pub(crate) mod clients;
mod connection;
mod deadline;
pub(crate) mod frame;
pub(crate) mod framing;
mod governor;
pub(crate) mod lifetime;
pub(crate) mod net;
pub(crate) mod outbound;
pub(crate) mod patience;
pub(crate) mod reception;
mod windows;
