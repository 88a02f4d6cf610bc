//! Opens a data directory: loads the newest checkpoint and the index of transaction ids, and replays the blocks after
//! the checkpoint.

use std::{path::Path, sync::Arc, time::Duration};

use tally_journal::{
    ChunkedFiles, DataDirectory, Disk, Journal, JournalConfig, JournalWriter, Position, Scrub,
    SegmentPreparer, SegmentSpace, StoreKind,
};
use tally_ledger::tag_index::TagIndex;
use tokio::time::Instant;

use super::{
    checkpoint::{self, LoadedCheckpoint},
    error::OpenError,
    id_files::{self, BlockWalk},
    journaled_ledger::JournaledLedger,
    point::DurablePoint,
    record_reader::RecordReader,
    replay::replay,
};
use crate::{
    mutation::planted,
    store::replicated::resume::{ResumeFiles, ResumePoint},
    wall_clock::WallClock,
};

/// The sizes of a new data directory. An existing data directory keeps the sizes with which it was made.
pub type StoreConfig = JournalConfig;

/// Smallest allowed `block_bytes_max`, in bytes. The largest request creates the maximum number of accounts with the
/// maximum metadata, and its records must fit one block. The simulation makes only small requests, and needs small
/// blocks so that a run has many segments.
pub const BLOCK_BYTES_MIN: u32 = if cfg!(feature = "simulation") {
    8 << 10
} else {
    2 << 20
};

/// The parts of an open data directory. Different threads own them: EXEC executes batches, WAL appends blocks to the
/// journal, and AUX does maintenance.
#[derive(Debug)]
pub struct OpenStore {
    /// The ledger, for EXEC.
    pub ledger: JournaledLedger,
    /// Appends blocks, for WAL.
    pub writer: JournalWriter,
    /// Prepares the next segment, for AUX.
    pub preparer: SegmentPreparer,
    /// Reports whether there is space for another segment, for EXEC.
    pub space: SegmentSpace,
    /// Reads single records, for any thread.
    pub records: RecordReader,
    /// Searches the journal for damage, for AUX.
    pub scrub: Scrub,
    /// Reads blocks to write id files, for AUX.
    pub walk: BlockWalk,
    /// The checkpoint files, for AUX.
    pub checkpoints: ChunkedFiles,
    /// The id files, for AUX.
    pub id_files: ChunkedFiles,
    /// The data directory. Holds the lock on the directory until it is dropped.
    pub directory: Arc<DataDirectory>,
    /// The end of the journal.
    pub durable: DurablePoint,
    /// The report of the recovery.
    pub report: RecoveryReport,
    /// The resume points of a replica, and the newest one; `None` for an embedded store.
    pub resume: Option<(ResumeFiles, Option<ResumePoint>)>,
}

/// What the opening of a data directory found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Whether the directory is new.
    pub created: bool,
    /// The number of the block at which the replay after the checkpoint began; `None` if no checkpoint was loaded.
    pub checkpoint: Option<u64>,
    /// The position of the block at which the replay after the checkpoint began; `None` if no checkpoint was loaded.
    pub checkpoint_position: Option<Position>,
    /// Number of blocks that were replayed.
    pub blocks_replayed: u64,
    /// Number of records that were replayed.
    pub entries_replayed: u64,
    /// Whether an incomplete block at the end of the journal was removed. No client received a reply that depends on
    /// this block.
    pub torn_tail: bool,
    /// The time that the opening took.
    pub elapsed: Duration,
}

/// Opens the data directory `dir`. Makes the directory if it does not exist.
///
/// # Errors
/// [`OpenError`] if another process has locked the directory, if a file has a format version that this program does not
/// support, if the journal is damaged, or if the disk fails. After such an error, the journal is unchanged unless the
/// disk failed.
///
/// # Panics
/// If the writer and the placement of blocks disagree about the end of the journal.
pub fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    config: &StoreConfig,
    clock: Arc<dyn WallClock>,
) -> Result<OpenStore, OpenError> {
    open_journal(Journal::open(disk, dir, config)?, clock)
}

/// Opens the store of a `journal` that is open and locked, for either kind of store. Replays the blocks, and makes the parts that
/// continue the journal.
///
/// # Errors
/// Those of [`open`].
///
/// # Panics
/// See [`open`].
pub fn open_journal(journal: Journal, clock: Arc<dyn WallClock>) -> Result<OpenStore, OpenError> {
    let started = Instant::now();
    let directory = journal.directory();
    let (seed, geometry, created) = (directory.hash_seed(), directory.geometry(), directory.created());
    if geometry.block_bytes_max() < BLOCK_BYTES_MIN {
        let found = geometry.block_bytes_max();
        return Err(OpenError::BlockTooSmall {
            found,
            minimum: BLOCK_BYTES_MIN,
        });
    }
    let checkpoints = checkpoint::files(directory)?;
    let id_files = id_files::files(directory)?;
    let resume = resume_points(directory)?;
    let walk = BlockWalk::new(journal.reader(), seed);

    let loaded = checkpoint::load(&checkpoints, seed)?;
    let checkpoint = loaded.as_ref().map(|loaded| loaded.start.chain);
    let mut loaded = loaded.unwrap_or_else(|| LoadedCheckpoint::empty(journal.start(), seed));
    loaded.durable_through = loaded.durable_through.max(walk.durable_through(&id_files)?);
    let ids = ids_before(&journal, &walk, &id_files, &loaded.start)?;
    let (replay, tail) = replay(&journal, loaded, ids)?;
    let mut report = RecoveryReport {
        created,
        checkpoint: checkpoint.map(|start| start.block_sequence),
        checkpoint_position: checkpoint.map(|start| start.position),
        blocks_replayed: tail.blocks,
        entries_replayed: replay.records,
        torn_tail: tail.torn.is_some(),
        elapsed: Duration::ZERO,
    };
    let opened = journal.resume(tail)?;

    let durable = DurablePoint {
        chain: opened.writer.end(),
        order: replay.order,
    };
    let records = RecordReader::new(opened.reader.clone(), geometry, seed);
    let ledger = JournaledLedger::new(
        replay.ledger,
        replay.ids,
        seed,
        records.clone(),
        opened.placement,
        &durable,
        clock,
    )
    .after(replay.last);
    report.elapsed = started.elapsed();
    Ok(OpenStore {
        ledger,
        writer: opened.writer,
        preparer: opened.preparer,
        space: opened.space,
        records,
        scrub: Scrub::new(&opened.reader),
        walk,
        checkpoints,
        id_files,
        directory: opened.directory,
        durable,
        report,
        resume,
    })
}

/// Opens the resume points of a replica's directory, and reads the newest one; `None` for an embedded store.
fn resume_points(directory: &DataDirectory) -> Result<Option<(ResumeFiles, Option<ResumePoint>)>, OpenError> {
    match directory.store() {
        StoreKind::Embedded => Ok(None),
        StoreKind::Replicated => {
            let files = ResumeFiles::open(directory)?;
            let newest = files.newest()?;
            Ok(Some((files, newest)))
        }
    }
}

/// Returns the index of the ids of all transactions before `start`. Reads the ids of a full segment from its id file,
/// and the other ids from the blocks.
///
/// Checks every segment before `start`: the segment exists and is long enough for its blocks, its first block has a
/// valid header for this position and this directory, and the hash chain connects the segment to the next one. So the
/// opening detects a segment that is missing, empty, truncated or replaced, before a lookup of an id reads the segment.
fn ids_before(
    journal: &Journal,
    walk: &BlockWalk,
    files: &ChunkedFiles,
    start: &DurablePoint,
) -> Result<TagIndex, OpenError> {
    // This check comes first, because its error is the clearest one if the checkpoint and the journal are from
    // different backups.
    journal.check_point(&start.chain)?;
    let mut ids = TagIndex::new();
    // Reserves memory for the ids of the committed transactions. Recorded rejections also have ids, but their number is
    // unknown, so the index may grow later.
    let Ok(committed) = usize::try_from(start.order.next_sequence - 1) else {
        panic!(
            "the journal has {} transactions, more than this machine can address",
            start.order.next_sequence
        );
    };
    ids.reserve(committed);
    let last = start.chain.position.segment();
    for number in 0..last.saturating_sub(u32::from(planted("skip_segment"))) {
        match walk.full_segment(number, &start.chain) {
            Err(_) if planted("pass_over_damaged_segment") => {}
            segment => walk.load(files, &segment?, &mut ids)?,
        }
    }
    let last_start = walk.segment_start(last, &start.chain)?;
    if !planted("forget_id_at_checkpoint") {
        walk.ids_between(last_start, &start.chain, &mut ids)?;
    }
    Ok(ids)
}
