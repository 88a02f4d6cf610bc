//! A [`Disk`] that reads from another disk and allows no changes.

use std::{io, path::Path, sync::Arc};

use crate::disk::{Disk, DiskError, DiskFile, DiskLock, FileAccess, LockKind, Operation};

/// Reads from another disk, and returns an error for every operation that would change a file or a name. Code that has
/// only this disk cannot write by mistake.
#[derive(Debug)]
pub(super) struct ReadOnlyDisk(Arc<dyn Disk>);

// ===== impl ReadOnlyDisk =====

impl ReadOnlyDisk {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        ReadOnlyDisk(disk)
    }
}

impl Disk for ReadOnlyDisk {
    fn create_dir_all(&self, dir: &Path) -> Result<(), DiskError> {
        refuse(Operation::CreateDir, dir)
    }

    fn create_new(&self, path: &Path) -> Result<Arc<dyn DiskFile>, DiskError> {
        refuse(Operation::Create, path)
    }

    fn open(&self, path: &Path, access: FileAccess) -> Result<Arc<dyn DiskFile>, DiskError> {
        match access {
            FileAccess::Read => self.0.open(path, FileAccess::Read),
            FileAccess::ReadWrite => refuse(Operation::Open, path),
        }
    }

    fn rename(&self, from: &Path, _to: &Path) -> Result<(), DiskError> {
        refuse(Operation::Rename, from)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        refuse(Operation::Remove, path)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError> {
        self.0.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        refuse(Operation::SyncDir, dir)
    }

    fn try_lock(&self, dir: &Path, kind: LockKind) -> Result<Option<Box<dyn DiskLock>>, DiskError> {
        self.0.try_lock(dir, kind)
    }

    fn lock_holder(&self, dir: &Path) -> Option<u32> {
        self.0.lock_holder(dir)
    }

    fn fill_random(&self, bytes: &mut [u8]) -> Result<(), DiskError> {
        self.0.fill_random(bytes)
    }
}

fn refuse<T>(operation: Operation, path: &Path) -> Result<T, DiskError> {
    Err(DiskError::new(
        operation,
        path,
        io::ErrorKind::ReadOnlyFilesystem.into(),
    ))
}
