//! Keeps in memory the blocks that were handed over and are not durable yet. A block of a replicated log is durable only after a round
//! trip, and a read of one of its records should not wait for this.

use std::collections::VecDeque;

use tally_journal::Position;
use tally_ledger::{Committed, Timestamp};

use super::point::OrderPoint;

/// The blocks that are not durable yet, the oldest first. The commit pipeline bounds their number.
#[derive(Debug, Default)]
pub(super) struct SentBlocks {
    is_keeping: bool,
    blocks: VecDeque<SentBlock>,
}

#[derive(Debug)]
struct SentBlock {
    /// Where the body is in the journal.
    body_at: Position,
    body: Vec<u8>,
    /// The sequence and the time of the first transaction of the block.
    start: Committed,
}

// ===== impl SentBlocks =====

impl SentBlocks {
    /// Sets whether blocks are kept from now on. Blocks that are kept already stay until they are durable.
    pub(super) const fn set_keeping(&mut self, is_keeping: bool) {
        self.is_keeping = is_keeping;
    }

    /// Keeps a block, if blocks are to be kept.
    pub(super) fn push(&mut self, body_at: Position, body: &[u8], start: &OrderPoint, base_time: Timestamp) {
        if self.is_keeping {
            self.blocks.push_back(SentBlock {
                body_at,
                body: body.to_vec(),
                start: Committed {
                    sequence: start.next_sequence,
                    time: base_time,
                },
            });
        }
    }

    /// Forgets the blocks before `durable`.
    pub(super) fn forget_before(&mut self, durable: Position) {
        while self
            .blocks
            .pop_front_if(|block| block.body_at < durable)
            .is_some()
        {}
    }

    /// Returns the bytes from `position` to the end of its block, if the block is here.
    pub(super) fn bytes_at(&self, position: Position) -> Option<&[u8]> {
        let block = self.block_at(position)?;
        let offset = position.offset() - block.body_at.offset();
        block.body.get(offset as usize..)
    }

    /// Returns the sequence and the time of the first transaction of the block at `position`, if the block is here.
    pub(super) fn start_of(&self, position: Position) -> Option<Committed> {
        self.block_at(position).map(|block| block.start)
    }

    fn block_at(&self, position: Position) -> Option<&SentBlock> {
        let block = self.blocks.iter().rev().find(|block| block.body_at <= position)?;
        let is_inside = block.body_at.segment() == position.segment()
            && ((position.offset() - block.body_at.offset()) as usize) < block.body.len();
        is_inside.then_some(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_kept_blocks_are_found_until_they_are_durable() {
        let mut sent = SentBlocks::default();
        sent.push(
            Position::new(0, 128),
            b"not kept",
            &OrderPoint::START,
            Timestamp::from_nanos(1),
        );
        assert_eq!(sent.bytes_at(Position::new(0, 128)), None);
        sent.set_keeping(true);
        let second = OrderPoint {
            next_sequence: 7,
            ..OrderPoint::START
        };
        sent.push(
            Position::new(0, 328),
            b"first",
            &OrderPoint::START,
            Timestamp::from_nanos(2),
        );
        sent.push(
            Position::new(1, 128),
            b"second",
            &second,
            Timestamp::from_nanos(3),
        );
        assert_eq!(sent.bytes_at(Position::new(0, 330)), Some(b"rst".as_slice()));
        assert_eq!(sent.bytes_at(Position::new(0, 333)), None);
        assert_eq!(sent.bytes_at(Position::new(1, 128)), Some(b"second".as_slice()));
        assert_eq!(sent.start_of(Position::new(1, 130)).unwrap().sequence, 7);
        sent.set_keeping(false);
        sent.forget_before(Position::new(1, 0));
        assert_eq!(sent.bytes_at(Position::new(0, 330)), None);
        assert_eq!(sent.bytes_at(Position::new(1, 130)), Some(b"cond".as_slice()));
    }
}
