//! From the wire to the ledger and back: shapes and bounds are checked here, before anything is queued.

use smallvec::SmallVec;
use tonic_types::FieldViolation;

use super::wire::{Text, Time, WireAmount, WireTransaction, WireTransfer};
use crate::{
    engine::TransactionBatch,
    id::{check_asset, check_id},
    ledger::{
        AccountSnapshot, AccountStatus, BalanceRule, Committed, EffectiveTime, Heading, Metadata, NewAccount,
        Phase, TRANSFERS_MAX, Timestamp, Transfer,
        account::{METADATA_BYTES_MAX, METADATA_ENTRIES_MAX, METADATA_KEY_BYTES_MAX},
    },
    money::Amount,
    proto::{self, amount, transfer},
};

/// Violations that are told of one request; more would help nobody.
const VIOLATIONS_MAX: usize = 16;
/// `google.protobuf.Timestamp`: 0001-01-01 to 9999-12-31.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Why a request was refused before it was queued.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Fields are malformed.
    Invalid(Vec<FieldViolation>),
    /// The phase is not part of this release.
    PhaseNotSupported(&'static str),
}

/// Collects what is wrong with a request.
#[derive(Debug, Default)]
pub(super) struct Violations(Vec<FieldViolation>);

// ===== impl Refusal =====

impl Refusal {
    /// What its words take in an answer, about.
    pub(super) fn bytes(&self) -> usize {
        match self {
            // The first one is told twice.
            Refusal::Invalid(violations) => violations
                .iter()
                .chain(violations.first())
                .map(|violation| violation.field.len() + violation.description.len() + 16)
                .sum(),
            Refusal::PhaseNotSupported(phase) => 2 * phase.len(),
        }
    }
}

// ===== impl Violations =====

impl Violations {
    /// Adds a violation. `field` is only made into text if something is wrong.
    pub(super) fn add(&mut self, field: impl std::fmt::Display, description: impl std::fmt::Display) {
        if self.0.len() < VIOLATIONS_MAX {
            self.0
                .push(FieldViolation::new(field.to_string(), description.to_string()));
        }
    }

    /// What is meant by a field with an id, which counts only if it is one.
    fn id<'a>(&mut self, field: impl std::fmt::Display, text: Text<'a>) -> &'a [u8] {
        match text {
            Text::Id(id) => id,
            Text::Other(text) => {
                self.check(field, check_id(text));
                &[]
            }
        }
    }

    fn check(&mut self, field: impl std::fmt::Display, result: Result<(), impl std::fmt::Display>) {
        if let Err(error) = result {
            self.add(field, error);
        }
    }

    /// Nothing, or what is wrong.
    ///
    /// # Errors
    /// The violations, if there are any.
    pub(super) fn finish(self) -> Result<(), Vec<FieldViolation>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }
}

/// Checks a transaction and adds it to `batch`.
///
/// # Errors
/// [`Refusal`]. `batch` is unchanged then.
pub(super) fn push_transaction(
    batch: &mut TransactionBatch,
    request: &WireTransaction<'_>,
) -> Result<(), Refusal> {
    check(request, |heading, transfers| batch.push(heading, transfers))
}

/// Checks a transaction and gives it to `then` if nothing is wrong with it.
///
/// # Errors
/// [`Refusal`]: the same for the same transaction.
pub(super) fn check(
    request: &WireTransaction<'_>,
    then: impl FnOnce(&Heading<'_>, &[Transfer<&[u8]>]),
) -> Result<(), Refusal> {
    let mut violations = Violations::default();
    let id = violations.id("transaction_id", request.id);
    let unsupported = check_phase(&mut violations, request);
    if !(1..=TRANSFERS_MAX).contains(&request.transfer_count) {
        let count = request.transfer_count;
        violations.add(
            "transfers",
            format_args!("has {count} transfers, 1 to {TRANSFERS_MAX} are allowed"),
        );
    }
    let transfers: SmallVec<[Transfer<&[u8]>; 2]> = (0..)
        .zip(&request.transfers)
        .map(|(place, transfer)| to_transfer(&mut violations, place, transfer))
        .collect();
    let effective_time = request
        .effective_time
        .and_then(|time| effective_time(&mut violations, "effective_time", time));
    check_metadata(&mut violations, "metadata", &request.metadata);
    violations.finish().map_err(Refusal::Invalid)?;
    if let Some(phase) = unsupported {
        return Err(Refusal::PhaseNotSupported(phase));
    }
    let heading = Heading {
        id,
        phase: Phase::Posted,
        effective_time,
        metadata: &request.metadata,
    };
    then(&heading, &transfers);
    Ok(())
}

/// The phase's name if it is one that this release does not have.
fn check_phase(violations: &mut Violations, request: &WireTransaction<'_>) -> Option<&'static str> {
    match proto::TransactionPhase::try_from(request.phase) {
        Ok(proto::TransactionPhase::Unspecified | proto::TransactionPhase::Posted) => {}
        Ok(phase) => return Some(phase.as_str_name()),
        Err(_) => violations.add("phase", format_args!("{} is not a phase", request.phase)),
    }
    if !request.pending_transaction_id.is_empty() {
        violations.add(
            "pending_transaction_id",
            "must be unset unless a pending transaction is posted or voided",
        );
    }
    if request.pending_timeout.is_some() {
        violations.add(
            "pending_timeout",
            "must be unset unless the phase is TRANSACTION_PHASE_PENDING",
        );
    }
    None
}

/// Checks a transfer. What it gives back counts only if there was no violation.
fn to_transfer<'a>(
    violations: &mut Violations,
    place: usize,
    transfer: &WireTransfer<'a>,
) -> Transfer<&'a [u8]> {
    let debit = violations.id(
        format_args!("transfers[{place}].debit_account_id"),
        transfer.debit,
    );
    let credit = violations.id(
        format_args!("transfers[{place}].credit_account_id"),
        transfer.credit,
    );
    let amount = match transfer.amount {
        Some(WireAmount::Narrow(units)) => match u64::try_from(units) {
            Ok(units @ 1..) => Amount::from(units),
            Ok(0) | Err(_) => {
                violations.add(
                    format_args!("transfers[{place}].minor_units"),
                    format_args!("is {units}, must be 1 to {}", i64::MAX),
                );
                Amount::ZERO
            }
        },
        Some(WireAmount::Wide { high: 0, low: 0 }) => {
            violations.add(
                format_args!("transfers[{place}].wide_minor_units"),
                "is 0, must be 1 to 2^128 - 1",
            );
            Amount::ZERO
        }
        Some(WireAmount::Wide { high, low }) => from_halves(high, low),
        None => {
            violations.add(format_args!("transfers[{place}].amount"), "must be set");
            Amount::ZERO
        }
    };
    let code = u32::try_from(transfer.code).unwrap_or_else(|_| {
        violations.add(
            format_args!("transfers[{place}].code"),
            format_args!("is {}, must be 0 to {}", transfer.code, i32::MAX),
        );
        0
    });
    Transfer {
        debit,
        credit,
        amount,
        code,
    }
}

fn check_metadata(violations: &mut Violations, field: &str, metadata: &Metadata) {
    if metadata.len() > METADATA_ENTRIES_MAX {
        let count = metadata.len();
        violations.add(
            field,
            format_args!("has {count} entries, at most {METADATA_ENTRIES_MAX} are allowed"),
        );
    }
    let bytes: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > METADATA_BYTES_MAX {
        violations.add(
            field,
            format_args!("has {bytes} bytes, at most {METADATA_BYTES_MAX} are allowed"),
        );
    }
    if let Some(key) = metadata
        .keys()
        .find(|key| key.is_empty() || key.len() > METADATA_KEY_BYTES_MAX)
    {
        let length = key.len();
        violations.add(
            field,
            format_args!("has a key of {length} bytes, 1 to {METADATA_KEY_BYTES_MAX} are allowed"),
        );
    }
}

fn effective_time(violations: &mut Violations, field: &str, time: Time) -> Option<EffectiveTime> {
    let nanos = u32::try_from(time.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000);
    if !SECONDS.contains(&time.seconds) {
        violations.add(
            format_args!("{field}.seconds"),
            format_args!("is {}, outside the years 1 to 9999", time.seconds),
        );
    }
    if nanos.is_none() {
        violations.add(
            format_args!("{field}.nanos"),
            format_args!("is {}, must be 0 to 999999999", time.nanos),
        );
    }
    nanos.map(|nanos| EffectiveTime {
        seconds: time.seconds,
        nanos,
    })
}

/// A transfer of the journal, as a client sent it.
#[must_use]
pub(super) fn from_transfer(debit: String, credit: String, amount: Amount, code: u32) -> proto::Transfer {
    let amount = match i64::try_from(amount.minor_units()) {
        Ok(units) => transfer::Amount::MinorUnits(units),
        Err(_) => transfer::Amount::WideMinorUnits(to_wide(amount)),
    };
    proto::Transfer {
        debit_account_id: debit,
        credit_account_id: credit,
        code: i32::try_from(code).unwrap_or(i32::MAX),
        amount: Some(amount),
    }
}

const fn from_halves(high: u64, low: u64) -> Amount {
    // Widening, as `u128::from` is not const.
    Amount::new((high as u128) << 64 | low as u128)
}

fn to_wide(amount: Amount) -> proto::Uint128 {
    let units = amount.minor_units();
    let half = |units: u128| u64::try_from(units & u128::from(u64::MAX)).unwrap_or_default();
    proto::Uint128 {
        high: half(units >> 64),
        low: half(units),
    }
}

fn from_amount(amount: Amount) -> proto::Amount {
    let value = match i64::try_from(amount.minor_units()) {
        Ok(units) => amount::Value::MinorUnits(units),
        Err(_) => amount::Value::WideMinorUnits(to_wide(amount)),
    };
    proto::Amount { value: Some(value) }
}

/// Checks an account that is to be created. `prefix` is its path in the request.
pub(super) fn to_new_account(
    violations: &mut Violations,
    prefix: &str,
    account: Option<proto::Account>,
) -> Option<NewAccount> {
    let Some(account) = account else {
        violations.add(prefix, "must be set");
        return None;
    };
    violations.check(format_args!("{prefix}.id"), check_id(&account.id));
    violations.check(format_args!("{prefix}.asset"), check_asset(&account.asset));
    let rule = match proto::BalanceRule::try_from(account.balance_rule) {
        Ok(proto::BalanceRule::Unspecified | proto::BalanceRule::Unlimited) => BalanceRule::Unlimited,
        Ok(proto::BalanceRule::CreditBalance) => BalanceRule::CreditBalance,
        Ok(proto::BalanceRule::DebitBalance) => BalanceRule::DebitBalance,
        Err(_) => {
            violations.add(
                format_args!("{prefix}.balance_rule"),
                format_args!("{} is not a rule", account.balance_rule),
            );
            // Whichever rule was meant, a limit may belong to it.
            BalanceRule::CreditBalance
        }
    };
    let status = match proto::AccountStatus::try_from(account.status) {
        Ok(proto::AccountStatus::Unspecified | proto::AccountStatus::Open) => AccountStatus::Open,
        Ok(proto::AccountStatus::Frozen) => AccountStatus::Frozen,
        Ok(proto::AccountStatus::Closed) => AccountStatus::Closed,
        Err(_) => {
            violations.add(
                format_args!("{prefix}.status"),
                format_args!("{} is not a status", account.status),
            );
            AccountStatus::Open
        }
    };
    let overdraft_limit = overdraft_limit(violations, prefix, account.overdraft_limit.as_ref());
    if rule == BalanceRule::Unlimited && !overdraft_limit.is_zero() {
        violations.add(
            format_args!("{prefix}.overdraft_limit"),
            "must be unset with BALANCE_RULE_UNLIMITED, which has no bound to move",
        );
    }
    if account.balances.is_some() {
        violations.add(format_args!("{prefix}.balances"), "is output only, must be unset");
    }
    if account.create_time.is_some() {
        violations.add(
            format_args!("{prefix}.create_time"),
            "is output only, must be unset",
        );
    }
    check_metadata(violations, &format!("{prefix}.metadata"), &account.metadata);
    let proto::Account {
        id, asset, metadata, ..
    } = account;
    Some(NewAccount {
        id,
        asset,
        rule,
        overdraft_limit,
        status,
        metadata,
    })
}

fn overdraft_limit(violations: &mut Violations, prefix: &str, limit: Option<&proto::Amount>) -> Amount {
    let Some(limit) = limit else { return Amount::ZERO };
    match &limit.value {
        None => {
            violations.add(
                format_args!("{prefix}.overdraft_limit"),
                "must have a value if it is set",
            );
            Amount::ZERO
        }
        Some(amount::Value::WideMinorUnits(wide)) => from_halves(wide.high, wide.low),
        Some(amount::Value::MinorUnits(units)) => match u64::try_from(*units) {
            Ok(units) => Amount::from(units),
            Err(_) => {
                violations.add(
                    format_args!("{prefix}.overdraft_limit.minor_units"),
                    format_args!("is {units}, must be 0 to {}", i64::MAX),
                );
                Amount::ZERO
            }
        },
    }
}

/// An account as a client sees it.
#[must_use]
pub(super) fn from_account(snapshot: AccountSnapshot) -> proto::Account {
    let AccountSnapshot {
        account,
        balances,
        create_time,
    } = snapshot;
    let rule = match account.rule {
        BalanceRule::Unlimited => proto::BalanceRule::Unlimited,
        BalanceRule::CreditBalance => proto::BalanceRule::CreditBalance,
        BalanceRule::DebitBalance => proto::BalanceRule::DebitBalance,
    };
    let status = match account.status {
        AccountStatus::Open => proto::AccountStatus::Open,
        AccountStatus::Frozen => proto::AccountStatus::Frozen,
        AccountStatus::Closed => proto::AccountStatus::Closed,
    };
    proto::Account {
        id: account.id,
        asset: account.asset,
        balance_rule: rule.into(),
        overdraft_limit: Some(from_amount(account.overdraft_limit)),
        status: status.into(),
        metadata: account.metadata,
        balances: Some(proto::Balances {
            debits_pending: Some(from_amount(balances.debits_pending)),
            debits_posted: Some(from_amount(balances.debits_posted)),
            credits_pending: Some(from_amount(balances.credits_pending)),
            credits_posted: Some(from_amount(balances.credits_posted)),
        }),
        create_time: Some(from_time(create_time)),
    }
}

/// A committed transaction as a client sees it.
#[must_use]
pub(super) fn from_committed(
    transaction_id: String,
    committed: Committed,
    replayed: bool,
) -> proto::ProcessTransactionResponse {
    proto::ProcessTransactionResponse {
        transaction_id,
        sequence: i64::try_from(committed.sequence).unwrap_or(i64::MAX),
        commit_time: Some(from_time(committed.time)),
        replayed,
    }
}

/// The ledger's time as a client sees it.
#[must_use]
pub(super) fn from_time(time: Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = time.seconds_and_nanos();
    prost_types::Timestamp {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        nanos: i32::try_from(nanos).unwrap_or_default(),
    }
}
