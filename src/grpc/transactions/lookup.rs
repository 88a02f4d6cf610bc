//! Finds transactions and outstanding holds in the journal, and describes them for the API.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tally_journal::Position;
use tally_ledger::{
    AccountIndex, AmountRule, Committed, EffectiveTime, Effects, Hold, Legs, Malformed, Names, Phase, Record,
    Rejection, Side, TransactionView, Transfer, effects::legs, money::Amount, record::RECORD_BYTES_MAX,
};
use tokio::time::Instant;
use tonic::Status;

use crate::{
    engine::{EngineError, OwnedKey, StoreFault, TallyEngine},
    grpc::{
        fields::{from_amount, from_time, to_wide},
        rejection::Rejected,
        status,
    },
    proto::{self, transaction::Outcome, transfer},
    security::Scope,
    store::embedded::FoundRecord,
};

/// Maximum number of reversals that the description of a transaction names.
const REVERSALS_MAX: u64 = 100;
/// Maximum memory of a transfer in a description, in bytes: its record, its account ids and its part of the answer.
const FOUND_TRANSFER_BYTES: usize = 1 << 10;
/// Maximum memory of a transaction without its transfers in a description, in bytes.
const FOUND_BYTES: usize = 8 << 10;
/// Maximum number of holds that are read together.
pub(crate) const HOLDS_TOGETHER_MAX: usize = 32;
/// Maximum memory of the records of the holds that are read together, in bytes. A hold has up to two records.
pub(crate) const HOLDS_TOGETHER_BYTES: usize = 2 * HOLDS_TOGETHER_MAX * RECORD_BYTES_MAX;
/// Number of accounts whose ids are read together.
pub(crate) const IDS_TOGETHER: usize = 512;

/// The reads of one call: the engine and the deadline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lookup<'a> {
    engine: &'a TallyEngine,
    deadline: Option<Instant>,
}

/// A transaction in the journal, with the other records that its description needs.
#[derive(Debug)]
pub(crate) struct Found {
    record: FoundRecord,
    progress: Progress,
    reversed_by: Vec<String>,
}

/// The ids of accounts by their numbers.
#[derive(Debug, Default)]
pub(crate) struct AccountIds(HashMap<AccountIndex, Arc<str>>);

/// What has happened to a hold since it was made.
#[derive(Debug)]
enum Progress {
    /// The transaction is not a hold.
    NoHold,
    /// Nothing.
    Untouched,
    /// A part was posted. This is the record of the last such post.
    PartlyPosted(FoundRecord),
    /// The hold has ended. This is the record of its end.
    Ended(FoundRecord),
}

/// The parts of a record of a transaction.
struct Parts<'a> {
    transaction: TransactionView<'a, AccountIndex>,
    effects: Option<Effects<'a>>,
    outcome: Result<Committed, Rejection>,
    principal: Option<&'a [u8]>,
}

/// What a hold has posted and still reserves of each transfer, and how it ended.
struct HoldFigures {
    state: proto::HoldState,
    posted: Vec<Amount>,
    remaining: Vec<Amount>,
    ended_by: String,
}

/// What can still happen to the transaction that a record contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing.
    Final,
    /// The transaction is a hold: it can be posted or voided, or expire.
    Hold,
    /// The transaction can be reversed.
    Reversible,
}

// ===== impl Lookup =====

impl<'a> Lookup<'a> {
    /// Returns the reads of a call with this deadline.
    pub(crate) const fn new(engine: &'a TallyEngine, deadline: Option<Instant>) -> Self {
        Lookup { engine, deadline }
    }

    /// Finds a transaction by its id.
    ///
    /// # Errors
    /// An error of the engine.
    pub(crate) async fn transaction(self, id: &str) -> Result<Option<Found>, Status> {
        let key = OwnedKey::Transaction(id.to_owned());
        let Some(record) = self.engine.record(key, self.deadline).await? else {
            return Ok(None);
        };
        let fate = parts(&record)?.fate();
        let mut found = Found {
            record,
            progress: Progress::NoHold,
            reversed_by: Vec::new(),
        };
        match fate {
            Fate::Final => {}
            Fate::Hold => found.progress = self.progress(id, found.record.position()).await?,
            Fate::Reversible => found.reversed_by = self.reversals(id).await?,
        }
        Ok(Some(found))
    }

    /// Reads outstanding holds, at most [`HOLDS_TOGETHER_MAX`].
    ///
    /// # Errors
    /// An error of the engine.
    pub(crate) async fn holds(self, holds: &[Hold]) -> Result<Vec<Found>, Status> {
        let own = holds.iter().map(|hold| Position::from_u64(hold.place));
        let advanced = holds.iter().filter(|hold| hold.newest != hold.place);
        let newest = advanced.map(|hold| Position::from_u64(hold.newest));
        let mut records = self.engine.records_at(own.chain(newest).collect()).await?;
        let mut newest = records.split_off(holds.len().min(records.len())).into_iter();
        let with_progress = |(record, hold): (FoundRecord, &Hold)| {
            let newest = (hold.newest != hold.place).then(|| newest.next());
            Found {
                record,
                progress: newest
                    .flatten()
                    .map_or(Progress::Untouched, Progress::PartlyPosted),
                reversed_by: Vec::new(),
            }
        };
        Ok(records.into_iter().zip(holds).map(with_progress).collect())
    }

    /// Reads the ids of all accounts that the descriptions of `found` name.
    ///
    /// # Errors
    /// An error of the engine.
    pub(crate) async fn ids_of(self, found: &[Found]) -> Result<AccountIds, Status> {
        let mut indexes = HashSet::new();
        for found in found {
            indexes.extend(found.accounts()?);
        }
        self.ids(indexes).await
    }

    /// Reads the ids of accounts.
    ///
    /// # Errors
    /// An error of the engine.
    pub(crate) async fn ids(self, indexes: HashSet<AccountIndex>) -> Result<AccountIds, Status> {
        let indexes: Vec<_> = indexes.into_iter().collect();
        let mut ids = HashMap::with_capacity(indexes.len());
        for some in indexes.chunks(IDS_TOGETHER) {
            let read = self.engine.account_ids(some.to_vec(), self.deadline).await?;
            ids.extend(some.iter().copied().zip(read.into_iter().map(Arc::from)));
        }
        Ok(AccountIds(ids))
    }

    /// Finds out what has happened to the hold with this id, whose record is at `position`.
    async fn progress(self, id: &str, position: Position) -> Result<Progress, EngineError> {
        if let Some(hold) = self.engine.hold(position, self.deadline).await? {
            if hold.newest == hold.place {
                return Ok(Progress::Untouched);
            }
            let newest = vec![Position::from_u64(hold.newest)];
            let newest = self.engine.records_at(newest).await?.pop();
            return Ok(newest.map_or(Progress::Untouched, Progress::PartlyPosted));
        }
        let key = OwnedKey::HoldEnd(id.to_owned());
        let end = self.engine.record(key, self.deadline).await?;
        let end = end.ok_or_else(|| StoreFault::damaged_at(position))?;
        Ok(Progress::Ended(end))
    }

    /// Returns the ids of the first reversals of a transaction. The reversals are numbered without gaps.
    async fn reversals(self, id: &str) -> Result<Vec<String>, Status> {
        let mut reversals = Vec::new();
        for number in 1..=REVERSALS_MAX {
            let key = OwnedKey::Reversal(id.to_owned(), number);
            let Some(record) = self.engine.record(key, self.deadline).await? else {
                break;
            };
            reversals.push(parts(&record)?.transaction.id().to_owned());
        }
        Ok(reversals)
    }
}

// ===== impl Found =====

impl Found {
    /// The transaction of a record, without what happened to it later.
    pub(crate) const fn as_recorded(record: FoundRecord) -> Self {
        Found {
            record,
            progress: Progress::NoHold,
            reversed_by: Vec::new(),
        }
    }

    /// The record of the transaction.
    pub(crate) const fn record(&self) -> &FoundRecord {
        &self.record
    }

    /// Returns the memory of the description, in bytes.
    ///
    /// # Errors
    /// DATA_LOSS if a record is damaged, although its checksum is right.
    pub(crate) fn memory_bytes(&self) -> Result<usize, Status> {
        let parts = parts(&self.record)?;
        let transfers = match parts.transaction.transfer_count() {
            0 => parts.legs(&self.record)?.len(),
            count => count,
        };
        Ok(FOUND_BYTES + transfers * FOUND_TRANSFER_BYTES)
    }

    /// Returns the id of the transaction.
    ///
    /// # Errors
    /// DATA_LOSS if a record is damaged, although its checksum is right.
    pub(crate) fn id(&self) -> Result<&str, Status> {
        Ok(parts(&self.record)?.transaction.id())
    }

    /// Returns the accounts of the transfers.
    ///
    /// # Errors
    /// DATA_LOSS if a record is damaged, although its checksum is right.
    pub(crate) fn accounts(&self) -> Result<Vec<AccountIndex>, Status> {
        let transfers = parts(&self.record)?.transfers(&self.record)?;
        let accounts = transfers
            .iter()
            .flat_map(|transfer| [transfer.debit, transfer.credit]);
        Ok(accounts.collect())
    }

    /// Describes the transaction for the API. `ids` has the ids of its accounts. Ids outside of `scope` are left out.
    ///
    /// # Errors
    /// DATA_LOSS if a record is damaged, although its checksum is right.
    pub(crate) fn describe(&self, ids: &AccountIds, scope: &Scope) -> Result<proto::Transaction, Status> {
        let parts = parts(&self.record)?;
        let transaction = &parts.transaction;
        let transfers = parts.transfers(&self.record)?;
        let id = transaction.id().to_owned();
        let legs = parts.legs(&self.record)?;
        let outcome = match parts.outcome {
            Ok(committed) => Outcome::Committed(proto::ProcessTransactionResponse {
                transaction_id: id.clone(),
                sequence: i64::try_from(committed.sequence).unwrap_or(i64::MAX),
                commit_time: Some(from_time(committed.time)),
                moved_amounts: if transaction.is_derived() && transaction.phase() != Phase::VoidPending {
                    legs.iter().map(|leg| from_amount(leg.moved)).collect()
                } else {
                    Vec::new()
                },
                ..proto::ProcessTransactionResponse::default()
            }),
            Err(rejection) => {
                Outcome::Error(status::to_value(&parts.error(rejection, &transfers, ids, scope)))
            }
        };
        let mut described = proto::Transaction {
            transaction_id: id,
            phase: phase_of(transaction.phase()).into(),
            transfers: transfers.iter().map(|transfer| ids.transfer(transfer)).collect(),
            effective_time: transaction.effective_time().map(effective_time),
            metadata: transaction.metadata().map_err(|_| damaged(&self.record))?,
            outcome: Some(outcome),
            keep_remaining: transaction.keep_remaining(),
            reversed_by: self.reversed_by.clone(),
            principal: parts.principal.map_or_else(String::new, text),
            ..proto::Transaction::default()
        };
        match transaction.names() {
            Names::Nothing => {}
            Names::Hold(hold) => described.pending_transaction_id = text(hold),
            Names::Reversed(reversed) => described.reverses_transaction_id = text(reversed),
        }
        if let Some(figures) = self.hold_figures(&legs)? {
            let amounts = |amounts: Vec<Amount>| amounts.into_iter().map(from_amount).collect();
            described.hold_state = figures.state.into();
            described.posted_amounts = amounts(figures.posted);
            described.remaining_amounts = amounts(figures.remaining);
            described.ended_by = figures.ended_by;
            let timeout = transaction.pending_timeout();
            let expiry = timeout.and_then(|timeout| self.record.place().time.checked_add_nanos(timeout));
            described.expire_time = expiry.map(from_time);
        }
        if scope.prefix().is_some() {
            leave_out_foreign(&mut described, scope);
        }
        Ok(described)
    }

    /// Returns the figures of the hold, or `None` if the transaction is not a hold. `reserved` are the legs of the hold.
    fn hold_figures(&self, reserved: &Legs) -> Result<Option<HoldFigures>, Status> {
        let mut ended_by = String::new();
        let (state, record, rest): (_, _, Vec<Amount>) = match &self.progress {
            Progress::NoHold => return Ok(None),
            Progress::Untouched => {
                let remaining: Vec<_> = reserved.iter().map(|leg| leg.moved).collect();
                return Ok(Some(HoldFigures {
                    state: proto::HoldState::Pending,
                    posted: vec![Amount::ZERO; remaining.len()],
                    remaining,
                    ended_by,
                }));
            }
            Progress::PartlyPosted(newest) => {
                let legs = parts(newest)?.legs(newest)?;
                let remaining = legs.iter().map(|leg| leg.remaining).collect();
                (proto::HoldState::Pending, newest, remaining)
            }
            Progress::Ended(end) => match end.framed().map_err(|_| damaged(end))?.record {
                Record::HoldExpired { legs, .. } => {
                    let released = legs.iter().map(|leg| leg.released).collect();
                    (proto::HoldState::Expired, end, released)
                }
                Record::Committed { .. }
                | Record::Rejected { .. }
                | Record::AccountCreated { .. }
                | Record::AccountUpdated { .. } => {
                    let parts = parts(end)?;
                    ended_by = parts.transaction.id().to_owned();
                    let state = match parts.transaction.phase() {
                        Phase::VoidPending => proto::HoldState::Voided,
                        Phase::Posted | Phase::Pending | Phase::PostPending => proto::HoldState::Posted,
                    };
                    let legs = parts.legs(end)?;
                    (state, end, legs.iter().map(|leg| leg.released).collect())
                }
            },
        };
        if rest.len() != reserved.len() {
            return Err(damaged(record));
        }
        // The posted amount is the rest: what was neither released nor is still reserved.
        let posted = reserved
            .iter()
            .zip(&rest)
            .map(|(leg, rest)| leg.moved.checked_sub(*rest));
        let posted: Option<Vec<_>> = posted.collect();
        let is_pending = state == proto::HoldState::Pending;
        Ok(Some(HoldFigures {
            state,
            posted: posted.ok_or_else(|| damaged(record))?,
            remaining: if is_pending {
                rest
            } else {
                vec![Amount::ZERO; reserved.len()]
            },
            ended_by,
        }))
    }
}

/// Removes the ids of accounts and transactions outside of `scope`. Only an unrestricted caller can have made a transaction with such ids.
pub(crate) fn leave_out_foreign(described: &mut proto::Transaction, scope: &Scope) {
    let leave_out = |id: &mut String| {
        if !scope.contains(id.as_bytes()) {
            id.clear();
        }
    };
    for transfer in &mut described.transfers {
        leave_out(&mut transfer.debit_account_id);
        leave_out(&mut transfer.credit_account_id);
    }
    leave_out(&mut described.pending_transaction_id);
    leave_out(&mut described.reverses_transaction_id);
    leave_out(&mut described.ended_by);
    described.reversed_by.iter_mut().for_each(leave_out);
}

// ===== impl Parts =====

/// Decodes the record of a transaction.
fn parts(record: &FoundRecord) -> Result<Parts<'_>, Status> {
    let framed = record.framed().map_err(|_| damaged(record))?;
    let (transaction, effects, outcome) = match framed.record {
        Record::Committed { transaction, effects } => (transaction, effects, Ok(record.place())),
        Record::Rejected {
            transaction,
            rejection,
        } => (transaction, None, Err(rejection)),
        Record::AccountCreated { .. } | Record::AccountUpdated { .. } | Record::HoldExpired { .. } => {
            return Err(damaged(record));
        }
    };
    Ok(Parts {
        transaction,
        effects,
        outcome,
        principal: framed.principal,
    })
}

/// Returns the error for a record that can't be decoded, although its checksum is right.
fn damaged(record: &FoundRecord) -> Status {
    status::engine(&StoreFault::damaged_at(record.position()).into())
}

impl Parts<'_> {
    fn fate(&self) -> Fate {
        let phase = self.transaction.phase();
        match (self.outcome, phase, self.transaction.names()) {
            (Ok(_), Phase::Pending, _) => Fate::Hold,
            (Ok(_), Phase::Posted, Names::Nothing) | (Ok(_), Phase::PostPending, _) => Fate::Reversible,
            (Ok(_), Phase::Posted | Phase::VoidPending, _) | (Err(_), ..) => Fate::Final,
        }
    }

    fn transfers(&self, record: &FoundRecord) -> Result<Vec<Transfer<AccountIndex>>, Status> {
        let transfers: Result<_, Malformed> = self.transaction.transfers().collect();
        transfers.map_err(|_| damaged(record))
    }

    /// Returns what the transaction did; nothing if it was rejected.
    fn legs(&self, record: &FoundRecord) -> Result<Legs, Status> {
        let mut found = Legs::new();
        if self.outcome.is_ok() {
            legs(&self.transaction, self.effects, &mut found).map_err(|_| damaged(record))?;
        }
        Ok(found)
    }

    /// Returns the error of a rejection. It names no id outside of `scope`, and no figure of such an account.
    fn error(
        &self,
        rejection: Rejection,
        transfers: &[Transfer<AccountIndex>],
        ids: &AccountIds,
        scope: &Scope,
    ) -> Status {
        let transfer = transfers.get(usize::from(rejection.transfer));
        let account = transfer.map(|transfer| match rejection.side {
            Side::Debit => transfer.debit,
            Side::Credit => transfer.credit,
        });
        let account_id = account.map(|account| ids.get(account));
        let account_id = account_id.filter(|id| scope.contains(id.as_bytes()));
        let names = self.transaction.names();
        let about = Rejected {
            account_id,
            amount: transfer.map(|transfer| transfer.amount),
            names: match names {
                Names::Hold(id) | Names::Reversed(id) if !scope.contains(id) => Names::Nothing,
                Names::Nothing | Names::Hold(_) | Names::Reversed(_) => names,
            },
            hides_accounts: account_id.is_none() && scope.prefix().is_some(),
        };
        status::rejection(rejection, &about, false)
    }
}

// ===== impl AccountIds =====

impl AccountIds {
    /// Returns the ids of the accounts in `ids`.
    pub(crate) const fn of(ids: HashMap<AccountIndex, Arc<str>>) -> Self {
        AccountIds(ids)
    }

    /// Adds an account.
    pub(crate) fn insert(&mut self, account: AccountIndex, id: String) {
        self.0.insert(account, id.into());
    }

    /// Returns the id of an account, which was read before.
    pub(crate) fn get(&self, account: AccountIndex) -> &str {
        self.0.get(&account).map_or("", |id| id)
    }

    fn transfer(&self, transfer: &Transfer<AccountIndex>) -> proto::Transfer {
        let amount = match i64::try_from(transfer.amount.minor_units()) {
            Ok(units) => transfer::Amount::MinorUnits(units),
            Err(_) => transfer::Amount::WideMinorUnits(to_wide(transfer.amount)),
        };
        let rule = match transfer.rule {
            // Most clients do not set the field, so the description does not set it either.
            AmountRule::Exact => proto::AmountRule::Unspecified,
            AmountRule::UpToDebitAvailable => proto::AmountRule::UpToDebitAvailable,
            AmountRule::UpToCreditAvailable => proto::AmountRule::UpToCreditAvailable,
            AmountRule::UpToBothAvailable => proto::AmountRule::UpToBothAvailable,
        };
        proto::Transfer {
            debit_account_id: self.get(transfer.debit).to_owned(),
            credit_account_id: self.get(transfer.credit).to_owned(),
            amount: Some(amount),
            code: i32::try_from(transfer.code).unwrap_or(i32::MAX),
            amount_rule: rule.into(),
        }
    }
}

/// Converts a phase for the API.
pub(crate) const fn phase_of(phase: Phase) -> proto::TransactionPhase {
    match phase {
        Phase::Posted => proto::TransactionPhase::Posted,
        Phase::Pending => proto::TransactionPhase::Pending,
        Phase::PostPending => proto::TransactionPhase::PostPending,
        Phase::VoidPending => proto::TransactionPhase::VoidPending,
    }
}

/// Converts a business time for the API.
pub(crate) fn effective_time(time: EffectiveTime) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.seconds,
        nanos: i32::try_from(time.nanos).unwrap_or_default(),
    }
}

/// Returns text that was checked when it arrived.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
