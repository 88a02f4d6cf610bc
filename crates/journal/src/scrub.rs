//! The scrub: reads the whole journal again, one block at a time, to find damage before a client asks for damaged data.

use crate::{
    block::HEADER_BYTES, chain_point::ChainPoint, error::JournalError, position::Position,
    reader::JournalReader, segment_file::segment_after,
};

/// The state of a pass over the journal, from the first block to the last durable block. The pass checks each block as a
/// start would: header, checksum, and that the block follows the block before it.
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
    /// A block is whole.
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
            // Shared files would stay readable after their segment was removed or replaced, and hide that.
            reader: reader.with_own_files(),
            unlinked: false,
            body: Vec::new(),
        }
    }

    /// Checks the next block before `durable`. Never reads after `durable`, where blocks are being written.
    pub fn step(&mut self, durable: &ChainPoint) -> ScrubStep {
        if self.next.position >= durable.position {
            if !self.unlinked && !self.next.is_at(durable) {
                // The blocks on disk end in another block than the writer appended last: they were replaced.
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

    /// Moves after a damaged block: to the next block if the header still states the length of the damaged one, otherwise to
    /// the next segment.
    fn skip(&mut self, durable: &ChainPoint) {
        let damaged = self.next.position;
        let behind = match self.reader.read_header(damaged) {
            Ok(header) => self.reader.position_behind(&header),
            Err(_) => Position::new(segment_after(damaged.segment()), 0),
        };
        self.unlinked = true;
        self.next.position = behind.min(durable.position);
    }
}
