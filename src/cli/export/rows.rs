//! The rows of CSV and Parquet: one for each transfer of each transaction, with the changes of the transfer's accounts.

use prost_types::Timestamp;

use crate::{
    cli::ledger_text::{phase_name, time_text, units},
    proto::{Transaction, TransferEffect, transaction::Outcome},
};

/// The header of CSV.
pub(super) const HEADER: &str = "sequence,commit_time,transaction_id,phase,transfer_index,debit_account_id,credit_account_id,asset,posted,\
                                 reserved,unreserved,released,code,effective_time,pending_transaction_id,reverses_transaction_id,\
                                 principal\n";

/// A row.
#[derive(Debug, Clone, Copy)]
pub(super) struct EffectRow<'a> {
    pub(super) transaction: &'a Transaction,
    pub(super) sequence: i64,
    pub(super) commit_time: Option<&'a Timestamp>,
    /// The index of the transfer, from 0.
    pub(super) index: usize,
    pub(super) effect: &'a TransferEffect,
    /// The asset of the accounts; empty if the caller may not see them.
    pub(super) asset: &'a str,
    /// The code of the transfer; 0 if the request of the transaction had no transfers.
    pub(super) code: i32,
}

/// Returns the rows of a committed transaction. A transfer that has changed nothing has no row. `asset` finds the asset of an account.
pub(super) fn rows<'a>(
    transaction: &'a Transaction,
    asset: impl Fn(&str) -> Option<&'a str>,
) -> impl Iterator<Item = EffectRow<'a>> {
    let committed = match &transaction.outcome {
        Some(Outcome::Committed(committed)) => Some(committed),
        Some(Outcome::Error(_)) | None => None,
    };
    let effects = transaction.effects.iter().enumerate();
    effects
        .filter(|(_, effect)| changes_something(effect))
        .map(move |(index, effect)| EffectRow {
            transaction,
            sequence: committed.map_or(0, |committed| committed.sequence),
            commit_time: committed.and_then(|committed| committed.commit_time.as_ref()),
            index,
            effect,
            asset: asset(&effect.debit_account_id)
                .or_else(|| asset(&effect.credit_account_id))
                .unwrap_or(""),
            code: transaction
                .transfers
                .get(index)
                .map_or(0, |transfer| transfer.code),
        })
}

/// Whether a transfer has changed something. The service does not send amounts that are 0.
const fn changes_something(effect: &TransferEffect) -> bool {
    let TransferEffect {
        posted_amount,
        reserved_amount,
        unreserved_amount,
        released_amount,
        ..
    } = effect;
    posted_amount.is_some()
        || reserved_amount.is_some()
        || unreserved_amount.is_some()
        || released_amount.is_some()
}

// ===== impl EffectRow =====

impl EffectRow<'_> {
    /// The amounts: posted, reserved, unreserved, released.
    pub(super) fn amounts(&self) -> [u128; 4] {
        let TransferEffect {
            posted_amount,
            reserved_amount,
            unreserved_amount,
            released_amount,
            ..
        } = self.effect;
        [posted_amount, reserved_amount, unreserved_amount, released_amount]
            .map(|amount| units(amount.as_ref()))
    }

    /// Adds the line of CSV.
    pub(super) fn put_csv(&self, out: &mut String) {
        let [posted, reserved, unreserved, released] = self.amounts();
        let transaction = self.transaction;
        let fields: [&str; 17] = [
            &self.sequence.to_string(),
            &time_text(self.commit_time),
            &transaction.transaction_id,
            phase_name(transaction.phase()),
            &self.index.to_string(),
            &self.effect.debit_account_id,
            &self.effect.credit_account_id,
            self.asset,
            &posted.to_string(),
            &reserved.to_string(),
            &unreserved.to_string(),
            &released.to_string(),
            &self.code.to_string(),
            &time_text(transaction.effective_time.as_ref()),
            &transaction.pending_transaction_id,
            &transaction.reverses_transaction_id,
            &transaction.principal,
        ];
        for (place, field) in fields.into_iter().enumerate() {
            if place > 0 {
                out.push(',');
            }
            put_field(field, out);
        }
        out.push('\n');
    }
}

/// Adds a field of CSV, with quotes if it needs them.
fn put_field(field: &str, out: &mut String) {
    if field.contains([',', '"', '\n', '\r']) {
        out.push('"');
        out.push_str(&field.replace('"', "\"\""));
        out.push('"');
    } else {
        out.push_str(field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Amount, ProcessTransactionResponse, TransactionPhase, Transfer, amount};

    #[test]
    fn a_transaction_has_a_line_for_each_transfer_that_has_changed_something() {
        let effect = |debit: &str, posted: i64| TransferEffect {
            debit_account_id: debit.to_owned(),
            credit_account_id: "shop".to_owned(),
            posted_amount: Some(Amount {
                value: Some(amount::Value::MinorUnits(posted)),
            }),
            ..TransferEffect::default()
        };
        let transaction = Transaction {
            transaction_id: "t1".to_owned(),
            phase: TransactionPhase::Posted.into(),
            transfers: vec![Transfer {
                code: 7,
                ..Transfer::default()
            }],
            // The second transfer has changed nothing, so it has no line.
            effects: vec![effect("alice", 5), TransferEffect::default(), effect("bob", 6)],
            principal: "a, \"b\"".to_owned(),
            outcome: Some(Outcome::Committed(ProcessTransactionResponse {
                sequence: 3,
                ..ProcessTransactionResponse::default()
            })),
            ..Transaction::default()
        };
        let mut lines = String::new();
        for row in rows(&transaction, |id| (id == "alice").then_some("EUR")) {
            row.put_csv(&mut lines);
        }
        assert_eq!(
            lines,
            "3,,t1,POSTED,0,alice,shop,EUR,5,0,0,0,7,,,,\"a, \"\"b\"\"\"\n\
             3,,t1,POSTED,2,bob,shop,,6,0,0,0,0,,,,\"a, \"\"b\"\"\"\n"
        );
        assert_eq!(HEADER.matches(',').count(), 16);
    }
}
