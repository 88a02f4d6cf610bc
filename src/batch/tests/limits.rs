//! Bounds, hints and counts.

use super::*;

#[test]
fn a_queue_full_of_requests_refuses_with_a_hint() {
    let mut both = sides(2);
    let waiting = [submit_number(&both, 0), submit_number(&both, 1)];
    let mut refused = submit_number(&both, 2);
    let Err(error @ BatchError::Full { retry_after }) = assert_ready!(refused.poll()) else {
        panic!("not full");
    };
    assert!(error.is_not_executed());
    assert!(retry_after > Duration::ZERO);
    assert_eq!((both.0.stats().full, both.0.stats().queue_depth), (1, 2));
    assert_eq!(numbers(&take(&mut both.1)), [0, 1]);
    // There is room again.
    let mut later = submit_number(&both, 3);
    assert_pending!(later.poll());
    drop(waiting);
}

#[test]
fn conformance_28_a_queue_full_of_bytes_refuses_all_but_a_lone_request() {
    let (processor, mut intake) = sides::<usize>(8);
    let mut lone = submit(&processor, Counted::of_bytes(3 * MIB), None);
    assert_pending!(lone.poll());
    let mut refused = submit(&processor, Counted::of_bytes(1), None);
    assert!(
        matches!(assert_ready!(refused.poll()), Err(BatchError::Full { retry_after }) if retry_after > Duration::ZERO)
    );
    assert_eq!(take(&mut intake).len(), 1);

    // What was refused or taken weighs nothing any more: the bound is met to the byte.
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

#[tokio::test(start_paused = true)]
async fn the_hint_is_what_waits_by_the_rate_at_which_it_was_taken() {
    let (processor, mut intake) = sides::<usize>(2);
    let ten = || Counted {
        items: 10,
        ..Counted::new(0)
    };
    let _taken = submit(&processor, ten(), None);
    advance(100 * MS).await;
    assert_eq!(take(&mut intake).len(), 1);
    // 10 items in 100 ms; 20 of them wait.
    let _waiting = [submit(&processor, ten(), None), submit(&processor, ten(), None)];
    let mut refused = submit(&processor, ten(), None);
    let retry_after = 200 * MS;
    assert_ready_eq!(refused.poll(), Err(BatchError::Full { retry_after }));
}

#[test]
fn bounds_out_of_bounds_are_named() {
    let good = BatchConfig::default();
    assert_eq!(good.validate(), Ok(()));
    let bad = BatchConfig {
        queue_requests_max: 1,
        ..good
    };
    let error = batch::<Counted, ()>(&bad).unwrap_err();
    assert_eq!((error.field, error.value), ("queue_requests_max", 1));
    let bad = BatchConfig {
        queue_bytes_max: MIB - 1,
        ..good
    };
    assert_eq!(bad.validate().unwrap_err().field, "queue_bytes_max");
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
    for (reason, times) in [
        (FlushReason::Idle, 1),
        (FlushReason::Items, 2),
        (FlushReason::Bytes, 3),
        (FlushReason::Drain, 4),
    ] {
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
    let flushes = [
        stats.flush_idle,
        stats.flush_items,
        stats.flush_bytes,
        stats.flush_drain,
    ];
    assert_eq!(flushes, [1, 2, 3, 4]);
    assert_eq!(
        (stats.items.count, stats.items.max, stats.bytes.count),
        (10, 5, 10)
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
fn it_is_a_service_that_is_always_ready() {
    let (mut processor, mut intake) = sides::<usize>(2);
    let waiting = [0, 1].map(|number| submit(&processor, Counted::new(number), None));
    // Ready even when it is full: `call` decides.
    let mut context = Context::from_waker(std::task::Waker::noop());
    assert_ready_eq!(processor.poll_ready(&mut context), Ok(()));
    let mut refused = task::spawn(processor.call(Submission::new(Counted::new(2), None)));
    assert!(matches!(
        assert_ready!(refused.poll()),
        Err(BatchError::Full { .. })
    ));
    // A notification that came before keeps the executor awake once, with nothing to do.
    assert_eq!(take(&mut intake).len(), 2);
    processor.notifier().notify();
    intake.sleep(1);
    drop(waiting);
}
