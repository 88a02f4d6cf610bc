//! The journal as a whole: opens, scans and resumes it.

use std::{path::Path, sync::Arc};

use crate::{
    block::BlockHeader,
    chain_point::ChainPoint,
    directory::DataDirectory,
    disk::Disk,
    error::JournalError,
    geometry::{BlockPlacement, JournalConfig},
    position::Position,
    prepare::{SegmentPool, SegmentPreparer},
    reader::JournalReader,
    repair::repair,
    scan::{ChainScanner, ScanError, Tail},
    verify::{JournalReport, check_chain},
    writer::JournalWriter,
};

/// A journal that is open and locked, before the first append.
///
/// To start: [`Journal::open`], load the newest checkpoint if there is one, [`Journal::scan`] the blocks after it, then
/// [`Journal::resume`] at the end that the scan found.
#[derive(Debug)]
pub struct Journal {
    directory: DataDirectory,
    reader: JournalReader,
}

/// The parts of a running journal, to be given to different threads.
#[derive(Debug)]
pub struct OpenJournal {
    /// Holds the lock on the directory. Must live as long as the writer.
    pub directory: Arc<DataDirectory>,
    /// For the thread that builds blocks.
    pub placement: BlockPlacement,
    /// For the thread that appends blocks.
    pub writer: JournalWriter,
    /// For a thread that may wait for the disk.
    pub preparer: SegmentPreparer,
    /// For all threads that read.
    pub reader: JournalReader,
}

// ===== impl Journal =====

impl Journal {
    /// Locks the data directory at `path` and opens its journal. If the directory does not exist or is empty, makes both with
    /// the sizes in `config`. Removes files that an earlier process did not finish.
    ///
    /// # Errors
    /// [`JournalError::Locked`] if another process has the directory open, [`JournalError::Config`] if a size is out of bounds,
    /// [`JournalError::NotEmpty`] if the directory is not a data directory and has files,
    /// [`JournalError::Format`] or [`JournalError::UnsupportedVersion`] if the directory is damaged or has another version,
    /// [`JournalError::Disk`] if the disk fails.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, config: &JournalConfig) -> Result<Self, JournalError> {
        let directory = DataDirectory::open(Arc::clone(&disk), path, config)?;
        let reader = JournalReader::new(disk, path, directory.format());
        Ok(Journal { directory, reader })
    }

    /// Opens the journal of the data directory at `path` for reading. Other readers may have it open, but no writer. Nothing
    /// can be changed through the result: [`Journal::resume`] fails.
    ///
    /// # Errors
    /// [`JournalError::Locked`] if a process has the directory open for writing, [`JournalError::NotADataDirectory`] if it is
    /// not a data directory, or as [`Journal::open`].
    pub fn open_read_only(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, JournalError> {
        let directory = DataDirectory::open_read_only(disk, path)?;
        let reader = JournalReader::new(Arc::clone(directory.disk()), path, directory.format());
        Ok(Journal { directory, reader })
    }

    /// Returns the data directory.
    #[must_use]
    pub fn directory(&self) -> &DataDirectory {
        &self.directory
    }

    /// Checks every block of the journal and the chain. After damage it continues with the next whole block, so that the
    /// report shows the extent of the damage.
    ///
    /// # Errors
    /// [`JournalError::UnsupportedVersion`] if a block has another format version, [`JournalError::Disk`] if the disk fails.
    /// Damage is not an error; the report contains it.
    pub fn verify(&self) -> Result<JournalReport, JournalError> {
        check_chain(&self.scanner()?, self.start())
    }

    /// Returns a reader of the journal's blocks.
    #[must_use]
    pub fn reader(&self) -> JournalReader {
        self.reader.clone()
    }

    /// Returns the start of the journal, from which a scan reads all blocks.
    #[must_use]
    pub fn start(&self) -> ChainPoint {
        ChainPoint::start(self.directory.data_id())
    }

    /// Checks that the journal contains the block before `point`, so that a scan can begin at `point`.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] if another block is there, or the block is missing or damaged; [`JournalError::Disk`] if the
    /// disk fails.
    pub fn check_point(&self, point: &ChainPoint) -> Result<(), JournalError> {
        if self.reader.contains_point(point)? {
            Ok(())
        } else {
            Err(self.reader.checkpoint_mismatch(point))
        }
    }

    fn scanner(&self) -> Result<ChainScanner<'_>, JournalError> {
        ChainScanner::new(
            &**self.directory.disk(),
            self.directory.path(),
            self.directory.format(),
        )
    }

    /// Calls `visitor` for every block from `from` to the end of the journal, with the header, the position and the body, and
    /// finds the end. Changes nothing.
    ///
    /// The journal ends at the last block that is whole and follows the blocks before it. Bytes after it that can be the
    /// remains of one incomplete write are not an error: no client received a reply for such a block. `durable_through` is the
    /// greatest block sequence that is known to have been durable, or 0: a journal that ends before this block is damaged. A
    /// journal is also damaged if it ends before the marker of a clean stop, or has an incomplete write there.
    ///
    /// # Errors
    /// [`ScanError::Store`] with [`JournalError::Corrupt`] for damage that a crash cannot cause, or with another error of the
    /// journal; [`ScanError::Visitor`] with the error that `visitor` returned.
    pub fn scan<E>(
        &self,
        from: ChainPoint,
        durable_through: u64,
        visitor: impl FnMut(&BlockHeader, Position, &[u8]) -> Result<(), E>,
    ) -> Result<Tail, ScanError<E>> {
        self.check_point(&from)?;
        self.scanner()?.scan(from, durable_through, visitor)
    }

    /// Removes what a crash left after the end that [`Journal::scan`] found, makes the last block durable once more, and opens
    /// the journal for appends.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk fails. Then the caller can open the journal and try again.
    pub fn resume(self, tail: Tail) -> Result<OpenJournal, JournalError> {
        let Journal { directory, reader } = self;
        let geometry = directory.geometry();
        let (end, marker) = (tail.end, tail.marker());
        let active_segment = end.position.segment();
        let active_exists = tail.active_exists;
        let pool = SegmentPool::new(
            Arc::clone(directory.disk()),
            directory.journal_path(),
            geometry,
            active_segment,
            tail.spare_ready,
        );
        reader.close_segments();
        repair(&directory, &reader, tail)?;
        if !active_exists {
            pool.create_prepared(active_segment)?;
        }
        let pool = Arc::new(pool);
        let writer = JournalWriter::new(&directory, Arc::clone(&pool), end, marker)?;
        Ok(OpenJournal {
            directory: Arc::new(directory),
            placement: BlockPlacement::new(geometry, end.position),
            writer,
            preparer: SegmentPreparer::new(pool),
            reader,
        })
    }
}
