//! The journal as a whole: opened, scanned, resumed.

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

/// A journal that is opened and locked, and not yet written to.
///
/// The way to a running journal: [`Journal::open`], load the newest checkpoint, [`Journal::scan`] what came after it,
/// [`Journal::resume`] at the end that the scan found.
#[derive(Debug)]
pub struct Journal {
    directory: DataDirectory,
    reader: JournalReader,
}

/// The parts of a running journal, one for each thread that has to do with it.
#[derive(Debug)]
pub struct OpenJournal {
    /// Holds the lock on the directory: to be kept until the writer is gone.
    pub directory: Arc<DataDirectory>,
    /// For whoever builds blocks.
    pub placement: BlockPlacement,
    /// For the thread that writes them.
    pub writer: JournalWriter,
    /// For a thread that has time.
    pub preparer: SegmentPreparer,
    /// For all.
    pub reader: JournalReader,
}

// ===== impl Journal =====

impl Journal {
    /// Locks the data directory at `path` and opens its journal; makes both, with the sizes in `config`, if there are
    /// none. Files that an earlier process did not finish are removed.
    ///
    /// # Errors
    /// [`JournalError::Locked`] when another process has the directory, [`JournalError::Config`] for sizes out of bounds,
    /// [`JournalError::Format`] and [`JournalError::UnsupportedVersion`] for a directory that cannot be understood,
    /// [`JournalError::Disk`] when the disk fails.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, config: &JournalConfig) -> Result<Self, JournalError> {
        let directory = DataDirectory::open(Arc::clone(&disk), path, config)?;
        let reader = JournalReader::new(disk, path, directory.format());
        Ok(Journal { directory, reader })
    }

    /// Opens the journal of the data directory at `path` for reading, beside other readers and no writer. Nothing can be
    /// changed through it; [`Journal::resume`] fails.
    ///
    /// # Errors
    /// [`JournalError::Locked`] when a process has the directory open for writing, [`JournalError::Format`] when it is no data
    /// directory, or as [`Journal::open`].
    pub fn open_read_only(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, JournalError> {
        let directory = DataDirectory::open_read_only(disk, path)?;
        let reader = JournalReader::new(Arc::clone(directory.disk()), path, directory.format());
        Ok(Journal { directory, reader })
    }

    /// The directory it is in.
    #[must_use]
    pub fn directory(&self) -> &DataDirectory {
        &self.directory
    }

    /// Checks every block of the journal, and the chain, block by block.
    ///
    /// # Errors
    /// [`JournalError::UnsupportedVersion`] when a block has another format version, [`JournalError::Disk`] when the disk fails.
    /// Damage is no error but in the report.
    pub fn verify(&self) -> Result<JournalReport, JournalError> {
        check_chain(&self.scanner(), self.start())
    }

    /// A reader of its blocks.
    #[must_use]
    pub fn reader(&self) -> JournalReader {
        self.reader.clone()
    }

    /// The start of the journal, for a scan of everything.
    #[must_use]
    pub fn start(&self) -> ChainPoint {
        ChainPoint::start(self.directory.data_id())
    }

    /// Checks that the block before `point` is the one in the journal, so that a scan can go on at `point`.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] when it is another one, or missing or damaged; [`JournalError::Disk`] when the disk fails.
    pub fn check_point(&self, point: &ChainPoint) -> Result<(), JournalError> {
        if self.reader.contains_point(point)? {
            Ok(())
        } else {
            Err(self.reader.checkpoint_mismatch(point))
        }
    }

    fn scanner(&self) -> ChainScanner<'_> {
        ChainScanner::new(
            &**self.directory.disk(),
            self.directory.path(),
            self.directory.format(),
        )
    }

    /// Shows `visitor` every block from `from` to the end of the journal (header, position, body), and finds the end.
    /// Changes nothing.
    ///
    /// The journal ends at the last block that is whole and follows from the ones before. If what stands behind it
    /// can be the remains of one write that did not complete, the end is torn and that is in order: no such block was
    /// acknowledged. `durable_through` is the highest block sequence that is known to have been durable, 0 if none is:
    /// a journal that ends before it is damaged. So is one that does not reach to the marker of a clean stop, or has a
    /// torn end there.
    ///
    /// # Errors
    /// [`ScanError::Store`] with [`JournalError::Corrupt`] for damage that no crash explains, or another fault of the
    /// store; [`ScanError::Visitor`] with what `visitor` returned.
    pub fn scan<E>(
        &self,
        from: ChainPoint,
        durable_through: u64,
        visitor: impl FnMut(&BlockHeader, Position, &[u8]) -> Result<(), E>,
    ) -> Result<Tail, ScanError<E>> {
        self.check_point(&from)?;
        self.scanner().walk_from(from, durable_through, visitor)
    }

    /// Clears away what stands behind the end that [`Journal::scan`] found, makes the last block durable once more,
    /// and opens the journal for appending.
    ///
    /// # Errors
    /// [`JournalError::Disk`] when the disk fails; another try is as good as the first.
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
        repair(&directory, tail)?;
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
