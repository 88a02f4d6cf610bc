//! Texts of amounts, times and names of the ledger, which the subcommands share.

use std::collections::BTreeMap;

use prost_types::Timestamp;

use crate::proto::{Amount, TransactionPhase, Transfer, Uint128, amount, transfer};

/// Returns an amount in minor units; 0 if it is unset.
pub(super) fn units(amount: Option<&Amount>) -> u128 {
    match amount.and_then(|amount| amount.value.as_ref()) {
        None => 0,
        Some(amount::Value::MinorUnits(units)) => of_narrow(*units),
        Some(amount::Value::WideMinorUnits(units)) => of_wide(units),
    }
}

/// Returns the amount of a transfer in minor units.
pub(super) fn transfer_units(transfer: &Transfer) -> u128 {
    match &transfer.amount {
        None => 0,
        Some(transfer::Amount::MinorUnits(units)) => of_narrow(*units),
        Some(transfer::Amount::WideMinorUnits(units)) => of_wide(units),
    }
}

/// Returns a transfer's amount from minor units.
pub(super) fn transfer_amount(amount: Option<&Amount>) -> transfer::Amount {
    match amount.and_then(|amount| amount.value) {
        None => transfer::Amount::MinorUnits(0),
        Some(amount::Value::MinorUnits(units)) => transfer::Amount::MinorUnits(units),
        Some(amount::Value::WideMinorUnits(units)) => transfer::Amount::WideMinorUnits(units),
    }
}

/// Returns several amounts, with commas between them.
pub(super) fn all_units(amounts: &[Amount]) -> String {
    let texts: Vec<String> = amounts
        .iter()
        .map(|amount| units(Some(amount)).to_string())
        .collect();
    texts.join(", ")
}

/// Returns `plus` - `minus`, which can be negative.
pub(super) fn difference(plus: u128, minus: u128) -> String {
    let sign = if plus < minus { "-" } else { "" };
    format!("{sign}{}", plus.abs_diff(minus))
}

/// Returns a time as RFC 3339; empty if it is unset.
pub(super) fn time_text(time: Option<&Timestamp>) -> String {
    time.map_or_else(String::new, Timestamp::to_string)
}

/// Returns the short name of a phase, for example `POST_PENDING`.
pub(super) fn phase_name(phase: TransactionPhase) -> &'static str {
    phase.as_str_name().trim_start_matches("TRANSACTION_PHASE_")
}

/// Returns metadata as `key = value`, with commas between the entries.
pub(super) fn metadata_text(metadata: &BTreeMap<String, String>) -> String {
    let entries: Vec<String> = metadata
        .iter()
        .map(|(key, value)| format!("{key} = {value}"))
        .collect();
    entries.join(", ")
}

fn of_narrow(units: i64) -> u128 {
    u128::try_from(units).unwrap_or_default()
}

fn of_wide(units: &Uint128) -> u128 {
    u128::from(units.high) << 64 | u128::from(units.low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_whole_minor_units() {
        let narrow = Amount {
            value: Some(amount::Value::MinorUnits(1_234_567)),
        };
        let wide = Amount {
            value: Some(amount::Value::WideMinorUnits(Uint128 { high: 1, low: 2 })),
        };
        assert_eq!(units(None), 0);
        assert_eq!(all_units(&[narrow, wide]), "1234567, 18446744073709551618");
        assert_eq!(difference(3, 5), "-2");
        assert_eq!(difference(5, 3), "2");
        assert_eq!(phase_name(TransactionPhase::ExpirePending), "EXPIRE_PENDING");
    }
}
