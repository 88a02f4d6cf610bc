//! A bounded set of breakers by key.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;

use super::{
    clock::{Clock, SystemClock},
    config::CircuitBreakerConfig,
    error::ConfigError,
    gate::CircuitState,
    handle::{DEFAULT_KEY, LatencyCircuitBreaker},
    hang::Work,
    stats::TransitionObserver,
};

/// Breakers by key, made when first asked for: with the settings of [`BreakerRegistry::set_config`] for that key, or else
/// the registry's own. At most [`BreakerRegistry::keys_max`] of them: for a new key beyond that, the least recently used
/// breaker that is closed and that nobody holds makes room; if there is none, the default breaker stands in.
pub struct BreakerRegistry {
    keys_max: usize,
    config: CircuitBreakerConfig,
    /// Settings of some keys, at most `keys_max` of them.
    overrides: HashMap<Box<str>, CircuitBreakerConfig>,
    clock: Arc<dyn Clock>,
    observer: Option<Arc<dyn TransitionObserver>>,
    default: LatencyCircuitBreaker,
    entries: RwLock<HashMap<Box<str>, Entry>>,
}

#[derive(Debug)]
struct Entry {
    breaker: LatencyCircuitBreaker,
    /// When it was last asked for, by the registry's clock (Relaxed: approximate order is enough).
    used_ns: AtomicU64,
}

/// How many keys a registry holds unless told otherwise.
pub const REGISTRY_KEYS_MAX: usize = 1024;

// ===== impl BreakerRegistry =====

impl BreakerRegistry {
    /// A registry for [`REGISTRY_KEYS_MAX`] keys on the system's monotonic clock.
    ///
    /// # Errors
    /// A setting is out of bounds.
    pub fn new(config: CircuitBreakerConfig) -> Result<Self, ConfigError> {
        Self::with(config, REGISTRY_KEYS_MAX, Arc::new(SystemClock::new()), None)
    }

    /// A registry for `keys_max` keys, whose breakers share a clock and an observer.
    ///
    /// # Errors
    /// A setting is out of bounds.
    pub fn with(
        config: CircuitBreakerConfig,
        keys_max: usize,
        clock: Arc<dyn Clock>,
        observer: Option<Arc<dyn TransitionObserver>>,
    ) -> Result<Self, ConfigError> {
        let default = build(DEFAULT_KEY, &config, &clock, observer.as_ref())?;
        Ok(Self {
            keys_max,
            config,
            overrides: HashMap::new(),
            clock,
            observer,
            default,
            entries: RwLock::default(),
        })
    }

    /// Gives `key` settings of its own, for when its breaker is made. Settings of more than [`BreakerRegistry::keys_max`]
    /// keys are not kept: the keys beyond have the registry's.
    ///
    /// # Errors
    /// A setting is out of bounds.
    pub fn set_config(&mut self, key: &str, config: CircuitBreakerConfig) -> Result<(), ConfigError> {
        config.validate()?;
        if self.overrides.len() < self.keys_max || self.overrides.contains_key(key) {
            self.overrides.insert(key.into(), config);
        }
        Ok(())
    }

    /// The breaker of `key`, made if need be; the default breaker if there is no room.
    pub fn get(&self, key: &str) -> LatencyCircuitBreaker {
        if key == DEFAULT_KEY {
            return self.default.clone();
        }
        let now_ns = self.clock.now_ns();
        if let Some(entry) = self.entries.read().get(key) {
            entry.used_ns.store(now_ns, Ordering::Relaxed);
            return entry.breaker.clone();
        }
        let mut entries = self.entries.write();
        if let Some(entry) = entries.get(key) {
            return entry.breaker.clone();
        }
        if entries.len() >= self.keys_max && !evict_one(&mut entries) {
            return self.default.clone();
        }
        // The settings were found valid when the registry was made.
        let config = self.overrides.get(key).unwrap_or(&self.config);
        let Ok(breaker) = build(key, config, &self.clock, self.observer.as_ref()) else {
            return self.default.clone();
        };
        entries.insert(
            key.into(),
            Entry {
                breaker: breaker.clone(),
                used_ns: AtomicU64::new(now_ns),
            },
        );
        breaker
    }

    /// The breaker of `key`, if there is one.
    pub fn find(&self, key: &str) -> Option<LatencyCircuitBreaker> {
        if key == DEFAULT_KEY {
            return Some(self.default.clone());
        }
        self.entries.read().get(key).map(|entry| entry.breaker.clone())
    }

    /// The breaker that stands in when there is no room.
    pub const fn default_breaker(&self) -> &LatencyCircuitBreaker {
        &self.default
    }

    /// Every breaker: the default one first, the others by key.
    pub fn list(&self) -> Vec<LatencyCircuitBreaker> {
        let mut breakers: Vec<_> = self
            .entries
            .read()
            .values()
            .map(|entry| entry.breaker.clone())
            .collect();
        breakers.sort_by(|a, b| a.key().cmp(b.key()));
        breakers.insert(0, self.default.clone());
        breakers
    }

    /// Ticks every breaker; see [`LatencyCircuitBreaker::tick`].
    pub fn tick(&self) {
        self.default.tick();
        for entry in self.entries.read().values() {
            entry.breaker.tick();
        }
    }

    /// Ticks every breaker; see [`LatencyCircuitBreaker::tick_watching`].
    pub fn tick_watching(&self, work: Work) {
        self.default.tick_watching(work);
        for entry in self.entries.read().values() {
            entry.breaker.tick_watching(work);
        }
    }

    /// How many keys it holds at most, besides the default one.
    pub const fn keys_max(&self) -> usize {
        self.keys_max
    }
}

impl fmt::Debug for BreakerRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerRegistry")
            .field("keys_max", &self.keys_max)
            .field("keys", &self.entries.read().len())
            .finish_non_exhaustive()
    }
}

fn build(
    key: &str,
    config: &CircuitBreakerConfig,
    clock: &Arc<dyn Clock>,
    observer: Option<&Arc<dyn TransitionObserver>>,
) -> Result<LatencyCircuitBreaker, ConfigError> {
    let builder = LatencyCircuitBreaker::builder(config.clone())
        .key(key)
        .clock(Arc::clone(clock));
    match observer {
        Some(observer) => builder.observer(Arc::clone(observer)).build(),
        None => builder.build(),
    }
}

/// Drops the least recently used breaker that is closed and unshared; false if there is none.
fn evict_one(entries: &mut HashMap<Box<str>, Entry>) -> bool {
    let idle = entries
        .iter()
        .filter(|(_, entry)| entry.breaker.is_unshared() && entry.breaker.state() == CircuitState::Closed)
        .min_by_key(|(_, entry)| entry.used_ns.load(Ordering::Relaxed))
        .map(|(key, _)| key.clone());
    idle.is_some_and(|key| entries.remove(&key).is_some())
}
