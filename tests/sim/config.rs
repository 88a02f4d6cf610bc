//! The configuration of one simulation. All values are chosen from the seed. The values differ much between seeds, so that
//! combinations which are rare in most seeds are frequent in some.

use std::time::Duration;

use crate::{arguments::Setting, random::Random};

/// A setting of the simulation that the search for a smaller failing configuration can reduce.
pub(crate) struct Knob {
    pub(crate) name: &'static str,
    pub(crate) get: fn(&Config) -> u64,
    pub(crate) set: fn(&mut Config, u64),
    /// The value at which the simulation is the simplest.
    pub(crate) simplest: u64,
}

macro_rules! config {
    ($($(#[$doc:meta])* $field:ident: $simplest:literal,)*) => {
        /// The configuration of one simulation.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(crate) struct Config {
            pub(crate) seed: u64,
            $($(#[$doc])* pub(crate) $field: u64,)*
        }

        /// Every setting except the seed.
        pub(crate) const KNOBS: &[Knob] = &[$(Knob {
            name: stringify!($field),
            get: |config| config.$field,
            set: |config, value| config.$field = value,
            simplest: $simplest,
        },)*];
    };
}

config! {
    /// Number of calls that the clients make.
    calls: 1,
    /// Maximum number of accounts.
    accounts: 2,
    /// Clients that send single transactions.
    single_clients: 1,
    /// Clients that send batches.
    batch_clients: 0,
    /// Clients that send streams.
    stream_clients: 0,
    /// Clients that read.
    readers: 0,
    /// Clients that create accounts.
    creators: 1,
    /// Maximum number of transactions in a batch.
    batch_max: 1,
    /// Maximum number of messages of a stream in flight.
    window: 1,
    /// Maximum number of transfers of a transaction.
    legs_max: 1,
    /// Percentage of transactions with an id that was used before.
    repeats: 0,
    /// Percentage of the repeated ids that come with other content.
    changes: 0,
    /// Percentage of transactions that have much metadata.
    large: 0,
    /// Percentage of calls with a deadline.
    deadlines: 0,
    /// Percentage of calls whose client leaves before the answer.
    impatient: 0,
    /// Percentage of amounts that are too high for the balances.
    greedy: 0,
    /// Maximum pause of a client between two calls, in microseconds.
    pause_us: 1,
    /// Maximum time that the log needs for an ordinary block, in microseconds; 0 if it needs none.
    commit_us: 0,
    /// One in this many blocks needs up to a hundred times as long; 0 if none does.
    spike_one_in: 0,
    /// One in this many blocks stalls for up to 20 s; 0 if none does.
    stall_one_in: 0,
    /// Length of a block in KiB.
    block_kib: 8,
    /// Length of a segment in blocks.
    segment_blocks: 4,
    /// Bytes of journal between two checkpoints, in KiB.
    checkpoint_kib: 1024,
    /// How many times the process dies. The next four settings are the weights of the ways to die.
    deaths: 0,
    /// Weight of deaths in which the power fails, at a random operation of the disk.
    power_cuts: 1,
    /// Weight of deaths in which the process is killed.
    kills: 0,
    /// Weight of clean stops.
    stops: 0,
    /// Weight of disk failures: one sync fails, or all operations from then on fail.
    disk_failures: 0,
    /// Whether operations of the disk fail by chance: 1 or 0.
    disk_faults: 0,
    /// Whether a crash shows stale bytes in sectors that were never synced: 1 or 0.
    stale_bytes: 0,
    /// One in this many steps the whole process freezes for a while, like after SIGSTOP; 0 if it never does.
    freeze_one_in: 0,
    /// Percentage of starts that meet another power cut.
    cuts_at_start: 0,
    /// Percentage of starts before which checkpoints and id files are damaged or removed.
    derived_damage: 0,
    /// Percentage of starts before which a bit of the journal flips, to check that the start refuses the damage.
    journal_damage: 0,
    /// One in this many steps the disk becomes full, or has space again; 0 if it always has space.
    full_one_in: 0,
    /// One in this many steps the wall clock jumps; 0 if it never does.
    clock_jumps_one_in: 0,
    /// Whether the clients' runtime has a wake task: 1 or 0.
    wake_task: 0,
    /// Percentage of leaving clients that lose their connection, with all its calls.
    disconnects: 0,
    /// Whether the service probes a half-open circuit itself: 1 or 0.
    self_probe: 0,
    /// Percentage of the scheduler's choices that go to the engine rather than to the clients.
    engine_share: 50,
    /// Number of requests that the queue holds; 0 if it holds more than the clients ever send.
    queue: 0,
    /// Percentage of transactions that are holds.
    holds: 0,
    /// Percentage of transactions that post or void a hold.
    ends: 0,
    /// Percentage of holds that expire.
    timeouts: 0,
    /// The longest time after which a hold expires, in milliseconds.
    timeout_ms: 1,
    /// Maximum number of outstanding holds; 0 if there is no maximum.
    holds_max: 0,
    /// Percentage of transactions that reverse another one.
    reversals: 0,
    /// Percentage of transfers that move at most what is available.
    clamps: 0,
    /// Percentage of accounts that have velocity limits.
    limits: 0,
    /// Percentage of transactions whose answers show balances.
    balances: 0,
    /// Clients that update accounts.
    updaters: 0,
}

/// The settings that the command line can change, in the order of [`KNOBS`].
pub(crate) fn settings() -> Vec<Setting> {
    let setting = |knob: &Knob| Setting {
        name: knob.name,
        bounds: match knob.name {
            // A transfer needs two accounts.
            "accounts" => 2..=1000,
            "calls" => 1..=1_000_000,
            "batch_max" => 1..=8192,
            "legs_max" => 1..=100,
            "window" => 1..=1000,
            // The bounds of the store.
            "block_kib" => 8..=1024,
            "segment_blocks" => 4..=64,
            "queue" => 0..=1 << 20,
            "checkpoint_kib" => 0..=1 << 32,
            "single_clients" | "batch_clients" | "stream_clients" | "readers" | "creators" | "updaters"
            | "deaths" => 0..=1000,
            "timeout_ms" => 1..=MAX_TIMEOUT_MS,
            _ => 0..=u32::MAX.into(),
        },
    };
    KNOBS.iter().map(setting).collect()
}

/// The longest time after which a hold expires, in milliseconds.
pub(crate) const MAX_TIMEOUT_MS: u64 = 8192;

// ===== impl Config =====

impl Config {
    /// Chooses a configuration.
    pub(crate) fn from_seed(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5eed_c0de);
        let r = &mut random;
        // Half of the features are absent in a seed.
        let some = |r: &mut Random, max: u64| if r.percent(50) { r.within(&(1..max + 1)) } else { 0 };
        let mut config = Config {
            seed,
            calls: r.within(&(20..600)),
            accounts: r.within(&(2..24)),
            single_clients: r.within(&(1..8)),
            batch_clients: some(r, 4),
            stream_clients: some(r, 3),
            readers: some(r, 3),
            creators: r.within(&(1..3)),
            batch_max: r.within(&(2..60)),
            window: r.within(&(1..16)),
            legs_max: r.within(&(1..6)),
            repeats: some(r, 40),
            changes: some(r, 30),
            large: some(r, 60),
            deadlines: some(r, 50),
            impatient: some(r, 30),
            greedy: some(r, 60),
            pause_us: 1 << r.within(&(4..22)),
            commit_us: if r.percent(80) { 1 << r.within(&(4..15)) } else { 0 },
            spike_one_in: if r.percent(50) { r.within(&(2..50)) } else { 0 },
            stall_one_in: if r.percent(25) { r.within(&(20..200)) } else { 0 },
            block_kib: r.within(&(8..40)),
            segment_blocks: r.within(&(4..9)),
            checkpoint_kib: 1 << r.within(&(2..10)),
            deaths: r.within(&(0..6)),
            power_cuts: r.within(&(1..5)),
            kills: some(r, 2),
            stops: some(r, 2),
            disk_failures: some(r, 2),
            disk_faults: u64::from(r.percent(25)),
            stale_bytes: r.within(&(0..2)),
            freeze_one_in: if r.percent(30) { r.within(&(20..500)) } else { 0 },
            cuts_at_start: some(r, 50),
            derived_damage: some(r, 60),
            journal_damage: some(r, 40),
            clock_jumps_one_in: if r.percent(25) { r.within(&(50..2000)) } else { 0 },
            wake_task: r.within(&(0..2)),
            disconnects: some(r, 60),
            self_probe: r.within(&(0..2)),
            engine_share: r.within(&(20..90)),
            full_one_in: if r.percent(25) { r.within(&(50..1500)) } else { 0 },
            queue: if r.percent(15) { r.within(&(2..12)) } else { 0 },
            holds: some(r, 50),
            ends: r.within(&(1..50)),
            timeouts: some(r, 80),
            timeout_ms: 1 << r.within(&(0..14)),
            holds_max: if r.percent(30) { r.within(&(1..20)) } else { 0 },
            reversals: some(r, 25),
            clamps: some(r, 40),
            limits: some(r, 60),
            balances: some(r, 50),
            updaters: some(r, 2),
        };
        if config.holds == 0 {
            (config.ends, config.holds_max) = (0, 0);
        }
        // Large batches of large transactions would make a few seeds much slower than the others.
        if config.batch_clients > 0 {
            config.calls = config.calls.min(300);
        }
        config
    }

    /// The longest time that the log needs for an ordinary block.
    pub(crate) const fn commit_max(&self) -> Duration {
        Duration::from_micros(self.commit_us)
    }

    /// Describes how the configuration differs from the configuration that the seed gives.
    pub(crate) fn difference(&self) -> String {
        let chosen = Config::from_seed(self.seed);
        let mut words = Vec::new();
        for knob in KNOBS {
            let value = (knob.get)(self);
            if value != (knob.get)(&chosen) {
                words.push(format!("--set {}={value}", knob.name));
            }
        }
        words.join(" ")
    }
}
