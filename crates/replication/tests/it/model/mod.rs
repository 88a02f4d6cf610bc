//! Explores every reachable state of a small cluster that runs the real code of this crate.
//!
//! A state consists of the log, the nodes, and the requests in flight. [`Event`](world::Event) lists what can happen.
//! The exploration is complete: within its [`Bounds`], every order of events occurs. It is breadth-first, so the events
//! that lead to a violation are as few as possible.

mod explore;
mod progress;
pub(crate) mod reference;
mod step;
mod world;

pub(crate) use explore::explore;
pub(crate) use world::Bounds;

/// The environment variable that makes the bounds larger, by this number of blocks and failures.
const DEPTH_VARIABLE: &str = "TALLY_TEST_MODEL_DEPTH";

/// Explores all states within the bounds, and prints their number.
fn explored(name: &str, bounds: Bounds) {
    let deeper: u8 = std::env::var(DEPTH_VARIABLE).map_or(0, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{DEPTH_VARIABLE} must be a number, not {text:?}"))
    });
    let bounds = Bounds {
        blocks: bounds.blocks + deeper,
        failures: bounds.failures + deeper,
        ..bounds
    };
    match explore(bounds) {
        Ok(report) => println!("{name}: {report:?}"),
        Err(violation) => panic!("{name}: {violation}"),
    }
}

#[test]
fn pipelined_requests() {
    let bounds = Bounds {
        claims: 2,
        blocks: 3,
        failures: 1,
        has_peers: true,
        ..Bounds::NONE
    };
    explored("pipelined requests", bounds);
}

#[test]
fn repeated_failures() {
    let bounds = Bounds {
        claims: 2,
        blocks: 2,
        failures: 2,
        ..Bounds::NONE
    };
    explored("repeated failures", bounds);
}

#[test]
fn three_nodes() {
    let bounds = Bounds {
        nodes: 3,
        claims: 3,
        blocks: 1,
        failures: 1,
        has_peers: true,
        ..Bounds::NONE
    };
    explored("three nodes", bounds);
}

#[test]
fn lost_records() {
    let bounds = Bounds {
        claims: 2,
        blocks: 2,
        failures: 1,
        losses: 1,
        has_peers: true,
        ..Bounds::NONE
    };
    explored("lost records", bounds);
}

#[test]
fn lost_records_and_crashes() {
    let bounds = Bounds {
        claims: 2,
        blocks: 1,
        failures: 1,
        losses: 1,
        restarts: 1,
        ..Bounds::NONE
    };
    explored("lost records and crashes", bounds);
}

#[test]
fn lost_claims() {
    let bounds = Bounds {
        nodes: 3,
        claims: 3,
        losses: 1,
        ..Bounds::NONE
    };
    explored("lost claims", bounds);
}

#[test]
fn end_of_the_log_and_slow_memory() {
    let bounds = Bounds {
        claims: 2,
        blocks: 2,
        failures: 1,
        has_end: true,
        applies_late: true,
        ..Bounds::NONE
    };
    explored("end of the log and slow memory", bounds);
}
