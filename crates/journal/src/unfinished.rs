//! Unfinished files: a file is written under a temporary name, and gets its own name when it is complete and durable.

use std::{path::Path, sync::Arc};

use crate::disk::{Disk, DiskError, DiskFile, remove_if_present};

/// Suffix of the name of an unfinished file. The next start removes such files.
pub(super) const UNFINISHED_SUFFIX: &str = ".tmp";

/// Makes a file at a temporary `path`. The caller renames the file when it is complete. Replaces a file that an earlier
/// attempt left at `path`.
pub(super) fn create_unfinished(disk: &dyn Disk, path: &Path) -> Result<Arc<dyn DiskFile>, DiskError> {
    remove_if_present(disk, path)?;
    disk.create_new(path)
}

/// Removes the unfinished files that earlier processes left in `directory`.
pub(super) fn remove_unfinished(disk: &dyn Disk, directory: &Path) -> Result<(), DiskError> {
    for name in disk.list(directory)? {
        if name.ends_with(UNFINISHED_SUFFIX) {
            disk.remove(&directory.join(name))?;
        }
    }
    Ok(())
}
