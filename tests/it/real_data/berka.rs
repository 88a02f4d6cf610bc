//! The Berka data set: account statements of a bank. Each row is a transaction, with the balance of the account after
//! it.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use serde_json::Value;
use tally::{
    client::Client,
    proto::{BalanceRule, ProcessTransactionRequest, Transfer, transfer::Amount},
};

use super::{all_balances, balances, commit, create_accounts, data, read_csv};
use crate::support::server::TestServer;

/// A row of a statement.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Row {
    pub(crate) transaction_id: String,
    pub(crate) account_id: String,
    side: String,
    kind: String,
    amount: i64,
    rounding: i64,
    pub(crate) balance_after: i128,
}

#[derive(Debug, Deserialize)]
struct FinalBalance {
    account_id: String,
    balance: i128,
}

// ===== impl Row =====

impl Row {
    /// Converts the row to a transaction. This code shares nothing with `tally import`, so a test that compares the
    /// results of both would find an error in either.
    pub(crate) fn to_request(&self) -> ProcessTransactionRequest {
        let signed = if self.side == "credit" {
            self.amount
        } else {
            -self.amount
        };
        let legs = [
            (self.counter_account(), signed),
            ("rounding".to_owned(), self.rounding),
        ];
        let transfers = legs
            .into_iter()
            .filter(|(_, signed)| *signed != 0)
            .map(|(counter, signed)| {
                let customer = self.account_id.clone();
                let (debit_account_id, credit_account_id) = if signed > 0 {
                    (counter, customer)
                } else {
                    (customer, counter)
                };
                let amount = Some(Amount::MinorUnits(signed.abs()));
                Transfer {
                    debit_account_id,
                    credit_account_id,
                    amount,
                    ..Transfer::default()
                }
            });
        ProcessTransactionRequest {
            transaction_id: self.transaction_id.clone(),
            transfers: transfers.collect(),
            ..ProcessTransactionRequest::default()
        }
    }

    fn counter_account(&self) -> String {
        format!("kind:{}", self.kind)
    }
}

/// Reads the final balance of each customer.
pub(crate) fn final_balances(path: &Path) -> BTreeMap<String, i128> {
    read_csv::<FinalBalance>(path)
        .into_iter()
        .map(|row| (row.account_id, row.balance))
        .collect()
}

/// Creates all accounts that the rows need.
pub(crate) async fn open_accounts(client: &Client, rows: &[Row]) {
    let customers = rows.iter().map(|row| row.account_id.clone());
    let counters = rows
        .iter()
        .map(Row::counter_account)
        .chain(["rounding".to_owned()]);
    let ids: std::collections::BTreeSet<String> = customers.chain(counters).collect();
    create_accounts(
        client,
        ids.into_iter()
            .map(|id| (id, "CZK".to_owned(), BalanceRule::Unlimited)),
    )
    .await;
}

/// Checks that the balances of the customers equal those of the bank, and that the balances of all accounts sum to
/// zero.
pub(crate) async fn assert_final_balances(client: &Client, expected: &BTreeMap<String, i128>) {
    let all = all_balances(client).await;
    assert_eq!(all.values().sum::<i128>(), 0, "all accounts sum to zero");
    let customers: BTreeMap<String, i128> = all
        .into_iter()
        .filter(|(id, _)| id.starts_with("acct-"))
        .collect();
    assert!(
        customers == *expected,
        "{:?}",
        first_difference(&customers, expected)
    );
}

fn first_difference(
    found: &BTreeMap<String, i128>,
    expected: &BTreeMap<String, i128>,
) -> Option<(String, Option<i128>, Option<i128>)> {
    let ids = found.keys().chain(expected.keys());
    let mut differences = ids.filter(|id| found.get(*id) != expected.get(*id));
    differences
        .next()
        .map(|id| (id.clone(), found.get(id).copied(), expected.get(id).copied()))
}

/// Groups the rows. The first group contains the first row of each account, the second group the second row of each
/// account, and so on.
fn waves(rows: &[Row]) -> Vec<Vec<&Row>> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut waves: Vec<Vec<&Row>> = Vec::new();
    for row in rows {
        let count = seen.entry(&row.account_id).or_default();
        if *count == waves.len() {
            waves.push(Vec::new());
        }
        waves[*count].push(row);
        *count += 1;
    }
    waves
}

#[tokio::test]
async fn after_each_row_the_account_has_the_balance_in_the_statement() {
    let Some(file) = data("berka/transactions.csv") else {
        return;
    };
    let rows: Vec<Row> = read_csv(&file);
    let server = TestServer::start();
    let client = server.client().await;
    open_accounts(&client, &rows).await;

    let mut compared = 0;
    let mut last_sequence = 0;
    for wave in waves(&rows) {
        let requests: Vec<_> = wave.iter().map(|row| row.to_request()).collect();
        for sequence in commit(&client, requests).await {
            assert_eq!(sequence, last_sequence + 1, "a gap in the sequence numbers");
            last_sequence = sequence;
        }
        let found = balances(&client, wave.iter().map(|row| row.account_id.as_str())).await;
        for row in wave {
            assert_eq!(found[row.account_id.as_str()], row.balance_after, "{row:?}");
            compared += 1;
        }
    }
    assert_eq!(compared, rows.len());
    assert_eq!(usize::try_from(last_sequence).unwrap(), rows.len());
    let expected = final_balances(&file.with_file_name("final_balances.csv"));
    assert_final_balances(&client, &expected).await;
}

/// Options of `tally import` for the words and the asset of the bank.
pub(crate) const IMPORT_OPTIONS: [&str; 4] = [
    "--asset",
    "CZK",
    "--kinds",
    "cash-deposit=vklad,cash-withdrawal=vyber,card-withdrawal=vyber_kartou,transfer-in=prevod_z_uctu,\
     transfer-out=prevod_na_ucet,interest=urok",
];

/// Runs `tally import FILE`, checks that it succeeds, and returns its report.
pub(crate) fn import(server: &TestServer, file: &Path) -> Value {
    let path = file.to_str().unwrap();
    let mut command = server.command(&["import", path, "--create-accounts", "--output", "json"]);
    let output = command.args(IMPORT_OPTIONS).output().unwrap();
    assert!(
        output.status.success(),
        "{:?}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn an_import_gives_the_final_balances_and_a_second_import_changes_nothing() {
    let Some(file) = data("berka/transactions.csv") else {
        return;
    };
    let expected = final_balances(&file.with_file_name("final_balances.csv"));
    let rows = read_csv::<Row>(&file).len();
    let server = TestServer::start();
    let client = server.client().await;

    let first = import(&server, &file);
    assert_eq!(
        (&first["committed"], &first["replayed"], &first["rejected"]),
        (&rows.into(), &0.into(), &0.into())
    );
    assert_eq!(first["last_sequence"], rows);
    assert_final_balances(&client, &expected).await;
    let accounts = all_balances(&client).await;
    assert_eq!(first["accounts_created"], accounts.len());

    let second = import(&server, &file);
    assert_eq!(
        (&second["committed"], &second["replayed"], &second["rejected"]),
        (&0.into(), &rows.into(), &0.into())
    );
    assert_eq!(
        (&second["last_sequence"], &second["accounts_created"]),
        (&rows.into(), &0.into())
    );
    assert_eq!(all_balances(&client).await, accounts);
    let ledger = client.batch_stats().await.unwrap().ledger.unwrap();
    assert_eq!(usize::try_from(ledger.last_sequence).unwrap(), rows);
}
