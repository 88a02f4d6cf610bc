//! Tests of the circuits through the gRPC service: opening and recovery, watches, and administration.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tally::{
    client::{Client, RetryPolicy},
    engine::{CallKind, CircuitOptions, EngineConfig, InitialMode, ThresholdSource},
    proto::{
        CircuitMode, CircuitReset, CircuitStats, GetCircuitStatsRequest, SetCircuitModeRequest,
        WatchCircuitStatsRequest, set_circuit_mode_request::Change,
    },
};
use tally_breaker::{BreakerMode, CircuitBreakerConfig, CircuitState, ManualClock};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::{
    expected,
    overload::{circuit, retry_delay},
    summary,
};
use crate::support::{
    in_process::{Service, config, pay},
    sim_disk::SimDisk,
};

/// Returns settings with a long slow threshold. The real clock measures the latency of commits, and no commit takes as
/// long as this threshold, even on a busy machine.
pub(super) fn breaker_with_long_threshold() -> CircuitBreakerConfig {
    CircuitBreakerConfig {
        slow_threshold: Duration::from_secs(10),
        ..CircuitBreakerConfig::default()
    }
}

/// The time by which [`ManualClockService::tick`] advances the clock.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// A service whose circuits have a manual clock, which only the test advances.
pub(super) struct ManualClockService {
    pub(super) service: Service,
    clock: Arc<ManualClock>,
    calls: JoinSet<Result<(), Status>>,
    sent: usize,
}

impl ManualClockService {
    pub(super) async fn start(breaker: CircuitBreakerConfig) -> Self {
        let fixture = Self::start_on(SimDisk::new(1), breaker).await;
        fixture.service.open_accounts(&["a", "b"]).await;
        fixture
    }

    /// Starts the service on `disk`, which may contain the data of an earlier service.
    async fn start_on(disk: SimDisk, breaker: CircuitBreakerConfig) -> Self {
        let clock = Arc::new(ManualClock::new(0));
        let circuits = CircuitOptions {
            clock: Some(clock.clone()),
            ..CircuitOptions::default()
        };
        let config = EngineConfig {
            breaker,
            circuits,
            ..config()
        };
        let service = Service::start_on(disk, &config).await;
        ManualClockService {
            service,
            clock,
            calls: JoinSet::new(),
            sent: 0,
        }
    }

    /// Advances the clock of the circuits by [`TICK`], and then calls `tick` of the engine.
    pub(super) fn tick(&self) {
        self.clock.advance(TICK);
        self.service.engine.tick();
    }

    async fn send(&mut self) {
        self.sent += 1;
        let (id, mut client) = (format!("t{}", self.sent), self.service.transactions().await);
        self.calls
            .spawn(async move { client.process_transaction(pay(&id)).await.map(drop) });
    }

    /// Sends `count` calls and waits until the circuit has admitted them.
    async fn hang(&mut self, count: usize) {
        for _ in 0..count {
            self.send().await;
        }
        while circuit(&self.service).in_flight < count as u64 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn calls_are_rejected_within_two_slow_thresholds_and_100_ms_after_the_disk_hangs() {
    let breaker = CircuitBreakerConfig {
        // The circuit detects overdue calls with a resolution of an eighth of the threshold, here 62.5 ms. This delay
        // is part of the 100 ms.
        slow_threshold: Duration::from_millis(500),
        open_base: Duration::from_millis(200),
        ramp: Duration::from_millis(200),
        ..CircuitBreakerConfig::default()
    };
    let limit = breaker.slow_threshold * 2 + Duration::from_millis(100);
    let mut fixture = ManualClockService::start(breaker).await;
    fixture.service.disk.stall_syncs();
    fixture.hang(100).await;
    // From now on, no call completes. Only the clock of the circuits advances.
    let mut waited = Duration::ZERO;
    while circuit(&fixture.service).effective_state != CircuitState::Open {
        assert!(waited <= limit, "still closed after {waited:?}");
        fixture.tick();
        waited += TICK;
    }
    let mut client = fixture.service.transactions().await;
    let status = client.process_transaction(pay("rejected")).await.unwrap_err();
    assert!(waited <= limit, "{waited:?}");
    assert_eq!(
        summary(&status),
        expected(Code::Unavailable, "CIRCUIT_OPEN", "false")
    );
    assert!(
        retry_delay(&status) >= Duration::from_millis(150),
        "the retry delay is shorter than the open time minus its jitter and a tick"
    );
    assert_eq!(
        circuit(&fixture.service).window.calls,
        0,
        "a call has completed although the disk hangs"
    );

    fixture.service.disk.release_syncs();
    while let Some(call) = fixture.calls.join_next().await {
        call.unwrap().unwrap();
    }
    let mut number = 0;
    while circuit(&fixture.service).effective_state != CircuitState::Closed {
        fixture.tick();
        number += 1;
        let _either = client.process_transaction(pay(&format!("again{number}"))).await;
    }
    let states: Vec<_> = circuit(&fixture.service)
        .history
        .iter()
        .map(|change| change.to)
        .collect();
    // On a busy machine, commits may be slow by the real clock. In this case, the circuit opens again before it closes.
    assert!(
        states.starts_with(&[CircuitState::Open, CircuitState::HalfOpen]),
        "{states:?}"
    );
    assert!(
        states.ends_with(&[CircuitState::Ramp, CircuitState::Closed]),
        "{states:?}"
    );
}

#[tokio::test]
async fn probes_of_the_service_close_the_circuit_without_a_caller() {
    let breaker = CircuitBreakerConfig {
        self_probe: true,
        ramp: Duration::ZERO,
        ..breaker_with_long_threshold()
    };
    let mut fixture = ManualClockService::start(breaker).await;
    fixture.service.disk.stall_syncs();
    fixture.hang(100).await;
    while circuit(&fixture.service).state != CircuitState::HalfOpen {
        fixture.tick();
    }
    // Check that the service does not use the call of a client as a probe, but rejects the call.
    let mut client = fixture.service.transactions().await;
    let status = client.process_transaction(pay("not-a-probe")).await.unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::Unavailable, "CIRCUIT_OPEN", "false")
    );

    let blocks = fixture.service.engine.stats().durable_block;
    fixture.service.disk.release_syncs();
    while circuit(&fixture.service).state != CircuitState::Closed {
        fixture.tick();
        tokio::task::yield_now().await;
    }
    while let Some(call) = fixture.calls.join_next().await {
        call.unwrap().unwrap();
    }
    let stats = circuit(&fixture.service);
    assert_eq!(
        stats.lifetime.admitted, 108,
        "the circuit admitted not exactly 100 calls and 8 probes"
    );
    assert!(
        fixture.service.engine.stats().durable_block >= blocks + 8,
        "not every probe has committed a block"
    );
    client.process_transaction(pay("after")).await.unwrap();

    // The journal now contains empty blocks. The service must be able to open it again.
    let disk = fixture.service.stop().await;
    let service = Service::start_on(disk, &config()).await;
    let mut client = service.transactions().await;
    assert!(
        client
            .process_transaction(pay("after"))
            .await
            .unwrap()
            .into_inner()
            .replayed
    );
}

/// A probe that finds the disk full is answered at once, so the circuit closes, and callers learn that the disk is full.
#[tokio::test]
async fn probes_of_the_service_close_the_circuit_on_a_full_disk() {
    let service = Service::start(&config()).await;
    service.open_accounts(&["a", "b"]).await;
    let mut client = service.transactions().await;
    client.process_transaction(pay("known")).await.unwrap();
    let disk = service.stop().await;
    disk.restart();
    disk.set_sparse();
    disk.set_free_bytes(0);
    let breaker = CircuitBreakerConfig {
        self_probe: true,
        ramp: Duration::ZERO,
        ..breaker_with_long_threshold()
    };
    let fixture = ManualClockService::start_on(disk, breaker).await;
    let mut client = fixture.service.transactions().await;
    let full = expected(Code::ResourceExhausted, "DISK_FULL", "false");
    let status = client.process_transaction(pay("new")).await.unwrap_err();
    assert_eq!(summary(&status), full);

    fixture
        .service
        .engine
        .breaker(CallKind::Unary)
        .open_for(Duration::from_millis(500));
    let status = client.process_transaction(pay("known")).await.unwrap_err();
    assert_eq!(summary(&status).1, "CIRCUIT_OPEN");
    while circuit(&fixture.service).state != CircuitState::Closed {
        fixture.tick();
        tokio::task::yield_now().await;
    }
    let known = client.process_transaction(pay("known")).await.unwrap();
    assert!(known.into_inner().replayed);
    let status = client.process_transaction(pay("new")).await.unwrap_err();
    assert_eq!(summary(&status), full);
}

#[tokio::test]
async fn a_rejection_consists_only_of_trailers_with_retry_info_and_pushback() {
    let service = Service::start(&config()).await;
    service
        .engine
        .breaker(CallKind::Unary)
        .set_mode(BreakerMode::ForcedOpen);
    let stream = tokio::net::TcpStream::connect(service.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let message = pay("x").encode_to_vec();
    let mut frame = vec![0; 5];
    frame[1..].copy_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    let request = http::Request::post(format!(
        "http://{}/tally.v1.TransactionService/ProcessTransaction",
        service.address()
    ))
    .header("content-type", "application/grpc")
    .header("te", "trailers")
    .body(Full::new(Bytes::from(frame)))
    .unwrap();
    let response = sender.send_request(request).await.unwrap();
    // The only header block contains the status. So a client library knows that the call was not processed, and may
    // retry it transparently.
    let headers = response.headers().clone();
    assert_eq!(headers["grpc-status"], "14");
    let pushback: i32 = headers["grpc-retry-pushback-ms"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((30_000..=45_000).contains(&pushback), "{pushback}");
    let status = Status::from_header_map(&headers).unwrap();
    assert_eq!(
        summary(&status),
        expected(Code::Unavailable, "CIRCUIT_OPEN", "false")
    );
    assert_eq!(
        retry_delay(&status).as_millis(),
        u128::try_from(pushback).unwrap()
    );
    let body = response.into_body();
    assert!(
        hyper::body::Body::is_end_stream(&body),
        "a data frame or a second header block follows"
    );
    assert!(body.collect().await.unwrap().to_bytes().is_empty());
}

#[tokio::test]
async fn the_client_of_this_crate_retries_after_the_delay_that_the_server_sends() {
    let service = Service::start(&config()).await;
    service.open_accounts(&["a", "b"]).await;
    service
        .engine
        .breaker(CallKind::Unary)
        .open_for(Duration::from_millis(100));
    let client = Client::connect(&service.endpoint()).await.unwrap();
    // The client makes two attempts. The circuit rejects the first one. The second one comes after the delay, so it is
    // admitted.
    let client = client.with_retry(RetryPolicy {
        attempts_max: 2,
        ..RetryPolicy::default()
    });
    let answer = client.process_transaction(pay("patient")).await.unwrap();
    assert!(!answer.replayed);
    assert_eq!(circuit(&service).lifetime.rejected_open, 1);
}

#[tokio::test]
async fn modes_can_be_set_and_statistics_are_reported_in_each_mode() {
    let service = Service::start(&config()).await;
    service.open_accounts(&["a", "b"]).await;
    let mut client = service.transactions().await;
    for (mode, passes) in [
        (CircuitMode::ForcedOpen, false),
        (CircuitMode::MetricsOnly, true),
        (CircuitMode::Disabled, true),
        (CircuitMode::Auto, true),
    ] {
        let changed = change(&service, "ProcessTransaction", Change::Mode(mode.into()))
            .await
            .unwrap();
        assert_eq!(changed.len(), 1);
        assert_eq!(changed[0].mode(), mode);
        let answer = client.process_transaction(pay(mode.as_str_name())).await;
        assert_eq!(answer.is_ok(), passes, "{mode:?}");
        let stats = unary(&service).await;
        assert_eq!((stats.key.as_str(), stats.mode()), ("ProcessTransaction", mode));
    }
    let stats = unary(&service).await;
    assert_eq!(stats.totals.unwrap().rejected_open, 1);
    assert_eq!(
        stats.totals.unwrap().admitted,
        2,
        "the circuit recorded a call while it was disabled"
    );
}

#[tokio::test]
async fn an_administrator_can_open_and_reset_circuits() {
    let service = Service::start(&config()).await;
    let day = prost_types::Duration {
        seconds: 86_400,
        nanos: 0,
    };
    // A change without a key applies to all circuits.
    let all = change(&service, "", Change::OpenFor(day)).await.unwrap();
    assert_eq!(all.len(), CallKind::ALL.len());
    for stats in &all {
        assert_eq!(stats.state(), tally::proto::CircuitState::Open);
        assert_eq!(stats.reason_opened, "forced");
        let opened = stats.history.last().unwrap();
        assert_eq!((opened.open_for, opened.generation), (Some(day), 1));
        assert!(stats.open_until.unwrap().seconds > stats.state_time.unwrap().seconds);
    }
    change(&service, "StreamTransactions", Change::Reset(CircuitReset {}))
        .await
        .unwrap();
    let states: Vec<_> = CallKind::ALL
        .map(|kind| service.engine.breaker(kind).state())
        .into();
    assert_eq!(
        states,
        [
            CircuitState::Open,
            CircuitState::Open,
            CircuitState::Closed,
            CircuitState::Open
        ]
    );
}

#[tokio::test]
async fn two_reads_of_the_same_change_of_state_have_the_same_times() {
    let fixture = ManualClockService::start(breaker_with_long_threshold()).await;
    let service = &fixture.service;
    service
        .engine
        .breaker(CallKind::Unary)
        .open_for(Duration::from_secs(3600));
    let first = unary(service).await;
    fixture.clock.advance(Duration::from_secs(1));
    let second = unary(service).await;
    assert_eq!(first.history, second.history);
    assert_eq!(first.history[0].time, first.state_time);
    assert_eq!(
        (first.state_time, first.open_until),
        (second.state_time, second.open_until)
    );
}

#[tokio::test]
async fn a_malformed_change_of_a_circuit_is_rejected_and_changes_nothing() {
    let service = Service::start(&config()).await;
    let duration = |seconds, nanos| Change::OpenFor(prost_types::Duration { seconds, nanos });
    let seconds = |seconds| duration(seconds, 0);
    let cases = [
        ("", None, "", "change"),
        ("", Some(Change::Mode(0)), "", "mode"),
        ("", Some(Change::Mode(99)), "", "mode"),
        ("", Some(seconds(0)), "", "open_for"),
        ("", Some(seconds(-1)), "", "open_for"),
        ("", Some(seconds(86_401)), "", "open_for"),
        ("", Some(duration(0, 1_000_000_000)), "", "open_for"),
        ("", Some(duration(2, -1)), "", "open_for"),
        (
            "",
            Some(Change::Reset(CircuitReset {})),
            &*"x".repeat(257),
            "comment",
        ),
    ];
    for (key, change, comment, field) in cases {
        let request = SetCircuitModeRequest {
            key: key.to_owned(),
            change,
            comment: comment.to_owned(),
        };
        let status = service.stats().await.set_circuit_mode(request).await.unwrap_err();
        assert_eq!(
            summary(&status),
            expected(Code::InvalidArgument, "INVALID_FIELD", "false")
        );
        assert!(status.message().starts_with(field), "{}", status.message());
    }
    let status = change(&service, "Nobody", Change::Reset(CircuitReset {}))
        .await
        .unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::NotFound, "CIRCUIT_NOT_FOUND", "false")
    );
    assert!(
        status.message().contains("StreamTransactions"),
        "{}",
        status.message()
    );
    for kind in CallKind::ALL {
        assert_eq!(service.engine.breaker(kind).stats().generation, 0);
    }
}

#[tokio::test]
async fn watchers_receive_every_change_and_the_reason_of_the_end() {
    let service = Service::start(&config()).await;
    let mut client = service.stats().await;
    let mut snapshots = client
        .watch_circuit_stats(WatchCircuitStatsRequest { interval: None })
        .await
        .unwrap()
        .into_inner();
    let first = snapshots.message().await.unwrap().unwrap();
    assert_eq!(first.circuits.len(), CallKind::ALL.len());
    assert!(first.circuits.iter().all(|circuit| circuit.history.is_empty()));

    service
        .engine
        .breaker(CallKind::Bulk)
        .open_for(Duration::from_secs(60));
    let second = snapshots.message().await.unwrap().unwrap();
    assert_eq!(second.circuits[1].state(), tally::proto::CircuitState::Open);
    service
        .engine
        .breaker(CallKind::Bulk)
        .set_mode(BreakerMode::MetricsOnly);
    let third = snapshots.message().await.unwrap().unwrap();
    assert_eq!(third.circuits[1].mode(), CircuitMode::MetricsOnly);

    service.begin_drain();
    let status = snapshots.message().await.unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::Unavailable, "SHUTTING_DOWN", "false")
    );
}

#[tokio::test]
async fn watchers_receive_snapshots_at_their_interval_and_their_number_is_limited() {
    let service = Service::start(&config()).await;
    let mut client = service.stats().await;
    let interval = |nanos| WatchCircuitStatsRequest {
        interval: Some(prost_types::Duration { seconds: 0, nanos }),
    };
    let status = client
        .watch_circuit_stats(interval(99_999_999))
        .await
        .unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::InvalidArgument, "INVALID_FIELD", "false")
    );
    let mut snapshots = client
        .watch_circuit_stats(interval(100_000_000))
        .await
        .unwrap()
        .into_inner();
    for _ in 0..3 {
        assert!(snapshots.message().await.unwrap().is_some());
    }

    let mut watching = vec![snapshots];
    let status = loop {
        match client
            .watch_circuit_stats(WatchCircuitStatsRequest { interval: None })
            .await
        {
            Ok(snapshots) => watching.push(snapshots.into_inner()),
            Err(status) => break status,
        }
    };
    assert_eq!(
        summary(&status),
        expected(Code::ResourceExhausted, "TOO_MANY_WATCHERS", "false")
    );
    assert_eq!(watching.len(), 64);
    // When watchers end their calls, new watchers are accepted again.
    drop(watching);
    while client
        .watch_circuit_stats(WatchCircuitStatsRequest { interval: None })
        .await
        .is_err()
    {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_measured_slow_threshold_is_used_and_reported_with_its_source() {
    let circuits = CircuitOptions {
        threshold: ThresholdSource::Auto,
        mode: InitialMode(BreakerMode::MetricsOnly),
        ..CircuitOptions::default()
    };
    let service = Service::start(&EngineConfig { circuits, ..config() }).await;
    let stats = unary(&service).await;
    let settings = stats.settings.clone().unwrap();
    assert_eq!(settings.slow_threshold_source, "auto");
    let threshold = Duration::try_from(settings.slow_threshold.unwrap()).unwrap();
    assert!(
        (Duration::from_millis(5)..=Duration::from_secs(1)).contains(&threshold),
        "{threshold:?}"
    );
    assert_ne!(threshold, Duration::from_millis(50));
    assert_eq!(
        service.engine.breaker(CallKind::Bulk).config().slow_threshold,
        threshold * 20,
        "the slow threshold of bulk calls is not 20 times as long"
    );
    assert_eq!(stats.mode(), CircuitMode::MetricsOnly);
}

async fn unary(service: &Service) -> CircuitStats {
    let response = service
        .stats()
        .await
        .get_circuit_stats(GetCircuitStatsRequest {})
        .await;
    response.unwrap().into_inner().circuits.swap_remove(0)
}

async fn change(service: &Service, key: &str, change: Change) -> Result<Vec<CircuitStats>, Status> {
    let request = SetCircuitModeRequest {
        key: key.to_owned(),
        change: Some(change),
        comment: "a test".to_owned(),
    };
    let response = service.stats().await.set_circuit_mode(request).await?;
    Ok(response.into_inner().circuits)
}
