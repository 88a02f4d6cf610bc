//! The bounds of the queue and of a batch, the retry hint of a full queue, and the counters.

use tower_service::Service;

use super::*;

#[test]
fn a_queue_full_of_requests_rejects_with_a_retry_hint() {
    let mut both = sides(2);
    let waiting = [submit_number(&both, 0), submit_number(&both, 1)];
    let mut rejected = submit_number(&both, 2);
    let Err(error @ BatchError::Full { retry_after }) = assert_ready!(rejected.poll()) else {
        panic!("not full");
    };
    assert!(error.is_not_executed());
    assert!(retry_after > Duration::ZERO);
    assert_eq!((both.0.stats().full, both.0.stats().queue_depth), (1, 2));
    assert_eq!(numbers(&take(&mut both.1)), [0, 1]);
    // The queue has room again.
    let mut later = submit_number(&both, 3);
    assert_pending!(later.poll());
    drop(waiting);
}

#[test]
fn a_queue_full_of_bytes_rejects_all_but_a_lone_request() {
    let (processor, mut intake) = sides::<usize>(8);
    let mut lone = submit(&processor, Counted::of_bytes(3 * MIB), None);
    assert_pending!(lone.poll());
    let mut rejected = submit(&processor, Counted::of_bytes(1), None);
    assert!(
        matches!(assert_ready!(rejected.poll()), Err(BatchError::Full { retry_after }) if retry_after > Duration::ZERO)
    );
    assert_eq!(take(&mut intake).len(), 1);

    // Requests that were rejected or taken no longer count: the queue can be filled to the last byte.
    let mut fits = submit(&processor, Counted::of_bytes(MIB - 1), None);
    let mut just_fits = submit(&processor, Counted::of_bytes(1), None);
    let mut beyond = submit(&processor, Counted::of_bytes(1), None);
    assert_pending!(fits.poll());
    assert_pending!(just_fits.poll());
    assert!(matches!(
        assert_ready!(beyond.poll()),
        Err(BatchError::Full { .. })
    ));
    assert_eq!(processor.stats().full, 2);
}

#[test]
fn a_request_larger_than_any_batch_is_a_batch_by_itself() {
    let mut both = sides(8);
    // A batch holds at most half of the bytes that the queue may hold.
    let sizes = [400, 200, 600, 100].map(|kib| kib << 10);
    let futures: Vec<_> = sizes
        .into_iter()
        .enumerate()
        .map(|(number, bytes)| {
            // This test is not about the bound of the queue.
            both.0.queue.bytes.store(0, Ordering::Relaxed);
            let item = Counted {
                number,
                ..Counted::of_bytes(bytes)
            };
            submit(&both.0, item, None)
        })
        .collect();
    both.0.queue.bytes.store(sizes.iter().sum(), Ordering::Relaxed);
    for expected in [vec![0], vec![1], vec![2], vec![3]] {
        assert_eq!(both.1.waiting(), 4 - expected[0]);
        assert_eq!(numbers(&take(&mut both.1)), expected);
    }
    assert_eq!((both.0.stats().queue_depth, both.0.stats().queue_bytes), (0, 0));
    drop(futures);
}

#[tokio::test(start_paused = true)]
async fn stats_report_the_size_and_age_of_the_queue() {
    let (processor, mut intake) = sides::<usize>(8);
    assert_eq!(processor.stats().oldest_age, Duration::ZERO);
    advance(7 * MS).await;
    let _first = submit(&processor, Counted::of_bytes(300), None);
    advance(3 * MS).await;
    let _second = submit(&processor, Counted::of_bytes(30), None);
    advance(2 * MS).await;
    let stats = processor.stats();
    assert_eq!(
        (stats.queue_depth, stats.queue_bytes, stats.oldest_age),
        (2, 330, 5 * MS)
    );
    assert_eq!(stats.queue_bytes_capacity, MIB);
    // Now `oldest_age` is an upper bound: it is still the age of the request that was taken.
    assert_eq!(intake.take(1, &mut Vec::new()), 1);
    assert_eq!(processor.stats().oldest_age, 5 * MS);
    assert_eq!(intake.take(1, &mut Vec::new()), 1);
    assert_eq!(processor.stats().oldest_age, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_retry_hint_is_the_queue_divided_by_its_rate() {
    let (processor, mut intake) = sides::<usize>(2);
    let ten = || Counted {
        items: 10,
        ..Counted::new(0)
    };
    let _taken = submit(&processor, ten(), None);
    advance(100 * MS).await;
    assert_eq!(take(&mut intake).len(), 1);
    // 10 items were taken in 100 ms, and 20 items are queued.
    let _waiting = [submit(&processor, ten(), None), submit(&processor, ten(), None)];
    let mut rejected = submit(&processor, ten(), None);
    let retry_after = 200 * MS;
    assert_ready_eq!(rejected.poll(), Err(BatchError::Full { retry_after }));
}

#[test]
fn out_of_bounds_settings_are_named() {
    let good = BatchConfig::default();
    assert_eq!(good.validate(), Ok(()));
    let bad = BatchConfig {
        queue_requests_max: 1,
        ..good
    };
    let error = batch::<Counted, ()>(&bad).unwrap_err();
    assert_eq!((error.field, error.value), ("queue_requests_max", 1_usize.into()));
    let bad = BatchConfig {
        queue_bytes_max: MIB - 1,
        ..good
    };
    assert_eq!(bad.validate().unwrap_err().field, "queue_bytes_max");
    let too_long = BatchConfig {
        max_linger: 1001 * MS,
        ..good
    };
    let error = too_long.validate().unwrap_err();
    assert_eq!((error.field, error.value), ("max_linger", (1001 * MS).into()));
    let no_siblings = BatchConfig { siblings: 0, ..good };
    assert_eq!(no_siblings.validate().unwrap_err().field, "siblings");
    for client_share_percent in [0, 101] {
        let bad = BatchConfig {
            client_share_percent,
            ..good
        };
        assert_eq!(bad.validate().unwrap_err().field, "client_share_percent");
    }
}

#[tokio::test(start_paused = true)]
async fn stats_are_exact() {
    let (processor, mut intake) = sides::<usize>(4);
    let mut futures = (0..3)
        .map(|number| submit(&processor, Counted::new(number), None))
        .collect::<Vec<_>>();
    let expires = submit(&processor, Counted::new(3), Some(2 * MS));
    let full = submit(&processor, Counted::new(4), None);
    drop(futures.pop());
    assert_eq!(
        (processor.stats().queue_depth, processor.stats().queue_capacity),
        (4, 4)
    );
    advance(2 * MS).await;
    let mut claimed = take(&mut intake);
    assert_eq!(claimed.len(), 2);
    drop(claimed.pop());
    advance(3 * MS).await;
    answer(&intake, claimed);
    for (times, reason) in (1..).zip(FlushReason::ALL) {
        (0..times).for_each(|_| intake.flushed(reason, 5, 500));
    }
    assert_eq!(value(&mut futures[0]), 0);
    assert_ready_eq!(futures[1].poll(), Err(BatchError::Lost));
    drop((futures, expires, full));

    let stats = processor.stats();
    assert_eq!(
        (stats.full, stats.expired, stats.cancelled, stats.replies_missing),
        (1, 1, 1, 1)
    );
    assert_eq!(stats.flushes, [1, 2, 3, 4, 5, 6, 7]);
    for (times, reason) in (1..).zip(FlushReason::ALL) {
        assert_eq!(stats.flushed(reason), times, "{}", reason.as_str());
    }
    // The average consists of this one commit of 3 ms. The linger is 1.5 ms, half of the average, because 1.5 ms is
    // less than the longest linger of 2 ms.
    assert_eq!((stats.commit_average, stats.linger), (3 * MS, 3 * MS / 2));
    assert_eq!(
        (stats.items.count, stats.items.max, stats.bytes.count),
        (28, 5, 28)
    );
    assert_eq!((stats.queue_wait.count, stats.commit.count), (1, 1));
    assert!(
        stats.queue_wait.max.abs_diff(2_000_000) < 20_000,
        "{:?}",
        stats.queue_wait
    );
    assert!(
        stats.commit.max.abs_diff(3_000_000) < 30_000,
        "{:?}",
        stats.commit
    );
}

#[test]
fn the_service_is_always_ready() {
    let (mut processor, mut intake) = sides::<usize>(2);
    let waiting = [0, 1].map(|number| submit(&processor, Counted::new(number), None));
    // `poll_ready` is ready even if the queue is full: `call` decides.
    let mut context = Context::from_waker(std::task::Waker::noop());
    assert_ready_eq!(processor.poll_ready(&mut context), Ok(()));
    let mut rejected = task::spawn(processor.call(Submission::new(Counted::new(2), None)));
    assert!(matches!(
        assert_ready!(rejected.poll()),
        Err(BatchError::Full { .. })
    ));
    // After a notification, the next `sleep` returns at once, even if no request is queued.
    assert_eq!(take(&mut intake).len(), 2);
    processor.notifier().notify();
    intake.sleep(1, None);
    drop(waiting);
}
