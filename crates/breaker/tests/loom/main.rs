//! Loom models of the lock-free parts. Loom executes every interleaving of a model's threads, up to a maximum number of
//! preemptions. Each module below includes the source files that it checks, with loom's types instead of the standard
//! types. Therefore no `--cfg loom` is needed. `LOOM_COUNT=1 cargo test -p tally-breaker --test loom -- --show-output`
//! prints the number of executions of each model.
//!
//! The models were tested by mutations (deliberate errors) of the sources. Each mutation below makes the named model
//! fail. Some mutations make other models fail as well. If a model no longer detects its mutation, write a new model
//! that does. The source files explain the terms of the table.
//!
//! | file | mutation | model |
//! |---|---|---|
//! | `inflight` | remove `taken_over`; retag the left slot before adding to *older*; read the left *older* before the slots; read the slots relaxed | `a_reading_during_a_take_over_…` |
//! | | read the entered *older* last, or relaxed; add to the entered *older* before taking the slot over, or never | `calls_in_flight_…` |
//! | | do not undo the move to *older* after a failed exchange | `two_threads_that_take_over_…` |
//! | | do not sum up old slots with *older*; count a late end in *older* at once | `a_call_that_ends_laps_later_…` |
//! | | a late leave resets the next lap | `calls_of_two_laps_…` |
//! | | a late entry resets the next lap | `a_call_that_enters_late_…` |
//! | | do not call `live`: on entry, on leaving, for *older* | `a_late_call_of_an_old_generation_…` |
//! | `writer` | store relaxed as the exclusive writer | `a_reading_during_a_take_over_…` |
//! | | store a shared word instead of exchanging it | `counts_of_one_slice_add_up` |
//! | | exchange a shared word relaxed | `a_result_of_an_old_generation_…` |
//! | `gate`: transitions | store instead of compare-exchange; start from the current word instead of the observed one; keep the generation | `exactly_one_of_two_transitions_…` |
//! | | store the mode, or do not retry | `a_mode_change_…` |
//! | | advance the ramp without compare-exchange | `a_ramp_admits_its_share_…` |
//! | | do not check the generation in the ramp | `a_late_call_of_an_old_ramp_…` |
//! | `gate`: permits | issue without compare-exchange | `the_last_permit_goes_to_one_thread` |
//! | | no bound except the number of slots | `no_more_permits_are_issued_…` |
//! | | settle or expire without owning the slot; free the permit before the slot | `a_probe_reports_once_…` |
//! | | withdraw a permit of another generation; a stale caller resets the word or overwrites a probe | `a_late_probe_…` |
//! | | keep a withdrawn permit; count without compare-exchange | `returned_permits_…` |
//! | `histogram` | do not call `live`; read relaxed | `a_result_of_an_old_generation_…` |
//! | | late counts reset the next lap; keep old counts; lose counts after a failed exchange | `no_count_is_lost_…` |
//! | | read tag and counts separately | `a_reading_never_mixes_two_slices` |
//! | | write the two counts separately | `counts_of_one_slice_add_up` |
//! | | store in the sweep | `a_sweep_removes_no_count_of_the_owner` |
//! | | the sweep resets newer counts; does not call `live` | `a_late_sweep_removes_nothing`, `a_sweep_of_an_old_generation_…` |
//! | `slots` | claim or release relaxed; claim without compare-exchange | `a_number_has_one_holder_…` |
//! | | release by load and store | `a_number_claimed_again_…` |

#![cfg(test)]

mod breaker;
mod inflight;
mod sweep;
