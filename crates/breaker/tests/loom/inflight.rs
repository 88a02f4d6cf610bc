//! Loom models of the circuit breaker's ring of calls in flight. `src/inflight.rs` explains the terms *lap*, *entered*,
//! *left* and *older*.

use std::sync::Arc;

use gate::{BreakerMode, CircuitState, Gate};
use ring::{InFlightRing, RingPlace};
use tally_testing::explore::{explore, race};
use writer::{ShardAccess, Writer};

#[path = "../../src/gate.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::duplicate_mod,
    reason = "the models use a part of the file, against atomics of their own"
)]
mod gate;
#[path = "../../src/inflight.rs"]
mod ring;
#[path = "../../src/writer.rs"]
#[allow(
    dead_code,
    clippy::duplicate_mod,
    reason = "the models use a part of the file, against atomics of their own"
)]
mod writer;

/// Replaces `src/sync.rs`: the same names, with loom's types.
mod sync {
    pub(crate) use crossbeam_utils::CachePadded;
    pub(crate) use loom::sync::atomic::Ordering;

    /// `IN_ORDER` is not set, because in these models no thread stores to a word while another thread exchanges it.
    pub(crate) type AtomicU64 = tally_testing::words::Word<u64>;
}

/// Maximum number of preemptions in one execution of a model. Two preemptions find nearly all races of such small
/// models. With five preemptions, the models still run for only a few seconds.
const PREEMPTIONS_MAX: usize = 5;
/// The slow threshold in nanoseconds. With this threshold, a slot is one nanosecond wide. A lap has 128 slots.
const THRESHOLD_NS: u64 = 8;

/// The owner of the first shard, the owner of the second shard, and a user of the shared shard.
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
/// The time at which the slot of time 0 is used again, one lap later.
const LAP_NS: u64 = 128;
/// A time at which calls of the second lap are overdue as well.
const LATER_NS: u64 = LAP_NS + THRESHOLD_NS + 1;

fn check(model: impl Fn() + Send + Sync + 'static) {
    explore(PREEMPTIONS_MAX, model);
}

/// Returns whether `generation` is current, like the closures `live` in the breaker.
fn live(gate: &Gate, generation: u32) -> bool {
    gate.load().generation() == generation
}

/// Returns the number of overdue calls. Reads only *older* and the one slot that the models use.
fn overdue(ring: &InFlightRing, now_ns: u64) -> u64 {
    ring.in_flight_of_slots(0..1, 0, now_ns, 0).overdue
}

#[test]
fn calls_in_flight_are_counted_once_while_a_slot_is_taken_over() {
    for access in [ACCESS[0], ACCESS[2]] {
        check(move || {
            let ring = Arc::new(InFlightRing::new(3, THRESHOLD_NS));
            let hung = ring.enter(access, 0, 0, || true).unwrap();
            let ending = ring.enter(access, 0, 0, || true).unwrap();
            let other = Arc::clone(&ring);
            // One of two calls ends on another thread. At the same time, a third call takes the slot of the two calls
            // over, and a reader reads this slot.
            let (third, seen) = race(
                move || other.enter(access, 0, LAP_NS, || true).unwrap(),
                || {
                    let seen = overdue(&ring, LAP_NS);
                    ring.leave(ACCESS[1], 0, ending, LAP_NS, || true);
                    [seen, overdue(&ring, LAP_NS)]
                },
            );
            assert!(
                seen[0] <= 2 && seen[1] <= 1,
                "at most two calls, then at most one: {seen:?}"
            );
            assert_eq!(overdue(&ring, LAP_NS), 1, "the hung call");
            assert_eq!(overdue(&ring, LATER_NS), 2, "the hung call and the third call");
            ring.leave(ACCESS[1], 0, third, LATER_NS, || true);
            ring.leave(ACCESS[2], 0, hung, LATER_NS, || true);
            assert_eq!(ring.in_flight(0, 4 * LAP_NS, 0).overdue, 0);
        });
    }
}

#[test]
fn a_call_that_has_ended_is_never_overdue_while_leaving_calls_take_over_its_slot() {
    for access in [ACCESS[1], ACCESS[2]] {
        check(move || {
            let ring = Arc::new(InFlightRing::new(3, THRESHOLD_NS));
            let hung = ring.enter(ACCESS[0], 0, 0, || true).unwrap();
            let ended = ring.enter(ACCESS[0], 0, 0, || true).unwrap();
            ring.leave(access, 0, ended, THRESHOLD_NS, || true);
            let other = Arc::clone(&ring);
            // A call of the next lap enters and leaves. It is counted in the shard that also counted the end of the
            // ended call.
            let ((), seen) = race(
                move || {
                    let next = other.enter(access, 0, LAP_NS, || true).unwrap();
                    other.leave(access, 0, next, LAP_NS, || true);
                },
                || overdue(&ring, LATER_NS),
            );
            assert!(
                seen <= 2,
                "the hung call and, for a moment, the next call: {seen}"
            );
            assert_eq!(overdue(&ring, LATER_NS), 1, "the hung call");
            ring.leave(ACCESS[0], 0, hung, LATER_NS, || true);
            assert_eq!(overdue(&ring, LATER_NS), 0);
        });
    }
}

/// A call of the next lap takes over the slot of an ended call during the reading, but is not overdue yet. So the
/// reading must show at most the hung call.
#[test]
fn a_reading_during_a_take_over_shows_only_calls_that_hang() {
    check(|| {
        let ring = Arc::new(InFlightRing::new(3, THRESHOLD_NS));
        ring.enter(ACCESS[0], 0, 0, || true).unwrap();
        let ended = ring.enter(ACCESS[0], 0, 0, || true).unwrap();
        ring.leave(ACCESS[1], 0, ended, THRESHOLD_NS, || true);
        let other = Arc::clone(&ring);
        let ((), seen) = race(
            move || {
                let next = other.enter(ACCESS[1], 0, LAP_NS, || true).unwrap();
                other.leave(ACCESS[1], 0, next, LAP_NS, || true);
            },
            || overdue(&ring, LAP_NS),
        );
        assert!(seen <= 1, "one call hangs, {seen} are reported");
        assert_eq!(overdue(&ring, LAP_NS), 1);
    });
}

#[test]
fn two_threads_that_take_over_a_shared_slot_move_its_counts_once() {
    check(|| {
        let ring = Arc::new(InFlightRing::new(3, THRESHOLD_NS));
        let shared = ACCESS[2];
        ring.enter(ACCESS[0], 0, 0, || true).unwrap();
        let ended = ring.enter(ACCESS[0], 0, 0, || true).unwrap();
        ring.leave(shared, 0, ended, THRESHOLD_NS, || true);
        let next = [0, 1].map(|_| ring.enter(ACCESS[0], 0, LAP_NS, || true).unwrap());
        let other = Arc::clone(&ring);
        race(
            move || other.leave(shared, 0, next[0], LAP_NS, || true),
            || ring.leave(shared, 0, next[1], LAP_NS, || true),
        );
        assert_eq!(overdue(&ring, LATER_NS), 1, "the hung call");
    });
}

#[test]
fn calls_that_leave_on_several_threads_are_all_counted() {
    check(|| {
        let ring = Arc::new(InFlightRing::new(3, THRESHOLD_NS));
        let calls = [0, 1, 2].map(|_| ring.enter(ACCESS[0], 0, 0, || true).unwrap());
        let other = Arc::clone(&ring);
        let ((), seen) = race(
            move || other.leave(ACCESS[1], 0, calls[0], LAP_NS, || true),
            || {
                ring.leave(ACCESS[0], 0, calls[1], LAP_NS, || true);
                overdue(&ring, LAP_NS)
            },
        );
        assert!(
            (1..=2).contains(&seen),
            "one call has ended, another may have ended: {seen}"
        );
        assert_eq!(overdue(&ring, LAP_NS), 1);
        ring.leave(ACCESS[1], 0, calls[2], LAP_NS, || true);
        assert_eq!(overdue(&ring, LAP_NS), 0);
    });
}

#[test]
fn a_call_that_ends_laps_later_is_counted_as_ended() {
    // The end of a call is counted in the slot for the first laps, and in *older* afterwards. The model checks both
    // cases.
    for ends_ns in [LAP_NS, 2 * LAP_NS, 3 * LAP_NS, 5 * LAP_NS] {
        check(move || {
            let ring = Arc::new(InFlightRing::new(3, THRESHOLD_NS));
            let calls = [0, 1].map(|_| ring.enter(ACCESS[0], 0, 0, || true).unwrap());
            let other = Arc::clone(&ring);
            let ((), seen) = race(
                move || other.leave(ACCESS[1], 0, calls[0], ends_ns, || true),
                || overdue(&ring, ends_ns),
            );
            assert!(
                (1..=2).contains(&seen),
                "one call hangs, the other may have ended: {seen}"
            );
            assert_eq!(overdue(&ring, ends_ns), 1);
        });
    }
}

#[test]
fn calls_of_two_laps_leave_a_slot_in_any_order() {
    check(|| {
        let ring = Arc::new(InFlightRing::new(3, THRESHOLD_NS));
        ring.enter(ACCESS[0], 0, 0, || true).unwrap();
        let old = ring.enter(ACCESS[0], 0, 0, || true).unwrap();
        let next = ring.enter(ACCESS[0], 0, LAP_NS, || true).unwrap();
        let other = Arc::clone(&ring);
        race(
            move || other.leave(ACCESS[2], 0, old, LAP_NS, || true),
            || ring.leave(ACCESS[2], 0, next, LAP_NS, || true),
        );
        assert_eq!(overdue(&ring, LATER_NS), 1, "the hung call");
    });
}

/// The owner of a shard ends calls of two laps, the later call first, while a reader reads the slot.
#[test]
fn a_reading_sees_calls_of_two_laps_leave() {
    check(|| {
        let ring = Arc::new(InFlightRing::new(3, THRESHOLD_NS));
        ring.enter(ACCESS[0], 0, 0, || true).unwrap();
        let old = ring.enter(ACCESS[0], 0, 0, || true).unwrap();
        let next = ring.enter(ACCESS[0], 0, LAP_NS, || true).unwrap();
        let other = Arc::clone(&ring);
        let ((), seen) = race(
            move || {
                other.leave(ACCESS[1], 0, next, LAP_NS, || true);
                other.leave(ACCESS[1], 0, old, LAP_NS, || true);
            },
            || overdue(&ring, LAP_NS),
        );
        assert!(seen <= 2, "the first lap has two calls, but {seen} are reported");
        assert_eq!(overdue(&ring, LAP_NS), 1, "the hung call");
    });
}

#[test]
fn a_call_that_enters_late_keeps_the_counts_of_the_next_lap() {
    check(|| {
        let ring = Arc::new(InFlightRing::new(3, THRESHOLD_NS));
        let late = Arc::clone(&ring);
        let shared = ACCESS[2];
        let (late, next) = race(
            move || late.enter(shared, 0, 0, || true).unwrap(),
            || ring.enter(shared, 0, LAP_NS, || true).unwrap(),
        );
        assert_eq!(overdue(&ring, LATER_NS), 2);
        ring.leave(ACCESS[0], 0, late, LATER_NS, || true);
        ring.leave(ACCESS[0], 0, next, LATER_NS, || true);
        assert_eq!(overdue(&ring, LATER_NS), 0);
    });
}

/// A call belongs to a generation that ends while the call enters or leaves. The call must change no count of the next
/// generation. The model checks three cases: the call enters too late, it leaves too late, and it leaves several laps
/// later.
#[test]
fn a_late_call_of_an_old_generation_changes_no_count_of_the_new_one() {
    let shared = ACCESS[2];
    let check_late = |late: fn(&InFlightRing, RingPlace, &dyn Fn() -> bool), ends_ns| {
        check(move || {
            let gate = Arc::new(Gate::new(BreakerMode::Auto, 1));
            let ring = Arc::new(InFlightRing::new(3, THRESHOLD_NS));
            let place = ring.enter(ACCESS[0], 0, 0, || true).unwrap();
            let (late_gate, late_ring) = (Arc::clone(&gate), Arc::clone(&ring));
            race(
                move || late(&late_ring, place, &|| live(&late_gate, 0)),
                || {
                    let word = gate.transition(gate.load(), CircuitState::Closed, 0).unwrap();
                    let (new, live) = (word.generation(), || live(&gate, 1));
                    let [_hung, ends] = [0, 1].map(|_| ring.enter(shared, new, 0, live).unwrap());
                    ring.leave(shared, new, ends, ends_ns, live);
                },
            );
            assert_eq!(
                ring.in_flight_of_slots(0..1, 1, ends_ns.max(LATER_NS), 0).overdue,
                1
            );
        });
    };
    check_late(
        |ring, _, live| {
            let _too_late_or_not = ring.enter(ACCESS[2], 0, 0, live);
        },
        0,
    );
    check_late(|ring, place, live| ring.leave(ACCESS[2], 0, place, 0, live), 0);
    check_late(
        |ring, place, live| ring.leave(ACCESS[2], 0, place, 5 * LAP_NS, live),
        5 * LAP_NS,
    );
}
