//! Tests of the client with simulated brokers, and with a real cluster if there is one.
#![cfg(test)]

mod appends;
mod broker;
mod locate;
mod reads;
mod real;
mod security;

use std::time::Duration;

use bytes::Bytes;
use tally_kafka::{Partition, Settings};

use crate::broker::Broker;

/// Returns the partition of `broker`, with time limits that a test reaches only if it intends to.
fn partition(brokers: &[&Broker]) -> Partition {
    Partition::new(settings(brokers)).unwrap()
}

fn settings(brokers: &[&Broker]) -> Settings {
    let endpoints = brokers.iter().map(|broker| broker.endpoint()).collect();
    let mut settings = Settings::new(endpoints, broker::TOPIC);
    settings.connect_timeout = Duration::from_secs(60);
    settings.request_timeout = Duration::from_secs(60);
    settings
}

fn values(values: &[&'static str]) -> Vec<Bytes> {
    values.iter().map(|value| Bytes::from(*value)).collect()
}
