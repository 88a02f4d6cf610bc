//! Tests of the batch processor's guarantees. In nearly all tests, the test itself acts as the executor, step by step.
//! In tests with `start_paused`, the clock moves only when the test moves it.

mod budget;
mod fairness;
mod leaving;
mod limits;
mod lingering;
mod order;
mod sequences;
mod threads;

use std::{
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Context,
    thread,
    time::Duration,
};

use tokio::time::{Instant, advance};
use tokio_test::{assert_pending, assert_ready, assert_ready_eq, task};

use super::*;

const MIB: usize = 1 << 20;
const MS: Duration = Duration::from_millis(1);

/// A request or an answer that counts how often it is dropped.
#[derive(Debug)]
struct Counted {
    number: usize,
    items: usize,
    bytes: usize,
    _drops: DropCount,
}

#[derive(Debug, Default)]
struct DropCount(Arc<AtomicUsize>);

type TestSides = Sides<Counted, usize>;
type TestFuture = task::Spawn<ResponseFuture<usize>>;

// ===== impl Counted =====

impl Counted {
    fn new(number: usize) -> Self {
        Counted {
            number,
            items: 1,
            bytes: 100,
            _drops: DropCount::default(),
        }
    }

    fn counting(number: usize, drops: &Arc<AtomicUsize>) -> Self {
        Counted {
            _drops: DropCount(Arc::clone(drops)),
            ..Counted::new(number)
        }
    }

    fn of_bytes(bytes: usize) -> Self {
        Counted {
            bytes,
            ..Counted::new(0)
        }
    }
}

impl BatchItem for Counted {
    fn items(&self) -> usize {
        self.items
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for DropCount {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn sides<R>(queue_requests_max: usize) -> Sides<Counted, R> {
    let config = BatchConfig {
        queue_requests_max,
        queue_bytes_max: MIB,
        max_linger: Duration::from_millis(2),
        ..BatchConfig::default()
    };
    batch(&config).unwrap()
}

fn submit<R>(
    processor: &BatchProcessor<Counted, R>,
    item: Counted,
    deadline: Option<Duration>,
) -> task::Spawn<ResponseFuture<R>> {
    let deadline = deadline.map(|after| Instant::now() + after);
    task::spawn(processor.submit(Submission::new(item, deadline)))
}

fn submit_number((processor, _): &TestSides, number: usize) -> TestFuture {
    submit(processor, Counted::new(number), None)
}

/// Takes all queued requests.
fn take<R>(intake: &mut Intake<Counted, R>) -> Vec<Claimed<Counted, R>> {
    let mut claimed = Vec::new();
    let items = intake.take(usize::MAX, &mut claimed);
    assert_eq!(items, claimed.iter().map(|one| one.item.items).sum::<usize>());
    claimed
}

/// Answers every request with the request's number.
fn answer(intake: &Intake<Counted, usize>, claimed: Vec<Claimed<Counted, usize>>) {
    let answers = claimed
        .into_iter()
        .map(|Claimed { item, reply, .. }| (reply, item.number));
    intake.answerer().answer_all(answers);
}

fn numbers(claimed: &[Claimed<Counted, usize>]) -> Vec<usize> {
    claimed.iter().map(|one| one.item.number).collect()
}

fn value(future: &mut TestFuture) -> usize {
    assert_ready!(future.poll()).unwrap().value
}

/// Executes one request with a commit of this duration.
async fn commit_of(
    processor: &BatchProcessor<Counted, usize>,
    intake: &mut Intake<Counted, usize>,
    duration: Duration,
) {
    let mut future = submit(processor, Counted::new(0), None);
    let claimed = take(intake);
    assert_eq!(intake.due(), Some(FlushReason::Idle));
    advance(duration).await;
    answer(intake, claimed);
    assert_eq!(value(&mut future), 0);
    assert_eq!(processor.stats().commit_average, duration);
}

// ===== every request gets its answer or an error =====

#[test]
fn answers_find_their_callers_in_any_order() {
    let mut both = sides(8);
    let mut futures = (0..5)
        .map(|number| submit_number(&both, number))
        .collect::<Vec<_>>();
    for future in &mut futures {
        assert_pending!(future.poll());
    }
    let mut claimed = take(&mut both.1);
    claimed.reverse();
    claimed.swap(1, 3);
    answer(&both.1, claimed);
    for (number, future) in futures.iter_mut().enumerate() {
        assert!(future.is_woken());
        assert_eq!(value(future), number);
    }
}

#[test]
fn an_executor_that_returns_early_answers_lost() {
    fn fails_half_way(intake: &mut Intake<Counted, usize>) -> Option<()> {
        let mut claimed = take(intake);
        let unanswered = claimed.split_off(1);
        answer(intake, claimed);
        assert_eq!(unanswered.len(), 1);
        None
    }

    let mut both = sides(8);
    let (mut first, mut second) = (submit_number(&both, 1), submit_number(&both, 2));
    assert_pending!(second.poll());
    assert_eq!(fails_half_way(&mut both.1), None);
    assert_eq!(value(&mut first), 1);
    assert!(second.is_woken());
    assert_ready_eq!(second.poll(), Err(BatchError::Lost));
    assert!(!BatchError::Lost.is_not_executed());
    assert_eq!(both.0.stats().replies_missing, 1);
}

#[test]
fn an_executor_that_panics_answers_everybody() {
    let (processor, mut intake) = sides::<usize>(8);
    let mut claimed = submit(&processor, Counted::new(1), None);
    let mut queued = submit(&processor, Counted::new(2), None);
    assert_pending!(claimed.poll());
    assert_pending!(queued.poll());
    let executor = thread::spawn(move || {
        let mut in_hand = Vec::new();
        assert_eq!(intake.take(1, &mut in_hand), 1);
        // Unwinds like a panic, but prints no message on standard error.
        resume_unwind(Box::new("torn state"));
    });
    assert!(executor.join().is_err());

    assert!(claimed.is_woken() && queued.is_woken());
    assert_ready_eq!(claimed.poll(), Err(BatchError::Lost));
    assert_ready_eq!(queued.poll(), Err(BatchError::Closed));
    assert!(processor.is_closed());
    let mut late = submit(&processor, Counted::new(3), None);
    assert_ready_eq!(late.poll(), Err(BatchError::Closed));
    assert!(BatchError::Closed.is_not_executed());
    let stats = processor.stats();
    assert_eq!((stats.replies_missing, stats.queue_depth), (1, 0));
}

// ===== every request and every answer is dropped exactly once =====

#[tokio::test(start_paused = true)]
async fn ten_items_are_dropped_ten_times() {
    let drops = Arc::new(AtomicUsize::new(0));
    let (processor, mut intake) = sides::<usize>(6);
    let send = |number, deadline| submit(&processor, Counted::counting(number, &drops), deadline);

    let mut executed = (0..3).map(|number| send(number, None)).collect::<Vec<_>>();
    let withdrawn = send(3, None);
    let mut expired = send(4, Some(MS));
    let mut lost = send(5, None);
    let mut full = send(6, None);
    assert!(matches!(assert_ready!(full.poll()), Err(BatchError::Full { .. })));
    let mut too_late = send(7, Some(Duration::ZERO));
    assert_ready_eq!(too_late.poll(), Err(BatchError::ExpiredInQueue));
    drop(withdrawn);
    advance(MS).await;
    let mut claimed = take(&mut intake);
    assert_eq!(numbers(&claimed), [0, 1, 2, 5]);
    assert_eq!(drops.load(Ordering::SeqCst), 4);

    drop(claimed.pop());
    answer(&intake, claimed);
    let mut queued = send(8, None);
    drop(intake);
    let mut closed = send(9, None);
    for (number, future) in executed.iter_mut().enumerate() {
        assert_eq!(value(future), number);
    }
    assert_ready_eq!(expired.poll(), Err(BatchError::ExpiredInQueue));
    assert_ready_eq!(lost.poll(), Err(BatchError::Lost));
    assert_ready_eq!(queued.poll(), Err(BatchError::Closed));
    assert_ready_eq!(closed.poll(), Err(BatchError::Closed));
    assert_eq!(drops.load(Ordering::SeqCst), 10);
}

#[test]
fn ten_answers_are_dropped_ten_times() {
    let drops = Arc::new(AtomicUsize::new(0));
    let (processor, mut intake) = sides::<Counted>(16);
    let mut futures = (0..10)
        .map(|number| submit(&processor, Counted::new(number), None))
        .collect::<Vec<_>>();
    let claimed = take(&mut intake);
    // Half of the callers leave while their requests are executed.
    futures.truncate(5);
    let answers = claimed
        .into_iter()
        .map(|one| (one.reply, Counted::counting(one.item.number, &drops)));
    intake.answerer().answer_all(answers);
    assert_eq!(drops.load(Ordering::SeqCst), 5);
    for (number, future) in futures.iter_mut().enumerate() {
        let answer = assert_ready!(future.poll()).unwrap();
        assert_eq!(answer.value.number, number);
    }
    assert_eq!(drops.load(Ordering::SeqCst), 10);
    drop(futures);
    assert_eq!(drops.load(Ordering::SeqCst), 10);
}

// ===== no request waits for a timer =====

/// The runtime of this test has no timer, so the test would panic if the code under test used a timer.
#[test]
fn a_lone_item_is_taken_at_once() {
    let (processor, mut intake) = sides(8);
    let executor = thread::spawn(move || {
        while !intake.is_drained() {
            intake.sleep(1, None);
            let claimed = take(&mut intake);
            answer(&intake, claimed);
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for number in 0..100 {
        let item = Counted::new(number);
        let answer = runtime.block_on(processor.submit(Submission::new(item, None)));
        assert_eq!(answer.unwrap().value, number);
    }
    processor.close();
    executor.join().unwrap();
}

/// Requests that arrive every 9 ms do not delay each other. If each arrival restarted a timer, the first request might
/// wait for ever.
#[tokio::test(start_paused = true)]
async fn steady_arrivals_do_not_delay_one_another() {
    let mut both = sides(8);
    for number in 0..100 {
        let mut future = submit_number(&both, number);
        assert_pending!(future.poll());
        both.1.sleep(1, None);
        let claimed = take(&mut both.1);
        assert_eq!(numbers(&claimed), [number]);
        answer(&both.1, claimed);
        let answer = assert_ready!(future.poll()).unwrap();
        assert_eq!(answer.timing, Timing::default());
        advance(9 * MS).await;
    }
}

#[test]
fn a_batch_contains_what_is_queued_up_to_the_requested_size() {
    let mut both = sides(8);
    let futures = (0..3)
        .map(|number| submit_number(&both, number))
        .collect::<Vec<_>>();
    let pair = Counted {
        items: 2,
        ..Counted::new(3)
    };
    let _pair = submit(&both.0, pair, None);
    assert_eq!(both.1.waiting(), 4);
    // The two items of one request are not split: the second batch has one item more than requested.
    let mut claimed = Vec::new();
    assert_eq!(both.1.take(2, &mut claimed), 2);
    assert_eq!(numbers(&claimed), [0, 1]);
    assert_eq!(both.1.take(2, &mut claimed), 3);
    assert_eq!(numbers(&claimed), [0, 1, 2, 3]);
    assert_eq!(both.1.take(2, &mut claimed), 0);
    drop((futures, claimed));
}

// ===== shutdown =====

#[test]
fn a_closed_ring_is_emptied_and_accepts_nothing() {
    let mut both = sides(8);
    let mut futures = (0..3)
        .map(|number| submit_number(&both, number))
        .collect::<Vec<_>>();
    both.0.close();
    let mut late = submit_number(&both, 9);
    assert_ready_eq!(late.poll(), Err(BatchError::Closed));
    assert!(!both.1.is_drained());

    let claimed = take(&mut both.1);
    assert_eq!(numbers(&claimed), [0, 1, 2]);
    assert!(both.1.is_drained());
    // The queue is closed and empty, so every call of `sleep` returns at once.
    both.1.sleep(1, None);
    both.1.sleep(1, None);
    answer(&both.1, claimed);
    for (number, future) in futures.iter_mut().enumerate() {
        assert_eq!(value(future), number);
    }
    assert_eq!(both.0.stats().full, 0);
}

#[test]
fn every_accepted_request_is_executed_during_a_close() {
    const CALLERS: usize = 3;
    let (processor, mut intake) = sides::<usize>(4);
    let executor = thread::spawn(move || {
        let mut executed = 0;
        while !intake.is_drained() {
            intake.sleep(1, None);
            let claimed = take(&mut intake);
            executed += claimed.len();
            answer(&intake, claimed);
        }
        executed
    });
    let callers = (0..CALLERS)
        .map(|_| {
            let processor = processor.clone();
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                let mut answered = 0;
                loop {
                    let item = Counted::new(answered);
                    match runtime.block_on(processor.submit(Submission::new(item, None))) {
                        Ok(answer) => assert_eq!(answer.value, answered),
                        Err(error) => return (answered, error),
                    }
                    answered += 1;
                }
            })
        })
        .collect::<Vec<_>>();
    // Close the queue while the callers are running.
    while processor.stats().commit.count < 100 {
        thread::yield_now();
    }
    processor.close();
    let mut answered = 0;
    for caller in callers {
        let (count, error) = caller.join().unwrap();
        assert_eq!(error, BatchError::Closed);
        answered += count;
    }
    assert_eq!(executor.join().unwrap(), answered);
}
