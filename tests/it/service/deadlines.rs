//! Deadlines and callers that leave: the answer says whether the call was not executed or may have been executed.

use std::time::Duration;

use tally::{
    engine::EngineConfig,
    proto::{
        GetBatchStatsRequest, GetTransactionRequest, ProcessTransactionRequest, ProcessTransactionResponse,
    },
};
use tokio::task::JoinHandle;
use tonic::{Code, IntoRequest, Request, Response, Status};

use super::{described, expected};
use crate::support::in_process::{Service, config, patient_config, pay};

/// A deadline that is long enough for the call to reach the server, and short enough for the test to wait.
const DEADLINE: Duration = Duration::from_millis(200);

pub(super) type Call = JoinHandle<Result<Response<ProcessTransactionResponse>, Status>>;

async fn call(service: &Service, request: impl IntoRequest<ProcessTransactionRequest>) -> Call {
    let mut client = service.patient_transactions().await;
    let request = request.into_request();
    tokio::spawn(async move { client.process_transaction(request).await })
}

/// A request with `grpc-timeout` on the wire, but without the client's own timer, which would hide the server's answer.
pub(super) fn in_time(id: &str, timeout: Duration) -> Request<ProcessTransactionRequest> {
    with_timeout(id, &format!("{}m", timeout.as_millis()))
}

/// Like [`in_time`], with the text of the header.
pub(super) fn with_timeout(id: &str, header: &str) -> Request<ProcessTransactionRequest> {
    let mut request = Request::new(pay(id));
    request
        .metadata_mut()
        .insert("grpc-timeout", header.parse().unwrap());
    request
}

/// Starts a service whose disk hangs, and whose EXEC waits for the disk: the write of the first transaction hangs, and the second
/// transaction has the same id, so that EXEC can answer it only after that write. Later requests stay in the queue.
async fn stuck() -> (Service, Vec<Call>) {
    stuck_with(&patient_config()).await
}

/// Like [`stuck`], with another configuration.
pub(super) async fn stuck_with(config: &EngineConfig) -> (Service, Vec<Call>) {
    let service = Service::start(config).await;
    service.open_accounts(&["a", "b"]).await;
    service.disk.stall_syncs();
    let mut calls = vec![call(&service, pay("first")).await];
    let disk = service.disk.clone();
    tokio::task::spawn_blocking(move || disk.wait_for_stalled_sync())
        .await
        .unwrap();
    calls.push(call(&service, pay("first")).await);
    calls.push(call(&service, pay("queued")).await);
    let mut stats = service.stats().await;
    // When requests stay in the queue over many round trips, EXEC is waiting.
    let mut seen = 0;
    while seen < 20 {
        let depth = stats
            .get_batch_stats(GetBatchStatsRequest {})
            .await
            .unwrap()
            .into_inner()
            .queue_depth;
        if depth > 0 {
            seen += 1;
        } else {
            seen = 0;
            let number = calls.len();
            calls.push(call(&service, pay(&format!("queued-{number}"))).await);
        }
    }
    (service, calls)
}

async fn is_known(service: &Service, id: &str) -> bool {
    let request = GetTransactionRequest {
        transaction_id: id.to_owned(),
    };
    match service.transactions().await.get_transaction(request).await {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(status.code(), Code::NotFound);
            false
        }
    }
}

#[tokio::test]
async fn a_deadline_that_passes_in_the_queue_is_reported_as_not_executed_and_is_not_executed() {
    let (service, calls) = stuck().await;
    let status = call(&service, in_time("late", DEADLINE))
        .await
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        described(&status),
        expected(Code::DeadlineExceeded, "EXPIRED_IN_QUEUE", "false")
    );
    service.disk.release_syncs();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert!(!is_known(&service, "late").await);
    let stats = service
        .stats()
        .await
        .get_batch_stats(GetBatchStatsRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((stats.expired, stats.replies_missing), (1, 0));
    // The same id can still be used.
    call(&service, pay("late")).await.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_deadline_that_passes_during_the_commit_has_an_unknown_outcome_which_a_read_resolves() {
    let service = Service::start(&patient_config()).await;
    service.open_accounts(&["a", "b"]).await;
    service.disk.stall_syncs();
    let status = call(&service, in_time("slow", DEADLINE))
        .await
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        described(&status),
        expected(Code::DeadlineExceeded, "EXPIRED_IN_EXECUTION", "unknown")
    );
    service.disk.release_syncs();
    let again = call(&service, pay("slow"))
        .await
        .await
        .unwrap()
        .unwrap()
        .into_inner();
    assert!(again.replayed);
}

#[tokio::test]
async fn a_deadline_that_has_already_passed_and_a_malformed_one_are_rejected() {
    let service = Service::start(&config()).await;
    service.open_accounts(&["a", "b"]).await;
    let status = call(&service, in_time("t", Duration::ZERO))
        .await
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        described(&status),
        expected(Code::DeadlineExceeded, "EXPIRED_IN_QUEUE", "false")
    );
    let mut request = Request::new(pay("t"));
    request
        .metadata_mut()
        .insert("grpc-timeout", "soon".parse().unwrap());
    let status = call(&service, request).await.await.unwrap().unwrap_err();
    assert_eq!(
        described(&status),
        expected(Code::InvalidArgument, "INVALID_FIELD", "false")
    );
    assert!(!is_known(&service, "t").await);
}

#[tokio::test]
async fn a_cancelled_call_withdraws_its_queued_request() {
    let (service, calls) = stuck().await;
    let depth = service.engine.stats().batch.queue_depth;
    let left = call(&service, pay("left")).await;
    while service.engine.stats().batch.queue_depth == depth {
        tokio::task::yield_now().await;
    }
    left.abort();
    // The reset of the call may reach the server after calls on other connections that were sent later. The count of
    // withdrawn requests shows when it has arrived.
    let _cancelled = left.await;
    while service.engine.stats().batch.cancelled == 0 {
        tokio::task::yield_now().await;
    }
    service.disk.release_syncs();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert!(!is_known(&service, "left").await);
}
