//! A full queue gives a retry delay, and a stream has no gaps.

use std::time::Duration;

use tally::{
    engine::{CallKind, EngineConfig},
    proto::{StreamTransactionsRequest, transaction_result::Outcome},
};
use tally_breaker::BreakerMode;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{described, expected};
use crate::support::in_process::{Service, config, patient, pay, short_queue};

/// Returns the retry delay. Checks that the delay is present in both forms, is positive, and is the same in both.
pub(super) fn hint(status: &Status) -> Duration {
    let retry = status
        .get_details_retry_info()
        .expect("RetryInfo")
        .retry_delay
        .expect("a delay");
    let pushback = status
        .metadata()
        .get("grpc-retry-pushback-ms")
        .expect("pushback")
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
    // A repeated id makes EXEC wait for the disk. Then the queue fills.
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
            let refused = calls.join_next().await.unwrap().unwrap();
            break refused.unwrap_err();
        }
        if number == 1 {
            let disk = service.disk.clone();
            tokio::task::spawn_blocking(move || disk.wait_for_stalled_sync())
                .await
                .unwrap();
        }
    };
    assert_eq!(
        described(&status),
        expected(Code::ResourceExhausted, "QUEUE_FULL", "false")
    );
    assert!(hint(&status) >= Duration::from_millis(1));
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
    // A new stream continues from the first refused transaction.
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
