//! Settings.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use tokio_rustls::rustls::ClientConfig;

use crate::{error::Error, topic_id::TopicId};

/// The largest value of [`Settings::batch_bytes_max`] and [`Settings::fetch_bytes_max`].
pub const BYTES_MAX: usize = 256 * 1024 * 1024;
/// The largest value of [`Settings::in_flight_max`].
pub const IN_FLIGHT_MAX: usize = 1024;
/// The maximum number of endpoints in [`Settings::bootstrap`].
pub const ENDPOINTS_MAX: usize = 64;
/// The largest value of [`Settings::connect_timeout`] and [`Settings::request_timeout`].
pub const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// The longest name of a topic, in bytes. Kafka has the same bound.
const TOPIC_BYTES_MAX: usize = 249;
/// The longest host name, client id, user name and password, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// Which partition of which cluster, and the bounds of the client.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Brokers of the cluster, 1 to [`ENDPOINTS_MAX`]. One broker that answers is enough, because it knows the other
    /// brokers.
    pub bootstrap: Vec<Endpoint>,
    /// The topic.
    pub topic: String,
    /// The partition of the topic.
    pub partition: i32,
    /// The id that the topic must have. `None`: the topic must keep the id that it has at the first call.
    pub topic_id: Option<TopicId>,
    /// Names this client in the logs and quotas of the brokers.
    pub client_id: String,
    /// Time limit for one connection, with the handshakes of TLS and SASL.
    pub connect_timeout: Duration,
    /// Time limit for one call. A fetch has its `max_wait` in addition.
    pub request_timeout: Duration,
    /// Maximum number of requests in flight on one connection, 1 to [`IN_FLIGHT_MAX`].
    pub in_flight_max: usize,
    /// Maximum size of the batch of one append, in bytes. At most `max.message.bytes` of the topic.
    pub batch_bytes_max: usize,
    /// Maximum size of the records of one fetch, in bytes. A single batch that is larger is fetched nevertheless, up to
    /// `batch_bytes_max`.
    pub fetch_bytes_max: usize,
    /// TLS; `None`: the connections are not encrypted.
    pub tls: Option<Tls>,
    /// SASL; `None`: no authentication other than a client certificate.
    pub sasl: Option<Sasl>,
}

impl Settings {
    /// Returns settings for partition 0 of `topic`, with defaults for everything else: 5 s to connect, 10 s for a call,
    /// 8 requests in flight, 8 MiB for a batch and for a fetch, no TLS and no SASL.
    #[must_use]
    pub fn new(bootstrap: Vec<Endpoint>, topic: impl Into<String>) -> Self {
        Self {
            bootstrap,
            topic: topic.into(),
            partition: 0,
            topic_id: None,
            client_id: "tally".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            in_flight_max: 8,
            batch_bytes_max: 8 * 1024 * 1024,
            fetch_bytes_max: 8 * 1024 * 1024,
            tls: None,
            sasl: None,
        }
    }

    /// Checks every bound.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |name, value: String, bound| Err(Error::Setting { name, value, bound });
        if self.bootstrap.is_empty() || self.bootstrap.len() > ENDPOINTS_MAX {
            return refuse("bootstrap", self.bootstrap.len().to_string(), "1 to 64 endpoints");
        }
        let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let is_named = (1..=TOPIC_BYTES_MAX).contains(&self.topic.len()) && self.topic.chars().all(is_legal);
        if !is_named || matches!(self.topic.as_str(), "." | "..") {
            let bound = "1 to 249 letters, digits, dots, underscores and hyphens";
            return refuse("topic", self.topic.clone(), bound);
        }
        if self.partition < 0 {
            return refuse("partition", self.partition.to_string(), "at least 0");
        }
        if self.client_id.len() > TEXT_BYTES_MAX {
            let length = format!("{} bytes long", self.client_id.len());
            return refuse("client_id", length, "at most 1024 bytes");
        }
        for (name, value) in [
            ("connect_timeout", self.connect_timeout),
            ("request_timeout", self.request_timeout),
        ] {
            if !(Duration::from_millis(1)..=TIMEOUT_MAX).contains(&value) {
                return refuse(name, format!("{value:?}"), "1 ms to 600 s");
            }
        }
        if !(1..=IN_FLIGHT_MAX).contains(&self.in_flight_max) {
            return refuse("in_flight_max", self.in_flight_max.to_string(), "1 to 1024");
        }
        for (name, value) in [
            ("batch_bytes_max", self.batch_bytes_max),
            ("fetch_bytes_max", self.fetch_bytes_max),
        ] {
            if !(1024..=BYTES_MAX).contains(&value) {
                return refuse(name, value.to_string(), "1 KiB to 256 MiB");
            }
        }
        self.sasl.as_ref().map_or(Ok(()), Sasl::check)
    }
}

/// A broker's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The host name or IP address.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    /// Reads `host:port`. An IPv6 address is in brackets.
    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = || Error::Setting {
            name: "endpoint",
            value: text.to_owned(),
            bound: "host:port, with a port of 1 to 65535 and an IPv6 address in brackets",
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        let port = port.parse::<u16>().ok().filter(|port| *port > 0);
        let is_whole = bracketed.is_some() || !host.contains([':', '[', ']']);
        match port {
            Some(port) if is_whole && (1..=TEXT_BYTES_MAX).contains(&host.len()) => Ok(Self {
                host: host.to_owned(),
                port,
            }),
            _ => Err(refuse()),
        }
    }
}

/// TLS to the brokers.
#[derive(Clone)]
pub struct Tls {
    /// The trusted certificates, and a client certificate if the brokers require one.
    pub config: Arc<ClientConfig>,
    /// The name that the certificate of every broker must have. `None`: the host name to which the client connects.
    pub server_name: Option<String>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

/// How a client proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// Sends the password to the broker (RFC 4616). Use it only with TLS.
    Plain,
    /// Proves knowledge of the password without sending it (RFC 5802, RFC 7677).
    ScramSha256,
    /// Like [`Mechanism::ScramSha256`], with SHA-512.
    ScramSha512,
}

impl Mechanism {
    /// Returns the name that the protocol and the settings of Kafka use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl FromStr for Mechanism {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        [Self::Plain, Self::ScramSha256, Self::ScramSha512]
            .into_iter()
            .find(|mechanism| mechanism.name() == text)
            .ok_or_else(|| Error::Setting {
                name: "mechanism",
                value: text.to_owned(),
                bound: "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512",
            })
    }
}

/// User name and password.
#[derive(Debug, Clone)]
pub struct Sasl {
    /// The mechanism.
    pub mechanism: Mechanism,
    /// The user name.
    pub user: String,
    /// The password. Like Kafka, this client uses the UTF-8 bytes of the password, without SASLprep.
    pub password: Password,
}

impl Sasl {
    fn check(&self) -> Result<(), Error> {
        for (name, text) in [("sasl.user", &self.user), ("sasl.password", &self.password.0)] {
            if !(1..=TEXT_BYTES_MAX).contains(&text.len()) || text.contains('\0') {
                return Err(Error::Setting {
                    name,
                    value: format!("{} bytes long", text.len()),
                    bound: "1 to 1024 bytes without a zero byte",
                });
            }
        }
        Ok(())
    }
}

/// A password. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps a password.
    #[must_use]
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
