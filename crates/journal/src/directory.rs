//! The data directory: its lock, which excludes other processes, and its file `FORMAT`, which stores the sizes of the
//! journal, a random id and a random hash seed.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    block::DataId,
    disk::{Disk, DiskLock, FileAccess, LockKind, remove_if_present},
    error::{FormatDefect, JournalError},
    format::{DirectoryFormat, StoreKind},
    genesis::Genesis,
    geometry::{Geometry, JournalConfig},
    read_only::ReadOnlyDisk,
    segment_file::{segment_name, segment_number, write_zeros},
    segment_note::{self, note_name, noted_in},
    unfinished::{UNFINISHED_SUFFIX, create_unfinished, remove_unfinished},
};

/// An open data directory. While this value exists, no other process can open the directory for writing.
#[derive(Debug)]
pub struct DataDirectory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    format: DirectoryFormat,
    created: bool,
    _lock: Box<dyn DiskLock>,
}

const FORMAT_FILE: &str = "FORMAT";
pub(super) const JOURNAL_DIR: &str = "journal";
/// Name of the marker of a clean stop in the directory of the journal.
pub(super) const MARKER_FILE: &str = "CLEAN";
/// Names that file systems and desktops make at the root of a volume or in any directory, so they do not count as foreign
/// files. A name that ends with `*` stands for every name with this beginning. In this order: ext4; snapshots of NetApp and
/// other filers, and of snapper (Btrfs); ZFS; files that a client of NFS has removed while a process still uses them; wastebaskets.
const FILE_SYSTEM_ENTRIES: [&str; 6] = [
    "lost+found",
    ".snapshot",
    ".snapshots",
    ".zfs",
    ".nfs*",
    ".Trash*",
];
/// Maximum number of foreign files (files that do not belong to a data directory) that an error lists.
const FOREIGN_FILES_SHOWN_MAX: usize = 3;
/// Maximum number of bytes that are read from `FORMAT`. A valid file is much shorter.
const FORMAT_BYTES_MAX: usize = 4096;
/// Length of one read of [`contains_only_zeros`], in bytes.
const READ_STEP_BYTES: usize = 1 << 20;

// ===== impl DataDirectory =====

impl DataDirectory {
    /// Locks the directory at `path`. If the directory does not exist or is empty, makes a data directory with the
    /// sizes in `config`. An existing data directory keeps the sizes with which it was made. Any other directory with
    /// files is an error.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        config: &JournalConfig,
    ) -> Result<Self, JournalError> {
        let configured = config.validate()?;
        let opened =
            DataDirectory::open_or_make(disk, path, |disk| DirectoryFormat::create(disk, path, configured))?;
        opened.expect_store(StoreKind::Embedded)?;
        let format = opened.format;
        if format.geometry != configured {
            tracing::warn!(
                directory = %path.display(),
                segment_bytes = format.geometry.segment_bytes(),
                block_bytes_max = format.geometry.block_bytes_max(),
                "the configured sizes have no effect: the data directory was made with other sizes and keeps them"
            );
        }
        Ok(opened)
    }

    /// Locks and opens the replica's directory at `path`. If the directory does not exist, makes it with the `FORMAT` in `genesis`.
    pub(super) fn create_replica(
        disk: Arc<dyn Disk>,
        path: &Path,
        genesis: &Genesis,
    ) -> Result<Self, JournalError> {
        let format = *genesis.format();
        let opened = DataDirectory::open_or_make(disk, path, |disk| {
            create_journal(disk, path, format.geometry)?;
            format.write(disk, path)?;
            Ok(format)
        })?;
        opened.expect_store(StoreKind::Replicated)?;
        if opened.format == format {
            return Ok(opened);
        }
        Err(JournalError::OtherLedger {
            path: path.to_path_buf(),
            found: opened.format.data_id,
            expected: format.data_id,
        })
    }

    /// Locks the replica's directory at `path`, which must exist.
    pub(super) fn open_replica(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, JournalError> {
        let opened = DataDirectory::open_existing(disk, path)?;
        opened.expect_store(StoreKind::Replicated)?;
        Ok(opened)
    }

    /// Locks the directory at `path`, which may belong to either store. The directory must exist.
    pub(super) fn open_existing(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, JournalError> {
        refuse_empty(path)?;
        let lock = lock(&*disk, path, LockKind::Exclusive)?;
        let format = DirectoryFormat::load(&*disk, path)?.ok_or_else(|| JournalError::NotADataDirectory {
            path: path.to_path_buf(),
        })?;
        settle(&*disk, path)?;
        Ok(DataDirectory {
            disk,
            path: path.to_path_buf(),
            format,
            created: false,
            _lock: lock,
        })
    }

    /// Locks the directory at `path`. If it has no `FORMAT`, calls `make` to make the data directory.
    fn open_or_make(
        disk: Arc<dyn Disk>,
        path: &Path,
        make: impl FnOnce(&dyn Disk) -> Result<DirectoryFormat, JournalError>,
    ) -> Result<Self, JournalError> {
        refuse_empty(path)?;
        disk.create_dir_all(path).map_err(|error| {
            if matches!(
                error.source.kind(),
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory
            ) {
                JournalError::NotADirectory {
                    path: path.to_path_buf(),
                }
            } else {
                error.into()
            }
        })?;
        let lock = lock(&*disk, path, LockKind::Exclusive)?;
        let (format, created) = match DirectoryFormat::load(&*disk, path)? {
            Some(format) => {
                settle(&*disk, path)?;
                (format, false)
            }
            None => {
                refuse_foreign_files(&*disk, path)?;
                (make(&*disk)?, true)
            }
        };
        Ok(DataDirectory {
            disk,
            path: path.to_path_buf(),
            format,
            created,
            _lock: lock,
        })
    }

    /// Returns an error unless the directory belongs to the store `expected`.
    fn expect_store(&self, expected: StoreKind) -> Result<(), JournalError> {
        expect_store(&self.path, self.format.store, expected)
    }

    /// Changes `FORMAT` durably, so that the directory belongs to the replicated store. After a crash, `FORMAT` is the old or the new
    /// one.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk fails, or if the directory was opened for reading. After an error, the directory may belong
    /// to either store.
    pub(super) fn make_replicated(&mut self) -> Result<(), JournalError> {
        self.change_store(StoreKind::Replicated)
    }

    /// Changes `FORMAT` durably, so that the directory belongs to the embedded store. See [`DataDirectory::make_replicated`].
    pub(super) fn make_embedded(&mut self) -> Result<(), JournalError> {
        self.change_store(StoreKind::Embedded)
    }

    fn change_store(&mut self, store: StoreKind) -> Result<(), JournalError> {
        let format = DirectoryFormat { store, ..self.format };
        format.write(&*self.disk, &self.path)?;
        self.format = format;
        Ok(())
    }

    /// Checks that a start with this `store` would accept the directory at `path`, but changes nothing and takes no lock: a
    /// service may be using the directory.
    ///
    /// # Errors
    /// The errors of [`Journal::open`](crate::Journal::open), except for those of its lock and its writes.
    pub fn check(disk: &dyn Disk, path: &Path, store: StoreKind) -> Result<(), JournalError> {
        refuse_empty(path)?;
        match disk.list(path) {
            Ok(_) => {}
            // The start makes the directory.
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) if error.source.kind() == io::ErrorKind::NotADirectory => {
                return Err(JournalError::NotADirectory {
                    path: path.to_path_buf(),
                });
            }
            Err(error) => return Err(error.into()),
        }
        match DirectoryFormat::load(disk, path)? {
            Some(format) => expect_store(path, format.store, store),
            None => refuse_foreign_files(disk, path),
        }
    }

    /// Returns whether a data directory of any kind is at `path`. A missing or empty directory is not a data directory.
    ///
    /// # Errors
    /// Those of [`DataDirectory::check`].
    pub fn exists(disk: &dyn Disk, path: &Path) -> Result<bool, JournalError> {
        refuse_empty(path)?;
        match disk.list(path) {
            Ok(_) => Ok(DirectoryFormat::load(disk, path)?.is_some()),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the directory at `path` for reading. Other processes may have the directory open for reading. The disk of
    /// the result returns an error for every operation that would change a file.
    pub(super) fn open_read_only(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, JournalError> {
        refuse_empty(path)?;
        let disk: Arc<dyn Disk> = Arc::new(ReadOnlyDisk::new(disk));
        let lock = lock(&*disk, path, LockKind::Shared)?;
        let format = DirectoryFormat::load(&*disk, path)?.ok_or_else(|| JournalError::NotADataDirectory {
            path: path.to_path_buf(),
        })?;
        noted_segment(&*disk, path)?;
        Ok(DataDirectory {
            disk,
            path: path.to_path_buf(),
            format,
            created: false,
            _lock: lock,
        })
    }

    /// Returns the path of the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of the directory of the journal's segments.
    #[must_use]
    pub fn journal_path(&self) -> PathBuf {
        journal_path(&self.path)
    }

    /// Returns the random id of the directory. The id was chosen when the directory was made.
    #[must_use]
    pub fn data_id(&self) -> DataId {
        self.format.data_id
    }

    /// Returns the random seed for hash tables and filters. The seed was chosen when the directory was made, and never
    /// changes, because indexes on disk depend on it.
    #[must_use]
    pub fn hash_seed(&self) -> u64 {
        self.format.hash_seed
    }

    /// Returns which store continues the directory.
    #[must_use]
    pub fn store(&self) -> StoreKind {
        self.format.store
    }

    /// Returns the first record of the replicated log of this directory's ledger.
    #[must_use]
    pub fn genesis(&self) -> Genesis {
        Genesis::new(self.format)
    }

    /// Returns the sizes of the journal.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.format.geometry
    }

    /// Returns the disk of the directory.
    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub(super) fn format(&self) -> &DirectoryFormat {
        &self.format
    }

    /// Returns whether the call that opened the directory also made it.
    #[must_use]
    pub fn created(&self) -> bool {
        self.created
    }
}

// ===== impl DirectoryFormat =====

impl DirectoryFormat {
    /// Reads `FORMAT`. Returns `None` if `FORMAT` does not exist, and the journal is either missing or was left by an interrupted
    /// first start.
    pub(super) fn load(disk: &dyn Disk, directory: &Path) -> Result<Option<Self>, JournalError> {
        let path = directory.join(FORMAT_FILE);
        let file = match disk.open(&path, FileAccess::Read) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => {
                // If a journal exists, do not make a new FORMAT: it would have a new id, and recovery would reject all
                // existing blocks, which contain the old id.
                let names = journal_files(disk, directory)?;
                let is_of_journal = |name: &String| segment_number(name).is_some();
                let has_journal = names.iter().any(is_of_journal) || noted_in(&names).is_some();
                if has_journal && !is_interrupted_first_start(disk, directory)? {
                    return Err(JournalError::Format {
                        path,
                        defect: FormatDefect::Missing,
                    });
                }
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let mut bytes = vec![0; FORMAT_BYTES_MAX];
        let length = file.read_at(0, &mut bytes)?;
        bytes.truncate(length);
        DirectoryFormat::parse(&path, &bytes).map(Some)
    }

    /// Makes a journal with its first segment and its segment note, and then `FORMAT`. So a directory that has `FORMAT`
    /// has had a journal.
    fn create(disk: &dyn Disk, directory: &Path, geometry: Geometry) -> Result<Self, JournalError> {
        create_journal(disk, directory, geometry)?;
        let mut data_id = [0; 16];
        let mut hash_seed = [0; 8];
        disk.fill_random(&mut data_id)?;
        disk.fill_random(&mut hash_seed)?;
        let format = DirectoryFormat {
            store: StoreKind::Embedded,
            data_id: DataId::from_bytes(data_id),
            hash_seed: u64::from_le_bytes(hash_seed),
            geometry,
        };
        format.write(disk, directory)?;
        Ok(format)
    }

    /// Makes `FORMAT`, or replaces it: a crash leaves the old file or the new one.
    fn write(&self, disk: &dyn Disk, directory: &Path) -> Result<(), JournalError> {
        let path = directory.join(FORMAT_FILE);
        let unfinished = directory.join(format!("{FORMAT_FILE}{UNFINISHED_SUFFIX}"));
        let file = create_unfinished(disk, &unfinished)?;
        file.write_at(0, self.render().as_bytes())?;
        file.sync_all()?;
        disk.rename(&unfinished, &path)?;
        Ok(disk.sync_dir(directory)?)
    }
}

// ===== files =====

fn lock(disk: &dyn Disk, path: &Path, kind: LockKind) -> Result<Box<dyn DiskLock>, JournalError> {
    disk.try_lock(path, kind)?.ok_or_else(|| JournalError::Locked {
        path: path.to_path_buf(),
        holder: disk.lock_holder(path),
    })
}

fn refuse_empty(path: &Path) -> Result<(), JournalError> {
    if path.as_os_str().is_empty() {
        Err(JournalError::EmptyPath)
    } else {
        Ok(())
    }
}

/// Makes the name of `FORMAT` durable, checks the segment note, and removes the unfinished files of earlier processes.
fn settle(disk: &dyn Disk, path: &Path) -> Result<(), JournalError> {
    // If the process that wrote `FORMAT` failed to sync its directory, the name may exist only in the cache of the operating
    // system. Without the file, no block can be read.
    disk.sync_dir(path)?;
    noted_segment(disk, path)?;
    Ok(remove_unfinished(disk, &journal_path(path))?)
}

fn expect_store(path: &Path, found: StoreKind, expected: StoreKind) -> Result<(), JournalError> {
    let path = || path.to_path_buf();
    match (found, expected) {
        (StoreKind::Embedded, StoreKind::Embedded) | (StoreKind::Replicated, StoreKind::Replicated) => Ok(()),
        (StoreKind::Replicated, StoreKind::Embedded) => Err(JournalError::Replicated { path: path() }),
        (StoreKind::Embedded, StoreKind::Replicated) => Err(JournalError::NotReplicated { path: path() }),
    }
}

/// Returns whether a name is one of [`FILE_SYSTEM_ENTRIES`].
pub(super) fn is_of_file_system(name: &str) -> bool {
    FILE_SYSTEM_ENTRIES
        .iter()
        .any(|entry| match entry.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == *entry,
        })
}

/// Returns an error if a directory without `FORMAT` has files that a new data directory does not have.
fn refuse_foreign_files(disk: &dyn Disk, path: &Path) -> Result<(), JournalError> {
    let mut expected = vec![format!("{FORMAT_FILE}{UNFINISHED_SUFFIX}")];
    if is_interrupted_first_start(disk, path)? {
        expected.push(JOURNAL_DIR.to_owned());
    }
    let mut foreign = disk.list(path)?;
    foreign.retain(|name| !is_of_file_system(name) && !expected.contains(name));
    if foreign.is_empty() {
        return Ok(());
    }
    foreign.sort_unstable();
    let more = foreign.len().saturating_sub(FOREIGN_FILES_SHOWN_MAX);
    foreign.truncate(FOREIGN_FILES_SHOWN_MAX);
    let mut files = foreign.join(", ");
    if more > 0 {
        files.push_str(&format!(" and {more} more"));
    }
    Err(JournalError::NotEmpty {
        path: path.to_path_buf(),
        files,
    })
}

/// Returns the path of the journal's segments in a data directory.
pub(super) fn journal_path(directory: &Path) -> PathBuf {
    directory.join(JOURNAL_DIR)
}

// ===== the journal of a new directory =====

/// Makes the journal of a new directory: the first segment, full of zeros, and the segment note. Replaces the files that an
/// interrupted first start left.
fn create_journal(disk: &dyn Disk, directory: &Path, geometry: Geometry) -> Result<(), JournalError> {
    let journal = journal_path(directory);
    disk.create_dir_all(&journal)?;
    remove_unfinished(disk, &journal)?;
    let path = journal.join(segment_name(0));
    let unfinished = journal.join(format!("{}{UNFINISHED_SUFFIX}", segment_name(0)));
    if let Err(error) = write_zeros(disk, &unfinished, geometry.segment_bytes()) {
        // The disk may be full, so the file must not keep its space.
        if let Err(error) = remove_if_present(disk, &unfinished) {
            tracing::debug!(%error, "could not remove an unfinished segment");
        }
        return Err(error.into());
    }
    disk.rename(&unfinished, &path)?;
    segment_note::create(disk, &journal)?;
    Ok(disk.sync_dir(&journal)?)
}

/// Returns whether the directory of the journal contains only files that [`create_journal`] makes, and therefore no block. A start
/// that is interrupted before it has made `FORMAT` leaves such a directory.
fn is_interrupted_first_start(disk: &dyn Disk, directory: &Path) -> Result<bool, JournalError> {
    let journal = journal_path(directory);
    for name in journal_files(disk, directory)? {
        let is_expected = if name == segment_name(0) {
            contains_only_zeros(disk, &journal.join(name))?
        } else {
            name == note_name(0) || name.ends_with(UNFINISHED_SUFFIX)
        };
        if !is_expected {
            return Ok(false);
        }
    }
    Ok(true)
}

fn contains_only_zeros(disk: &dyn Disk, path: &Path) -> Result<bool, JournalError> {
    let file = disk.open(path, FileAccess::Read)?;
    let mut bytes = vec![0; READ_STEP_BYTES];
    let mut offset = 0;
    loop {
        let length = file.read_at(offset, &mut bytes)?;
        if bytes.iter().take(length).any(|byte| *byte != 0) {
            return Ok(false);
        }
        if length < bytes.len() {
            return Ok(true);
        }
        offset += length as u64;
    }
}

/// Returns the number of the last segment that was made, according to the segment note of the data directory.
///
/// # Errors
/// [`JournalError::NoJournal`] or [`JournalError::NoSegmentNote`] if the note is missing. Every directory with `FORMAT` had a note.
pub(super) fn noted_segment(disk: &dyn Disk, directory: &Path) -> Result<u32, JournalError> {
    let names = journal_files(disk, directory)?;
    let is_empty = names.iter().all(|name| name.ends_with(UNFINISHED_SUFFIX));
    noted_in(&names).ok_or_else(|| {
        if is_empty {
            JournalError::NoJournal {
                path: directory.to_path_buf(),
            }
        } else {
            JournalError::NoSegmentNote {
                journal: journal_path(directory),
            }
        }
    })
}

/// Returns the names in the directory of the journal; an empty list if the directory does not exist.
fn journal_files(disk: &dyn Disk, directory: &Path) -> Result<Vec<String>, JournalError> {
    match disk.list(&journal_path(directory)) {
        Ok(names) => Ok(names),
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}
