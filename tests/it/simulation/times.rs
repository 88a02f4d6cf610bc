//! Commit times and the ledger clock.

use super::*;

/// An event of the ledger clock.
enum Clock {
    /// The service reads the wall clock, which has made a step of this many seconds since the start of the simulation.
    Read(i64),
    /// An administrator confirms a step of this many seconds since the start of the simulation.
    Confirmed(i64),
}

/// The time of the wall clock at the start of the simulation. It is so late that the clock can go back by a day and is still later than
/// the creation of the accounts.
const START: Timestamp = WALL_BASE.plus_nanos(2 * 86_400 * 1_000_000_000);

/// The time that a wall clock shows this number of nanoseconds after the start, if it has made a step of `seconds` seconds.
fn on_wall(nanos: u64, seconds: i64) -> Timestamp {
    let time = START.as_nanos() + nanos;
    Timestamp::from_nanos(time.strict_add_signed(seconds * 1_000_000_000))
}

const fn second(second: u64) -> u64 {
    second * 1_000_000_000
}

/// The service reads its wall clock.
fn reads(oracle: &mut Oracle, nanos: u64, seconds: i64) {
    oracle.wall_clock_read(Duration::from_nanos(nanos), on_wall(nanos, seconds));
    oracle.time_is(Duration::from_nanos(nanos));
}

/// A service starts 1 s after the start of the simulation. Then the events `before` happen to its clock. Call 2 begins after 7 s, and is
/// answered 500 ns later; the events `during` happen in between. The transaction of call 2 has the time that a wall clock shows `nanos`
/// nanoseconds after the start, if it has made a step of `seconds` seconds.
fn recorded_at(before: &[Clock], during: &[Clock], (nanos, seconds): (u64, i64)) -> Result<(), Violation> {
    let mut story = Story::new();
    let steps = |oracle: &mut Oracle, at: u64, steps: &[Clock]| {
        oracle.time_is(Duration::from_nanos(at));
        for step in steps {
            match *step {
                Clock::Read(seconds) => reads(oracle, at, seconds),
                Clock::Confirmed(seconds) => oracle.clock_confirmed(on_wall(at, seconds)),
            }
        }
    };
    let salary = pay("salary", "bank", "alice", 100);
    steps(&mut story.oracle, second(1), &[Clock::Read(0)]);
    steps(&mut story.oracle, second(5), before);
    steps(&mut story.oracle, second(7), &[]);
    story.send(2, &salary);
    steps(&mut story.oracle, second(7) + 250, during);
    let mut place = story.book.commit(&salary);
    place.time = on_wall(nanos, seconds);
    story.book.retime("salary", place.time);
    story.oracle.time_is(Duration::from_nanos(second(7) + 500));
    story.outcome(2, first(place));
    reads(&mut story.oracle, 1 << 60, 0);
    story.examine()
}

/// Checks that the oracle refuses a time because it is later than every time that the clock has shown.
fn too_late(result: Result<(), Violation>) {
    refused(
        result,
        &[
            "times: transaction salary has the time 17",
            ", but until then the clock of the ledger showed at most 17",
        ],
    );
}

/// Checks that the oracle refuses a time because it is earlier than every time that the clock has shown since the call began.
fn too_early(result: Result<(), Violation>) {
    refused(
        result,
        &[
            "times: transaction salary has the time 17",
            ", but the clock of the ledger showed at least 17",
            " since call 2 began",
        ],
    );
}

#[test]
fn commit_times_follow_the_clock() {
    for time in [second(7), second(7) + 500] {
        recorded_at(&[], &[], (time, 0)).unwrap();
    }
    too_late(recorded_at(&[], &[], (second(8), 0)));
    // The commit time is that of an account plus 1 ns, although the clock shows a later time.
    too_early(recorded_at(&[], &[], (1, 0)));
    too_early(recorded_at(&[], &[], (second(7) - 1, 0)));
}

#[test]
fn commit_times_follow_small_steps() {
    for step in [-60, -1, 1, 60] {
        let steps = [Clock::Read(step)];
        recorded_at(&steps, &[], (second(7), step)).unwrap();
        too_early(recorded_at(&steps, &[], (second(7) - 1, step)));
        // A step during the call: the block has a time from before the step or after it.
        recorded_at(&[], &steps, (second(7), 0)).unwrap();
        recorded_at(&[], &steps, (second(7) + 250, step)).unwrap();
    }
    too_early(recorded_at(&[Clock::Read(60)], &[], (second(7), 0)));
    too_late(recorded_at(&[Clock::Read(-60)], &[], (second(7), 60)));
    // The lowest time during the call is that of the step back.
    too_early(recorded_at(&[], &[Clock::Read(-3)], (second(7) + 249, -3)));
    too_early(recorded_at(
        &[],
        &[Clock::Read(-3), Clock::Read(0)],
        (second(7) + 249, -3),
    ));
    too_early(recorded_at(&[], &[Clock::Read(3)], (second(7) - 1, 0)));
    // Each step is measured against the previous step.
    let steps = [Clock::Read(60), Clock::Read(120)];
    recorded_at(&steps, &[], (second(7), 120)).unwrap();
    too_early(recorded_at(&steps, &[], (second(7), 60)));
}

#[test]
fn commit_times_do_not_follow_large_steps() {
    for step in [-86_400, -61, 61, 86_400] {
        let steps = [Clock::Read(step)];
        for (before, during) in [(&steps[..], &[][..]), (&[], &steps)] {
            recorded_at(before, during, (second(7), 0)).unwrap();
            too_early(recorded_at(before, during, (second(7) - 1, 0)));
            let followed = recorded_at(before, during, (second(7) + 250, step));
            if step > 0 {
                too_late(followed)
            } else {
                too_early(followed)
            }
        }
        // The clock comes back.
        let back = [Clock::Read(step), Clock::Read(-2)];
        recorded_at(&back, &[], (second(7), -2)).unwrap();
        // While a step is held, the next step is measured against the ledger clock.
        let further = [Clock::Read(step), Clock::Read(step + 10 * step.signum())];
        recorded_at(&further, &[], (second(7), 0)).unwrap();
        too_early(recorded_at(&further, &[], (second(7) - 1, 0)));
    }
}

#[test]
fn commit_times_follow_a_confirmed_step() {
    for step in [-3600, 3600] {
        let steps = [Clock::Read(step), Clock::Confirmed(step)];
        recorded_at(&steps, &[], (second(7), step)).unwrap();
        too_early(recorded_at(&steps, &[], (second(7) - 1, step)));
        recorded_at(&[], &steps, (second(7), 0)).unwrap();
        recorded_at(&[], &steps, (second(7) + 250, step)).unwrap();
    }
    too_early(recorded_at(
        &[Clock::Read(3600), Clock::Confirmed(3600)],
        &[],
        (second(7), 0),
    ));
}

#[test]
fn a_start_takes_the_time_of_the_wall_clock() {
    for step in [-3600, 0, 3600] {
        let mut story = Story::new();
        reads(&mut story.oracle, second(1), 0);
        story.oracle.died();
        let salary = pay("salary", "bank", "alice", 100);
        reads(&mut story.oracle, second(5), step);
        story.send(2, &salary);
        let mut place = story.book.commit(&salary);
        place.time = on_wall(second(5), step);
        story.book.retime("salary", place.time);
        story.outcome(2, first(place));
        story.examine().unwrap();
    }
}

#[test]
fn a_block_that_was_open_before_may_have_an_earlier_time() {
    let mut story = Story::new();
    reads(&mut story.oracle, second(2), 0);
    story.send(2, &pay("other", "bank", "alice", 1));
    reads(&mut story.oracle, second(7), 0);
    let salary = pay("salary", "bank", "alice", 100);
    story.send(3, &salary);
    // The time of this transaction is 1 s after the start.
    let place = story.book.commit(&salary);
    story.outcome(3, first(place));
    story.oracle.died();
    story.examine().unwrap();
}
