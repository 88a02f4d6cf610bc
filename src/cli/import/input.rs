//! A file that is read once, from its start to its end, and must not change meanwhile.
//!
//! What was read is counted here, in the bytes as they come from the file, before anything looks for rows in them. So the
//! number of lines is known without trust in the parsers, and [`Source`](super::source::Source) compares it with the rows
//! that they found.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// The bytes of a file, counted as they are read.
#[derive(Debug)]
pub(super) struct Input {
    file: File,
    counts: Arc<Counts>,
}

/// Knows how much of an [`Input`] was read, and whether the file is still what it was when it was opened.
#[derive(Debug)]
pub(super) struct Watch {
    file: File,
    counts: Arc<Counts>,
    version: Option<Version>,
}

/// A regular file in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

/// Written by [`Input`] only; shared because the reader is inside others that do not give it back.
#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicU64,
    line_feeds: AtomicU64,
    /// The last byte that was read is not a line feed.
    open_line: AtomicBool,
}

/// Opens a file.
///
/// # Errors
/// If it can't be opened or asked for its state.
pub(super) fn open(path: &Path) -> io::Result<(Input, Watch)> {
    let file = File::open(path)?;
    let counts = Arc::<Counts>::default();
    let watch = Watch {
        version: Version::of(&file.metadata()?),
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
    /// The file's state when it was opened; `None` if it is not a regular file, and so can't be read a second time.
    pub(super) const fn version(&self) -> Option<Version> {
        self.version
    }

    /// Bytes that were read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::Relaxed)
    }

    /// Lines that were read so far, with one at the end that no line feed ends.
    pub(super) fn lines(&self) -> u64 {
        let open = u64::from(self.counts.open_line.load(Ordering::Relaxed));
        self.counts.line_feeds.load(Ordering::Relaxed) + open
    }

    /// Whether the file is what it was when it was opened.
    ///
    /// # Errors
    /// If it can't be asked.
    pub(super) fn is_unchanged(&self) -> io::Result<bool> {
        Ok(match self.version {
            Some(version) => Version::of(&self.file.metadata()?) == Some(version),
            None => true,
        })
    }

    /// Whether all bytes of the file were read, and it is what it was when it was opened.
    ///
    /// # Errors
    /// If it can't be asked.
    pub(super) fn is_whole(&self) -> io::Result<bool> {
        let all = self.version.is_none_or(|version| version.bytes == self.bytes());
        Ok(all && self.is_unchanged()?)
    }
}

// ===== impl Version =====

impl Version {
    /// `None` if it is not of a regular file.
    fn of(metadata: &Metadata) -> Option<Self> {
        metadata.is_file().then(|| Version {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }

    /// How much there is to read, in bytes.
    pub(super) const fn bytes(self) -> u64 {
        self.bytes
    }
}
