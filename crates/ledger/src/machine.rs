//! The state machine. It resolves account ids, looks up the transaction id, checks the rules, and applies and records
//! the transaction.

use super::{
    account::{AccountIndex, AccountSnapshot, Column},
    chain::LinkBuffer,
    difference::ContentField,
    effects::{self, Leg, Legs},
    holds::{Hold, HoldTable, deadline},
    keys::RecordKey,
    log::{Committed, RecordedTransaction, TransactionKey, TransactionLog, append},
    mutation::planted,
    record::NewRecord,
    reject::{Reason, Rejection},
    side::Side,
    table::AccountTable,
    tag_index::tag,
    transaction::{Names, Phase, TRANSFERS_MAX, TransactionView, Transfer, put_transfers},
    transfers::{self, decoded},
};

/// The [`tag`]s (hashes) of the ids in a transaction, with the seed of the account table. The thread that encodes the
/// transaction computes the tags, to save time on the thread that executes the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tags<'a> {
    /// The tag of the transaction id.
    pub id: u64,
    /// The tag of the id of the transaction that this transaction [names](TransactionView::names). Used only for prefetching.
    pub named: Option<u64>,
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

/// All accounts, and the rules by which transactions change them.
#[derive(Debug)]
pub struct Ledger {
    pub(super) accounts: AccountTable,
    pub(super) holds: HoldTable,
    /// Maximum number of outstanding holds.
    holds_max: usize,
    /// The transfers of the current transaction, with account numbers. The vector is a field so that its memory is reused. After a
    /// commit, the amounts are those that were moved.
    pub(super) transfers: Vec<Transfer<AccountIndex>>,
    /// The current transaction, encoded with account numbers. The buffer is a field so that its memory is reused.
    pub(super) content: Vec<u8>,
    /// What the current transaction did, if this does not follow from its transfers alone.
    pub(super) legs: Legs,
    /// The links of the current record.
    pub(super) links: LinkBuffer,
}

/// Default of the maximum number of outstanding holds.
pub const HOLDS_MAX_DEFAULT: usize = 10_000_000;

/// A transaction that is being processed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a, 'b> {
    pub(super) transaction: &'b TransactionView<'a, &'a [u8]>,
    pub(super) key: TransactionKey<'a>,
    /// The name of the client that sent the transaction.
    pub(super) principal: Option<&'b [u8]>,
    /// If the transaction has no transfers: the maximum number of legs for which the answer of the caller has room.
    pub(super) legs_max: usize,
}

// ===== impl Ledger =====

impl Ledger {
    /// Creates a ledger without accounts. `seed` is the seed of all hashes of ids and names. Keep it secret.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Ledger {
            accounts: AccountTable::new(seed),
            holds: HoldTable::new(),
            holds_max: HOLDS_MAX_DEFAULT,
            transfers: Vec::new(),
            content: Vec::new(),
            legs: Legs::new(),
            links: LinkBuffer::default(),
        }
    }

    /// Sets the maximum number of outstanding holds. If more holds are outstanding already, they stay outstanding, and new holds are
    /// rejected.
    pub const fn set_holds_max(&mut self, holds_max: usize) {
        self.holds_max = holds_max;
    }

    /// The outstanding holds.
    #[inline]
    #[must_use]
    pub const fn holds(&self) -> &HoldTable {
        &self.holds
    }

    /// Gives write access to the holds, which the program needs to restore holds from a checkpoint.
    pub const fn holds_mut(&mut self) -> &mut HoldTable {
        &mut self.holds
    }

    /// What the last processed transaction did, if this does not follow from its transfers alone and the outcome was
    /// [`Outcome::Committed`].
    #[must_use]
    pub fn last_legs(&self) -> &[Leg] {
        &self.legs
    }

    /// The accounts of the last processed transaction, in the order of its transfers, if its outcome was [`Outcome::Committed`].
    pub fn last_accounts(&self) -> impl Iterator<Item = AccountIndex> {
        let of_transfers = self
            .transfers
            .iter()
            .map(|transfer| (transfer.debit, transfer.credit));
        let of_legs = self.legs.iter().map(|leg| (leg.debit, leg.credit));
        let pairs = of_transfers.chain(of_legs);
        pairs.flat_map(|(debit, credit)| [debit, credit])
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
            named: None,
            accounts: &[],
        };
        self.process_tagged(transaction, tags, None, TRANSFERS_MAX, log)
    }

    /// Processes a transaction whose ids the caller has hashed. `principal` is the name of the client that sent it, if it has
    /// one. If the transaction has no transfers and would have more than `legs_max` [legs](Ledger::last_legs), it is rejected with
    /// [`Reason::MemoryLimit`], which is not recorded. If the transaction was committed before, this rejection has `replayed` set,
    /// because it is returned instead of the recorded outcome. See [`Ledger::process`].
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
        principal: Option<&[u8]>,
        legs_max: usize,
        log: &mut L,
    ) -> Result<Outcome, L::Error> {
        let key = TransactionKey {
            id: transaction.id_bytes(),
            tag: tags.id,
        };
        if !self.legs.is_empty() {
            self.legs.clear();
        }
        let resolved = self.resolve(transaction, tags.accounts);
        // With `?`, the large result would be copied first.
        match log.find(key) {
            Ok(None) => {}
            Ok(Some(recorded)) => return Ok(self.recorded_outcome(transaction, &recorded, legs_max)),
            Err(error) => return Err(error),
        }
        if let Err(rejection) = resolved {
            return Ok(Outcome::Rejected {
                rejection,
                replayed: false,
            });
        }
        let request = Request {
            transaction,
            key,
            principal,
            legs_max,
        };
        let done = match transaction.names() {
            Names::Nothing => self.move_or_reserve(&request, log),
            Names::Hold(id) => self.end_hold(&request, id, log)?,
            Names::Reversed(id) => self.reverse(&request, id, log)?,
        };
        Ok(match done {
            Ok(committed) => Outcome::Committed {
                committed,
                replayed: false,
            },
            Err(rejection) => {
                self.legs.clear();
                if rejection.reason.is_recorded() && !planted("rejection_not_recorded") {
                    let content = &self.content;
                    let record = NewRecord::Rejected {
                        content,
                        principal,
                        rejection,
                    };
                    append(log, Some(key), None, record, &LinkBuffer::default());
                }
                Outcome::Rejected {
                    rejection,
                    replayed: false,
                }
            }
        })
    }

    /// Applies a transaction that names no other transaction.
    #[inline]
    fn move_or_reserve<L: TransactionLog>(
        &mut self,
        request: &Request<'_, '_>,
        log: &mut L,
    ) -> Result<Committed, Rejection> {
        let column = match request.transaction.phase() {
            Phase::Posted => Column::Posted,
            Phase::Pending if self.holds.len() >= self.holds_max => {
                return Err(Rejection::new(Reason::HoldsFull, 0, Side::Debit));
            }
            Phase::Pending => Column::Pending,
            Phase::PostPending | Phase::VoidPending => {
                panic!("transaction {:?} names no hold", request.transaction.id())
            }
        };
        let time = Some(log.next_committed().time);
        transfers::apply(&mut self.accounts, &mut self.transfers, column, time)?;
        let place = log.next_place();
        self.link_transfers(place);
        let hold_place = (column == Column::Pending).then_some(place);
        let committed = if request.transaction.is_derived() {
            self.legs.extend(self.transfers.iter().map(Leg::of_transfer));
            self.append_derived(request, 0, None, log)
        } else {
            let record = NewRecord::Committed {
                content: &self.content,
                principal: request.principal,
            };
            append(log, Some(request.key), None, record, &self.links)
        };
        if let Some(place) = hold_place {
            let deadline = deadline(request.transaction, committed.time);
            let accounts = self
                .transfers
                .iter()
                .map(|transfer| (transfer.debit, transfer.credit));
            self.holds.insert(Hold::new(place, deadline, accounts));
        }
        Ok(committed)
    }

    /// Links the next record, at `place`, to the chains of the accounts of `transfers`.
    #[inline]
    pub(super) fn link_transfers(&mut self, place: u64) {
        let sides = self
            .transfers
            .iter()
            .flat_map(|transfer| [transfer.debit, transfer.credit]);
        let count = 2 * self.transfers.len();
        self.accounts.link_all((sides, count), place, &mut self.links);
    }

    /// Appends the record of a transaction with its effects, which are in `legs`.
    pub(super) fn append_derived<L: TransactionLog>(
        &self,
        request: &Request<'_, '_>,
        origin: u64,
        other: Option<RecordKey<'_>>,
        log: &mut L,
    ) -> Committed {
        let record = NewRecord::Derived {
            content: &self.content,
            principal: request.principal,
            origin,
            legs: &self.legs,
        };
        append(log, Some(request.key), other, record, &self.links)
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
                    let Transfer {
                        amount, code, rule, ..
                    } = transfer;
                    self.transfers.push(Transfer {
                        debit,
                        credit,
                        amount,
                        code,
                        rule,
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
        let has_rules = transaction.has_rules();
        put_transfers(&mut self.content, self.transfers.iter().copied(), has_rules);
        unknown
    }

    /// Returns the outcome of a transaction whose id is recorded. `recorded` is the recorded transaction.
    /// [`Ledger::resolve`] has filled the field `content`.
    fn recorded_outcome(
        &mut self,
        transaction: &TransactionView<'_, &[u8]>,
        recorded: &RecordedTransaction<'_>,
        legs_max: usize,
    ) -> Outcome {
        if self.content == recorded.transaction.encoded() || planted("idempotency_ignores_content") {
            return match recorded.outcome {
                Ok(committed) => {
                    if recorded.transaction.is_derived()
                        && let Err(error) =
                            effects::legs(&recorded.transaction, recorded.effects, &mut self.legs)
                    {
                        panic!("the effects of a transaction were not encoded correctly: {error}");
                    }
                    if recorded.transaction.transfer_count() == 0 && self.legs.len() > legs_max {
                        let rejection = Rejection::memory_limit(self.legs.len());
                        self.legs.clear();
                        return Outcome::Rejected {
                            rejection,
                            replayed: true,
                        };
                    }
                    Outcome::Committed {
                        committed,
                        replayed: true,
                    }
                }
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
        if sent.names() != recorded.names() {
            return match (sent.names(), recorded.names()) {
                (Names::Reversed(_), _) | (Names::Nothing, Names::Reversed(_)) => {
                    ContentField::ReversesTransaction
                }
                (Names::Hold(_), _) | (Names::Nothing, _) => ContentField::PendingTransaction,
            };
        }
        if sent.pending_timeout() != recorded.pending_timeout() {
            return ContentField::PendingTimeout;
        }
        if sent.keep_remaining() != recorded.keep_remaining() {
            return ContentField::KeepRemaining;
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
            if recorded.rule != sent.rule {
                return ContentField::AmountRule(place);
            }
        }
        // All fields of the heading except the metadata were compared above, so the difference is in the metadata.
        assert_ne!(
            sent.heading_bytes(),
            recorded.heading_bytes(),
            "two encodings of the same transaction differ"
        );
        ContentField::Metadata
    }
}
