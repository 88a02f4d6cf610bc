//! The AMLSim data set: 20,000 wallets whose balances must not become negative, and 118,250 transfers in a fixed order.
//! The ledger must reject most of the transfers.

use std::collections::{BTreeMap, HashSet};

use prost::Message;
use serde::Deserialize;
use tally::proto::{
    BalanceRule, ProcessTransactionRequest, TransactionResult, Transfer, transaction_result, transfer::Amount,
};

use super::{all_balances, balances, commit, create_accounts, data, read_csv};
use crate::support::server::TestServer;

const ISSUER: &str = "issuer";
const ASSET: &str = "USD";
/// Number of transactions in one call that funds wallets.
const FUNDING_BATCH: usize = 5000;

#[derive(Debug, Deserialize)]
struct Wallet {
    nodeid: String,
    init_balance: String,
}

/// A transfer, its expected outcome, and the balances of both accounts after the transfer, in minor units.
#[derive(Debug, Deserialize)]
struct Decision {
    i: u64,
    source: String,
    target: String,
    amount_minor: i64,
    decision: String,
    source_balance_after: i128,
    target_balance_after: i128,
}

#[derive(Debug, Deserialize)]
struct Expected {
    account: String,
    balance_minor: i128,
}

// ===== impl Decision =====

impl Decision {
    fn to_request(&self) -> ProcessTransactionRequest {
        payment(
            format!("amlsim-{}", self.i),
            &self.source,
            &self.target,
            self.amount_minor,
        )
    }
}

fn payment(transaction_id: String, debit: &str, credit: &str, amount: i64) -> ProcessTransactionRequest {
    let transfer = Transfer {
        debit_account_id: debit.to_owned(),
        credit_account_id: credit.to_owned(),
        amount: Some(Amount::MinorUnits(amount)),
        ..Transfer::default()
    };
    ProcessTransactionRequest {
        transaction_id,
        transfers: vec![transfer],
        ..ProcessTransactionRequest::default()
    }
}

/// Converts an amount such as `184.44` to 18444 cents.
fn cents(text: &str) -> i64 {
    let (whole, cents) = text.split_once('.').unwrap_or((text, "00"));
    assert_eq!(cents.len(), 2, "{text}");
    format!("{whole}{cents}").parse().unwrap()
}

/// Returns `OK` for a committed transaction, or the reason of the rejection.
fn decision_of(result: &TransactionResult) -> String {
    match &result.outcome {
        Some(transaction_result::Outcome::Committed(_)) => "OK".to_owned(),
        Some(transaction_result::Outcome::Error(status)) => {
            let info = status
                .details
                .iter()
                .find(|detail| detail.type_url.ends_with("google.rpc.ErrorInfo"));
            let info = info.unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
            tonic_types::pb::ErrorInfo::decode(info.value.as_slice())
                .unwrap()
                .reason
        }
        None => panic!("no outcome of {}", result.transaction_id),
    }
}

/// Splits the rows into batches in which each account occurs only once. So the balances of an account after its row and
/// after the whole batch are equal.
fn batches(rows: &[Decision]) -> Vec<&[Decision]> {
    let mut batches = Vec::new();
    let mut seen = HashSet::new();
    let mut start = 0;
    for (place, row) in rows.iter().enumerate() {
        if seen.contains(&row.source) || seen.contains(&row.target) {
            batches.push(&rows[start..place]);
            start = place;
            seen.clear();
        }
        seen.extend([&row.source, &row.target]);
    }
    batches.push(&rows[start..]);
    batches
}

#[tokio::test]
async fn every_transfer_has_the_expected_outcome_and_balances() {
    let Some(file) = data("amlsim/decisions.csv") else {
        return;
    };
    let rows: Vec<Decision> = read_csv(&file);
    let wallets: Vec<Wallet> = read_csv(&file.with_file_name("accounts.csv"));
    let server = TestServer::start();
    let client = server.client().await;

    let new = wallets.iter().map(|wallet| {
        (
            wallet.nodeid.clone(),
            ASSET.to_owned(),
            BalanceRule::CreditBalance,
        )
    });
    create_accounts(
        &client,
        new.chain([(ISSUER.to_owned(), ASSET.to_owned(), BalanceRule::Unlimited)]),
    )
    .await;
    for wallets in wallets.chunks(FUNDING_BATCH) {
        let fund = |wallet: &Wallet| {
            payment(
                format!("fund-{}", wallet.nodeid),
                ISSUER,
                &wallet.nodeid,
                cents(&wallet.init_balance),
            )
        };
        commit(&client, wallets.iter().map(fund).collect()).await;
    }

    let mut decisions: BTreeMap<String, usize> = BTreeMap::new();
    for batch in batches(&rows) {
        let requests = batch.iter().map(Decision::to_request).collect();
        let results = client.process_transactions(requests).await.unwrap();
        let touched: HashSet<&str> = batch
            .iter()
            .flat_map(|row| [row.source.as_str(), row.target.as_str()])
            .collect();
        let found = balances(&client, touched).await;
        for (row, result) in batch.iter().zip(&results) {
            let decision = decision_of(result);
            assert_eq!(decision, row.decision, "{row:?}");
            assert_eq!(found[row.source.as_str()], row.source_balance_after, "{row:?}");
            assert_eq!(found[row.target.as_str()], row.target_balance_after, "{row:?}");
            *decisions.entry(decision).or_default() += 1;
        }
    }
    let counts: Vec<(&str, usize)> = decisions
        .iter()
        .map(|(name, count)| (name.as_str(), *count))
        .collect();
    assert_eq!(
        counts,
        [
            ("INSUFFICIENT_FUNDS", 73_004),
            ("OK", 45_232),
            ("SAME_ACCOUNT", 14)
        ]
    );

    let mut all = all_balances(&client).await;
    assert_eq!(all.values().sum::<i128>(), 0, "all accounts sum to zero");
    all.remove(ISSUER);
    let expected: Vec<Expected> = read_csv(&file.with_file_name("expected_balances.csv"));
    let expected: BTreeMap<String, i128> = expected
        .into_iter()
        .map(|row| (row.account, row.balance_minor))
        .collect();
    assert!(all == expected, "final balances differ");
    let last = client.batch_stats().await.unwrap().ledger.unwrap().last_sequence;
    assert_eq!(
        usize::try_from(last).unwrap(),
        wallets.len() + decisions["OK"],
        "a rejected transaction used a sequence number"
    );
}
