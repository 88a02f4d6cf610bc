//! The integration tests. They are one binary, so that the crate is linked only once.
#![cfg(test)]

mod bench;
mod crash;
mod frozen_disk;
mod hostile;
mod import;
mod process;
mod real_data;
mod security;
mod service;
mod settings;
mod store;
mod support;
mod telemetry;
mod tidy;
mod topology;
