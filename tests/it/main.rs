//! The integration tests. They are one binary, so the crate is linked only once.
#![cfg(test)]

mod bench;
mod cli;
mod crash;
mod examples;
mod export;
mod failover;
mod frozen_disk;
mod fuzz;
mod hostile;
mod import;
mod process;
mod real_data;
mod reference;
mod replication;
mod security;
mod service;
mod settings;
mod simulation;
mod store;
mod support;
mod telemetry;
mod tidy;
mod token;
mod topology;
