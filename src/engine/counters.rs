//! What EXEC counts for GetBatchStats. EXEC writes, anybody reads; each figure is by itself.

use std::sync::atomic::{AtomicU64, Ordering};

use super::command::Outcomes;
use crate::{ledger::Outcome, store::embedded::Book};

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

    /// Once for each block, and before EXEC sleeps.
    pub(super) fn publish(&self, book: &Book) {
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
