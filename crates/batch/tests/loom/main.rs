//! Loom models of the lock-free parts. Loom executes every interleaving of a model's threads, up to a maximum number of
//! preemptions. The module `batch` includes the source files that it checks, with loom's types instead of the standard
//! types. Therefore no `--cfg loom` is needed. `LOOM_COUNT=1 cargo test -p tally-batch --test loom -- --show-output`
//! prints the number of executions of each model.
//!
//! The models were tested by mutations (deliberate errors) of the sources. Each mutation below makes the named model
//! fail. If a model no longer detects its mutation, write a new model that does. In the table, the *mark* is the number
//! of items at which the executor is woken, and the *entry* is the counter of the callers inside `push`.
//!
//! | file | mutation | model |
//! |---|---|---|
//! | `slot` | claim or withdraw without compare-exchange; answer a withdrawn request | `a_deadline_never_mixes_up_…` |
//! | | set the state before storing the answer | `an_answer_wakes_the_caller_and_is_visible` |
//! | | do not check again after registering the waker; register last; take the waker before setting the state; do not answer when dropped | `a_responder_that_is_dropped_…` |
//! | | reuse a slot while one of its two ends exists | `two_callers_that_share_a_pool_…` |
//! | | reuse a slot without resetting its state | `a_reused_slot_…` |
//! | `ring` | set the mark after checking the queue; wake only at exactly the mark | `a_push_uses_the_mark_…`, `one_of_two_pushes_…` |
//! | | decide about the wake-up before the push, or never for a closed ring; close the entry by load and store; do not check whether the entry is closed, or check it before entering; leave the entry before the push; check the entry last | `an_executor_that_is_shut_down_…` |
//! | `waker_list` | wake the task before the wakers are stored; check before registering; do not wake the task; take the wakers in two steps | `a_wake_task_finds_every_waker` |

#![cfg(test)]

mod batch;
