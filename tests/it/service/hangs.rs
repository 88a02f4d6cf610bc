//! Tests with a disk that hangs under steady load. The circuit of every kind of call must open within a bounded time,
//! and must close when the disk no longer hangs.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tally::{
    engine::CallKind,
    proto::{
        CreateAccountRequest, ProcessTransactionsRequest, StreamTransactionsRequest,
        account_service_client::AccountServiceClient, transaction_result::Outcome,
        transaction_service_client::TransactionServiceClient,
    },
};
use tally_breaker::{CircuitBreakerConfig, CircuitState, TransitionReason};
use tokio::task::JoinSet;
use tonic::{Code, Status, transport::Channel};

use super::{
    circuits::{ManualClockService, TICK},
    deadlines::{with_deadline, with_timeout_header},
    expected, summary,
};
use crate::support::in_process::{account, pay};

/// Number of calls of each kind in one round of the steady load, in the order of [`CallKind::ALL`].
const CALLS_PER_ROUND: [usize; CallKind::ALL.len()] = [24, 3, 1, 2];
/// Number of rounds of the steady load before the disk hangs.
const ROUNDS: usize = 60;

/// Clients for every kind of call on one connection.
#[derive(Clone)]
struct Clients {
    transactions: TransactionServiceClient<Channel>,
    accounts: AccountServiceClient<Channel>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl Clients {
    /// Makes one call of this kind, with a new id.
    async fn call(mut self, kind: CallKind) -> Result<(), Status> {
        let id = format!("{}", NEXT_ID.fetch_add(1, Ordering::Relaxed));
        match kind {
            CallKind::Unary => self.transactions.process_transaction(pay(&id)).await.map(drop),
            CallKind::Bulk => {
                let request = ProcessTransactionsRequest {
                    transactions: vec![pay(&id), pay(&format!("{id}b"))],
                };
                self.transactions.process_transactions(request).await.map(drop)
            }
            CallKind::Stream => {
                let message = StreamTransactionsRequest {
                    transaction: Some(pay(&id)),
                };
                let answers = self
                    .transactions
                    .stream_transactions(tokio_stream::iter([message]))
                    .await?;
                let answer = answers
                    .into_inner()
                    .message()
                    .await?
                    .expect("an answer for each message");
                match answer.result.and_then(|result| result.outcome) {
                    Some(Outcome::Committed(_)) => Ok(()),
                    Some(Outcome::Error(error)) => Err(Status::new(Code::from(error.code), error.message)),
                    None => panic!("an answer without a result"),
                }
            }
            CallKind::Accounts => {
                let request = CreateAccountRequest {
                    account: Some(account(&id)),
                };
                self.accounts.create_account(request).await.map(drop)
            }
        }
    }
}

fn breaker() -> CircuitBreakerConfig {
    CircuitBreakerConfig {
        // The real clock measures the time of a commit. The threshold is long, so that no commit exceeds it on a busy
        // machine.
        slow_threshold: Duration::from_millis(500),
        open_base: Duration::from_millis(200),
        open_max: Duration::from_millis(200),
        ramp: Duration::from_millis(200),
        ..CircuitBreakerConfig::default()
    }
}

/// Returns the maximum time until a circuit must open after the disk hangs.
fn detection_time_max(config: &CircuitBreakerConfig) -> Duration {
    config.slow_threshold * 2 + Duration::from_millis(100)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hang_under_steady_load_opens_the_circuit_of_every_kind_of_call() {
    let fixture = ManualClockService::start(breaker()).await;
    let clients = Clients {
        transactions: fixture.service.transactions().await,
        accounts: fixture.service.accounts().await,
    };
    let send_all = || {
        let mut calls = JoinSet::new();
        for (kind, count) in CallKind::ALL.into_iter().zip(CALLS_PER_ROUND) {
            for _ in 0..count {
                calls.spawn(clients.clone().call(kind));
            }
        }
        calls
    };
    for _ in 0..ROUNDS {
        for answer in send_all().join_all().await {
            answer.unwrap();
        }
        fixture.tick();
    }
    let circuits = CallKind::ALL.map(|kind| fixture.service.engine.breaker(kind));
    for (circuit, count) in circuits.iter().zip(CALLS_PER_ROUND) {
        let window = circuit.stats().window;
        assert!(
            window.samples >= (count * ROUNDS) as u64,
            "the window does not contain all fast calls"
        );
    }

    fixture.service.disk.stall_syncs();
    let mut hung = send_all();
    for (circuit, count) in circuits.iter().zip(CALLS_PER_ROUND) {
        while circuit.stats().in_flight < count as u64 {
            tokio::task::yield_now().await;
        }
    }
    let mut waited = Duration::ZERO;
    for (kind, circuit) in CallKind::ALL.into_iter().zip(&circuits) {
        let limit = detection_time_max(circuit.config());
        while circuit.stats().lifetime.opens == 0 {
            assert!(
                waited <= limit,
                "{}: still closed after {waited:?}",
                circuit.key()
            );
            fixture.tick();
            waited += TICK;
        }
        assert_eq!(circuit.stats().reason_opened, Some(TransitionReason::Overdue));
        let status = clients.clone().call(kind).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{}", circuit.key());
        assert_eq!(
            circuit.stats().lifetime.rejected_open,
            1,
            "{}: the circuit rejected an earlier call, too",
            circuit.key()
        );
    }

    fixture.service.disk.release_syncs();
    while let Some(answer) = hung.join_next().await {
        answer.unwrap().unwrap();
    }
    while circuits
        .iter()
        .any(|circuit| circuit.state() != CircuitState::Closed)
    {
        fixture.tick();
        for kind in CallKind::ALL {
            let _either = clients.clone().call(kind).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_shorter_than_the_threshold_do_not_hide_a_hang() {
    /// A deadline of the real clock. The clock of the circuits does not advance between two ticks, so no call with this
    /// deadline becomes overdue.
    const DEADLINE: Duration = Duration::from_millis(20);
    let fixture = ManualClockService::start(breaker()).await;
    let clients = Clients {
        transactions: fixture.service.transactions().await,
        accounts: fixture.service.accounts().await,
    };
    for _ in 0..500 {
        clients.clone().call(CallKind::Unary).await.unwrap();
        fixture.tick();
    }
    fixture.service.disk.stall_syncs();
    // The call that reaches the hanging disk is of another kind and has no deadline. EXEC rejects a call if its
    // deadline leaves less time than an average commit takes. So the test can't know which calls with deadlines would
    // reach the disk.
    let hung = tokio::spawn(clients.clone().call(CallKind::Bulk));
    let disk = fixture.service.disk.clone();
    tokio::task::spawn_blocking(move || disk.wait_for_stalled_sync())
        .await
        .unwrap();
    let circuit = fixture.service.engine.breaker(CallKind::Unary);
    let mut client = fixture.service.patient_transactions().await;
    let mut waited = Duration::ZERO;
    let mut number = 0;
    while circuit.stats().lifetime.opens == 0 {
        assert!(
            waited <= detection_time_max(circuit.config()),
            "still closed after {waited:?}"
        );
        number += 1;
        let status = client
            .process_transaction(with_deadline(&format!("late{number}"), DEADLINE))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        fixture.tick();
        waited += TICK;
    }
    assert_eq!(
        circuit.stats().window.calls,
        0,
        "the window was not emptied when the circuit opened"
    );
    assert_eq!(
        circuit.stats().history[0].overdue,
        0,
        "a call was overdue, so the test is void"
    );
    let status = client.process_transaction(pay("rejected")).await.unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::Unavailable, "CIRCUIT_OPEN", "false")
    );
    fixture.service.disk.release_syncs();
    hung.await.unwrap().unwrap();
}

/// A call whose deadline has passed does not wait for the disk, so it does not show that the disk is slow. A commit
/// that is in flight during one tick must not count as a hang.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_whose_deadline_has_passed_do_not_open_the_circuit_for_others() {
    let fixture = ManualClockService::start(breaker()).await;
    let circuit = fixture.service.engine.breaker(CallKind::Unary);
    let stall_after = circuit.config().effective_stall_after();
    let mut client = fixture.service.patient_transactions().await;
    for round in 0..2 {
        let before = circuit.stats().lifetime.admitted;
        let (mut waited, mut sent) = (Duration::ZERO, 0);
        while waited <= stall_after {
            let request = with_timeout_header(&format!("late{round}-{sent}"), "1n");
            client.process_transaction(request).await.unwrap_err();
            fixture.tick();
            waited += TICK;
            sent += 1;
        }
        assert_eq!(
            circuit.stats().lifetime.admitted - before,
            sent,
            "a call did not reach the circuit"
        );
        fixture.service.disk.stall_syncs();
        let mut honest = fixture.service.transactions().await;
        let honest = tokio::spawn(async move {
            honest
                .process_transaction(pay(&format!("honest{round}")))
                .await
                .map(drop)
        });
        let disk = fixture.service.disk.clone();
        tokio::task::spawn_blocking(move || disk.wait_for_stalled_sync())
            .await
            .unwrap();
        fixture.tick();
        fixture.service.disk.release_syncs();
        honest.await.unwrap().unwrap();
        assert_eq!(circuit.stats().lifetime.opens, 0, "round {round}");
    }
}
