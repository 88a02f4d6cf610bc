//! Loom models: every interleaving of the lock-free pieces, within a bound on preemptions. Each module below includes
//! the source files that it checks, with loom's primitives instead of the real ones, so no `--cfg loom` is needed.
//! `LOOM_COUNT=1 cargo test -p tally-batch --test loom -- --show-output` prints the number of executions of each model.
//!
//! The models were tested with mutations of the sources. Each mutation below makes the named model fail. If a change makes a model miss
//! its mutation, add a model that finds it.
//!
//! | in | mutation | model |
//! |---|---|---|
//! | `slot` | claim or withdrawal without compare-exchange; a withdrawn request is answered | `a_deadline_never_mixes_up_…` |
//! | | state before the answer | `an_answer_wakes_the_caller_and_is_seen` |
//! | | no second look; registered last; waker taken before the state; dropped unanswered | `a_responder_that_is_dropped_…` |
//! | | used again while an end is there | `two_callers_that_share_a_pool_…` |
//! | | used again in its old state | `a_slot_that_is_used_again_…` |
//! | `ring` | the mark set after the look; a wake-up only exactly at the mark | `a_push_goes_by_the_mark_…`, `one_of_two_pushes_…` |
//! | | wake-up decided before the push, or not for a closed ring; entry closed by load and store, not looked at, looked at before stepping in, left before the push, looked at last | `an_executor_that_is_shut_down_…` |
//! | `waker_list` | task woken before the wakers are there; looked before registering; no wake-up; taken in two steps | `a_wake_task_finds_every_waker` |

#![cfg(test)]

mod batch;
