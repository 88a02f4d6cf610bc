//! Tests of the placement of threads: plans for simulated machines, and real threads on this machine.
#![cfg(test)]

#[path = "../support/mod.rs"]
mod support;

mod child;
mod detection;
mod fifo;
mod process;
mod properties;
mod snapshot;
mod table;
mod watch;
