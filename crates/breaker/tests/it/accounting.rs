//! Tests that every call is counted while several threads record calls and the window moves.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use tally_breaker::{BreakerMode, CircuitState, Permit, Verdict};

use super::support::{FAST, Rig, SLOW};

const CALLS_PER_THREAD: u64 = 200_000;
/// Each call of two threads advances the time by this much. All calls fit into 56 of the window's 60 slices, so the
/// window still contains all of them at the end.
const STEP: Duration = Duration::from_micros(140);

/// Makes a breaker that no verdict can open.
fn unopenable(shards: u32) -> Rig {
    Rig::new(|config| {
        config.shards = shards;
        config.consecutive_failures = None;
        config.min_batches = 10_000;
        config.min_calls = 1_000_000;
        config.window_buckets = 60;
    })
}

#[test]
fn two_threads_and_a_moving_window_lose_nothing() {
    for shards in [1, 2] {
        let rig = unopenable(shards);
        let (start, running) = (Barrier::new(3), AtomicU64::new(2));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    start.wait();
                    for call in 0..CALLS_PER_THREAD {
                        let verdict = if call % 4 == 0 {
                            Verdict::failure()
                        } else {
                            Verdict::success()
                        };
                        rig.admit().record(verdict.in_batch(1));
                        rig.advance(STEP);
                    }
                    running.fetch_sub(1, Ordering::Release);
                });
            }
            start.wait();
            while running.load(Ordering::Acquire) > 0 {
                rig.breaker.tick();
                std::thread::yield_now();
            }
        });
        let stats = rig.stats();
        assert_eq!(stats.window.calls, 2 * CALLS_PER_THREAD, "with {shards} shards");
        assert_eq!(stats.window.failures, CALLS_PER_THREAD / 2);
        assert_eq!(stats.window.samples, stats.window.total.count);
        assert_eq!((stats.window.batches, stats.in_flight), (1, 0));
        assert_eq!(
            (stats.lifetime.admitted, stats.lifetime.stale_results),
            (2 * CALLS_PER_THREAD, 0)
        );
    }
}

const CROWD: usize = 5;
const CALLS_OF_CROWD: u64 = 50_000;
/// Maximum number of calls that a thread has passed to the next thread and that have not ended.
const PASSED_ON_MAX: usize = 16;

/// Admits calls and passes them to the next thread. Ends the calls that the previous thread has passed on. Every
/// seventh call is given up.
fn exchange_calls(rig: &Rig, to_next: SyncSender<(u64, Permit)>, from_last: &Receiver<(u64, Permit)>) {
    let end = |(call, permit): (u64, Permit)| match call % 7 {
        0 => drop(permit),
        1 => permit.record(Verdict::failure().in_batch(1)),
        _ => permit.record(Verdict::success().in_batch(1)),
    };
    for call in 0..CALLS_OF_CROWD {
        if let Err(unsent) = to_next.try_send((call, rig.admit())) {
            let (std::sync::mpsc::TrySendError::Full(mine)
            | std::sync::mpsc::TrySendError::Disconnected(mine)) = unsent;
            end(mine);
        }
        from_last.try_iter().for_each(end);
        rig.advance(STEP);
    }
    drop(to_next);
    from_last.iter().for_each(end);
}

/// There are more threads than shards, so some threads share a shard. Each call ends on another thread than the one on
/// which it began.
#[test]
fn threads_that_end_each_others_calls_lose_nothing() {
    let rig = unopenable(2);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..CROWD).map(|_| sync_channel(PASSED_ON_MAX)).unzip();
    let running = AtomicU64::new(CROWD as u64);
    std::thread::scope(|scope| {
        let neighbours = senders.into_iter().cycle().skip(1);
        for (to_next, from_last) in neighbours.zip(receivers) {
            let (rig, running) = (&rig, &running);
            scope.spawn(move || {
                exchange_calls(rig, to_next, &from_last);
                running.fetch_sub(1, Ordering::Release);
            });
        }
        while running.load(Ordering::Acquire) > 0 {
            rig.breaker.tick();
            std::thread::yield_now();
        }
    });
    let stats = rig.stats();
    let calls = CROWD as u64 * CALLS_OF_CROWD;
    let of_seven = |rest| CROWD as u64 * (0..CALLS_OF_CROWD).filter(|call| call % 7 == rest).count() as u64;
    assert_eq!(stats.lifetime.admitted, calls);
    assert_eq!(stats.lifetime.cancelled, of_seven(0));
    assert_eq!(stats.window.calls, calls - of_seven(0));
    assert_eq!(stats.window.failures, of_seven(1));
    assert_eq!(stats.window.samples, stats.window.total.count);
    assert_eq!((stats.in_flight, stats.overdue_in_flight), (0, 0));
    assert_eq!((stats.window.batches, stats.lifetime.stale_results), (1, 0));
}

/// Threads start and end. Each thread takes over a shard that holds the counts of an earlier thread.
#[test]
fn threads_that_follow_each_other_lose_nothing() {
    const GENERATIONS: u64 = 100;
    let rig = unopenable(2);
    for _ in 0..GENERATIONS {
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| rig.calls(10, FAST, Verdict::success().in_batch(1)));
            }
        });
    }
    let stats = rig.stats();
    assert_eq!(stats.window.calls, 30 * GENERATIONS);
    assert_eq!(stats.window.total.count, 30 * GENERATIONS);
    assert_eq!((stats.lifetime.admitted, stats.in_flight), (30 * GENERATIONS, 0));
}

#[test]
fn every_call_is_accounted_for_while_the_state_changes() {
    let rig = Rig::new(|config| {
        config.shards = 2;
        config.open_base = Duration::from_millis(1);
        config.open_max = Duration::from_millis(2);
        config.ramp = Duration::from_millis(20);
    });
    let (stop, attempts) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..2_u64 {
            let (rig, stop, attempts) = (&rig, &stop, &attempts);
            scope.spawn(move || {
                for call in 0..CALLS_PER_THREAD / 4 {
                    attempts.fetch_add(1, Ordering::Relaxed);
                    rig.advance(Duration::from_micros(10));
                    let Ok(permit) = rig.breaker.try_acquire() else {
                        continue;
                    };
                    match (call / 500 + thread) % 3 {
                        0 => permit.record(Verdict::failure()),
                        1 if call % 7 == 0 => drop(permit),
                        _ => permit.record(Verdict::success()),
                    }
                }
                stop.store(true, Ordering::Release);
            });
        }
        while !stop.load(Ordering::Acquire) {
            rig.breaker.tick();
            std::thread::yield_now();
        }
    });
    let stats = rig.stats();
    let lifetime = stats.lifetime;
    let rejected = lifetime.rejected_open + lifetime.rejected_half_open + lifetime.rejected_ramp;
    assert_eq!(lifetime.admitted + rejected, attempts.into_inner());
    assert_eq!((stats.in_flight, stats.overdue_in_flight), (0, 0));
    assert!(
        lifetime.opens > 0 && lifetime.half_opens > 0,
        "the circuit opened: {lifetime:?}"
    );
    assert!(
        lifetime.opens >= lifetime.half_opens && lifetime.opens <= lifetime.half_opens + 1 + lifetime.closes
    );
}

#[test]
fn no_call_is_admitted_while_open_under_races() {
    let rig = Rig::new(|config| config.shards = 2);
    rig.trip();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    rig.reject();
                    rig.breaker.tick();
                }
            });
        }
        for _ in 0..100 {
            rig.advance_ms(40);
            rig.breaker.set_mode(BreakerMode::Auto);
        }
    });
    let stats = rig.stats();
    assert_eq!(
        (stats.state, stats.lifetime.rejected_open),
        (CircuitState::Open, 40_000)
    );
    rig.advance_ms(1000);
    rig.calls(8, FAST, Verdict::success());
    assert_eq!(rig.state(), CircuitState::Ramp);
}

#[test]
fn lifetime_counts_cover_every_outcome() {
    let rig = Rig::new(|config| config.consecutive_failures = None);
    rig.calls(3, FAST, Verdict::success());
    rig.calls(2, FAST, Verdict::failure());
    rig.calls(4, FAST, Verdict::neutral());
    rig.calls(1, SLOW, Verdict::success());
    rig.calls(1, SLOW, Verdict::failure());
    drop(rig.admit());
    let given_up = rig.admit();
    rig.advance(SLOW);
    drop(given_up);
    let counts = rig.stats().lifetime;
    assert_eq!((counts.successes, counts.failures, counts.neutral), (4, 3, 4));
    assert_eq!((counts.cancelled, counts.slow, counts.admitted), (2, 3, 13));
}
