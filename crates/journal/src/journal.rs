//! Opens, scans, verifies and resumes a journal.

use std::{path::Path, sync::Arc};

use crate::{
    block::BlockHeader,
    chain_point::ChainPoint,
    directory::DataDirectory,
    disk::Disk,
    error::JournalError,
    genesis::Genesis,
    geometry::{BlockPlacement, JournalConfig},
    position::Position,
    prepare::{SegmentPool, SegmentPreparer, SegmentSpace},
    reader::JournalReader,
    repair::repair,
    scan::{ChainScanner, ScanError, Tail},
    verify::{JournalReport, check_chain},
    writer::JournalWriter,
};

/// A journal that is open and locked, before the first append.
///
/// A start takes four steps: call [`Journal::open`], load the newest checkpoint if one exists, call [`Journal::scan`]
/// for the blocks after the checkpoint, and call [`Journal::resume`] with the end that the scan found.
#[derive(Debug)]
pub struct Journal {
    directory: DataDirectory,
    reader: JournalReader,
}

/// The parts of a running journal. The caller can give each part to another thread.
#[derive(Debug)]
pub struct OpenJournal {
    /// Holds the lock on the directory. Must live as long as the writer.
    pub directory: Arc<DataDirectory>,
    /// Computes the positions of blocks, for the thread that builds blocks.
    pub placement: BlockPlacement,
    /// Appends blocks, for one thread.
    pub writer: JournalWriter,
    /// Prepares segments, for a thread that may wait for the disk.
    pub preparer: SegmentPreparer,
    /// Reports whether the disk has space for another segment, for the thread that builds blocks.
    pub space: SegmentSpace,
    /// Reads blocks, for any number of threads.
    pub reader: JournalReader,
}

// ===== impl Journal =====

impl Journal {
    /// Locks the data directory at `path` and opens its journal. If the directory does not exist or is empty, makes the
    /// directory and the journal with the sizes in `config`. Removes files that an earlier process did not finish.
    ///
    /// # Errors
    /// [`JournalError::Locked`] if another process has the directory open, [`JournalError::Config`] if a size is out of
    /// bounds, [`JournalError::NotEmpty`] if the directory is not a data directory and has files,
    /// [`JournalError::Replicated`] if it is a directory of the replicated store,
    /// [`JournalError::Format`], [`JournalError::NoJournal`], [`JournalError::NoSegmentNote`] or
    /// [`JournalError::UnsupportedVersion`] if the directory is damaged or has another version, [`JournalError::Disk`] if
    /// the disk fails.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, config: &JournalConfig) -> Result<Self, JournalError> {
        Ok(Journal::of(DataDirectory::open(disk, path, config)?))
    }

    /// Locks the directory of a replica at `path` and opens its journal. If the directory does not exist or is empty, makes it with
    /// exactly the `FORMAT` of the ledger in `genesis`.
    ///
    /// # Errors
    /// [`JournalError::NotReplicated`] if the directory belongs to the embedded store, [`JournalError::OtherLedger`] if it belongs to
    /// another ledger. Also the other errors of [`Journal::open`].
    pub fn create_replica(disk: Arc<dyn Disk>, path: &Path, genesis: &Genesis) -> Result<Self, JournalError> {
        Ok(Journal::of(DataDirectory::create_replica(disk, path, genesis)?))
    }

    /// Locks the directory of a replica at `path`, which must exist, and opens its journal.
    ///
    /// # Errors
    /// [`JournalError::NotADataDirectory`] if the directory has no `FORMAT`, [`JournalError::NotReplicated`] if it belongs to the
    /// embedded store. Also the other errors of [`Journal::open`].
    pub fn open_replica(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, JournalError> {
        Ok(Journal::of(DataDirectory::open_replica(disk, path)?))
    }

    /// Locks the data directory at `path`, which may belong to either store, and opens its journal. The directory must exist.
    ///
    /// # Errors
    /// [`JournalError::NotADataDirectory`] if the directory has no `FORMAT`. Also the other errors of [`Journal::open`].
    pub fn open_existing(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, JournalError> {
        Ok(Journal::of(DataDirectory::open_existing(disk, path)?))
    }

    /// Changes `FORMAT` durably, so that the directory belongs to the replicated store: from then on, the embedded store does not open
    /// it. After a crash, `FORMAT` is the old or the new one.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk fails, or if the journal was opened for reading. After an error, the directory may belong to
    /// either store.
    pub fn make_replicated(&mut self) -> Result<(), JournalError> {
        self.directory.make_replicated()
    }

    /// Changes `FORMAT` durably, so that the directory belongs to the embedded store. See [`Journal::make_replicated`]. The caller has
    /// checked that the replicated log has ended, and that no other directory continues the ledger.
    ///
    /// # Errors
    /// Those of [`Journal::make_replicated`].
    pub fn make_embedded(&mut self) -> Result<(), JournalError> {
        self.directory.make_embedded()
    }

    fn of(directory: DataDirectory) -> Self {
        let disk = Arc::clone(directory.disk());
        let reader = JournalReader::new(disk, directory.path(), directory.format());
        Journal { directory, reader }
    }

    /// Opens the journal of the data directory at `path` for reading. Other processes may have the directory open for
    /// reading, but not for writing. The result cannot change a file; [`Journal::resume`] fails.
    ///
    /// # Errors
    /// [`JournalError::Locked`] if a process has the directory open for writing, [`JournalError::NotADataDirectory`] if
    /// the directory is not a data directory. Also the other errors of [`Journal::open`].
    pub fn open_read_only(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, JournalError> {
        Ok(Journal::of(DataDirectory::open_read_only(disk, path)?))
    }

    /// Returns the data directory.
    #[must_use]
    pub fn directory(&self) -> &DataDirectory {
        &self.directory
    }

    /// Checks every block of the journal and the hash chain. After damage, the check continues with the next undamaged
    /// block, so that the report shows the extent of the damage.
    ///
    /// # Errors
    /// [`JournalError::UnsupportedVersion`] if a block has another format version, [`JournalError::Disk`] if the disk
    /// fails. Damage is not an error of this method. The report contains the damage.
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
    /// [`JournalError::Corrupt`] if the block before `point` is missing, damaged or another block;
    /// [`JournalError::Disk`] if the disk fails.
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

    /// Finds the end of the journal. Calls `visitor` with the header, the position and the body of every block from
    /// `from` to the end. Changes nothing.
    ///
    /// The journal ends after the last block that is undamaged and contains the hash of the block before it. The
    /// remains of one incomplete write may follow the end. They are not an error, because no append of that block has
    /// returned success.
    ///
    /// `durable_through` is the greatest block sequence that the caller knows to have been durable, or 0. The scan
    /// reports damage if the journal ends before this block. It also reports damage if the journal ends before the
    /// point that the marker of a clean stop names, if an incomplete write follows that point, or if a segment is missing that exists
    /// according to the segment note.
    ///
    /// # Errors
    /// [`ScanError::Store`] with [`JournalError::Corrupt`] for damage that a crash cannot cause, or with another error
    /// of the journal; [`ScanError::Visitor`] with the error that `visitor` returned.
    pub fn scan<E>(
        &self,
        from: ChainPoint,
        durable_through: u64,
        visitor: impl FnMut(&BlockHeader, Position, &[u8]) -> Result<(), E>,
    ) -> Result<Tail, ScanError<E>> {
        self.check_point(&from)?;
        self.scanner()?.scan(from, durable_through, visitor)
    }

    /// Removes the remains of an incomplete write after the end that [`Journal::scan`] found, makes the last block durable again,
    /// reserves the space of the segments that are used next, and opens the journal for appends at this end. If the disk is full, the
    /// journal can be read, and [`SegmentSpace`] reports when blocks can be placed.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk fails. The caller can open the journal again and retry.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a tail is used once: the journal ends elsewhere after the first append"
    )]
    pub fn resume(self, tail: Tail) -> Result<OpenJournal, JournalError> {
        let Journal { directory, reader } = self;
        let geometry = directory.geometry();
        let (end, marker) = (tail.end, tail.marker());
        let pool = SegmentPool::new(
            Arc::clone(directory.disk()),
            directory.journal_path(),
            geometry,
            tail.noted,
        );
        reader.close_segments();
        repair(&directory, &reader, &tail)?;
        let active_segment = pool.begin(end.position, tail.active_exists, tail.spare_exists)?;
        let pool = Arc::new(pool);
        let writer = JournalWriter::new(&directory, Arc::clone(&pool), active_segment, end, marker)?;
        Ok(OpenJournal {
            directory: Arc::new(directory),
            placement: BlockPlacement::new(geometry, end.position),
            writer,
            space: SegmentSpace::new(Arc::clone(&pool)),
            preparer: SegmentPreparer::new(pool),
            reader,
        })
    }
}
