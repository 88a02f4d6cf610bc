//! Bank statements in the form of the PKDD'99 financial data set of a Czech bank: each row belongs to one customer account.
//!
//! A row names the customer account only. The counter account is an account of the bank. The kind of the row, a Czech word of
//! the bank, determines the counter account and the code of the transfer:
//!
//! | `kind` | means | counter account | `code` |
//! |---|---|---|---|
//! | `vklad` | cash paid in | `bank:cash-deposit` | 1 |
//! | `vyber` | cash taken out | `bank:cash-withdrawal` | 2 |
//! | `vyber_kartou` | cash taken out with a card | `bank:card-withdrawal` | 3 |
//! | `prevod_z_uctu` | transfer from another bank | `bank:transfer-in` | 4 |
//! | `prevod_na_ucet` | transfer to another bank | `bank:transfer-out` | 5 |
//! | `urok` | interest | `bank:interest` | 6 |
//!
//! If the bank rounded a balance, `rounding` is the signed difference. The import books it as a second transfer of the same
//! transaction, against `bank:rounding`, with code 7. The balance of a customer is `credits_posted - debits_posted`. Overdrafts
//! occur in the data, so all accounts are `BALANCE_RULE_UNLIMITED`. The effective time is the date at midnight UTC. The import
//! ignores `balance_after`; tests compare with it.

use super::{cells::Cells, row::Flaw};
use crate::proto::{ProcessTransactionRequest, Transfer, transfer};

/// The default asset of bank statements: Czech koruna, in haléř.
pub(super) const ASSET: &str = "CZK";

/// Kind of the row, counter account, code. Journals contain the codes, so they must never change.
const KINDS: [(&str, &str, i32); 6] = [
    ("vklad", "bank:cash-deposit", 1),
    ("vyber", "bank:cash-withdrawal", 2),
    ("vyber_kartou", "bank:card-withdrawal", 3),
    ("prevod_z_uctu", "bank:transfer-in", 4),
    ("prevod_na_ucet", "bank:transfer-out", 5),
    ("urok", "bank:interest", 6),
];
/// Counter account of rounding differences.
const ROUNDING_ACCOUNT: &str = "bank:rounding";
/// Code of rounding differences.
const ROUNDING_CODE: i32 = 7;

/// Converts a row to a transaction.
pub(super) fn transaction(cells: Cells<'_>) -> Result<ProcessTransactionRequest, Flaw> {
    let customer = cells.id("account_id")?;
    let into_account = match cells.text("side") {
        "credit" => true,
        "debit" => false,
        side => return Err(Flaw::new("column \"side\"", side, "credit or debit")),
    };
    let kind = cells.text("kind");
    let Some((_, counter, code)) = KINDS.into_iter().find(|(word, ..)| *word == kind) else {
        let words = KINDS.map(|(word, ..)| word).join(", ");
        return Err(Flaw::new("column \"kind\"", kind, format!("one of {words}")));
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
        return Err(Flaw::new("column \"date\"", "", "a date like 1993-01-31"));
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
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{csv::CsvRows, lines::ReadError},
        *,
    };

    const HEADER: &str = "transaction_id,date,account_id,side,kind,amount,rounding,balance_after";

    /// Returns (debit, credit, amount, code) of each transfer.
    fn transfers(row: &str) -> Vec<(String, String, i64, i32)> {
        let text = format!("{HEADER}\n{row}\n");
        let row = CsvRows::new(text.as_bytes())
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
            transfers("t1,1993-01-01,c,credit,vklad,90000,0,90000"),
            [owned("bank:cash-deposit", "c", 90000, 1)]
        );
        assert_eq!(
            transfers("t1,1993-01-01,c,debit,vyber,100,0,0"),
            [owned("c", "bank:cash-withdrawal", 100, 2)]
        );
        assert_eq!(
            transfers("t1,1993-01-01,c,debit,vyber_kartou,1,,0"),
            [owned("c", "bank:card-withdrawal", 1, 3)]
        );
        assert_eq!(
            transfers("t1,1993-01-01,c,credit,prevod_z_uctu,2,0,0"),
            [owned("bank:transfer-in", "c", 2, 4)]
        );
        assert_eq!(
            transfers("t1,1993-01-01,c,debit,prevod_na_ucet,3,0,0"),
            [owned("c", "bank:transfer-out", 3, 5)]
        );
    }

    #[test]
    fn rounding_is_a_second_transfer_in_its_own_direction() {
        assert_eq!(
            transfers("t1,1993-01-01,c,credit,urok,100,-4,0"),
            [
                owned("bank:interest", "c", 100, 6),
                owned("c", "bank:rounding", 4, 7)
            ]
        );
        assert_eq!(
            transfers("t1,1993-01-01,c,debit,vyber,100,4,0"),
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
                "t1,1993-01-01,c,both,vklad,1,0,0",
                r#"column "side" is "both", expected credit or debit"#,
            ),
            (
                "t1,1993-01-01,c,credit,dar,1,0,0",
                r#"column "kind" is "dar", expected one of vklad, vyber,"#,
            ),
            (
                "t1,,c,credit,vklad,1,0,0",
                r#"column "date" is "", expected a date"#,
            ),
            (
                "t1,930101,c,credit,vklad,1,0,0",
                r#"column "date" is "930101", expected a date"#,
            ),
            (
                "t1,1993-01-01,c,credit,vklad,1,x,0",
                r#"column "rounding" is "x", expected whole minor units"#,
            ),
            (
                "t1,1993-01-01,,credit,vklad,1,0,0",
                r#"column "account_id" is "", expected an id"#,
            ),
        ] {
            let text = format!("{HEADER}\n{row}\n");
            let Err(ReadError::Flaw { line, flaw }) = CsvRows::new(text.as_bytes()).unwrap().next() else {
                panic!("{row} was accepted")
            };
            assert_eq!(line, 2);
            assert!(flaw.to_string().starts_with(expected), "{flaw}");
        }
    }
}
