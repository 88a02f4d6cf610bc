//! How long the operations of a simulated disk would take. No operation waits: the simulator asks for the sum and moves
//! its clock.

use std::time::Duration;

use super::random::SplitMix64;

/// The simulated duration of operations. All values are in nanoseconds, unless their name says otherwise. Each
/// duration is varied at random by up to a quarter. The default is a disk whose operations take no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LatencyModel {
    /// Duration of a read or a write of no bytes.
    pub(crate) transfer: u64,
    /// Additional duration of a read or a write for each KiB.
    pub(crate) per_kib: u64,
    /// Duration of a sync of a file or a directory.
    pub(crate) sync: u64,
    /// Duration of every other operation.
    pub(crate) other: u64,
    /// Number of spikes per million operations.
    pub(crate) spikes_per_million: u32,
    /// Longest additional duration of an operation with a spike.
    pub(crate) spike_max: u64,
    /// Number of syncs per million at which a stall of the disk begins.
    pub(crate) stalls_per_million: u32,
    /// Largest number of syncs that a stall delays.
    pub(crate) stalled_syncs_max: u32,
    /// Least and greatest additional duration of a sync during a stall.
    pub(crate) stall: (u64, u64),
}

/// Adds the durations of the operations.
pub(super) struct Latency {
    model: LatencyModel,
    random: SplitMix64,
    elapsed: u64,
    stalled_syncs: u32,
    stall: (u64, u64),
}

/// Kinds of operations whose durations differ.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    Transfer(usize),
    Sync,
    Other,
}

const MICROSECOND: u64 = 1_000;
const SECOND: u64 = 1_000_000_000;

// ===== impl LatencyModel =====

impl LatencyModel {
    /// A solid-state disk of a cloud server: it syncs in about 0.5 ms, has a spike of up to 50 ms in 1 of 500
    /// operations, and in 1 of 5,000 syncs begins a stall, in which up to 4 syncs take 1 to 8 seconds each.
    pub(crate) const CLOUD: LatencyModel = LatencyModel {
        transfer: 5 * MICROSECOND,
        per_kib: MICROSECOND / 2,
        sync: 500 * MICROSECOND,
        other: 10 * MICROSECOND,
        spikes_per_million: 2_000,
        spike_max: 50_000 * MICROSECOND,
        stalls_per_million: 200,
        stalled_syncs_max: 4,
        stall: (SECOND, 8 * SECOND),
    };
}

// ===== impl Latency =====

impl Latency {
    pub(super) fn new(seed: u64) -> Self {
        Latency {
            model: LatencyModel::default(),
            random: SplitMix64::new(seed, 2),
            elapsed: 0,
            stalled_syncs: 0,
            stall: (0, 0),
        }
    }

    pub(super) fn set_model(&mut self, model: LatencyModel) {
        self.model = model;
    }

    /// Lets each of the next `syncs` syncs take `least` to `greatest` longer.
    pub(super) fn stall(&mut self, syncs: u32, least: Duration, greatest: Duration) {
        self.stalled_syncs = syncs;
        self.stall = (nanoseconds(least), nanoseconds(greatest));
    }

    /// Adds the duration of an operation.
    pub(super) fn charge(&mut self, work: Work) {
        if matches!(work, Work::Sync) {
            self.charge_stall();
        }
        let model = &self.model;
        let base = match work {
            Work::Transfer(bytes) => model.transfer + model.per_kib * bytes as u64 / 1024,
            Work::Sync => model.sync,
            Work::Other => model.other,
        };
        if base > 0 {
            self.elapsed += self.random.between(base - base / 4, base + base / 4);
        }
        if self.random.happens(model.spikes_per_million) {
            self.elapsed += self.random.between(0, model.spike_max);
        }
    }

    /// Returns the duration of the operations since the last call.
    pub(super) fn take(&mut self) -> Duration {
        Duration::from_nanos(std::mem::take(&mut self.elapsed))
    }

    fn charge_stall(&mut self) {
        if self.stalled_syncs == 0 && self.random.happens(self.model.stalls_per_million) {
            let syncs = self.random.between(1, u64::from(self.model.stalled_syncs_max));
            self.stalled_syncs = u32::try_from(syncs).unwrap();
            self.stall = self.model.stall;
        }
        if self.stalled_syncs > 0 {
            self.stalled_syncs -= 1;
            self.elapsed += self.random.between(self.stall.0, self.stall.1);
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap()
}
