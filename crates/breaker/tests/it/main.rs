//! Conformance tests of the circuit breaker; `docs/conformance.md` lists what they prove. All of them use a clock that
//! only the test moves.
#![cfg(test)]

mod accounting;
mod allocations;
mod config;
mod conformance;
mod hang;
mod operation;
mod recovery;
mod seed;
mod stats;
mod storm;
mod support;
mod tower;
mod trip;
