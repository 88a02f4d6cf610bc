//! Placement of threads: the table on made-up machines, and real threads on this one.
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
