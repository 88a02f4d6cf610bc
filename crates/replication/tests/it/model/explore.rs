//! The breadth-first exploration.

use std::{
    collections::HashSet,
    fmt,
    hash::{BuildHasherDefault, Hash, Hasher},
};

use super::{
    progress,
    world::{Blocks, Bounds, Event, State},
};

/// One of this many states is checked for progress, because each check is a separate run.
const PROGRESS_SAMPLE: u64 = 64;
/// More states than this mean that the bounds are too large for the memory.
const STATES_MAX: usize = 30_000_000;

/// What an exploration has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) states: usize,
    /// Events that led to a state, new or known.
    pub(crate) steps: usize,
    /// The largest number of events that lead to a new state.
    pub(crate) depth: usize,
    /// States from which a run without faults was tried: it must acknowledge another block.
    pub(crate) progress_checks: usize,
    /// The largest number of acknowledged blocks, claims included.
    pub(crate) acknowledged_max: usize,
}

/// An invariant is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) what: String,
    /// The events from the first state on.
    pub(crate) events: Vec<Event>,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}, after {:?}", self.what, self.events)
    }
}

/// A state to continue from.
struct Open {
    state: State,
    origin: u32,
}

/// How a state was reached first.
#[derive(Clone, Copy)]
struct Origin {
    before: u32,
    event: Event,
}

/// Explores all states within the bounds.
pub(crate) fn explore(bounds: Bounds) -> Result<Report, Violation> {
    let blocks = Blocks::default();
    let first = State::new(&bounds, &blocks);
    let mut known: HashSet<u64, BuildHasherDefault<Identity>> = HashSet::default();
    known.insert(fingerprint(&first));
    let mut origins: Vec<Origin> = Vec::new();
    let mut level = vec![Open {
        state: first,
        origin: u32::MAX,
    }];
    let mut report = Report {
        states: 1,
        steps: 0,
        depth: 0,
        progress_checks: 0,
        acknowledged_max: 0,
    };
    while !level.is_empty() {
        let mut next = Vec::new();
        for open in level {
            for event in open.state.events(&bounds, &blocks) {
                let mut state = open.state.clone();
                report.steps += 1;
                let result = state.step(event, &bounds, &blocks);
                let fail = |what: String, more: Vec<Event>| {
                    let mut events = trace(&origins, open.origin);
                    events.push(event);
                    events.extend(more);
                    Violation { what, events }
                };
                result.map_err(|what| fail(what, Vec::new()))?;
                let fingerprint = fingerprint(&state);
                if !known.insert(fingerprint) {
                    continue;
                }
                assert!(known.len() <= STATES_MAX, "more states than {STATES_MAX}");
                report.acknowledged_max = report.acknowledged_max.max(state.acknowledged.len());
                if fingerprint.is_multiple_of(PROGRESS_SAMPLE) && !bounds.checks_answers_only {
                    report.progress_checks += 1;
                    progress::check(&state, &blocks).map_err(|(what, more)| fail(what, more))?;
                }
                let origin = u32::try_from(origins.len()).expect("fewer states");
                origins.push(Origin {
                    before: open.origin,
                    event,
                });
                next.push(Open { state, origin });
            }
        }
        report.depth += usize::from(!next.is_empty());
        level = next;
    }
    report.states = known.len();
    Ok(report)
}

/// The events that lead to a state.
fn trace(origins: &[Origin], mut at: u32) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(origin) = origins.get(at as usize) {
        events.push(origin.event);
        at = origin.before;
    }
    events.reverse();
    events
}

fn fingerprint(state: &State) -> u64 {
    let mut hasher = Mix::default();
    state.hash(&mut hasher);
    hasher.finish()
}

/// A fast hash of 64 bits. With a million states, two of them have the same hash with a probability of about 3 in 10^8.
#[derive(Default)]
struct Mix(u64, u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        let mut value = self.0 ^ self.1.rotate_left(32);
        value = (value ^ (value >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        value ^ (value >> 33)
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(padded));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.1 = (self.1 ^ value)
            .wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
            .rotate_left(29)
            ^ self.0;
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
}

/// The hash of a fingerprint is the fingerprint.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a fingerprint is a u64")
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}
