//! Sends public data sets to the `tally` binary over a socket, and checks the outcome of each row and the balances.

mod amlsim;
pub(crate) mod berka;
mod standard;
mod statements;

use std::{
    collections::{BTreeMap, HashMap},
    env, fs,
    path::{Path, PathBuf},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::de::DeserializeOwned;
use tally::{
    client::{CREATE_ACCOUNTS_MAX, Client, PAGE_ACCOUNTS_MAX},
    proto::{
        Account, Amount, BalanceRule, ProcessTransactionRequest, ProcessTransactionResponse,
        TransactionResult, amount, transaction_result,
    },
};

/// Maximum number of reads of accounts in flight.
const READS_IN_FLIGHT: usize = 128;

/// Returns the path of a file of a data set; `None` if the file does not exist. With `CI=true`, a missing file fails
/// the test.
pub(crate) fn data(path: &str) -> Option<PathBuf> {
    let root = env::var_os("TALLY_TEST_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
        PathBuf::from,
    );
    let file = root.join(path);
    if file.is_file() {
        return Some(file);
    }
    assert!(
        env::var_os("CI").is_none_or(|ci| ci != "true"),
        "{} is missing; set TALLY_TEST_DATA",
        file.display()
    );
    println!(
        "SKIPPED SKIPPED SKIPPED: {} is missing; set TALLY_TEST_DATA",
        file.display()
    );
    None
}

pub(crate) fn read_csv<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    let rows: Vec<T> = csv::Reader::from_path(path)
        .unwrap()
        .deserialize()
        .map(Result::unwrap)
        .collect();
    assert!(!rows.is_empty(), "{} is empty", path.display());
    rows
}

fn read_lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn units(amount: Option<Amount>) -> i128 {
    match amount.and_then(|amount| amount.value) {
        None => 0,
        Some(amount::Value::MinorUnits(units)) => units.into(),
        Some(amount::Value::WideMinorUnits(wide)) => panic!("{wide:?} in data of 63 bits"),
    }
}

/// Returns the balance of an account in minor units: credits minus debits.
pub(crate) fn balance(account: &Account) -> i128 {
    let balances = account.balances.unwrap_or_default();
    units(balances.credits_posted) - units(balances.debits_posted)
}

/// Reads the balances of accounts, with up to [`READS_IN_FLIGHT`] reads in flight.
async fn balances<'a>(client: &Client, ids: impl IntoIterator<Item = &'a str>) -> HashMap<&'a str, i128> {
    stream::iter(ids)
        .map(|id| async move {
            let account = client.get_account(id).await.unwrap();
            (id, balance(&account.unwrap_or_else(|| panic!("{id} is missing"))))
        })
        .buffer_unordered(READS_IN_FLIGHT)
        .collect()
        .await
}

/// Reads the balances of all accounts, by id.
pub(crate) async fn all_balances(client: &Client) -> BTreeMap<String, i128> {
    let pages = stream::try_unfold(Some(String::new()), |token| async move {
        let Some(token) = token else {
            return Ok::<_, tally::client::CallError>(None);
        };
        let page = client.list_accounts(PAGE_ACCOUNTS_MAX, &token).await?;
        let next = (!page.next_page_token.is_empty()).then_some(page.next_page_token);
        Ok(Some((page.accounts, next)))
    });
    let pages: Vec<Vec<Account>> = pages.try_collect().await.unwrap();
    let count: usize = pages.iter().map(Vec::len).sum();
    let all: BTreeMap<String, i128> = pages
        .into_iter()
        .flatten()
        .map(|account| (account.id.clone(), balance(&account)))
        .collect();
    assert_eq!(all.len(), count, "an account is listed twice");
    all
}

async fn create_accounts(client: &Client, ids: impl IntoIterator<Item = (String, String, BalanceRule)>) {
    let accounts: Vec<Account> = ids
        .into_iter()
        .map(|(id, asset, rule)| Account {
            id,
            asset,
            balance_rule: rule.into(),
            ..Account::default()
        })
        .collect();
    for accounts in accounts.chunks(CREATE_ACCOUNTS_MAX) {
        client.batch_create_accounts(accounts.to_vec()).await.unwrap();
    }
}

pub(crate) fn committed(result: &TransactionResult) -> &ProcessTransactionResponse {
    match &result.outcome {
        Some(transaction_result::Outcome::Committed(committed)) => committed,
        other => panic!("{}: {other:?}", result.transaction_id),
    }
}

/// Sends new transactions, checks that all are committed, and returns their sequence numbers.
async fn commit(client: &Client, transactions: Vec<ProcessTransactionRequest>) -> Vec<i64> {
    let results = client.process_transactions(transactions).await.unwrap();
    let sequence = |result| {
        let committed = committed(result);
        assert!(!committed.replayed, "{}", result.transaction_id);
        committed.sequence
    };
    results.iter().map(sequence).collect()
}
