//! Finds out whether a directory can be a data directory, and which of its files do not belong to it.

use std::path::Path;

use tally_journal::{DataDirectory, Disk, JournalError, StoreKind};

use super::{checkpoint, error::OpenError, id_files};
use crate::store::replicated::resume;

/// Checks that a start of a store of this `kind` would accept `dir` as its data directory: it is one, or it can become one. Changes nothing, and
/// reads no block.
///
/// # Errors
/// [`OpenError::Store`].
pub fn check_directory(disk: &dyn Disk, dir: &Path, kind: StoreKind) -> Result<(), OpenError> {
    Ok(DataDirectory::check(disk, dir, kind)?)
}

/// Returns whether `dir` is a data directory of any kind. A missing directory is not a data directory.
///
/// # Errors
/// [`OpenError::Store`] if the disk fails, or if there is something else at the path.
pub fn is_data_directory(disk: &dyn Disk, dir: &Path) -> Result<bool, OpenError> {
    Ok(DataDirectory::exists(disk, dir)?)
}

/// Returns the files in the subdirectories of the data directory `dir` that Tally has not made and does not read, as paths in `dir`.
///
/// # Errors
/// [`JournalError::Disk`] if the disk fails.
pub fn foreign_files(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, JournalError> {
    tally_journal::foreign_files(disk, dir, &[checkpoint::FAMILY, id_files::FAMILY, resume::FAMILY])
}
