//! Progress: whatever has happened, a run without further faults acknowledges another block.

use tally_replication::BlockKind;

use super::{
    step::Broken,
    world::{Blocks, Bounds, Event, Mode, Progress, State},
};

/// Bounds of a run without faults.
const FAULTLESS: Bounds = Bounds {
    claims: u8::MAX,
    blocks: u8::MAX,
    ..Bounds::NONE
};
/// Number of events after which a run has made no progress.
const EVENTS_MAX: usize = 400;

/// Continues from `state` without faults until another block is acknowledged.
///
/// # Errors
/// What is wrong, and the events after `state`.
pub(crate) fn check(state: &State, blocks: &Blocks) -> Result<(), (Broken, Vec<Event>)> {
    let mut state = state.clone();
    let mut events = Vec::new();
    let before = state.acknowledged.len();
    for _ in 0..EVENTS_MAX {
        if state.acknowledged.len() > before || is_over(&state, blocks) {
            return Ok(());
        }
        for event in next(&state, blocks) {
            events.push(event);
            if let Err(what) = state.step(event, &FAULTLESS, blocks) {
                return Err((what, events));
            }
        }
    }
    Err((
        "a run without further faults acknowledges nothing any more".to_owned(),
        events,
    ))
}

/// Whether the log has ended, or all nodes had to halt because the log lost data.
fn is_over(state: &State, blocks: &Blocks) -> bool {
    let last = blocks.chain(&state.log).1.last().copied();
    let has_ended = last.is_some_and(|id| blocks.get(id).kind == BlockKind::End);
    let all_halted = state.nodes.iter().all(|node| node.mode == Mode::Halted);
    has_ended || (all_halted && state.used.losses > 0)
}

/// Everything in flight arrives, and every node reads. If nothing is left to do, each leader submits a block; without a
/// leader, a standby claims.
fn next(state: &State, blocks: &Blocks) -> Vec<Event> {
    let is_lost = |at: u8| state.wires[usize::from(at)].progress == Progress::Lost;
    let events = state.events(&FAULTLESS, blocks);
    let first = events.iter().copied().find(|event| match event {
        Event::Read(_)
        | Event::Apply(_)
        | Event::Land(_)
        | Event::Answer(_)
        | Event::AnswerRefused(_)
        | Event::Reply(..) => true,
        Event::Timeout(at) => is_lost(*at),
        Event::Claim(..)
        | Event::Submit(_)
        | Event::SubmitEnd(_)
        | Event::Refuse(_)
        | Event::LandZombie(_)
        | Event::Lose(_)
        | Event::Restart(_) => false,
    });
    if let Some(event) = first {
        return vec![event];
    }
    let submits = events
        .iter()
        .copied()
        .filter(|event| matches!(event, Event::Submit(_)));
    let submits: Vec<_> = submits.collect();
    if !submits.is_empty() {
        return submits;
    }
    // The standby that has read everything.
    let claim = events
        .into_iter()
        .rfind(|event| matches!(event, Event::Claim(..)));
    claim.into_iter().collect()
}
