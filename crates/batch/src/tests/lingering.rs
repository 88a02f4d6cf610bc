//! Lingering: when a batch waits for callers on their way, that is, for calls that have begun and have not yet
//! submitted their request. The clock moves only when a test moves it.

use super::*;

/// Returns calls that have begun and have not submitted their request.
fn on_their_way(processor: &BatchProcessor<Counted, usize>, calls: usize) -> Vec<impl Sized + use<>> {
    let caller = processor.caller();
    (0..calls)
        .map(|_| caller.calling(std::future::pending::<()>()))
        .collect()
}

/// Makes a processor that has measured a commit of 2 ms, so a linger takes 1 ms.
async fn linger_of_1_ms() -> TestSides {
    let (processor, mut intake) = sides::<usize>(64);
    commit_of(&processor, &mut intake, 2 * MS).await;
    assert_eq!(processor.stats().linger, MS);
    (processor, intake)
}

/// Submits a request and takes it.
fn take_one((processor, intake): &mut TestSides, deadline: Option<Duration>) -> TestFuture {
    let mut future = submit(processor, Counted::new(0), deadline);
    assert_pending!(future.poll());
    assert_eq!(take(intake).len(), 1);
    future
}

#[tokio::test(start_paused = true)]
async fn a_lone_request_is_executed_at_once_for_any_commit_time() {
    let mut both = linger_of_1_ms().await;
    for others in 0..4 {
        let others = on_their_way(&both.0, others);
        let _future = take_one(&mut both, None);
        assert_eq!(both.1.due(), Some(FlushReason::Idle));
        drop(others);
    }
    // Before the first commit is measured, no batch lingers either.
    let mut both = sides::<usize>(8);
    let others = on_their_way(&both.0, 100);
    let _future = take_one(&mut both, None);
    assert_eq!(both.1.due(), Some(FlushReason::Idle));
    drop(others);
}

#[tokio::test(start_paused = true)]
async fn a_batch_lingers_for_callers_on_their_way_from_its_first_request_on() {
    let mut both = linger_of_1_ms().await;
    let others = on_their_way(&both.0, 4);
    let first = take_one(&mut both, None);
    assert_eq!(both.1.due(), None);
    advance(MS * 6 / 10).await;
    // A later request does not restart the linger.
    let second = take_one(&mut both, None);
    assert_eq!(both.1.due(), None);
    advance(MS * 4 / 10).await;
    assert_eq!(both.1.due(), Some(FlushReason::Linger));
    drop((first, second, others));
}

#[tokio::test(start_paused = true)]
async fn a_linger_ends_when_the_expected_callers_have_submitted() {
    let mut both = linger_of_1_ms().await;
    let mut others = on_their_way(&both.0, 5);
    let first = take_one(&mut both, None);
    assert_eq!(both.1.due(), None);
    others.pop();
    assert_eq!(both.1.due(), None, "four callers are still on their way");
    // The executor sleeps for at most 1 ms, and is woken when one request is queued.
    let rest = both.1.pace.rest(&both.1.situation(), Instant::now);
    assert_eq!(rest, Some((MS, 1)));
    others.pop();
    assert_eq!(both.1.due(), Some(FlushReason::Linger));
    drop((first, others));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_has_submitted_is_no_longer_on_its_way() {
    let mut both = linger_of_1_ms().await;
    let others = on_their_way(&both.0, 3);
    let processor = both.0.clone();
    let mut call = task::spawn(both.0.caller().calling(async move {
        tokio::task::yield_now().await;
        processor.submit(Submission::new(Counted::new(5), None)).await
    }));
    let first = take_one(&mut both, None);
    assert_pending!(call.poll());
    assert_eq!(both.1.due(), None);
    assert_pending!(call.poll());
    assert_eq!(numbers(&take(&mut both.1)), [5]);
    assert_eq!(both.1.due(), Some(FlushReason::Linger));
    drop((first, others, call));
    assert_eq!(both.0.queue.callers.on_their_way(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waited_in_the_queue_for_the_linger_time_does_not_linger() {
    let mut both = linger_of_1_ms().await;
    let others = on_their_way(&both.0, 9);
    let future = submit(&both.0, Counted::new(0), None);
    advance(MS).await;
    assert_eq!(take(&mut both.1).len(), 1);
    assert_eq!(both.1.due(), Some(FlushReason::Idle));
    drop((future, others));
}

#[tokio::test(start_paused = true)]
async fn after_a_linger_without_arrivals_the_next_batches_do_not_linger() {
    let mut both = linger_of_1_ms().await;
    let others = on_their_way(&both.0, 4);
    let mut at_once_between = Vec::new();
    for _ in 0..3 {
        let mut at_once = 0;
        loop {
            let _future = take_one(&mut both, None);
            match both.1.due() {
                Some(FlushReason::Idle) => at_once += 1,
                other => break assert_eq!(other, None),
            }
        }
        at_once_between.push(at_once);
        advance(MS).await;
        assert_eq!(both.1.due(), Some(FlushReason::Linger));
    }
    assert_eq!(at_once_between, [0, 1, 2]);
    drop(others);
}

#[tokio::test(start_paused = true)]
async fn a_lingering_batch_is_executed_before_its_earliest_deadline() {
    let mut both = linger_of_1_ms().await;
    let others = on_their_way(&both.0, 4);
    let late = take_one(&mut both, Some(90 * MS));
    assert_eq!(both.1.due(), None);
    // A commit takes 2 ms, so this request must be executed within 0.5 ms.
    let urgent = take_one(&mut both, Some(MS * 5 / 2));
    assert_eq!(both.1.due(), None);
    advance(MS / 2).await;
    assert_eq!(both.1.due(), Some(FlushReason::Deadline));
    drop((late, urgent, others));
}

/// A request whose deadline a linger could miss wakes the executor, even if the executor waits for more requests.
/// Without the wake-up, the test would not end.
#[tokio::test(start_paused = true)]
async fn a_request_with_a_short_deadline_wakes_the_executor() {
    let (processor, mut intake) = linger_of_1_ms().await;
    processor.notifier().notify();
    intake.sleep(64, None);
    let patient = submit(&processor, Counted::new(0), None);
    let urgent = submit(&processor, Counted::new(1), Some(3 * MS));
    intake.sleep(64, None);
    assert_eq!(take(&mut intake).len(), 2);
    drop((patient, urgent));
}

#[tokio::test(start_paused = true)]
async fn an_explicit_flush_ends_the_linger() {
    let mut both = linger_of_1_ms().await;
    let others = on_their_way(&both.0, 4);
    let first = take_one(&mut both, None);
    assert_eq!(both.1.due(), None);
    both.0.flush();
    both.1.sleep(1, None);
    assert_eq!(both.1.due(), Some(FlushReason::Explicit));
    // The flush does not apply to later requests.
    advance(MS / 10).await;
    let second = take_one(&mut both, None);
    assert_eq!(both.1.due(), None);
    drop((first, second, others));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_out_the_linger() {
    let mut both = linger_of_1_ms().await;
    let others = on_their_way(&both.0, 4);
    let mut future = take_one(&mut both, None);
    assert_eq!(both.1.due(), None);
    both.0.close();
    both.1.sleep(1, None);
    assert_eq!(both.1.due(), Some(FlushReason::Drain));
    drop((future.poll(), others));
}

#[tokio::test(start_paused = true)]
async fn with_a_linger_of_zero_no_batch_lingers() {
    let config = BatchConfig {
        max_linger: Duration::ZERO,
        ..BatchConfig::default()
    };
    let (processor, mut intake) = batch::<Counted, usize>(&config).unwrap();
    commit_of(&processor, &mut intake, 2 * MS).await;
    let mut both = (processor, intake);
    let others = on_their_way(&both.0, 100);
    let _future = take_one(&mut both, None);
    assert_eq!(both.1.due(), Some(FlushReason::Idle));
    assert_eq!(both.0.stats().linger, Duration::ZERO);
    drop(others);
}

/// Answers without a commit do not change the average duration of a commit.
#[tokio::test(start_paused = true)]
async fn answers_without_a_commit_do_not_count_as_commits() {
    let (processor, mut intake) = linger_of_1_ms().await;
    let future = submit(&processor, Counted::new(0), None);
    let answers = take(&mut intake)
        .into_iter()
        .map(|one| (one.reply, one.item.number));
    intake.answerer().answer_untimed(answers);
    assert_eq!(processor.stats().commit_average, 2 * MS);
    drop(future);
}
