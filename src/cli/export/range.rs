//! The range of an export.

use crate::cli::moment::Ends;

/// What to export.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    /// Where the range begins and ends.
    pub(super) ends: Ends,
    /// Whether the export goes to the end of the ledger.
    pub(super) is_open: bool,
}
