//! Loom models: every interleaving of the lock-free pieces, within a bound on preemptions. Each module below includes
//! the very sources it checks, with loom's primitives in place of the real ones, so no `--cfg loom` is needed.
//! `LOOM_TELL=1 cargo test -p tally-breaker --test loom -- --show-output` tells how many executions each model has.
//!
//! What the models are worth was tried by breaking the sources. Each of these mutations makes the model named fail, some
//! make others fail, too; one that a model stops noticing has to get another model.
//!
//! | in | mutation | model |
//! |---|---|---|
//! | `inflight` | no `taken_over`; left slot retagged before *older*; reader takes left *older* first; slots read relaxed | `a_reading_during_a_take_over_…` |
//! | | reader takes entered *older* last, or relaxed; entered *older* before the slot, or never | `calls_in_flight_…` |
//! | | what was moved is not taken back after a lost exchange | `two_that_take_over_…` |
//! | | old slots not judged with *older*; a late call counted out of *older* at once | `a_call_that_ends_laps_later_…` |
//! | | who leaves late wipes out the next lap | `calls_of_two_laps_…` |
//! | | who enters late wipes out the next lap | `one_that_enters_late_…` |
//! | | `live` not asked: entering, leaving, in *older* | `a_late_call_of_an_old_generation_…` |
//! | `writer` | the owner's store relaxed | `a_reading_during_a_take_over_…` |
//! | | a shared word stored, not exchanged | `counts_of_one_slice_add_up` |
//! | | a shared word's exchange relaxed | `a_result_of_an_old_generation_…` |
//! | `gate`: transitions | no compare-exchange; from the present word, not the observed one; same generation | `of_two_transitions_…` |
//! | | the mode stored, or not tried again | `a_mode_change_…` |
//! | | ramp without compare-exchange | `a_ramp_admits_its_share_…` |
//! | | ramp without asking for the generation | `a_late_call_of_an_old_ramp_…` |
//! | `gate`: permits | issued without compare-exchange | `the_last_permit_goes_to_one` |
//! | | no bound, but for the slots | `never_are_more_permits_out_…` |
//! | | who settles or expires does not own the slot; the permit counted before the slot is freed | `a_probe_reports_once_…` |
//! | | a permit withdrawn from another generation; a stale caller restarts the word or evicts a probe | `a_late_probe_…` |
//! | | a withdrawn permit kept; counted without compare-exchange | `permits_given_back_…` |
//! | `histogram` | `live` not asked; read relaxed | `a_result_of_an_old_generation_…` |
//! | | late counts wipe out the next lap; old counts kept; counts lost with an exchange | `no_count_is_lost_…` |
//! | | tag and counts read apart | `a_reading_mixes_no_slices` |
//! | | the two counts written apart | `counts_of_one_slice_add_up` |
//! | | the sweeper stores | `a_sweeper_takes_nothing_…` |
//! | | the sweeper empties what is newer; does not ask `live` | `a_late_sweeper_takes_nothing`, `a_sweep_of_an_old_generation_…` |
//! | `slots` | relaxed claim or release; claim without compare-exchange | `a_number_has_one_holder_…` |
//! | | release by load and store | `a_number_handed_on_…` |

#![cfg(test)]

mod breaker;
mod inflight;
mod sweep;
