//! Connects to a service: address, TLS, token.

use std::{fmt, path::PathBuf, time::Duration};

use thiserror::Error;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// How to connect to a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientConfig {
    /// `http://HOST:PORT`, `https://HOST:PORT`, or `HOST:PORT`, which means `http`.
    pub endpoint: String,
    /// File with the certificate of the authority that signed the certificate of the service, in PEM. Required for `https`.
    pub ca: Option<PathBuf>,
    /// Files with the certificate of the client and its private key, in PEM, if the service requires them.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in the certificate of the service, if it differs from the host of the endpoint.
    pub server_name: Option<String>,
    /// The bearer token, if the service requires one.
    pub token: Option<Token>,
}

/// A bearer token. Its debug output hides the value.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(MetadataValue<Ascii>);

/// A channel that sends the token with every call.
pub type Connection = InterceptedService<Channel, Bearer>;

/// Adds the token to calls.
#[derive(Debug, Clone)]
pub struct Bearer(Option<Token>);

/// Why a connection failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The endpoint is not an address.
    #[error("invalid endpoint {endpoint:?}; expected for example http://127.0.0.1:50051")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
    },
    /// A certificate or key file can't be read.
    #[error("can't read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A certificate or key is not valid.
    #[error("invalid TLS settings for {endpoint}")]
    Tls {
        /// The endpoint.
        endpoint: String,
        /// The error.
        source: tonic::transport::Error,
    },
    /// No service answers at the endpoint.
    #[error("no service answers at {endpoint}")]
    Unreachable {
        /// The endpoint.
        endpoint: String,
        /// The cause.
        source: tonic::transport::Error,
    },
}

/// Interval of HTTP/2 pings while calls are in flight.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// A connection is lost if it does not answer a ping for this time.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Flow-control window of a call, so that a large answer needs no extra round trip.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Flow-control window of the connection.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

// ===== impl Token =====

impl Token {
    /// Creates a token. `None` if the text is not allowed in a header.
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
    /// Returns the configuration for a service without TLS and tokens.
    #[must_use]
    pub fn plain(endpoint: &str) -> Self {
        ClientConfig {
            endpoint: endpoint.to_owned(),
            ..ClientConfig::default()
        }
    }

    /// Connects in one attempt, within `timeout`.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(&self, timeout: Duration) -> Result<Connection, ConnectError> {
        let endpoint = &self.endpoint;
        let unreachable = |source| ConnectError::Unreachable {
            endpoint: endpoint.clone(),
            source,
        };
        let channel = self.endpoint()?.connect_timeout(timeout).connect().await;
        Ok(InterceptedService::new(
            channel.map_err(unreachable)?,
            Bearer(self.token.clone()),
        ))
    }

    fn endpoint(&self) -> Result<Endpoint, ConnectError> {
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
        // Without a scheme, an address must have a port. Otherwise any word would be accepted as an address.
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
