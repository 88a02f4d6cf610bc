//! The port for operators, plain HTTP/1.1 on a thread of its own, so that it answers when nothing else does: metrics,
//! liveness, readiness, the log level, and a page to look at.
//!
//! Everything can be read by whoever reaches the port. What changes something needs a token of role `admin`; without
//! tokens it must come from this machine.

mod places;
mod routes;
mod server;
pub mod settings;
mod write_limit;

use std::{io, net::SocketAddr};

use thiserror::Error;
use tokio_util::sync::CancellationToken;

pub use self::routes::{Admin, Readiness};
use crate::{
    grpc::Listener,
    topology::{AffinityError, Role, RoleHandle},
};

/// Why the port could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The address can't be listened on.
    #[error("can't listen on {address} for operators (admin.listen)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The thread could not be started.
    #[error(transparent)]
    Affinity(#[from] AffinityError),
}

/// The running port.
#[derive(Debug)]
pub struct AdminHandle {
    thread: RoleHandle<Result<(), AffinityError>>,
    stop: CancellationToken,
}

/// Listens on `address`; port 0 takes a free one. Nothing is served yet.
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
    // Without this thread nobody sees how the process is.
    let guard = admin.engine.panic_guard();
    let thread = affinity.spawn_async(Role::Aux, 3, "tally-admin", move || async move {
        let _guard = guard;
        server::run(listener.into_std(), routes::router(admin), stopped).await;
    })?;
    Ok(AdminHandle { thread, stop })
}

// ===== impl AdminHandle =====

impl AdminHandle {
    /// Takes no more connections, and waits for the thread. Call it from a thread that may block.
    pub fn stop(self) {
        self.stop.cancel();
        // A thread that panicked has nothing left to stop.
        let _ = self.thread.join();
    }
}
