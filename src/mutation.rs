//! Deliberate bugs for the simulation. The simulation must find each of them; otherwise it has a gap.
//!
//! At the place of each bug, the code asks `planted`. Without the feature `mutations`, the answer is the constant
//! `false`, so the compiler removes the bug. A released program never has this feature.
//!
//! The crates below `crates/` have the same switch. [`plant`] sets all of them.

#[cfg(feature = "mutations")]
use std::cell::Cell;

#[cfg(feature = "mutations")]
use thiserror::Error;

/// A deliberate bug.
#[cfg(feature = "mutations")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mutation {
    /// The name, which [`plant`] takes.
    pub name: &'static str,
    /// What the program does wrong.
    pub what: &'static str,
}

/// No mutation has this name.
#[cfg(feature = "mutations")]
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no mutation {0:?}; `MUTATIONS` in src/mutation.rs lists all names")]
pub struct UnknownMutation(pub String);

/// All deliberate bugs of the service and of its crates.
#[cfg(feature = "mutations")]
pub const MUTATIONS: &[Mutation] = &[
    mutation("skip_fsync", "the journal writes a block, and does not sync it"),
    mutation(
        "answer_before_sync",
        "the sync of a block follows only with the next block, after the answers were given",
    ),
    mutation(
        "retry_failed_fsync",
        "after a failed sync, the journal syncs again, and believes the second sync",
    ),
    mutation(
        "ignore_write_error",
        "the journal ignores that the write of a block failed",
    ),
    mutation(
        "skip_directory_sync",
        "the name of a new segment is not made durable",
    ),
    mutation(
        "keep_clean_marker",
        "the marker of a clean stop stays when the next process appends",
    ),
    mutation(
        "ignore_block_crc",
        "the checksum of a block's body is not compared",
    ),
    mutation(
        "accept_torn_block",
        "a block whose write was cut short is accepted up to its first damaged record",
    ),
    mutation(
        "drop_last_block_at_recovery",
        "after a crash, the last whole block is removed like an incomplete one",
    ),
    mutation(
        "keep_torn_remains",
        "the remains of an incomplete block are not erased",
    ),
    mutation(
        "trust_page_cache_at_start",
        "a start does not write the last block again, although its sync may have failed",
    ),
    mutation(
        "ignore_chunk_crc",
        "the checksums of checkpoints and id files are not compared",
    ),
    mutation("ignore_record_crc", "the checksum of a record is not compared"),
    mutation(
        "apply_twice_on_replay",
        "a replay applies a record to an account that already contains it",
    ),
    mutation(
        "replay_skips_second_leg",
        "a replay applies only the first of two transfers of a record to the same account",
    ),
    mutation(
        "lose_take_back",
        "a rejected transaction keeps its transfers before the rejected one",
    ),
    mutation(
        "balance_of_one_side_only",
        "a transfer that the credit account rejects stays on the debit account",
    ),
    mutation(
        "idempotency_ignores_content",
        "a known id with another content gets the recorded outcome",
    ),
    mutation(
        "rejection_not_recorded",
        "a rejection is not recorded, so a retry may be committed",
    ),
    mutation(
        "overdraw_by_one",
        "an account may exceed its limit by one minor unit",
    ),
    mutation(
        "reuse_reply_slot_early",
        "a reply slot is reused while the executor still holds it",
    ),
    mutation(
        "claim_after_withdrawal",
        "a request that its caller has withdrawn is executed",
    ),
    mutation(
        "execute_expired_deadline",
        "a request whose deadline has passed is executed",
    ),
    mutation(
        "not_executed_after_execution",
        "a call whose deadline passes during the commit gets the answer that it was not executed",
    ),
    mutation(
        "turn_executes_after_hole",
        "a request of a stream is executed although an earlier one was not",
    ),
    mutation(
        "leak_half_open_permit",
        "a probe that was given up keeps its permit",
    ),
    mutation(
        "read_not_durable",
        "a read is answered before the writes that it shows are durable",
    ),
    mutation(
        "checkpoint_not_durable",
        "a checkpoint copies accounts whose changes are not durable",
    ),
    mutation(
        "acknowledge_after_failure",
        "a transaction is acknowledged although its block could not be written",
    ),
    mutation(
        "failed_write_not_executed",
        "a transaction whose block could not be written gets the answer that it was not executed",
    ),
    mutation(
        "forget_id_at_checkpoint",
        "a start does not read the ids between the last full segment and the checkpoint",
    ),
    mutation(
        "skip_segment",
        "a start does not read the ids of the last full segment before the checkpoint",
    ),
    mutation(
        "pass_over_damaged_segment",
        "a start passes over a damaged or missing segment before the checkpoint",
    ),
    mutation(
        "pass_over_segment_without_id_file",
        "a start does not read the ids of a segment that has no id file",
    ),
    mutation(
        "stale_checkpoint_for_newer",
        "a start takes the balances of an older checkpoint for those of the newest",
    ),
    mutation(
        "forget_rejection_at_start",
        "a replay does not index the ids of rejected transactions",
    ),
    mutation(
        "sequence_gap",
        "the first sequence after the removal of an incomplete block is skipped",
    ),
    mutation(
        "commit_time_goes_back",
        "the time of a block is the time of the clock, even if the clock has gone back",
    ),
    mutation(
        "follow_large_step",
        "the time of the ledger follows every step of the wall clock at once",
    ),
    mutation(
        "repeat_gets_first_place",
        "a repeated transaction gets the sequence and the time of the first one in its block",
    ),
    mutation("expire_early", "a hold expires a second before its time"),
    mutation("post_twice", "a hold that was posted whole stays outstanding"),
    mutation("lose_remainder", "what a partial post was to keep is released"),
    mutation("reverse_twice", "a reversal is not remembered"),
    mutation(
        "forget_velocity_slice",
        "a velocity limit forgets its oldest slice too early",
    ),
];

#[cfg(feature = "mutations")]
thread_local! {
    /// The name of the planted bug. It belongs to the thread, because several simulations run in one process, each on
    /// its own thread.
    static PLANTED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Plants the bug `name` in the service and its crates, for the calling thread, in place of the bug that was planted
/// before. `None` plants no bug.
///
/// # Errors
/// [`UnknownMutation`] if neither [`MUTATIONS`] nor [`MUTATIONS_OF_LEDGER`] has this name. Nothing has changed in this case.
#[cfg(feature = "mutations")]
pub fn plant(name: Option<&str>) -> Result<(), UnknownMutation> {
    let known = |name: &str| {
        let all = MUTATIONS.iter().chain(MUTATIONS_OF_LEDGER);
        let mut all = all.chain(MUTATIONS_OF_REPLICATION);
        let found = all.find(|mutation| mutation.name == name);
        found.ok_or_else(|| UnknownMutation(name.to_owned()))
    };
    let name = name.map(known).transpose()?.map(|mutation| mutation.name);
    PLANTED.set(name);
    tally_batch::mutation::plant(name);
    tally_breaker::mutation::plant(name);
    tally_journal::mutation::plant(name);
    tally_ledger::mutation::plant(name);
    tally_replication::mutation::plant(name);
    Ok(())
}

/// Deliberate bugs of the ledger that the tests of its crate find (`crates/ledger/tests/it/mutations.rs`). The simulation finds them only in
/// runs in which many holds expire, so `--mutations` does not look for them.
#[cfg(feature = "mutations")]
pub const MUTATIONS_OF_LEDGER: &[Mutation] = &[mutation(
    "post_when_due",
    "a hold whose time has come can be posted",
)];

/// Deliberate bugs of the replicated store. The simulation finds them in its runs with several replicas (`--replicas`), and the
/// exhaustive exploration of the protocol finds those of its crate (`crates/replication/tests/it/mutations.rs`).
#[cfg(feature = "mutations")]
pub const MUTATIONS_OF_REPLICATION: &[Mutation] = &[
    mutation(
        "acknowledge_at_any_offset",
        "a leader acknowledges an append although it does not know the records before it",
    ),
    mutation(
        "complete_out_of_order",
        "a leader acknowledges an append although an earlier one has no result",
    ),
    mutation(
        "no_hash_check",
        "a block is accepted although its predecessor is another block than the accepted one",
    ),
    mutation("accept_after_end", "a block is accepted after the end of the log"),
    mutation(
        "answer_read_by_earlier_block",
        "a read of a leader waits for a block that was sent before the read arrived",
    ),
    mutation(
        "claim_before_applying",
        "a candidate serves although its memory lacks accepted blocks",
    ),
    mutation(
        "acknowledge_what_is_visible",
        "a leader acknowledges blocks that it reads although no later append was acknowledged",
    ),
    mutation(
        "visible_records_are_known",
        "a leader takes records for known that it has read before a later append was acknowledged",
    ),
    mutation(
        "serve_a_visible_claim",
        "a candidate serves when its claim is visible, without the answer to its append",
    ),
    mutation(
        "keep_lost_records",
        "a reader goes on although the last record that it has judged was lost",
    ),
    mutation(
        "lead_while_resigning",
        "a replica that resigns says that it leads until its last block is accepted, and answers reads",
    ),
    mutation(
        "lead_with_first_block",
        "the engine of a new leader says that it leads only when its first block is accepted",
    ),
    mutation(
        "forget_end_at_start",
        "a replica whose resume point is the end of the log accepts blocks after the end",
    ),
    mutation(
        "resume_too_low",
        "a resume point names the record before its block",
    ),
    mutation(
        "resume_too_high",
        "a resume point names the record after its block",
    ),
    mutation(
        "resume_before_journal",
        "a resume point is written before its block is in the journal",
    ),
];

#[cfg(feature = "mutations")]
const fn mutation(name: &'static str, what: &'static str) -> Mutation {
    Mutation { name, what }
}

/// Whether the bug `name` is planted.
#[cfg(feature = "mutations")]
pub(crate) fn planted(name: &str) -> bool {
    PLANTED.get() == Some(name)
}

/// Whether the bug `name` is planted: never, without the feature `mutations`.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub(crate) const fn planted(_name: &str) -> bool {
    false
}
