//! The port for operators, plain HTTP/1.1 on a thread of its own, so that it answers when nothing else does: metrics,
//! liveness, readiness, the log level, and a page to look at.
//!
//! Everything can be read by whoever reaches the port. What changes something needs a token of role `admin`; without
//! tokens it must come from this machine.

mod routes;
mod server;

use std::{io, net::SocketAddr, sync::Arc};

use thiserror::Error;
use tokio_util::sync::CancellationToken;

pub use self::routes::Readiness;
use crate::{
    engine::TallyEngine,
    security::Security,
    telemetry::LogLevel,
    topology::{AffinityError, Role, RoleHandle},
};

/// What the port shows.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The engine.
    pub engine: TallyEngine,
    /// Whose tokens are valid.
    pub security: Arc<Security>,
    /// Whether the service takes calls.
    pub readiness: Readiness,
    /// The log's filter.
    pub log_level: LogLevel,
}

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

/// The address, before anything is served there.
#[derive(Debug)]
pub struct AdminListener {
    listener: std::net::TcpListener,
    address: SocketAddr,
}

/// The running port.
#[derive(Debug)]
pub struct AdminHandle {
    thread: RoleHandle<Result<(), AffinityError>>,
    stop: CancellationToken,
}

// ===== impl AdminListener =====

impl AdminListener {
    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`AdminError::Listen`].
    pub fn bind(address: SocketAddr) -> Result<Self, AdminError> {
        let failed = |source| AdminError::Listen { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(AdminListener { listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves `admin` until [`AdminHandle::stop`].
///
/// # Errors
/// [`AdminError::Affinity`].
pub fn serve(listener: AdminListener, admin: Admin) -> Result<AdminHandle, AdminError> {
    let stop = CancellationToken::new();
    let affinity = admin.engine.affinity().clone();
    let stopped = stop.clone();
    let thread = affinity.spawn_async(Role::Aux, 3, "tally-admin", move || async move {
        server::run(listener.listener, routes::router(admin), stopped).await;
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
