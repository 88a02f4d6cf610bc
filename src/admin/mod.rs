//! The operators' port: metrics, liveness, readiness, the log's filter, and pages. It speaks plain HTTP/1.1. A separate thread
//! serves it, so that it answers even when all other threads are busy.
//!
//! Reading figures of the service needs no token. Reading the ledger needs a token of any role, and a request that changes something
//! needs a token of role `admin`. If the service has no tokens, such requests must come from this machine.

mod access;
mod ledger;
mod parameters;
mod places;
mod readiness;
mod routes;
mod server;
pub mod settings;
mod stats;
mod write_limit;

use std::{io, net::SocketAddr};

use thiserror::Error;
use tokio_util::sync::CancellationToken;

pub use self::{places::AdminConnections, readiness::Readiness, routes::Admin};
use crate::grpc::Listener;
use tally_topology::{AffinityError, Role, RoleHandle};

/// Why the port could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AdminError {
    /// Listening on the address failed.
    #[error(
        "can't listen on {address} for the operators' port: {source}; use a free port and an address of this machine (--admin, \
         admin.listen)"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The thread could not be started or placed.
    #[error(transparent)]
    Affinity(#[from] AffinityError),
}

/// The running operators' port.
#[derive(Debug)]
pub struct AdminHandle {
    thread: RoleHandle<Result<(), AffinityError>>,
    stop: CancellationToken,
}

/// Listens on `address`. Port 0 takes a free port. Requests wait until [`serve`] takes them.
///
/// # Errors
/// [`AdminError::Listen`].
pub fn bind(address: SocketAddr) -> Result<Listener, AdminError> {
    Listener::open(address).map_err(|source| AdminError::Listen { address, source })
}

/// Serves `admin` until [`AdminHandle::stop`].
///
/// # Errors
/// [`AdminError::Affinity`].
pub fn serve(listener: Listener, admin: Admin) -> Result<AdminHandle, AdminError> {
    let stop = CancellationToken::new();
    let affinity = admin.engine.affinity().clone();
    let stopped = stop.clone();
    // A panic of this thread ends the process. Without the thread, operators could not observe the process any more.
    let guard = admin.engine.panic_guard();
    let thread = affinity.spawn_async(Role::Aux, 3, "tally-admin", move || async move {
        let _guard = guard;
        let connections = admin.own_connections.clone();
        server::run(listener.into_std(), routes::router(admin), connections, stopped).await;
    })?;
    Ok(AdminHandle { thread, stop })
}

// ===== impl AdminHandle =====

impl AdminHandle {
    /// Stops accepting connections, and waits for the thread to end. Blocks the calling thread.
    pub fn stop(self) {
        self.stop.cancel();
        // A thread that panicked has ended, too, and there is nothing left to stop.
        let _ended = self.thread.join();
    }
}
