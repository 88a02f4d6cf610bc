//! A file that is read once from start to end, and that must not change during that time.
//!
//! This module counts the bytes and line feeds before a parser sees them. [`Source`](super::source::Source) compares this count
//! with the lines that the parsers counted. If a parser has lost a row, the counts differ, and the import fails.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// Reads a file and counts its bytes and line feeds.
#[derive(Debug)]
pub(super) struct Input {
    file: File,
    counts: Arc<Counts>,
}

/// Reports how much of an [`Input`] was read, and whether the file has changed since it was opened.
#[derive(Debug)]
pub(super) struct Watch {
    file: File,
    counts: Arc<Counts>,
    version: Option<Version>,
}

/// The identity, size and modification time of a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

/// The counts of an [`Input`]. Only the [`Input`] writes them. [`Watch`] shares them, because a parser owns the [`Input`].
#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicU64,
    line_feeds: AtomicU64,
    /// Whether the last byte read is not a line feed.
    open_line: AtomicBool,
}

/// The name of standard input on the command line.
pub(super) const STDIN: &str = "-";

/// Opens a file, or standard input if `path` is [`STDIN`].
///
/// # Errors
/// If the file can't be opened, or its metadata can't be read.
pub(super) fn open(path: &Path) -> io::Result<(Input, Watch)> {
    let is_stdin = path == Path::new(STDIN);
    let file = if is_stdin {
        File::from(io::stdin().as_fd().try_clone_to_owned()?)
    } else {
        File::open(path)?
    };
    let counts = Arc::<Counts>::default();
    let watch = Watch {
        // Standard input can't be opened a second time, even if it is a regular file: reading would continue at the
        // current offset.
        version: Version::from_metadata(&file.metadata()?).filter(|_| !is_stdin),
        file: file.try_clone()?,
        counts: Arc::clone(&counts),
    };
    Ok((Input { file, counts }, watch))
}

// ===== impl Input =====

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        let bytes = buffer.get(..read).unwrap_or_default();
        if let Some(last) = bytes.last() {
            let line_feeds = bytes.iter().filter(|byte| **byte == b'\n').count();
            self.counts.bytes.fetch_add(read as u64, Ordering::Relaxed);
            self.counts
                .line_feeds
                .fetch_add(line_feeds as u64, Ordering::Relaxed);
            self.counts.open_line.store(*last != b'\n', Ordering::Relaxed);
        }
        Ok(read)
    }
}

// ===== impl Watch =====

impl Watch {
    /// Returns the version of the file when it was opened; `None` for a file that is not regular and can't be read twice.
    pub(super) const fn version(&self) -> Option<Version> {
        self.version
    }

    /// Returns the bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::Relaxed)
    }

    /// Returns the lines read so far, including a last line without a line feed.
    pub(super) fn lines(&self) -> u64 {
        let open = u64::from(self.counts.open_line.load(Ordering::Relaxed));
        self.counts.line_feeds.load(Ordering::Relaxed) + open
    }

    /// Returns whether the file is the same as when it was opened.
    ///
    /// # Errors
    /// If the metadata can't be read.
    pub(super) fn is_unchanged(&self) -> io::Result<bool> {
        Ok(match self.version {
            Some(version) => Version::from_metadata(&self.file.metadata()?) == Some(version),
            None => true,
        })
    }

    /// Returns whether all bytes were read, and the file is the same as when it was opened.
    ///
    /// # Errors
    /// If the metadata can't be read.
    pub(super) fn is_whole(&self) -> io::Result<bool> {
        let all = self.version.is_none_or(|version| version.bytes == self.bytes());
        Ok(all && self.is_unchanged()?)
    }
}

// ===== impl Version =====

impl Version {
    /// Returns `None` if the file is not regular.
    fn from_metadata(metadata: &Metadata) -> Option<Self> {
        metadata.is_file().then(|| Version {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }

    /// Returns the size of the file.
    pub(super) const fn bytes(self) -> u64 {
        self.bytes
    }
}
