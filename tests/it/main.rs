//! The integration tests: one binary, so that the crate is linked once.
#![cfg(test)]

mod bench;
mod crash;
mod examples;
mod frozen_disk;
mod hostile;
mod import;
mod process;
mod real_data;
mod security;
mod service;
mod store;
mod support;
mod telemetry;
mod tidy;
mod token;
mod topology;
