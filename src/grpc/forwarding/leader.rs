//! The connections to the leader.
//!
//! Each connection belongs to one of [`CONNECTIONS_MAX`] groups of clients. A client that fills the flow-control window of its
//! connection, because it does not read its answers, can delay only the clients of its group. A connection stays open until the
//! leader closes it, does not answer a ping, or another replica leads.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Uri;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{ClientConfig, pki_types::ServerName};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Mutex,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::body::OutgoingBody;
use crate::{
    certificates::{CertificateFileError, authorities, certificates, client_tls, pair, private_key},
    security::client_of,
    settings::read_bounded,
    store::replicated::Replica,
};

/// Sends calls to the leader.
pub(super) type Sender = SendRequest<OutgoingBody>;

/// Number of connections, and of groups of clients.
const CONNECTIONS_MAX: usize = 64;
/// Longest time to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// After a failed attempt to connect, further calls fail at once for this time. Otherwise each of many waiting calls would make an
/// attempt, one after the other.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);
/// The flow-control window of an answer, in bytes. `FORWARDED_BYTES` includes it.
const STREAM_WINDOW_BYTES: u32 = 16 << 10;
/// The flow-control window of a connection, in bytes: enough for the windows of all answers that the leader allows on a connection by
/// default. So answers that nobody reads do not block other answers.
const CONNECTION_WINDOW_BYTES: u32 = 4096 * STREAM_WINDOW_BYTES;
/// Largest header block of an answer, in bytes. The details of an error are in a header.
const HEADER_BYTES_MAX: u32 = 64 << 10;
/// Time between two pings. A leader whose process hangs is found after this time and [`PING_TIMEOUT`].
const PING_INTERVAL: Duration = Duration::from_millis(500);
/// A connection is closed if the leader does not answer a ping for this time.
const PING_TIMEOUT: Duration = Duration::from_millis(1500);
/// The time that calls in flight have when another replica leads. After it, their outcome is unknown.
const SUPERSEDED_GRACE: Duration = Duration::from_secs(1);

/// How a replica calls the other replicas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForwardingConfig {
    /// The file with the certificate authorities of the other replicas, in PEM. Needed if their addresses begin with `https`.
    pub ca: Option<PathBuf>,
    /// The files of the certificate and the key that this replica presents, in PEM, if the other replicas ask clients for certificates.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A file for the connections to the other replicas can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ForwardingError {
    /// The file can't be read.
    #[error("can't read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file has the wrong content.
    #[error(transparent)]
    Certificates(#[from] CertificateFileError),
    /// The certificate of this replica can't be presented to the others.
    #[error("the certificate in {} can't be presented to the other replicas: {source}", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: rustls::Error,
    },
}

/// Why there is no connection to the leader.
#[derive(Debug, Error)]
pub(super) enum ConnectError {
    /// An earlier attempt failed a moment ago.
    #[error("an attempt to connect failed less than 100 ms ago")]
    Paused,
    /// The address is not `http://HOST:PORT` or `https://HOST:PORT`.
    #[error("the address of the leader is not a URL with a port")]
    Address,
    /// No connection in time.
    #[error("no connection within 1 s")]
    Timeout,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The leader does not speak HTTP/2.
    #[error("HTTP/2 failed: {0}")]
    Http(#[from] hyper::Error),
    /// A file for TLS can't be used any more.
    #[error(transparent)]
    Files(#[from] ForwardingError),
}

/// All connections to the leader.
#[derive(Debug)]
pub(super) struct Connections {
    groups: Vec<Mutex<Group>>,
    replica: Replica,
    config: ForwardingConfig,
    /// Whether the last forwarded call failed.
    failing: Arc<AtomicBool>,
}

/// The connection of a group of clients.
#[derive(Debug, Default)]
struct Group {
    open: Option<Open>,
    /// The address and the time of the last failed attempt.
    failed: Option<(String, Instant)>,
}

/// Runs the tasks of a connection until they end, or until the token is cancelled. The HTTP/2 library itself waits for the calls in
/// flight when a connection is dropped, and a leader that hangs would keep them for ever.
#[derive(Debug, Clone, Default)]
struct Tasks(CancellationToken);

/// An open connection.
#[derive(Debug)]
struct Open {
    leader: String,
    sender: Sender,
}

// ===== impl Connections =====

impl Connections {
    /// Makes the connections of `replica`. They are opened when they are needed.
    ///
    /// # Errors
    /// [`ForwardingError`] if a file of `config` can't be used.
    pub(super) fn new(replica: &Replica, config: ForwardingConfig) -> Result<Self, ForwardingError> {
        // Each new connection reads the files again, because certificates are renewed. This check finds mistakes at the start.
        tls(&config)?;
        let mut groups = Vec::new();
        groups.resize_with(CONNECTIONS_MAX, Mutex::default);
        Ok(Connections {
            groups,
            replica: replica.clone(),
            config,
            failing: Arc::default(),
        })
    }

    /// Returns the connection to `leader` for the calls of `client`. Opens the connection if it is not open.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub(super) async fn sender(&self, client: IpAddr, leader: &str) -> Result<Sender, ConnectError> {
        let mut hasher = DefaultHasher::new();
        client_of(client).hash(&mut hasher);
        let index = hasher.finish() % CONNECTIONS_MAX as u64;
        let group = usize::try_from(index)
            .ok()
            .and_then(|index| self.groups.get(index));
        let mut group = group.ok_or(ConnectError::Address)?.lock().await;
        if let Some(open) = &group.open
            && open.leader == leader
            && !open.sender.is_closed()
        {
            return Ok(open.sender.clone());
        }
        group.open = None;
        if let Some((failed, at)) = &group.failed
            && failed == leader
            && at.elapsed() < CONNECT_PAUSE
        {
            return Err(ConnectError::Paused);
        }
        let opened = timeout(CONNECT_TIMEOUT, self.connect(leader)).await;
        match opened.map_err(|_| ConnectError::Timeout).flatten() {
            Ok(sender) => {
                group.failed = None;
                group.open = Some(Open {
                    leader: leader.to_owned(),
                    sender: sender.clone(),
                });
                Ok(sender)
            }
            Err(error) => {
                group.failed = Some((leader.to_owned(), Instant::now()));
                Err(error)
            }
        }
    }

    /// Notes that a call could not be forwarded, and reports it to the driver of the replica.
    pub(super) fn failed(&self, leader: &str) {
        self.failing.store(true, Ordering::Relaxed);
        self.replica.forward_failed(leader);
    }

    /// Notes that a call was forwarded.
    pub(super) fn succeeded(&self, leader: &str) {
        if self.failing.load(Ordering::Relaxed) && self.failing.swap(false, Ordering::Relaxed) {
            self.replica.forward_succeeded(leader);
        }
    }

    async fn connect(&self, leader: &str) -> Result<Sender, ConnectError> {
        let uri: Uri = leader.parse().map_err(|_| ConnectError::Address)?;
        let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else {
            return Err(ConnectError::Address);
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        if uri.scheme_str() != Some("https") {
            return self.handshake(stream, leader).await;
        }
        let config = self.config.clone();
        // The files may be on a slow disk, and this thread serves other connections.
        let tls = tokio::task::spawn_blocking(move || tls(&config)).await;
        let tls = tls.map_err(io::Error::other)??;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| ConnectError::Address)?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
        self.handshake(stream, leader).await
    }

    async fn handshake<S>(&self, stream: S, leader: &str) -> Result<Sender, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let tasks = Tasks::default();
        let (sender, connection) = http2::Builder::new(tasks.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEADER_BYTES_MAX)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await?;
        let (replica, leader) = (self.replica.clone(), leader.to_owned());
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => {
                    if let Err(error) = ended {
                        tracing::debug!(leader, %error, "the connection to the leader failed");
                    }
                    if replica.read(|view| view.leader.as_deref() == Some(&*leader)) {
                        replica.leader_closed(&leader);
                    }
                }
                () = superseded(&replica, &leader) => {
                    tasks.0.cancel();
                    tracing::debug!(leader, "another replica leads; closed the connection to the old leader");
                }
            }
        });
        Ok(sender)
    }
}

// ===== impl Tasks =====

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let cancelled = self.0.clone().cancelled_owned();
        tokio::spawn(async move {
            tokio::select! {
                _ended = task => {}
                () = cancelled => {}
            }
        });
    }
}

/// Waits until another replica than `leader` leads, and then for [`SUPERSEDED_GRACE`]. If `leader` leads again after this time, waits for the
/// next change.
async fn superseded(replica: &Replica, leader: &str) {
    let mut changes = replica.changes();
    let is_other = |known: Option<&str>| known.is_some_and(|known| known != leader);
    loop {
        let waited = changes
            .wait_for(|view| is_other(view.leader.as_deref()))
            .await
            .is_ok();
        if !waited {
            // The driver has ended, so the view does not change any more.
            std::future::pending::<()>().await;
        }
        sleep(SUPERSEDED_GRACE).await;
        if changes.borrow_and_update().leader.as_deref() != Some(leader) {
            return;
        }
    }
}

/// Reads the files for TLS.
fn tls(config: &ForwardingConfig) -> Result<ClientConfig, ForwardingError> {
    let read = |path: &PathBuf| {
        read_bounded(path).map_err(|source| ForwardingError::File {
            path: path.clone(),
            source,
        })
    };
    let roots = match &config.ca {
        Some(path) => authorities(certificates(&read(path)?, path)?, path)?,
        None => rustls::RootCertStore::empty(),
    };
    let identity = match &config.identity {
        None => None,
        Some((certificate, key)) => {
            let chain = certificates(&read(certificate)?, certificate)?;
            let private = private_key(&read(key)?, key)?;
            pair(chain.clone(), private.clone_key(), certificate, key)?;
            Some((chain, private))
        }
    };
    let mut tls = client_tls(roots, identity).map_err(|source| ForwardingError::Identity {
        path: config
            .identity
            .as_ref()
            .map_or_else(PathBuf::new, |(certificate, _)| certificate.clone()),
        source,
    })?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::replicated::ReplicaView;

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_leads_again_in_time_is_not_superseded() {
        const ALMOST: Duration = Duration::from_millis(900);
        let (replica, driver) = Replica::new(ReplicaView {
            leader: Some("a".to_owned()),
            ..ReplicaView::default()
        });
        let lead = |leader: Option<&str>| {
            driver
                .view
                .send_modify(|view| view.leader = leader.map(str::to_owned));
        };
        let mut waiting = Box::pin(superseded(&replica, "a"));
        for leader in [None, Some("b"), Some("a")] {
            lead(leader);
            assert!(timeout(ALMOST, &mut waiting).await.is_err(), "{leader:?}");
        }
        assert!(timeout(SUPERSEDED_GRACE * 2, &mut waiting).await.is_err());
        lead(Some("b"));
        assert!(timeout(ALMOST, &mut waiting).await.is_err());
        assert!(timeout(SUPERSEDED_GRACE, &mut waiting).await.is_ok());
    }
}
