//! A disk that hangs under steady load: the circuit of every kind of call opens within its own bound, and closes afterwards.

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
    circuits::{Frozen, TICK},
    deadlines::{in_time, with_timeout},
    described, expected,
};
use crate::support::in_process::{account, pay};

/// Calls of each kind in one round of the steady load, in the order of [`CallKind::ALL`].
const CALLERS: [usize; CallKind::ALL.len()] = [24, 3, 1, 2];
/// Rounds of the steady load before the disk hangs.
const ROUNDS: usize = 60;

/// Clients for every kind of call on one connection.
#[derive(Clone)]
struct Callers {
    transactions: TransactionServiceClient<Channel>,
    accounts: AccountServiceClient<Channel>,
}

static CALLS: AtomicU64 = AtomicU64::new(0);

impl Callers {
    /// Makes one call of a kind, with a new id.
    async fn call(mut self, kind: CallKind) -> Result<(), Status> {
        let id = format!("{}", CALLS.fetch_add(1, Ordering::Relaxed));
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
        // Commits are timed by the real clock, so even a busy machine must stay below the threshold.
        slow_threshold: Duration::from_millis(500),
        open_base: Duration::from_millis(200),
        open_max: Duration::from_millis(200),
        ramp: Duration::from_millis(200),
        ..CircuitBreakerConfig::default()
    }
}

fn bound(config: &CircuitBreakerConfig) -> Duration {
    config.slow_threshold * 2 + Duration::from_millis(100)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hang_under_steady_load_opens_the_circuit_of_every_kind_of_call() {
    let frozen = Frozen::start(breaker()).await;
    let callers = Callers {
        transactions: frozen.service.transactions().await,
        accounts: frozen.service.accounts().await,
    };
    let send_all = || {
        let mut calls = JoinSet::new();
        for (kind, count) in CallKind::ALL.into_iter().zip(CALLERS) {
            for _ in 0..count {
                calls.spawn(callers.clone().call(kind));
            }
        }
        calls
    };
    for _ in 0..ROUNDS {
        for answer in send_all().join_all().await {
            answer.unwrap();
        }
        frozen.tick();
    }
    let circuits = CallKind::ALL.map(|kind| frozen.service.engine.breaker(kind));
    for (circuit, count) in circuits.iter().zip(CALLERS) {
        let window = circuit.stats().window;
        assert!(
            window.samples >= (count * ROUNDS) as u64,
            "the window is full of fast calls"
        );
    }

    frozen.service.disk.stall_syncs();
    let mut hung = send_all();
    for (circuit, count) in circuits.iter().zip(CALLERS) {
        while circuit.stats().in_flight < count as u64 {
            tokio::task::yield_now().await;
        }
    }
    let mut waited = Duration::ZERO;
    for (kind, circuit) in CallKind::ALL.into_iter().zip(&circuits) {
        let limit = bound(circuit.config());
        while circuit.stats().lifetime.opens == 0 {
            assert!(
                waited <= limit,
                "{}: still closed after {waited:?}",
                circuit.key()
            );
            frozen.tick();
            waited += TICK;
        }
        assert_eq!(circuit.stats().reason_opened, Some(TransitionReason::Overdue));
        let status = callers.clone().call(kind).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{}", circuit.key());
        assert_eq!(
            circuit.stats().lifetime.rejected_open,
            1,
            "{}: opens at once",
            circuit.key()
        );
    }

    frozen.service.disk.release_syncs();
    while let Some(answer) = hung.join_next().await {
        answer.unwrap().unwrap();
    }
    while circuits
        .iter()
        .any(|circuit| circuit.state() != CircuitState::Closed)
    {
        frozen.tick();
        for kind in CallKind::ALL {
            let _either = callers.clone().call(kind).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_shorter_than_the_threshold_do_not_hide_a_hang() {
    /// A deadline in real time. The circuits' clock does not advance, so no call becomes overdue.
    const DEADLINE: Duration = Duration::from_millis(20);
    let frozen = Frozen::start(breaker()).await;
    let callers = Callers {
        transactions: frozen.service.transactions().await,
        accounts: frozen.service.accounts().await,
    };
    for _ in 0..500 {
        callers.clone().call(CallKind::Unary).await.unwrap();
        frozen.tick();
    }
    frozen.service.disk.stall_syncs();
    // The call that hangs is of another kind. EXEC refuses calls that have less time left than an average commit takes, so the
    // test can't know which calls with deadlines would reach the disk.
    let hung = tokio::spawn(callers.clone().call(CallKind::Bulk));
    let disk = frozen.service.disk.clone();
    tokio::task::spawn_blocking(move || disk.wait_for_stalled_sync())
        .await
        .unwrap();
    let circuit = frozen.service.engine.breaker(CallKind::Unary);
    let mut client = frozen.service.patient_transactions().await;
    let mut waited = Duration::ZERO;
    let mut number = 0;
    while circuit.stats().lifetime.opens == 0 {
        assert!(waited <= bound(circuit.config()), "still closed after {waited:?}");
        number += 1;
        let status = client
            .process_transaction(in_time(&format!("late{number}"), DEADLINE))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        frozen.tick();
        waited += TICK;
    }
    assert_eq!(
        circuit.stats().window.calls,
        0,
        "the new generation's window is empty"
    );
    assert_eq!(circuit.stats().history[0].overdue, 0, "none was overdue");
    let status = client.process_transaction(pay("refused")).await.unwrap_err();
    assert_eq!(
        described(&status),
        expected(Code::Unavailable, "CIRCUIT_OPEN", "false")
    );
    frozen.service.disk.release_syncs();
    hung.await.unwrap().unwrap();
}

/// Calls whose deadline has passed never wait for the disk, so they do not show that the disk is slow. A commit that is in flight
/// during a tick does not count as a hang.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_whose_deadline_has_passed_do_not_open_the_circuit_for_others() {
    let frozen = Frozen::start(breaker()).await;
    let circuit = frozen.service.engine.breaker(CallKind::Unary);
    let stall_after = circuit.config().effective_stall_after();
    let mut client = frozen.service.patient_transactions().await;
    for round in 0..2 {
        let before = circuit.stats().lifetime.admitted;
        let (mut waited, mut sent) = (Duration::ZERO, 0);
        while waited <= stall_after {
            let request = with_timeout(&format!("late{round}-{sent}"), "1n");
            client.process_transaction(request).await.unwrap_err();
            frozen.tick();
            waited += TICK;
            sent += 1;
        }
        assert_eq!(
            circuit.stats().lifetime.admitted - before,
            sent,
            "the calls reached the circuit"
        );
        frozen.service.disk.stall_syncs();
        let mut honest = frozen.service.transactions().await;
        let honest = tokio::spawn(async move {
            honest
                .process_transaction(pay(&format!("honest{round}")))
                .await
                .map(drop)
        });
        let disk = frozen.service.disk.clone();
        tokio::task::spawn_blocking(move || disk.wait_for_stalled_sync())
            .await
            .unwrap();
        frozen.tick();
        frozen.service.disk.release_syncs();
        honest.await.unwrap().unwrap();
        assert_eq!(circuit.stats().lifetime.opens, 0, "round {round}");
    }
}
