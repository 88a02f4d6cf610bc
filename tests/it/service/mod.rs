//! Tests of the service over a real socket, on a simulated disk that can hang and fail.

mod accounts;
mod acknowledged;
mod answers;
mod checkpoints;
mod circuits;
mod clock;
mod deadlines;
mod drain;
mod durability;
mod forwarding;
mod full_disk;
mod hanging_reads;
mod hangs;
mod hash_collision;
mod history;
mod holds;
mod hot_account;
mod introspection;
mod ledger_client;
mod malformed;
mod open_streams;
mod overload;
mod reasons;
mod replays;
mod short_frames;
mod statuses;
mod streams;
mod watch;

use tonic::{Code, Status};
use tonic_types::{ErrorInfo, StatusExt};

/// Returns the code of an error, its reason, and whether the call was executed.
fn summary(status: &Status) -> (Code, String, String) {
    let info = info(status);
    (
        status.code(),
        info.reason.clone(),
        info.metadata.get("executed").cloned().unwrap_or_default(),
    )
}

fn info(status: &Status) -> ErrorInfo {
    let info = status.get_details_error_info();
    let info = info.unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "tally.v1");
    info
}

fn expected(code: Code, reason: &str, executed: &str) -> (Code, String, String) {
    (code, reason.to_owned(), executed.to_owned())
}
