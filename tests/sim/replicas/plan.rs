//! What happens in a run with replicas: all of it comes from the seed.

use std::time::Duration;

use tally_journal::{JournalConfig, SEGMENT_GRANULE_BYTES};
use tally_replication::Timing;

use crate::random::Random;

/// The number of replicas.
pub(crate) const REPLICAS: usize = 3;

/// The address of a replica.
pub(crate) fn address(index: usize) -> String {
    format!("http://replica-{index}:1")
}

/// The settings of a run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// How long faults happen.
    pub(crate) faulty: Duration,
    /// The longest time between two faults of replicas.
    pub(crate) fault_pause: Duration,
    /// The sizes of the journal.
    pub(crate) sizes: JournalConfig,
    /// The bytes between two checkpoints.
    pub(crate) checkpoint_bytes: u64,
    pub(crate) heartbeat: Duration,
    pub(crate) timing: Timing,
    /// Appends in flight.
    pub(crate) requests_max: usize,
    pub(crate) clients: usize,
    /// The longest pause of a client between two calls.
    pub(crate) client_pause: Duration,
    /// How often each fault of a replica is chosen.
    pub(crate) weights: [u64; FAULTS],
    pub(crate) log: LogFaults,
    /// How often a replica gets no answer from another one, in percent.
    pub(crate) peer_losses: u64,
    /// Whether the log loses records that replicas have seen, but that it has not acknowledged. Replicas then may stop for good.
    pub(crate) loses_visible: bool,
    /// Whether the run ends with the end of the log.
    pub(crate) ends_log: bool,
    /// The probability, in percent, that a step of a thread is followed by a stall of this thread.
    pub(crate) stalls: u64,
}

/// The faults of the log, each as a probability in percent.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogFaults {
    pub(crate) latency_max: Duration,
    pub(crate) lost_requests: u64,
    pub(crate) lost_answers: u64,
    pub(crate) refusals: u64,
    /// The records are stored, but only on one broker, so the answer is an error.
    pub(crate) under_replicated: u64,
    /// Another copy of the request arrives later.
    pub(crate) zombies: u64,
    /// Another copy of the request arrives at once.
    pub(crate) duplicates: u64,
    /// A read sees an older end of the log.
    pub(crate) stale_reads: u64,
    /// A read fails, although the replica is connected.
    pub(crate) failed_reads: u64,
    /// An answer takes up to a second.
    pub(crate) slow_answers: u64,
}

/// The kinds of faults of replicas.
pub(crate) const FAULTS: usize = 11;

/// A fault of a replica or of the log that happens at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    PowerLoss,
    /// The power fails at an operation of the disk.
    PowerLossLater,
    /// A sync of the disk fails.
    SyncFails,
    /// The process stands still for a while.
    Pause,
    /// The replica does not reach the log, or not the log the replica.
    Cut,
    ClockStep,
    /// The leader resigns.
    Resign,
    /// Another broker leads.
    BrokerChange,
    /// Somebody writes records.
    ForeignRecords,
    /// A replica can't forward calls to the leader.
    ForwardsFail,
}

/// All of them.
const ALL: [Fault; FAULTS] = [
    Fault::Kill,
    Fault::PowerLoss,
    Fault::PowerLossLater,
    Fault::SyncFails,
    Fault::Pause,
    Fault::Cut,
    Fault::ClockStep,
    Fault::Resign,
    Fault::BrokerChange,
    Fault::ForeignRecords,
    Fault::ForwardsFail,
];

// ===== impl Plan =====

impl Plan {
    /// The plan of a seed.
    pub(crate) fn from_seed(random: &mut Random) -> Self {
        let r = random;
        let block = u32::try_from(r.within(&(2..5))).unwrap() << 12;
        let segment = block * u32::try_from(r.within(&(4..9))).unwrap();
        let quick = r.percent(60);
        let (claim_after, backoff) = if quick { (300, 100) } else { (700, 500) };
        let timing = Timing {
            claim_after: Duration::from_millis(claim_after),
            backoff: Duration::from_millis(backoff),
            backoff_max: Duration::from_millis(backoff * 16),
            ..Timing::default()
        };
        let mut weights = [0; FAULTS];
        for weight in &mut weights {
            *weight = if r.percent(35) { 0 } else { r.within(&(1..10)) };
        }
        let loses_visible = r.percent(12);
        let mut log = LogFaults::from_seed(r);
        if loses_visible {
            log.under_replicated = r.within(&(5..30));
        }
        Plan {
            faulty: Duration::from_millis(r.within(&(4_000..16_000))),
            fault_pause: Duration::from_millis(r.within(&(200..2_500))),
            sizes: JournalConfig {
                segment_bytes: segment.next_multiple_of(SEGMENT_GRANULE_BYTES),
                block_bytes_max: block,
            },
            checkpoint_bytes: 1 << r.within(&(12..18)),
            heartbeat: Duration::from_millis(if quick { 50 } else { 100 }),
            timing,
            requests_max: 1 + r.below(3),
            clients: 2 + r.below(5),
            client_pause: Duration::from_millis(r.within(&(5..250))),
            weights,
            log,
            peer_losses: if r.percent(50) { 0 } else { r.within(&(1..60)) },
            loses_visible,
            ends_log: r.percent(15),
            stalls: if r.percent(40) { 0 } else { r.within(&(1..6)) },
        }
    }

    /// Chooses the next fault, if any happens in this run.
    pub(crate) fn fault(&self, random: &mut Random) -> Option<Fault> {
        let total: u64 = self.weights.iter().sum();
        if total == 0 {
            return None;
        }
        let mut choice = random.within(&(0..total));
        for (fault, weight) in ALL.into_iter().zip(self.weights) {
            if choice < weight {
                return Some(fault);
            }
            choice -= weight;
        }
        None
    }
}

// ===== impl LogFaults =====

impl LogFaults {
    fn from_seed(r: &mut Random) -> Self {
        let mut rate = |most: u64| {
            if r.percent(40) {
                0
            } else {
                r.within(&(1..most + 1))
            }
        };
        LogFaults {
            lost_requests: rate(8),
            lost_answers: rate(8),
            refusals: rate(8),
            under_replicated: rate(8),
            zombies: rate(25),
            duplicates: rate(10),
            stale_reads: rate(30),
            failed_reads: rate(4),
            slow_answers: rate(4),
            latency_max: Duration::from_millis(1 + rate(20)),
        }
    }

    /// A log without faults.
    pub(crate) fn none() -> Self {
        LogFaults {
            latency_max: Duration::from_millis(2),
            ..LogFaults::default()
        }
    }
}
