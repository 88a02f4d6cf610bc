//! Tests of an orderly shutdown: every accepted call gets an answer.

use tally::proto::{StreamTransactionsRequest, transaction_result::Outcome};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::Code;

use super::{expected, summary};
use crate::support::in_process::{Service, config, patient_config, pay};

#[tokio::test]
async fn calls_in_flight_are_answered_and_durable() {
    const CALLS: usize = 100;
    let service = Service::start(&patient_config()).await;
    service.open_accounts(&["a", "b"]).await;
    service.disk.stall_syncs();
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..CALLS {
        let mut client = service.transactions().await;
        calls.spawn(async move { client.process_transaction(pay(&format!("t{number}"))).await });
    }
    // Wait until all calls were accepted: they are in the queue, in a block, or in a write to the disk.
    while service
        .engine
        .breaker(tally::engine::CallKind::Unary)
        .stats()
        .in_flight
        < CALLS as u64
    {
        tokio::task::yield_now().await;
    }
    service.begin_drain();
    service.disk.release_syncs();
    let mut sequences: Vec<i64> = Vec::new();
    while let Some(call) = calls.join_next().await {
        sequences.push(call.unwrap().unwrap().into_inner().sequence);
    }
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=CALLS as i64).collect::<Vec<_>>());
    let disk = service.stop().await;

    let service = Service::start_on(disk, &config()).await;
    assert_eq!(service.engine.stats().ledger.last_sequence, CALLS as u64);
}

#[tokio::test]
async fn a_drain_ends_a_stream_with_a_reason_after_its_answers() {
    let service = Service::start(&config()).await;
    service.open_accounts(&["a", "b"]).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let mut client = service.transactions().await;
    let mut answers = client
        .stream_transactions(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    for number in 0..3 {
        let transaction = Some(pay(&format!("s{number}")));
        sender
            .send(StreamTransactionsRequest { transaction })
            .await
            .unwrap();
        let result = answers.next().await.unwrap().unwrap().result.unwrap();
        assert!(matches!(result.outcome, Some(Outcome::Committed(_))));
    }
    service.begin_drain();
    let status = answers.next().await.unwrap().unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::Unavailable, "SHUTTING_DOWN", "false")
    );
    service.stop().await;
}

#[tokio::test]
async fn after_the_drain_the_engine_rejects_calls_with_a_reason() {
    let service = Service::start(&config()).await;
    let engine = service.engine.clone();
    service.stop().await;
    let error = engine.account("a".to_owned(), None).await.unwrap_err();
    let status = tally::grpc::status::engine(&error);
    assert_eq!(
        summary(&status),
        expected(Code::Unavailable, "SHUTTING_DOWN", "false")
    );
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "1000");
}
