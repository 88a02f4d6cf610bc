//! Errors and figures that a healthy service never shows.

use tally_breaker::{BreakerMode, CircuitState};

use super::*;

/// A call with one transaction.
fn write() -> Call {
    call(Request::Transactions(vec![pay("salary", "bank", "alice", 100)]))
}

/// The answer `error` to a call that begins after `before` and is answered after `between`.
fn fails(
    before: fn(&mut Oracle),
    call: &Call,
    between: fn(&mut Oracle),
    error: impl Into<EngineError>,
) -> Result<(), Violation> {
    let mut oracle = Oracle::new();
    before(&mut oracle);
    oracle.invoked(1, call);
    between(&mut oracle);
    oracle.answered(1, &Err(error.into()))
}

fn at(oracle: &mut Oracle, seconds: u64) {
    oracle.time_is(Duration::from_secs(seconds));
}

fn nothing(_: &mut Oracle) {}

#[test]
fn a_full_disk_excuses_only_for_a_time() {
    let full = StoreFault::DiskFull { executed_part: false };
    let filled = |oracle: &mut Oracle| {
        at(oracle, 10);
        oracle.disk_fills();
    };
    let had_space = |oracle: &mut Oracle| {
        at(oracle, 10);
        oracle.disk_fills();
        at(oracle, 20);
        oracle.disk_has_space();
        at(oracle, 25);
    };
    let had_space_long_ago = |oracle: &mut Oracle| {
        at(oracle, 10);
        oracle.disk_fills();
        at(oracle, 20);
        oracle.disk_has_space();
        at(oracle, 31);
    };
    let healed = |oracle: &mut Oracle| {
        oracle.disk_fills();
        oracle.faults_planted();
        oracle.healed();
        at(oracle, 11);
    };
    fails(filled, &write(), nothing, full).unwrap();
    fails(nothing, &write(), filled, full).unwrap();
    fails(had_space, &write(), nothing, full).unwrap();
    refused(
        fails(had_space_long_ago, &write(), nothing, full),
        &["errors: call 1 failed with", "the disk was not full"],
    );
    refused(fails(healed, &write(), nothing, full), &["the disk was not full"]);
}

#[test]
fn nothing_fails_after_the_last_fault() {
    for fault in [StoreFault::WriteFailed, StoreFault::Failed] {
        fails(nothing, &write(), nothing, fault).unwrap();
        refused(
            fails(Oracle::healed, &write(), nothing, fault),
            &["the disk had no fault any more"],
        );
    }
    let planted_and_healed = |oracle: &mut Oracle| {
        oracle.faults_planted();
        oracle.healed();
    };
    refused(
        fails(planted_and_healed, &write(), nothing, StoreFault::ReadFailed),
        &["the disk had no fault"],
    );
}

#[test]
fn a_closed_circuit_stays_closed() {
    let open = EngineError::CircuitOpen(tally_breaker::Rejection {
        state: CircuitState::Open,
        mode: BreakerMode::Auto,
        retry_after: Duration::from_secs(1),
    });
    let closed = |oracle: &mut Oracle| {
        at(oracle, 5);
        oracle.circuits_closed();
    };
    fails(nothing, &write(), nothing, open.clone()).unwrap();
    fails(nothing, &write(), closed, open.clone()).unwrap();
    refused(
        fails(closed, &write(), nothing, open.clone()),
        &["the circuits had closed on a healthy disk"],
    );
    let read = call(Request::Account("alice".to_owned()));
    refused(fails(nothing, &read, nothing, open), &["no circuit guards reads"]);
}

#[test]
fn a_large_queue_is_never_full() {
    let retry_after = Duration::ZERO;
    let full = BatchError::Full { retry_after };
    fails(Oracle::queue_is_small, &write(), nothing, full).unwrap();
    refused(
        fails(nothing, &write(), nothing, full),
        &["the queue has room for all calls"],
    );
}

#[test]
fn only_a_service_that_stops_is_closed() {
    fails(nothing, &write(), Oracle::stops, BatchError::Closed).unwrap();
    let stopped_before = |oracle: &mut Oracle| {
        oracle.stops();
        oracle.died();
    };
    for before in [nothing as fn(&mut Oracle), stopped_before] {
        refused(
            fails(before, &write(), nothing, BatchError::Closed),
            &["the service was not stopping"],
        );
    }
}

#[test]
fn only_a_deadline_expires() {
    for error in [BatchError::ExpiredInQueue, BatchError::ExpiredInExecution] {
        let with_deadline = Call {
            deadline: Some(Duration::from_secs(1)),
            ..write()
        };
        fails(nothing, &with_deadline, nothing, error).unwrap();
        refused(
            fails(nothing, &write(), nothing, error),
            &["the call has no deadline"],
        );
    }
}

#[test]
fn interrupted_without_a_cause() {
    refused(
        fails(nothing, &write(), nothing, BatchError::Interrupted),
        &["the call belongs to no stream"],
    );
    let mut story = Story::new();
    let (one, two) = (pay("one", "bank", "alice", 1), pay("two", "bank", "alice", 2));
    story.send_message(2, 0, &one);
    let place = story.book.commit(&one);
    story.outcome(2, first(place));
    story.send_message(3, 1, &two);
    story.answer(3, Err(BatchError::Interrupted.into()));
    story.refused(&[
        "streams: call 3 was answered as interrupted, but all earlier messages of its stream were executed",
    ]);
}

#[test]
fn figures_that_are_wrong() {
    let counted = |change: fn(&mut LedgerFigures)| {
        let mut story = Story::new();
        let (salary, rent) = (
            pay("salary", "bank", "alice", 100),
            pay("rent", "alice", "bob", 150),
        );
        story.send(2, &salary);
        let place = story.book.commit(&salary);
        story.outcome(2, first(place));
        story.send(3, &salary);
        story.outcome(3, again(place));
        story.send(4, &rent);
        story.book.reject(&rent, no_funds(100), 2);
        story.outcome(4, rejected(no_funds(100)));
        let mut figures = LedgerFigures {
            committed: 1,
            rejected: 1,
            replayed: 1,
            accounts: 3,
            ids: 2,
            last_sequence: 1,
            ..LedgerFigures::default()
        };
        change(&mut figures);
        story.book.figures = Some(figures);
        story
    };
    counted(|_| {}).examine().unwrap();
    counted(|figures| figures.committed = 2)
        .refused(&["figures: the service reports committed transactions: 2, but it must report 1"]);
    counted(|figures| figures.rejected = 0).refused(&["rejected transactions: 0"]);
    counted(|figures| figures.replayed = 0).refused(&["replayed transactions: 0"]);
    counted(|figures| figures.accounts = 4).refused(&["accounts: 4, but it must report 3"]);
    counted(|figures| figures.ids = 1).refused(&["ids: 1, but it must report 2"]);
    counted(|figures| figures.last_sequence = 2).refused(&["the last sequence: 2, but it must report 1"]);
    // A new process begins its counters at zero.
    let mut story = counted(|_| {});
    story.oracle.died();
    story.refused(&["committed transactions: 1, but it must report 0"]);
    // The outcome of a call is unknown.
    let mut story = counted(|figures| figures.committed = 2);
    story.send(5, &pay("unknown", "bank", "bob", 1));
    story.oracle.abandoned(5);
    story.examine().unwrap();
}
