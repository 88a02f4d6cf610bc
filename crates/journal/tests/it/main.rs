//! Tests of the journal on a simulated disk with faults, and on a real disk.
#![cfg(test)]

#[path = "../support/mod.rs"]
mod support;

mod chunked;
mod clean_stop;
mod crash;
mod damage;
mod directory;
mod disk_model;
mod faults;
mod fixture;
mod real_disk;
mod replica;
mod scrub;
mod sealed;
mod segment_note;
mod segments;
mod verify;

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::Arc,
};

use tally_journal::{
    AppendReceipt, BlockBuffer, BlockHeader, BlockMeta, BlockPlacement, ChainPoint, Disk, Journal,
    JournalConfig, JournalError, JournalReader, JournalReport, JournalWriter, OpenJournal, Position,
    ScanError, SegmentPreparer, SegmentSpace, Tail,
};

/// Small sizes, so that few blocks fill a segment: seven blocks of the greatest length.
const CONFIG: JournalConfig = JournalConfig {
    segment_bytes: 8192,
    block_bytes_max: 1024,
};

/// A block that a scan passed to its visitor.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    header: BlockHeader,
    position: Position,
    body: Vec<u8>,
}

/// A running journal with its parts.
struct Running {
    placement: BlockPlacement,
    writer: JournalWriter,
    preparer: SegmentPreparer,
    space: SegmentSpace,
    reader: JournalReader,
    block: BlockBuffer,
    /// The blocks that the scan at the start read, in order.
    seen: Vec<Seen>,
    tail: Tail,
    directory: Arc<tally_journal::DataDirectory>,
}

fn data() -> PathBuf {
    PathBuf::from("/data")
}

fn segment_path(number: u32) -> PathBuf {
    data().join("journal").join(format!("{number:010}.segment"))
}

/// Returns the path of the segment note that states `number`.
fn note_path(number: u32) -> PathBuf {
    data().join("journal").join(format!("SEGMENTS-{number:010}"))
}

/// Returns a body whose bytes all depend on `index`, so that no two bodies are equal.
fn body(index: u64, length: usize) -> Vec<u8> {
    let bytes = index
        .to_le_bytes()
        .into_iter()
        .chain(std::iter::repeat(0x5a ^ index.to_le_bytes()[0] | 1));
    bytes.take(length).collect()
}

impl Running {
    fn open(disk: &Arc<dyn Disk>) -> Result<Self, JournalError> {
        Running::open_at(disk, &data())
    }

    fn open_at(disk: &Arc<dyn Disk>, path: &Path) -> Result<Self, JournalError> {
        let journal = Journal::open(Arc::clone(disk), path, &CONFIG)?;
        let start = journal.start();
        let (seen, tail) = scan(&journal, start, 0)?;
        let kept = tail.clone();
        let OpenJournal {
            directory,
            placement,
            writer,
            preparer,
            space,
            reader,
        } = journal.resume(tail)?;
        let block = BlockBuffer::with_capacity(0);
        Ok(Running {
            placement,
            writer,
            preparer,
            space,
            reader,
            block,
            seen,
            tail: kept,
            directory,
        })
    }

    fn append(&mut self, body: &[u8]) -> Result<AppendReceipt, JournalError> {
        append(&mut self.writer, &mut self.placement, &mut self.block, body)
    }

    /// Appends blocks of `length` bytes and returns their positions.
    fn append_many(&mut self, count: u64, length: usize) -> Vec<Position> {
        (0..count)
            .map(|index| self.append(&body(index, length)).unwrap().end.previous_position)
            .collect()
    }

    fn bodies(&self) -> Vec<Vec<u8>> {
        self.seen.iter().map(|block| block.body.clone()).collect()
    }
}

/// Appends a block at the position that `placement` computed. A service does the same with two threads: one computes
/// positions, the other appends.
fn append(
    writer: &mut JournalWriter,
    placement: &mut BlockPlacement,
    block: &mut BlockBuffer,
    body: &[u8],
) -> Result<AppendReceipt, JournalError> {
    block.clear();
    block.push(body);
    let sequence = writer.end().block_sequence;
    let meta = BlockMeta {
        position: placement.next_block_position(),
        first_entry: sequence * 10,
        first_sequence: sequence * 100,
        base_time_ns: sequence * 1000,
        record_count: 1,
    };
    let receipt = writer.append(&meta, block)?;
    let placed = placement.advance(u32::try_from(body.len()).unwrap());
    assert_eq!(placed, receipt.end.previous_position);
    assert_eq!(placement.next_block_position(), receipt.end.position);
    Ok(receipt)
}

/// Verifies a directory that no process has open for writing.
fn verify(disk: &Arc<dyn Disk>, path: &Path) -> Result<JournalReport, JournalError> {
    Journal::open_read_only(Arc::clone(disk), path)?.verify()
}

fn scan(
    journal: &Journal,
    from: ChainPoint,
    durable_through: u64,
) -> Result<(Vec<Seen>, Tail), JournalError> {
    let mut seen = Vec::new();
    let tail = journal.scan(
        from,
        durable_through,
        |header, position, body| -> Result<(), Infallible> {
            seen.push(Seen {
                header: *header,
                position,
                body: body.to_vec(),
            });
            Ok(())
        },
    );
    match tail {
        Ok(tail) => Ok((seen, tail)),
        Err(ScanError::Store(error)) => Err(error),
        Err(ScanError::Visitor(never)) => match never {},
    }
}
