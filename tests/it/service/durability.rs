//! Tests that answers to transactions and to reads wait until their data is durable, and that nothing is executed after
//! the disk has failed.

use std::path::Path;

use futures_util::FutureExt;
use tally::{
    engine::Condition,
    proto::{GetAccountRequest, GetBatchStatsRequest, GetTransactionRequest},
};
use tonic::Code;

use super::{expected, summary};
use crate::support::in_process::{Service, patient_config, pay};

#[tokio::test]
async fn transactions_and_reads_are_answered_only_when_their_data_is_durable() {
    let service = Service::start(&patient_config()).await;
    service.open_accounts(&["a", "b"]).await;
    service.disk.stall_syncs();
    let mut client = service.transactions().await;
    let mut payment = tokio::spawn(async move { client.process_transaction(pay("t1")).await });
    let disk = service.disk.clone();
    tokio::task::spawn_blocking(move || disk.wait_for_stalled_sync())
        .await
        .unwrap();

    // A read must not return data that a crash could remove, so the read waits for the disk, too.
    let mut accounts = service.accounts().await;
    let mut reading = tokio::spawn(async move {
        accounts
            .get_account(GetAccountRequest {
                account_id: "a".into(),
                ..GetAccountRequest::default()
            })
            .await
    });
    // Statistics never wait for the disk.
    let mut stats = service.stats().await;
    for _ in 0..20 {
        stats.get_batch_stats(GetBatchStatsRequest {}).await.unwrap();
        assert!(
            (&mut payment).now_or_never().is_none(),
            "the transaction was answered before the sync"
        );
        assert!(
            (&mut reading).now_or_never().is_none(),
            "the read was answered before the sync"
        );
    }
    service.disk.release_syncs();
    assert_eq!(payment.await.unwrap().unwrap().into_inner().sequence, 1);
    let account = reading.await.unwrap().unwrap().into_inner().account.unwrap();
    assert!(account.balances.is_some());
}

#[tokio::test]
async fn a_failed_sync_leaves_the_outcome_unknown_and_nothing_is_executed_after_it() {
    let service = Service::start(&patient_config()).await;
    service.open_accounts(&["a", "b"]).await;
    let mut client = service.transactions().await;
    client.process_transaction(pay("kept")).await.unwrap();
    service
        .disk
        .fail_syncs_of(Path::new("/data/journal/0000000000.segment"));

    let status = client.process_transaction(pay("doubtful")).await.unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::Unavailable, "STORE_FAILED", "unknown")
    );
    let status = client.process_transaction(pay("later")).await.unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::Unavailable, "STORE_FAILED", "false")
    );
    // The state in memory shows changes that are not on the disk, so reads are rejected, too.
    let reading = service
        .accounts()
        .await
        .get_account(GetAccountRequest {
            account_id: "a".into(),
            ..GetAccountRequest::default()
        })
        .await;
    assert_eq!(
        summary(&reading.unwrap_err()),
        expected(Code::Unavailable, "STORE_FAILED", "false")
    );
    assert_eq!(service.engine.health().condition(), Condition::StoreFailed);
    assert_eq!(service.engine.stats().unknown_outcomes, 1);

    let disk = service.stop().await;
    disk.crash();
    disk.restart();
    let service = Service::start_on(disk, &patient_config()).await;
    let mut client = service.transactions().await;
    let find = |id: &str| GetTransactionRequest {
        transaction_id: id.to_owned(),
        ..GetTransactionRequest::default()
    };
    client.get_transaction(find("kept")).await.unwrap();
    assert_eq!(
        client.get_transaction(find("later")).await.unwrap_err().code(),
        Code::NotFound
    );
    // A repetition with the same id resolves the unknown outcome: the transaction is applied once, whether or not the
    // first attempt became durable.
    let settled = client
        .process_transaction(pay("doubtful"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(settled.sequence, 2);
}

#[tokio::test]
async fn after_a_crash_every_answered_transaction_exists_and_sequence_numbers_continue() {
    let service = Service::start(&patient_config()).await;
    service.open_accounts(&["a", "b"]).await;
    let mut client = service.transactions().await;
    let mut last = None;
    for number in 1..=20 {
        last = client
            .process_transaction(pay(&format!("t{number}")))
            .await
            .unwrap()
            .into_inner()
            .commit_time;
    }
    // Simulate a power failure without an orderly shutdown.
    let disk = service.disk.clone();
    disk.crash();
    let _dead = service.stop().await;
    disk.restart();

    let service = Service::start_on(disk, &patient_config()).await;
    let mut client = service.transactions().await;
    for number in 1..=20 {
        let again = client
            .process_transaction(pay(&format!("t{number}")))
            .await
            .unwrap()
            .into_inner();
        assert_eq!((again.sequence, again.replayed), (number, true));
    }
    let next = client.process_transaction(pay("t21")).await.unwrap().into_inner();
    assert_eq!(next.sequence, 21);
    let (next, last) = (next.commit_time.unwrap(), last.unwrap());
    assert!((next.seconds, next.nanos) > (last.seconds, last.nanos));
}
