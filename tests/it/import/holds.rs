//! Tests of `tally import` with holds, reversals and updates of accounts: which rows are not sent, what ends the import, and what a
//! repetition does.

use std::{fs, path::Path, process::Output};

use serde_json::{Value, json};
use tally::{
    client::Client,
    proto::{Account, AccountStatus, BalanceRule},
};

use crate::{
    real_data::balance,
    support::{in_process::account, server::TestServer},
};

/// A server with the accounts `bank`, which is unlimited, and `card` and `shop`, which may not be overdrawn.
async fn card_server() -> (TestServer, Client) {
    let server = TestServer::start();
    let client = server.client().await;
    let limited = |id| Account {
        balance_rule: BalanceRule::CreditBalance.into(),
        ..account(id)
    };
    let accounts = vec![account("bank"), limited("card"), limited("shop")];
    client.batch_create_accounts(accounts).await.unwrap();
    (server, client)
}

fn pay(id: &str, debit: &str, credit: &str, units: u32) -> Value {
    let transfer = json!({ "debitAccountId": debit, "creditAccountId": credit, "minorUnits": units });
    json!({ "transactionId": id, "transfers": [transfer] })
}

fn hold(id: &str, debit: &str, credit: &str, units: u32) -> Value {
    with(
        pay(id, debit, credit, units),
        &[("phase", "TRANSACTION_PHASE_PENDING".into())],
    )
}

fn end(id: &str, phase: &str, hold: &str) -> Value {
    json!({
        "transactionId": id,
        "phase": format!("TRANSACTION_PHASE_{phase}_PENDING"),
        "pendingTransactionId": hold,
    })
}

fn with(mut line: Value, fields: &[(&str, Value)]) -> Value {
    for (field, value) in fields {
        line[*field] = value.clone();
    }
    line
}

fn status(id: &str, status: &str) -> Value {
    let status = format!("ACCOUNT_STATUS_{status}");
    json!({ "account": { "id": id, "status": status }, "updateMask": "status" })
}

fn write(dir: &Path, lines: &[Value]) -> String {
    let file = dir.join("rows.ndjson");
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

fn import(server: &TestServer, file: &str) -> Output {
    server.tally(&["import", file, "--allow-rejected", "-o", "json"])
}

fn report(output: &Output) -> Value {
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {words}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn balances(client: &Client) -> (i128, i128) {
    let balance = async |id| balance(&client.get_account(id).await.unwrap().unwrap());
    (balance("card").await, balance("shop").await)
}

/// The file is the example of docs/import.md.
#[tokio::test]
async fn a_card_payment_is_held_posted_in_parts_voided_and_refunded() {
    let (server, client) = card_server().await;
    let dir = tempfile::tempdir().unwrap();
    let part = pay("", "card", "shop", 250)["transfers"].clone();
    let refund = pay("", "shop", "card", 50)["transfers"].clone();
    let lines = [
        pay("fund", "bank", "card", 1000),
        with(
            hold("auth", "card", "shop", 600),
            &[("pendingTimeout", "604800s".into())],
        ),
        hold("auth-2", "card", "shop", 100),
        with(
            end("capture", "POST", "auth"),
            &[("transfers", part), ("keepRemaining", true.into())],
        ),
        end("capture-2", "POST", "auth"),
        end("release", "VOID", "auth-2"),
        json!({ "transactionId": "refund", "reversesTransactionId": "capture", "transfers": refund }),
        status("card", "DEBITS_FROZEN"),
        pay("late", "card", "shop", 1),
        pay("bonus", "bank", "shop", 1),
    ];
    let file = write(dir.path(), &lines);
    let first = report(&import(&server, &file));
    for (name, count) in [
        ("lines", 10),
        ("transactions", 9),
        ("committed", 8),
        ("rejected", 1),
        ("updates_applied", 1),
    ] {
        assert_eq!(first[name], count, "{name} in {first}");
    }
    assert_eq!(first["rejected_by_reason"]["ACCOUNT_FROZEN"], 1);
    assert_eq!(balances(&client).await, (450, 551));
    let again = report(&import(&server, &file));
    for (name, count) in [("committed", 0), ("replayed", 8), ("updates_skipped", 1)] {
        assert_eq!(again[name], count, "{name} in {again}");
    }
    assert_eq!(again["answered_through"]["line"], 10);
}

/// If the post were sent, it would be rejected with `PENDING_NOT_FOUND` for ever, and the hold could never be posted by this file.
#[tokio::test]
async fn what_names_a_transaction_that_can_still_be_committed_is_not_sent() {
    let (server, client) = card_server().await;
    let dir = tempfile::tempdir().unwrap();
    let lines = [
        pay("fund", "bank", "card", 100),
        hold("h", "card", "new-shop", 30),
        end("post", "POST", "h"),
        json!({ "transactionId": "reversal", "reversesTransactionId": "post" }),
        pay("other", "card", "shop", 1),
    ];
    let file = write(dir.path(), &lines);
    let output = server.tally(&["import", &file, "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let first: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        first["rejected_by_reason"],
        json!({ "ACCOUNT_NOT_FOUND": 1, "NOT_SENT": 2 })
    );
    let words = first["rejected_examples"][1]["message"].as_str().unwrap();
    assert!(
        words.starts_with("names transaction \"h\", whose rejection is not final"),
        "{words}"
    );
    assert_eq!(client.get_transaction("post").await.unwrap(), None);

    client
        .batch_create_accounts(vec![account("new-shop")])
        .await
        .unwrap();
    let second = report(&import(&server, &file));
    assert_eq!(
        (&second["committed"], &second["replayed"], &second["rejected"]),
        (&3.into(), &2.into(), &0.into())
    );
}

#[tokio::test]
async fn an_update_that_the_service_rejects_ends_the_import() {
    let (server, client) = card_server().await;
    let dir = tempfile::tempdir().unwrap();
    for (line, expected) in [
        (
            status("nobody", "FROZEN"),
            "rows.ndjson:2: the update of account \"nobody\" failed, so the rows after it were not imported: ",
        ),
        (
            with(
                status("card", "FROZEN"),
                &[("account", json!({ "id": "card", "status": 2, "etag": "r77" }))],
            ),
            "(ACCOUNT_CHANGED)",
        ),
        (status("bank", "CLOSED"), "(ACCOUNT_NOT_EMPTY)"),
    ] {
        let lines = [
            pay("fund", "bank", "card", 5),
            line,
            pay("next", "card", "shop", 5),
        ];
        let file = write(dir.path(), &lines);
        let output = import(&server, &file);
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(words.contains(expected), "{words}");
        assert!(!words.contains("attempts"), "{words}");
        assert_eq!(client.get_transaction("next").await.unwrap(), None);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["answered_through"]["line"], 1);
    }
}

#[tokio::test]
async fn an_update_is_sent_again_only_if_no_later_transaction_was_committed() {
    let (server, client) = card_server().await;
    let dir = tempfile::tempdir().unwrap();
    let with_etag = json!({
        "account": { "id": "shop", "metadata": { "k": "v" }, "etag": "r0" },
        "updateMask": "metadata",
    });
    let first = [
        pay("fund", "bank", "card", 100),
        status("card", "FROZEN"),
        pay("frozen", "card", "shop", 1),
        status("card", "OPEN"),
        pay("paid", "card", "shop", 100),
        status("card", "CLOSED"),
        pay("closed", "card", "shop", 1),
        with_etag,
    ];
    let shown = async |id| client.get_account(id).await.unwrap().unwrap();
    let counts = |report: &Value| {
        ["committed", "updates_applied", "updates_skipped"].map(|name| report[name].as_u64().unwrap())
    };
    let file = write(dir.path(), &first);
    assert_eq!(counts(&report(&import(&server, &file))), [2, 4, 0]);
    let (card, shop) = (shown("card").await, shown("shop").await);
    assert_eq!(card.status(), AccountStatus::Closed);
    assert_eq!(shop.metadata["k"], "v");

    // The last two updates are sent again, because no later transaction was committed. They change nothing, because the accounts already have
    // their values.
    assert_eq!(counts(&report(&import(&server, &file))), [0, 1, 3]);
    assert_eq!((shown("card").await, shown("shop").await), (card, shop));

    // The same updates are sent again, and change nothing. The row after them is new.
    let last = status("shop", "FROZEN");
    let longer = [&first[..], std::slice::from_ref(&last)].concat();
    let file = write(dir.path(), &longer);
    assert_eq!(counts(&report(&import(&server, &file))), [0, 2, 3]);
    let shop = shown("shop").await;
    let file = write(
        dir.path(),
        &[&longer[..], &[pay("new", "bank", "bank-2", 1)]].concat(),
    );
    client
        .batch_create_accounts(vec![account("bank-2")])
        .await
        .unwrap();
    assert_eq!(counts(&report(&import(&server, &file))), [1, 2, 3]);
    assert_eq!(shown("shop").await, shop);

    // Somebody else has changed the account, so it has another etag and other values.
    let other = json!({
        "account": { "id": "shop", "metadata": { "k": "w" }, "etag": "r0" },
        "updateMask": "metadata",
    });
    let output = import(&server, &write(dir.path(), &[other]));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[tokio::test]
async fn a_line_that_the_service_would_not_accept_ends_the_import_before_its_batch() {
    let (server, client) = card_server().await;
    let dir = tempfile::tempdir().unwrap();
    for (line, expected) in [
        (
            with(
                hold("h", "card", "shop", 5),
                &[("pendingTimeout", "400000000s".into())],
            ),
            "rows.ndjson:2: field pending_timeout: is 400000000 s and 0 ns, must be 1 ms to 3650 days; rows from line 1 on",
        ),
        (
            with(end("p", "POST", "h"), &[("keepRemaining", true.into())]),
            "rows.ndjson:2: field keep_remaining: must be unset without transfers",
        ),
        (
            with(status("card", "OPEN"), &[("updateMask", "balances".into())]),
            "rows.ndjson:2: field update_mask: \"balances\" can't be updated",
        ),
        (
            with(
                pay("t", "card", "shop", 5),
                &[(
                    "transfers",
                    json!([{ "debitAccountId": "card", "creditAccountId": "shop", "minorUnits": 0 }]),
                )],
            ),
            "rows.ndjson:2: field transfers[0].minor_units: is 0, must be 1 to 9223372036854775807",
        ),
    ] {
        let file = write(dir.path(), &[pay("fund", "bank", "card", 5), line]);
        let output = import(&server, &file);
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(65), "{words}");
        assert!(words.contains(expected), "{words}");
    }
    assert_eq!(client.get_transaction("fund").await.unwrap(), None);
}

#[tokio::test]
async fn missing_accounts_of_updates_are_created() {
    let server = TestServer::start();
    let dir = tempfile::tempdir().unwrap();
    let file = write(
        dir.path(),
        &[
            status("a", "FROZEN"),
            pay("t", "b", "a", 1),
            status("b", "FROZEN"),
        ],
    );
    let options = [
        "--create-accounts",
        "--asset",
        "EUR",
        "--allow-rejected",
        "-o",
        "json",
    ];
    let report = report(&server.command(&["import", &file]).args(options).output().unwrap());
    assert_eq!(
        (&report["accounts_created"], &report["updates_applied"]),
        (&2.into(), &2.into())
    );
    assert_eq!(report["rejected_by_reason"]["ACCOUNT_FROZEN"], 1);
}
