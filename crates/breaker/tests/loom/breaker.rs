//! Loom models of the circuit breaker's lock-free words: the gate, the counters of the window, and the thread numbers.

use std::sync::Arc;

use gate::{BreakerMode, CircuitState, Gate, Grant, ProbeOutcome, Probes};
use histogram::{Tag, TaggedPair};
use slots::ThreadSlots;
use sync::{AtomicU64, Ordering};
use tally_testing::explore::{explore, race};
use writer::{Writer, increment};

// Each of these files imports only the other files listed here and `sync`, so loom's atomics replace the standard
// atomics. The models do not use every item of the files.
#[path = "../../src/gate.rs"]
#[allow(dead_code, unreachable_pub, reason = "the models use a part of the file")]
mod gate;
#[path = "../../src/histogram.rs"]
#[allow(dead_code, reason = "the models use a part of the file")]
mod histogram;
#[path = "../../src/slots.rs"]
mod slots;
#[path = "../../src/writer.rs"]
#[allow(dead_code, reason = "the models use a part of the file")]
mod writer;

/// Replaces `src/sync.rs`: the same names, with loom's types.
mod sync {
    pub(crate) use loom::sync::atomic::Ordering;

    /// `IN_ORDER` is not set, because in these models no thread stores to a word while another thread exchanges it.
    pub(crate) type AtomicU64 = tally_testing::words::Word<u64>;
}

/// Maximum number of preemptions in one execution of a model. Two preemptions find nearly all races of such small
/// models. With five preemptions, the models still run for only a few seconds.
const PREEMPTIONS_MAX: usize = 5;

fn check(model: impl Fn() + Send + Sync + 'static) {
    explore(PREEMPTIONS_MAX, model);
}

/// Makes a gate that has just become half-open, in generation 2.
fn half_open(permits: u32) -> Gate {
    let gate = Gate::new(BreakerMode::Auto, permits);
    let open = gate.transition(gate.load(), CircuitState::Open, 5).unwrap();
    gate.transition(open, CircuitState::HalfOpen, 10).unwrap();
    gate
}

/// Returns whether `generation` is current, like the closures `live` in the breaker.
fn live(gate: &Gate, generation: u32) -> bool {
    gate.load().generation() == generation
}

#[test]
fn exactly_one_of_two_transitions_from_one_word_succeeds() {
    check(|| {
        let gate = Arc::new(Gate::new(BreakerMode::Auto, 1));
        let observed = gate.load();
        let other = Arc::clone(&gate);
        let (opened, reset) = race(
            move || other.transition(observed, CircuitState::Open, 7).is_ok(),
            || gate.transition(observed, CircuitState::Closed, 0).is_ok(),
        );
        assert_ne!(opened, reset);
        let word = gate.load();
        assert_eq!(word.generation(), 1);
        // State and deadline always change together.
        let expected = if opened {
            (CircuitState::Open, 7)
        } else {
            (CircuitState::Closed, 0)
        };
        assert_eq!((word.state(), word.deadline_ms()), expected);
    });
}

#[test]
fn a_mode_change_and_a_transition_do_not_undo_each_other() {
    check(|| {
        let gate = Arc::new(Gate::new(BreakerMode::Auto, 1));
        let other = Arc::clone(&gate);
        race(
            move || other.set_mode(BreakerMode::MetricsOnly),
            || {
                let mut observed = gate.load();
                while let Err(seen) = gate.transition(observed, CircuitState::Open, 7) {
                    observed = seen;
                }
            },
        );
        let word = gate.load();
        assert_eq!(
            (word.mode(), word.state(), word.deadline_ms()),
            (BreakerMode::MetricsOnly, CircuitState::Open, 7)
        );
    });
}

#[test]
fn the_last_permit_goes_to_one_thread() {
    check(|| {
        let gate = Arc::new(half_open(1));
        let other = Arc::clone(&gate);
        let (a, b) = race(move || other.issue_probe(2, 0), || gate.issue_probe(2, 0));
        let granted = [a, b]
            .iter()
            .filter(|grant| matches!(grant, Grant::Granted(_)))
            .count();
        assert_eq!(granted, 1);
        assert_eq!(gate.probes(2).issued, 1);
    });
}

#[test]
fn no_more_permits_are_issued_than_exist() {
    check(|| {
        let gate = Arc::new(half_open(1));
        assert!(matches!(gate.issue_probe(2, 0), Grant::Granted(_)));
        let other = Arc::clone(&gate);
        let (second, seen) = race(move || other.issue_probe(2, 0), || gate.probes(2));
        assert_eq!((second, seen.issued), (Grant::Rejected, 1));
    });
}

#[test]
fn returned_permits_can_be_issued_again() {
    check(|| {
        let gate = Arc::new(half_open(2));
        let Grant::Granted(first) = gate.issue_probe(2, 0) else {
            panic!("a fresh gate has permits")
        };
        let other = Arc::clone(&gate);
        let (_, second) = race(
            move || other.settle_probe(2, first, ProbeOutcome::Withdrawn),
            || gate.issue_probe(2, 1),
        );
        assert!(
            matches!(second, Grant::Granted(_)),
            "there are two permits, so one is always free"
        );
        assert_eq!(
            gate.probes(2),
            Probes {
                issued: 1,
                ok: 0,
                bad: 0
            }
        );
    });
}

#[test]
fn a_probe_reports_once_by_its_end_or_by_its_time_limit() {
    check(|| {
        let gate = Arc::new(half_open(1));
        let Grant::Granted(probe) = gate.issue_probe(2, 0) else {
            panic!("a fresh gate has permits")
        };
        let other = Arc::clone(&gate);
        let (expired, settled) = race(
            move || other.expire_probes(2, 100, 100, 0),
            || gate.settle_probe(2, probe, ProbeOutcome::Ok),
        );
        assert_ne!(expired.is_some(), settled.is_some());
        let probes = gate.probes(2);
        assert_eq!((probes.issued, probes.ok + probes.bad), (1, 1));
        assert_eq!(probes.ok == 1, settled.is_some());
    });
}

#[test]
fn a_late_probe_of_an_old_generation_changes_nothing_in_the_new_one() {
    check(|| {
        let gate = Arc::new(half_open(1));
        let late = Arc::clone(&gate);
        let (old, new) = race(
            move || late.issue_probe(2, 0),
            || {
                let word = gate.load();
                let open = gate.transition(word, CircuitState::Open, 20).unwrap();
                let half_open = gate.transition(open, CircuitState::HalfOpen, 30).unwrap();
                gate.issue_probe(half_open.generation(), 25)
            },
        );
        let Grant::Granted(new) = new else {
            panic!("a call of the old generation took the only permit of the new generation: {old:?}")
        };
        if let Grant::Granted(old) = old {
            assert_eq!(gate.settle_probe(2, old, ProbeOutcome::Ok), None);
        }
        assert_eq!(
            gate.settle_probe(4, new, ProbeOutcome::Ok),
            Some(Probes {
                issued: 1,
                ok: 1,
                bad: 0
            })
        );
    });
}

#[test]
fn a_ramp_admits_its_share_when_calls_race() {
    check(|| {
        let gate = Arc::new(Gate::new(BreakerMode::Auto, 1));
        let half = 1 << (gate::CREDIT_BITS - 1);
        let other = Arc::clone(&gate);
        let calls = move |gate: &Gate| {
            (0..2)
                .filter(|_| gate.admit_to_ramp(0, half) == Grant::Granted(()))
                .count()
        };
        let (a, b) = race(move || calls(&other), || calls(&gate));
        assert_eq!(a + b, 2, "the ramp admits half of four calls");
    });
}

#[test]
fn a_late_call_of_an_old_ramp_changes_nothing_in_the_new_one() {
    check(|| {
        let gate = Arc::new(Gate::new(BreakerMode::Auto, 1));
        let half = 1 << (gate::CREDIT_BITS - 1);
        let late = Arc::clone(&gate);
        let (_, admitted) = race(
            move || late.admit_to_ramp(0, half),
            || {
                let word = gate.transition(gate.load(), CircuitState::Ramp, 9).unwrap();
                [0, 1].map(|_| gate.admit_to_ramp(word.generation(), half))
            },
        );
        assert_eq!(admitted, [Grant::Granted(()), Grant::Rejected]);
    });
}

#[test]
fn no_count_is_lost_when_a_slice_is_used_again() {
    check(|| {
        let pair = Arc::new(TaggedPair::default());
        let (old, new) = (Tag::new(0, 1), Tag::new(0, 2));
        pair.add(Writer::Shared, old, 1, 0, || true);
        let other = Arc::clone(&pair);
        // The first thread is one lap behind the second.
        race(
            move || other.add(Writer::Shared, old, 1, 1, || true),
            || pair.add(Writer::Shared, new, 1, 1, || true),
        );
        let counted = pair.read(new);
        assert!(
            counted == (1, 1) || counted == (2, 2),
            "all counts of the new lap are present: {counted:?}"
        );
        assert_eq!(pair.read(old), (0, 0));
    });
}

#[test]
fn counts_of_one_slice_add_up() {
    check(|| {
        let pair = Arc::new(TaggedPair::default());
        let tag = Tag::new(3, 9);
        let other = Arc::clone(&pair);
        race(
            move || (0..2).for_each(|_| assert!(other.add(Writer::Shared, tag, 1, 0, || true))),
            || (0..2).for_each(|_| assert!(pair.add(Writer::Shared, tag, 1, 1, || true))),
        );
        assert_eq!(pair.read(tag), (4, 2));
    });
}

#[test]
fn a_result_of_an_old_generation_never_resets_new_counts() {
    check(|| {
        let gate = Arc::new(Gate::new(BreakerMode::Auto, 1));
        let pair = Arc::new(TaggedPair::default());
        let (late_gate, late_pair) = (Arc::clone(&gate), Arc::clone(&pair));
        race(
            move || late_pair.add(Writer::Shared, Tag::new(0, 5), 1, 0, || live(&late_gate, 0)),
            || {
                let word = gate.transition(gate.load(), CircuitState::Closed, 0).unwrap();
                let tag = Tag::new(word.generation(), 5);
                assert!(pair.add(Writer::Shared, tag, 1, 0, || live(&gate, 1)));
            },
        );
        assert_eq!(pair.read(Tag::new(1, 5)), (1, 0));
    });
}

#[test]
fn a_sweep_of_an_old_generation_keeps_the_counts_of_the_new_one() {
    check(|| {
        let gate = Arc::new(Gate::new(BreakerMode::Auto, 1));
        let pair = Arc::new(TaggedPair::default());
        let (late_gate, late_pair) = (Arc::clone(&gate), Arc::clone(&pair));
        race(
            move || late_pair.sweep(Tag::new(0, 5), || live(&late_gate, 0)),
            || {
                let word = gate.transition(gate.load(), CircuitState::Closed, 0).unwrap();
                let tag = Tag::new(word.generation(), 5);
                assert!(pair.add(Writer::Shared, tag, 1, 0, || live(&gate, 1)));
            },
        );
        assert_eq!(pair.read(Tag::new(1, 5)), (1, 0));
    });
}

#[test]
fn a_reading_never_mixes_two_slices() {
    check(|| {
        let pair = Arc::new(TaggedPair::default());
        let (old, new) = (Tag::new(0, 1), Tag::new(0, 2));
        pair.add(Writer::Exclusive, old, 2, 2, || true);
        let owner = Arc::clone(&pair);
        let (_, seen) = race(
            move || owner.add(Writer::Exclusive, new, 1, 0, || true),
            || (pair.read(old), pair.read(new)),
        );
        assert!([(2, 2), (0, 0)].contains(&seen.0), "the old slice: {seen:?}");
        assert!([(0, 0), (1, 0)].contains(&seen.1), "the new slice: {seen:?}");
    });
}

// ===== words with an exclusive writer =====

#[test]
fn a_reader_sees_the_counts_of_the_owner_in_order() {
    check(|| {
        let pair = Arc::new(TaggedPair::default());
        let tag = Tag::new(0, 1);
        let owner = Arc::clone(&pair);
        let ((), seen) = race(
            move || (0..3).for_each(|_| assert!(owner.add(Writer::Exclusive, tag, 1, 1, || true))),
            || [pair.read(tag), pair.read(tag)],
        );
        assert!(seen[0] <= seen[1], "counts never decrease: {seen:?}");
        assert!(
            seen.iter().all(|(a, b)| a == b),
            "the two counts of one word: {seen:?}"
        );
        assert_eq!(pair.read(tag), (3, 3));
    });
}

// ===== thread numbers =====

#[test]
fn a_number_has_one_holder_that_sees_earlier_writes() {
    check(|| {
        // One number is free; all others are held.
        let slots = Arc::new(ThreadSlots::new(AtomicU64::new(!(1 << 5))));
        let count = Arc::new(AtomicU64::new(0));
        let hold = |slots: &ThreadSlots, count: &AtomicU64| {
            let held = slots.claim();
            if let Some(slot) = held {
                assert_eq!(slot, 5);
                // A count would be lost if two threads held the number at once, or if the holder did not see the store
                // of the previous holder.
                increment(count, Writer::Exclusive);
                increment(count, Writer::Exclusive);
                slots.release(slot);
            }
            held.is_some()
        };
        let (other_slots, other_count) = (Arc::clone(&slots), Arc::clone(&count));
        let (a, b) = race(move || hold(&other_slots, &other_count), || hold(&slots, &count));
        assert!(a || b, "the number was free");
        assert_eq!(count.load(Ordering::Acquire), 2 * (u64::from(a) + u64::from(b)));
        assert_eq!(slots.claim(), Some(5));
        assert_eq!(slots.claim(), None);
    });
}

#[test]
fn a_number_claimed_again_keeps_its_counts_while_others_change() {
    check(|| {
        let slots = Arc::new(ThreadSlots::new(AtomicU64::new(!0b11)));
        let count = Arc::new(AtomicU64::new(0));
        let lowest = slots.claim().unwrap();
        assert_eq!(lowest, 0);
        let (other_slots, other_count) = (Arc::clone(&slots), Arc::clone(&count));
        let (changed, next) = race(
            move || {
                increment(&other_count, Writer::Exclusive);
                other_slots.release(0);
                // Changes another number between the release and the next claim.
                other_slots.claim()
            },
            || slots.claim().unwrap(),
        );
        assert_eq!(changed, Some(1 - next), "the two threads hold different numbers");
        if next == 0 {
            assert_eq!(increment(&count, Writer::Exclusive), 1);
        }
    });
}
