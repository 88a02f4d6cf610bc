//! Conformance of the circuit breaker. Each test is named after its number in the specification and after the system whose
//! bug it is; all of them run on a clock that only they move.
#![cfg(test)]

mod accounting;
mod allocations;
mod config;
mod hang;
mod operation;
mod recovery;
mod seed;
mod stats;
mod storm;
mod support;
mod tower;
mod trip;
