//! Opens a data directory: the newest checkpoint, the ids, and the blocks after it.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    DurablePoint, OrderPoint,
    book::{Book, body_position, id_tag},
    checkpoint::{self, Loaded, malformed_at},
    error::OpenError,
    id_files::{self, BlockWalk},
    recall::{RecordReader, recalled},
};
use crate::{
    ledger::{Ledger, Timestamp, codec::Reader, record::take_record, tag_index::TagIndex},
    store::journal::{
        BlockHeader, ChainPoint, ChunkedFiles, DataDirectory, Disk, Journal, JournalConfig, JournalWriter,
        Position, ScanError, Scrub, SegmentPreparer, Tail,
    },
    wall_clock::WallClock,
};

/// How a data directory is made if there is none. An existing one keeps the sizes it was made with.
pub type StoreConfig = JournalConfig;

/// Smallest bound of a block: a request for the most accounts, with the most metadata, must fit one.
pub const BLOCK_BYTES_MIN: u32 = 2 << 20;

/// An opened data directory, in the parts that the threads take.
#[derive(Debug)]
pub struct OpenStore {
    /// EXEC's.
    pub book: Book,
    /// WAL's.
    pub writer: JournalWriter,
    /// AUX's: keeps the next segment ready.
    pub preparer: SegmentPreparer,
    /// For readers of single records.
    pub records: RecordReader,
    /// AUX's: looks for damage.
    pub scrub: Scrub,
    /// For the id files.
    pub walk: BlockWalk,
    /// AUX's: the checkpoints.
    pub checkpoints: ChunkedFiles,
    /// AUX's: the id files.
    pub id_files: ChunkedFiles,
    /// The directory and its lock, which is held as long as this lives.
    pub directory: Arc<DataDirectory>,
    /// Where the journal ends.
    pub durable: DurablePoint,
    /// What was found.
    pub report: RecoveryReport,
}

/// What opening found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Whether the directory was made.
    pub created: bool,
    /// The block sequence that the checkpoint starts from, if there was one.
    pub checkpoint: Option<u64>,
    /// Where the checkpoint starts.
    pub checkpoint_position: Option<Position>,
    /// Blocks that were replayed.
    pub blocks_replayed: u64,
    /// Entries that were replayed.
    pub entries_replayed: u64,
    /// Whether a block that was not completely written was cut off. It was never acknowledged.
    pub torn_tail: bool,
    /// How long it took.
    pub elapsed: Duration,
}

/// What grows while the journal is replayed.
pub(super) struct Replay {
    pub(super) ledger: Ledger,
    ids: TagIndex,
    pub(super) order: OrderPoint,
    seed: u64,
    entries: u64,
}

/// Opens the data directory `dir`, or makes it.
///
/// # Errors
/// [`OpenError`]: it is locked by another process, was written by a version that is not known, is damaged before its
/// end, or the disk can't be read. Nothing is changed then.
pub fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    config: &StoreConfig,
    clock: Arc<dyn WallClock>,
) -> Result<OpenStore, OpenError> {
    let started = Instant::now();
    let journal = Journal::open(disk, dir, config)?;
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
    let walk = BlockWalk::new(journal.reader(), seed);

    let loaded = checkpoint::load(&checkpoints, seed)?;
    let checkpoint = loaded.as_ref().map(|loaded| loaded.start.chain);
    let mut loaded = loaded.unwrap_or_else(|| Loaded::nothing(journal.start(), seed));
    loaded.durable_through = loaded.durable_through.max(walk.durable_through(&id_files)?);
    let ids = ids_before(&journal, &walk, &id_files, &loaded.start)?;
    let (replay, tail) = replay(&journal, loaded, ids)?;
    let mut report = RecoveryReport {
        created,
        checkpoint: checkpoint.map(|start| start.block_sequence),
        checkpoint_position: checkpoint.map(|start| start.position),
        blocks_replayed: tail.blocks,
        entries_replayed: replay.entries,
        torn_tail: tail.torn.is_some(),
        elapsed: Duration::ZERO,
    };
    let opened = journal.resume(tail)?;

    let Replay {
        ledger, ids, order, ..
    } = replay;
    let durable = DurablePoint {
        chain: opened.writer.end(),
        order,
    };
    let records = RecordReader::new(opened.reader.clone(), geometry, seed);
    let book = Book::new(
        ledger,
        ids,
        seed,
        records.clone(),
        opened.placement,
        &durable,
        clock,
    );
    report.elapsed = started.elapsed();
    Ok(OpenStore {
        book,
        writer: opened.writer,
        preparer: opened.preparer,
        records,
        scrub: Scrub::new(&opened.reader),
        walk,
        checkpoints,
        id_files,
        directory: opened.directory,
        durable,
        report,
    })
}

impl Loaded {
    /// A ledger without accounts, before the first block at `start`.
    pub(super) fn nothing(start: ChainPoint, seed: u64) -> Self {
        Loaded {
            ledger: Ledger::new(seed),
            start: DurablePoint {
                chain: start,
                order: OrderPoint::START,
            },
            durable_through: 0,
        }
    }
}

/// Makes the ledger again from what was `loaded`, adds to `ids` those of the blocks after that, and finds the journal's end.
pub(super) fn replay(journal: &Journal, loaded: Loaded, ids: TagIndex) -> Result<(Replay, Tail), OpenError> {
    let Loaded {
        ledger,
        start,
        durable_through,
    } = loaded;
    let mut replay = Replay {
        ledger,
        ids,
        order: start.order,
        seed: journal.directory().hash_seed(),
        entries: 0,
    };
    let scanned = journal.scan(start.chain, durable_through, |header, position, body| {
        replay.block(header, position, body)
    });
    match scanned {
        Ok(tail) => Ok((replay, tail)),
        Err(ScanError::Store(error)) => Err(OpenError::Store(error)),
        Err(ScanError::Visitor(error)) => Err(error),
    }
}

/// The ids of all transactions before `start`: full segments from their files, the rest from the blocks.
///
/// On the way every segment is looked at: it exists, it is as long as its blocks are, its first block has a whole header of
/// its place and of this directory, and the segments follow from one another along the hash chain. So a segment that is
/// missing, was emptied, cut short or replaced is found here, and not by whoever asks for what was in it.
fn ids_before(
    journal: &Journal,
    walk: &BlockWalk,
    files: &ChunkedFiles,
    start: &DurablePoint,
) -> Result<TagIndex, OpenError> {
    // First of all: what is wrong with a journal of another backup than the checkpoint is best told here.
    journal.check_point(&start.chain)?;
    let mut ids = TagIndex::new();
    // Every committed transaction has an id; those that were refused come on top.
    let committed = start.order.next_sequence.saturating_sub(1);
    ids.reserve(usize::try_from(committed).unwrap_or_default());
    let last = start.chain.position.segment();
    for number in 0..last {
        let segment = walk.full_segment(number, &start.chain)?;
        walk.load(files, &segment, &mut ids)?;
    }
    let last_start = walk.segment_start(last, &start.chain)?;
    walk.ids_between(last_start, &start.chain, &mut ids)?;
    Ok(ids)
}

// ===== impl Replay =====

impl Replay {
    fn block(&mut self, header: &BlockHeader, position: Position, body: &[u8]) -> Result<(), OpenError> {
        let expect = |field, found, expected| {
            let block_sequence = header.block_sequence;
            if found == expected {
                Ok(())
            } else {
                Err(OpenError::Order {
                    block_sequence,
                    field,
                    found,
                    expected,
                })
            }
        };
        expect("first_entry", header.first_entry, self.order.next_entry)?;
        expect("first_sequence", header.first_sequence, self.order.next_sequence)?;
        let base = Timestamp::from_nanos(header.base_time_ns);
        expect(
            "base_time",
            base.max(self.order.last_time.plus_nanos(1)).as_nanos(),
            base.as_nanos(),
        )?;
        self.order.last_time = base;

        let body_start = body_position(position);
        let mut reader = Reader::new(body);
        let mut records = 0_u32;
        while !reader.is_empty() {
            let offset = u32::try_from(body.len() - reader.rest().len()).unwrap_or(u32::MAX);
            let at = Position::new(body_start.segment(), body_start.offset() + offset);
            let framed = take_record(&mut reader, at.as_u64()).map_err(malformed_at(at))?;
            let time = base.plus_nanos(u64::from(framed.ordinal));
            if let Some((transaction, rejection)) = recalled(&framed) {
                self.ids
                    .insert(id_tag(transaction.id_bytes(), self.seed), at.as_u64());
                if rejection.is_none() {
                    self.order.next_sequence += 1;
                    self.order.last_time = time;
                }
            }
            let entry = self.order.next_entry;
            self.ledger
                .replay(framed.record, entry, time)
                .map_err(|source| OpenError::Replay {
                    block_sequence: header.block_sequence,
                    entry,
                    source,
                })?;
            self.order.next_entry += 1;
            self.entries += 1;
            records += 1;
        }
        expect("record_count", u64::from(records), u64::from(header.record_count))
    }
}
