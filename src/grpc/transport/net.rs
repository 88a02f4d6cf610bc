//! The NET threads: one task accepts connections and distributes them to pinned, single-threaded runtimes.
//!
//! The HTTP/2 server is hyper's. tonic's own `Server` is not used for two reasons: it would drop the handler of a call
//! at the call's deadline, which the engine handles here; and each connection belongs to one runtime here.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tally_topology::{AffinityError, Role, RoleHandle};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    budget::Budget,
    clients::{ClientPlace, Clients},
    connection::{Accepted, Connections, refuse},
    governor::UnsentRefusals,
};
use crate::{
    engine::{PanicGuard, TallyEngine},
    grpc::{services::Services, settings::NetConfig},
    security::Security,
    sys::memory,
};

/// Most connections that wait for their runtime.
const HANDOFF_CONNECTIONS: usize = 64;
/// Pause after an error of `accept`, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Most connections at a time that get a GOAWAY frame because they are beyond the limit. Further ones are closed
/// without it.
const REFUSALS_MAX: usize = 256;

/// Time between two checks of the memory that clients hold.
const HELD_INTERVAL: Duration = Duration::from_millis(500);
/// From this much on, the allocator returns memory to the system once clients hold only a quarter of it.
const HELD_BYTES_LARGE: usize = 32 << 20;

/// An accepted connection, with its peer and its place, for a NET thread.
type AcceptedStream = (std::net::TcpStream, SocketAddr, ClientPlace);

/// Why the service cannot listen.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetError {
    /// Listening on the address failed.
    #[error("cannot listen on {address}")]
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

/// A listening socket, before it is served.
#[derive(Debug)]
pub struct Listener {
    listener: std::net::TcpListener,
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
    /// Listens on `address`. Port 0 takes a free port. Connections wait until [`serve`] takes them.
    ///
    /// # Errors
    /// [`NetError::Listen`].
    pub fn bind(address: SocketAddr) -> Result<Self, NetError> {
        Self::open(address).map_err(|source| NetError::Listen { address, source })
    }

    /// The same as [`Listener::bind`], but returns the error of the system.
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Listener { listener, address })
    }

    /// The address with the real port, also if the configured port is 0.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn into_std(self) -> std::net::TcpListener {
        self.listener
    }
}

// ===== impl NetHandle =====

impl NetHandle {
    /// The address with the real port, also if the configured port is 0.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until every connection has ended. Call it after the token was cancelled, from a thread that may block.
    pub fn join(self) {
        for thread in self.threads {
            // If a NET thread panicked, its connections are closed, and there is nothing to wait for.
            let _ = thread.join();
        }
    }
}

/// Serves `services` on one thread for each NET CPU until `draining` is cancelled. Then connections have
/// [`NetConfig::drain`] to finish their calls.
///
/// # Errors
/// [`NetError`]. Nothing is served then.
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
    inlets: Vec<mpsc::Sender<AcceptedStream>>,
    clients: Clients,
    draining: CancellationToken,
    guard: &PanicGuard,
) {
    let mut turn = inlets.iter().cycle();
    let refusals = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = draining.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = clients.admit(peer.ip()) else {
            tracing::debug!(%peer, "the connection is refused: too many connections");
            if refusals.len() < REFUSALS_MAX {
                refusals.spawn(refuse(stream));
            }
            continue;
        };
        match stream.into_std() {
            Ok(stream) => {
                // If the queue of the thread is full, this waits, and further connections wait in the listener's queue.
                let Some(inlet) = turn.next() else { return };
                if inlet.send((stream, peer, place)).await.is_err() {
                    // NET threads end after this task, so this one has failed. It would lose its share of all
                    // connections.
                    tracing::error!("a NET thread has failed, the service stops");
                    guard.fail();
                }
            }
            Err(error) => tracing::warn!(%error, "passing a connection to its thread failed"),
        }
    }
}

/// Returns freed memory to the system after clients held much of it. Otherwise the allocator keeps the memory for the
/// next time, which may never come after an attack.
async fn give_memory_back(budget: Budget) {
    let mut looks = interval(HELD_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut highest = 0;
    loop {
        looks.tick().await;
        let held = budget.held();
        highest = highest.max(held);
        if highest >= HELD_BYTES_LARGE && held <= highest / 4 {
            memory::give_back();
            highest = held;
        }
    }
}

/// Serves the connections of one thread.
async fn serve_connections(mut connections: mpsc::Receiver<AcceptedStream>, serving: Connections) {
    let tracker = TaskTracker::new();
    tokio::spawn(give_memory_back(serving.budget.clone()));
    // The channel closes when the acceptor ends, at the beginning of draining.
    while let Some((stream, peer, place)) = connections.recv().await {
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "registering a connection with its thread failed");
                continue;
            }
        };
        let accepted = Accepted { stream, peer, place };
        tracker.spawn(serving.clone().serve(accepted));
    }
    tracker.close();
    if tokio::time::timeout(serving.config.drain, tracker.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            connections = tracker.len(),
            "some connections did not finish within server.drain"
        );
    }
}
