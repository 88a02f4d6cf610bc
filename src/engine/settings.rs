//! The sections `batch` and `affinity` of the configuration file. They configure the queue and the CPUs of the threads.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use tally_batch::{BatchConfig, BatchConfigValue};
use tally_topology::{AffinityConfig, AffinityError, CpuSet, FifoConfig, Mode, RoleCpus};

use super::breaker_settings::Preset;
use crate::settings::{SettingError, bytes_text, deserialize_text, range_text, serialize_bytes};

/// The section `batch`: the queue and the batches.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchSettings {
    /// Maximum number of queued requests, 2 to 2^20.
    pub queue_requests_max: usize,
    /// Maximum number of bytes of queued requests, 1 MiB to 1 TiB.
    #[serde(serialize_with = "serialize_bytes")]
    pub queue_bytes_max: ByteSize,
    /// Maximum time that a batch waits for calls that have begun but have not reached the queue, 0 to 1 s. In any case,
    /// a batch waits no longer than half the time that a commit takes. With 0, a batch never waits.
    #[serde(with = "humantime_serde")]
    pub max_linger: Duration,
    /// Minimum number of calls that have begun for which a batch waits, 1 to 2^20.
    pub siblings: usize,
    /// Maximum part of a batch that one connection may fill while requests of other connections wait, 1 to 100. It is
    /// in percent of the largest batch.
    pub client_share_percent: u8,
    /// Maximum time from the start of a batch to its replies, 1 µs to 1 h. A batch that takes longer is counted, and a
    /// warning is logged at most every 10 s. If the key is not set, the budget is 800 µs with `breaker.preset =
    /// "seed"`, and otherwise there is no budget.
    #[serde(with = "humantime_serde::option")]
    pub latency_budget: Option<Duration>,
}

/// The section `affinity`: the CPUs of the threads.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AffinitySettings {
    /// How threads are placed: `auto`, `off`, `fence`, `pin` or `strict`.
    pub mode: AffinityMode,
    /// The CPUs of each role, in the list syntax of cpusets such as `0-3,7`. A role without a list gets CPUs from the
    /// plan.
    pub cpus: RoleLists,
    /// Maximum number of NET threads, 1 to 64.
    pub net_threads_max: Option<usize>,
    /// The real-time scheduling class for EXEC and WAL.
    pub fifo: FifoSettings,
    /// How often the affinity masks of all threads are compared with the plan, 100 ms to 1 h.
    #[serde(with = "humantime_serde::option")]
    pub verify_interval: Option<Duration>,
}

/// How threads are placed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AffinityMode {
    /// Pins threads if the machine allows it and has enough CPUs to gain from it.
    #[default]
    Auto,
    /// Leaves the affinity masks of all threads as they are.
    Off,
    /// Lets every thread run on all CPUs that the process may use.
    Fence,
    /// Pins threads to CPUs.
    Pin,
    /// Pins threads. The service does not start if a thread can't be pinned.
    Strict,
}

/// The key `affinity.cpus`: the CPUs of each role.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoleLists {
    /// CPUs of EXEC, the thread that executes transactions.
    #[serde(deserialize_with = "deserialize_text")]
    pub exec: Option<String>,
    /// CPUs of WAL, the thread that writes the journal.
    #[serde(deserialize_with = "deserialize_text")]
    pub wal: Option<String>,
    /// CPUs of NET, the threads that serve the connections of clients.
    #[serde(deserialize_with = "deserialize_text")]
    pub net: Option<String>,
    /// CPUs of AUX, all other threads.
    #[serde(deserialize_with = "deserialize_text")]
    pub aux: Option<String>,
}

/// The key `affinity.fifo`: the real-time scheduling class `SCHED_FIFO` for EXEC and WAL.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FifoSettings {
    /// Whether to request the real-time class.
    pub enabled: bool,
    /// The real-time priority, 1 to 10.
    pub priority: Option<u8>,
    /// If true, the service does not start when the kernel denies the real-time class.
    pub required: bool,
    /// Maximum time that a real-time thread may run without blocking, 100 ms to 60 s. The kernel ends the process if a
    /// thread runs longer.
    #[serde(with = "humantime_serde::option")]
    pub rttime_max: Option<Duration>,
}

/// The latency budget of a batch under the preset `seed`.
const SEED_LATENCY_BUDGET: Duration = Duration::from_micros(800);

// ===== impl BatchSettings =====

impl Default for BatchSettings {
    fn default() -> Self {
        let batch = BatchConfig::default();
        BatchSettings {
            queue_requests_max: batch.queue_requests_max,
            queue_bytes_max: ByteSize(batch.queue_bytes_max as u64),
            max_linger: batch.max_linger,
            siblings: batch.siblings,
            client_share_percent: batch.client_share_percent,
            latency_budget: batch.latency_budget,
        }
    }
}

impl BatchSettings {
    /// Returns the latency budget of a batch. `preset` determines the budget if the key is not set.
    #[must_use]
    pub fn effective_latency_budget(&self, preset: Option<Preset>) -> Option<Duration> {
        let of_preset = (preset == Some(Preset::Seed)).then_some(SEED_LATENCY_BUDGET);
        self.latency_budget.or(of_preset)
    }

    /// Checks the section, and returns the settings of the batch processor. `preset` is the preset of the section
    /// `breaker`. It determines the latency budget if the key `latency_budget` is not set.
    ///
    /// # Errors
    /// [`SettingError`] for the first key that is out of bounds.
    pub fn config(&self, preset: Option<Preset>) -> Result<BatchConfig, SettingError> {
        let config = BatchConfig {
            queue_requests_max: self.queue_requests_max,
            // A number that does not fit `usize` exceeds the upper bound, too, so `validate` reports it.
            queue_bytes_max: usize::try_from(self.queue_bytes_max.0).unwrap_or(usize::MAX),
            max_linger: self.max_linger,
            siblings: self.siblings,
            client_share_percent: self.client_share_percent,
            latency_budget: self.effective_latency_budget(preset),
        };
        match config.validate() {
            Ok(()) => Ok(config),
            Err(error) => {
                let key = format!("batch.{}", error.field);
                let written = |value| as_written(error.field, value);
                let bound = range_text(&written(error.minimum), &written(error.maximum));
                Err(SettingError::new(key, written(error.value), bound))
            }
        }
    }
}

/// Returns a value of `field` in the form in which an operator writes it in the configuration.
fn as_written(field: &str, value: BatchConfigValue) -> String {
    match value {
        BatchConfigValue::Number(number) if field == "queue_bytes_max" => bytes_text(number as u64),
        BatchConfigValue::Number(number) => number.to_string(),
        BatchConfigValue::Time(time) => humantime::format_duration(time).to_string(),
    }
}

// ===== impl AffinitySettings =====

impl AffinitySettings {
    /// Parses the CPU lists, checks the section, and returns the settings of the placement. Whether the machine has the
    /// CPUs is checked when the placement is planned.
    ///
    /// # Errors
    /// [`SettingError`] for the first key that is malformed or out of bounds.
    pub fn config(&self) -> Result<AffinityConfig, SettingError> {
        let list = |key: &str, list: &Option<String>| match list {
            None => Ok(None),
            Some(text) => match text.parse::<CpuSet>() {
                Ok(cpus) => Ok(Some(cpus)),
                Err(error) => {
                    let bound = format!("a list of CPUs such as 0-3,7: {error}");
                    Err(SettingError::new(key, text, bound))
                }
            },
        };
        let defaults = AffinityConfig::default();
        let config = AffinityConfig {
            mode: match self.mode {
                AffinityMode::Auto => Mode::Auto,
                AffinityMode::Off => Mode::Off,
                AffinityMode::Fence => Mode::Fence,
                AffinityMode::Pin => Mode::Pin,
                AffinityMode::Strict => Mode::Strict,
            },
            cpus: RoleCpus {
                exec: list("affinity.cpus.exec", &self.cpus.exec)?,
                wal: list("affinity.cpus.wal", &self.cpus.wal)?,
                net: list("affinity.cpus.net", &self.cpus.net)?,
                aux: list("affinity.cpus.aux", &self.cpus.aux)?,
            },
            net_threads_max: self.net_threads_max.unwrap_or(defaults.net_threads_max),
            fifo: FifoConfig {
                enabled: self.fifo.enabled,
                required: self.fifo.required,
                priority: self.fifo.priority.unwrap_or(defaults.fifo.priority),
                rttime_max: self.fifo.rttime_max.unwrap_or(defaults.fifo.rttime_max),
            },
            verify_interval: self.verify_interval.unwrap_or(defaults.verify_interval),
        };
        match config.validate() {
            Err(AffinityError::InvalidConfig { field, value, bound }) => {
                Err(SettingError::new(field, value, bound))
            }
            // `validate` has no other errors. The plan would report them.
            Ok(()) | Err(_) => Ok(config),
        }
    }

    /// Returns the section with the values that hold for the keys that are not set.
    #[must_use]
    pub fn effective(&self) -> Self {
        let AffinityConfig {
            net_threads_max,
            fifo,
            verify_interval,
            ..
        } = AffinityConfig::default();
        AffinitySettings {
            net_threads_max: self.net_threads_max.or(Some(net_threads_max)),
            fifo: FifoSettings {
                priority: self.fifo.priority.or(Some(fifo.priority)),
                rttime_max: self.fifo.rttime_max.or(Some(fifo.rttime_max)),
                ..self.fifo.clone()
            },
            verify_interval: self.verify_interval.or(Some(verify_interval)),
            ..self.clone()
        }
    }
}
