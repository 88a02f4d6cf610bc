//! Replicates a chain of blocks over a shared log: it does no I/O, uses no async code and reads no clock.
//!
//! The log is a partition that speaks the Kafka protocol. Every replica reads the log and accepts the same chain of
//! blocks. One replica, the *leader* of a *term*, appends to the log. The log only orders and stores the blocks, and
//! decides nothing. The crate consists of state machines, which receive the records and the results of requests from a
//! program:
//!
//! | machine | question |
//! |---|---|
//! | [`Accepted`] | Is this block the next one of the chain? |
//! | [`LogReader`] | Which record comes next, and did the log lose records that were read before? |
//! | [`Appender`] | Which blocks does the leader send, which of them may it acknowledge, and does it still lead? |
//! | [`Claim`] | Does a candidate lead? |
//! | [`Election`] | When does a standby claim? |
//!
//! # No lock and no clock
//!
//! Whether a block is accepted depends only on the records before it, and all readers read the same records. So no two
//! readers accept different chains, however many processes believe that they lead. With a *claim*, a block that begins a
//! new term, a standby becomes the leader. A claim ends the term before it, because later blocks of that term do not
//! continue the chain any more. The time decides only when a standby claims; an early claim costs an interruption, and
//! nothing else.
//!
//! # Acknowledged, visible and lost
//!
//! An append is *acknowledged* when all in-sync brokers hold it. Then no record up to it can be lost, and an answer may be
//! given. A record can be *visible* before it is acknowledged. Such a record may be lost, and another record may take its
//! offset. So a record that was read before an acknowledgement is never a reason for an answer. After each new connection,
//! a reader reads its last judged record again, and compares the two.
//!
//! # Proof
//!
//! `tests/it/model` explores every reachable state of small clusters that run this code, with refused requests, lost
//! acknowledgements, late copies, pipelined requests, rival claims, lost records and crashes. This model also finds each
//! bug of a list of planted bugs (`tests/it/mutations.rs`). `docs/replication.md` names the test of each sentence of the
//! protocol.
//!
//! A broken invariant is a bug in this crate or in the caller. The machines then panic with a message that names the
//! invariant, in release builds too. The content of a log never causes a panic: each record is accepted, skipped, or a
//! reason to [halt](HaltReason).
//!
//! ```
//! use tally_replication::{Accepted, Action, Appender, BlockFacts, BlockKind, Limits, Outcome};
//!
//! let genesis = BlockFacts {
//!     number: 0, hash: [1; 32], previous: [0; 32], term: 0, writer: 0, kind: BlockKind::Genesis,
//! };
//! let mut accepted = Accepted::from_genesis(&genesis)?;
//! let claim = BlockFacts {
//!     number: 1, hash: [2; 32], previous: [1; 32], term: 1, writer: 77, kind: BlockKind::Claim,
//! };
//! accepted.accept(&claim, Ok(()))?;
//!
//! let mut appender = Appender::new(Limits::default(), accepted, 2);
//! let block = BlockFacts {
//!     number: 2, hash: [3; 32], previous: [2; 32], kind: BlockKind::Data, ..claim
//! };
//! appender.submit(block, 4096).expect("a leader");
//! let Some(Action::Send { request, first: 2, last: 2 }) = appender.action() else { panic!() };
//! appender.result(request, Outcome::Appended { base_offset: 2 });
//! assert_eq!(appender.action(), Some(Action::Durable { through: 2, next_offset: 3 }));
//! # Ok::<(), tally_replication::HaltReason>(())
//! ```

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
mod request;

pub use self::{
    acceptance::{Accepted, SkipReason, Verdict},
    append::Appender,
    block::{BlockFacts, BlockHash, BlockKind},
    claim::{Claim, ClaimStep, Decision, PEERS_MAX, PeerPoint},
    election::{CLOCK_DIFFERENCE_MS_MAX, Election, Heartbeat, News, Timing, is_clock_wrong},
    halt::{HaltReason, WrongField},
    reader::{LogReader, Record, Seen, Step},
    request::{Action, Limits, Outcome, ReadId, RequestId, Stopped},
};
