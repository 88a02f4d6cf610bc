//! Reads the whole journal again, a little at a time, so that damage is found before somebody asks for what was damaged.

use crate::{
    block::HEADER_BYTES, chain_point::ChainPoint, error::JournalError, position::Position,
    reader::JournalReader,
};

/// The state of a pass over the journal, from its first block to the last durable one. Every block is checked as a start
/// would check it: header, checksum, and that it follows from the one before.
#[derive(Debug)]
pub struct Scrub {
    reader: JournalReader,
    /// The next block.
    next: ChainPoint,
    /// The hash of the block before is not known, since that block is damaged: the next one is believed.
    unlinked: bool,
    body: Vec<u8>,
}

/// What one step of a [`Scrub`] did.
#[derive(Debug)]
pub enum ScrubStep {
    /// A block is whole. It has this many bytes.
    Whole {
        /// Header and body.
        bytes: u64,
    },
    /// A block, or the rest of a segment, is damaged or can't be read; the pass goes on behind it.
    Damaged {
        /// Where.
        position: Position,
        /// What is wrong.
        error: JournalError,
    },
    /// The pass has come to the end; the next step begins another one.
    Complete,
}

// ===== impl Scrub =====

impl Scrub {
    /// A pass that begins at the first block.
    #[must_use]
    pub fn new(reader: &JournalReader) -> Self {
        Scrub {
            next: reader.start(),
            // Files that others have held open since the start would hide that a segment was removed or replaced.
            reader: reader.with_own_files(),
            unlinked: false,
            body: Vec::new(),
        }
    }

    /// Checks the next block before `durable`, behind which nothing is looked at: blocks there are being written.
    pub fn step(&mut self, durable: &ChainPoint) -> ScrubStep {
        if self.next.position >= durable.position {
            if !self.unlinked && !self.next.is_at(durable) {
                // The blocks lead elsewhere than to the one that was written last: they are not those of this process.
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

    /// Goes on behind a damaged block: at the next one, if the header still tells where that is, or else at the next
    /// segment.
    fn skip(&mut self, durable: &ChainPoint) {
        let damaged = self.next.position;
        let behind = self
            .reader
            .read_header(damaged)
            .map(|header| self.reader.position_behind(&header))
            .unwrap_or_else(|_| Position::new(damaged.segment().saturating_add(1), 0));
        self.unlinked = true;
        self.next.position = behind.min(durable.position);
    }
}
