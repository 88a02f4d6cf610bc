//! Checks the fields of transactions, and converts them for the ledger, before the transactions are queued.

use std::fmt::Display;

use smallvec::SmallVec;
use tally_ledger::{
    AmountRule, EffectiveTime, Heading, Names, Phase, TRANSFERS_MAX, Transfer, id::check_id, money::Amount,
};
use tonic::Status;
use tonic_types::FieldViolation;

use super::wire::{Text, Time, WireAmount, WireTransaction, WireTransfer};
use crate::{
    engine::TransactionBatch,
    grpc::{
        fields::{Violations, check_metadata, from_halves, nanos_of},
        status,
    },
    proto,
    security::Scope,
};

/// The seconds that `google.protobuf.Timestamp` allows: from the year 1 to the end of the year 9999.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
/// The shortest time until a hold expires, in nanoseconds: 1 millisecond.
const TIMEOUT_NANOS_MIN: u64 = 1_000_000;
/// The longest time until a hold expires, in nanoseconds: 3650 days.
const TIMEOUT_NANOS_MAX: u64 = 3650 * 24 * 3600 * 1_000_000_000;

/// The reason why a transaction is not queued.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Fields are invalid.
    Invalid(Vec<FieldViolation>),
    /// A field names an id outside of the caller's scope.
    Foreign(ForeignId),
}

/// An id that is outside of the caller's scope.
#[derive(Debug)]
pub(crate) struct ForeignId {
    field: String,
    id: String,
    prefix: String,
}

/// What a transaction does. This decides which fields it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Posts its own transfers.
    Post,
    /// Makes a hold.
    Reserve,
    /// Posts a hold.
    PostHold,
    /// Voids a hold.
    VoidHold,
    /// Reverses a transaction.
    Reverse,
    /// The phase is invalid, so the fields that depend on it are not checked.
    Unknown,
}

// ===== impl Refusal =====

impl Refusal {
    /// Returns the approximate length of the error's text in an answer, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            // The status contains the first violation twice: in its message, and in its details.
            Refusal::Invalid(violations) => violations
                .iter()
                .chain(violations.first())
                .map(|violation| violation.field.len() + violation.description.len() + 16)
                .sum(),
            Refusal::Foreign(ForeignId { field, id, prefix }) => 2 * (field.len() + id.len() + prefix.len()),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(violations) => status::invalid(violations),
            Refusal::Foreign(ForeignId { field, id, prefix }) => status::foreign_id(&field, &id, &prefix),
        }
    }
}

/// Checks a transaction and adds it to `batch`.
///
/// # Errors
/// [`Refusal`] if the transaction is invalid. In this case, `batch` is unchanged.
pub(crate) fn push_transaction(
    batch: &mut TransactionBatch,
    request: &WireTransaction<'_>,
    scope: &Scope,
) -> Result<(), Refusal> {
    let return_balances = request.return_balances;
    check(request, scope, |heading, transfers| {
        batch.push(heading, transfers, return_balances);
    })
}

/// Checks a transaction, and passes it to `then` if it is valid.
///
/// # Errors
/// [`Refusal`] if the transaction is invalid, or names an id outside of `scope`. The same transaction always gets the same error.
pub(crate) fn check(
    request: &WireTransaction<'_>,
    scope: &Scope,
    then: impl FnOnce(&Heading<'_>, &[Transfer<&[u8]>]),
) -> Result<(), Refusal> {
    let mut violations = Violations::default();
    let id = valid_id(&mut violations, "transaction_id", request.id);
    let action = Action::of(&mut violations, request);
    let is_plain = action.is_plain(request);
    let names = if is_plain {
        Names::Nothing
    } else {
        action.check_names(&mut violations, request)
    };
    if !is_plain {
        action.check_transfer_count(&mut violations, request);
    }
    let transfers: SmallVec<[Transfer<&[u8]>; 2]> = (0..)
        .zip(&request.transfers)
        .map(|(place, transfer)| action.to_transfer(&mut violations, place, transfer))
        .collect();
    let pending_timeout = if is_plain {
        None
    } else {
        action.check_keep_remaining(&mut violations, request);
        action.check_timeout(&mut violations, request)
    };
    let effective_time = request
        .effective_time
        .and_then(|time| effective_time(&mut violations, "effective_time", time));
    check_metadata(&mut violations, "metadata", &request.metadata);
    violations.finish().map_err(Refusal::Invalid)?;
    let heading = Heading {
        id,
        phase: action.phase(),
        effective_time,
        metadata: &request.metadata,
        names,
        keep_remaining: request.keep_remaining,
        pending_timeout,
    };
    if let Some(prefix) = scope.prefix() {
        check_scope(scope, prefix, &heading, &transfers)?;
    }
    then(&heading, &transfers);
    Ok(())
}

/// Checks that every id of a transaction belongs to a scope. The check reads only the ids, so the answer does not show whether a foreign
/// id exists.
fn check_scope(
    scope: &Scope,
    prefix: &str,
    heading: &Heading<'_>,
    transfers: &[Transfer<&[u8]>],
) -> Result<(), Refusal> {
    let check = |field: &dyn Display, id: &[u8]| {
        if scope.contains(id) {
            return Ok(());
        }
        Err(Refusal::Foreign(ForeignId {
            field: field.to_string(),
            id: String::from_utf8_lossy(id).into_owned(),
            prefix: prefix.to_owned(),
        }))
    };
    check(&"transaction_id", heading.id)?;
    match heading.names {
        Names::Nothing => {}
        Names::Hold(id) => check(&"pending_transaction_id", id)?,
        Names::Reversed(id) => check(&"reverses_transaction_id", id)?,
    }
    for (place, transfer) in transfers.iter().enumerate() {
        check(
            &format_args!("transfers[{place}].debit_account_id"),
            transfer.debit,
        )?;
        check(
            &format_args!("transfers[{place}].credit_account_id"),
            transfer.credit,
        )?;
    }
    Ok(())
}

// ===== impl Action =====

impl Action {
    /// Reads the phase, and finds out whether the transaction reverses another one.
    fn of(violations: &mut Violations, request: &WireTransaction<'_>) -> Self {
        use proto::TransactionPhase as Sent;
        match Sent::try_from(request.phase) {
            Ok(Sent::Unspecified | Sent::Posted) if request.reverses_transaction_id.is_empty() => {
                Action::Post
            }
            Ok(Sent::Unspecified | Sent::Posted) => Action::Reverse,
            Ok(Sent::Pending) => Action::Reserve,
            Ok(Sent::PostPending) => Action::PostHold,
            Ok(Sent::VoidPending) => Action::VoidHold,
            Ok(Sent::ExpirePending) => {
                violations.add("phase", "TRANSACTION_PHASE_EXPIRE_PENDING is output only");
                Action::Unknown
            }
            Err(_) => {
                violations.add("phase", format_args!("{} is not a phase", request.phase));
                Action::Unknown
            }
        }
    }

    /// Whether the transaction posts or reserves its own transfers, and the fields that depend on the phase are valid. This is true for
    /// most transactions, and this check takes less time than the checks of these fields for all phases.
    #[inline]
    fn is_plain(self, request: &WireTransaction<'_>) -> bool {
        // `Post` already means that the transaction reverses no other transaction.
        (self == Action::Post || (self == Action::Reserve && request.reverses_transaction_id.is_empty()))
            && request.pending_transaction_id.is_empty()
            && request.pending_timeout.is_none()
            && !request.keep_remaining
            && (1..=TRANSFERS_MAX).contains(&request.transfer_count)
    }

    #[inline]
    const fn phase(self) -> Phase {
        match self {
            Action::Post | Action::Reverse | Action::Unknown => Phase::Posted,
            Action::Reserve => Phase::Pending,
            Action::PostHold => Phase::PostPending,
            Action::VoidHold => Phase::VoidPending,
        }
    }

    /// Whether some of the amounts may be zero.
    #[inline]
    const fn allows_zero(self) -> bool {
        matches!(self, Action::PostHold | Action::Reverse | Action::Unknown)
    }

    /// Checks the two fields that name another transaction. The returned value is meaningful only without violations.
    fn check_names<'a>(self, violations: &mut Violations, request: &WireTransaction<'a>) -> Names<'a> {
        let (hold, reversed) = (request.pending_transaction_id, request.reverses_transaction_id);
        match self {
            Action::Post | Action::Reserve | Action::Reverse if !hold.is_empty() => violations.add(
                "pending_transaction_id",
                "must be unset unless the phase is TRANSACTION_PHASE_POST_PENDING or TRANSACTION_PHASE_VOID_PENDING",
            ),
            Action::Reserve | Action::PostHold | Action::VoidHold if !reversed.is_empty() => violations.add(
                "reverses_transaction_id",
                "must be unset unless the phase is TRANSACTION_PHASE_POSTED",
            ),
            Action::Post | Action::Reserve | Action::PostHold | Action::VoidHold | Action::Reverse | Action::Unknown => {}
        }
        match self {
            Action::Post | Action::Reserve | Action::Unknown => Names::Nothing,
            Action::PostHold | Action::VoidHold => {
                Names::Hold(other_id(violations, "pending_transaction_id", hold, request.id))
            }
            Action::Reverse => Names::Reversed(other_id(
                violations,
                "reverses_transaction_id",
                reversed,
                request.id,
            )),
        }
    }

    fn check_transfer_count(self, violations: &mut Violations, request: &WireTransaction<'_>) {
        let count = request.transfer_count;
        let least = match self {
            Action::VoidHold if count > 0 => {
                let problem = format_args!(
                    "has {count} transfers, TRANSACTION_PHASE_VOID_PENDING has none because it releases all of the hold"
                );
                return violations.add("transfers", problem);
            }
            Action::Post | Action::Reserve => 1,
            Action::PostHold | Action::VoidHold | Action::Reverse | Action::Unknown => 0,
        };
        if !(least..=TRANSFERS_MAX).contains(&count) {
            let problem = format_args!("has {count} transfers, {least} to {TRANSFERS_MAX} are allowed");
            violations.add("transfers", problem);
        }
        let is_zero = |transfer: &WireTransfer<'_>| {
            matches!(
                transfer.amount,
                Some(WireAmount::Narrow(0) | WireAmount::Wide { high: 0, low: 0 })
            )
        };
        if self.allows_zero() && count > 0 && request.transfers.iter().all(is_zero) {
            violations.add(
                "transfers",
                "all amounts are 0, at least one of them must be more than 0",
            );
        }
    }

    fn check_keep_remaining(self, violations: &mut Violations, request: &WireTransaction<'_>) {
        if !request.keep_remaining || self == Action::Unknown {
            return;
        }
        if self != Action::PostHold {
            violations.add(
                "keep_remaining",
                "must be unset unless the phase is TRANSACTION_PHASE_POST_PENDING",
            );
        } else if request.transfer_count == 0 {
            violations.add(
                "keep_remaining",
                "must be unset without transfers, because all of the hold is posted then",
            );
        }
    }

    /// Checks the time until a hold expires. The returned value is meaningful only without violations.
    fn check_timeout(self, violations: &mut Violations, request: &WireTransaction<'_>) -> Option<u64> {
        let Time { seconds, nanos } = request.pending_timeout?;
        if !matches!(self, Action::Reserve | Action::Unknown) {
            violations.add(
                "pending_timeout",
                "must be unset unless the phase is TRANSACTION_PHASE_PENDING",
            );
            return None;
        }
        let timeout = nanos_of(seconds, nanos);
        if !timeout.is_some_and(|timeout| (TIMEOUT_NANOS_MIN..=TIMEOUT_NANOS_MAX).contains(&timeout)) {
            let problem = format_args!("is {seconds} s and {nanos} ns, must be 1 ms to 3650 days");
            violations.add("pending_timeout", problem);
        }
        timeout
    }

    /// Checks a transfer. The returned value is meaningful only without violations.
    fn to_transfer<'a>(
        self,
        violations: &mut Violations,
        place: usize,
        transfer: &WireTransfer<'a>,
    ) -> Transfer<&'a [u8]> {
        let debit = valid_id(
            violations,
            format_args!("transfers[{place}].debit_account_id"),
            transfer.debit,
        );
        let credit = valid_id(
            violations,
            format_args!("transfers[{place}].credit_account_id"),
            transfer.credit,
        );
        let amount = self.to_amount(violations, place, transfer.amount);
        let code = u32::try_from(transfer.code).unwrap_or_else(|_| {
            violations.add(
                format_args!("transfers[{place}].code"),
                format_args!("is {}, must be 0 to {}", transfer.code, i32::MAX),
            );
            0
        });
        let rule = if transfer.amount_rule == 0 {
            AmountRule::Exact
        } else {
            self.to_rule(violations, place, transfer.amount_rule)
        };
        Transfer {
            debit,
            credit,
            amount,
            code,
            rule,
        }
    }

    fn to_amount(self, violations: &mut Violations, place: usize, amount: Option<WireAmount>) -> Amount {
        let least = u8::from(!self.allows_zero());
        match amount {
            Some(WireAmount::Narrow(units)) => match u64::try_from(units) {
                Ok(units) if units >= u64::from(least) => Amount::from(units),
                Ok(_) | Err(_) => {
                    violations.add(
                        format_args!("transfers[{place}].minor_units"),
                        format_args!("is {units}, must be {least} to {}", i64::MAX),
                    );
                    Amount::ZERO
                }
            },
            Some(WireAmount::Wide { high: 0, low: 0 }) if least > 0 => {
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
        }
    }

    fn to_rule(self, violations: &mut Violations, place: usize, sent: i32) -> AmountRule {
        let field = format_args!("transfers[{place}].amount_rule");
        let rule = match proto::AmountRule::try_from(sent) {
            Ok(proto::AmountRule::Unspecified | proto::AmountRule::Exact) => AmountRule::Exact,
            Ok(proto::AmountRule::UpToDebitAvailable) => AmountRule::UpToDebitAvailable,
            Ok(proto::AmountRule::UpToCreditAvailable) => AmountRule::UpToCreditAvailable,
            Ok(proto::AmountRule::UpToBothAvailable) => AmountRule::UpToBothAvailable,
            Err(_) => {
                violations.add(field, format_args!("{sent} is not a rule"));
                return AmountRule::Exact;
            }
        };
        if rule != AmountRule::Exact && matches!(self, Action::PostHold | Action::Reverse) {
            violations.add(
                field,
                "must be unset or AMOUNT_RULE_EXACT if the transaction posts a hold or reverses a transaction",
            );
        }
        rule
    }
}

/// Checks the id of another transaction in a field. The returned value is meaningful only without violations.
fn other_id<'a>(violations: &mut Violations, field: &str, other: Text<'a>, own: Text<'_>) -> &'a [u8] {
    let id = valid_id(violations, field, other);
    if !id.is_empty() && own == other {
        violations.add(field, "must not be the transaction itself (transaction_id)");
    }
    id
}

/// Checks the time in a field. The returned value is meaningful only without violations.
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

/// Checks the id in a field. The returned value is meaningful only without violations.
#[inline]
fn valid_id<'a>(violations: &mut Violations, field: impl std::fmt::Display, text: Text<'a>) -> &'a [u8] {
    match text {
        Text::Id(id) => id,
        Text::Other(text) => {
            violations.check(field, check_id(text));
            &[]
        }
    }
}
