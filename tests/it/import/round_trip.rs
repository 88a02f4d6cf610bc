//! Tests that `tally import` reads what `tally export` writes, and that all accounts then have the same balances.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use serde_json::Value;
use tally::{
    client::Client,
    proto::{Account, HoldState, ProcessTransactionRequest, TransactionPhase},
};

use super::generated::{Histories, LINES, accounts};
use crate::support::{
    in_process::{account, transaction, transfer},
    server::{BINARY, ServerOptions, TestServer},
};

/// Maximum number of transactions that are committed until the deadline of a hold has passed.
const TRANSACTIONS_MAX: usize = 10_000;

fn export(arguments: &[&str]) {
    let done = Command::new(BINARY)
        .arg("export")
        .args(arguments)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn import(server: &TestServer, file: &Path) -> Value {
    let mut command = server.command(&["import", file.to_str().unwrap(), "-o", "json"]);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// Lets a hold with a timeout expire.
async fn expire_a_hold(client: &Client) {
    let (debit, credit) = ("expiry/debit", "expiry/credit");
    let created = vec![account(debit), account(credit)];
    client.batch_create_accounts(created).await.unwrap();
    let pay = |id: &str, units| transaction(id, vec![transfer(debit, credit, units)]);
    let hold = ProcessTransactionRequest {
        phase: TransactionPhase::Pending.into(),
        pending_timeout: Some(prost_types::Duration {
            seconds: 0,
            nanos: 1_000_000,
        }),
        ..pay("expiry/hold", 50)
    };
    client.process_transaction(hold).await.unwrap();
    // Ids that an import could choose for the void that stands for the expiry.
    for ending in [
        "expired",
        "expired:1",
        "expired:2",
        "expired@",
        "expired@1764504000.000000000",
    ] {
        client
            .process_transaction(pay(&format!("expiry/hold:{ending}"), 1))
            .await
            .unwrap();
    }
    // Metadata can contain every character.
    let controls: String = (0..=0x20).chain([0x7f]).map(char::from).collect();
    let unusual = ProcessTransactionRequest {
        metadata: [(controls.clone(), controls)].into(),
        ..pay("expiry/controls", 1)
    };
    client.process_transaction(unusual).await.unwrap();
    for number in 0..TRANSACTIONS_MAX {
        let pay = pay(&format!("expiry/{number}"), 1);
        client.process_transaction(pay).await.unwrap();
        let hold = client.get_transaction("expiry/hold").await.unwrap().unwrap();
        if hold.hold_state() == HoldState::Expired {
            return;
        }
    }
    panic!("the hold has not expired");
}

/// Returns the accounts without the fields that differ between ledgers, such as the creation time.
async fn comparable(client: &Client) -> BTreeMap<String, Account> {
    let all = accounts(client).await.into_iter();
    let account = |(id, account): (String, Account)| {
        let account = Account {
            create_time: None,
            etag: String::new(),
            ..account
        };
        (id, account)
    };
    all.map(account).collect()
}

#[tokio::test]
async fn an_export_imports_to_the_same_balances() {
    let mut all = Histories::new();
    all.histories.iter_mut().for_each(|history| history.extend(LINES));
    all.write(all.total());
    let mut source = ServerOptions::default()
        .env("TALLY__STORE__SEGMENT_BYTES", "8MiB")
        .env("TALLY__STORE__BLOCK_BYTES_MAX", "2MiB")
        .start();
    let client = source.client().await;
    all.create_accounts(&client).await;
    expire_a_hold(&client).await;
    let _ = all.import(&source.endpoint(), 100);
    let expected = comparable(&client).await;
    let sequence = client.batch_stats().await.unwrap().ledger.unwrap().last_sequence;

    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let endpoint = source.endpoint();
    for name in ["service.ndjson", "service.csv"] {
        export(&["--endpoint", &endpoint, "--output", &path(name)]);
    }
    source.terminate();
    assert_eq!(source.wait().code(), Some(0));
    let data = source.data().to_str().unwrap();
    for name in ["directory.ndjson", "directory.csv"] {
        export(&["--data", data, "--output", &path(name)]);
    }
    let read = |name: &str| fs::read(path(name)).unwrap();
    assert!(
        read("service.csv") == read("directory.csv"),
        "both sources have the same rows"
    );

    // Exports the directory in three ranges, which together are the whole ledger.
    let (first, second) = ((sequence / 3).to_string(), (sequence / 2).to_string());
    export(&["--data", data, "--to", &first, "--output", &path("1.ndjson")]);
    let middle = [
        "--data",
        data,
        "--from",
        &first,
        "--to",
        &second,
        "--output",
        &path("2.ndjson"),
    ];
    export(&middle);
    export(&["--data", data, "--from", &second, "--output", &path("3.ndjson")]);
    let parts = [read("1.ndjson"), read("2.ndjson"), read("3.ndjson")].concat();
    assert!(parts == read("directory.ndjson"), "the ranges are not the whole");

    for name in ["service.ndjson", "directory.ndjson"] {
        let target = TestServer::start();
        let client = target.client().await;
        let file = home.path().join(name);
        let summary = import(&target, &file);
        assert_eq!(summary["committed"], sequence, "{name}");
        assert_eq!(comparable(&client).await, expected, "{name}");
        // A repetition changes nothing.
        let summary = import(&target, &file);
        assert_eq!(
            (&summary["committed"], &summary["replayed"]),
            (&0.into(), &sequence.into()),
            "{name}"
        );
        assert_eq!(comparable(&client).await, expected, "{name}");
    }
}
