//! The state machine. It resolves account ids, looks up the transaction id, checks the rules, and applies and records
//! the transaction.

use std::collections::HashMap;

use thiserror::Error;

use super::{
    account::{AccountIndex, AccountSnapshot, NewAccount},
    codec::Malformed,
    difference::{AccountField, ContentField},
    log::{Committed, RecordedTransaction, TransactionKey, TransactionLog, append},
    mutation::planted,
    record::{NewRecord, Record},
    reject::{Reason, Rejection, Side},
    table::{AccountTable, TableFull},
    tag_index::tag,
    time::Timestamp,
    transaction::{TransactionView, Transfer, put_transfers},
};

/// The [`tag`]s (hashes) of the ids in a transaction, with the seed of the account table. The thread that encodes the
/// transaction computes the tags, to save time on the thread that executes the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tags<'a> {
    /// The tag of the transaction id.
    pub id: u64,
    /// The tags of the debit and the credit account of each transfer, in order. If the list is too
    /// short, the ledger computes the missing tags.
    pub accounts: &'a [u64],
}

/// The outcome of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The transaction was committed.
    Committed {
        /// The sequence number and the commit time of the transaction.
        committed: Committed,
        /// Whether the transaction was recorded before this request, with the same id and content.
        replayed: bool,
    },
    /// The transaction was rejected.
    Rejected {
        /// Why the transaction was rejected.
        rejection: Rejection,
        /// Whether the rejection was recorded before this request, for the same id and content.
        replayed: bool,
    },
    /// A transaction with the same id and different content is recorded.
    Reused {
        /// The first field that differs.
        field: ContentField,
    },
}

/// The outcome of a request to create accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountOutcome {
    /// All accounts exist now. Some may have existed before the request, with the same content.
    Created(Vec<AccountIndex>),
    /// An account exists with different content, or the request contains its id twice with different content. No
    /// account was created.
    Reused {
        /// The index of this account in the request. The first account has index 0.
        place: usize,
        /// The first field that differs.
        field: AccountField,
    },
    /// The ledger has no room for all of the accounts. No account was created.
    Full(TableFull),
}

/// Why a record can't be applied to a ledger to which the earlier records were applied.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The record can't be decoded.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The number of the account is too high: the record of another account is missing.
    #[error("the record creates account number {found}, but the next account must have number {expected}")]
    AccountGap {
        /// The number in the record.
        found: u32,
        /// The number of the next account.
        expected: usize,
    },
    /// Another account has the number of the record's account: the checkpoint and the records do not belong together.
    #[error(
        "the record creates {expected:?} as account number {account}, but this number already belongs to {found:?}"
    )]
    OtherAccount {
        /// The account's number.
        account: u32,
        /// The id in the account table.
        found: String,
        /// The id in the record.
        expected: String,
    },
    /// The ledger can't hold more accounts or assets.
    #[error(transparent)]
    Full(#[from] TableFull),
    /// A transfer contains the number of an account that does not exist.
    #[error(
        "a transfer of transaction {id:?} names account number {account}, but there are {accounts} accounts"
    )]
    UnknownAccount {
        /// The transaction's id.
        id: String,
        /// The account's number.
        account: u32,
        /// The number of accounts.
        accounts: usize,
    },
    /// A balance column of an account would exceed 2^128 - 1.
    #[error("transaction {id:?} overflows a balance of account number {account}")]
    Overflow {
        /// The transaction's id.
        id: String,
        /// The account's number.
        account: u32,
    },
}

/// All accounts, and the rules by which transactions change them.
#[derive(Debug)]
pub struct Ledger {
    accounts: AccountTable,
    /// The transfers of the current transaction, with account numbers. They are a field so that their memory is reused.
    transfers: Vec<Transfer<AccountIndex>>,
    /// The current transaction, encoded with account numbers. It is a field so that its memory is reused.
    content: Vec<u8>,
}

// ===== impl Ledger =====

impl Ledger {
    /// Creates a ledger without accounts. `seed` is the seed of all hashes of ids and names. Keep it secret.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Ledger {
            accounts: AccountTable::new(seed),
            transfers: Vec::new(),
            content: Vec::new(),
        }
    }

    /// The accounts.
    #[inline]
    #[must_use]
    pub const fn accounts(&self) -> &AccountTable {
        &self.accounts
    }

    /// Gives write access to the accounts, which the program needs to restore accounts from a checkpoint.
    pub const fn accounts_mut(&mut self) -> &mut AccountTable {
        &mut self.accounts
    }

    /// Returns a copy of the account with this `id`, and its balances. Returns `None` if no account has this id.
    #[must_use]
    pub fn account(&self, id: &str) -> Option<AccountSnapshot> {
        self.accounts
            .find(id)
            .and_then(|index| self.accounts.snapshot(index))
    }

    /// Processes a transaction, which the caller has encoded with
    /// [`put_transaction`](super::transaction::put_transaction). If the transaction's id is recorded with the same
    /// content, returns the recorded outcome. If the id is recorded with different content, returns
    /// [`Outcome::Reused`]. If the id is not recorded, applies the transaction completely or not at all. Records the
    /// outcome if a retry must get the same outcome.
    ///
    /// # Errors
    /// The error of the log, if the log can't look up the id. The ledger and the log are then unchanged.
    ///
    /// # Panics
    /// If the transfers can't be decoded, or the log breaks its contract.
    pub fn process<L: TransactionLog>(
        &mut self,
        transaction: &TransactionView<'_, &[u8]>,
        log: &mut L,
    ) -> Result<Outcome, L::Error> {
        let tags = Tags {
            id: tag(transaction.id_bytes(), self.accounts.seed()),
            accounts: &[],
        };
        self.process_tagged(transaction, tags, log)
    }

    /// Processes a transaction whose ids the caller has hashed. See [`Ledger::process`].
    ///
    /// # Errors
    /// Those of [`Ledger::process`].
    ///
    /// # Panics
    /// See [`Ledger::process`].
    pub fn process_tagged<L: TransactionLog>(
        &mut self,
        transaction: &TransactionView<'_, &[u8]>,
        tags: Tags<'_>,
        log: &mut L,
    ) -> Result<Outcome, L::Error> {
        let key = TransactionKey {
            id: transaction.id_bytes(),
            tag: tags.id,
        };
        let resolved = self.resolve(transaction, tags.accounts);
        if let Some(recorded) = log.find(key)? {
            return Ok(self.recorded_outcome(transaction, &recorded));
        }
        if let Err(rejection) = resolved {
            return Ok(Outcome::Rejected {
                rejection,
                replayed: false,
            });
        }
        let applied = self.apply(log.next_entry());
        let content = &self.content;
        Ok(match applied {
            Ok(()) => Outcome::Committed {
                committed: append(log, Some(key), NewRecord::Committed { content }),
                replayed: false,
            },
            Err(rejection) => {
                if rejection.reason.is_recorded() && !planted("rejection_not_recorded") {
                    append(log, Some(key), NewRecord::Rejected { content, rejection });
                }
                Outcome::Rejected {
                    rejection,
                    replayed: false,
                }
            }
        })
    }

    /// Creates all of the accounts or none. An account that exists with the same content counts as created.
    pub fn create_accounts<L: TransactionLog>(
        &mut self,
        new: Vec<NewAccount>,
        log: &mut L,
    ) -> AccountOutcome {
        let mut seen = HashMap::with_capacity(new.len());
        for (place, account) in new.iter().enumerate() {
            let first = *seen.entry(account.id.as_str()).or_insert(account);
            let field = AccountField::first_difference(account, first).or_else(|| {
                let existing = self.account(&account.id)?;
                AccountField::first_difference(account, &existing.account)
            });
            if let Some(field) = field {
                return AccountOutcome::Reused { place, field };
            }
        }
        if let Err(full) = self.accounts.check_room(&new) {
            return AccountOutcome::Full(full);
        }
        AccountOutcome::Created(
            new.into_iter()
                .map(|account| self.create_account(account, log))
                .collect(),
        )
    }

    /// Creates an account if it does not exist. The caller has checked that the ledger has room for it.
    fn create_account<L: TransactionLog>(&mut self, new: NewAccount, log: &mut L) -> AccountIndex {
        if let Some(existing) = self.accounts.find(&new.id) {
            return existing;
        }
        let entry = log.next_entry();
        let Ok(index) = self.accounts.next_index() else {
            panic!(
                "the ledger is full, although an earlier check found room for account {:?}",
                new.id
            );
        };
        let created = append(log, None, NewRecord::AccountCreated { index, account: &new });
        let pushed = self.accounts.push(new, entry, created.time);
        assert_eq!(
            pushed,
            Ok(index),
            "an account is in the log, but not in the account table"
        );
        index
    }

    /// Applies record number `entry` of the log again. Skips each account that already contains its effect.
    ///
    /// # Errors
    /// [`ReplayError`] if the record can't follow the records that were applied before this record.
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
        if let Some(existing) = self.accounts.id(index) {
            if existing == account.id {
                return Ok(());
            }
            return Err(ReplayError::OtherAccount {
                account: index.0,
                found: existing.to_owned(),
                expected: account.id,
            });
        }
        if index.0 as usize != expected {
            return Err(ReplayError::AccountGap {
                found: index.0,
                expected,
            });
        }
        self.accounts.push(account, entry, time)?;
        Ok(())
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
        // The versions change in a second pass. If the first pass changed the versions, it would skip the second
        // transfer of an account that two transfers of the record change.
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
                if account.version < entry || planted("apply_twice_on_replay") {
                    let column = account.balances.posted_mut(side);
                    *column = column
                        .checked_add(transfer.amount)
                        .ok_or_else(|| ReplayError::Overflow {
                            id: transaction.id().to_owned(),
                            account: index.0,
                        })?;
                    let seen = entry * u64::from(planted("replay_skips_second_leg"));
                    account.version = account.version.max(seen);
                }
            }
        }
        for transfer in &self.transfers {
            for index in [transfer.debit, transfer.credit] {
                let account = self.accounts.found_mut(index);
                account.version = account.version.max(entry);
            }
        }
        Ok(())
    }

    /// Fills `transfers` and `content`, with account numbers for account ids. Rejects an account that does not exist.
    ///
    /// # Panics
    /// If a transfer can't be decoded: a transaction that was not encoded correctly must not get into the log.
    fn resolve(
        &mut self,
        transaction: &TransactionView<'_, &[u8]>,
        account_tags: &[u64],
    ) -> Result<(), Rejection> {
        self.transfers.clear();
        let mut tags = account_tags.iter();
        let mut unknown = Ok(());
        for (place, transfer) in (0_u8..=u8::MAX).zip(transaction.transfers()) {
            let transfer = decoded(transfer);
            let mut find = |id: &[u8], side| {
                let known = tags.next().copied();
                let tag = known.unwrap_or_else(|| tag(id, self.accounts.seed()));
                self.accounts
                    .find_tagged(id, tag)
                    .ok_or(Rejection::new(Reason::AccountNotFound, place, side))
            };
            match (
                find(transfer.debit, Side::Debit),
                find(transfer.credit, Side::Credit),
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
                    unknown = Err(rejection);
                    break;
                }
            }
        }
        self.content.clear();
        self.content.extend_from_slice(transaction.heading_bytes());
        put_transfers(&mut self.content, self.transfers.iter().copied());
        unknown
    }

    /// Returns the outcome of a transaction whose id is recorded. `recorded` is the recorded transaction.
    /// [`Ledger::resolve`] has filled the field `content`.
    fn recorded_outcome(
        &self,
        transaction: &TransactionView<'_, &[u8]>,
        recorded: &RecordedTransaction<'_>,
    ) -> Outcome {
        if self.content == recorded.transaction.encoded() || planted("idempotency_ignores_content") {
            return match recorded.outcome {
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
            field: self.first_difference(transaction, &recorded.transaction),
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
            let (sent, recorded) = (decoded(sent), decoded(recorded));
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
        assert_ne!(
            sent.heading_bytes(),
            recorded.heading_bytes(),
            "two encodings of the same transaction differ"
        );
        ContentField::Metadata
    }

    /// Applies all of `transfers`, in order, or none of them. `entry` is the number of the transaction's record.
    fn apply(&mut self, entry: u64) -> Result<(), Rejection> {
        let Ledger {
            accounts, transfers, ..
        } = self;
        for (place, transfer) in (0_u8..=u8::MAX).zip(&*transfers) {
            if let Err((reason, side)) = apply_transfer(accounts, transfer) {
                let rejection = rejection(accounts, transfer, place, reason, side);
                let (applied, _) = transfers.split_at(usize::from(place));
                for transfer in applied.iter().rev().filter(|_| !planted("lose_take_back")) {
                    undo(accounts, transfer, Side::Credit);
                    undo(accounts, transfer, Side::Debit);
                }
                return Err(rejection);
            }
        }
        for transfer in transfers {
            for index in [transfer.debit, transfer.credit] {
                let account = accounts.found_mut(index);
                assert!(
                    account.version <= entry,
                    "account number {} has already been changed by record {}, but the new record has number {entry}",
                    index.0,
                    account.version
                );
                account.version = entry;
            }
        }
        Ok(())
    }
}

/// Returns a decoded transfer.
///
/// # Panics
/// If the transfer could not be decoded, because the transaction was not encoded correctly.
fn decoded<A>(transfer: Result<Transfer<A>, Malformed>) -> Transfer<A> {
    match transfer {
        Ok(transfer) => transfer,
        Err(error) => panic!("a transfer was not encoded correctly: {error}"),
    }
}

/// Applies one transfer, or changes nothing and returns the reason and the side whose account is the cause.
fn apply_transfer(
    accounts: &mut AccountTable,
    transfer: &Transfer<AccountIndex>,
) -> Result<(), (Reason, Side)> {
    let &Transfer {
        debit,
        credit,
        amount,
        ..
    } = transfer;
    if debit == credit {
        return Err((Reason::SameAccount, Side::Credit));
    }
    let creditor = accounts.found_mut(credit);
    let (creditor_asset, creditor_accepts) = (creditor.asset, creditor.accepts_transfers());
    let debtor = accounts.found_mut(debit);
    if debtor.asset != creditor_asset {
        return Err((Reason::AssetMismatch, Side::Credit));
    }
    debtor
        .accepts_transfers()
        .map_err(|reason| (reason, Side::Debit))?;
    creditor_accepts.map_err(|reason| (reason, Side::Credit))?;
    debtor.debit(amount).map_err(|reason| (reason, Side::Debit))?;
    if let Err(reason) = accounts.found_mut(credit).credit(amount) {
        if !planted("balance_of_one_side_only") {
            undo(accounts, transfer, Side::Debit);
        }
        return Err((reason, Side::Credit));
    }
    Ok(())
}

/// Returns the rejection of the transfer at index `place`. For lack of funds, it contains the available amount.
#[cold]
fn rejection(
    accounts: &mut AccountTable,
    transfer: &Transfer<AccountIndex>,
    place: u8,
    reason: Reason,
    side: Side,
) -> Rejection {
    let rejection = Rejection::new(reason, place, side);
    if reason != Reason::InsufficientFunds {
        return rejection;
    }
    let index = match side {
        Side::Debit => transfer.debit,
        Side::Credit => transfer.credit,
    };
    let Some(available) = accounts.found_mut(index).available(side) else {
        panic!(
            "account number {} rejected a transfer for lack of funds, although its rule does not bound {side:?}",
            index.0
        );
    };
    assert!(
        available < transfer.amount,
        "account number {} rejected {} for lack of funds, although {available} was available",
        index.0,
        transfer.amount
    );
    rejection.with_available(available)
}

/// Undoes one side of a transfer that was just applied.
fn undo(accounts: &mut AccountTable, transfer: &Transfer<AccountIndex>, side: Side) {
    let index = match side {
        Side::Debit => transfer.debit,
        Side::Credit => transfer.credit,
    };
    let column = accounts.found_mut(index).balances.posted_mut(side);
    let Some(before) = column.checked_sub(transfer.amount) else {
        panic!(
            "account number {} holds {column} on one side, which is less than the {} that was just added",
            index.0, transfer.amount
        );
    };
    *column = before;
}
