//! Replicates a chain of blocks over a shared log: it does no I/O, uses no async code and reads no clock.
mod acceptance;
mod append;
mod block;
mod claim;
mod election;
mod halt;
#[cfg(not(feature = "mutations"))]
mod mutation;
#[cfg(feature = "mutations")]
pub mod mutation;
mod reader;

pub use self::{
    acceptance::{Accepted, SkipReason, Verdict},
    append::{Action, Appender, Limits, Outcome, ReadId, RequestId, Stopped},
    block::{BlockFacts, BlockHash, BlockKind},
    claim::{Claim, ClaimStep, Decision, PEERS_MAX, PeerPoint},
    election::{CLOCK_DIFFERENCE_MS_MAX, Election, Heartbeat, News, Timing, is_clock_wrong},
    halt::{HaltReason, WrongField},
    reader::{LogReader, Record, Seen, Step},
};
