//! Tests that a full disk refuses writes before anything is written, that reads go on, and that the service executes
//! writes again when there is space.

use std::time::Duration;

use tally::{
    engine::Condition,
    proto::{
        CreateAccountRequest, GetAccountRequest, GetTransactionRequest, ProcessTransactionRequest,
        ProcessTransactionsRequest,
    },
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{expected, summary};
use crate::support::in_process::{Service, account, patient_config, pay, transaction, transfer};

/// Maximum number of calls until the first two segments are full: more than 16 MiB.
const CALLS_MAX: usize = 40;
/// Number of transactions in a call.
const BATCH: usize = 600;
/// Interval of attempts after the disk has space.
const POLL: Duration = Duration::from_millis(20);
/// Maximum number of attempts after the disk has space: a minute.
const POLLS_MAX: usize = 3000;

/// Makes transactions with about 1 KiB each.
fn large(call: usize) -> Vec<ProcessTransactionRequest> {
    let make = |place| {
        let mut transaction = transaction(&format!("t{call}:{place}"), vec![transfer("a", "b", 1)]);
        transaction.metadata.insert("text".to_owned(), "x".repeat(1000));
        transaction
    };
    (0..BATCH).map(make).collect()
}

/// Sends transactions until the disk is full. Returns the error, and the transactions of the last two calls: the last one
/// that was executed, and the one that failed.
async fn fill(service: &Service, from: usize) -> (Status, [Vec<ProcessTransactionRequest>; 2]) {
    let mut client = service.transactions().await;
    for call in from..from + CALLS_MAX {
        let transactions = large(call);
        let request = ProcessTransactionsRequest { transactions };
        if let Err(status) = client.process_transactions(request).await {
            return (status, [large(call - 1), large(call)]);
        }
    }
    panic!("the disk does not become full");
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_space() {
    let service = Service::start(&patient_config()).await;
    service.open_accounts(&["a", "b"]).await;
    let mut client = service.transactions().await;
    client.process_transaction(pay("first")).await.unwrap();
    service.disk.set_free_bytes(100);

    let (status, [executed, refused]) = fill(&service, 1).await;
    let (code, reason, _) = summary(&status);
    assert_eq!(
        (code, reason.as_str()),
        (Code::ResourceExhausted, "DISK_FULL"),
        "{status:?}"
    );
    assert!(service.engine.disk_is_full());
    assert!(status.get_details_retry_info().is_some());
    // Nothing of a later call is executed, and its error says so.
    let status = client.process_transaction(pay("second")).await.unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::ResourceExhausted, "DISK_FULL", "false")
    );
    let mut accounts = service.accounts().await;
    let create = |id: &str| CreateAccountRequest {
        account: Some(account(id)),
    };
    let status = accounts.create_account(create("c")).await.unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::ResourceExhausted, "DISK_FULL", "false")
    );

    // What exists is found, and a repetition gets its outcome.
    accounts.create_account(create("a")).await.unwrap();
    let account_id = "a".to_owned();
    accounts
        .get_account(GetAccountRequest { account_id })
        .await
        .unwrap();
    let again = client
        .process_transaction(pay("first"))
        .await
        .unwrap()
        .into_inner();
    assert!(again.replayed);
    let transaction_id = executed[BATCH - 1].transaction_id.clone();
    client
        .get_transaction(GetTransactionRequest { transaction_id })
        .await
        .unwrap();
    let find = |transaction_id: &str| GetTransactionRequest {
        transaction_id: transaction_id.to_owned(),
    };
    let status = client.get_transaction(find("second")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(service.engine.health().condition(), Condition::Running);
    assert_eq!(service.engine.stats().unknown_outcomes, 0);

    // Nothing is lost in a crash, and the service starts on the full disk.
    let committed = service.engine.stats().ledger.last_sequence;
    let disk = service.stop().await;
    disk.crash();
    disk.restart();
    disk.set_free_bytes(100);
    let service = Service::start_on(disk, &patient_config()).await;
    assert_eq!(service.engine.stats().ledger.last_sequence, committed);
    let mut client = service.transactions().await;
    let status = client.process_transaction(pay("second")).await.unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::ResourceExhausted, "DISK_FULL", "false")
    );
    client.get_transaction(find("first")).await.unwrap();

    service.disk.clear_faults();
    let transactions = refused;
    for _ in 0..POLLS_MAX {
        let request = ProcessTransactionsRequest {
            transactions: transactions.clone(),
        };
        match client.process_transactions(request).await {
            Ok(answer) => {
                assert_eq!(answer.into_inner().results.len(), BATCH);
                assert!(!service.engine.disk_is_full());
                return;
            }
            Err(status) => assert_eq!(summary(&status).1, "DISK_FULL"),
        }
        tokio::time::sleep(POLL).await;
    }
    panic!("the service does not look for space");
}
