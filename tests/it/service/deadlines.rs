//! Tests of deadlines and cancelled calls. The answer must say whether the call was not executed or may have been
//! executed.

use std::time::Duration;

use tally::{
    engine::EngineConfig,
    proto::{
        GetBatchStatsRequest, GetTransactionRequest, ProcessTransactionRequest, ProcessTransactionResponse,
    },
};
use tokio::task::JoinHandle;
use tonic::{Code, IntoRequest, Request, Response, Status};

use super::{expected, summary};
use crate::support::in_process::{Service, config, patient_config, pay};

/// A deadline that is long enough for the call to reach the server, and short enough for the test to wait.
const DEADLINE: Duration = Duration::from_millis(200);

pub(super) type Call = JoinHandle<Result<Response<ProcessTransactionResponse>, Status>>;

async fn call(service: &Service, request: impl IntoRequest<ProcessTransactionRequest>) -> Call {
    let mut client = service.patient_transactions().await;
    let request = request.into_request();
    tokio::spawn(async move { client.process_transaction(request).await })
}

/// Makes a request with the header `grpc-timeout`. The client itself sets no timer, because the timer would end the
/// call before the answer of the server arrives.
pub(super) fn with_deadline(id: &str, timeout: Duration) -> Request<ProcessTransactionRequest> {
    with_timeout_header(id, &format!("{}m", timeout.as_millis()))
}

/// Makes a request with this text in the header `grpc-timeout`.
pub(super) fn with_timeout_header(id: &str, header: &str) -> Request<ProcessTransactionRequest> {
    let mut request = Request::new(pay(id));
    request
        .metadata_mut()
        .insert("grpc-timeout", header.parse().unwrap());
    request
}

/// Starts a service in which EXEC waits for a hanging disk, so that later requests stay in the queue. The write of the
/// first transaction hangs. The second transaction has the same id, so EXEC waits for the first write before it can
/// answer.
async fn start_with_waiting_exec() -> (Service, Vec<Call>) {
    start_with_waiting_exec_and(&patient_config()).await
}

/// Does the same as [`start_with_waiting_exec`], with another configuration. Returns the service and the calls in
/// flight.
pub(super) async fn start_with_waiting_exec_and(config: &EngineConfig) -> (Service, Vec<Call>) {
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
    // If requests stay in the queue during 20 round trips, EXEC waits for the disk.
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
        ..GetTransactionRequest::default()
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
async fn a_call_whose_deadline_passes_in_the_queue_is_reported_as_not_executed_and_is_not_executed() {
    let (service, calls) = start_with_waiting_exec().await;
    let status = call(&service, with_deadline("late", DEADLINE))
        .await
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        summary(&status),
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
    // A call with the same id is executed later.
    call(&service, pay("late")).await.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_call_whose_deadline_passes_during_the_commit_has_an_unknown_outcome_which_a_retry_resolves() {
    let service = Service::start(&patient_config()).await;
    service.open_accounts(&["a", "b"]).await;
    service.disk.stall_syncs();
    let status = call(&service, with_deadline("slow", DEADLINE))
        .await
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        summary(&status),
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
async fn a_passed_deadline_and_a_malformed_deadline_are_rejected() {
    let service = Service::start(&config()).await;
    service.open_accounts(&["a", "b"]).await;
    let status = call(&service, with_deadline("t", Duration::ZERO))
        .await
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::DeadlineExceeded, "EXPIRED_IN_QUEUE", "false")
    );
    let mut request = Request::new(pay("t"));
    request
        .metadata_mut()
        .insert("grpc-timeout", "soon".parse().unwrap());
    let status = call(&service, request).await.await.unwrap().unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::InvalidArgument, "INVALID_FIELD", "false")
    );
    assert!(!is_known(&service, "t").await);
}

#[tokio::test]
async fn a_cancelled_call_withdraws_its_queued_request() {
    let (service, calls) = start_with_waiting_exec().await;
    let depth = service.engine.stats().batch.queue_depth;
    let left = call(&service, pay("left")).await;
    while service.engine.stats().batch.queue_depth == depth {
        tokio::task::yield_now().await;
    }
    left.abort();
    // The reset of the call may reach the server later than calls on other connections that were sent after it. When
    // the reset has arrived, the server counts a cancelled request.
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
