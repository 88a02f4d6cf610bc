//! Getting a connection: the address, TLS, the token.

use std::{fmt, path::PathBuf, time::Duration};

use thiserror::Error;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// How a service is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientConfig {
    /// `http://HOST:PORT`, `https://HOST:PORT`, or `HOST:PORT` (then `http`).
    pub endpoint: String,
    /// The authority that signed the service's certificate, in PEM. Needed with `https`.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key, in PEM, if the service wants one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in the service's certificate, if it is not the endpoint's host.
    pub server_name: Option<String>,
    /// The bearer token, if the service asks for one.
    pub token: Option<Token>,
}

/// A bearer token. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(MetadataValue<Ascii>);

/// A channel that sends the token with every call.
pub type Connection = InterceptedService<Channel, Bearer>;

/// Adds the token to calls.
#[derive(Debug, Clone)]
pub struct Bearer(Option<Token>);

/// Why there is no connection.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The endpoint is not an address.
    #[error("{endpoint:?} is not an endpoint like http://127.0.0.1:50051")]
    Endpoint {
        /// As given.
        endpoint: String,
    },
    /// A file of TLS can't be read.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// TLS can't be set up as asked for.
    #[error("TLS to {endpoint}")]
    Tls {
        /// As given.
        endpoint: String,
        /// What is wrong.
        source: tonic::transport::Error,
    },
    /// Nobody answers.
    #[error("no service answers at {endpoint}")]
    Unreachable {
        /// As given.
        endpoint: String,
        /// Why not.
        source: tonic::transport::Error,
    },
}

/// While calls are under way, the connection is tried so often ...
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// ... and is lost if it does not answer for so long.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Flow-control window of a call: a large answer without a round trip in its middle.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Flow-control window of the connection.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

// ===== impl Token =====

impl Token {
    /// A token as it is told to a client. `None` if it can't stand in a header.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let mut value: MetadataValue<Ascii> = format!("Bearer {}", text.trim()).parse().ok()?;
        value.set_sensitive(true);
        Some(Token(value))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

// ===== impl Bearer =====

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(Token(value)) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

// ===== impl ClientConfig =====

impl ClientConfig {
    /// For a service without TLS and tokens.
    #[must_use]
    pub fn plain(endpoint: &str) -> Self {
        ClientConfig {
            endpoint: endpoint.to_owned(),
            ..ClientConfig::default()
        }
    }

    /// Connects, within `timeout`; one attempt.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(&self, timeout: Duration) -> Result<Connection, ConnectError> {
        let endpoint = &self.endpoint;
        let unreachable = |source| ConnectError::Unreachable {
            endpoint: endpoint.clone(),
            source,
        };
        let channel = self.address()?.connect_timeout(timeout).connect().await;
        Ok(InterceptedService::new(
            channel.map_err(unreachable)?,
            Bearer(self.token.clone()),
        ))
    }

    fn address(&self) -> Result<Endpoint, ConnectError> {
        let endpoint = &self.endpoint;
        let uri = if endpoint.contains("://") {
            endpoint.clone()
        } else {
            format!("http://{endpoint}")
        };
        let wrong = || ConnectError::Endpoint {
            endpoint: endpoint.clone(),
        };
        let address = Endpoint::from_shared(uri).map_err(|_| wrong())?;
        let scheme = address.uri().scheme_str();
        // Without a scheme, the port tells an address from a slip of the keyboard.
        let is_vague = !endpoint.contains("://") && address.uri().port().is_none();
        if is_vague || address.uri().host().is_none() || !matches!(scheme, Some("http" | "https")) {
            return Err(wrong());
        }
        let secure = scheme == Some("https");
        let address = address
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        if !secure {
            return Ok(address);
        }
        address
            .tls_config(self.tls()?)
            .map_err(|source| ConnectError::Tls {
                endpoint: endpoint.clone(),
                source,
            })
    }

    fn tls(&self) -> Result<ClientTlsConfig, ConnectError> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|source| ConnectError::File {
                path: path.clone(),
                source,
            })
        };
        let mut tls = ClientTlsConfig::new();
        if let Some(ca) = &self.ca {
            tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
        }
        if let Some((certificate, key)) = &self.identity {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        if let Some(name) = &self.server_name {
            tls = tls.domain_name(name);
        }
        Ok(tls)
    }
}
