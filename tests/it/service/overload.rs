//! Tests of a full queue and of rejected messages in a stream.

use std::time::Duration;

use tally::{
    engine::{CallKind, EngineConfig},
    proto::{StreamTransactionsRequest, transaction_result::Outcome},
};
use tally_breaker::BreakerMode;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{expected, summary};
use crate::support::in_process::{Service, config, patient, pay, short_queue};

/// Returns the retry delay of an error. Checks that the details of the error and the header `grpc-retry-pushback-ms`
/// contain the same positive delay.
pub(super) fn retry_delay(status: &Status) -> Duration {
    let retry = status
        .get_details_retry_info()
        .expect("the error has a RetryInfo")
        .retry_delay
        .expect("the RetryInfo has a delay");
    let pushback = status
        .metadata()
        .get("grpc-retry-pushback-ms")
        .expect("the error has the header grpc-retry-pushback-ms")
        .to_str()
        .unwrap();
    let pushback: i32 = pushback.parse().unwrap();
    assert!(pushback >= 1);
    assert_eq!(retry.as_millis().max(1), u128::try_from(pushback).unwrap());
    retry
}

pub(super) fn circuit(service: &Service) -> tally_breaker::CircuitBreakerStats {
    service.engine.breaker(CallKind::Unary).stats()
}

#[tokio::test]
async fn a_full_queue_rejects_with_a_retry_delay_and_affects_no_other_call() {
    let config = EngineConfig {
        breaker: patient(),
        batch: short_queue(),
        ..config()
    };
    let service = Service::start(&config).await;
    service.open_accounts(&["a", "b"]).await;
    service.disk.stall_syncs();
    let mut calls = tokio::task::JoinSet::new();
    let mut number = 0;
    // The second call has the same id as the first, so EXEC waits for the disk before it can answer. After that, the
    // queue fills.
    let status = loop {
        let id = if number < 2 {
            "first".to_owned()
        } else {
            format!("q{number}")
        };
        number += 1;
        let mut client = service.transactions().await;
        calls.spawn(async move { client.process_transaction(pay(&id)).await });
        if service.engine.stats().batch.full > 0 {
            // The rejected call is answered at once.
            let rejected = calls.join_next().await.unwrap().unwrap();
            break rejected.unwrap_err();
        }
        if number == 1 {
            let disk = service.disk.clone();
            tokio::task::spawn_blocking(move || disk.wait_for_stalled_sync())
                .await
                .unwrap();
        }
    };
    assert_eq!(
        summary(&status),
        expected(Code::ResourceExhausted, "QUEUE_FULL", "false")
    );
    assert!(retry_delay(&status) >= Duration::from_millis(1));
    service.disk.release_syncs();
    while let Some(call) = calls.join_next().await {
        match call.unwrap() {
            Ok(_) => {}
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
        }
    }
    assert_eq!(circuit(&service).lifetime.opens, 0);
}

#[tokio::test]
async fn a_stream_has_no_gaps_after_a_transaction_that_was_not_admitted() {
    let service = Service::start(&config()).await;
    service.open_accounts(&["a", "b"]).await;
    let circuit = service.engine.breaker(CallKind::Stream);
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let mut client = service.transactions().await;
    let mut answers = client
        .stream_transactions(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let mut codes = Vec::new();
    for (id, mode) in [
        ("s0", BreakerMode::Auto),
        ("s1", BreakerMode::ForcedOpen),
        ("s2", BreakerMode::Auto),
    ] {
        circuit.set_mode(mode);
        sender
            .send(StreamTransactionsRequest {
                transaction: Some(pay(id)),
            })
            .await
            .unwrap();
        let result = answers.next().await.unwrap().unwrap().result.unwrap();
        codes.push(match result.outcome.unwrap() {
            Outcome::Committed(_) => Code::Ok,
            Outcome::Error(error) => Code::from(error.code),
        });
    }
    assert_eq!(codes, [Code::Ok, Code::Unavailable, Code::Unavailable]);
    // The client continues in a new stream with the first rejected transaction.
    let again = ["s1", "s2"].map(|id| StreamTransactionsRequest {
        transaction: Some(pay(id)),
    });
    let mut answers = client
        .stream_transactions(tokio_stream::iter(again))
        .await
        .unwrap()
        .into_inner();
    for sequence in [2, 3] {
        let result = answers.next().await.unwrap().unwrap().result.unwrap();
        assert!(
            matches!(result.outcome, Some(Outcome::Committed(committed)) if committed.sequence == sequence)
        );
    }
}
