//! Tests of steps of the wall clock: a large step is held until an administrator confirms it or the clock comes back, and
//! commit times increase all the time. Unit tests with a simulated monotonic clock check the bounds exactly to the
//! second (`src/ledger_clock.rs`).

use std::{fs, path::Path, process::Command, sync::Arc, time::Duration};

use tally::{
    engine::{EngineConfig, StartError, TallyEngine},
    ledger_clock::{ClockError, STEP_MAX, date},
    proto::{
        ClockStatus, ConfirmClockRequest, GetBatchStatsRequest, GetClockRequest, GetTransactionRequest,
        HoldState, ProcessTransactionRequest, transaction_service_client::TransactionServiceClient,
    },
    telemetry::{Families, MetricSources},
    wall_clock::{ManualWallClock, SystemWallClock, WallClock},
};
use tally_ledger::Timestamp;
use tally_topology::{AffinityConfig, CpuAffinityManager, Mode};
use tonic::{Code, Status, transport::Channel};

use super::{
    expected,
    ledger_client::{hold, post},
    summary,
};
use crate::support::{
    in_process::{Service, patient_config, pay},
    server::BINARY,
    sim_disk::SimDisk,
};

/// The time of the wall clock at the start, in seconds since the Unix epoch.
const START: i64 = 1_700_000_000;
const HOUR: i64 = 3600;
/// Longest time until EXEC must have noticed that the clock was set.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Interval of checks.
const WAIT_POLL: Duration = Duration::from_millis(5);

const fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_nanos(u64::try_from(seconds).unwrap() * 1_000_000_000)
}

/// A service whose wall clock the test sets. The wall clock stands still otherwise. The monotonic clock is the real one, so
/// the test makes steps of hours, and compares only whether the clocks are near each other.
struct ClockedService {
    service: Service,
    clock: Arc<ManualWallClock>,
    client: TransactionServiceClient<Channel>,
    /// The last commit time.
    last: (i64, i32),
    commits: usize,
}

impl ClockedService {
    async fn start() -> Self {
        let clock = Arc::new(ManualWallClock::new(at(START)));
        let service = Service::start_with_clock(SimDisk::new(1), &patient_config(), clock.clone()).await;
        service.open_accounts(&["a", "b"]).await;
        let client = service.transactions().await;
        ClockedService {
            service,
            clock,
            client,
            last: (0, 0),
            commits: 0,
        }
    }

    /// Stops the service, and starts it again at this time.
    async fn restart(self, time: i64) -> Self {
        let ClockedService {
            service,
            clock,
            client,
            last,
            commits,
        } = self;
        drop(client);
        let disk = service.stop().await;
        clock.set(at(START + time));
        let service = Service::start_with_clock(disk, &patient_config(), clock.clone()).await;
        ClockedService {
            client: service.transactions().await,
            service,
            clock,
            last,
            commits,
        }
    }

    /// Commits some transactions. Their commit times increase, and are near `near` (in seconds since the start).
    async fn commit(&mut self, near: i64) {
        for _ in 0..3 {
            self.commits += 1;
            let id = format!("t{}", self.commits);
            let answer = self.client.process_transaction(pay(&id)).await.unwrap();
            let time = answer.into_inner().commit_time.unwrap();
            let time = (time.seconds, time.nanos);
            assert!(time > self.last, "{id}: {time:?} after {:?}", self.last);
            self.last = time;
            let apart = (time.0 - START - near).abs();
            assert!(apart < HOUR / 2, "{id}: {time:?}, expected near {near}");
        }
    }

    fn set(&self, seconds: i64) {
        self.clock.set(at(START + seconds));
    }

    async fn clock(&self) -> ClockStatus {
        let answer = self.service.stats().await.get_clock(GetClockRequest {}).await;
        answer.unwrap().into_inner().clock.unwrap()
    }

    /// Returns the held step, rounded to minutes, as the calls and the metric report it.
    async fn held_minutes(&self) -> Option<i64> {
        let held = self.clock().await.held_step;
        let mut stats = self.service.stats().await;
        let reported = stats.get_batch_stats(GetBatchStatsRequest {}).await.unwrap();
        let reported = reported.into_inner().clock_held_step;
        assert_eq!(reported.is_some(), held.is_some());
        let metrics: MetricSources = Arc::new([Arc::new(self.service.engine.clone())]);
        let metrics = Families::collect(&metrics).to_prometheus();
        assert_eq!(
            metrics.contains("\ntally_clock_held_seconds 0\n"),
            held.is_none(),
            "{metrics}"
        );
        held.map(|step| (step.seconds + step.seconds.signum() * 30) / 60)
    }

    /// Makes a hold that expires after this many seconds.
    async fn hold(&mut self, id: &str, timeout: i64) {
        let request = ProcessTransactionRequest {
            pending_timeout: Some(seconds(timeout)),
            ..hold(id, pay(id).transfers)
        };
        self.client.process_transaction(request).await.unwrap();
    }

    async fn hold_state(&mut self, id: &str) -> HoldState {
        let request = GetTransactionRequest {
            transaction_id: id.to_owned(),
            ..GetTransactionRequest::default()
        };
        let found = self.client.get_transaction(request).await.unwrap().into_inner();
        found.transaction.unwrap().hold_state()
    }

    /// Waits until this number of holds has expired. The calls do not pass through the queue, so EXEC must wake by itself.
    async fn wait_for_expired(&self, count: i64) {
        let mut stats = self.service.stats().await;
        for _ in 0..WAIT_MAX.as_millis() / WAIT_POLL.as_millis() {
            let figures = stats.get_batch_stats(GetBatchStatsRequest {}).await.unwrap();
            let expired = figures.into_inner().ledger.unwrap().holds_expired;
            assert!(expired <= count, "{expired} holds have expired");
            if expired == count {
                return;
            }
            tokio::time::sleep(WAIT_POLL).await;
        }
        panic!("{count} holds should have expired");
    }

    async fn confirm(&self, step: Option<prost_types::Duration>) -> Result<ClockStatus, Status> {
        let request = ConfirmClockRequest {
            held_step: step,
            comment: "test".to_owned(),
        };
        let answer = self.service.stats().await.confirm_clock(request).await?;
        Ok(answer.into_inner().clock.unwrap())
    }
}

#[tokio::test]
async fn a_large_step_is_held_until_it_is_confirmed_or_the_clock_comes_back() {
    let mut tested = ClockedService::start().await;
    tested.commit(0).await;
    assert_eq!(tested.held_minutes().await, None);
    // A step forward that ends by itself.
    tested.set(24 * HOUR);
    tested.commit(0).await;
    assert_eq!(tested.held_minutes().await, Some(24 * 60));
    tested.set(0);
    tested.commit(0).await;
    assert_eq!(tested.held_minutes().await, None);
    // A step forward that is confirmed.
    tested.set(2 * HOUR);
    tested.commit(0).await;
    let clock = tested.confirm(Some(seconds(2 * HOUR))).await.unwrap();
    assert_eq!(clock.held_step, None);
    assert_eq!(clock.system_time.unwrap().seconds, START + 2 * HOUR);
    assert_eq!(clock.ledger_time, clock.system_time);
    tested.commit(2 * HOUR).await;
    // A step back. After it is confirmed, the commits follow the last commit, because commit times never go back.
    tested.set(HOUR);
    tested.commit(2 * HOUR).await;
    assert_eq!(tested.held_minutes().await, Some(-60));
    let clock = tested.confirm(Some(seconds(-HOUR))).await.unwrap();
    assert_eq!(clock.ledger_time.unwrap().seconds, START + HOUR);
    let before = tested.last;
    tested.commit(2 * HOUR).await;
    assert_eq!(before.0, tested.last.0, "the times are only nanoseconds apart");
    // The wall clock catches up in small steps, each of which the ledger clock follows.
    for minute in 60..=150 {
        tested.set(minute * 60);
        assert_eq!(tested.held_minutes().await, None);
    }
    tested.commit(150 * 60).await;
}

#[tokio::test]
async fn a_hold_expires_by_the_time_of_the_ledger() {
    let mut tested = ClockedService::start().await;
    tested.hold("short", 30).await;
    tested.set(29);
    tested.commit(0).await;
    assert_eq!(tested.hold_state("short").await, HoldState::Pending);
    tested.set(31);
    tested.wait_for_expired(1).await;
    // A clock that goes back by a small step is followed, and does not bring the hold back.
    tested.set(-20);
    tested.commit(0).await;
    assert_eq!(tested.hold_state("short").await, HoldState::Expired);
    let late = post("late", "short", Vec::new());
    let status = tested.client.process_transaction(late).await.unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::FailedPrecondition, "PENDING_EXPIRED", "false")
    );
    // The time of the ledger stays at 31 s until the wall clock has reached this time again.
    tested.hold("after-back", 30).await;
    for time in [20, 59] {
        tested.set(time);
        tested.commit(0).await;
        assert_eq!(tested.hold_state("after-back").await, HoldState::Pending);
    }
    tested.set(62);
    tested.wait_for_expired(2).await;

    // A large step forward lets nothing expire until it is confirmed.
    tested.hold("hour", HOUR).await;
    tested.set(2 * HOUR);
    tested.commit(0).await;
    assert_eq!(tested.hold_state("hour").await, HoldState::Pending);
    let step = tested.clock().await.held_step;
    tested.confirm(step).await.unwrap();
    tested.wait_for_expired(3).await;

    // After a large step back, a hold expires when the clock has reached its deadline again.
    tested.hold("half-hour", HOUR / 2).await;
    tested.set(HOUR);
    tested.commit(2 * HOUR).await;
    let step = tested.clock().await.held_step;
    tested.confirm(step).await.unwrap();
    for minute in 60..150 {
        tested.set(minute * 60);
        assert_eq!(tested.held_minutes().await, None);
    }
    tested.commit(149 * 60).await;
    assert_eq!(tested.hold_state("half-hour").await, HoldState::Pending);
    for seconds in [149 * 60 + 40, 150 * 60 + 1] {
        tested.set(seconds);
        assert_eq!(tested.held_minutes().await, None);
    }
    tested.wait_for_expired(4).await;

    // A start with a clock that is a little behind.
    tested.hold("restart", 30).await;
    let mut tested = tested.restart(150 * 60 - 40).await;
    tested.commit(150 * 60).await;
    assert_eq!(tested.hold_state("restart").await, HoldState::Pending);
    tested.set(150 * 60 + 10);
    tested.commit(150 * 60).await;
    tested.set(150 * 60 + 32);
    tested.wait_for_expired(1).await;
    // 5 holds were made and have expired, each once.
    let next = tested.client.process_transaction(pay("next")).await.unwrap();
    let commits = i64::try_from(tested.commits).unwrap();
    assert_eq!(next.into_inner().sequence, commits + 2 * 5 + 1);
}

#[tokio::test]
async fn only_the_held_step_can_be_confirmed() {
    let mut tested = ClockedService::start().await;
    // Nothing is held, so nothing changes.
    let clock = tested.confirm(Some(seconds(HOUR))).await.unwrap();
    assert_eq!(clock.held_step, None);
    tested.set(10 * HOUR);
    for other in [9 * HOUR, -10 * HOUR, 0] {
        let status = tested.confirm(Some(seconds(other))).await.unwrap_err();
        assert_eq!(
            summary(&status),
            expected(Code::FailedPrecondition, "CLOCK_NOT_CONFIRMED", "false")
        );
        assert!(status.message().contains("look at the clock again"), "{status:?}");
    }
    let malformed = prost_types::Duration {
        seconds: 1,
        nanos: -1,
    };
    for step in [None, Some(malformed)] {
        let status = tested.confirm(step).await.unwrap_err();
        assert_eq!(
            summary(&status),
            expected(Code::InvalidArgument, "INVALID_FIELD", "false")
        );
    }
    let too_long = ConfirmClockRequest {
        held_step: Some(seconds(10 * HOUR)),
        comment: "x".repeat(257),
    };
    let status = tested.service.stats().await.confirm_clock(too_long).await;
    assert_eq!(
        summary(&status.unwrap_err()),
        expected(Code::InvalidArgument, "INVALID_FIELD", "false")
    );
    tested.commit(0).await;
    assert_eq!(tested.held_minutes().await, Some(600));
}

fn open(disk: SimDisk, clock: Arc<dyn WallClock>) -> Result<TallyEngine, StartError> {
    let affinity = AffinityConfig {
        mode: Mode::Off,
        ..AffinityConfig::default()
    };
    let affinity = CpuAffinityManager::detect(affinity).unwrap();
    let config = patient_config();
    TallyEngine::start(&config, Arc::new(disk), Path::new("/data"), clock, &affinity)
}

#[tokio::test]
async fn a_start_more_than_a_minute_behind_the_journal_needs_the_option() {
    let mut tested = ClockedService::start().await;
    tested.commit(0).await;
    let (last, clock) = (tested.last, Arc::clone(&tested.clock));
    drop(tested.client);
    let disk = tested.service.stop().await;
    clock.set(at(START - 61));
    let refused = open(disk.clone(), clock.clone());
    let Err(StartError::Clock(ClockError::Behind {
        wall,
        last: found,
        behind,
    })) = refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!(
        (wall, found.seconds_and_nanos().0),
        (at(START - 61), 1_700_000_000)
    );
    assert!(behind > STEP_MAX && behind < STEP_MAX + Duration::from_secs(2));
    // A start with a clock that is 59 s behind needs no option. The option accepts any difference.
    for (behind, accept_clock_behind) in [(59, false), (61, true), (100 * HOUR, true)] {
        clock.set(at(START - behind));
        let config = EngineConfig {
            accept_clock_behind,
            ..patient_config()
        };
        let service = Service::start_with_clock(disk.clone(), &config, clock.clone()).await;
        let mut client = service.transactions().await;
        let answer = client.process_transaction(pay(&format!("behind-{behind}"))).await;
        let time = answer.unwrap().into_inner().commit_time.unwrap();
        assert!((time.seconds, time.nanos) > last);
        assert_eq!(time.seconds, last.0, "the time is only nanoseconds later");
        drop(client);
        service.stop().await;
    }
    // A journal without blocks has no last time.
    clock.set(at(0));
    open(SimDisk::new(2), clock).unwrap().drain();
}

/// The real binary refuses to start on the journal of a service whose clock was two hours ahead.
#[tokio::test]
async fn the_error_of_a_refused_start_names_the_times_and_the_option() {
    let home = tempfile::tempdir().unwrap();
    let ahead = SystemWallClock.now().plus_nanos(2 * 3600 * 1_000_000_000);
    let clock = Arc::new(ManualWallClock::new(ahead));
    let service = Service::start_with_clock(SimDisk::new(1), &patient_config(), clock).await;
    service.open_accounts(&["a"]).await;
    for (path, bytes) in service.stop().await.snapshot() {
        let path = home.path().join(path.strip_prefix("/").unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let output = Command::new(BINARY)
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(home.path().join("data"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{text}");
    for part in [
        "the system clock shows ",
        &format!("but the last time in the journal is {}", date(ahead)),
        "; at most 1 min are accepted: set the clock, or start with --accept-clock-behind (TALLY_ACCEPT_CLOCK_BEHIND=true)",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}
