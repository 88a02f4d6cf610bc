//! Tests of the breaker's parts against simple models. `tests/it` tests the whole breaker, and `tests/loom` tests
//! races.

use std::{collections::VecDeque, time::Duration};

use proptest::prelude::*;

use super::{
    CircuitBreakerConfig, LatencySummary,
    gate::{BreakerMode, CircuitState, Gate, Grant, ProbeOutcome, ProbeTicket, Probes},
    histogram::{CELLS, COUNT_MAX, Tag, TaggedPair, cell_of, upper_edge_ns},
    inflight::{InFlightRing, RingPlace},
    policy::{Rng, credit_of, open_duration, ramp_weight},
    signals::{HighWater, PauseDetector, Streak},
    window::{Divisor, Sample, Window},
    writer::{ShardAccess, Writer},
};

/// A random operation on a gate.
#[derive(Debug, Clone)]
enum GateStep {
    Issue,
    /// Ends the probe at this index. Index 0 is the oldest probe that has not ended; probes of earlier generations
    /// count, too.
    Settle(usize, u8),
    Expire,
    Transition(u8),
    Mode(u8),
}

fn gate_step() -> impl Strategy<Value = GateStep> {
    prop_oneof![
        4 => Just(GateStep::Issue),
        4 => (0..8_usize, 0..3_u8).prop_map(|(which, outcome)| GateStep::Settle(which, outcome)),
        1 => Just(GateStep::Expire),
        1 => (0..4_u8).prop_map(GateStep::Transition),
        1 => (0..4_u8).prop_map(GateStep::Mode),
    ]
}

/// Two threads with exclusive shards, and one thread with the shared shard.
const ACCESS: [ShardAccess; 3] = [
    ShardAccess {
        shard: 0,
        writer: Writer::Exclusive,
    },
    ShardAccess {
        shard: 1,
        writer: Writer::Exclusive,
    },
    ShardAccess {
        shard: 2,
        writer: Writer::Shared,
    },
];

/// Maximum number of steps of a random history. Under Miri it is smaller, because Miri takes seconds per step.
const STEPS_MAX: usize = if cfg!(miri) { 12 } else { 300 };

/// A model of the gate for a single thread.
#[derive(Debug)]
struct NaiveGate {
    mode: BreakerMode,
    state: CircuitState,
    generation: u32,
    probes: Probes,
    running: Vec<(ProbeTicket, u32)>,
}

const PERMITS: u32 = 4;
const STATES: [CircuitState; 4] = [
    CircuitState::Closed,
    CircuitState::Open,
    CircuitState::HalfOpen,
    CircuitState::Ramp,
];
const MODES: [BreakerMode; 4] = [
    BreakerMode::Auto,
    BreakerMode::MetricsOnly,
    BreakerMode::ForcedOpen,
    BreakerMode::Disabled,
];
const OUTCOMES: [ProbeOutcome; 3] = [ProbeOutcome::Ok, ProbeOutcome::Bad, ProbeOutcome::Withdrawn];

impl NaiveGate {
    fn issue(&mut self, gate: &Gate, now_us: u64) {
        match gate.issue_probe(self.generation, now_us) {
            Grant::Granted(ticket) => {
                assert!(self.probes.issued < PERMITS, "more permits than allowed");
                self.probes.issued += 1;
                self.running.push((ticket, self.generation));
            }
            Grant::Rejected => assert_eq!(self.probes.issued, PERMITS, "a permit was lost"),
            Grant::Stale => panic!("no other thread changes the gate"),
        }
    }

    fn settle(&mut self, gate: &Gate, which: usize, outcome: ProbeOutcome) {
        if self.running.is_empty() {
            return;
        }
        let (ticket, generation) = self.running.remove(which % self.running.len());
        let settled = gate.settle_probe(generation, ticket, outcome);
        if generation == self.generation {
            match outcome {
                ProbeOutcome::Ok => self.probes.ok += 1,
                ProbeOutcome::Bad => self.probes.bad += 1,
                ProbeOutcome::Withdrawn => self.probes.issued -= 1,
            }
            assert_eq!(settled, Some(self.probes));
        }
        // If the probe belongs to an earlier generation, the counts of that generation may still change, but nothing
        // reads them.
    }
}

proptest! {
    #[test]
    fn a_gate_behaves_like_the_naive_one(steps in prop::collection::vec(gate_step(), 1..200)) {
        let gate = Gate::new(BreakerMode::Auto, PERMITS);
        let mut naive = NaiveGate {
            mode: BreakerMode::Auto,
            state: CircuitState::Closed,
            generation: 0,
            probes: Probes::default(),
            running: Vec::new(),
        };
        for (now_us, step) in (1..).zip(steps) {
            match step {
                GateStep::Issue => naive.issue(&gate, now_us),
                GateStep::Settle(which, outcome) => naive.settle(&gate, which, OUTCOMES[usize::from(outcome)]),
                GateStep::Expire => {
                    gate.expire_probes(naive.generation, now_us, 0, 0);
                    let generation = naive.generation;
                    let before = naive.running.len();
                    naive.running.retain(|(_, issued_in)| *issued_in != generation);
                    naive.probes.bad += u32::try_from(before - naive.running.len()).unwrap();
                }
                GateStep::Transition(to) => {
                    naive.state = STATES[usize::from(to)];
                    gate.transition(gate.load(), naive.state, now_us).unwrap();
                    naive.generation += 1;
                    naive.probes = Probes::default();
                }
                GateStep::Mode(mode) => {
                    let before = gate.set_mode(MODES[usize::from(mode)]);
                    prop_assert_eq!(before, naive.mode);
                    naive.mode = MODES[usize::from(mode)];
                }
            }
            let word = gate.load();
            prop_assert_eq!((word.mode(), word.state(), word.generation()), (naive.mode, naive.state, naive.generation));
            prop_assert_eq!(gate.probes(naive.generation), naive.probes);
        }
    }

    #[test]
    fn a_window_counts_like_a_queue_of_calls(
        steps in prop::collection::vec((0..400_u64, any::<bool>(), any::<bool>(), 0..40_u8), 1..STEPS_MAX),
    ) {
        const SLICES: u64 = 5;
        const SLICE_MS: u64 = 100;
        let window = Window::new(3, 5, SLICE_MS);
        let mut queue: VecDeque<(u64, bool, bool)> = VecDeque::new();
        let (mut now_ns, mut generation) = (0, 0);
        for (call, (step_ms, failed, slow, dice)) in steps.into_iter().enumerate() {
            now_ns += step_ms * 1_000_000;
            if dice == 0 {
                generation += 1;
                queue.clear();
            }
            let moment = window.moment(now_ns);
            let epoch = moment.epoch;
            let sample = Sample { failed, slow, sampled: true, ..Sample::default() };
            prop_assert!(window.record(ACCESS[call % 3], generation, moment, &sample, || true));
            queue.push_back((epoch, failed, slow));
            while queue.front().is_some_and(|(old, ..)| old + SLICES <= epoch) {
                queue.pop_front();
            }
            let counts = window.counts(generation, now_ns);
            prop_assert_eq!(counts.calls, queue.len() as u64);
            prop_assert_eq!(counts.samples, queue.len() as u64);
            prop_assert_eq!(counts.failed, queue.iter().filter(|(_, failed, _)| *failed).count() as u64);
            prop_assert_eq!(counts.slow, queue.iter().filter(|(_, _, slow)| *slow).count() as u64);
            let both = queue.iter().filter(|(_, failed, slow)| *failed && *slow).count();
            prop_assert_eq!(counts.slow_failed, both as u64);
            prop_assert_eq!(window.histograms(generation, now_ns).total.iter().sum::<u64>(), queue.len() as u64);
        }
    }

    #[test]
    fn a_ring_counts_overdue_calls_to_within_a_slot(
        steps in prop::collection::vec((0..300_u64, any::<bool>(), 0..16_usize, 0..40_u8, 0..3_usize), 1..STEPS_MAX),
    ) {
        const THRESHOLD_NS: u64 = 80;
        const SLOT_NS: u64 = 10;
        let ring = InFlightRing::new(3, THRESHOLD_NS);
        let mut running: Vec<(u64, RingPlace)> = Vec::new();
        let (mut now_ns, mut generation) = (0, 0);
        for (step_ns, enters, which, dice, thread) in steps {
            now_ns += step_ns;
            if dice == 0 {
                generation += 1;
                running.clear();
            }
            if enters || running.is_empty() {
                running.push((now_ns, ring.enter(ACCESS[thread], generation, now_ns, || true).unwrap()));
            } else {
                let (_, place) = running.remove(which % running.len());
                ring.leave(ACCESS[thread], generation, place, now_ns, || true);
            }
            let in_flight = ring.in_flight(generation, now_ns, 0);
            let seen = in_flight.overdue;
            let older_than = |age_ns: u64| {
                running.iter().filter(|(began_ns, _)| now_ns - began_ns >= age_ns).count() as u64
            };
            prop_assert!(seen <= older_than(THRESHOLD_NS), "more calls than are in flight");
            prop_assert!(seen >= older_than(THRESHOLD_NS + SLOT_NS), "a call is missing that has been overdue for longer than a slot");
            prop_assert_eq!(ring.in_flight(generation, now_ns, now_ns).overdue, 0, "if not_before_ns is now, no call is overdue");
            prop_assert_eq!(in_flight.calls, running.len() as u64, "calls in flight, of any age");
            let oldest_ns = running.iter().map(|(began_ns, _)| *began_ns).min();
            prop_assert_eq!(in_flight.oldest_ns.is_some(), oldest_ns.is_some());
            if let (Some(seen), Some(began)) = (in_flight.oldest_ns, oldest_ns) {
                prop_assert!(seen <= began && (seen == 0 || began < seen + SLOT_NS), "oldest {seen}, not {began}");
            }
        }
    }

    #[test]
    fn a_divisor_divides(divisor in 2..=3_600_000_u64, number in 0..1_u64 << 42) {
        let by = Divisor::new(divisor);
        prop_assert_eq!(by.divide(number), number / divisor);
        // A wrong quotient is most likely next to a multiple of the divisor.
        let multiple = number / divisor * divisor;
        prop_assert_eq!(by.divide(multiple), multiple / divisor);
        prop_assert_eq!(by.divide(multiple.saturating_sub(1)), multiple.saturating_sub(1) / divisor);
    }

    #[test]
    fn every_duration_lies_in_its_cell(micros in 1..1_u64 << 26) {
        let cell = cell_of(micros);
        prop_assert!(micros * 1000 < upper_edge_ns(cell));
        prop_assert!(cell == 0 || micros * 1000 >= upper_edge_ns(cell - 1));
    }

    #[test]
    fn an_open_time_keeps_its_bounds(attempt in 0..u32::MAX, fraction in 0.0..1.0) {
        let config = CircuitBreakerConfig::default();
        let open = open_duration(&config, attempt, fraction);
        prop_assert!(open >= config.open_base.mul_f64(0.8) && open <= config.open_max.mul_f64(1.2));
    }

    #[test]
    fn a_ramp_never_falls_and_stays_between_its_ends(a_ms in 0..12_000_u64, b_ms in 0..12_000_u64) {
        for ramp_aggression in [0.5, 1.0, 3.0] {
            let config = CircuitBreakerConfig { ramp_aggression, ..CircuitBreakerConfig::default() };
            let weight = |ms| ramp_weight(&config, Duration::from_millis(ms));
            prop_assert!(weight(a_ms.min(b_ms)) <= weight(a_ms.max(b_ms)));
            prop_assert!((0.1..=1.0).contains(&weight(a_ms)));
            prop_assert!(f64::from(credit_of(weight(a_ms))) <= weight(a_ms) * f64::from(1_u32 << 20));
        }
    }
}

#[test]
fn a_linear_ramp_grows_linearly() {
    let config = CircuitBreakerConfig::default();
    let weights = [0, 1_000, 2_500, 5_000, 10_000].map(|ms| ramp_weight(&config, Duration::from_millis(ms)));
    assert_eq!(weights, [0.1, 0.1, 0.25, 0.5, 1.0]);
}

#[test]
fn counters_saturate_instead_of_overflowing() {
    let pair = TaggedPair::default();
    let tag = Tag::new(200, 70_000);
    assert!(pair.add(Writer::Shared, tag, COUNT_MAX - 1, COUNT_MAX, || true));
    for _ in 0..3 {
        assert!(pair.add(Writer::Shared, tag, 1, 1, || true));
    }
    assert_eq!(pair.read(tag), (COUNT_MAX, COUNT_MAX));
}

#[test]
fn a_result_of_a_past_generation_is_rejected() {
    let pair = TaggedPair::default();
    assert!(pair.add(Writer::Exclusive, Tag::new(2, 0), 1, 0, || true));
    assert!(!pair.add(Writer::Exclusive, Tag::new(1, 0), 1, 0, || false));
    assert_eq!(pair.read(Tag::new(2, 0)), (1, 0));
}

#[test]
fn the_histogram_reaches_from_a_microsecond_to_67_seconds() {
    assert_eq!((cell_of(0), cell_of(1), cell_of(u64::MAX)), (0, 0, CELLS - 1));
    assert_eq!(upper_edge_ns(CELLS - 1), (1 << 26) * 1000);
    assert_eq!(cell_of((1 << 26) - 1), CELLS - 1);
}

#[test]
fn percentiles_are_the_upper_edges_of_their_cells() {
    let mut cells = [0; CELLS];
    cells[cell_of(1_000)] = 989;
    cells[cell_of(500_000)] = 11;
    let summary = LatencySummary::from_cells(&cells);
    let (fast, slow) = (Duration::from_micros(1_024), Duration::from_nanos(524_288_000));
    assert_eq!(
        (summary.count, summary.p50, summary.p90, summary.p99),
        (1000, fast, fast, slow)
    );
    assert_eq!((summary.p999, summary.max), (slow, slow));
    assert_eq!(LatencySummary::from_cells(&[0; CELLS]), LatencySummary::default());
}

#[test]
fn random_fractions_are_those_of_splitmix64() {
    // The first outputs of splitmix64 for the seed 0, as published with the algorithm.
    let published = [
        0xe220_a839_7b1d_cdaf_u64,
        0x6e78_9e6a_a1b9_65f4,
        0x06c4_5d18_8009_454f,
    ];
    let rng = Rng::new(0);
    for output in published {
        assert_eq!(rng.fraction(), (output >> 11) as f64 / (1_u64 << 53) as f64);
    }
}

#[test]
fn a_batch_counts_once_and_in_order() {
    let mark = HighWater::default();
    assert!(mark.raise_to(0));
    assert!(!mark.raise_to(0));
    assert!(mark.raise_to(7));
    assert!(!mark.raise_to(3));
}

#[test]
fn consecutive_failures_belong_to_their_generation() {
    let streak = Streak::default();
    assert_eq!((streak.extend(1), streak.extend(1), streak.extend(2)), (1, 2, 1));
    assert_eq!((streak.current(1), streak.current(2)), (0, 1));
    streak.end();
    assert_eq!(streak.current(2), 0);
    assert_eq!(streak.extend(2), 1);
}

#[test]
fn a_pause_is_noticed_once_and_only_with_a_ticker() {
    let pauses = PauseDetector::default();
    assert_eq!(pauses.check(1_000, 100), None, "there was no tick yet");
    pauses.tick(1_000);
    assert_eq!(pauses.check(1_099, 100), None);
    assert_eq!(pauses.check(1_100, 100), Some(100));
    assert_eq!(pauses.check(1_100, 100), None);
    assert_eq!((pauses.resumed_ns(), pauses.throttled_ns()), (1_100, 100));
}
