//! What all lists share: the sizes of their pages, and their tokens.

use tonic::Status;

use super::status;
use crate::engine::PAGE_ACCOUNTS_MAX;

/// Number of entries of a page if the request does not set the size of the page.
const PAGE_DEFAULT: usize = 100;

/// Returns the maximum number of entries of a page.
///
/// # Errors
/// INVALID_ARGUMENT if the size in the request is out of its bounds.
pub(crate) fn page_limit(page_size: i32) -> Result<usize, Status> {
    match usize::try_from(page_size) {
        Ok(0) => Ok(PAGE_DEFAULT),
        Ok(size) if size <= PAGE_ACCOUNTS_MAX => Ok(size),
        _ => {
            let description =
                format!("is {page_size}, must be 0 (for {PAGE_DEFAULT}) to {PAGE_ACCOUNTS_MAX}");
            Err(status::invalid_field("page_size", description))
        }
    }
}

/// Returns the error for a page token that does not belong to the request.
pub(crate) fn wrong_token(method: &str) -> Status {
    let description = format!("is not a next_page_token of {method} with the same filter");
    status::invalid_field("page_token", description)
}

/// Returns a hash of the parts (FNV-1a). A page token contains the hash of its filter. The hash of equal parts is the same in every process.
pub(crate) fn fingerprint(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter().chain(&[0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
