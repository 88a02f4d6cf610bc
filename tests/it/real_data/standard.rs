//! The data set `standard`: the accounts of a household, with eleven assets and transactions of up to fourteen legs.
//! The accounting program Ledger computed the expected balances.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use tally::proto::{BalanceRule, ProcessTransactionRequest, Transfer, transfer::Amount};

use super::{all_balances, commit, create_accounts, data, read_csv, read_lines};
use crate::support::server::TestServer;

/// A transaction. Its legs sum to zero for each asset.
#[derive(Debug, Deserialize)]
struct Booking {
    id: u64,
    legs: Vec<Leg>,
}

/// A change of one account. A positive amount is a debit, a negative amount is a credit.
#[derive(Debug, Clone, Deserialize)]
struct Leg {
    account: String,
    asset: String,
    amount_minor: i64,
}

#[derive(Debug, Deserialize)]
struct Expected {
    account: String,
    asset: String,
    balance_minor: i128,
}

// ===== impl Booking =====

impl Booking {
    /// Converts the legs to transfers: pairs each debit with the credits of the same asset, in order.
    fn to_request(&self) -> ProcessTransactionRequest {
        let mut debits = self.legs.clone();
        let mut credits = self.legs.clone();
        debits.retain(|leg| leg.amount_minor > 0);
        credits.retain(|leg| leg.amount_minor < 0);
        let mut transfers = Vec::new();
        for debit in &mut debits {
            for credit in credits.iter_mut().filter(|credit| credit.asset == debit.asset) {
                let amount = debit.amount_minor.min(-credit.amount_minor);
                if amount > 0 {
                    debit.amount_minor -= amount;
                    credit.amount_minor += amount;
                    transfers.push(Transfer {
                        debit_account_id: account_id(&debit.account, &debit.asset),
                        credit_account_id: account_id(&credit.account, &credit.asset),
                        amount: Some(Amount::MinorUnits(amount)),
                        ..Transfer::default()
                    });
                }
            }
        }
        assert!(
            debits.iter().chain(&credits).all(|leg| leg.amount_minor == 0),
            "transaction {} is not balanced",
            self.id
        );
        let transaction_id = format!("standard-{}", self.id);
        ProcessTransactionRequest {
            transaction_id,
            transfers,
            ..ProcessTransactionRequest::default()
        }
    }
}

/// Returns the id of the account for one asset. In the data set, an account has several assets, but in Tally it has
/// only one.
fn account_id(name: &str, asset: &str) -> String {
    format!("{name}/{asset}")
}

#[tokio::test]
async fn each_account_has_the_balance_that_ledger_computed() {
    let Some(file) = data("standard/transactions.jsonl") else {
        return;
    };
    let bookings: Vec<Booking> = read_lines(&file)
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let legs = || bookings.iter().flat_map(|booking| &booking.legs);
    let accounts: BTreeSet<(&str, &str)> = legs()
        .map(|leg| (leg.account.as_str(), leg.asset.as_str()))
        .collect();
    let assets: BTreeSet<&str> = accounts.iter().map(|(_, asset)| *asset).collect();
    // The data set contains additional legs of trading accounts, so that each asset sums to zero. Count only the other
    // legs.
    let original = legs().filter(|leg| !leg.account.starts_with("trading:")).count();
    assert_eq!(
        (bookings.len(), original, assets.len()),
        (1347, 2925, 11),
        "the file is not complete"
    );

    let server = TestServer::start();
    let client = server.client().await;
    let new = accounts.iter().map(|(name, asset)| {
        (
            account_id(name, asset),
            (*asset).to_owned(),
            BalanceRule::Unlimited,
        )
    });
    create_accounts(&client, new).await;
    let requests: Vec<_> = bookings.iter().map(Booking::to_request).collect();
    assert!(
        requests.iter().any(|request| request.transfers.len() >= 7),
        "no transaction has seven transfers"
    );
    let sequences = commit(&client, requests).await;
    assert_eq!(sequences, (1..=1347).collect::<Vec<_>>());

    // Compare with the sums of the legs, too, because `expected_balances.csv` does not contain all accounts.
    let mut sums: BTreeMap<String, i128> = BTreeMap::new();
    for leg in legs() {
        *sums.entry(account_id(&leg.account, &leg.asset)).or_default() += i128::from(leg.amount_minor);
    }
    // Change the sign of the balances, because debits are positive in the data set.
    let found: BTreeMap<String, i128> = all_balances(&client)
        .await
        .into_iter()
        .map(|(id, balance)| (id, -balance))
        .collect();
    assert_eq!(found, sums);
    let expected: Vec<Expected> = read_csv(&file.with_file_name("expected_balances.csv"));
    for row in expected {
        let id = account_id(&row.account, &row.asset);
        assert_eq!(found.get(&id), Some(&row.balance_minor), "{id}");
    }
    for asset in assets {
        let of_asset = found.iter().filter(|(id, _)| id.ends_with(&format!("/{asset}")));
        assert_eq!(
            of_asset.map(|(_, balance)| balance).sum::<i128>(),
            0,
            "{asset} sums to zero"
        );
    }
}
