//! Loom models of a word of the window that has one exclusive writer (its *owner*) and is swept by another thread (the
//! *sweeper*).
//!
//! The owner stores to a word that the sweeper may exchange at the same time. loom's own atomics do not model this mix,
//! so these models use words that keep all changes in one order.

use std::sync::Arc;

use loom::thread;

use histogram::{Tag, TaggedPair};
use tally_testing::explore::explore;
use writer::Writer;

#[path = "../../src/histogram.rs"]
#[allow(
    dead_code,
    clippy::duplicate_mod,
    reason = "the models use a part of the file, against atomics of their own"
)]
mod histogram;
#[path = "../../src/writer.rs"]
#[allow(
    dead_code,
    clippy::duplicate_mod,
    reason = "the models use a part of the file, against atomics of their own"
)]
mod writer;

/// Replaces `src/sync.rs`: the same names, with words that keep all changes in one order.
mod sync {
    pub(crate) use loom::sync::atomic::Ordering;

    pub(crate) type AtomicU64 = tally_testing::words::Word<u64, true>;
}

/// Maximum number of preemptions in one execution of a model. These models are so small that five preemptions are
/// cheap.
const PREEMPTIONS_MAX: usize = 5;
const OLD: Tag = Tag::new(0, 1);
const NEW: Tag = Tag::new(0, 2);
const OTHER_GENERATION: Tag = Tag::new(1, 2);

/// Runs `own` on a word that holds old counts. At the same time, another thread sweeps the word for `tag`. After that,
/// checks the word with `look`.
fn check(tag: Tag, own: fn(&TaggedPair), look: fn(&TaggedPair)) {
    explore(PREEMPTIONS_MAX, move || {
        let pair = Arc::new(TaggedPair::default());
        pair.add(Writer::Exclusive, OLD, 3, 3, || true);
        let swept = Arc::clone(&pair);
        let sweeper = thread::spawn(move || swept.sweep(tag, || true));
        own(&pair);
        sweeper.join().unwrap();
        look(&pair);
    });
}

fn count(pair: &TaggedPair, tag: Tag) {
    assert!(pair.add(Writer::Exclusive, tag, 1, 0, || true));
}

#[test]
fn a_sweep_removes_no_count_of_the_owner() {
    check(
        NEW,
        |pair| (0..3).for_each(|_| count(pair, NEW)),
        |pair| assert_eq!((pair.read(NEW), pair.read(OLD)), ((3, 0), (0, 0))),
    );
}

/// The owner's first call is one lap behind the sweeper.
#[test]
fn a_late_owner_and_a_sweep_lose_no_current_count() {
    check(
        NEW,
        |pair| {
            count(pair, OLD);
            count(pair, NEW);
        },
        |pair| {
            let (counted, _) = pair.read(NEW);
            let late_call_in_either_lap = counted == 1 || counted == 2;
            assert!(
                late_call_in_either_lap,
                "the current call must be counted: {counted}"
            );
        },
    );
}

/// The owner's result belongs to a generation that is over. The sweeper already uses the new generation.
#[test]
fn an_owner_that_is_too_late_changes_nothing_in_the_new_generation() {
    check(
        OTHER_GENERATION,
        |pair| count(pair, NEW),
        |pair| {
            assert_eq!(pair.read(OTHER_GENERATION), (0, 0));
            count(pair, OTHER_GENERATION);
            assert_eq!(pair.read(OTHER_GENERATION), (1, 0));
        },
    );
}

/// The sweeper is one lap behind the owner.
#[test]
fn a_late_sweep_removes_nothing() {
    check(
        OLD,
        |pair| (0..2).for_each(|_| count(pair, NEW)),
        |pair| assert_eq!(pair.read(NEW), (2, 0)),
    );
}
