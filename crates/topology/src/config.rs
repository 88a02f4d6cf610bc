//! Settings for the placement of threads on CPUs, and the bounds of the settings.

use std::time::Duration;

use super::{cpuset::CpuSet, error::AffinityError, role::Role};

/// Default maximum number of NET threads. More NET threads would send more requests than one EXEC thread can process.
pub const NET_THREADS_MAX_DEFAULT: usize = 8;

/// Largest allowed value of [`AffinityConfig::net_threads_max`].
pub const NET_THREADS_LIMIT: usize = 64;

/// Largest allowed `SCHED_FIFO` priority. Real-time kernels run interrupt threads with priority 50. Interrupt threads
/// must run before the threads of this process.
pub const FIFO_PRIORITY_MAX: u8 = 10;

/// Lower bound of [`FifoConfig::rttime_max`].
pub const RTTIME_MIN: Duration = Duration::from_millis(100);
/// Upper bound of [`FifoConfig::rttime_max`].
pub const RTTIME_MAX: Duration = Duration::from_secs(60);

/// Lower bound of [`AffinityConfig::verify_interval`].
pub const VERIFY_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Upper bound of [`AffinityConfig::verify_interval`].
pub const VERIFY_INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// How threads are placed on CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Pins threads if the CPUs seem to belong to this process alone. If other processes share the CPUs, or if there
    /// are too few CPUs, does the same as `Fence`.
    #[default]
    Auto,
    /// Changes no mask.
    Off,
    /// Keeps every thread on the allowed CPUs, and pins no thread to a single CPU.
    Fence,
    /// Pins threads by the table of roles (see `layout.rs`), even if a CPU quota limits the process.
    Pin,
    /// Does the same as `Pin`, but a thread that can't get its planned CPUs is an error instead of a warning.
    Strict,
}

/// Settings of the placement of threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AffinityConfig {
    /// How threads are placed on CPUs.
    pub mode: Mode,
    /// Explicit CPU lists by role. A role without a list gets CPUs by the table of roles.
    pub cpus: RoleCpus,
    /// Maximum number of NET threads, 1 to [`NET_THREADS_LIMIT`].
    pub net_threads_max: usize,
    /// Real-time scheduling of EXEC and WAL.
    pub fifo: FifoConfig,
    /// Time between two calls of [`verify_now`](super::CpuAffinityManager::verify_now), [`VERIFY_INTERVAL_MIN`] to
    /// [`VERIFY_INTERVAL_MAX`]. The program that uses this crate makes the calls.
    pub verify_interval: Duration,
}

/// Explicit CPU lists. Each EXEC, WAL and NET thread gets one CPU of its role's list, by the index of the thread.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoleCpus {
    /// CPUs of EXEC.
    pub exec: Option<CpuSet>,
    /// CPUs of WAL.
    pub wal: Option<CpuSet>,
    /// CPUs of NET.
    pub net: Option<CpuSet>,
    /// CPUs of AUX.
    pub aux: Option<CpuSet>,
}

/// `SCHED_FIFO` for EXEC and WAL. It is off by default, because no other thread can run on a CPU while a real-time
/// thread polls there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FifoConfig {
    /// Whether EXEC and WAL threads request `SCHED_FIFO`.
    pub enabled: bool,
    /// Priority, from 1 to [`FIFO_PRIORITY_MAX`].
    pub priority: u8,
    /// Whether a refusal by the kernel is an error instead of a warning.
    pub required: bool,
    /// The limit `RLIMIT_RTTIME`, from [`RTTIME_MIN`] to [`RTTIME_MAX`], with a precision of 1 µs. If a real-time
    /// thread runs for this time without blocking, the process gets the signal `SIGXCPU`, which ends the process.
    pub rttime_max: Duration,
}

// ===== impl Mode =====

impl Mode {
    /// The mode's name in the configuration file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
            Self::Fence => "fence",
            Self::Pin => "pin",
            Self::Strict => "strict",
        }
    }
}

// ===== impl AffinityConfig =====

impl Default for AffinityConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            cpus: RoleCpus::default(),
            net_threads_max: NET_THREADS_MAX_DEFAULT,
            fifo: FifoConfig::default(),
            verify_interval: Duration::from_secs(10),
        }
    }
}

impl AffinityConfig {
    /// Checks the bounds that do not depend on the machine.
    ///
    /// # Errors
    /// [`AffinityError::InvalidConfig`] with the field, its value and the bound.
    pub fn validate(&self) -> Result<(), AffinityError> {
        check(
            (1..=NET_THREADS_LIMIT).contains(&self.net_threads_max),
            "affinity.net_threads_max",
            &self.net_threads_max,
            "1 to 64",
        )?;
        check(
            (1..=FIFO_PRIORITY_MAX).contains(&self.fifo.priority),
            "affinity.fifo.priority",
            &self.fifo.priority,
            "1 to 10",
        )?;
        check(
            (RTTIME_MIN..=RTTIME_MAX).contains(&self.fifo.rttime_max),
            "affinity.fifo.rttime_max",
            &format_args!("{:?}", self.fifo.rttime_max),
            "100ms to 60s",
        )?;
        check(
            (VERIFY_INTERVAL_MIN..=VERIFY_INTERVAL_MAX).contains(&self.verify_interval),
            "affinity.verify_interval",
            &format_args!("{:?}", self.verify_interval),
            "100ms to 1h",
        )?;
        check(
            self.fifo.enabled || !self.fifo.required,
            "affinity.fifo.required",
            &self.fifo.required,
            "false unless affinity.fifo.enabled is true",
        )?;
        for role in Role::ALL {
            let empty = self.cpus.get(role).is_some_and(CpuSet::is_empty);
            check(!empty, role.cpus_field(), &"", "at least one CPU id")?;
        }
        Ok(())
    }
}

// ===== impl RoleCpus =====

impl RoleCpus {
    /// The list of `role`; `None` if the role has no list.
    #[must_use]
    pub const fn get(&self, role: Role) -> Option<&CpuSet> {
        match role {
            Role::Exec => self.exec.as_ref(),
            Role::Wal => self.wal.as_ref(),
            Role::Net => self.net.as_ref(),
            Role::Aux => self.aux.as_ref(),
        }
    }
}

// ===== impl FifoConfig =====

impl Default for FifoConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            priority: 1,
            required: false,
            rttime_max: Duration::from_secs(5),
        }
    }
}

fn check(
    holds: bool,
    field: &'static str,
    value: &dyn std::fmt::Display,
    bound: &'static str,
) -> Result<(), AffinityError> {
    if holds {
        return Ok(());
    }
    Err(AffinityError::InvalidConfig {
        field,
        value: value.to_string(),
        bound,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut AffinityConfig)) -> String {
        let mut config = AffinityConfig::default();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn the_default_is_valid() {
        AffinityConfig::default().validate().unwrap();
    }

    #[test]
    fn refusals_name_field_value_and_bound() {
        assert_eq!(
            refusal(|config| config.fifo.priority = 50),
            "affinity.fifo.priority = `50` is out of bounds: 1 to 10"
        );
        assert_eq!(
            refusal(|config| config.fifo.priority = 0),
            "affinity.fifo.priority = `0` is out of bounds: 1 to 10"
        );
        assert_eq!(
            refusal(|config| config.net_threads_max = 0),
            "affinity.net_threads_max = `0` is out of bounds: 1 to 64"
        );
        assert_eq!(
            refusal(|config| config.net_threads_max = 65),
            "affinity.net_threads_max = `65` is out of bounds: 1 to 64"
        );
        assert_eq!(
            refusal(|config| config.fifo.rttime_max = Duration::from_millis(99)),
            "affinity.fifo.rttime_max = `99ms` is out of bounds: 100ms to 60s"
        );
        assert_eq!(
            refusal(|config| config.verify_interval = Duration::from_millis(99)),
            "affinity.verify_interval = `99ms` is out of bounds: 100ms to 1h"
        );
        assert_eq!(
            refusal(|config| config.fifo.required = true),
            "affinity.fifo.required = `true` is out of bounds: false unless affinity.fifo.enabled is true"
        );
        assert_eq!(
            refusal(|config| config.cpus.wal = Some(CpuSet::new())),
            "affinity.cpus.wal = `` is out of bounds: at least one CPU id"
        );
    }
}
