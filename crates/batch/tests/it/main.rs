//! The batch processor from outside. What it promises is tested beside its sources, in `src/batch/tests`.
#![cfg(test)]

mod allocations;
