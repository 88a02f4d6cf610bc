//! Models of the batch processor's reply slot, pool, ring buffer and waker list.
//!
//! Limits: loom treats `SeqCst` accesses as `AcqRel`, and the models replace the queue inside the ring buffer by a
//! queue behind a mutex. Therefore the models check the protocols of [`slot`] and [`ring`] under the assumption that
//! crossbeam's queue is linearizable.

use std::{
    future::poll_fn,
    task::{Context, Poll, Waker},
};

use loom::{future::block_on, sync::Notify, thread};
use pool::Pool;
use ring::{LockFreeRingBuffer, PushError};
use slot::{Lost, Receiver, slot};
use sync::{Arc, AtomicUsize, Ordering};
use tally_testing::explore::explore;
use waker_list::WakerList;

#[path = "../../src/mutation.rs"]
#[allow(dead_code, unreachable_pub, reason = "the models plant no bug")]
mod mutation;
#[path = "../../src/pool.rs"]
mod pool;
#[path = "../../src/ring.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the models use a part of the public type"
)]
mod ring;
#[path = "../../src/slot.rs"]
mod slot;
#[path = "../../src/waker_list.rs"]
#[allow(dead_code, reason = "the models use a part of the file")]
mod waker_list;

/// Maximum number of preemptions in one execution of a model. Two preemptions find nearly all races of such small
/// models. With three preemptions, all models together run for less than a minute.
const PREEMPTIONS_MAX: usize = 3;
/// The maximum number of preemptions of the one model with three threads that wait for each other. With three
/// preemptions, this model alone would run for a minute.
const PREEMPTIONS_MAX_OF_MANY: usize = 2;

/// Replaces `src/sync.rs`: the same names, with loom's types.
mod sync {
    use std::{collections::VecDeque, task::Waker};

    pub(crate) use loom::sync::{Arc, MutexGuard, atomic::Ordering};

    pub(crate) type AtomicU8 = tally_testing::words::Word<u8>;
    pub(crate) type AtomicUsize = tally_testing::words::Word<usize>;

    /// loom's mutex with the signature of `parking_lot::Mutex`.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    /// loom's waker cell with the signature of `atomic_waker::AtomicWaker`.
    #[derive(Debug)]
    pub(crate) struct AtomicWaker(loom::future::AtomicWaker);

    /// A bounded queue behind a mutex, with the signature of `crossbeam_queue::ArrayQueue`.
    pub(crate) struct ArrayQueue<T> {
        items: Mutex<VecDeque<T>>,
        capacity: usize,
    }

    // ===== impl Mutex =====

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("a panic ends the model")
        }
    }

    // ===== impl AtomicWaker =====

    impl AtomicWaker {
        pub(crate) fn new() -> Self {
            AtomicWaker(loom::future::AtomicWaker::new())
        }

        pub(crate) fn register(&self, waker: &Waker) {
            self.0.register_by_ref(waker);
        }

        pub(crate) fn take(&self) -> Option<Waker> {
            self.0.take_waker()
        }

        pub(crate) fn wake(&self) {
            self.0.wake();
        }
    }

    // ===== impl ArrayQueue =====

    impl<T> ArrayQueue<T> {
        pub(crate) fn new(capacity: usize) -> Self {
            ArrayQueue {
                items: Mutex::new(VecDeque::new()),
                capacity,
            }
        }

        pub(crate) fn push(&self, item: T) -> Result<(), T> {
            let mut items = self.items.lock();
            if items.len() == self.capacity {
                return Err(item);
            }
            items.push_back(item);
            Ok(())
        }

        pub(crate) fn pop(&self) -> Option<T> {
            self.items.lock().pop_front()
        }

        pub(crate) fn len(&self) -> usize {
            self.items.lock().len()
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.len() == 0
        }

        pub(crate) fn capacity(&self) -> usize {
            self.capacity
        }
    }
}

fn check(model: impl Fn() + Send + Sync + 'static) {
    explore(PREEMPTIONS_MAX, model);
}

fn wait_for<R>(receiver: &Receiver<R>) -> Result<R, Lost> {
    block_on(poll_fn(|context| receiver.poll_answer(context)))
}

// ===== the slot =====

#[test]
fn either_the_claim_or_the_withdrawal_wins() {
    check(|| {
        let (responder, receiver) = slot();
        let executor = thread::spawn(move || {
            let claimed = responder.claim();
            if claimed {
                responder.answer(7);
            }
            claimed
        });
        let withdrawn = receiver.withdraw();
        if !withdrawn {
            assert_eq!(wait_for(&receiver), Ok(7));
        }
        let executed = executor.join().unwrap();
        assert_ne!(withdrawn, executed);
    });
}

#[test]
fn a_caller_that_leaves_withdraws_or_is_too_late() {
    check(|| {
        let executions = Arc::new(AtomicUsize::new(0));
        let (responder, receiver) = slot();
        let executor = {
            let executions = Arc::clone(&executions);
            thread::spawn(move || {
                if responder.claim() {
                    executions.fetch_add(1, Ordering::Relaxed);
                    responder.answer(7);
                }
            })
        };
        let caller = thread::spawn(move || {
            let withdrawn = receiver.withdraw();
            drop(receiver);
            withdrawn
        });
        executor.join().unwrap();
        let withdrawn = caller.join().unwrap();
        assert_eq!(executions.load(Ordering::Relaxed), usize::from(!withdrawn));
    });
}

#[test]
fn an_answer_wakes_the_caller_and_is_visible() {
    check(|| {
        let (responder, receiver) = slot();
        let executor = thread::spawn(move || {
            assert!(responder.claim());
            responder.answer(7);
        });
        assert_eq!(wait_for(&receiver), Ok(7));
        executor.join().unwrap();
    });
}

/// Two tasks may poll a future one after the other. The answer wakes the task that polled last.
#[test]
fn an_answer_wakes_the_caller_that_polled_last() {
    check(|| {
        let (responder, receiver) = slot();
        let executor = thread::spawn(move || {
            assert!(responder.claim());
            responder.answer(7);
        });
        let answer = match receiver.poll_answer(&Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => answer,
            Poll::Pending => wait_for(&receiver),
        };
        assert_eq!(answer, Ok(7));
        executor.join().unwrap();
    });
}

#[test]
fn a_responder_that_is_dropped_answers_lost() {
    for claims in [false, true] {
        check(move || {
            let (responder, receiver) = slot::<u8>();
            let executor = thread::spawn(move || {
                if claims {
                    assert!(responder.claim());
                }
                drop(responder);
            });
            assert_eq!(wait_for(&receiver), Err(Lost));
            executor.join().unwrap();
        });
    }
}

/// Runs the steps of a caller's future when its timer fires: check for an answer, withdraw the request, check again.
#[test]
fn a_deadline_never_mixes_up_not_executed_and_unknown() {
    check(|| {
        let (responder, receiver) = slot();
        let executor = thread::spawn(move || {
            let claimed = responder.claim();
            if claimed {
                responder.answer(7);
            }
            claimed
        });
        let context = Context::from_waker(Waker::noop());
        let withdrawn = match receiver.poll_answer(&context) {
            Poll::Ready(answer) => {
                assert_eq!(answer, Ok(7));
                false
            }
            Poll::Pending if receiver.withdraw() => {
                assert!(
                    receiver.poll_answer(&context).is_pending(),
                    "a withdrawn request gets no answer"
                );
                true
            }
            Poll::Pending => {
                let again = receiver.poll_answer(&context);
                assert!(matches!(again, Poll::Pending | Poll::Ready(Ok(7))));
                false
            }
        };
        assert_eq!(executor.join().unwrap(), !withdrawn);
    });
}

// ===== the pool =====

/// Two requests use the same slot one after the other, while the executor may still be inside `answer` of the first
/// request. Each request gets its own answer.
#[test]
fn a_reused_slot_mixes_up_no_requests() {
    check(|| {
        let pool = Pool::new();
        let mut executors = Vec::new();
        for number in [1, 2] {
            let (responder, receiver) = pool.take();
            executors.push(thread::spawn(move || {
                assert!(responder.claim());
                responder.answer(number);
            }));
            assert_eq!(wait_for(&receiver), Ok(number));
            pool.give_back(&receiver);
            drop(receiver);
        }
        for executor in executors {
            executor.join().unwrap();
        }
    });
}

/// A caller that leaves returns its slot only after the answer, and the next caller finds the slot empty.
#[test]
fn a_slot_whose_caller_has_left_is_reused_only_after_its_answer() {
    check(|| {
        let pool = Pool::new();
        let (responder, receiver) = pool.take();
        let executor = thread::spawn(move || {
            if responder.claim() {
                responder.answer(1);
            }
        });
        if !receiver.withdraw() {
            pool.give_back(&receiver);
        }
        drop(receiver);
        let (responder, receiver) = pool.take();
        let context = Context::from_waker(Waker::noop());
        assert!(receiver.poll_answer(&context).is_pending());
        assert!(responder.claim(), "the new request can be claimed");
        responder.answer(2);
        assert_eq!(wait_for(&receiver), Ok(2));
        executor.join().unwrap();
    });
}

/// Callers on two threads without wake tasks share a pool.
#[test]
fn two_callers_that_share_a_pool_never_share_a_slot() {
    check(|| {
        let pool = Arc::new(Pool::new());
        let (responder, receiver) = pool.take();
        assert!(responder.claim());
        responder.answer(0);
        pool.give_back(&receiver);
        drop(receiver);
        let call = |number| {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                let (responder, receiver) = pool.take();
                assert!(responder.claim());
                responder.answer(number);
                assert_eq!(wait_for(&receiver), Ok(number));
                pool.give_back(&receiver);
            })
        };
        let calls = [call(1), call(2)];
        for call in calls {
            call.join().unwrap();
        }
    });
}

// ===== the ring =====

#[test]
fn a_push_wakes_an_executor_that_went_to_sleep() {
    check(|| {
        let ring = Arc::new(LockFreeRingBuffer::new(2));
        let executor = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || !ring.wake_at(1))
        };
        let wakes = ring.push_for_executor('a').unwrap();
        let sleeps = executor.join().unwrap();
        assert!(wakes || !sleeps, "asleep, with an item in the ring");
    });
}

/// A busy executor raises the number of items at which it is woken, and lowers the number before it sleeps. The last
/// number applies.
#[test]
fn a_push_uses_the_mark_that_was_set_last() {
    check(|| {
        let ring = Arc::new(LockFreeRingBuffer::new(2));
        let executor = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                assert!(!ring.wake_at(2));
                !ring.wake_at(1)
            })
        };
        let wakes = ring.push_for_executor('a').unwrap();
        let sleeps = executor.join().unwrap();
        assert!(wakes || !sleeps, "asleep, with an item in the ring");
    });
}

#[test]
fn one_of_two_pushes_wakes_an_executor_that_waits_for_one_or_two() {
    for mark in [1, 2] {
        check(move || {
            let ring = Arc::new(LockFreeRingBuffer::new(2));
            let push = |item| {
                let ring = Arc::clone(&ring);
                thread::spawn(move || ring.push_for_executor(item).unwrap())
            };
            let (first, second) = (push('a'), push('b'));
            let sleeps = !ring.wake_at(mark);
            let wakes = first.join().unwrap() | second.join().unwrap();
            assert!(wakes || !sleeps, "asleep, with two items in the ring");
        });
    }
}

#[test]
fn a_full_ring_returns_the_item() {
    check(|| {
        let ring = Arc::new(LockFreeRingBuffer::new(1));
        let pusher = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || ring.push('a').is_ok())
        };
        let mine = match ring.push('b') {
            Ok(_) => true,
            Err(PushError::Full('b')) => false,
            Err(rejected) => panic!("{rejected:?}"),
        };
        assert_ne!(pusher.join().unwrap(), mine);
        assert_eq!(ring.pop(), Some(if mine { 'b' } else { 'a' }));
        assert_eq!(ring.pop(), None);
    });
}

#[test]
fn accepted_items_are_taken_before_the_ring_is_drained() {
    check(|| {
        let ring = Arc::new(LockFreeRingBuffer::new(2));
        let push = |item| {
            let ring = Arc::clone(&ring);
            thread::spawn(move || usize::from(ring.push(item).is_ok()))
        };
        let (first, second) = (push('a'), push('b'));
        ring.close();
        let mut taken = 0;
        while !ring.is_drained() {
            match ring.pop() {
                Some(_) => taken += 1,
                None => thread::yield_now(),
            }
        }
        let accepted = first.join().unwrap() + second.join().unwrap();
        assert_eq!(taken, accepted);
        assert_eq!(ring.len(), 0);
        assert!(ring.is_closed());
        assert!(matches!(ring.push('c'), Err(PushError::Closed('c'))));
    });
}

/// Checks the executor's complete loop, with callers and a shutdown: the executor takes every accepted item, and then
/// ends. If a wake-up were lost, loom would report a deadlock.
fn check_shutdown(capacity: usize, callers: usize, preemptions_max: usize) {
    explore(preemptions_max, move || {
        let ring = Arc::new(LockFreeRingBuffer::new(capacity));
        let parker = Arc::new(Notify::new());
        let executor = {
            let (ring, parker) = (Arc::clone(&ring), Arc::clone(&parker));
            thread::spawn(move || {
                let mut taken = 0;
                while !ring.is_drained() {
                    while ring.pop().is_some() {
                        taken += 1;
                    }
                    // The same condition as in `Intake::sleep`.
                    if !ring.wake_at(1) && !ring.is_drained() {
                        parker.wait();
                    }
                }
                taken
            })
        };
        let callers = (0..callers)
            .map(|item| {
                let (ring, parker) = (Arc::clone(&ring), Arc::clone(&parker));
                thread::spawn(move || push_and_wake(&ring, &parker, item))
            })
            .collect::<Vec<_>>();
        ring.close();
        parker.notify();
        let accepted = callers
            .into_iter()
            .map(|caller| usize::from(caller.join().unwrap()))
            .sum::<usize>();
        assert_eq!(executor.join().unwrap(), accepted);
    });
}

/// The steps of `Queue::push` around the ring buffer. Returns whether the item was accepted.
fn push_and_wake(ring: &LockFreeRingBuffer<usize>, parker: &Notify, item: usize) -> bool {
    let (accepted, wake) = match ring.push_for_executor(item) {
        Ok(wake) => (true, wake),
        Err(_) => (false, ring.is_closed()),
    };
    if wake {
        parker.notify();
    }
    accepted
}

#[test]
fn an_executor_that_is_shut_down_takes_all_and_ends() {
    check_shutdown(2, 1, PREEMPTIONS_MAX);
}

#[test]
fn an_executor_that_is_shut_down_with_a_full_ring_takes_all_and_ends() {
    check_shutdown(1, 2, PREEMPTIONS_MAX_OF_MANY);
}

// ===== the waker list =====

/// If a waker were never taken or a wake-up were lost, loom would report a deadlock.
#[test]
fn a_wake_task_finds_every_waker() {
    check(|| {
        let list = Arc::new(WakerList::new());
        let threads = [1, 2].map(|count| {
            let list = Arc::clone(&list);
            thread::spawn(move || {
                let mut wakers = vec![Waker::noop().clone(); count];
                list.append(&mut wakers);
                assert!(wakers.is_empty());
            })
        });
        let (mut found, mut wakers) = (0, Vec::new());
        while found < 3 {
            block_on(poll_fn(|context| list.poll_take(context, &mut wakers)));
            found += wakers.drain(..).count();
        }
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(found, 3);
    });
}
