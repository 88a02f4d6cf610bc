//! The generated types of `proto/tally/v1`, and their descriptors.
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

/// The bare echo service that the benchmark compares with.
pub mod bench {
    include!(concat!(env!("OUT_DIR"), "/tally.bench.v1.Echo.rs"));
}

/// The encoded `FileDescriptorSet` of the API, for reflection and for the JSON form.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tally_v1_descriptor.bin"));
