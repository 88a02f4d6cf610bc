//! The errors that the library tonic makes.

use tonic::Code;

use crate::grpc::error_kind::ErrorKind;

/// Returns the kind of an error of tonic or of its services.
#[expect(clippy::wildcard_enum_match_arm, reason = "all other codes have one kind")]
pub(super) const fn kind(code: Code) -> ErrorKind {
    match code {
        Code::Internal => ErrorKind::MALFORMED_MESSAGE,
        Code::OutOfRange => ErrorKind::MESSAGE_TOO_LARGE,
        Code::Unimplemented => ErrorKind::COMPRESSION_NOT_SUPPORTED,
        Code::Cancelled => ErrorKind::CALL_CANCELLED,
        Code::NotFound => ErrorKind::NOT_FOUND,
        _ => ErrorKind::LIBRARY_ERROR,
    }
}
