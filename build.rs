//! Compiles `proto/` without protoc, and notes what is being built.

use std::{env, error::Error, fs, path::PathBuf, process::Command};

use prost::Message;

const PROTOS: [&str; 4] = [
    // Not used by name, but sent in `details`: with it, reflection can show them.
    "google/rpc/error_details.proto",
    "tally/v1/transaction_service.proto",
    "tally/v1/account_service.proto",
    "tally/v1/engine_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let descriptors = protox::compile(PROTOS, ["proto"])?;
    // For reflection and for the JSON form; `compile_fds` does not write it.
    fs::write(out.join("tally_v1_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Sorted maps: equal content has equal bytes, which idempotency compares.
        .btree_map(".")
        // tonic-types already has the generated type; one type means one set of conversions.
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .compile_fds(descriptors)?;

    echo_service();
    build_info();
    Ok(())
}

/// The bare echo service that `tally bench --baseline` compares with: same message shape, no ledger behind it.
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
    // The load is sent by a codec of its own.
    tonic_build::manual::Builder::new()
        .build_client(false)
        .compile(&[service]);
}

/// `TALLY_COMMIT` for `tally --version` and the bench report: from the environment, for builds of an image, or from the
/// checkout; "unknown" without either.
fn build_info() {
    println!("cargo:rerun-if-env-changed=TALLY_COMMIT");
    println!("cargo:rerun-if-changed=.git/HEAD");
    println!("cargo:rerun-if-changed=.git/refs/heads");
    let told = env::var("TALLY_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = told.or_else(checked_out).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=TALLY_COMMIT={commit}");
}

fn checked_out() -> Option<String> {
    let output = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
