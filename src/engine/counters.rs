//! What EXEC counts for GetBatchStats. EXEC writes, anybody reads; each figure is by itself.

use std::sync::atomic::{AtomicU64, Ordering};

use super::command::Outcomes;
use crate::{
    ledger::{Outcome, Timestamp},
    store::embedded::JournaledLedger,
};

/// Figures of the ledger since the process started, or as they are now.
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
    /// Written by whoever gives the answers.
    unknown_outcomes: AtomicU64,
    /// By [`FoundBy`].
    damages: [AtomicU64; FoundBy::ALL.len()],
    /// Written by AUX, as the two below.
    scrubbed_bytes: AtomicU64,
    scrub_passes: AtomicU64,
    /// Nanoseconds since the Unix epoch; 0 before the first.
    last_scrub_pass: AtomicU64,
}

/// Who came upon damage in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundBy {
    /// A call that asked for what is damaged.
    Call,
    /// The scrub, which reads everything in turn.
    Scrub,
}

/// What is known of the state of the journal on the disk, since the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalCondition {
    /// How often damage was found by calls and by the scrub. The scrub finds the same damage again in every pass.
    pub damages: [(FoundBy, u64); FoundBy::ALL.len()],
    /// Bytes of blocks that the scrub has checked.
    pub scrubbed_bytes: u64,
    /// Passes over the whole journal.
    pub scrub_passes: u64,
    /// When the last one ended, if there was one.
    pub last_scrub_pass: Option<Timestamp>,
}

/// A reading of the figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LedgerFigures {
    /// Transactions committed since the process started.
    pub committed: u64,
    /// Transactions refused since the process started.
    pub rejected: u64,
    /// Transactions answered again since the process started.
    pub replayed: u64,
    /// Accounts.
    pub accounts: u64,
    /// Memory of the account table.
    pub account_bytes: u64,
    /// Transaction ids that are known.
    pub ids: u64,
    /// Memory of the id index.
    pub id_bytes: u64,
    /// The sequence of the last committed transaction.
    pub last_sequence: u64,
}

// ===== impl FoundBy =====

impl FoundBy {
    /// Both.
    pub const ALL: [FoundBy; 2] = [FoundBy::Call, FoundBy::Scrub];

    /// As metrics call it.
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
    pub(super) fn outcomes(&self, outcomes: &Outcomes) {
        let (mut committed, mut rejected, mut replayed) = (0, 0, 0);
        for outcome in outcomes {
            match outcome {
                Outcome::Committed { replayed: true, .. } | Outcome::Rejected { replayed: true, .. } => {
                    replayed += 1
                }
                Outcome::Committed { .. } => committed += 1,
                Outcome::Rejected { .. } | Outcome::Reused { .. } => rejected += 1,
            }
        }
        self.committed.fetch_add(committed, Ordering::Relaxed);
        self.rejected.fetch_add(rejected, Ordering::Relaxed);
        self.replayed.fetch_add(replayed, Ordering::Relaxed);
    }

    /// A request depends on a block that could not be written.
    pub(super) fn unknown_outcome(&self) {
        self.unknown_outcomes.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests whose outcome is unknown because their block could not be written.
    #[must_use]
    pub(super) fn unknown_outcomes(&self) -> u64 {
        self.unknown_outcomes.load(Ordering::Relaxed)
    }

    /// Damage was found in the journal.
    pub(super) fn damage(&self, found_by: FoundBy) {
        let [call, scrub] = &self.damages;
        let damages = match found_by {
            FoundBy::Call => call,
            FoundBy::Scrub => scrub,
        };
        damages.fetch_add(1, Ordering::Relaxed);
    }

    /// The scrub has checked a block.
    pub(super) fn scrubbed(&self, bytes: u64) {
        self.scrubbed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The scrub has come to the end of the journal.
    pub(super) fn scrub_pass(&self, at: Timestamp) {
        self.last_scrub_pass.store(at.as_nanos(), Ordering::Relaxed);
        self.scrub_passes.fetch_add(1, Ordering::Relaxed);
    }

    /// What is known of the journal on the disk.
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

    /// Once for each block, and before EXEC sleeps.
    pub(super) fn publish(&self, book: &JournaledLedger) {
        let (ids, id_bytes) = book.id_memory();
        let accounts = book.ledger().accounts();
        self.accounts.store(accounts.len() as u64, Ordering::Relaxed);
        self.account_bytes
            .store(accounts.memory_bytes() as u64, Ordering::Relaxed);
        self.ids.store(ids as u64, Ordering::Relaxed);
        self.id_bytes.store(id_bytes as u64, Ordering::Relaxed);
        self.last_sequence
            .store(book.order().next_sequence - 1, Ordering::Relaxed);
    }

    /// The figures now.
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
        }
    }
}
