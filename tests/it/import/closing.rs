//! Tests of files that end with updates of an account, the last of which closes it.

use std::{fs, path::Path, process::Output};

use serde_json::Value;
use tally::{client::Client, proto::Account};

use crate::support::server::TestServer;

const ACCOUNTS: &str = r#"{"account": {"id": "bank", "asset": "EUR"}}
{"account": {"id": "purse", "asset": "EUR", "balance_rule": "BALANCE_RULE_CREDIT_BALANCE", "overdraft_limit": {"minor_units": "5"}}}
{"account": {"id": "shop", "asset": "EUR"}}
"#;
const TRANSACTION: &str = r#"{"transaction_id": "t1", "transfers": [{"debit_account_id": "bank", "credit_account_id": "shop", "minor_units": "1"}]}
"#;
const UPDATES: &str = r#"{"account": {"id": "purse", "status": "ACCOUNT_STATUS_FROZEN", "metadata": {"why": "dispute"}}, "update_mask": "status,metadata"}
{"account": {"id": "shop", "status": "ACCOUNT_STATUS_FROZEN"}, "update_mask": "status"}
{"account": {"id": "purse", "overdraft_limit": {"minor_units": "7"}}, "update_mask": "overdraftLimit"}
{"account": {"id": "shop", "status": "ACCOUNT_STATUS_OPEN"}, "update_mask": "status"}
{"account": {"id": "purse", "status": "ACCOUNT_STATUS_CLOSED", "overdraft_limit": {"minor_units": "0"}, "metadata": {"why": "ended"}}, "update_mask": "status,overdraftLimit,metadata"}
"#;

fn import(server: &TestServer, dir: &Path, text: &str) -> Output {
    let file = dir.join("a.ndjson");
    fs::write(&file, text).unwrap();
    let mut command = server.command(&["import", file.to_str().unwrap(), "-o", "json"]);
    command.output().unwrap()
}

fn report(output: &Output) -> Value {
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn purse(client: &Client) -> Account {
    client.get_account("purse").await.unwrap().unwrap()
}

#[tokio::test]
async fn a_file_that_ends_with_updates_of_an_account_that_it_closes_can_be_imported_again() {
    let (server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let client = server.client().await;
    let file = [ACCOUNTS, TRANSACTION, UPDATES].concat();
    let first = report(&import(&server, dir.path(), &file));
    assert_eq!(
        (&first["updates_applied"], &first["updates_skipped"]),
        (&5.into(), &0.into())
    );
    let closed = purse(&client).await;
    for _ in 0..2 {
        let again = report(&import(&server, dir.path(), &file));
        assert_eq!(
            (
                &again["replayed"],
                &again["updates_applied"],
                &again["updates_skipped"]
            ),
            (&1.into(), &3.into(), &2.into())
        );
        assert_eq!(purse(&client).await, closed);
    }
}

#[tokio::test]
async fn an_update_of_a_closed_account_ends_the_import_if_the_file_does_not_explain_it() {
    let (server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let client = server.client().await;
    report(&import(&server, dir.path(), &[ACCOUNTS, UPDATES].concat()));
    let closed = purse(&client).await;
    let frozen = UPDATES.lines().next().unwrap();
    let closing = UPDATES.lines().last().unwrap();
    let other = closing.replace("ended", "fraud");
    for text in [
        // No later line closes the account.
        format!("{frozen}\n"),
        // A line closes the account after a transaction. The transaction must not be sent.
        format!("{frozen}\n{TRANSACTION}{closing}\n"),
        // A line closes the account with another overdraft limit than the account has.
        format!("{frozen}\n{}\n", other.replace("\"0\"", "\"9\"")),
    ] {
        let output = import(&server, dir.path(), &text);
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}: {words}");
        let at_first = "a.ndjson:1: the update of account \"purse\" failed";
        assert!(
            words.contains(at_first) || text.contains("\"9\"") && words.contains("a.ndjson:2: the update"),
            "{text}: {words}"
        );
        assert!(words.contains("is closed"), "{words}");
        assert_eq!(purse(&client).await, closed);
        assert!(client.get_transaction("t1").await.unwrap().is_none());
    }
}
