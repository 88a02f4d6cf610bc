//! The engine's counters, for GetBatchStats and the metrics. The counters are read one after the other, so two counters
//! in the same report may belong to different moments.

use std::sync::atomic::{AtomicU64, Ordering};

use tally_ledger::{Outcome, Reason, Timestamp};

use crate::{store::embedded::JournaledLedger, telemetry::LogLimit};

/// The counters. EXEC writes every counter whose comment names no other thread.
#[derive(Debug, Default)]
pub(super) struct EngineCounters {
    committed: AtomicU64,
    rejected: AtomicU64,
    replayed: AtomicU64,
    accounts: AtomicU64,
    account_bytes: AtomicU64,
    ids: AtomicU64,
    id_bytes: AtomicU64,
    last_sequence: AtomicU64,
    holds: AtomicU64,
    holds_max: AtomicU64,
    hold_bytes: AtomicU64,
    holds_expired: AtomicU64,
    velocity_refusals: AtomicU64,
    /// Written by the thread that releases the answers of a block, which is WAL or EXEC.
    unknown_outcomes: AtomicU64,
    /// In the order of [`FoundBy::ALL`]. Written by the thread that found the damage.
    damages: [AtomicU64; FoundBy::ALL.len()],
    /// Written by AUX, like the two counters below.
    scrubbed_bytes: AtomicU64,
    scrub_passes: AtomicU64,
    /// Nanoseconds since the Unix epoch; 0 before the end of the first pass.
    last_scrub_pass: AtomicU64,
    /// Limits the log lines about records that could not be read for a call.
    pub(super) read_errors: LogLimit,
}

/// What found damage in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundBy {
    /// A call that read the damaged record.
    Call,
    /// The scrub, which reads the whole journal.
    Scrub,
}

/// How often damage was found in the journal, and how much the scrub has checked, since the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalCondition {
    /// How often calls and the scrub found damage. Every pass of the scrub finds the same damage again.
    pub damages: [(FoundBy, u64); FoundBy::ALL.len()],
    /// Bytes of blocks that the scrub has checked.
    pub scrubbed_bytes: u64,
    /// Completed passes of the scrub over the whole journal.
    pub scrub_passes: u64,
    /// The end of the last pass, if there was one.
    pub last_scrub_pass: Option<Timestamp>,
}

/// The figures of the ledger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LedgerFigures {
    /// Transactions committed since the process started.
    pub committed: u64,
    /// Transactions rejected since the process started.
    pub rejected: u64,
    /// Replays since the process started: transactions whose id had been used before with the same content.
    pub replayed: u64,
    /// Accounts in the ledger.
    pub accounts: u64,
    /// Memory of the account table, in bytes.
    pub account_bytes: u64,
    /// Transaction ids in the id index.
    pub ids: u64,
    /// Memory of the id index, in bytes.
    pub id_bytes: u64,
    /// The sequence number of the last committed transaction or expired hold; 0 before the first.
    pub last_sequence: u64,
    /// Outstanding holds.
    pub holds: u64,
    /// Maximum number of outstanding holds.
    pub holds_max: u64,
    /// Memory of the table of holds, in bytes.
    pub hold_bytes: u64,
    /// Holds that have expired since the process started.
    pub holds_expired: u64,
    /// Transactions that a velocity limit rejected since the process started.
    pub velocity_refusals: u64,
}

// ===== impl FoundBy =====

impl FoundBy {
    /// Everything that finds damage.
    pub const ALL: [FoundBy; 2] = [FoundBy::Call, FoundBy::Scrub];

    /// Returns the value of the label `found_by` in the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            FoundBy::Call => "call",
            FoundBy::Scrub => "scrub",
        }
    }
}

// ===== impl EngineCounters =====

impl EngineCounters {
    /// Counts the outcomes of a request.
    pub(super) fn outcomes(&self, outcomes: &[Outcome]) {
        let (mut committed, mut rejected, mut replayed) = (0, 0, 0);
        for outcome in outcomes {
            match outcome {
                Outcome::Committed { replayed: true, .. } | Outcome::Rejected { replayed: true, .. } => {
                    replayed += 1
                }
                Outcome::Committed { .. } => committed += 1,
                Outcome::Rejected { rejection, .. } => {
                    rejected += 1;
                    if rejection.reason == Reason::VelocityLimit {
                        self.velocity_refusals.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Outcome::Reused { .. } => rejected += 1,
            }
        }
        self.committed.fetch_add(committed, Ordering::Relaxed);
        self.rejected.fetch_add(rejected, Ordering::Relaxed);
        self.replayed.fetch_add(replayed, Ordering::Relaxed);
    }

    /// Sets the maximum number of outstanding holds.
    pub(super) fn set_holds_max(&self, holds_max: usize) {
        self.holds_max.store(holds_max as u64, Ordering::Relaxed);
    }

    /// Counts holds that have expired.
    pub(super) fn holds_expired(&self, count: usize) {
        self.holds_expired.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Counts a request whose outcome is unknown because its block could not be written.
    pub(super) fn unknown_outcome(&self) {
        self.unknown_outcomes.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of requests whose outcome is unknown because their block could not be written.
    #[must_use]
    pub(super) fn unknown_outcomes(&self) -> u64 {
        self.unknown_outcomes.load(Ordering::Relaxed)
    }

    /// Counts that damage was found in the journal.
    pub(super) fn damage(&self, found_by: FoundBy) {
        let [call, scrub] = &self.damages;
        let damages = match found_by {
            FoundBy::Call => call,
            FoundBy::Scrub => scrub,
        };
        damages.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the bytes of a block that the scrub has checked.
    pub(super) fn scrubbed(&self, bytes: u64) {
        self.scrubbed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a complete pass of the scrub. `at` is the time of its end.
    pub(super) fn scrub_pass(&self, at: Timestamp) {
        self.last_scrub_pass.store(at.as_nanos(), Ordering::Relaxed);
        self.scrub_passes.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the counts of damage and of the scrub.
    pub(super) fn journal(&self) -> JournalCondition {
        let [call, scrub] = &self.damages;
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let last = read(&self.last_scrub_pass);
        JournalCondition {
            damages: [(FoundBy::Call, read(call)), (FoundBy::Scrub, read(scrub))],
            scrubbed_bytes: read(&self.scrubbed_bytes),
            scrub_passes: read(&self.scrub_passes),
            last_scrub_pass: (last > 0).then(|| Timestamp::from_nanos(last)),
        }
    }

    /// Publishes the figures of the ledger. EXEC calls this method once for each block, and before it sleeps.
    pub(super) fn publish(&self, book: &JournaledLedger) {
        let (ids, id_bytes) = book.id_memory();
        let accounts = book.ledger().accounts();
        self.accounts.store(accounts.len() as u64, Ordering::Relaxed);
        self.account_bytes
            .store(accounts.memory_bytes() as u64, Ordering::Relaxed);
        let holds = book.ledger().holds();
        self.holds.store(holds.len() as u64, Ordering::Relaxed);
        self.hold_bytes
            .store(holds.memory_bytes() as u64, Ordering::Relaxed);
        self.ids.store(ids as u64, Ordering::Relaxed);
        self.id_bytes.store(id_bytes as u64, Ordering::Relaxed);
        self.last_sequence
            .store(book.order().next_sequence - 1, Ordering::Relaxed);
    }

    /// Returns the figures of the ledger.
    #[must_use]
    pub(super) fn read(&self) -> LedgerFigures {
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        LedgerFigures {
            committed: read(&self.committed),
            rejected: read(&self.rejected),
            replayed: read(&self.replayed),
            accounts: read(&self.accounts),
            account_bytes: read(&self.account_bytes),
            ids: read(&self.ids),
            id_bytes: read(&self.id_bytes),
            last_sequence: read(&self.last_sequence),
            holds: read(&self.holds),
            holds_max: read(&self.holds_max),
            hold_bytes: read(&self.hold_bytes),
            holds_expired: read(&self.holds_expired),
            velocity_refusals: read(&self.velocity_refusals),
        }
    }
}
