//! The configuration: defaults, then one TOML file, then `TALLY__SECTION__KEY`, then flags. Each overrides the one before.
//!
//! Values carry their units (`"2ms"`, `"64MiB"`). Unknown keys are errors. An error names the key, the value and the
//! place that it came from.

mod breaker;
mod load;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

pub use self::{
    breaker::{BreakerModeSetting, BreakerSection, Preset, SlowThreshold},
    load::{ConfigError, load},
};
use crate::{
    batch::BatchConfig,
    engine::{CheckpointInterval, EngineConfig, ScrubRate},
    grpc::NetConfig,
    security::{SecurityConfig, TlsPaths},
    store::embedded::{BLOCK_BYTES_MIN, StoreConfig},
    topology::{AffinityConfig, CpuSet, FifoConfig, Mode, RoleCpus},
};

/// Everything that can be set.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The gRPC server.
    pub server: ServerSection,
    /// The data directory.
    pub store: StoreSection,
    /// The queue.
    pub batch: BatchSection,
    /// The latency circuit breaker.
    pub breaker: BreakerSection,
    /// Which thread runs where.
    pub affinity: AffinitySection,
    /// Logs and traces.
    pub telemetry: TelemetrySection,
    /// Certificates and tokens.
    pub security: SecuritySection,
    /// The port for operators.
    pub admin: AdminSection,
}

/// The gRPC server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSection {
    /// Where it listens. Port 0 takes a free one, which is printed.
    pub listen: SocketAddr,
    /// How long calls may take to finish when the service goes down.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// Most calls under way on one connection, 1 to 2^20.
    pub streams_per_connection_max: u32,
    /// Most connections for each NET thread, 1 to 2^20; one more is told to calm down and closed.
    pub connections_per_thread_max: usize,
    /// Most connections of one client (an address of IPv4, a network of IPv6), 1 to 2^20; one more is told to calm down and closed.
    pub connections_per_client_max: usize,
    /// A connection on which no call begins for so long is told to go; 1 s to 1 day.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// A connection is told to go at this age, so that clients come to know new instances; 1 s to 1 year.
    #[serde(with = "humantime_serde")]
    pub connection_age_max: Duration,
    /// How long a connection that was told to go may take to finish its calls, 1 s to 1 day; then it is cut.
    #[serde(with = "humantime_serde")]
    pub connection_grace: Duration,
    /// How long the message of a call may take to arrive, 1 s to 1 hour; a slower one is answered by REQUEST_TOO_SLOW.
    #[serde(with = "humantime_serde")]
    pub message_time_max: Duration,
    /// Most memory that calls under way may hold, of requests and of answers, 64 MiB to 1 TiB. A client (an address of IPv4,
    /// a network of IPv6) may not hold more of it than is left: alone, half of it.
    pub memory_max: ByteSize,
}

/// Certificates and tokens. The files are read again when they change.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecuritySection {
    /// The server's certificate chain in PEM. Together with `tls_key`.
    pub tls_certificate: Option<PathBuf>,
    /// The certificate's private key in PEM.
    pub tls_key: Option<PathBuf>,
    /// The authorities that sign clients' certificates, in PEM. If set, a client must have one.
    pub client_ca: Option<PathBuf>,
    /// The file of tokens: one line each, `role name sha256`, the role being `read`, `write` or `admin`.
    pub tokens_file: Option<PathBuf>,
    /// Listen beyond this machine without TLS and tokens.
    pub allow_insecure: bool,
}

/// The port for operators: metrics, health, log level, and a page to look at. Plain HTTP.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminSection {
    /// Where it listens. Port 0 takes a free one, which is printed.
    pub listen: SocketAddr,
    /// Whether there is such a port.
    pub enabled: bool,
}

/// The data directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSection {
    /// Where it is. It is made if there is none.
    pub data: PathBuf,
    /// Size of a journal segment, 8 MiB to 1 GiB. Only for a new directory.
    pub segment_bytes: ByteSize,
    /// Largest block, 2 MiB to a quarter of a segment. Only for a new directory.
    pub block_bytes_max: ByteSize,
    /// Journal between two checkpoints: about what a start has to replay at most. At least 1 MiB.
    pub checkpoint_bytes: ByteSize,
    /// How much journal is read again each second, in search of damage: 64 KiB to 1 GiB, or 0 for no search.
    pub scrub_bytes_per_second: ByteSize,
}

/// The queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchSection {
    /// Most requests that wait, 2 to 2^20.
    pub queue_requests_max: usize,
    /// Most bytes that wait, at least 1 MiB.
    pub queue_bytes_max: ByteSize,
    /// Longest that a block waits for calls that are on their way, 0 to 1 s, and never more than half a commit. Zero: a
    /// block waits for nobody.
    #[serde(with = "humantime_serde")]
    pub max_linger: Duration,
    /// Calls that must be on their way for that, 1 to 2^20.
    pub siblings: usize,
    /// Largest part of one connection, in percent of the largest batch, while others wait, 1 to 100.
    pub client_share_percent: u8,
}

/// Which thread runs where.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AffinitySection {
    /// `auto`, `off`, `fence`, `pin` or `strict`.
    pub mode: AffinityMode,
    /// Explicit CPUs, in the list syntax of cpusets: `0-3,7`.
    pub cpus: RoleLists,
    /// Most NET threads, 1 to 64.
    pub net_threads_max: Option<usize>,
    /// The real-time class for EXEC and WAL.
    pub fifo: FifoSection,
    /// How often the masks of all threads are compared with the plan, 100ms to 1h.
    #[serde(with = "humantime_serde::option")]
    pub verify_interval: Option<Duration>,
}

/// How threads are placed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AffinityMode {
    /// Pinned where it helps, by what the machine looks like.
    #[default]
    Auto,
    /// Masks are not touched.
    Off,
    /// Every thread on all allowed CPUs.
    Fence,
    /// Pinned.
    Pin,
    /// Pinned, or the service does not start.
    Strict,
}

/// Explicit CPUs of the roles.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoleLists {
    /// Of EXEC.
    pub exec: Option<String>,
    /// Of WAL.
    pub wal: Option<String>,
    /// Of NET.
    pub net: Option<String>,
    /// Of AUX.
    pub aux: Option<String>,
}

/// The real-time class for EXEC and WAL.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FifoSection {
    /// Whether to ask for it.
    pub enabled: bool,
    /// Its priority, 1 to 10.
    pub priority: Option<u8>,
    /// Whether the service must not start without it.
    pub required: bool,
    /// A thread that runs so long under it without blocking ends the process, 100ms to 60s.
    #[serde(with = "humantime_serde::option")]
    pub rttime_max: Option<Duration>,
}

/// Logs and traces.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetrySection {
    /// What is logged: `info`, `tally=debug,warn`, ...
    pub log: String,
    /// `auto` is text on a terminal and JSON elsewhere.
    pub format: LogFormat,
    /// Where traces go by OTLP over gRPC, for example `http://127.0.0.1:4317`. Unset: nowhere, at no cost.
    pub otlp_endpoint: Option<String>,
    /// Calls of which spans are made, as a part of all those that come without a trace of their caller, 0 to 1. A caller who
    /// traces is followed: its `traceparent` decides. A span for every call costs more than the call itself.
    pub trace_ratio: f64,
    /// How often metrics go there, 1 s to 1 hour.
    #[serde(with = "humantime_serde")]
    pub metrics_interval: Duration,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}

// ===== defaults =====

impl Default for ServerSection {
    fn default() -> Self {
        let net = NetConfig::default();
        ServerSection {
            listen: SocketAddr::from(([127, 0, 0, 1], 50051)),
            drain: net.drain,
            streams_per_connection_max: net.streams_per_connection_max,
            connections_per_thread_max: net.connections_per_thread_max,
            connections_per_client_max: net.connections_per_client_max,
            idle_timeout: net.idle_timeout,
            connection_age_max: net.connection_age_max,
            connection_grace: net.connection_grace,
            message_time_max: net.message_time_max,
            memory_max: ByteSize(net.memory_max as u64),
        }
    }
}

impl Default for AdminSection {
    fn default() -> Self {
        AdminSection {
            listen: SocketAddr::from(([127, 0, 0, 1], 9090)),
            enabled: true,
        }
    }
}

impl Default for StoreSection {
    fn default() -> Self {
        let store = StoreConfig::default();
        StoreSection {
            data: PathBuf::from("./tally-data"),
            segment_bytes: ByteSize(store.segment_bytes.into()),
            block_bytes_max: ByteSize(store.block_bytes_max.into()),
            checkpoint_bytes: ByteSize(CheckpointInterval::default().0),
            scrub_bytes_per_second: ByteSize(ScrubRate::default().0),
        }
    }
}

impl Default for BatchSection {
    fn default() -> Self {
        let batch = BatchConfig::default();
        BatchSection {
            queue_requests_max: batch.queue_requests_max,
            queue_bytes_max: ByteSize(batch.queue_bytes_max as u64),
            max_linger: batch.max_linger,
            siblings: batch.siblings,
            client_share_percent: batch.client_share_percent,
        }
    }
}

impl Default for TelemetrySection {
    fn default() -> Self {
        TelemetrySection {
            log: "info".to_owned(),
            format: LogFormat::Auto,
            otlp_endpoint: None,
            trace_ratio: 0.01,
            metrics_interval: Duration::from_secs(15),
        }
    }
}

// ===== impl Config =====

/// Smallest distance between checkpoints.
const CHECKPOINT_BYTES_MIN: u64 = 1 << 20;
/// Bounds of the memory that calls under way may hold: a client must be able to send the largest message.
const MEMORY_MIN: u64 = 64 << 20;
const MEMORY_MAX: u64 = 1 << 40;
/// How fast the journal may be scrubbed: slower, and a pass would take months; faster than disks are.
const SCRUB_BYTES_PER_SECOND: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 30;
/// Most connections, and most calls on one.
const MANY: usize = 1 << 20;
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Config {
    /// The engine's part.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key, the value and the bound.
    pub fn engine(&self) -> Result<EngineConfig, ConfigError> {
        let store = &self.store;
        if store.block_bytes_max.0 < u64::from(BLOCK_BYTES_MIN) {
            return Err(ConfigError::bound(
                "store.block_bytes_max",
                store.block_bytes_max,
                "at least 2 MiB",
            ));
        }
        if store.checkpoint_bytes.0 < CHECKPOINT_BYTES_MIN {
            return Err(ConfigError::bound(
                "store.checkpoint_bytes",
                store.checkpoint_bytes,
                "at least 1 MiB",
            ));
        }
        let scrub = store.scrub_bytes_per_second;
        if scrub.0 != 0 && !SCRUB_BYTES_PER_SECOND.contains(&scrub.0) {
            return Err(ConfigError::bound(
                "store.scrub_bytes_per_second",
                scrub,
                "0, or 64 KiB to 1 GiB",
            ));
        }
        let segment = |key, size: ByteSize| {
            u32::try_from(size.0).map_err(|_| ConfigError::bound(key, size, "at most 1 GiB"))
        };
        let breaker = self.breaker.config()?;
        let engine = EngineConfig {
            batch: BatchConfig {
                queue_requests_max: self.batch.queue_requests_max,
                queue_bytes_max: usize::try_from(self.batch.queue_bytes_max.0).unwrap_or(usize::MAX),
                max_linger: self.batch.max_linger,
                siblings: self.batch.siblings,
                client_share_percent: self.batch.client_share_percent,
            },
            circuits: self.breaker.circuits(&breaker)?,
            breaker,
            store: StoreConfig {
                segment_bytes: segment("store.segment_bytes", store.segment_bytes)?,
                block_bytes_max: segment("store.block_bytes_max", store.block_bytes_max)?,
            },
            checkpoint: CheckpointInterval(store.checkpoint_bytes.0),
            scrub: ScrubRate(scrub.0),
        };
        engine
            .batch
            .validate()
            .map_err(|error| ConfigError::Part(error.to_string()))?;
        engine
            .store
            .validate()
            .map_err(|error| ConfigError::Part(error.to_string()))?;
        Ok(engine)
    }

    /// The server's part.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key, the value and the bound.
    pub fn net(&self) -> Result<NetConfig, ConfigError> {
        let server = &self.server;
        let many = |key, value: usize| {
            if (1..=MANY).contains(&value) {
                Ok(value)
            } else {
                Err(ConfigError::bound(key, value, "1 to 1048576"))
            }
        };
        let time = |key, value: Duration, longest, bound| {
            if (Duration::from_secs(1)..=longest).contains(&value) {
                Ok(value)
            } else {
                Err(ConfigError::bound(key, humantime::format_duration(value), bound))
            }
        };
        let streams = server.streams_per_connection_max;
        many("server.streams_per_connection_max", streams as usize)?;
        Ok(NetConfig {
            streams_per_connection_max: streams,
            connections_per_thread_max: many(
                "server.connections_per_thread_max",
                server.connections_per_thread_max,
            )?,
            connections_per_client_max: many(
                "server.connections_per_client_max",
                server.connections_per_client_max,
            )?,
            idle_timeout: time("server.idle_timeout", server.idle_timeout, DAY, "1s to 1 day")?,
            connection_age_max: time(
                "server.connection_age_max",
                server.connection_age_max,
                365 * DAY,
                "1s to 1 year",
            )?,
            connection_grace: time(
                "server.connection_grace",
                server.connection_grace,
                DAY,
                "1s to 1 day",
            )?,
            message_time_max: time(
                "server.message_time_max",
                server.message_time_max,
                HOUR,
                "1s to 1 hour",
            )?,
            memory_max: usize::try_from(server.memory_max.0)
                .ok()
                .filter(|_| (MEMORY_MIN..=MEMORY_MAX).contains(&server.memory_max.0))
                .ok_or_else(|| {
                    ConfigError::bound("server.memory_max", server.memory_max, "64 MiB to 1 TiB")
                })?,
            drain: server.drain,
        })
    }

    /// Logs and traces.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key, the value and the bound.
    pub fn telemetry(&self) -> Result<TelemetrySection, ConfigError> {
        let section = &self.telemetry;
        if !(0.0..=1.0).contains(&section.trace_ratio) {
            return Err(ConfigError::bound(
                "telemetry.trace_ratio",
                section.trace_ratio,
                "0 to 1",
            ));
        }
        if !(Duration::from_secs(1)..=HOUR).contains(&section.metrics_interval) {
            let interval = humantime::format_duration(section.metrics_interval);
            return Err(ConfigError::bound(
                "telemetry.metrics_interval",
                interval,
                "1s to 1 hour",
            ));
        }
        Ok(section.clone())
    }

    /// Certificates and tokens.
    ///
    /// # Errors
    /// [`ConfigError`]: half of a pair is missing, or the service would be open to the world.
    pub fn security(&self) -> Result<SecurityConfig, ConfigError> {
        let section = &self.security;
        let missing = |key, of: &str| ConfigError::bound(key, "unset", &format!("set together with {of}"));
        let tls = match (&section.tls_certificate, &section.tls_key) {
            (Some(certificate), Some(key)) => Some(TlsPaths {
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca: section.client_ca.clone(),
            }),
            (None, None) if section.client_ca.is_none() => None,
            (None, _) => return Err(missing("security.tls_certificate", "security.tls_key")),
            (Some(_), None) => return Err(missing("security.tls_key", "security.tls_certificate")),
        };
        let secured = tls.is_some() && section.tokens_file.is_some();
        if !self.server.listen.ip().is_loopback() && !secured && !section.allow_insecure {
            let bound = "an address of this machine only (127.0.0.1, ::1), unless security.tls_certificate, \
                         security.tls_key and security.tokens_file are set, or security.allow_insecure is true";
            return Err(ConfigError::bound("server.listen", self.server.listen, bound));
        }
        Ok(SecurityConfig {
            tls,
            tokens: section.tokens_file.clone(),
        })
    }

    /// The placement's part.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key, the value and the bound.
    pub fn affinity(&self) -> Result<AffinityConfig, ConfigError> {
        let section = &self.affinity;
        let list = |key: &str, list: &Option<String>| match list {
            None => Ok(None),
            Some(text) => match text.parse::<CpuSet>() {
                Ok(cpus) => Ok(Some(cpus)),
                Err(error) => Err(ConfigError::bound(key, text, &error.to_string())),
            },
        };
        let mut config = AffinityConfig {
            mode: match section.mode {
                AffinityMode::Auto => Mode::Auto,
                AffinityMode::Off => Mode::Off,
                AffinityMode::Fence => Mode::Fence,
                AffinityMode::Pin => Mode::Pin,
                AffinityMode::Strict => Mode::Strict,
            },
            cpus: RoleCpus {
                exec: list("affinity.cpus.exec", &section.cpus.exec)?,
                wal: list("affinity.cpus.wal", &section.cpus.wal)?,
                net: list("affinity.cpus.net", &section.cpus.net)?,
                aux: list("affinity.cpus.aux", &section.cpus.aux)?,
            },
            ..AffinityConfig::default()
        };
        if let Some(threads) = section.net_threads_max {
            config.net_threads_max = threads;
        }
        config.fifo = FifoConfig {
            enabled: section.fifo.enabled,
            required: section.fifo.required,
            priority: section.fifo.priority.unwrap_or(config.fifo.priority),
            rttime_max: section.fifo.rttime_max.unwrap_or(config.fifo.rttime_max),
        };
        if let Some(interval) = section.verify_interval {
            config.verify_interval = interval;
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests;
