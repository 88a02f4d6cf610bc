//! Callers that leave (drop their future before they get an answer), and callers whose deadline passes.

use super::*;

// ===== callers who leave =====

#[test]
fn cancelled_in_the_queue_is_never_executed() {
    let mut both = sides(8);
    let (mut polled, unpolled, mut stays) = (
        submit_number(&both, 0),
        submit_number(&both, 1),
        submit_number(&both, 2),
    );
    assert_pending!(polled.poll());
    drop((polled, unpolled));
    let claimed = take(&mut both.1);
    assert_eq!(numbers(&claimed), [2]);
    answer(&both.1, claimed);
    assert_eq!(value(&mut stays), 2);
    let stats = both.0.stats();
    assert_eq!((stats.cancelled, stats.expired, stats.replies_missing), (2, 0, 0));
}

#[test]
fn cancelled_after_the_claim_is_executed() {
    let mut both = sides(8);
    let future = submit_number(&both, 0);
    let claimed = take(&mut both.1);
    drop(future);
    assert_eq!(numbers(&claimed), [0]);
    answer(&both.1, claimed);
    let stats = both.0.stats();
    assert_eq!(
        (stats.cancelled, stats.replies_missing, stats.commit.count),
        (0, 0, 1)
    );
}

// ===== deadlines =====

#[tokio::test(start_paused = true)]
async fn the_callers_timer_sees_the_expiry_first() {
    let (processor, mut intake) = sides::<usize>(8);
    let mut future = submit(&processor, Counted::new(0), Some(5 * MS));
    assert_pending!(future.poll());
    advance(4 * MS).await;
    assert_pending!(future.poll());
    advance(MS).await;
    assert!(future.is_woken());
    assert_ready_eq!(future.poll(), Err(BatchError::ExpiredInQueue));
    drop(future);
    assert!(take(&mut intake).is_empty());
    let stats = processor.stats();
    assert_eq!((stats.expired, stats.cancelled, stats.queue_depth), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_executor_sees_the_expiry_first() {
    let (processor, mut intake) = sides::<usize>(8);
    let mut future = submit(&processor, Counted::new(0), Some(5 * MS));
    let mut patient = submit(&processor, Counted::new(1), Some(6 * MS));
    advance(5 * MS).await;
    let claimed = take(&mut intake);
    assert_eq!(numbers(&claimed), [1]);
    assert_ready_eq!(future.poll(), Err(BatchError::ExpiredInQueue));
    answer(&intake, claimed);
    assert_eq!(value(&mut patient), 1);
    drop(future);
    let stats = processor.stats();
    assert_eq!((stats.expired, stats.cancelled, stats.replies_missing), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_arrives_expired_takes_no_room() {
    let (processor, mut intake) = sides::<usize>(8);
    let mut future = submit(&processor, Counted::new(0), Some(Duration::ZERO));
    assert_eq!((processor.stats().queue_depth, processor.stats().expired), (0, 1));
    assert_ready_eq!(future.poll(), Err(BatchError::ExpiredInQueue));
    assert!(take(&mut intake).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_expires_after_the_claim_is_unknown() {
    let (processor, mut intake) = sides::<usize>(8);
    let mut future = submit(&processor, Counted::new(0), Some(5 * MS));
    assert_pending!(future.poll());
    let claimed = take(&mut intake);
    advance(5 * MS).await;
    assert_ready_eq!(future.poll(), Err(BatchError::ExpiredInExecution));
    drop(future);
    assert!(!BatchError::ExpiredInExecution.is_not_executed());
    assert!(BatchError::ExpiredInQueue.is_not_executed());
    // The executor may still answer. The answer has no effect.
    answer(&intake, claimed);
    let stats = processor.stats();
    assert_eq!((stats.expired, stats.cancelled, stats.replies_missing), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_has_arrived_beats_the_deadline() {
    let (processor, mut intake) = sides::<usize>(8);
    let mut future = submit(&processor, Counted::new(7), Some(5 * MS));
    assert_pending!(future.poll());
    advance(3 * MS).await;
    let claimed = take(&mut intake);
    advance(4 * MS).await;
    answer(&intake, claimed);
    let answer = assert_ready!(future.poll()).unwrap();
    assert_eq!(answer.value, 7);
    assert_eq!(
        answer.timing,
        Timing {
            queue_wait: 3 * MS,
            commit: 4 * MS
        }
    );
}

/// After a commit of 4 ms, a deadline in 4 ms can't be met, and a deadline in 5 ms can.
#[tokio::test(start_paused = true)]
async fn a_request_that_a_commit_would_make_too_late_is_not_begun() {
    let (processor, mut intake) = sides::<usize>(8);
    commit_of(&processor, &mut intake, 4 * MS).await;
    let mut hopeless = submit(&processor, Counted::new(1), Some(4 * MS));
    let in_time = submit(&processor, Counted::new(2), Some(5 * MS));
    assert_eq!(numbers(&take(&mut intake)), [2]);
    assert_ready_eq!(hopeless.poll(), Err(BatchError::ExpiredInQueue));
    assert_eq!(processor.stats().expired, 1);
    drop(in_time);
}

/// After one commit of 1 s, requests with a deadline in 20 ms are rejected. The rejection lasts for 1 to 2.1 s, and not
/// for ever.
#[tokio::test(start_paused = true)]
async fn one_stall_does_not_reject_short_deadlines_for_ever() {
    let (processor, mut intake) = sides::<usize>(8);
    commit_of(&processor, &mut intake, 1000 * MS).await;
    let mut rejected = 0;
    loop {
        let future = submit(&processor, Counted::new(rejected), Some(20 * MS));
        if !take(&mut intake).is_empty() {
            break;
        }
        drop(future);
        rejected += 1;
        advance(10 * MS).await;
    }
    assert!(
        (100..=210).contains(&rejected),
        "{rejected} requests were rejected"
    );
}

/// The number of rejected requests does not change the average duration of a commit.
#[tokio::test(start_paused = true)]
async fn rejected_requests_do_not_shorten_the_rejection() {
    let (processor, mut intake) = sides::<usize>(1024);
    commit_of(&processor, &mut intake, 1000 * MS).await;
    let before = processor.stats().commit_average;
    for wait in [0, 900, 99] {
        advance(wait * MS).await;
        let crowd: Vec<_> = (0..1000)
            .map(|number| submit(&processor, Counted::new(number), Some(20 * MS)))
            .collect();
        assert!(take(&mut intake).is_empty());
        drop(crowd);
    }
    assert_eq!(processor.stats().commit_average, before);
    // From now on, the average decreases in steps of an eighth of the average. The time between two steps is at least
    // an eighth of the average. The number of requests makes no difference.
    for _ in 0..2 {
        advance(MS).await;
        let crowd: Vec<_> = (0..1000)
            .map(|number| submit(&processor, Counted::new(number), Some(20 * MS)))
            .collect();
        assert!(take(&mut intake).is_empty());
        drop(crowd);
    }
    assert_eq!(processor.stats().commit_average, before * 7 / 8);
}

// ===== timers =====

/// The test blocks the executor's thread, and the callers' runtime continues to run. The simulated clock of this
/// runtime advances when all tasks are idle, so the clock reaches the deadline.
#[tokio::test(start_paused = true)]
async fn a_blocked_executor_does_not_delay_timers() {
    let (processor, mut intake) = sides::<usize>(8);
    let (release, blocked) = std::sync::mpsc::sync_channel::<()>(0);
    let (claims, claimed_first) = std::sync::mpsc::sync_channel::<()>(1);
    let executor = thread::spawn(move || {
        intake.sleep(1, None);
        let claimed = take(&mut intake);
        claims.send(()).unwrap();
        assert!(blocked.recv().is_err(), "dropping the sender ends the wait");
        answer(&intake, claimed);
    });
    let begun = Instant::now();
    let patient = processor.submit(Submission::new(Counted::new(0), None));
    // The executor has taken the first request, and takes no further requests.
    claimed_first.recv().unwrap();
    let queued = processor.submit(Submission::new(Counted::new(1), Some(begun + 22 * MS)));
    assert_eq!(queued.await.unwrap_err(), BatchError::ExpiredInQueue);
    assert!(begun.elapsed() >= 22 * MS);
    drop(release);
    assert_eq!(patient.await.unwrap().value, 0);
    executor.join().unwrap();
}
