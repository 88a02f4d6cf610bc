//! Bank statements: each row belongs to one customer account.
//!
//! A row names the customer account only. The counter account is an account of the bank. The kind of the row determines the
//! counter account and the code of the transfer:
//!
//! | `kind` | counter account | `code` |
//! |---|---|---|
//! | `cash-deposit` | `bank:cash-deposit` | 1 |
//! | `cash-withdrawal` | `bank:cash-withdrawal` | 2 |
//! | `card-withdrawal` (cash taken out with a card) | `bank:card-withdrawal` | 3 |
//! | `transfer-in` (from another bank) | `bank:transfer-in` | 4 |
//! | `transfer-out` (to another bank) | `bank:transfer-out` | 5 |
//! | `interest` | `bank:interest` | 6 |
//!
//! If the bank rounded a balance, `rounding` is the signed difference. The import books it as a second transfer of the same
//! transaction, against `bank:rounding`, with code 7. The balance of a customer is `credits_posted - debits_posted`. Overdrafts
//! occur in the data, so all accounts are `BALANCE_RULE_UNLIMITED`. The effective time is the date at midnight UTC. The import
//! ignores `balance_after`; tests compare the balances with it.

use super::{cells::Cells, kinds, mapping::Mapping, row::Flaw};
use crate::proto::{ProcessTransactionRequest, Transfer, transfer};

/// Counter account of rounding differences.
const ROUNDING_ACCOUNT: &str = "bank:rounding";
/// Code of rounding differences.
const ROUNDING_CODE: i32 = 7;

/// Converts a row to a transaction. `mapping` translates the kind of the row.
pub(super) fn transaction(cells: Cells<'_>, mapping: &Mapping) -> Result<ProcessTransactionRequest, Flaw> {
    let customer = cells.id("account_id")?;
    let into_account = match cells.text("side") {
        "credit" => true,
        "debit" => false,
        side => return Err(Flaw::new(cells.named("side"), side, "credit or debit")),
    };
    let word = cells.text("kind");
    let kind = mapping.kind(word);
    let Some((counter, code)) = kinds::find(kind) else {
        let expected = format!("one of {}; --kinds translates other words", kinds::list());
        return Err(Flaw::new(cells.named("kind"), word, expected));
    };
    let mut transfers = vec![transfer(
        &customer,
        counter,
        into_account,
        cells.minor_units("amount")?,
        code,
    )];
    let rounding = cells.signed("rounding")?;
    if rounding != 0 {
        let amount = rounding.abs();
        transfers.push(transfer(
            &customer,
            ROUNDING_ACCOUNT,
            rounding > 0,
            amount,
            ROUNDING_CODE,
        ));
    }
    let Some(effective_time) = cells.time("date")? else {
        return Err(Flaw::new(cells.named("date"), "", "a date like 1993-01-31"));
    };
    Ok(ProcessTransactionRequest {
        transaction_id: cells.id("transaction_id")?,
        transfers,
        effective_time: Some(effective_time),
        ..ProcessTransactionRequest::default()
    })
}

fn transfer(customer: &str, counter: &str, into_account: bool, minor_units: i64, code: i32) -> Transfer {
    let (debit, credit) = if into_account {
        (counter, customer)
    } else {
        (customer, counter)
    };
    Transfer {
        debit_account_id: debit.to_owned(),
        credit_account_id: credit.to_owned(),
        amount: Some(transfer::Amount::MinorUnits(minor_units)),
        code,
        ..Transfer::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::{csv::CsvRows, lines::ReadError, mapping::Pair},
        *,
    };

    fn mapping() -> Mapping {
        Mapping::new(
            Vec::new(),
            Vec::new(),
            vec![Pair::parse("interest=Zins").unwrap()],
        )
        .unwrap()
    }

    const HEADER: &str = "transaction_id,date,account_id,side,kind,amount,rounding,balance_after";

    /// Returns (debit, credit, amount, code) of each transfer.
    fn transfers(row: &str) -> Vec<(String, String, i64, i32)> {
        let text = format!("{HEADER}\n{row}\n");
        let row = CsvRows::new(text.as_bytes(), Arc::new(mapping()))
            .unwrap()
            .next()
            .unwrap()
            .expect("a row");
        assert_eq!(
            row.transaction.effective_time,
            Some(prost_types::Timestamp {
                seconds: 725_846_400,
                nanos: 0
            })
        );
        let parts = |transfer: Transfer| match transfer.amount {
            Some(transfer::Amount::MinorUnits(units)) => (
                transfer.debit_account_id,
                transfer.credit_account_id,
                units,
                transfer.code,
            ),
            other => panic!("{other:?}"),
        };
        row.transaction.transfers.into_iter().map(parts).collect()
    }

    fn owned(debit: &str, credit: &str, amount: i64, code: i32) -> (String, String, i64, i32) {
        (debit.to_owned(), credit.to_owned(), amount, code)
    }

    #[test]
    fn money_goes_between_the_customer_and_the_account_of_the_kind() {
        assert_eq!(
            transfers("t1,1993-01-01,c,credit,cash-deposit,90000,0,90000"),
            [owned("bank:cash-deposit", "c", 90000, 1)]
        );
        assert_eq!(
            transfers("t1,1993-01-01,c,debit,cash-withdrawal,100,0,0"),
            [owned("c", "bank:cash-withdrawal", 100, 2)]
        );
        assert_eq!(
            transfers("t1,1993-01-01,c,debit,card-withdrawal,1,,0"),
            [owned("c", "bank:card-withdrawal", 1, 3)]
        );
        assert_eq!(
            transfers("t1,1993-01-01,c,credit,transfer-in,2,0,0"),
            [owned("bank:transfer-in", "c", 2, 4)]
        );
        assert_eq!(
            transfers("t1,1993-01-01,c,debit,transfer-out,3,0,0"),
            [owned("c", "bank:transfer-out", 3, 5)]
        );
    }

    #[test]
    fn rounding_is_a_second_transfer_in_its_own_direction() {
        assert_eq!(
            transfers("t1,1993-01-01,c,credit,Zins,100,-4,0"),
            [
                owned("bank:interest", "c", 100, 6),
                owned("c", "bank:rounding", 4, 7)
            ]
        );
        assert_eq!(
            transfers("t1,1993-01-01,c,debit,cash-withdrawal,100,4,0"),
            [
                owned("c", "bank:cash-withdrawal", 100, 2),
                owned("bank:rounding", "c", 4, 7)
            ]
        );
    }

    #[test]
    fn an_unknown_value_is_an_error() {
        for (row, expected) in [
            (
                "t1,1993-01-01,c,both,cash-deposit,1,0,0",
                r#"column "side" is "both", expected credit or debit"#,
            ),
            (
                "t1,1993-01-01,c,credit,gift,1,0,0",
                r#"column "kind" is "gift", expected one of cash-deposit, cash-withdrawal,"#,
            ),
            (
                "t1,,c,credit,cash-deposit,1,0,0",
                r#"column "date" is "", expected a date"#,
            ),
            (
                "t1,930101,c,credit,cash-deposit,1,0,0",
                r#"column "date" is "930101", expected a date"#,
            ),
            (
                "t1,1993-01-01,c,credit,cash-deposit,1,x,0",
                r#"column "rounding" is "x", expected whole minor units"#,
            ),
            (
                "t1,1993-01-01,,credit,cash-deposit,1,0,0",
                r#"column "account_id" is "", expected an id"#,
            ),
        ] {
            let text = format!("{HEADER}\n{row}\n");
            let Err(ReadError::Flaw { line, flaw }) =
                CsvRows::new(text.as_bytes(), Arc::new(mapping())).unwrap().next()
            else {
                panic!("{row} was accepted")
            };
            assert_eq!(line, 2);
            assert!(flaw.to_string().starts_with(expected), "{flaw}");
        }
    }
}
