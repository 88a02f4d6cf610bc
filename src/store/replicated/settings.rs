//! The section `store.replicated` of the configuration: the brokers of the log, the addresses of the replicas, and the times of the
//! election.

use std::{collections::BTreeSet, fmt, ops::RangeInclusive, path::PathBuf, time::Duration};

use http::Uri;
use serde::{Deserialize, Serialize};

use crate::settings::{SECOND, SettingError, check, check_time, deserialize_text, without_user};

/// The key `store.replicated`: the replicated store. It has an effect only with `store.kind = "replicated"`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplicatedSettings {
    /// Brokers of the log, as `HOST:PORT` with commas between them. The replica learns the other brokers from them.
    pub brokers: Option<String>,
    /// The topic of the log. The topic has one partition.
    pub topic: String,
    /// The URL at which clients and the other replicas reach the gRPC port of this replica, such as `http://10.0.0.1:50051`, or
    /// `https://` with TLS.
    pub advertise: Option<String>,
    /// The advertised URLs of all replicas, with commas between them. The replica's own URL may be among them.
    pub peers: Option<String>,
    /// A file with the token for calls to the peers, if the peers ask for tokens. The role `read` is enough.
    pub peer_token_file: Option<PathBuf>,
    /// The certificate authorities that signed the certificates of the peers, in PEM. Needed if a URL in `peers` begins with
    /// `https://`.
    pub peer_ca_file: Option<PathBuf>,
    /// How the replica connects to the brokers.
    pub security: SecurityProtocol,
    /// The certificate authorities that signed the certificates of the brokers, in PEM. Needed if `security` has TLS.
    pub tls_ca_file: Option<PathBuf>,
    /// The certificate that the replica presents to the brokers, in PEM. Needs `tls_key_file`, and a `security` with TLS.
    pub tls_cert_file: Option<PathBuf>,
    /// The private key of the certificate, in PEM.
    pub tls_key_file: Option<PathBuf>,
    /// How the replica proves the password to the brokers. Needs a `security` with SASL.
    pub sasl_mechanism: Option<SaslMechanism>,
    /// The user name at the brokers. Needs a `security` with SASL.
    #[serde(deserialize_with = "deserialize_text")]
    pub sasl_username: Option<String>,
    /// A file with the password at the brokers. Needs a `security` with SASL. The password itself is never a setting.
    pub sasl_password_file: Option<PathBuf>,
    /// Interval at which a leader without other blocks writes an empty block, 10 ms to 1 s.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// Time without a block of the leader after which a standby claims leadership: 5 heartbeats to 1 min.
    #[serde(with = "humantime_serde")]
    pub claim_after: Duration,
    /// Maximum additional random time before a claim, 10 ms to 10 s. It makes two claims at the same time unlikely.
    #[serde(with = "humantime_serde")]
    pub claim_jitter: Duration,
    /// The same as `claim_after`, but after the leader has closed its connections: 2 heartbeats to `claim_after`.
    #[serde(with = "humantime_serde")]
    pub claim_after_closed: Duration,
    /// Longest time of a request to a broker, 100 ms to 1 min. After it, the replica connects again and finds out what the log
    /// contains.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Maximum number of appends in flight to the log, 1 to 16.
    pub requests_in_flight: usize,
    /// If true, the service starts although the topic's settings can lose blocks that were acknowledged. For tests only.
    pub accept_unsafe_topic: bool,
}

/// How the replica connects to the brokers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecurityProtocol {
    /// Without encryption and without a password.
    #[default]
    Plaintext,
    /// With TLS.
    Tls,
    /// With a password, without encryption.
    SaslPlaintext,
    /// With TLS and a password.
    SaslTls,
}

/// How the replica proves its password to the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SaslMechanism {
    /// Sends the password itself.
    #[serde(rename = "plain")]
    Plain,
    /// SCRAM with SHA-256: the password is not sent.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// SCRAM with SHA-512: the password is not sent.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

/// The checked settings of a replicated store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicatedConfig {
    /// The brokers, as `HOST:PORT`.
    pub brokers: Vec<String>,
    /// The topic.
    pub topic: String,
    /// The advertised URL of this replica, without a `/` at the end.
    pub advertise: String,
    /// The URLs of the other replicas, without a `/` at the end.
    pub peers: Vec<String>,
    /// The file with the token for calls to the peers.
    pub peer_token_file: Option<PathBuf>,
    /// The file with the certificate authorities of the peers.
    pub peer_ca_file: Option<PathBuf>,
    /// How to connect to the brokers.
    pub security: BrokerSecurity,
    /// Interval between two heartbeats.
    pub heartbeat: Duration,
    /// Time without a block of the leader after which a standby claims.
    pub claim_after: Duration,
    /// Maximum additional random time before a claim.
    pub claim_jitter: Duration,
    /// Time after which a standby claims when the leader has closed its connections.
    pub claim_after_closed: Duration,
    /// Longest time of a request to a broker.
    pub request_timeout: Duration,
    /// Maximum number of appends in flight.
    pub requests_in_flight: usize,
    /// Whether to start although the topic is unsafe.
    pub accept_unsafe_topic: bool,
}

/// How to connect to the brokers. Without TLS and SASL: neither encryption nor a password.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerSecurity {
    /// TLS, if the connection is encrypted.
    pub tls: Option<BrokerTls>,
    /// SASL, if the brokers ask for a password.
    pub sasl: Option<BrokerSasl>,
}

/// The files for TLS connections to the brokers, all in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerTls {
    /// The file of the certificate authorities.
    pub ca: PathBuf,
    /// The certificate of the replica, if the brokers ask for one.
    pub identity: Option<BrokerIdentity>,
}

/// The certificate that a replica presents to the brokers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerIdentity {
    /// The file of the certificate, followed by the intermediate certificates.
    pub certificate: PathBuf,
    /// The file of the private key.
    pub key: PathBuf,
}

/// The account of the replica at the brokers. The password stays in its file until it is used.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerSasl {
    /// How to prove the password.
    pub mechanism: SaslMechanism,
    /// The user name.
    pub username: String,
    /// The file with the password.
    pub password_file: PathBuf,
}

/// Allowed values of [`ReplicatedSettings::heartbeat`].
const HEARTBEATS: RangeInclusive<Duration> = Duration::from_millis(10)..=SECOND;
/// Allowed values of [`ReplicatedSettings::claim_jitter`]. Without any jitter, two standbys would claim at the same time again
/// and again.
const JITTERS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(10);
/// Greatest value of [`ReplicatedSettings::claim_after`].
const CLAIM_AFTER_MAX: Duration = Duration::from_secs(60);
/// A standby claims at the earliest after this many heartbeats of silence. With fewer heartbeats, a single late block would cause
/// an election.
const CLAIM_HEARTBEATS_MIN: u32 = 5;
/// The same as [`CLAIM_HEARTBEATS_MIN`], after the leader has closed its connections.
const CLOSED_HEARTBEATS_MIN: u32 = 2;
/// Allowed values of [`ReplicatedSettings::request_timeout`].
const REQUEST_TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
/// Allowed values of [`ReplicatedSettings::requests_in_flight`].
const REQUESTS_IN_FLIGHT: RangeInclusive<usize> = 1..=16;
/// Maximum number of brokers in the list. The replica learns the other brokers from them.
const BROKERS_MAX: usize = 32;
/// Maximum number of replicas.
const PEERS_MAX: usize = 9;
/// Maximum length of the name of a topic in Kafka.
const TOPIC_LENGTH_MAX: usize = 249;
/// Maximum length of a user name.
const USERNAME_LENGTH_MAX: usize = 255;
/// Maximum length of an address or a URL.
const ADDRESS_LENGTH_MAX: usize = 255;

/// The form of the URL of a replica, in words.
const URL_FORM: &str = "http://HOST:PORT, or https://HOST:PORT with TLS";

// ===== impl ReplicatedSettings =====

impl Default for ReplicatedSettings {
    fn default() -> Self {
        ReplicatedSettings {
            brokers: None,
            topic: "tally".to_owned(),
            advertise: None,
            peers: None,
            peer_token_file: None,
            peer_ca_file: None,
            security: SecurityProtocol::Plaintext,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            sasl_mechanism: None,
            sasl_username: None,
            sasl_password_file: None,
            heartbeat: Duration::from_millis(100),
            claim_after: Duration::from_millis(700),
            claim_jitter: Duration::from_millis(200),
            claim_after_closed: Duration::from_millis(250),
            request_timeout: SECOND,
            requests_in_flight: 2,
            accept_unsafe_topic: false,
        }
    }
}

impl ReplicatedSettings {
    /// Checks each key that is set, also if the store is not replicated.
    ///
    /// # Errors
    /// [`SettingError`] for the first key that is out of bounds.
    pub fn check(&self) -> Result<(), SettingError> {
        self.broker_list()?;
        self.check_topic()?;
        self.advertised()?;
        self.peer_list()?;
        self.check_paths()?;
        if let Some(name) = &self.sasl_username
            && (name.is_empty() || name.len() > USERNAME_LENGTH_MAX || name.chars().any(char::is_control))
        {
            let bound = "a name of 1 to 255 bytes without control characters";
            return Err(refused("sasl_username", name, bound));
        }
        self.check_times()?;
        let key = "store.replicated.requests_in_flight";
        check(key, self.requests_in_flight, &REQUESTS_IN_FLIGHT, "1 to 16")
    }

    /// Checks the section for a replicated store. Also checks that every key that the store needs is set, and that the keys agree.
    ///
    /// # Errors
    /// [`SettingError`] for the first key that is out of bounds, missing, or does not agree with the other keys.
    pub fn config(&self) -> Result<ReplicatedConfig, SettingError> {
        self.check()?;
        let missing = |key: &str, bound: &str| {
            refused(key, "unset", format!("{bound}, because store.kind is replicated"))
        };
        let brokers = self
            .broker_list()?
            .ok_or_else(|| missing("brokers", "set to HOST:PORT,HOST:PORT"))?;
        let advertise = self
            .advertised()?
            .ok_or_else(|| missing("advertise", "set to the URL of this replica"))?;
        let peers = self
            .peer_list()?
            .ok_or_else(|| missing("peers", "set to the URLs of all replicas"))?;
        let peers: Vec<String> = peers.into_iter().filter(|peer| *peer != advertise).collect();
        let has_tls = peers.iter().any(|peer| peer.starts_with("https://"));
        if self.peer_ca_file.is_some() && !has_tls {
            let bound =
                "unset, because no URL of another replica in store.replicated.peers begins with https://";
            return Err(path_refused("peer_ca_file", self.peer_ca_file.as_ref(), bound));
        }
        if self.peer_ca_file.is_none() && has_tls {
            let bound = "set, because a URL in store.replicated.peers begins with https://";
            return Err(refused("peer_ca_file", "unset", bound));
        }
        Ok(ReplicatedConfig {
            brokers,
            topic: self.topic.clone(),
            advertise,
            peers,
            peer_token_file: self.peer_token_file.clone(),
            peer_ca_file: self.peer_ca_file.clone(),
            security: self.broker_security()?,
            heartbeat: self.heartbeat,
            claim_after: self.claim_after,
            claim_jitter: self.claim_jitter,
            claim_after_closed: self.claim_after_closed,
            request_timeout: self.request_timeout,
            requests_in_flight: self.requests_in_flight,
            accept_unsafe_topic: self.accept_unsafe_topic,
        })
    }

    /// Replaces values that only their owner may read: a user name and a password in a URL. Such a URL is not accepted, but its
    /// error and the list of the settings must not show it.
    pub fn hide_secrets(&mut self) {
        for urls in [&mut self.advertise, &mut self.peers].into_iter().flatten() {
            let hidden: Vec<String> = urls.split(',').map(without_user).collect();
            *urls = hidden.join(",");
        }
    }

    fn broker_list(&self) -> Result<Option<Vec<String>>, SettingError> {
        let Some(text) = &self.brokers else {
            return Ok(None);
        };
        let bound = "HOST:PORT, or 2 to 32 of them with commas between them";
        let brokers = parts(text);
        if brokers.len() > BROKERS_MAX {
            return Err(refused("brokers", format!("{} brokers", brokers.len()), bound));
        }
        for broker in &brokers {
            if !is_host_and_port(broker) {
                return Err(refused("brokers", broker, bound));
            }
        }
        check_different("brokers", &brokers)?;
        Ok(Some(brokers))
    }

    fn check_topic(&self) -> Result<(), SettingError> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let topic = &self.topic;
        if topic.is_empty()
            || topic.len() > TOPIC_LENGTH_MAX
            || !topic.bytes().all(is_word)
            || topic == "."
            || topic == ".."
        {
            let bound = "1 to 249 letters, digits, dots, underscores and hyphens, but not . or ..";
            return Err(refused("topic", topic, bound));
        }
        Ok(())
    }

    fn advertised(&self) -> Result<Option<String>, SettingError> {
        let Some(url) = &self.advertise else {
            return Ok(None);
        };
        let parsed = replica_url(url).ok_or_else(|| refused("advertise", without_user(url), URL_FORM))?;
        if is_unspecified(&parsed) {
            let bound = format!("{URL_FORM}, with a host that other machines can reach");
            return Err(refused("advertise", url, bound));
        }
        Ok(Some(parsed))
    }

    fn peer_list(&self) -> Result<Option<Vec<String>>, SettingError> {
        let Some(text) = &self.peers else {
            return Ok(None);
        };
        let bound = format!("{URL_FORM}, or 2 to 9 of them with commas between them");
        let urls = parts(text);
        if urls.len() > PEERS_MAX {
            return Err(refused("peers", format!("{} peers", urls.len()), bound));
        }
        let mut peers = Vec::with_capacity(urls.len());
        for url in &urls {
            let parsed = replica_url(url).filter(|url| !is_unspecified(url));
            peers.push(parsed.ok_or_else(|| refused("peers", without_user(url), &bound))?);
        }
        check_different("peers", &peers)?;
        Ok(Some(peers))
    }

    fn check_paths(&self) -> Result<(), SettingError> {
        for (key, path) in [
            ("peer_token_file", &self.peer_token_file),
            ("peer_ca_file", &self.peer_ca_file),
            ("tls_ca_file", &self.tls_ca_file),
            ("tls_cert_file", &self.tls_cert_file),
            ("tls_key_file", &self.tls_key_file),
            ("sasl_password_file", &self.sasl_password_file),
        ] {
            if path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
                return Err(refused(key, "", "the path of a file"));
            }
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), SettingError> {
        let check = |key: &str, value: Duration, range: RangeInclusive<Duration>, note: &str| {
            let [from, to] = [*range.start(), *range.end()].map(humantime::format_duration);
            check_time(
                &format!("store.replicated.{key}"),
                value,
                &range,
                &format!("{from} to {to}{note}"),
            )
        };
        check("heartbeat", self.heartbeat, HEARTBEATS, "")?;
        let least = self.heartbeat.saturating_mul(CLAIM_HEARTBEATS_MIN);
        let note = " (5 times store.replicated.heartbeat)";
        check("claim_after", self.claim_after, least..=CLAIM_AFTER_MAX, note)?;
        check("claim_jitter", self.claim_jitter, JITTERS, "")?;
        let least = self.heartbeat.saturating_mul(CLOSED_HEARTBEATS_MIN);
        let note = " (twice store.replicated.heartbeat, and store.replicated.claim_after)";
        check(
            "claim_after_closed",
            self.claim_after_closed,
            least..=self.claim_after,
            note,
        )?;
        check("request_timeout", self.request_timeout, REQUEST_TIMEOUTS, "")
    }

    /// Checks that the keys of TLS and SASL agree with `security`, and returns their values.
    fn broker_security(&self) -> Result<BrokerSecurity, SettingError> {
        let (has_tls, has_sasl) = match self.security {
            SecurityProtocol::Plaintext => (false, false),
            SecurityProtocol::Tls => (true, false),
            SecurityProtocol::SaslPlaintext => (false, true),
            SecurityProtocol::SaslTls => (true, true),
        };
        let tls = self.broker_tls(has_tls)?;
        let sasl = self.broker_sasl(has_sasl)?;
        Ok(BrokerSecurity { tls, sasl })
    }

    fn broker_tls(&self, has_tls: bool) -> Result<Option<BrokerTls>, SettingError> {
        if !has_tls {
            for (key, path) in [
                ("tls_ca_file", &self.tls_ca_file),
                ("tls_cert_file", &self.tls_cert_file),
                ("tls_key_file", &self.tls_key_file),
            ] {
                if path.is_some() {
                    let bound = "unset, unless store.replicated.security is tls or sasl_tls";
                    return Err(path_refused(key, path.as_ref(), bound));
                }
            }
            return Ok(None);
        }
        let together = |key: &str, other: &str| {
            refused(
                key,
                "unset",
                format!("set together with store.replicated.{other}"),
            )
        };
        let identity = match (&self.tls_cert_file, &self.tls_key_file) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some(BrokerIdentity {
                certificate: certificate.clone(),
                key: key.clone(),
            }),
            (Some(_), None) => return Err(together("tls_key_file", "tls_cert_file")),
            (None, Some(_)) => return Err(together("tls_cert_file", "tls_key_file")),
        };
        let needed = || {
            refused(
                "tls_ca_file",
                "unset",
                "set, because store.replicated.security is tls or sasl_tls",
            )
        };
        Ok(Some(BrokerTls {
            ca: self.tls_ca_file.clone().ok_or_else(needed)?,
            identity,
        }))
    }

    fn broker_sasl(&self, has_sasl: bool) -> Result<Option<BrokerSasl>, SettingError> {
        let unneeded = "unset, unless store.replicated.security is sasl_plaintext or sasl_tls";
        let needed = |key: &str| {
            refused(
                key,
                "unset",
                "set, because store.replicated.security is sasl_plaintext or sasl_tls",
            )
        };
        if has_sasl {
            return Ok(Some(BrokerSasl {
                mechanism: self.sasl_mechanism.ok_or_else(|| needed("sasl_mechanism"))?,
                username: self
                    .sasl_username
                    .clone()
                    .ok_or_else(|| needed("sasl_username"))?,
                password_file: self
                    .sasl_password_file
                    .clone()
                    .ok_or_else(|| needed("sasl_password_file"))?,
            }));
        }
        if let Some(mechanism) = self.sasl_mechanism {
            return Err(refused("sasl_mechanism", mechanism.as_str(), unneeded));
        }
        if let Some(name) = &self.sasl_username {
            return Err(refused("sasl_username", name, unneeded));
        }
        if self.sasl_password_file.is_some() {
            return Err(path_refused(
                "sasl_password_file",
                self.sasl_password_file.as_ref(),
                unneeded,
            ));
        }
        Ok(None)
    }
}

// ===== impl SaslMechanism =====

impl SaslMechanism {
    /// Returns the name in the settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            SaslMechanism::Plain => "plain",
            SaslMechanism::ScramSha256 => "scram-sha-256",
            SaslMechanism::ScramSha512 => "scram-sha-512",
        }
    }
}

// ===== impl BrokerSasl =====

impl fmt::Debug for BrokerSasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerSasl")
            .field("mechanism", &self.mechanism)
            .field("password_file", &self.password_file)
            .finish_non_exhaustive()
    }
}

/// Returns the error of a key of the section.
fn refused(key: &str, value: impl fmt::Display, bound: impl Into<String>) -> SettingError {
    SettingError::new(format!("store.replicated.{key}"), value, bound)
}

/// Returns the error of a path.
fn path_refused(key: &str, path: Option<&PathBuf>, bound: &str) -> SettingError {
    let shown = path.map_or_else(String::new, |path| path.display().to_string());
    refused(key, shown, bound)
}

/// Returns the parts of a list with commas.
fn parts(text: &str) -> Vec<String> {
    text.split(',').map(|part| part.trim().to_owned()).collect()
}

/// Checks that a list has no value twice.
fn check_different(key: &str, values: &[String]) -> Result<(), SettingError> {
    let mut seen = BTreeSet::new();
    match values.iter().find(|value| !seen.insert(value.to_lowercase())) {
        Some(twice) => Err(refused(key, twice, "a list in which each address is once")),
        None => Ok(()),
    }
}

/// Returns whether `text` is a host name or an IP address with a port other than 0.
fn is_host_and_port(text: &str) -> bool {
    if text.len() > ADDRESS_LENGTH_MAX {
        return false;
    }
    let Ok(authority) = text.parse::<http::uri::Authority>() else {
        return false;
    };
    let has_port = authority.port_u16().is_some_and(|port| port != 0);
    has_port && !authority.host().is_empty() && !text.contains('@')
}

/// Returns the URL of a replica in its normal form: the host in lower case, no `/` at the end. `None` if `text` is not such a URL.
fn replica_url(text: &str) -> Option<String> {
    if text.len() > ADDRESS_LENGTH_MAX {
        return None;
    }
    let uri: Uri = text.parse().ok()?;
    let scheme = uri
        .scheme_str()
        .filter(|scheme| ["http", "https"].contains(scheme))?;
    let authority = uri.authority()?;
    let is_plain = uri.query().is_none() && ["", "/"].contains(&uri.path());
    (is_plain && is_host_and_port(authority.as_str()))
        .then(|| format!("{scheme}://{}", authority.as_str().to_lowercase()))
}

/// Returns whether the host of a URL is the address that stands for all addresses of a machine.
fn is_unspecified(url: &str) -> bool {
    ["://0.0.0.0:", "://[::]:"].iter().any(|host| url.contains(host))
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
