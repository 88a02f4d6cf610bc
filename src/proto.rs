//! The Rust types that the build generates from `proto/tally/v1`, and the descriptors of these types.
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

/// The types of the echo service, which `tally bench --baseline` measures.
pub mod bench {
    include!(concat!(env!("OUT_DIR"), "/tally.bench.v1.Echo.rs"));
}

/// The encoded `FileDescriptorSet` of the API, for gRPC server reflection and for the conversion to JSON.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tally_v1_descriptor.bin"));
