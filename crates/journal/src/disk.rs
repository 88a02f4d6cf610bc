//! The trait for all file operations of the journal, and its implementation for the file system of the operating
//! system.
//!
//! All file operations use [`Disk`], so that a test can use a simulated disk instead. The simulated disk tears, loses
//! and reorders unsynced writes, becomes full and fails syncs; its random decisions come from a seed, so a test is
//! repeatable. The trait guarantees only what POSIX guarantees: bytes are durable after [`DiskFile::sync_data`], and a
//! file's name is durable after [`Disk::sync_dir`] of its directory.

use std::{
    fmt,
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};
use thiserror::Error;

use crate::{positioned_io, regular_file};

/// A file system.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Makes `dir` and its missing parents, durably.
    ///
    /// # Errors
    /// If the file system returns an error.
    fn create_dir_all(&self, dir: &Path) -> Result<(), DiskError>;

    /// Makes an empty file for reading and writing. The name of the file is durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// If the file exists, or the file system returns an error.
    fn create_new(&self, path: &Path) -> Result<Arc<dyn DiskFile>, DiskError>;

    /// Opens an existing regular file. Never waits for another process.
    ///
    /// # Errors
    /// If the file does not exist ([`DiskError::is_not_found`]), if it is not a regular file, or
    /// the file system returns an error.
    fn open(&self, path: &Path, access: FileAccess) -> Result<Arc<dyn DiskFile>, DiskError>;

    /// Renames a file in its directory. Replaces the file `to` if it exists. The change is durable after
    /// [`Disk::sync_dir`].
    ///
    /// # Errors
    /// If the file does not exist, or the file system returns an error.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError>;

    /// Removes a file. The removal is durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// If the file does not exist ([`DiskError::is_not_found`]), or the file system returns an error.
    fn remove(&self, path: &Path) -> Result<(), DiskError>;

    /// Returns the names in a directory, sorted. Omits names that are not UTF-8: the journal makes no such names.
    ///
    /// # Errors
    /// If the directory does not exist ([`DiskError::is_not_found`]), or the file system returns an error.
    fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// If the sync fails. After a failed sync, it is unknown which names are durable.
    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError>;

    /// Locks the directory `dir` until the returned lock is dropped or the process ends. Returns `None` if another
    /// process holds a lock that excludes the requested lock. The lock is on the directory itself and not on a lock
    /// file, so it also works on a read-only file system, and nobody can remove it by removing a file.
    ///
    /// # Errors
    /// If the directory does not exist ([`DiskError::is_not_found`]), or the file system returns an error.
    fn try_lock(&self, dir: &Path, kind: LockKind) -> Result<Option<Box<dyn DiskLock>>, DiskError>;

    /// Returns the id of a process that holds a lock on the directory `dir`, for the text of an error. Returns `None` if the
    /// system does not report it, for example because the process runs in another container.
    fn lock_holder(&self, _dir: &Path) -> Option<u32> {
        None
    }

    /// Fills `bytes` with random bytes, for ids and hash seeds. This method is part of the trait, because a simulated
    /// disk must return the same bytes for the same seed. The real disk reads the bytes from a file of the operating
    /// system.
    ///
    /// # Errors
    /// If no random bytes are available.
    fn fill_random(&self, bytes: &mut [u8]) -> Result<(), DiskError>;
}

/// An open file. Several threads may use it at the same time, because each read and write states its offset.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Returns the path with which the file was opened.
    fn path(&self) -> &Path;

    /// Reads from `offset` until `bytes` is full or the file ends. Returns the number of bytes read.
    ///
    /// # Errors
    /// If the disk fails.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<usize, DiskError>;

    /// Writes all of `bytes` at `offset`, with one system call if the system accepts all bytes at once.
    ///
    /// # Errors
    /// If the disk fails or is full. Some of the bytes may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;

    /// Reserves space for a file of `bytes` bytes (at least 1), and extends the empty file to this length. The file then
    /// contains zeros. If the file system can't reserve space, this method only extends the file, and so does the default.
    ///
    /// # Errors
    /// If the disk fails or is full. A part of the space may have been taken.
    fn allocate(&self, bytes: u64) -> Result<(), DiskError> {
        self.write_at(bytes - 1, &[0])
    }

    /// Reserves space for the bytes from `start` to `end`, so that a later write to them never fails because the disk is
    /// full. The space may be missing because the file is sparse or shares its space with a copy. The file has at least
    /// `end` bytes, and the bytes in the range are zeros. Neither the content nor the length changes. If the file system
    /// can't reserve space, this method does nothing, and so does the default.
    ///
    /// # Errors
    /// If the disk fails or is full. A part of the space may have been taken.
    fn own_space(&self, _start: u64, _end: u64) -> Result<(), DiskError> {
        Ok(())
    }

    /// Makes the contents durable (`fdatasync`).
    ///
    /// # Errors
    /// If the sync fails. After a failed sync, it is unknown which writes are durable. The caller must never retry,
    /// because a second sync may succeed although the operating system has discarded the written bytes.
    fn sync_data(&self) -> Result<(), DiskError>;

    /// Makes the contents and the metadata durable (`fsync`).
    ///
    /// # Errors
    /// Those of [`DiskFile::sync_data`].
    fn sync_all(&self) -> Result<(), DiskError>;

    /// Returns the length of the file, in bytes.
    ///
    /// # Errors
    /// If the file system returns an error.
    fn size_bytes(&self) -> Result<u64, DiskError>;
}

/// A lock on a directory, held until it is dropped.
pub trait DiskLock: Send + Sync + fmt::Debug {}

/// Kinds of locks on a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// For any number of readers. Excludes [`LockKind::Exclusive`].
    Shared,
    /// For one writer. Excludes every other lock.
    Exclusive,
}

/// Which operations an open file allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileAccess {
    /// Reading only.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// A file operation that failed.
#[derive(Debug, Error)]
#[error("cannot {operation} {}: {source}{}", path.display(), remedy(*operation, source))]
pub struct DiskError {
    /// The operation.
    pub operation: Operation,
    /// The file or directory.
    pub path: PathBuf,
    /// The error of the operating system.
    pub source: io::Error,
}

/// The operations of a [`Disk`], for errors and traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`Disk::create_dir_all`].
    CreateDir,
    /// [`Disk::create_new`].
    Create,
    /// [`Disk::open`].
    Open,
    /// [`DiskFile::read_at`].
    Read,
    /// [`DiskFile::write_at`], [`DiskFile::allocate`] and [`DiskFile::own_space`].
    Write,
    /// [`DiskFile::sync_data`] and [`DiskFile::sync_all`].
    Sync,
    /// [`Disk::sync_dir`].
    SyncDir,
    /// [`DiskFile::size_bytes`].
    Size,
    /// [`Disk::rename`].
    Rename,
    /// [`Disk::remove`].
    Remove,
    /// [`Disk::list`].
    List,
    /// [`Disk::try_lock`].
    Lock,
    /// [`Disk::fill_random`].
    Random,
}

/// The file system of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile {
    file: File,
    path: PathBuf,
}

/// A lock on a directory (`flock`). Holds the directory open; closing the directory releases the lock.
#[derive(Debug)]
struct RealLock {
    _file: File,
}

/// The file from which Unix systems provide random bytes.
const RANDOM_SOURCE: &str = "/dev/urandom";
/// Length of one write of zeros, in bytes.
const ZERO_STEP_BYTES: usize = 1 << 20;
/// The unit in which the system counts the space of a file, in bytes.
const BLOCK_UNIT_BYTES: u64 = 512;
/// The file in which Linux lists all locks.
const LOCKS: &str = "/proc/locks";

// ===== impl DiskError =====

impl DiskError {
    /// Makes the error for an `operation` on `path` that failed with `source`.
    pub fn new(operation: Operation, path: impl Into<PathBuf>, source: io::Error) -> Self {
        DiskError {
            operation,
            path: path.into(),
            source,
        }
    }

    /// Returns whether the operation failed because the file or directory does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Returns whether the operation failed because the process or the system has no file descriptor left (`EMFILE`,
    /// `ENFILE`).
    #[must_use]
    pub fn is_out_of_descriptors(&self) -> bool {
        let number = self.source.raw_os_error();
        [Errno::MFILE, Errno::NFILE]
            .iter()
            .any(|errno| number == Some(errno.raw_os_error()))
    }

    /// Returns whether the operation failed because no space is left: the disk or the quota is full, or the file would
    /// exceed the process's limit for the length of a file (`RLIMIT_FSIZE`).
    #[must_use]
    pub fn is_storage_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    }
}

/// Returns the end of the text of a file system error, which says what to do. Empty if the error needs no advice.
fn remedy(operation: Operation, source: &io::Error) -> &'static str {
    if source.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
        return "; its symbolic links form a circle: correct them";
    }
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "most errors need no other advice than their words"
    )]
    match source.kind() {
        // Only `regular_file` makes an error of this kind without an error number of the system.
        io::ErrorKind::InvalidInput if source.raw_os_error().is_none() => {
            "; nothing was changed: move it away, and put back the file, for example from a backup of the directory"
        }
        io::ErrorKind::AlreadyExists if operation == Operation::CreateDir => {
            "; it is not a directory: move it away, and restore the directory from a backup if it had one"
        }
        io::ErrorKind::NotADirectory => {
            "; this path or a part of it is a file: move the file away, and restore the directory from a backup if it had one"
        }
        io::ErrorKind::PermissionDenied => {
            "; run Tally as the owner of the data directory, or give its user access to this path (chown, chmod)"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free space on this file system, or raise the quota"
        }
        io::ErrorKind::FileTooLarge => "; raise the limit of file sizes (ulimit -f)",
        io::ErrorKind::ReadOnlyFilesystem => "; mount the file system for writing",
        _ => "",
    }
}

// ===== impl Operation =====

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::CreateDir => "create the directory",
            Operation::Create => "create",
            Operation::Open => "open",
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Sync => "sync",
            Operation::SyncDir => "sync the directory",
            Operation::Size => "get the length of",
            Operation::Rename => "rename",
            Operation::Remove => "remove",
            Operation::List => "list",
            Operation::Lock => "lock",
            Operation::Random => "read random bytes from",
        })
    }
}

/// Returns the process that holds a `flock` on the file with this device and inode, according to `locks`, the content of
/// [`LOCKS`]. A line has the form `1: FLOCK ADVISORY WRITE 4711 08:01:131 0 EOF`, with the process and with the device in
/// hexadecimal. A process in another container has the id 0. A line with `->` is a process that waits for the lock.
fn holder_in(locks: &str, device: u64, inode: u64) -> Option<u32> {
    // Linux splits a device number into a major number of 12 bits and a minor number of 20 bits, and has added 20 upper
    // bits to the major number.
    let major = ((device >> 32) & 0xffff_f000) | ((device >> 8) & 0xfff);
    let minor = ((device >> 12) & 0xffff_ff00) | (device & 0xff);
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (kind, _, _, process, place) = (
            words.next()?,
            words.next()?,
            words.next()?,
            words.next()?,
            words.next()?,
        );
        let id = process.parse().ok().filter(|id| *id > 0);
        if kind == "FLOCK" && place == file {
            id
        } else {
            None
        }
    })
}

/// Removes a file. Returns `Ok` if the file does not exist.
pub(super) fn remove_if_present(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    match disk.remove(path) {
        Err(error) if !error.is_not_found() => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

// ===== impl RealDisk =====

impl Disk for RealDisk {
    fn create_dir_all(&self, dir: &Path) -> Result<(), DiskError> {
        let mut made = Vec::new();
        for ancestor in dir.ancestors() {
            // The empty path is the parent of a relative path with one component, and always exists.
            if ancestor.as_os_str().is_empty() || ancestor.is_dir() {
                break;
            }
            made.push(ancestor);
        }
        std::fs::create_dir_all(dir).map_err(|source| DiskError::new(Operation::CreateDir, dir, source))?;
        for parent in made.iter().rev().filter_map(|child| child.parent()) {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            self.sync_dir(parent)?;
        }
        Ok(())
    }

    fn create_new(&self, path: &Path) -> Result<Arc<dyn DiskFile>, DiskError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|source| DiskError::new(Operation::Create, path, source))?;
        Ok(Arc::new(RealFile {
            file,
            path: path.to_path_buf(),
        }))
    }

    fn open(&self, path: &Path, access: FileAccess) -> Result<Arc<dyn DiskFile>, DiskError> {
        let mut options = OpenOptions::new();
        options.read(true).write(access == FileAccess::ReadWrite);
        let file = regular_file::open(&mut options, path)
            .map_err(|source| DiskError::new(Operation::Open, path, source))?;
        Ok(Arc::new(RealFile {
            file,
            path: path.to_path_buf(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        std::fs::rename(from, to).map_err(|source| DiskError::new(Operation::Rename, from, source))
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        std::fs::remove_file(path).map_err(|source| DiskError::new(Operation::Remove, path, source))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError> {
        let failed = |source| DiskError::new(Operation::List, dir, source);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        File::open(dir)
            .and_then(|handle| handle.sync_all())
            .map_err(|source| DiskError::new(Operation::SyncDir, dir, source))
    }

    fn try_lock(&self, dir: &Path, kind: LockKind) -> Result<Option<Box<dyn DiskLock>>, DiskError> {
        let failed = |source| DiskError::new(Operation::Lock, dir, source);
        let file = File::open(dir).map_err(failed)?;
        let locked = match kind {
            LockKind::Shared => file.try_lock_shared(),
            LockKind::Exclusive => file.try_lock(),
        };
        match locked {
            Ok(()) => Ok(Some(Box::new(RealLock { _file: file }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    fn lock_holder(&self, dir: &Path) -> Option<u32> {
        let metadata = std::fs::metadata(dir).ok()?;
        let locks = std::fs::read_to_string(LOCKS).ok()?;
        holder_in(&locks, metadata.dev(), metadata.ino())
    }

    fn fill_random(&self, bytes: &mut [u8]) -> Result<(), DiskError> {
        File::open(RANDOM_SOURCE)
            .and_then(|mut source| source.read_exact(bytes))
            .map_err(|source| DiskError::new(Operation::Random, RANDOM_SOURCE, source))
    }
}

// ===== impl RealFile =====

impl RealFile {
    /// Overwrites zeros by zeros. The file system takes new space only where the file does not own any.
    fn write_zeros_again(&self, start: u64, end: u64) -> Result<(), DiskError> {
        let zeros = vec![0; ZERO_STEP_BYTES];
        let mut offset = start;
        while offset < end {
            let step =
                usize::try_from(end - offset).map_or(ZERO_STEP_BYTES, |rest| rest.min(ZERO_STEP_BYTES));
            self.write_at(offset, zeros.split_at(step).0)?;
            offset += step as u64;
        }
        self.sync_data()
    }
}

impl DiskFile for RealFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<usize, DiskError> {
        positioned_io::read_until_full(&self.file, offset, bytes)
            .map_err(|source| DiskError::new(Operation::Read, &self.path, source))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        positioned_io::write_all(&self.file, offset, bytes)
            .map_err(|source| DiskError::new(Operation::Write, &self.path, source))
    }

    fn allocate(&self, bytes: u64) -> Result<(), DiskError> {
        match fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_at(bytes - 1, &[0]),
            Err(errno) => Err(DiskError::new(Operation::Write, &self.path, errno.into())),
        }
    }

    fn own_space(&self, start: u64, end: u64) -> Result<(), DiskError> {
        let failed = |errno: Errno| DiskError::new(Operation::Write, &self.path, errno.into());
        let metadata = self
            .file
            .metadata()
            .map_err(|source| DiskError::new(Operation::Size, &self.path, source))?;
        let has_holes = metadata.blocks().saturating_mul(BLOCK_UNIT_BYTES) < end;
        // Copies the blocks that the file shares with another file (reflink), and takes space for the holes.
        let unshared = fallocate(&self.file, FallocateFlags::UNSHARE_RANGE, start, end - start);
        let owned = match unshared {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) if has_holes => {
                fallocate(&self.file, FallocateFlags::empty(), start, end - start)
            }
            unshared => unshared,
        };
        match owned {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            // XFS returns this error whenever its free space is less than the length of the range, even if the file needs no
            // more space.
            Err(Errno::NOSPC) => self.write_zeros_again(start, end),
            Err(errno) => Err(failed(errno)),
        }
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        self.file
            .sync_data()
            .map_err(|source| DiskError::new(Operation::Sync, &self.path, source))
    }

    fn sync_all(&self) -> Result<(), DiskError> {
        self.file
            .sync_all()
            .map_err(|source| DiskError::new(Operation::Sync, &self.path, source))
    }

    fn size_bytes(&self) -> Result<u64, DiskError> {
        let metadata = self
            .file
            .metadata()
            .map_err(|source| DiskError::new(Operation::Size, &self.path, source))?;
        Ok(metadata.len())
    }
}

// ===== impl RealLock =====

impl DiskLock for RealLock {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_by_device_and_inode() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 08:01:131 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 12 08:01:1310 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 0 08:02:131 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 4711 08:01:131 0 EOF\n\
                     4: -> FLOCK  ADVISORY  WRITE 14 08:01:131 0 EOF\n";
        let device = 0x801;
        assert_eq!(holder_in(locks, device, 131), Some(4711));
        assert_eq!(holder_in(locks, 0x802, 131), None);
        assert_eq!(holder_in(locks, device, 132), None);
        assert_eq!(holder_in("nonsense\n\n", device, 131), None);
    }
}
