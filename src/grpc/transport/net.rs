//! NET: connections, dealt out to pinned single-threaded runtimes.
//!
//! The HTTP/2 server is hyper's, driven here rather than by tonic's own `Server`, because deadlines are the engine's
//! business (tonic's would drop the handler), and because each connection belongs to one runtime.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

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
    topology::{AffinityError, Role, RoleHandle},
};

/// Connections that wait to be taken by their runtime.
const HANDOFF_CONNECTIONS: usize = 64;
/// After an error of `accept` (too many open files, for one): how long until it is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Connections that are being told that there are too many; more than that are closed without a word.
const REFUSALS_MAX: usize = 256;

/// How often it is looked whether much less memory is held than before.
const HELD_INTERVAL: Duration = Duration::from_millis(500);
/// Held memory that is worth asking the allocator to give back, once most of it is held no more.
const HELD_BYTES_LARGE: usize = 32 << 20;

/// A connection on its way to its thread.
type AcceptedStream = (std::net::TcpStream, SocketAddr, ClientPlace);

/// Why serving could not begin.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetError {
    /// The address can't be listened on.
    #[error("can't listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A NET thread could not be started.
    #[error(transparent)]
    Affinity(#[from] AffinityError),
}

/// An address that is listened on, before anything is served there.
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
    /// Listens on `address`; port 0 takes a free one. Connections wait until [`serve`] takes them.
    ///
    /// # Errors
    /// [`NetError::Listen`].
    pub fn bind(address: SocketAddr) -> Result<Self, NetError> {
        Self::open(address).map_err(|source| NetError::Listen { address, source })
    }

    /// The same, for those who tell the failure in their own words.
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Listener { listener, address })
    }

    /// Where it listens: the port is the real one, also where 0 was asked for.
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
    /// Where the service listens: the port is the real one, also where 0 was asked for.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until every connection is finished. Call it from a thread that may block, after the token was cancelled.
    pub fn join(self) {
        for thread in self.threads {
            // A NET thread that panicked took its connections with it; there is nothing left to wait for.
            let _ = thread.join();
        }
    }
}

/// Serves `services` on one thread for each NET CPU until `draining`; then connections get
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
        let courier = engine.courier(index);
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
            let [guard, of_courier] = guards;
            tokio::spawn(async move {
                let _guard = of_courier;
                courier.await;
            });
            let _guard = guard;
            serve_connections(connections, serving).await;
        })?);
    }
    let (draining, guard) = (draining.clone(), engine.panic_guard());
    threads.push(
        affinity.spawn_async(Role::Aux, 1, "tally-accept", move || async move {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    let all_max = config.connections_max(count);
                    let clients = Clients::new(config.connections_per_client_max, all_max);
                    distribute(listener, inlets, clients, draining, &guard).await;
                }
                Err(error) => {
                    tracing::error!(%error, "can't accept connections");
                    guard.fail();
                }
            }
        })?,
    );
    Ok(NetHandle { address, threads })
}

/// Accepts connections and deals them out in turn.
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
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = clients.admit(peer.ip()) else {
            tracing::debug!(%peer, "too many connections");
            if refusals.len() < REFUSALS_MAX {
                refusals.spawn(refuse(stream));
            }
            continue;
        };
        match stream.into_std() {
            Ok(stream) => {
                // A thread that is behind holds new connections back, as the listener's own queue does.
                let Some(inlet) = turn.next() else { return };
                if inlet.send((stream, peer, place)).await.is_err() {
                    // NET threads end after this one, so that one has died. Every so many connections would be dropped.
                    tracing::error!("a NET thread has ended; the service can't go on");
                    guard.fail();
                }
            }
            Err(error) => tracing::warn!(%error, "a connection could not be handed over"),
        }
    }
}

/// Gives the system what the allocator keeps of a thread, after clients held much and hold it no more. By itself, it keeps it
/// for the next time, which after an attack may never come.
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
    // The channel closes when the acceptor ends, which it does when draining begins.
    while let Some((stream, peer, place)) = connections.recv().await {
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken over");
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
        tracing::warn!(connections = tracker.len(), "connections did not finish in time");
    }
}
