//! Conformance tests of the circuit breaker. `docs/conformance.md` lists what these tests prove. Nearly all tests use a
//! clock that moves only when the test moves it.
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
