//! The scrub: reads the whole journal again, one block at a time, to find damage before a client asks for damaged data.

use crate::{
    block::HEADER_BYTES, chain_point::ChainPoint, error::JournalError, position::Position,
    reader::JournalReader, segment_file::segment_after,
};

/// The state of a pass over the journal, from the first block to the last durable block. The pass makes the same
/// checks of each block as recovery: the header, the checksum, and that the block follows the block before it.
#[derive(Debug)]
pub struct Scrub {
    reader: JournalReader,
    /// Where the next block is.
    next: ChainPoint,
    /// Whether the block before `next` was damaged, so that its hash is unknown. Then the pass accepts the hash and sequence
    /// in the header of the next block.
    unlinked: bool,
    body: Vec<u8>,
}

/// The result of one step of a [`Scrub`].
#[derive(Debug)]
pub enum ScrubStep {
    /// A block passed all checks.
    Whole {
        /// Length of its header and body, in bytes.
        bytes: u64,
    },
    /// A block or the rest of a segment is damaged or unreadable. The pass continues after it.
    Damaged {
        /// Where the damage is.
        position: Position,
        /// What is damaged.
        error: JournalError,
    },
    /// The process or the system has no file descriptor left, so the segment could not be opened. This is no damage. The
    /// next step tries the same block again.
    Postponed {
        /// The error of the system.
        error: JournalError,
    },
    /// The pass reached the end. The next step begins another pass.
    Complete,
}

// ===== impl Scrub =====

impl Scrub {
    /// Makes a pass that begins at the first block.
    #[must_use]
    pub fn new(reader: &JournalReader) -> Self {
        Scrub {
            next: reader.start(),
            // A file that other readers keep open stays readable after its segment was removed or replaced. Own
            // files, opened again for each segment, reveal such damage.
            reader: reader.with_own_files(),
            unlinked: false,
            body: Vec::new(),
        }
    }

    /// Checks the next block before `durable`. Never reads after `durable`, where blocks are being written.
    pub fn step(&mut self, durable: &ChainPoint) -> ScrubStep {
        if self.next.position >= durable.position {
            if !self.unlinked && !self.next.is_at(durable) {
                // The last block on disk is not the block that the writer appended last, so blocks on disk were
                // replaced.
                self.unlinked = true;
                return ScrubStep::Damaged {
                    position: durable.position,
                    error: self.reader.chain_broken(durable),
                };
            }
            self.next = self.reader.start();
            self.unlinked = false;
            return ScrubStep::Complete;
        }
        if self.next.position.offset() == 0 {
            self.reader.close_segments();
        }
        match self.check() {
            Ok(bytes) => ScrubStep::Whole { bytes },
            Err(error) if error.is_out_of_descriptors() => ScrubStep::Postponed { error },
            Err(error) => {
                let position = self.next.position;
                self.skip(durable);
                ScrubStep::Damaged { position, error }
            }
        }
    }

    fn check(&mut self) -> Result<u64, JournalError> {
        if self.unlinked {
            let header = self.reader.read_header(self.next.position)?;
            self.next.block_sequence = header.block_sequence;
            self.next.previous_hash = header.previous_hash;
        }
        let (header, next) = self.reader.read_next(&self.next, &mut self.body)?;
        self.next = next;
        self.unlinked = false;
        Ok(HEADER_BYTES as u64 + u64::from(header.body_bytes))
    }

    /// Moves past a damaged block. If its header is readable, the header gives the length of the damaged block, and
    /// the pass continues with the next block. Otherwise the pass continues with the next segment.
    fn skip(&mut self, durable: &ChainPoint) {
        let damaged = self.next.position;
        let next = match self.reader.read_header(damaged) {
            Ok(header) => self.reader.position_after(&header),
            Err(_) => Position::new(segment_after(damaged.segment()), 0),
        };
        self.unlinked = true;
        self.next.position = next.min(durable.position);
    }
}
