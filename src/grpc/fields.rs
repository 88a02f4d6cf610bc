//! Checks of fields, and conversions of amounts and times, that several services use.

use tally_ledger::{
    Balances, Metadata, Timestamp,
    account::{METADATA_BYTES_MAX, METADATA_ENTRIES_MAX, METADATA_KEY_BYTES_MAX},
    money::Amount,
};
use tonic_types::FieldViolation;

use crate::proto::{self, amount};

/// Maximum number of violations that an error names.
const VIOLATIONS_MAX: usize = 16;

/// Collects the invalid fields of a request, at most [`VIOLATIONS_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Violations(Vec<FieldViolation>);

// ===== impl Violations =====

impl Violations {
    /// Adds a violation. The texts of `field` and `description` are formatted only here, so a valid request costs
    /// nothing.
    pub(crate) fn add(&mut self, field: impl std::fmt::Display, description: impl std::fmt::Display) {
        if self.0.len() < VIOLATIONS_MAX {
            self.0
                .push(FieldViolation::new(field.to_string(), description.to_string()));
        }
    }

    /// Adds a violation if `result` is an error.
    pub(crate) fn check(
        &mut self,
        field: impl std::fmt::Display,
        result: Result<(), impl std::fmt::Display>,
    ) {
        if let Err(error) = result {
            self.add(field, error);
        }
    }

    /// Ends the check of the request.
    ///
    /// # Errors
    /// The violations, if the request has any.
    pub(crate) fn finish(self) -> Result<(), Vec<FieldViolation>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }
}

/// Checks the number of entries, their length, and the length of each key.
pub(crate) fn check_metadata(violations: &mut Violations, field: &str, metadata: &Metadata) {
    if metadata.is_empty() {
        return;
    }
    let count = metadata.len();
    if count > METADATA_ENTRIES_MAX {
        let problem = format_args!("has {count} entries, at most {METADATA_ENTRIES_MAX} are allowed");
        violations.add(field, problem);
    }
    let bytes: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > METADATA_BYTES_MAX {
        let problem = format_args!("has {bytes} bytes, at most {METADATA_BYTES_MAX} are allowed");
        violations.add(field, problem);
    }
    let mut lengths = metadata.keys().map(String::len);
    if let Some(length) = lengths.find(|length| !(1..=METADATA_KEY_BYTES_MAX).contains(length)) {
        let problem = format_args!("has a key of {length} bytes, 1 to {METADATA_KEY_BYTES_MAX} are allowed");
        violations.add(field, problem);
    }
}

/// Makes an amount from its upper and its lower 64 bits.
pub(crate) fn from_halves(high: u64, low: u64) -> Amount {
    Amount::new(u128::from(high) << 64 | u128::from(low))
}

/// Returns the nanoseconds of a `google.protobuf.Duration`. `None` if the duration is negative, if its nanoseconds are more than a
/// second, or if the result exceeds 64 bits.
pub(crate) fn nanos_of(seconds: i64, nanos: i32) -> Option<u64> {
    let nanos = u64::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    u64::try_from(seconds)
        .ok()?
        .checked_mul(1_000_000_000)?
        .checked_add(nanos)
}

/// Converts an amount of the ledger for the API, as two halves of 64 bits.
pub(crate) fn to_wide(amount: Amount) -> proto::Uint128 {
    let units = amount.minor_units();
    let half = |units: u128| u64::try_from(units & u128::from(u64::MAX)).unwrap_or_default();
    proto::Uint128 {
        high: half(units >> 64),
        low: half(units),
    }
}

/// Converts an amount of the ledger for the API: to an `int64`, or to two halves if the amount is too large for an
/// `int64`.
pub(crate) fn from_amount(amount: Amount) -> proto::Amount {
    let value = match i64::try_from(amount.minor_units()) {
        Ok(units) => amount::Value::MinorUnits(units),
        Err(_) => amount::Value::WideMinorUnits(to_wide(amount)),
    };
    proto::Amount { value: Some(value) }
}

/// Converts balances for the API.
pub(crate) fn from_balances(balances: &Balances) -> proto::Balances {
    proto::Balances {
        debits_pending: Some(from_amount(balances.debits_pending)),
        debits_posted: Some(from_amount(balances.debits_posted)),
        credits_pending: Some(from_amount(balances.credits_pending)),
        credits_posted: Some(from_amount(balances.credits_posted)),
    }
}

/// Converts a time of the ledger for the API.
#[must_use]
pub(crate) fn from_time(time: Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = time.seconds_and_nanos();
    prost_types::Timestamp {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        nanos: i32::try_from(nanos).unwrap_or_default(),
    }
}
