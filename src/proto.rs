//! The types generated from `proto/tally/v1`, and their descriptors.
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated from documented .proto files"
)]

tonic::include_proto!("tally.v1");

/// The echo service of `tally bench --baseline`.
pub mod bench {
    include!(concat!(env!("OUT_DIR"), "/tally.bench.v1.Echo.rs"));
}

/// The encoded `FileDescriptorSet` of the API, for reflection and for JSON.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tally_v1_descriptor.bin"));
