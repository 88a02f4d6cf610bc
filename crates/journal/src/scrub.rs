//! The scrub: reads the whole journal again, one block at a time, to find damage before a client requests the damaged
//! data.

use crate::{
    block::HEADER_BYTES, chain_point::ChainPoint, error::JournalError, position::Position,
    reader::JournalReader, segment_file::segment_after,
};

/// The state of a pass over the journal, from the first block to the last durable block. The pass checks each block as
/// recovery does: the header, the checksum of the body, and the hash of the block before it.
#[derive(Debug)]
pub struct Scrub {
    reader: JournalReader,
    /// The point at which the next step reads a block.
    next: ChainPoint,
    /// Whether the hash of the block before `next` is unknown, because that block was damaged or replaced. If so, the
    /// pass accepts the previous hash and the sequence that the header of the next block states.
    unlinked: bool,
    body: Vec<u8>,
}

/// The result of one step of a [`Scrub`].
#[derive(Debug)]
pub enum ScrubStep {
    /// A block passed all checks.
    Whole {
        /// Length of the block's header and body, in bytes.
        bytes: u64,
    },
    /// A block or the rest of a segment is damaged or unreadable. The next step continues after the damage.
    Damaged {
        /// Start of the damage.
        position: Position,
        /// What is damaged.
        error: JournalError,
    },
    /// The process or the system has no file descriptor left, so the segment could not be opened. The failed
    /// open does not indicate damage. The next step reads the same block again.
    Postponed {
        /// The error of the system.
        error: JournalError,
    },
    /// The pass has checked all durable blocks. The next step begins another pass.
    Complete,
}

// ===== impl Scrub =====

impl Scrub {
    /// Makes a pass that begins at the first block.
    #[must_use]
    pub fn new(reader: &JournalReader) -> Self {
        Scrub {
            next: reader.start(),
            // An open file stays readable after the segment was removed or replaced, so a shared open file would hide
            // such damage. The scrub uses its own files and opens each segment again.
            reader: reader.with_own_files(),
            unlinked: false,
            body: Vec::new(),
        }
    }

    /// Checks the next block. `durable` is the point after the last durable block. Never reads after `durable`, because
    /// the writer may be writing a block there.
    pub fn step(&mut self, durable: &ChainPoint) -> ScrubStep {
        if self.next.position >= durable.position {
            if !self.unlinked && !self.next.is_at(durable) {
                // The hash of the last block on disk is not the hash of the block that the writer appended last. So
                // blocks on disk were replaced.
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

    /// Moves `next` past a damaged block. If its header is readable, the header states the length of the block, and the
    /// pass continues with the next block. Otherwise the pass continues with the next segment.
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
