//! Generates Rust code from `proto/` without protoc, and records the Git commit for `tally --version`.

use std::{env, error::Error, fs, path::PathBuf, process::Command};

use prost::Message;

const PROTOS: [&str; 4] = [
    // The messages of error details. No service refers to them, but reflection must list them.
    "google/rpc/error_details.proto",
    "tally/v1/transaction_service.proto",
    "tally/v1/account_service.proto",
    "tally/v1/engine_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let descriptors = protox::compile(PROTOS, ["proto"])?;
    // Server reflection and the JSON output of the CLI need the descriptors. `compile_fds` does not write them to a
    // file.
    fs::write(out.join("tally_v1_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Sorted maps, so that equal messages are encoded to equal bytes. The check of a repeated id compares bytes.
        .btree_map(".")
        // tonic-types already defines this type and its conversions.
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .compile_fds(descriptors)?;

    echo_service();
    build_info();
    Ok(())
}

/// Generates the echo service of `tally bench --baseline`. It has the same messages as the transaction service, but no
/// ledger behind it.
fn echo_service() {
    let process = tonic_build::manual::Method::builder()
        .name("echo")
        .route_name("Echo")
        .input_type("crate::proto::ProcessTransactionRequest")
        .output_type("crate::proto::ProcessTransactionResponse")
        .codec_path("tonic_prost::ProstCodec")
        .build();
    let service = tonic_build::manual::Service::builder()
        .name("Echo")
        .package("tally.bench.v1")
        .method(process)
        .build();
    // The load generator has its own client.
    tonic_build::manual::Builder::new()
        .build_client(false)
        .compile(&[service]);
}

/// Sets `TALLY_COMMIT` for `tally --version` and for reports of benchmarks. The value comes from the environment
/// variable `TALLY_COMMIT` if it is set, because the build of a container image has no Git checkout. Otherwise the
/// value is the commit of the checkout, or "unknown" without a checkout.
fn build_info() {
    println!("cargo:rerun-if-env-changed=TALLY_COMMIT");
    println!("cargo:rerun-if-changed=.git/HEAD");
    println!("cargo:rerun-if-changed=.git/refs/heads");
    let given = env::var("TALLY_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(checked_out).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=TALLY_COMMIT={commit}");
}

/// Returns the commit of the Git checkout, 12 digits; `None` without a checkout.
fn checked_out() -> Option<String> {
    let output = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
