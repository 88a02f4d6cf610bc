use std::{cell::RefCell, collections::VecDeque, io, sync::Arc};

use tonic::{TimeoutExpired, metadata::MetadataValue};
use tonic_types::ErrorDetails;

use super::*;

const POLICY: RetryPolicy = RetryPolicy {
    attempts_max: 5,
    total_max: Duration::from_secs(60),
    backoff_base: Duration::from_millis(100),
    backoff_max: Duration::from_secs(1),
};

/// Runs a call whose attempts receive `answers`. Returns the time of each attempt since the start, and the result.
async fn play(
    policy: RetryPolicy,
    answers: Vec<Result<u8, Status>>,
) -> (Vec<Duration>, Result<u8, CallError>) {
    play_over(false, policy, answers).await
}

/// The same as [`play`]. `has_alternatives` says whether there are several endpoints.
async fn play_over(
    has_alternatives: bool,
    policy: RetryPolicy,
    answers: Vec<Result<u8, Status>>,
) -> (Vec<Duration>, Result<u8, CallError>) {
    let begin = Instant::now();
    let answers = RefCell::new(VecDeque::from(answers));
    let moments = RefCell::new(Vec::new());
    let result = policy
        .run_over(has_alternatives, &RetryObserver::default(), |left| {
            assert_eq!(
                left,
                policy.total_max.saturating_sub(begin.elapsed()),
                "the deadline of an attempt"
            );
            moments.borrow_mut().push(begin.elapsed());
            let answer = answers.borrow_mut().pop_front().expect("too many attempts");
            async { answer }
        })
        .await;
    assert!(
        answers.borrow().is_empty(),
        "{} answers are left",
        answers.borrow().len()
    );
    (moments.into_inner(), result)
}

fn pushed_back(code: Code, value: &str) -> Status {
    let mut status = Status::new(code, "not now");
    status
        .metadata_mut()
        .insert(PUSHBACK, MetadataValue::try_from(value).unwrap());
    status
}

fn with_retry_info(code: Code, delay: Duration) -> Status {
    let mut details = ErrorDetails::with_error_info("QUEUE_FULL", "tally.v1", []);
    details.set_retry_info(Some(delay));
    Status::with_error_details(code, "not now", details)
}

fn connection_broken(code: Code) -> Status {
    let mut status = Status::new(code, "h2 protocol error");
    status.set_source(Arc::new(io::Error::from(io::ErrorKind::BrokenPipe)));
    status
}

#[tokio::test(start_paused = true)]
async fn a_first_success_is_not_repeated() {
    let (moments, result) = play(POLICY, vec![Ok(7)]).await;
    assert_eq!((moments, result.unwrap()), (vec![Duration::ZERO], 7));
}

#[tokio::test(start_paused = true)]
async fn without_a_hint_the_delay_doubles_up_to_its_bound() {
    let unavailable = || Err(Status::unavailable("starting"));
    let policy = RetryPolicy {
        attempts_max: 8,
        ..POLICY
    };
    let (moments, result) = play(policy, (0..7).map(|_| unavailable()).chain([Ok(1)]).collect()).await;
    assert_eq!(result.unwrap(), 1);
    let delays: Vec<Duration> = moments.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (delay, ceiling_ms) in delays.iter().zip([100, 200, 400, 800, 1000, 1000, 1000]) {
        let ceiling = Duration::from_millis(ceiling_ms);
        // The clock of tokio has a resolution of 1 ms, so a delay may be 1 ms longer.
        assert!(
            *delay >= ceiling / 2 && *delay <= ceiling + Duration::from_millis(1),
            "{delay:?} of {ceiling:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn pushback_sets_the_delay_and_overrides_retry_info() {
    for code in [Code::Unavailable, Code::ResourceExhausted] {
        let mut both = with_retry_info(code, Duration::from_secs(9));
        both.metadata_mut().insert(PUSHBACK, MetadataValue::from(2000));
        let (moments, result) = play(POLICY, vec![Err(both), Ok(1)]).await;
        assert_eq!(result.unwrap(), 1);
        assert!(
            moments[1] >= Duration::from_secs(2),
            "{moments:?} is earlier than the server asked for"
        );
        assert!(moments[1] <= Duration::from_millis(2401), "{moments:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn retry_info_sets_the_delay() {
    for code in [Code::Unavailable, Code::ResourceExhausted] {
        let (moments, result) = play(
            POLICY,
            vec![Err(with_retry_info(code, Duration::from_secs(3))), Ok(1)],
        )
        .await;
        assert_eq!(result.unwrap(), 1);
        assert!(
            (Duration::from_secs(3)..=Duration::from_millis(3601)).contains(&moments[1]),
            "{moments:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_negative_or_unreadable_pushback_forbids_another_attempt() {
    for value in ["-1", "soon", "", "1.5", "99999999999"] {
        let (moments, result) = play(POLICY, vec![Err(pushed_back(Code::Unavailable, value))]).await;
        assert_eq!(
            (moments.len(), result.unwrap_err().attempts()),
            (1, 1),
            "{value:?}"
        );
    }
    let zero = play(POLICY, vec![Err(pushed_back(Code::Unavailable, "0")), Ok(1)]).await;
    assert_eq!(zero.1.unwrap(), 1, "zero means at once");
}

#[tokio::test(start_paused = true)]
async fn rejections_and_faults_are_not_retried() {
    let codes = [
        Code::Cancelled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::DataLoss,
        Code::Unauthenticated,
        // RESOURCE_EXHAUSTED is temporary only with a delay of the server, and here the server sends no delay.
        Code::ResourceExhausted,
    ];
    for code in codes {
        let (_, result) = play(POLICY, vec![Err(Status::new(code, "no"))]).await;
        assert_eq!(result.unwrap_err().status().code(), code);
    }
    // A delay of the server does not make a rejection temporary.
    let (_, result) = play(POLICY, vec![Err(pushed_back(Code::FailedPrecondition, "5"))]).await;
    assert_eq!(result.unwrap_err().status().code(), Code::FailedPrecondition);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_retried_with_any_code() {
    for code in [Code::Unknown, Code::Internal, Code::Cancelled, Code::Unavailable] {
        let (moments, result) = play(POLICY, vec![Err(connection_broken(code)), Ok(1)]).await;
        assert_eq!((moments.len(), result.unwrap()), (2, 1), "{code:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_the_client_is_not_a_lost_connection() {
    let mut status = Status::cancelled("Timeout expired");
    status.set_source(Arc::new(TimeoutExpired(())));
    let (moments, _) = play(POLICY, vec![Err(status)]).await;
    assert_eq!(moments.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn attempts_are_bounded() {
    let unavailable = || Err(Status::unavailable("down"));
    let (_, result) = play(POLICY, (0..5).map(|_| unavailable()).collect()).await;
    let error = result.unwrap_err();
    assert_eq!(error.attempts(), 5);
    assert_eq!(
        error.to_string(),
        "UNAVAILABLE: down (after 5 attempts); an attempt may have been executed"
    );
}

#[tokio::test(start_paused = true)]
async fn a_delay_beyond_the_total_time_ends_the_call() {
    let policy = RetryPolicy {
        total_max: Duration::from_secs(10),
        ..POLICY
    };
    let answers = vec![
        Err(pushed_back(Code::Unavailable, "6000")),
        Err(pushed_back(Code::Unavailable, "6000")),
    ];
    let begin = Instant::now();
    let (moments, result) = play(policy, answers).await;
    assert_eq!((moments.len(), result.unwrap_err().attempts()), (2, 2));
    assert!(
        begin.elapsed() < Duration::from_secs(8),
        "the call ended after {:?}",
        begin.elapsed()
    );
}

#[test]
fn an_error_names_the_reason_of_the_server() {
    let error = CallError::new(with_retry_info(Code::ResourceExhausted, Duration::ZERO));
    assert_eq!(error.reason().as_deref(), Some("QUEUE_FULL"));
    assert_eq!(error.to_string(), "QUEUE_FULL: not now");
    let error = CallError::new(Status::resource_exhausted("from a proxy"));
    assert_eq!(error.to_string(), "RESOURCE_EXHAUSTED: from a proxy");
}

#[test]
fn random_numbers_are_from_0_to_1() {
    assert!(
        (0..1000)
            .map(|_| random_share())
            .all(|share| (0.0..=1.0).contains(&share))
    );
}

fn error_info(code: Code, reason: &str, executed: &str) -> Status {
    let metadata = [("executed".to_owned(), executed.to_owned())];
    Status::with_error_details(
        code,
        "no",
        ErrorDetails::with_error_info(reason, "tally.v1", metadata),
    )
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_stays_unknown_until_the_ledger_answers() {
    let store_failed = || error_info(Code::Unavailable, "STORE_FAILED", "unknown");
    let circuit_open = || error_info(Code::Unavailable, "CIRCUIT_OPEN", "false");
    let rejected = || error_info(Code::FailedPrecondition, "INSUFFICIENT_FUNDS", "false");
    let no_account = || error_info(Code::NotFound, "ACCOUNT_NOT_FOUND", "false");
    let unreachable = || {
        let mut status = Status::unavailable("connection refused");
        status.set_source(Arc::new(ConnectError("refused".into())));
        status
    };
    for (answers, expected) in [
        (vec![circuit_open(), circuit_open()], Executed::No),
        (vec![store_failed(), circuit_open()], Executed::Unknown),
        (
            vec![connection_broken(Code::Unknown), circuit_open()],
            Executed::Unknown,
        ),
        (vec![store_failed(), unreachable()], Executed::Unknown),
        (vec![store_failed(), circuit_open(), rejected()], Executed::No),
        (vec![store_failed(), no_account()], Executed::Unknown),
        (vec![unreachable(), circuit_open()], Executed::No),
        (
            vec![Status::unavailable("from a proxy"), circuit_open()],
            Executed::Unknown,
        ),
    ] {
        let policy = RetryPolicy {
            attempts_max: u32::try_from(answers.len()).unwrap(),
            ..POLICY
        };
        let case = format!("{answers:?}");
        let (_, result) = play(policy, answers.into_iter().map(Err).collect()).await;
        let error = result.unwrap_err();
        assert_eq!(error.executed(), expected, "{case}");
        assert_eq!(
            error.to_string().contains("may have been executed"),
            expected == Executed::Unknown,
            "{error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_observer_is_called_before_each_delay() {
    let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let observer = RetryObserver::new({
        let seen = Arc::clone(&seen);
        move |status: &Status, delay| seen.lock().push((status.code(), delay))
    });
    let begin = Instant::now();
    let result = POLICY
        .run_observed(&observer, |_| {
            std::future::ready(Err::<u8, _>(Status::unavailable("down")))
        })
        .await;
    assert_eq!(result.unwrap_err().attempts(), 5);
    let seen = seen.lock();
    assert!(
        seen.len() == 4 && seen.iter().all(|(code, _)| *code == Code::Unavailable),
        "{seen:?}"
    );
    let waited: Duration = seen.iter().map(|(_, delay)| *delay).sum();
    // The clock counts whole milliseconds, so each delay may take one more.
    assert!((waited..=waited + Duration::from_millis(8)).contains(&begin.elapsed()));
}

/// The answer of a replica that does not lead, with a delay of 100 ms.
fn not_leader() -> Status {
    let metadata = [("executed".to_owned(), "false".to_owned())];
    let mut details = ErrorDetails::with_error_info("NOT_LEADER", "tally.v1", metadata);
    details.set_retry_info(Some(Duration::from_millis(100)));
    Status::with_error_details(Code::Unavailable, "this replica does not lead", details)
}

#[tokio::test(start_paused = true)]
async fn while_nobody_leads_the_delay_is_a_small_share_of_the_time() {
    let policy = RetryPolicy::default();
    let answers = std::iter::repeat_with(|| Err(not_leader())).take(60);
    let (moments, result) = play_over(true, policy, answers.chain([Ok(1)]).collect()).await;
    assert_eq!(result.unwrap(), 1);
    for pair in moments.windows(2) {
        let (lasted, delay) = (pair[0], pair[1] - pair[0]);
        let ceiling = (lasted / 8).clamp(policy.backoff_base, policy.backoff_max);
        assert!(
            delay >= ceiling / 2 && delay <= ceiling + Duration::from_millis(1),
            "{delay:?} after {lasted:?}"
        );
    }
    assert!(moments[1] <= Duration::from_millis(51), "{moments:?}");
}

#[tokio::test(start_paused = true)]
async fn the_default_policy_outlasts_a_minute_without_a_leader() {
    let policy = RetryPolicy::default();
    let begin = Instant::now();
    let attempt = |_| std::future::ready(Err::<u8, _>(not_leader()));
    let result = policy.run_over(true, &RetryObserver::default(), attempt).await;
    let error = result.unwrap_err();
    assert!(error.attempts() < policy.attempts_max, "{error}");
    assert!(begin.elapsed() >= policy.total_max - policy.backoff_max);
    assert_eq!(error.executed(), Executed::No);
}

#[tokio::test(start_paused = true)]
async fn the_delay_of_an_endpoint_that_is_not_left_holds() {
    let circuit_open = || {
        let mut status = error_info(Code::Unavailable, "CIRCUIT_OPEN", "false");
        status.metadata_mut().insert(PUSHBACK, MetadataValue::from(2000));
        status
    };
    let (moments, result) = play_over(true, POLICY, vec![Err(circuit_open()), Ok(1)]).await;
    assert_eq!(result.unwrap(), 1);
    assert!(moments[1] >= Duration::from_secs(2), "{moments:?}");
    // With one endpoint, the client can't use another endpoint.
    let (moments, result) = play(POLICY, vec![Err(not_leader()), Ok(1)]).await;
    assert_eq!(result.unwrap(), 1);
    assert!(moments[1] >= Duration::from_millis(100), "{moments:?}");
    // A service can forbid further attempts.
    let forbidden = pushed_back(Code::Unavailable, "-1");
    let (moments, _) = play_over(true, POLICY, vec![Err(forbidden)]).await;
    assert_eq!(moments.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_does_not_lead_does_not_settle_an_unknown_outcome() {
    let lost = connection_broken(Code::Unknown);
    let answers = vec![
        Err(lost),
        Err(not_leader()),
        Err(error_info(Code::FailedPrecondition, "ACCOUNT_FROZEN", "false")),
    ];
    let (_, result) = play_over(true, POLICY, answers).await;
    assert_eq!(
        result.unwrap_err().executed(),
        Executed::No,
        "the ledger has answered"
    );
    let policy = RetryPolicy {
        attempts_max: 2,
        ..POLICY
    };
    let answers = vec![Err(connection_broken(Code::Unknown)), Err(not_leader())];
    let (_, result) = play_over(true, policy, answers).await;
    assert_eq!(result.unwrap_err().executed(), Executed::Unknown);
}
