//! The batch processor that calls a closure on its own thread: how its batches form, how its thread ends, and how it
//! fails.

use std::sync::{
    atomic::AtomicBool,
    mpsc::{Receiver, SyncSender, sync_channel},
};

use parking_lot::Mutex;

use super::*;

/// A request of several items.
struct Items(usize);

impl BatchItem for Items {
    fn items(&self) -> usize {
        self.0
    }

    fn bytes(&self) -> usize {
        1
    }
}

type Numbers = BatchProcessor<Single<usize>, usize>;

/// A processor whose closure reports the size of each batch, and waits until the test lets it continue.
fn held(batch_size: usize) -> (Numbers, BatchThread, SyncSender<()>, Receiver<usize>) {
    let (go_on, wait) = sync_channel::<()>(64);
    let (report, sizes) = sync_channel(64);
    let closure = move |batch: Vec<Single<usize>>| {
        report.send(batch.len()).expect("the test listens");
        wait.recv().expect("the test lets the batch go on");
        batch.into_iter().map(|Single(number)| number * 10).collect()
    };
    let builder = BatchThreadBuilder::new(batch_size, Duration::ZERO).expect("the settings are valid");
    let (batches, thread) = builder.spawn(closure).expect("the thread starts");
    (batches, thread, go_on, sizes)
}

fn submit_all(batches: &Numbers, numbers: std::ops::Range<usize>) -> Vec<ResponseFuture<usize>> {
    numbers
        .map(|number| batches.submit(Submission::new(Single(number), None)))
        .collect()
}

async fn values(futures: Vec<ResponseFuture<usize>>) -> Vec<Result<usize, BatchError>> {
    let mut values = Vec::new();
    for future in futures {
        values.push(future.await.map(|answer| answer.value));
    }
    values
}

#[tokio::test]
async fn batches_form_while_the_previous_one_is_processed_and_keep_their_size() {
    let (batches, thread, go_on, sizes) = held(4);
    let first = submit_all(&batches, 0..1);
    assert_eq!(sizes.recv(), Ok(1), "no request waits for a timer");
    let rest = submit_all(&batches, 1..10);
    for size in [4, 4, 1] {
        go_on.send(()).unwrap();
        assert_eq!(sizes.recv(), Ok(size));
    }
    go_on.send(()).unwrap();
    assert_eq!(values(first).await, [Ok(0)]);
    let expected: Vec<_> = (1..10).map(|number| Ok(number * 10)).collect();
    assert_eq!(values(rest).await, expected);
    drop(batches);
    thread.join().unwrap();
}

#[tokio::test]
async fn dropping_the_last_clone_processes_what_is_queued_and_ends_the_thread() {
    let (batches, thread, go_on, sizes) = held(100);
    let mut futures = submit_all(&batches, 0..1);
    assert_eq!(sizes.recv(), Ok(1));
    let clone = batches.clone();
    drop(batches);
    futures.extend(submit_all(&clone, 1..3));
    assert!(!clone.is_closed(), "one clone still exists");
    drop(clone);
    go_on.send(()).unwrap();
    go_on.send(()).unwrap();
    thread.join().unwrap();
    assert_eq!(values(futures).await, [Ok(0), Ok(10), Ok(20)]);
}

#[tokio::test]
async fn after_close_queued_requests_are_processed_and_new_ones_rejected() {
    let (batches, thread, go_on, sizes) = held(1);
    let queued = submit_all(&batches, 0..2);
    assert_eq!(sizes.recv(), Ok(1));
    batches.close();
    let late = submit_all(&batches, 2..3);
    go_on.send(()).unwrap();
    go_on.send(()).unwrap();
    thread.join().unwrap();
    assert_eq!(values(queued).await, [Ok(0), Ok(10)]);
    assert_eq!(values(late).await, [Err(BatchError::Closed)]);
}

#[tokio::test]
async fn a_panic_of_the_closure_reaches_every_caller() {
    let (started, has_started) = sync_channel(1);
    let (go_on, wait) = sync_channel::<()>(1);
    let closure = move |_: Vec<Single<usize>>| -> Vec<usize> {
        started.send(()).expect("the test listens");
        wait.recv().expect("the test lets the batch go on");
        resume_unwind(Box::new("the closure fails"))
    };
    let builder = BatchThreadBuilder::new(1, Duration::ZERO).unwrap();
    let (batches, thread) = builder.spawn(closure).unwrap();
    let futures = submit_all(&batches, 0..3);
    has_started.recv().unwrap();
    go_on.send(()).unwrap();
    let payload = thread.join().unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&"the closure fails"));
    let answers = [
        Err(BatchError::Lost),
        Err(BatchError::Closed),
        Err(BatchError::Closed),
    ];
    assert_eq!(
        values(futures).await,
        answers,
        "the first outcome is unknown, and the other two requests were not executed"
    );
    assert_eq!(
        values(submit_all(&batches, 3..4)).await,
        [Err(BatchError::Closed)]
    );
}

#[tokio::test]
async fn a_closure_with_too_few_answers_gives_nobody_the_answer_of_another() {
    let closure = |_: Vec<Single<usize>>| Vec::<usize>::new();
    let builder = BatchThreadBuilder::new(10, Duration::ZERO).unwrap();
    let (batches, thread) = builder.spawn(closure).unwrap();
    let answers = values(submit_all(&batches, 0..1)).await;
    assert_eq!(answers, [Err(BatchError::Lost)]);
    thread.join().unwrap_err();
}

#[tokio::test]
async fn a_timeout_gathers_a_batch_until_it_is_full_or_flushed() {
    let (report, sizes) = sync_channel(64);
    let closure = move |batch: Vec<Single<usize>>| {
        report.send(batch.len()).expect("the test listens");
        batch.into_iter().map(|Single(number)| number).collect()
    };
    // The batch thread uses the system's clock. The test never waits for the whole minute.
    let builder = BatchThreadBuilder::new(3, Duration::from_secs(60)).unwrap();
    let (batches, thread) = builder.spawn(closure).unwrap();
    let full = submit_all(&batches, 0..3);
    assert_eq!(sizes.recv(), Ok(3), "a full batch does not wait");
    assert_eq!(values(full).await, [Ok(0), Ok(1), Ok(2)]);
    let flushed = submit_all(&batches, 3..5);
    batches.flush();
    assert_eq!(sizes.recv(), Ok(2), "a flush ends the wait");
    assert_eq!(values(flushed).await, [Ok(3), Ok(4)]);
    let closed = submit_all(&batches, 5..6);
    drop(batches);
    thread.join().unwrap();
    assert_eq!(sizes.recv(), Ok(1), "closing the queue ends the wait");
    assert_eq!(values(closed).await, [Ok(5)]);
}

/// Waits until 100 requests are queued, for at most 1 h. The tests that call this function end the wait in another way.
fn wait_for_more(intake: &Intake<Single<usize>, usize>, taken_at: Instant) {
    intake.wait_for_more(100, Instant::now() + Duration::from_secs(3600), taken_at);
}

#[test]
fn a_batch_larger_than_the_queue_does_not_wait_for_requests_that_have_no_room() {
    let config = BatchConfig {
        queue_requests_max: 2,
        ..BatchConfig::default()
    };
    let (batches, intake) = batch(&config).unwrap();
    let taken_at = Instant::now();
    let _queued: Vec<ResponseFuture<usize>> = submit_all(&batches, 0..2);
    wait_for_more(&intake, taken_at);
}

#[test]
fn a_flush_covers_a_request_that_was_queued_while_the_queue_was_emptied() {
    let (batches, intake) = batch(&BatchConfig::default()).unwrap();
    let taken_at = Instant::now();
    let _queued: Vec<ResponseFuture<usize>> = submit_all(&batches, 0..1);
    // The executor saw an empty queue before the request was queued, and records the empty queue only afterwards.
    batches.queue.counters.oldest_is(None);
    assert!(
        !batches.queue.counters.flush_covers_oldest(taken_at),
        "there was no flush"
    );
    batches.flush();
    wait_for_more(&intake, taken_at);
}

#[tokio::test]
async fn a_batch_ends_with_the_request_that_brings_it_to_its_size() {
    let (go_on, wait) = sync_channel::<()>(64);
    let (report, sizes) = sync_channel(64);
    let closure = move |batch: Vec<Items>| {
        report.send(batch.len()).expect("the test listens");
        wait.recv().expect("the test lets the batch go on");
        vec![(); batch.len()]
    };
    let builder = BatchThreadBuilder::new(5, Duration::ZERO).unwrap();
    let (batches, thread) = builder.spawn(closure).unwrap();
    let submit = |items| batches.submit(Submission::new(Items(items), None));
    let mut answers = vec![submit(1)];
    assert_eq!(sizes.recv(), Ok(1));
    answers.extend([3, 3, 9, 1].map(submit));
    for size in [2, 1, 1] {
        go_on.send(()).unwrap();
        assert_eq!(sizes.recv(), Ok(size));
    }
    go_on.send(()).unwrap();
    for answer in answers {
        answer.await.unwrap();
    }
    drop(batches);
    thread.join().unwrap();
}

#[tokio::test]
async fn a_request_whose_caller_leaves_while_the_batch_waits_is_not_processed() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let closure = {
        let seen = Arc::clone(&seen);
        move |batch: Vec<Single<usize>>| {
            let numbers = batch.into_iter().map(|Single(number)| number);
            numbers.inspect(|number| seen.lock().push(*number)).collect()
        }
    };
    let builder = BatchThreadBuilder::new(3, Duration::from_secs(60)).unwrap();
    let (batches, thread) = builder.spawn(closure).unwrap();
    let leaves = submit_all(&batches, 0..1);
    let stays = submit_all(&batches, 1..2);
    drop(leaves);
    batches.flush();
    assert_eq!(values(stays).await, [Ok(1)]);
    drop(batches);
    thread.join().unwrap();
    assert_eq!(*seen.lock(), [1]);
}

#[test]
fn the_hook_runs_on_the_thread_before_the_first_batch() {
    let hooked = Arc::new(AtomicBool::new(false));
    let builder = BatchThreadBuilder::new(1, Duration::ZERO)
        .unwrap()
        .name("numbers");
    let builder = builder.on_start({
        let hooked = Arc::clone(&hooked);
        move || {
            assert_eq!(thread::current().name(), Some("numbers"));
            hooked.store(true, Ordering::SeqCst);
        }
    });
    let (batches, thread) = builder
        .spawn(|batch: Vec<Single<usize>>| vec![0; batch.len()])
        .unwrap();
    drop(batches);
    thread.join().unwrap();
    assert!(hooked.load(Ordering::SeqCst));
}

#[test]
fn settings_out_of_bounds_are_errors_with_field_value_and_bound() {
    let closure = |batch: Vec<Single<usize>>| vec![0; batch.len()];
    let rejected = |result: Result<Numbers, SpawnError>| result.unwrap_err().to_string();
    let (zero, second) = (Duration::ZERO, Duration::from_secs(1));
    assert_eq!(
        rejected(BatchProcessor::new(0, zero, second, closure)),
        "batch.batch_size = 0: must be 1 to 1048576"
    );
    assert_eq!(
        rejected(BatchProcessor::new(1, second * 61, second, closure)),
        "batch.timeout = 61s: must be 0ns to 60s"
    );
    assert_eq!(
        rejected(BatchProcessor::new(1, zero, zero, closure)),
        "batch.latency_budget = 0ns: must be 1µs to 3600s"
    );
}
