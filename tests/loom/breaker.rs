//! Models of the circuit breaker's lock-free words: the gate, the window's counters, the in-flight ring.

use loom::{model::Builder, thread};
use std::sync::Arc;

use gate::{BreakerMode, CircuitState, Gate, Grant, ProbeOutcome, Probes};
use histogram::{Tag, TaggedPair};
use inflight::InFlightRing;

// Each of these files imports nothing but its siblings here, so they see loom's atomics for the real ones. The models do
// not use all that the files offer.
#[path = "../../src/breaker/gate.rs"]
#[allow(dead_code, unreachable_pub, reason = "the models use a part of the file")]
mod gate;
#[path = "../../src/breaker/histogram.rs"]
#[allow(dead_code, reason = "the models use a part of the file")]
mod histogram;
#[path = "../../src/breaker/inflight.rs"]
mod inflight;

/// The names that `src/breaker/sync.rs` offers, made of loom's types.
mod sync {
    pub(crate) use crossbeam_utils::CachePadded;
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
}

/// Preemptions in one execution. Nearly all races of so few steps show with two; three keep the run below a minute.
const PREEMPTIONS_MAX: usize = 3;
/// Steps in one execution; reading a ring takes 128.
const BRANCHES_MAX: usize = 10_000;

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.max_branches = BRANCHES_MAX;
    builder.check(model);
}

/// A gate that has just gone half-open; its generation is 2.
fn half_open(permits: u32) -> Gate {
    let gate = Gate::new(BreakerMode::Auto, permits);
    let open = gate.transition(gate.load(), CircuitState::Open, 5).unwrap();
    gate.transition(open, CircuitState::HalfOpen, 10).unwrap();
    gate
}

/// Runs both at once, on two threads.
fn race<A, B>(a: impl FnOnce() -> A + Send + 'static, b: impl FnOnce() -> B) -> (A, B)
where
    A: Send + 'static,
{
    let thread = thread::spawn(a);
    let b = b();
    (thread.join().unwrap(), b)
}

#[test]
fn of_two_transitions_from_one_word_exactly_one_is_made() {
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
        // State and deadline are never torn apart.
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
fn the_last_permit_goes_to_one() {
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
fn permits_given_back_can_be_had_again_and_none_is_lost() {
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
            "there are two permits, so there is always one left"
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
fn a_probe_reports_once_either_by_itself_or_by_its_time_limit() {
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
fn a_late_probe_of_an_old_generation_disturbs_none_of_the_new() {
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
            panic!("the new generation's only permit was taken by the old one: {old:?}")
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
fn a_ramp_admits_its_share_however_the_calls_race() {
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
        assert_eq!(a + b, 2, "of four calls at a half");
    });
}

#[test]
fn no_count_is_lost_when_the_window_comes_round() {
    check(|| {
        let pair = Arc::new(TaggedPair::default());
        let (old, new) = (Tag::new(0, 1), Tag::new(0, 2));
        pair.add(old, 1, 0, || true);
        let other = Arc::clone(&pair);
        // The one thread is a lap behind the other.
        race(
            move || other.add(old, 1, 1, || true),
            || pair.add(new, 1, 1, || true),
        );
        let counted = pair.read(new);
        assert!(
            counted == (1, 1) || counted == (2, 2),
            "what came before the lap's end is old, the rest is here: {counted:?}"
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
            move || (0..2).for_each(|_| assert!(other.add(tag, 1, 0, || true))),
            || (0..2).for_each(|_| assert!(pair.add(tag, 1, 1, || true))),
        );
        assert_eq!(pair.read(tag), (4, 2));
    });
}

#[test]
fn a_result_of_an_old_generation_never_wipes_out_the_new_ones() {
    check(|| {
        let gate = Arc::new(Gate::new(BreakerMode::Auto, 1));
        let pair = Arc::new(TaggedPair::default());
        let (late_gate, late_pair) = (Arc::clone(&gate), Arc::clone(&pair));
        let live = |gate: &Gate, generation| gate.load().generation() == generation;
        race(
            move || late_pair.add(Tag::new(0, 5), 1, 0, || live(&late_gate, 0)),
            || {
                let word = gate.transition(gate.load(), CircuitState::Closed, 0).unwrap();
                assert!(pair.add(Tag::new(word.generation(), 5), 1, 0, || live(&gate, 1)));
            },
        );
        assert_eq!(pair.read(Tag::new(1, 5)), (1, 0));
    });
}

/// Nanoseconds; a slot of the ring is then one nanosecond, and the ring comes round after 128.
const THRESHOLD_NS: u64 = 8;

#[test]
fn calls_under_way_are_never_counted_twice_nor_lost_when_a_slot_is_taken_over() {
    check(|| {
        let ring = Arc::new(InFlightRing::new(1, THRESHOLD_NS));
        let hung = ring.enter(0, 0, 0, || true).unwrap();
        let ending = ring.enter(0, 0, 0, || true).unwrap();
        let other = Arc::clone(&ring);
        // Of two calls one ends while a third takes over their slot, and while somebody looks.
        let (third, seen) = race(
            move || other.enter(0, 0, 128, || true).unwrap(),
            || {
                let seen = ring.overdue(0, 128, 0).calls;
                ring.leave(0, 0, ending, || true);
                seen
            },
        );
        assert!(seen <= 2, "saw {seen} overdue calls of two");
        assert_eq!(ring.overdue(0, 128, 0).calls, 1, "the one that hangs");
        assert_eq!(ring.overdue(0, 137, 0).calls, 2, "the third one too, by now");
        ring.leave(0, 0, third, || true);
        ring.leave(0, 0, hung, || true);
        assert_eq!(ring.overdue(0, 400, 0).calls, 0);
    });
}
