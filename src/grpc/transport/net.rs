//! The NET threads: one task accepts connections and distributes them to pinned, single-threaded runtimes.
//!
//! hyper serves HTTP/2 here, without tonic's `Server`, for two reasons. tonic's `Server` drops the handler of a call at
//! the call's deadline, but here the engine handles the deadline. And here each connection belongs to one runtime.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use tally_topology::{AffinityError, Role, RoleHandle};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    budget::Budget,
    clients::Clients,
    connection::{Accepted, Connections, refuse},
    governor::UnsentRefusals,
};
use crate::{
    engine::{PanicGuard, TallyEngine},
    grpc::{services::Services, settings::NetConfig},
    security::Security,
    sys::memory,
    telemetry::LogLimit,
};

/// Maximum number of accepted connections that wait for one NET thread.
const HANDOFF_CONNECTIONS: usize = 64;
/// Pause after an error of `accept`, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Maximum number of connections beyond the limit of connections to which the service sends GOAWAY at the same time.
/// Further connections are closed without GOAWAY.
const REFUSALS_MAX: usize = 256;

/// Time between two checks of the memory that clients hold.
const HELD_INTERVAL: Duration = Duration::from_millis(500);
/// If clients have held at least this many bytes, and then hold only a quarter of them, the allocator returns memory to
/// the system.
const HELD_BYTES_LARGE: usize = 32 << 20;

/// The reason why the service cannot listen.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetError {
    /// Listening on the address failed.
    #[error(
        "can't listen on {address}: {source}; use a free port and an address of this machine (--listen, server.listen)"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// Starting a NET thread failed.
    #[error(transparent)]
    Affinity(#[from] AffinityError),
}

/// A listening socket whose connections nobody accepts yet.
#[derive(Debug)]
pub struct Listener {
    listener: StdListener,
    address: SocketAddr,
}

/// The running NET threads.
#[derive(Debug)]
pub struct NetHandle {
    address: SocketAddr,
    threads: Vec<RoleHandle<Result<(), AffinityError>>>,
}

// ===== impl Listener =====

impl Listener {
    /// Listens on `address`. With port 0 it takes a free port. Connections wait until [`serve`] accepts them.
    ///
    /// # Errors
    /// [`NetError::Listen`].
    pub fn bind(address: SocketAddr) -> Result<Self, NetError> {
        Self::open(address).map_err(|source| NetError::Listen { address, source })
    }

    /// Does the same as [`Listener::bind`], but returns the error of the system.
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Listener { listener, address })
    }

    /// Returns the address. If the configured port is 0, the address contains the port that the system chose.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn into_std(self) -> StdListener {
        self.listener
    }
}

// ===== impl NetHandle =====

impl NetHandle {
    /// Returns the address. If the configured port is 0, the address contains the port that the system chose.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until every connection has ended. Before you call this function, cancel the token that was passed to
    /// [`serve`]. The function blocks the calling thread.
    pub fn join(self) {
        for thread in self.threads {
            // If a NET thread has panicked, its connections are closed already, so the error needs no handling here.
            let _ = thread.join();
        }
    }
}

/// Serves `services` on one thread for each NET CPU until `draining` is cancelled. From then on, connections have the
/// time [`NetConfig::drain`] to finish their calls.
///
/// # Errors
/// [`NetError`] if a thread could not be started. In this case, the service accepts no connections.
pub fn serve(
    listener: Listener,
    config: NetConfig,
    services: &Services,
    security: &Arc<Security>,
    engine: &TallyEngine,
    draining: &CancellationToken,
) -> Result<NetHandle, NetError> {
    let Listener { listener, address } = listener;
    let affinity = engine.affinity();
    let count = affinity.net_threads().max(1);
    let mut inlets = Vec::with_capacity(count);
    let mut threads = Vec::with_capacity(count);
    let budget = Budget::new(config.memory_bytes_max());
    let unsent = UnsentRefusals::default();
    for index in 0..count {
        let (inlet, connections) = mpsc::channel(HANDOFF_CONNECTIONS);
        inlets.push(inlet);
        let wake_task = engine.wake_task(index);
        let serving = Connections {
            config,
            budget: budget.clone(),
            unsent: unsent.clone(),
            services: services.clone(),
            security: Arc::clone(security),
            engine: engine.clone(),
            draining: draining.clone(),
        };
        let name = format!("tally-net-{index}");
        let guards = [engine.panic_guard(), engine.panic_guard()];
        threads.push(affinity.spawn_async(Role::Net, index, &name, move || async move {
            let [guard, wake_task_guard] = guards;
            tokio::spawn(async move {
                let _guard = wake_task_guard;
                wake_task.await;
            });
            let _guard = guard;
            serve_connections(connections, serving).await;
        })?);
    }
    let (draining, guard) = (draining.clone(), engine.panic_guard());
    let clients = Clients::new(config.connections_per_client_max, config.connections_max(count));
    services.connections().show(&clients);
    threads.push(
        affinity.spawn_async(Role::Aux, 1, "tally-accept", move || async move {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    distribute(listener, inlets, clients, draining, &guard).await;
                }
                Err(error) => {
                    tracing::error!(%error, "cannot accept connections");
                    guard.fail();
                }
            }
        })?,
    );
    Ok(NetHandle { address, threads })
}

/// Accepts connections and gives them to the NET threads in turn.
async fn distribute(
    listener: TcpListener,
    inlets: Vec<mpsc::Sender<Accepted>>,
    clients: Clients,
    draining: CancellationToken,
    guard: &PanicGuard,
) {
    let mut turn = inlets.iter().cycle();
    let refusals = TaskTracker::new();
    let failures = LogLimit::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = draining.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Without a limit, a lack of file descriptors would cause 50 lines per second.
                if let Some(omitted) = failures.admit(Instant::now()) {
                    tracing::warn!(%error, omitted, "accepting a connection failed");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = clients.admit(peer.ip()) else {
            tracing::debug!(%peer, "refused a connection: too many connections");
            if refusals.len() < REFUSALS_MAX {
                refusals.spawn(refuse(stream));
            }
            continue;
        };
        match stream.into_std() {
            Ok(stream) => {
                // If the queue of the thread is full, this task waits, and further connections wait in the kernel.
                let Some(inlet) = turn.next() else { return };
                let accepted = Accepted { stream, peer, place };
                if inlet.send(accepted).await.is_err() {
                    // NET threads end after this task, so this NET thread has failed. If the service went on, every
                    // connection for this thread would be lost.
                    tracing::error!("a NET thread has failed, and the service stops");
                    guard.fail();
                }
            }
            Err(error) => {
                if let Some(omitted) = failures.admit(Instant::now()) {
                    tracing::warn!(%error, omitted, "passing a connection to its thread failed");
                }
            }
        }
    }
}

/// Returns freed memory to the system after clients have held much memory. Otherwise, the allocator would keep the
/// memory for later allocations, and after an attack the service may never need that much memory again.
async fn give_memory_back(budget: Budget) {
    let mut checks = interval(HELD_INTERVAL);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut highest = 0;
    loop {
        checks.tick().await;
        let held = budget.held();
        highest = highest.max(held);
        if highest >= HELD_BYTES_LARGE && held <= highest / 4 {
            memory::give_back();
            highest = held;
        }
    }
}

/// Serves the connections of one thread.
async fn serve_connections(mut connections: mpsc::Receiver<Accepted>, serving: Connections) {
    let tracker = TaskTracker::new();
    tokio::spawn(give_memory_back(serving.budget.clone()));
    // The channel closes when the task that accepts connections ends, at the beginning of draining.
    while let Some(accepted) = connections.recv().await {
        tracker.spawn(serving.clone().serve(accepted));
    }
    tracker.close();
    if timeout(serving.config.drain, tracker.wait()).await.is_err() {
        let connections = tracker.len();
        tracing::warn!(connections, "some connections did not finish within server.drain");
    }
}
