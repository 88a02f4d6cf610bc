//! The file operations that the embedded store needs, and the real disk behind them.
//!
//! Everything goes through [`Disk`] so that a simulated disk can tear, lose and reorder unsynced writes, fill up and
//! fail a sync under a seed. What the trait promises is what POSIX promises and no more: bytes are durable after
//! [`DiskFile::sync_data`], a file's name only after [`Disk::sync_dir`] of its directory.

use std::{
    fmt,
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;

/// A file system, or something that behaves like one.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Makes `dir` and its missing parents, durably.
    ///
    /// # Errors
    /// When the file system refuses.
    fn create_dir_all(&self, dir: &Path) -> Result<(), DiskError>;

    /// Makes an empty file that must not exist yet, for reading and writing. Its name is durable after
    /// [`Disk::sync_dir`].
    ///
    /// # Errors
    /// When there is such a file, or the file system refuses.
    fn create_new(&self, path: &Path) -> Result<Arc<dyn DiskFile>, DiskError>;

    /// Opens a file that exists.
    ///
    /// # Errors
    /// When there is no such file ([`DiskError::is_not_found`]), or the file system refuses.
    fn open(&self, path: &Path, access: FileAccess) -> Result<Arc<dyn DiskFile>, DiskError>;

    /// Gives a file another name in the same directory, replacing what had it. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// When there is no such file, or the file system refuses.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError>;

    /// Removes a file. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// When there is no such file, or the file system refuses.
    fn remove(&self, path: &Path) -> Result<(), DiskError>;

    /// The names in a directory, sorted. Names that are not UTF-8 are not ours and are left out.
    ///
    /// # Errors
    /// When there is no such directory ([`DiskError::is_not_found`]), or the file system refuses.
    fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// When the sync fails. What is durable is then unknown.
    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError>;

    /// Locks the directory `dir` itself until the lock is dropped or the process ends. Returns `None` when another
    /// process holds a lock that excludes this one. Nothing is written: a read-only file system can be locked as well,
    /// and there is no lock file that somebody could remove.
    ///
    /// # Errors
    /// When there is no such directory ([`DiskError::is_not_found`]), or the file system refuses.
    fn try_lock(&self, dir: &Path, kind: LockKind) -> Result<Option<Box<dyn DiskLock>>, DiskError>;

    /// Fills `bytes` with random ones, for ids and hash seeds. It is here because the real ones are read from a file,
    /// and because a simulated disk must repeat itself under its seed.
    ///
    /// # Errors
    /// When there is no source of randomness.
    fn fill_random(&self, bytes: &mut [u8]) -> Result<(), DiskError>;
}

/// An open file. It may be used by several threads at once: there is no cursor.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Under which name it was opened.
    fn path(&self) -> &Path;

    /// Reads from `offset` until `bytes` is full or the file ends; says how many bytes it read.
    ///
    /// # Errors
    /// When the disk fails.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<usize, DiskError>;

    /// Writes all of `bytes` at `offset`, in one call to the system if it takes them in one.
    ///
    /// # Errors
    /// When the disk fails or is full. Some of the bytes may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;

    /// Makes the contents durable (`fdatasync`).
    ///
    /// # Errors
    /// When the sync fails. Which writes are durable is then unknown, and a second sync may succeed without having
    /// written them: never retry.
    fn sync_data(&self) -> Result<(), DiskError>;

    /// Makes contents and metadata durable (`fsync`).
    ///
    /// # Errors
    /// As [`DiskFile::sync_data`].
    fn sync_all(&self) -> Result<(), DiskError>;

    /// Bytes in the file.
    ///
    /// # Errors
    /// When the file system refuses.
    fn size_bytes(&self) -> Result<u64, DiskError>;
}

/// A lock on a directory, held until it is dropped.
pub trait DiskLock: Send + Sync + fmt::Debug {}

/// What a lock on a directory excludes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Exclusive locks only: for any number of readers.
    Shared,
    /// Every other lock: for the one writer.
    Exclusive,
}

/// For what a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileAccess {
    /// Reading only.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// A file operation that failed, and on what.
#[derive(Debug, Error)]
#[error("cannot {operation} {}: {source}", path.display())]
pub struct DiskError {
    /// What was tried.
    pub operation: Operation,
    /// On which file or directory.
    pub path: PathBuf,
    /// What the system said.
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
    /// [`DiskFile::write_at`].
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

/// The disk of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile {
    file: File,
    path: PathBuf,
}

/// The lock belongs to the open directory (`flock`): closing it releases the lock.
#[derive(Debug)]
struct RealLock {
    _file: File,
}

/// Where Unix systems keep their randomness.
const RANDOM_SOURCE: &str = "/dev/urandom";

// ===== impl DiskError =====

impl DiskError {
    /// `operation` on `path` failed with `source`.
    pub fn new(operation: Operation, path: impl Into<PathBuf>, source: io::Error) -> Self {
        DiskError {
            operation,
            path: path.into(),
            source,
        }
    }

    /// Whether it failed because there is no such file or directory.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether it failed because there is no room: the disk or the quota is full, or the file may not grow beyond the
    /// process's limit of file sizes (`RLIMIT_FSIZE`).
    #[must_use]
    pub fn is_storage_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
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
            Operation::Size => "tell the size of",
            Operation::Rename => "rename",
            Operation::Remove => "remove",
            Operation::List => "list",
            Operation::Lock => "lock",
            Operation::Random => "read random bytes from",
        })
    }
}

// ===== impl RealDisk =====

impl Disk for RealDisk {
    fn create_dir_all(&self, dir: &Path) -> Result<(), DiskError> {
        let mut made = Vec::new();
        for ancestor in dir.ancestors() {
            // The empty path is the parent of a relative one, and always there.
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
        let file = OpenOptions::new()
            .read(true)
            .write(access == FileAccess::ReadWrite)
            .open(path)
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

    fn fill_random(&self, bytes: &mut [u8]) -> Result<(), DiskError> {
        File::open(RANDOM_SOURCE)
            .and_then(|mut source| source.read_exact(bytes))
            .map_err(|source| DiskError::new(Operation::Random, RANDOM_SOURCE, source))
    }
}

// ===== impl RealFile =====

impl DiskFile for RealFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<usize, DiskError> {
        let mut unread = bytes;
        let mut from = offset;
        let mut bytes_read = 0;
        while !unread.is_empty() {
            match self.file.read_at(unread, from) {
                Ok(0) => break,
                Ok(count) => {
                    unread = unread.split_at_mut(count).1;
                    from = from.saturating_add(count as u64);
                    bytes_read += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(DiskError::new(Operation::Read, &self.path, source)),
            }
        }
        Ok(bytes_read)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|source| DiskError::new(Operation::Write, &self.path, source))
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
