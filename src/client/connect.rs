//! Connects to a service, or to the replicas of a service: addresses, TLS, token.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use http::HeaderValue;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tonic::{
    Code, Status,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};
use tonic_types::StatusExt;

use super::{
    address::{address, is_secure},
    connection::{Connection, LOSS_TIMEOUT, PING_INTERVAL},
    fault::{Fault, failed_endpoint},
};
use crate::{
    certificates::{CertificateFileError, certificates, check_authorities, pair, private_key},
    settings::{read_bounded, without_user},
    terminal::file_advice,
};

/// How to connect to a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientConfig {
    /// The addresses of the service, 1 to [`ENDPOINTS_MAX`]: `http://HOST:PORT`, `https://HOST:PORT`, or `HOST:PORT`, which means
    /// `http`. Several addresses are those of the replicas of one ledger, either all with `https` or all without. The other values
    /// apply to all of them.
    pub endpoints: Vec<String>,
    /// File with the certificate of the authority that signed the certificate of the service, in PEM. Required for `https`.
    pub ca: Option<PathBuf>,
    /// Files with the certificate of the client and its private key, in PEM, if the service requires them.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in the certificate of the service, if it differs from the host of the endpoint.
    pub server_name: Option<String>,
    /// The bearer token, if the service requires one.
    pub token: Option<Token>,
    /// File with the bearer token. Every call of [`ClientConfig::connect`] reads the file again. Not used if `token` is set.
    pub token_file: Option<PathBuf>,
}

/// A bearer token. Its debug output hides the value.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(HeaderValue);

/// Maximum number of endpoints of a client.
pub const ENDPOINTS_MAX: usize = 16;

/// Why a connection failed. The text of an error is one line that says what failed and what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The endpoint is not an address.
    #[error("invalid endpoint {endpoint:?}: {problem}; write for example http://127.0.0.1:50051")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
        /// What is wrong with the endpoint.
        problem: &'static str,
    },
    /// There is no endpoint, or there are too many.
    #[error("{count} endpoints: must be 1 to {ENDPOINTS_MAX}; correct --endpoint")]
    EndpointCount {
        /// Number of endpoints.
        count: usize,
    },
    /// Some endpoints have TLS and some do not.
    #[error(
        "{secure} has TLS and {plain} has none, so the token and the transactions would not always be protected; write https:// in all \
         of --endpoint, or in none"
    )]
    MixedEndpoints {
        /// An endpoint with TLS.
        secure: String,
        /// An endpoint without TLS.
        plain: String,
    },
    /// A file with a certificate, a key or a token can't be read.
    #[error("can't read {}: {source}{}", path.display(), file_advice(path, source))]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file with certificates or with a key can't be used.
    #[error(transparent)]
    Certificates(#[from] CertificateFileError),
    /// The file has no valid token.
    #[error("{}: the file must contain one token, in printable ASCII without blanks", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
    },
    /// The name in `--server-name` can't be in a certificate.
    #[error(
        "--server-name {name:?} is neither a host name nor an IP address; write the name in the certificate of the service"
    )]
    ServerName {
        /// The name.
        name: String,
    },
    /// An option for TLS has no effect, because the endpoint has no TLS.
    #[error(
        "{endpoint} has no TLS, so {option} has no effect and the connection would not be protected; write https:// in --endpoint, or \
         remove {option} ({variable})"
    )]
    WithoutTls {
        /// The endpoint.
        endpoint: String,
        /// The option.
        option: &'static str,
        /// The environment variable of the option.
        variable: &'static str,
    },
    /// The host of the endpoint can't be in a certificate.
    #[error(
        "the host in {endpoint} is neither a host name nor an IP address, so no certificate can be for it; correct --endpoint, or \
         pass the name in the certificate of the service with --server-name"
    )]
    Host {
        /// The endpoint.
        endpoint: String,
    },
    /// There is no connection to a service at the endpoint.
    #[error("no connection to {endpoint}: {fault}; {}", fault.advice(is_secure(endpoint)))]
    Unreachable {
        /// The endpoint, or how many there are.
        endpoint: String,
        /// Why the connection failed.
        fault: Fault,
    },
}

/// Interval of HTTP/2 pings while calls are in flight.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// A connection is lost if it does not answer a ping for this time.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Flow-control window of a call, in bytes. It is large, so the server can send a large answer without waiting for the
/// client.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Flow-control window of the connection, in bytes. The windows of the calls bound what the client holds.
///
/// The HTTP/2 library h2 takes half of this value as its budget for short DATA frames, which tonic can't set otherwise: it counts 256
/// bytes less the length of a frame for each frame that the caller has not read, and ends the connection when the budget is used up. With
/// this window the budget suffices for a call whose window is full of the shortest answers of a stream, which have 7 bytes.
const CONNECTION_WINDOW_BYTES: u32 = 128 * STREAM_WINDOW_BYTES;

// ===== impl Token =====

impl Token {
    /// Creates a token. Returns `None` if the text is empty, or has characters that are not allowed in a header.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        if text.trim().is_empty() {
            return None;
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {}", text.trim())).ok()?;
        value.set_sensitive(true);
        Some(Token(value))
    }

    /// Returns the value of the header `authorization`.
    fn into_header(self) -> HeaderValue {
        self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

// ===== impl ConnectError =====

impl ConnectError {
    /// Returns whether another attempt may succeed without a change of the settings.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            ConnectError::Unreachable { fault, .. } => fault.is_temporary(),
            ConnectError::Endpoint { .. }
            | ConnectError::EndpointCount { .. }
            | ConnectError::MixedEndpoints { .. }
            | ConnectError::File { .. }
            | ConnectError::Certificates(_)
            | ConnectError::TokenFile { .. }
            | ConnectError::ServerName { .. }
            | ConnectError::WithoutTls { .. }
            | ConnectError::Host { .. } => false,
        }
    }
}

// ===== impl ClientConfig =====

impl ClientConfig {
    /// Returns the configuration for a service without TLS and tokens.
    #[must_use]
    pub fn plain(endpoint: &str) -> Self {
        ClientConfig {
            endpoints: vec![endpoint.to_owned()],
            ..ClientConfig::default()
        }
    }

    /// Returns the endpoints in one text.
    #[must_use]
    pub fn endpoints_text(&self) -> String {
        self.endpoints.join(",")
    }

    /// Connects in one attempt, within `timeout`. With several endpoints, asks all of them at the same time which of them leads, and
    /// uses the leader. If no leader answers, uses another endpoint that answers. If the connection is lost later, or the replica can't
    /// serve calls, the next call asks again.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(&self, timeout: Duration) -> Result<Connection, ConnectError> {
        let token = self.bearer()?.map(Token::into_header);
        let endpoints = self.channels(timeout)?;
        let count = endpoints.len();
        let mut endpoints = endpoints.into_iter();
        let (name, endpoint) = endpoints.next().ok_or(ConnectError::EndpointCount { count })?;
        let unreachable = |endpoint: String, fault: Fault| ConnectError::Unreachable { endpoint, fault };
        if count == 1 {
            let channel = endpoint.connect().await.map_err(|error| {
                let fault = Fault::of(&error).within(timeout);
                unreachable(name.clone(), fault)
            })?;
            return Ok(Connection::new((name, channel), [], token));
        }
        let others = endpoints.map(|(name, endpoint)| (name, endpoint.connect_lazy()));
        let connection = Connection::new((name, endpoint.connect_lazy()), others, token);
        match connection.find(timeout).await {
            Ok(()) => Ok(connection),
            Err(fault) => Err(unreachable(format!("any of the {count} endpoints"), fault)),
        }
    }

    /// Describes a failed call in one line: what failed, and what to do. The names of options are those of the command line.
    #[must_use]
    pub fn explain(&self, status: &Status) -> String {
        match std::error::Error::source(status) {
            Some(source) => self.explain_status(status, &Fault::of(source)),
            None => self.explain_answer(status),
        }
    }

    /// Describes a failed call like [`ClientConfig::explain`]. If the call had no answer in time, the text names `timeout`, which
    /// must be the timeout of the call.
    #[must_use]
    pub fn explain_within(&self, status: &Status, timeout: Duration) -> String {
        match std::error::Error::source(status) {
            Some(source) => self.explain_status(status, &Fault::of(source).within(timeout)),
            None => self.explain_answer(status),
        }
    }

    /// Describes a call that failed because of `fault`.
    #[must_use]
    pub fn explain_fault(&self, fault: &Fault) -> String {
        self.explain_fault_at(&self.endpoints_text(), fault)
    }

    fn explain_fault_at(&self, endpoint: &str, fault: &Fault) -> String {
        let secure = self.endpoints.iter().any(|endpoint| is_secure(endpoint));
        let advice = fault.advice(secure);
        format!("the call to {endpoint} failed: {fault}; {advice}")
    }

    /// Describes a call that failed because of `fault`, whose endpoint is known if there are several.
    fn explain_status(&self, status: &Status, fault: &Fault) -> String {
        match failed_endpoint(status) {
            Some(endpoint) => self.explain_fault_at(endpoint, fault),
            None => self.explain_fault(fault),
        }
    }

    /// Describes a call that the service answered with an error.
    fn explain_answer(&self, status: &Status) -> String {
        let endpoint = self.endpoints_text();
        let message = status.message();
        let has_token = self.token.is_some() || self.token_file.is_some();
        match (status.code(), status.get_details_error_info()) {
            (Code::Unauthenticated, Some(_)) if !has_token => {
                format!("{endpoint} requires a token; pass one with --token-file or --token")
            }
            (Code::Unauthenticated, Some(_)) => format!(
                "{endpoint} does not accept the token; check that the token is in the tokens file of the service"
            ),
            (Code::PermissionDenied, Some(info)) if info.metadata.contains_key("needed_role") => {
                format!("{message}; pass a token with a higher role")
            }
            (Code::PermissionDenied, Some(_)) => format!("{message}; pass a token without a prefix"),
            (_, Some(info)) => format!("{message} ({})", info.reason),
            (_, None) if message.is_empty() => {
                format!(
                    "{endpoint} answered without a message, so it is not a Tally service; check --endpoint"
                )
            }
            (_, None) => {
                format!("{endpoint} is not a Tally service; check --endpoint. The answer: {message}")
            }
        }
    }

    fn bearer(&self) -> Result<Option<Token>, ConnectError> {
        let (None, Some(path)) = (&self.token, &self.token_file) else {
            return Ok(self.token.clone());
        };
        let content = read(path)?;
        let invalid = || ConnectError::TokenFile { path: path.clone() };
        let text = String::from_utf8(content).map_err(|_| invalid())?;
        if text.trim().contains(char::is_whitespace) {
            return Err(invalid());
        }
        Token::new(&text).ok_or_else(invalid).map(Some)
    }

    /// Returns the endpoints with their names.
    fn channels(&self, timeout: Duration) -> Result<Vec<(String, Endpoint)>, ConnectError> {
        let count = self.endpoints.len();
        if !(1..=ENDPOINTS_MAX).contains(&count) {
            return Err(ConnectError::EndpointCount { count });
        }
        let (secure, plain): (Vec<_>, Vec<_>) = self.endpoints.iter().partition(|text| is_secure(text));
        if let (Some(secure), Some(plain)) = (secure.first(), plain.first()) {
            return Err(ConnectError::MixedEndpoints {
                secure: without_user(secure),
                plain: without_user(plain),
            });
        }
        let mut endpoints: Vec<(String, Endpoint)> = Vec::new();
        for name in &self.endpoints {
            let mut endpoint = self.endpoint(name)?.connect_timeout(timeout);
            if count > 1 {
                // Another replica takes the calls of one that hangs, so the client must notice soon that it hangs.
                endpoint = endpoint
                    .http2_keep_alive_interval(PING_INTERVAL)
                    .keep_alive_timeout(LOSS_TIMEOUT);
            }
            endpoints.push((name.clone(), endpoint));
        }
        Ok(endpoints)
    }

    fn endpoint(&self, endpoint: &str) -> Result<Endpoint, ConnectError> {
        let wrong = |problem| ConnectError::Endpoint {
            endpoint: without_user(endpoint),
            problem,
        };
        let uri = address(endpoint).map_err(wrong)?;
        let secure = uri.scheme_str() == Some("https");
        let address = Endpoint::from(uri)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        if !secure {
            return match self.tls_option() {
                None => Ok(address),
                Some((option, variable)) => Err(ConnectError::WithoutTls {
                    endpoint: endpoint.to_owned(),
                    option,
                    variable,
                }),
            };
        }
        // `tls` has checked the files and the name, so only the host of the endpoint can be wrong.
        address.tls_config(self.tls()?).map_err(|_| ConnectError::Host {
            endpoint: endpoint.to_owned(),
        })
    }

    /// Returns an option that only TLS uses, with its environment variable, if one is set.
    fn tls_option(&self) -> Option<(&'static str, &'static str)> {
        [
            (self.ca.is_some(), ("--ca", "TALLY_CA")),
            (
                self.identity.is_some(),
                ("--client-certificate", "TALLY_CLIENT_CERTIFICATE"),
            ),
            (self.server_name.is_some(), ("--server-name", "TALLY_SERVER_NAME")),
        ]
        .into_iter()
        .find_map(|(is_set, option)| is_set.then_some(option))
    }

    fn tls(&self) -> Result<ClientTlsConfig, ConnectError> {
        let mut tls = ClientTlsConfig::new();
        if let Some(ca) = &self.ca {
            let pem = read(ca)?;
            check_authorities(&certificates(&pem, ca)?, ca)?;
            tls = tls.ca_certificate(Certificate::from_pem(pem));
        }
        if let Some((certificate, key)) = &self.identity {
            let (chain_pem, key_pem) = (read(certificate)?, read(key)?);
            let chain = certificates(&chain_pem, certificate)?;
            pair(chain, private_key(&key_pem, key)?, certificate, key)?;
            tls = tls.identity(Identity::from_pem(chain_pem, key_pem));
        }
        if let Some(name) = &self.server_name {
            if ServerName::try_from(name.as_str()).is_err() {
                return Err(ConnectError::ServerName { name: name.clone() });
            }
            tls = tls.domain_name(name);
        }
        Ok(tls)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ConnectError> {
    read_bounded(path).map_err(|source| ConnectError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    const WAIT: Duration = Duration::from_secs(1);

    #[test]
    fn several_endpoints_are_bounded_and_all_with_tls_or_all_without() {
        let text = |endpoints: &[&str]| {
            let config = ClientConfig {
                endpoints: endpoints.iter().map(|&text| text.to_owned()).collect(),
                ..ClientConfig::default()
            };
            config
                .channels(WAIT)
                .map(|found| found.len())
                .map_err(|error| error.to_string())
        };
        assert_eq!(text(&["http://a:1", "b:2"]), Ok(2));
        assert_eq!(text(&["https://a:1", "https://b:2"]), Ok(2));
        let mixed = text(&["https://a:1", "user:secret@b:2"]).unwrap_err();
        assert!(
            mixed.starts_with("https://a:1 has TLS and ***@b:2 has none") && mixed.contains("--endpoint"),
            "{mixed}"
        );
        assert_eq!(
            text(&[]).unwrap_err(),
            "0 endpoints: must be 1 to 16; correct --endpoint"
        );
        assert!(text(&["a:1"; 17]).unwrap_err().starts_with("17 endpoints"));
    }

    #[test]
    fn an_error_never_shows_a_password() {
        let text = |endpoint: &str| {
            ClientConfig::plain(endpoint)
                .channels(WAIT)
                .unwrap_err()
                .to_string()
        };
        for endpoint in [
            "http://user:secret@h:1",
            "user:secret@h:1",
            "ftp://user:secret@h:1",
        ] {
            let text = text(endpoint);
            assert!(text.contains("***@h:1") && !text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn an_option_for_tls_is_refused_without_tls() {
        let mut config = ClientConfig::plain("http://h:1");
        assert!(config.channels(WAIT).is_ok());
        config.server_name = Some("h".to_owned());
        assert_eq!(
            config.channels(WAIT).unwrap_err().to_string(),
            "http://h:1 has no TLS, so --server-name has no effect and the connection would not be protected; write https:// in \
             --endpoint, or remove --server-name (TALLY_SERVER_NAME)"
        );
        config.endpoints = vec!["https://h:1".to_owned()];
        assert!(config.channels(WAIT).is_ok());
    }

    #[test]
    fn a_missing_token_and_a_wrong_token_have_different_texts() {
        let details = ErrorDetails::with_error_info("UNAUTHENTICATED", "tally.v1", []);
        let status = Status::with_error_details(Code::Unauthenticated, "no", details);
        let mut config = ClientConfig::plain("http://h:1");
        assert!(config.explain(&status).contains("pass one with --token-file"));
        config.token = Token::new("wrong");
        assert!(config.explain(&status).contains("does not accept the token"));
    }

    #[test]
    fn an_answer_of_another_service_is_described() {
        let text = ClientConfig::plain("http://h:1").explain(&Status::unimplemented("no such method"));
        assert!(
            text.contains("http://h:1 is not a Tally service") && text.contains("no such method"),
            "{text}"
        );
    }

    #[test]
    fn a_file_without_pem_is_named() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("ca.pem");
        std::fs::write(&path, "no certificate\n").unwrap();
        let mut config = ClientConfig {
            ca: Some(path.clone()),
            ..ClientConfig::plain("https://h:1")
        };
        let text = config.channels(WAIT).unwrap_err().to_string();
        assert_eq!(text, format!("{} has no certificate in PEM", path.display()));
        config.identity = Some((path.clone(), path));
        config.ca = None;
        assert!(matches!(
            config.channels(WAIT),
            Err(ConnectError::Certificates(CertificateFileError::NotPem { .. }))
        ));
    }

    #[test]
    fn a_name_that_no_certificate_can_have_is_an_error() {
        let mut config = ClientConfig {
            server_name: Some("two words".to_owned()),
            ..ClientConfig::plain("https://h:1")
        };
        let text = config.channels(WAIT).unwrap_err().to_string();
        assert!(
            text.starts_with("--server-name \"two words\" is neither a host name"),
            "{text}"
        );
        config.server_name = None;
        config.endpoints = vec![format!("https://{}:1", "h".repeat(64))];
        let error = config.channels(WAIT).unwrap_err();
        assert!(matches!(error, ConnectError::Host { .. }), "{error}");
    }

    #[test]
    fn a_token_file_has_one_token() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("token");
        let config = ClientConfig {
            token_file: Some(path.clone()),
            ..ClientConfig::plain("http://h:1")
        };
        assert!(matches!(config.bearer(), Err(ConnectError::File { .. })));
        for text in ["", " \n", "two tokens", "line\nline"] {
            std::fs::write(&path, text).unwrap();
            assert!(
                matches!(config.bearer(), Err(ConnectError::TokenFile { .. })),
                "{text:?}"
            );
        }
        std::fs::write(&path, "secret\n").unwrap();
        assert_eq!(config.bearer().unwrap(), Token::new("secret"));
    }
}
