//! Checks the fields of transactions, and converts them for the ledger, before the transactions are queued.

use smallvec::SmallVec;
use tally_ledger::{EffectiveTime, Heading, Phase, TRANSFERS_MAX, Transfer, id::check_id, money::Amount};
use tonic::Status;
use tonic_types::FieldViolation;

use super::wire::{Text, Time, WireAmount, WireTransaction, WireTransfer};
use crate::{
    engine::TransactionBatch,
    grpc::{
        fields::{Violations, check_metadata, from_halves},
        status,
    },
    proto,
};

/// The seconds that `google.protobuf.Timestamp` allows: from the year 1 to the end of the year 9999.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// The reason why a transaction is not queued.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Fields are invalid.
    Invalid(Vec<FieldViolation>),
    /// This release does not support the phase.
    PhaseNotSupported(&'static str),
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
            Refusal::PhaseNotSupported(phase) => 2 * phase.len(),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(violations) => status::invalid(violations),
            Refusal::PhaseNotSupported(phase) => status::phase_not_supported(phase),
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
) -> Result<(), Refusal> {
    check(request, |heading, transfers| batch.push(heading, transfers))
}

/// Checks a transaction, and passes it to `then` if it is valid.
///
/// # Errors
/// [`Refusal`] if the transaction is invalid. The same transaction always gets the same error.
pub(crate) fn check(
    request: &WireTransaction<'_>,
    then: impl FnOnce(&Heading<'_>, &[Transfer<&[u8]>]),
) -> Result<(), Refusal> {
    let mut violations = Violations::default();
    let id = valid_id(&mut violations, "transaction_id", request.id);
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

/// Checks the phase, and the fields that belong to other phases. Returns the name of the phase if this release does not
/// support the phase.
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

/// Checks a transfer. The returned value is meaningful only without violations.
fn to_transfer<'a>(
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
fn valid_id<'a>(violations: &mut Violations, field: impl std::fmt::Display, text: Text<'a>) -> &'a [u8] {
    match text {
        Text::Id(id) => id,
        Text::Other(text) => {
            violations.check(field, check_id(text));
            &[]
        }
    }
}
