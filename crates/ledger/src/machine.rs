//! The state machine: resolve, recall, check, apply, record.

use std::collections::HashMap;

use thiserror::Error;

use super::{
    account::{AccountIndex, AccountSnapshot, NewAccount},
    codec::Malformed,
    difference::ContentField,
    record::{Entry, Record},
    reject::{Reason, Rejection, Side},
    table::{AccountTable, TableFull},
    tag_index::tag,
    transaction::{TransactionView, Transfer, put_transfers},
};
use crate::time::Timestamp;

/// The ledger's memory of transactions, kept by the store.
pub trait Journal {
    /// Why a record could not be read back.
    type Error;

    /// The recorded transaction with this key.
    ///
    /// # Errors
    /// If it can't be read back; then nothing may be said of the transaction.
    fn recall(&mut self, key: Key<'_>) -> Result<Option<Recalled<'_>>, Self::Error>;

    /// The number of the entry that is appended next, by which accounts are stamped.
    fn next_entry(&self) -> u64;

    /// Appends an entry, under `key` if it is a transaction's, and says where it came in the global order. The room for
    /// it was made sure of before.
    fn append(&mut self, key: Option<Key<'_>>, entry: Entry<'_>) -> Committed;
}

/// By what a transaction is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key<'a> {
    /// The client's idempotency key.
    pub id: &'a [u8],
    /// Its [`tag`], with the seed of the account table.
    pub tag: u64,
}

/// The hashes of a transaction's names, each made once, where the transaction was encoded: its [`tag`]s with the seed of the
/// account table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tags<'a> {
    /// Of its id.
    pub id: u64,
    /// Of the debit and the credit account of each transfer, in their order. What is missing is made when it is needed.
    pub accounts: &'a [u64],
}

/// A transaction that was recorded earlier.
#[derive(Debug, Clone, Copy)]
pub struct Recalled<'a> {
    /// What was asked for.
    pub transaction: TransactionView<'a, AccountIndex>,
    /// What became of it.
    pub outcome: Result<Committed, Rejection>,
}

/// A place in the global order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// 1, 2, 3, without gaps.
    pub sequence: u64,
    /// Strictly increases with the sequence.
    pub time: Timestamp,
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was committed.
    Committed {
        /// Where.
        committed: Committed,
        /// Whether that was at an earlier time, under the same id and with the same content.
        replayed: bool,
    },
    /// It was refused.
    Rejected {
        /// Why.
        rejection: Rejection,
        /// Whether that was at an earlier time, under the same id and with the same content.
        replayed: bool,
    },
    /// The id belongs to a transaction with other content.
    Reused {
        /// The first difference.
        field: ContentField,
    },
}

/// What became of an account's creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountOutcome {
    /// All are there, some of them perhaps from before.
    Created(Vec<AccountIndex>),
    /// One of them exists with other content. None was created.
    Reused {
        /// Which, by its place in the request.
        place: usize,
    },
    /// There is no room for all of them. None was created.
    Full(TableFull),
}

/// A record that does not follow from the records before it.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// It can't be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// An account's number leaves a gap.
    #[error("account number {found} where at most {expected} can come next")]
    AccountGap {
        /// What the record says.
        found: u32,
        /// What the table says.
        expected: usize,
    },
    /// There are more accounts or assets than a ledger may hold.
    #[error(transparent)]
    Full(#[from] TableFull),
    /// A transfer names an account that does not exist.
    #[error("a transfer of transaction {id:?} names account number {account}, of {accounts} accounts")]
    UnknownAccount {
        /// The transaction.
        id: String,
        /// The account.
        account: u32,
        /// How many there are.
        accounts: usize,
    },
    /// A committed transfer does not fit the account's column.
    #[error("transaction {id:?} overflows account number {account}")]
    Overflow {
        /// The transaction.
        id: String,
        /// The account.
        account: u32,
    },
}

/// All accounts, and the rules by which they change.
#[derive(Debug)]
pub struct Ledger {
    accounts: AccountTable,
    /// The transaction in hand, accounts by number. Kept to be filled again.
    transfers: Vec<Transfer<AccountIndex>>,
    /// Its encoding, accounts by number. Kept to be filled again.
    content: Vec<u8>,
}

// ===== impl Ledger =====

impl Ledger {
    /// Without accounts. `seed` keys the hash of their names.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Ledger {
            accounts: AccountTable::new(seed),
            transfers: Vec::new(),
            content: Vec::new(),
        }
    }

    /// The accounts.
    #[must_use]
    pub const fn accounts(&self) -> &AccountTable {
        &self.accounts
    }

    /// The accounts, to be filled from a checkpoint.
    pub const fn accounts_mut(&mut self) -> &mut AccountTable {
        &mut self.accounts
    }

    /// The account named `id`, as a reader sees it.
    #[must_use]
    pub fn account(&self, id: &str) -> Option<AccountSnapshot> {
        self.accounts
            .find(id)
            .and_then(|index| self.accounts.snapshot(index))
    }

    /// Processes a transaction: answers for it as before if its id is known, else applies it whole or not at all, and
    /// records what must be remembered.
    ///
    /// # Errors
    /// Those of the journal. Nothing has changed then.
    pub fn process<J: Journal>(
        &mut self,
        transaction: &TransactionView<'_, &[u8]>,
        journal: &mut J,
    ) -> Result<Outcome, J::Error> {
        let tags = Tags {
            id: tag(transaction.id_bytes(), self.accounts.seed()),
            accounts: &[],
        };
        self.process_tagged(transaction, tags, journal)
    }

    /// As [`Ledger::process`], of a transaction whose names have been hashed.
    ///
    /// # Errors
    /// As [`Ledger::process`].
    pub fn process_tagged<J: Journal>(
        &mut self,
        transaction: &TransactionView<'_, &[u8]>,
        tags: Tags<'_>,
        journal: &mut J,
    ) -> Result<Outcome, J::Error> {
        let key = Key {
            id: transaction.id_bytes(),
            tag: tags.id,
        };
        let resolved = self.resolve(transaction, tags.accounts);
        if let Some(recalled) = journal.recall(key)? {
            return Ok(self.repeat(transaction, &recalled));
        }
        if let Err(rejection) = resolved {
            return Ok(Outcome::Rejected {
                rejection,
                replayed: false,
            });
        }
        let entry = journal.next_entry();
        Ok(match self.apply(entry) {
            Ok(()) => {
                let committed = journal.append(
                    Some(key),
                    Entry::Committed {
                        content: &self.content,
                    },
                );
                Outcome::Committed {
                    committed,
                    replayed: false,
                }
            }
            Err(rejection) => {
                if rejection.reason.is_recorded() {
                    let entry = Entry::Rejected {
                        content: &self.content,
                        rejection,
                    };
                    journal.append(Some(key), entry);
                }
                Outcome::Rejected {
                    rejection,
                    replayed: false,
                }
            }
        })
    }

    /// Creates accounts, all or none. An account that exists with the same content counts as created.
    pub fn create_accounts<J: Journal>(&mut self, new: Vec<NewAccount>, journal: &mut J) -> AccountOutcome {
        let mut seen = HashMap::with_capacity(new.len());
        for (place, account) in new.iter().enumerate() {
            let first = *seen.entry(account.id.as_str()).or_insert(account);
            let differs = first != account
                || self
                    .account(&account.id)
                    .is_some_and(|existing| existing.account != *account);
            if differs {
                return AccountOutcome::Reused { place };
            }
        }
        if let Err(full) = self.accounts.check_room(&new) {
            return AccountOutcome::Full(full);
        }
        AccountOutcome::Created(
            new.into_iter()
                .map(|account| self.create_account(account, journal))
                .collect(),
        )
    }

    /// Creates an account, for which there is room, if it does not exist.
    fn create_account<J: Journal>(&mut self, new: NewAccount, journal: &mut J) -> AccountIndex {
        if let Some(existing) = self.accounts.find(&new.id) {
            return existing;
        }
        let entry = journal.next_entry();
        let index = AccountIndex(u32::try_from(self.accounts.len()).unwrap_or(u32::MAX));
        let created = journal.append(None, Entry::AccountCreated { index, account: &new });
        let pushed = self.accounts.push(new, entry, created.time);
        assert_eq!(
            pushed,
            Ok(index),
            "the journal has the account, so the table must"
        );
        index
    }

    /// Applies a record of the journal again. An account that already shows the effect of `entry` is left alone.
    ///
    /// # Errors
    /// [`ReplayError`] if the record does not follow from those before it.
    pub fn replay(&mut self, record: Record<'_>, entry: u64, time: Timestamp) -> Result<(), ReplayError> {
        match record {
            Record::AccountCreated { index, account } => self.replay_account(index, account, entry, time),
            Record::Committed { transaction } => self.replay_transfers(&transaction, entry),
            Record::Rejected { .. } => Ok(()),
        }
    }

    fn replay_account(
        &mut self,
        index: AccountIndex,
        account: NewAccount,
        entry: u64,
        time: Timestamp,
    ) -> Result<(), ReplayError> {
        let expected = self.accounts.len();
        match (index.0 as usize).cmp(&expected) {
            std::cmp::Ordering::Less => Ok(()),
            std::cmp::Ordering::Equal => {
                self.accounts.push(account, entry, time)?;
                Ok(())
            }
            std::cmp::Ordering::Greater => Err(ReplayError::AccountGap {
                found: index.0,
                expected,
            }),
        }
    }

    fn replay_transfers(
        &mut self,
        transaction: &TransactionView<'_, AccountIndex>,
        entry: u64,
    ) -> Result<(), ReplayError> {
        self.transfers.clear();
        for transfer in transaction.transfers() {
            self.transfers.push(transfer?);
        }
        // Two passes: an account may take part in several transfers, and is stamped only after the last.
        for transfer in &self.transfers {
            for (index, side) in [(transfer.debit, Side::Debit), (transfer.credit, Side::Credit)] {
                let accounts = self.accounts.len();
                let account = self
                    .accounts
                    .get_mut(index)
                    .ok_or_else(|| ReplayError::UnknownAccount {
                        id: transaction.id().to_owned(),
                        account: index.0,
                        accounts,
                    })?;
                if account.version >= entry {
                    continue;
                }
                let column = match side {
                    Side::Debit => &mut account.balances.debits_posted,
                    Side::Credit => &mut account.balances.credits_posted,
                };
                *column = column
                    .checked_add(transfer.amount)
                    .ok_or_else(|| ReplayError::Overflow {
                        id: transaction.id().to_owned(),
                        account: index.0,
                    })?;
            }
        }
        self.stamp(entry);
        Ok(())
    }

    /// Fills `transfers` and `content` with the transaction, accounts by number.
    fn resolve(
        &mut self,
        transaction: &TransactionView<'_, &[u8]>,
        account_tags: &[u64],
    ) -> Result<(), Rejection> {
        self.transfers.clear();
        let mut tags = account_tags.iter();
        let mut unknown = Ok(());
        for (place, transfer) in (0_u8..=u8::MAX).zip(transaction.transfers()) {
            let not_found = |side| Rejection {
                reason: Reason::AccountNotFound,
                transfer: place,
                side,
            };
            // A request is encoded by this process itself. Should a transfer be malformed all the same, its accounts
            // are not found, so that nothing of it reaches the journal.
            let Ok(transfer) = transfer else {
                unknown = Err(not_found(Side::Debit));
                break;
            };
            let mut number = |id: &[u8], side| {
                let known = tags.next().copied();
                let tag = known.unwrap_or_else(|| tag(id, self.accounts.seed()));
                self.accounts.find_tagged(id, tag).ok_or(not_found(side))
            };
            match (
                number(transfer.debit, Side::Debit),
                number(transfer.credit, Side::Credit),
            ) {
                (Ok(debit), Ok(credit)) => {
                    let Transfer { amount, code, .. } = transfer;
                    self.transfers.push(Transfer {
                        debit,
                        credit,
                        amount,
                        code,
                    });
                }
                (Err(rejection), _) | (_, Err(rejection)) => {
                    unknown = unknown.and(Err(rejection));
                    break;
                }
            }
        }
        self.content.clear();
        self.content.extend_from_slice(transaction.heading_bytes());
        put_transfers(&mut self.content, self.transfers.iter().copied());
        unknown
    }

    /// Answers for a transaction whose id is recorded.
    fn repeat(&self, transaction: &TransactionView<'_, &[u8]>, recalled: &Recalled<'_>) -> Outcome {
        if self.content == recalled.transaction.encoded() {
            return match recalled.outcome {
                Ok(committed) => Outcome::Committed {
                    committed,
                    replayed: true,
                },
                Err(rejection) => Outcome::Rejected {
                    rejection,
                    replayed: true,
                },
            };
        }
        Outcome::Reused {
            field: self.first_difference(transaction, &recalled.transaction),
        }
    }

    fn first_difference(
        &self,
        sent: &TransactionView<'_, &[u8]>,
        recorded: &TransactionView<'_, AccountIndex>,
    ) -> ContentField {
        if sent.phase() != recorded.phase() {
            return ContentField::Phase;
        }
        if sent.effective_time() != recorded.effective_time() {
            return ContentField::EffectiveTime;
        }
        if sent.transfer_count() != recorded.transfer_count() {
            return ContentField::Transfers;
        }
        for (place, (sent, recorded)) in (0_u8..=u8::MAX).zip(sent.transfers().zip(recorded.transfers())) {
            let (Ok(sent), Ok(recorded)) = (sent, recorded) else {
                return ContentField::Transfers;
            };
            if self.accounts.id(recorded.debit).map(str::as_bytes) != Some(sent.debit) {
                return ContentField::DebitAccount(place);
            }
            if self.accounts.id(recorded.credit).map(str::as_bytes) != Some(sent.credit) {
                return ContentField::CreditAccount(place);
            }
            if recorded.amount != sent.amount {
                return ContentField::Amount(place);
            }
            if recorded.code != sent.code {
                return ContentField::Code(place);
            }
        }
        ContentField::Metadata
    }

    /// Applies all of `transfers`, in order, or none of them.
    fn apply(&mut self, entry: u64) -> Result<(), Rejection> {
        for place in 0..self.transfers.len() {
            if let Err((reason, side)) = self.apply_one(place) {
                self.take_back(place);
                let transfer = u8::try_from(place).unwrap_or(u8::MAX);
                return Err(Rejection {
                    reason,
                    transfer,
                    side,
                });
            }
        }
        self.stamp(entry);
        Ok(())
    }

    fn apply_one(&mut self, place: usize) -> Result<(), (Reason, Side)> {
        let gone = |side| (Reason::AccountNotFound, side);
        let Some(&Transfer {
            debit,
            credit,
            amount,
            ..
        }) = self.transfers.get(place)
        else {
            return Ok(());
        };
        if debit == credit {
            return Err((Reason::SameAccount, Side::Credit));
        }
        let creditor = self.accounts.get(credit).ok_or(gone(Side::Credit))?;
        let (creditor_asset, creditor_accepts) = (creditor.asset, creditor.accepts_transfers());
        let debtor = self.accounts.get_mut(debit).ok_or(gone(Side::Debit))?;
        if debtor.asset != creditor_asset {
            return Err((Reason::AssetMismatch, Side::Credit));
        }
        debtor
            .accepts_transfers()
            .map_err(|reason| (reason, Side::Debit))?;
        creditor_accepts.map_err(|reason| (reason, Side::Credit))?;
        debtor.debit(amount).map_err(|reason| (reason, Side::Debit))?;
        let creditor = self.accounts.get_mut(credit).ok_or(gone(Side::Credit))?;
        let credited = creditor.credit(amount);
        if let Err(reason) = credited {
            self.undo(debit, Side::Debit, place);
            return Err((reason, Side::Credit));
        }
        Ok(())
    }

    /// Takes the first `count` transfers back, last first.
    fn take_back(&mut self, count: usize) {
        for place in (0..count).rev() {
            if let Some(&Transfer { debit, credit, .. }) = self.transfers.get(place) {
                self.undo(credit, Side::Credit, place);
                self.undo(debit, Side::Debit, place);
            }
        }
    }

    /// Takes one side of a transfer back that was applied a moment ago.
    fn undo(&mut self, index: AccountIndex, side: Side, place: usize) {
        let amount = self.transfers.get(place).map(|transfer| transfer.amount);
        if let (Some(account), Some(amount)) = (self.accounts.get_mut(index), amount) {
            let column = match side {
                Side::Debit => &mut account.balances.debits_posted,
                Side::Credit => &mut account.balances.credits_posted,
            };
            let before = column.checked_sub(amount);
            assert!(
                before.is_some(),
                "a column can't hold less than what was just added to it"
            );
            *column = before.unwrap_or_default();
        }
    }

    /// Stamps every account of `transfers` with the entry that changed it.
    fn stamp(&mut self, entry: u64) {
        for transfer in &self.transfers {
            for index in [transfer.debit, transfer.credit] {
                if let Some(account) = self.accounts.get_mut(index) {
                    account.version = account.version.max(entry);
                }
            }
        }
    }
}

// ===== impl Committed =====

impl Committed {
    /// The place of the transaction that comes `ordinal` committed ones after this one, in the same block.
    #[must_use]
    pub const fn after(self, ordinal: u32) -> Self {
        // Widening, as `u64::from` is not const.
        let ordinal = ordinal as u64;
        Committed {
            sequence: self.sequence + ordinal,
            time: self.time.plus_nanos(ordinal),
        }
    }
}
