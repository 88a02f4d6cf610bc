//! Stops the process of the server with SIGSTOP under load, and lets it continue with SIGCONT. Nothing that was
//! acknowledged is lost, calls whose deadline passed meanwhile are answered as promised, and the circuits recover.

use std::{sync::Arc, time::Duration};

use tally::proto::CircuitState;
use tokio::task::JoinSet;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::{
    Random,
    audit::{Auditor, Scope},
    book::{Place, reason},
    kills::create_accounts,
    load::{Load, Shared},
    report, small_files,
};
use crate::support::{in_process::patient_transactions, server::TestServer};

/// Number of stops.
const STOPS: usize = 4;
/// Deadline of calls. It is shorter than a stop.
const DEADLINE: Duration = Duration::from_millis(200);
/// Duration of a stop.
const STOP: Duration = Duration::from_millis(600);
/// Number of callers that wait for the answer of the server even after their deadline.
const PATIENT: usize = 8;
/// Number of acknowledgements between two stops.
const ACKNOWLEDGED: usize = 1000;
/// Interval of checks for an expected state.
const POLL: Duration = Duration::from_millis(5);
/// Maximum number of checks for an expected state: a minute.
const POLLS_MAX: usize = 12_000;

/// Waits until `count` more transactions were acknowledged.
pub(super) async fn wait_for_acknowledgements(shared: &Shared, count: usize) {
    let enough = shared.book().acknowledgements() + count;
    for _ in 0..POLLS_MAX {
        if shared.book().acknowledgements() >= enough {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
    panic!("the service acknowledges nothing: {:?}", shared.book().errors);
}

async fn wait_until_circuits_are_closed(server: &TestServer) {
    let client = server.client().await;
    let mut open = Vec::new();
    for _ in 0..POLLS_MAX {
        let stats = client.circuit_stats().await.unwrap();
        open = stats.circuits;
        open.retain(|circuit| circuit.effective_state() != CircuitState::Closed);
        if open.is_empty() {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
    panic!("these circuits stay open: {open:?}");
}

/// Sends transactions with a deadline until the load is stopped, and waits for the answer of the server to each.
async fn call_patiently(server: std::net::SocketAddr, name: String, shared: Arc<Shared>, mut random: Random) {
    let mut client = patient_transactions(server).await;
    for number in 0.. {
        if shared.is_stopped() {
            break;
        }
        let id = format!("{name}:{number}");
        let transaction = shared.book().new_transaction(&id, &mut random);
        let mut request = Request::new(transaction);
        request.set_timeout(DEADLINE);
        match client.process_transaction(request).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                let place = Place::new(answer.sequence, answer.commit_time);
                shared.book().acknowledge(&id, place);
            }
            Err(status) => {
                assert_is_promised(&status);
                shared.book().fail(&id, &status);
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Checks that the service may return this error here, and that the error says whether the call was executed. The audit checks
/// later whether that was true.
fn assert_is_promised(status: &Status) {
    let info = status.get_details_error_info();
    let info = info.unwrap_or_else(|| panic!("the error is not from the service: {status:?}"));
    let executed = info.metadata["executed"].as_str();
    match (status.code(), info.reason.as_str()) {
        (Code::DeadlineExceeded, "EXPIRED_IN_QUEUE") => assert_eq!(executed, "false"),
        (Code::DeadlineExceeded, "EXPIRED_IN_EXECUTION") => assert_eq!(executed, "unknown"),
        (Code::Unavailable, "CIRCUIT_OPEN") => assert_eq!(executed, "false"),
        _ => panic!("{status:?} ({})", reason(status)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_process_continues_without_loss_and_answers_expired_calls_as_promised() {
    let mut random = Random::new();
    let mut server = small_files()
        .env("TALLY__BREAKER__SLOW_THRESHOLD", "250ms")
        .env("TALLY__BREAKER__OPEN_BASE", "200ms")
        .env("TALLY__BREAKER__OPEN_MAX", "400ms")
        .start();
    create_accounts(&server).await;
    let shared = Arc::new(Shared::default());
    let mut auditor = Auditor::default();
    let load = Load::start(&shared, &server.endpoint(), "load", Some(DEADLINE), &mut random).await;
    let mut patient = JoinSet::new();
    for number in 0..PATIENT {
        patient.spawn(call_patiently(
            server.address(),
            format!("patient:{number}"),
            Arc::clone(&shared),
            Random(random.below(u64::MAX)),
        ));
    }
    for _ in 0..STOPS {
        wait_for_acknowledgements(&shared, random.between(1, ACKNOWLEDGED)).await;
        server.freeze();
        tokio::time::sleep(STOP).await;
        server.thaw();
    }
    wait_for_acknowledgements(&shared, ACKNOWLEDGED).await;
    wait_until_circuits_are_closed(&server).await;
    load.stop().await;
    while let Some(ended) = patient.join_next().await {
        ended.unwrap();
    }
    // A call whose client stopped waiting at its deadline may still be in execution. A restart ends it.
    server.terminate();
    assert!(server.wait().success(), "{}", server.stderr());
    server.restart();
    auditor.audit(&server, &shared, Scope::All, &mut random).await;
    server.terminate();
    assert!(server.wait().success(), "{}", server.stderr());
    server.assert_verified();
    report(&format!(
        "{STOPS} stops; {}; calls that failed, by reason: {:?}",
        auditor.counts(),
        shared.book().errors
    ));
}
