//! The log of a replica: what the commit pipeline writes to.
//!
//! A replica that follows appends blocks that the log has accepted to its local journal, one after the other. A leader seals its blocks,
//! lets the driver send them to the log, and appends a block to its local journal when the log has accepted it. So the journal of
//! every replica contains only accepted blocks, and never a block that must be removed again.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tally_journal::{BlockSealer, ChainPoint, DataDirectory, JournalWriter};
use tokio::time::Instant;

use super::exchange::{Exchange, OwnBlock};
use crate::store::{
    block_log::{BlockLog, Commit, EmbeddedLog, LogFault, Submitted},
    embedded::{DurablePoint, OrderPoint, SealedBlock},
};

/// Maximum number of blocks of a leader that the log has not accepted yet. More blocks gain little, because several blocks are sent in
/// one request, and each holds up to `store.block_bytes_max` of memory.
pub const LOG_DEPTH: usize = 8;

/// The log of a replica.
#[derive(Debug)]
pub struct ReplicatedLog {
    writer: JournalWriter,
    /// The end of the chain of blocks: after the last block in flight, or at the end of the journal if no block is in
    /// flight.
    sealed: ChainPoint,
    /// The blocks of this replica that the log has not accepted yet, the oldest first.
    in_flight: VecDeque<InFlight>,
    exchange: Exchange,
    /// Holds the directory's lock until the last block is written.
    directory: Arc<DataDirectory>,
}

#[derive(Debug)]
struct InFlight {
    sequence: u64,
    bytes: Bytes,
    end: OrderPoint,
    since: Instant,
}

// ===== impl ReplicatedLog =====

impl ReplicatedLog {
    /// Makes the log of a replica, which appends to the journal of `local`.
    #[must_use]
    pub fn new(local: EmbeddedLog, exchange: Exchange) -> Self {
        let (writer, directory) = local.into_parts();
        ReplicatedLog {
            sealed: writer.end(),
            writer,
            in_flight: VecDeque::with_capacity(LOG_DEPTH),
            exchange,
            directory,
        }
    }

    /// Appends a block that the log has accepted to the local journal.
    fn append(&mut self, bytes: &[u8], end: OrderPoint, since: Instant) -> Result<Commit, LogFault> {
        let receipt = self.writer.append_sealed(bytes)?;
        Ok(Commit {
            durable: DurablePoint::at(&receipt, end),
            latency: since.elapsed(),
        })
    }

    /// Seals a block of this replica, and gives it to the driver.
    fn send(&mut self, block: &mut SealedBlock) -> Result<Submitted, LogFault> {
        let Some(leadership) = self.exchange.leadership() else {
            panic!(
                "block {} was made by a replica that does not lead",
                block.sequence
            );
        };
        assert_eq!(
            (block.stamp.term, block.stamp.writer),
            (leadership.term, leadership.writer),
            "block {} belongs to another term or writer",
            block.sequence
        );
        let before = self.sealed;
        assert_eq!(
            before.block_sequence, block.sequence,
            "the log and the ledger number blocks differently"
        );
        let (data_id, geometry) = (self.directory.data_id(), self.directory.geometry());
        let mut sealer = BlockSealer::new(data_id, geometry, before);
        let (header, next) = sealer.seal_with_header(&block.meta, block.stamp, &mut block.buffer)?;
        self.sealed = next;
        let bytes = Bytes::copy_from_slice(block.buffer.sealed_bytes());
        self.in_flight.push_back(InFlight {
            sequence: block.sequence,
            bytes: bytes.clone(),
            end: block.end,
            since: Instant::now(),
        });
        assert!(
            self.in_flight.len() <= LOG_DEPTH,
            "{} blocks are in flight, more than {LOG_DEPTH}",
            self.in_flight.len()
        );
        let hash = next.previous_hash;
        self.exchange.put(OwnBlock { header, hash, bytes })?;
        Ok(Submitted::Pending)
    }
}

impl BlockLog for ReplicatedLog {
    fn depth(&self) -> usize {
        LOG_DEPTH
    }

    fn submit(&mut self, block: &mut SealedBlock) -> Result<Submitted, LogFault> {
        if !block.is_accepted {
            return self.send(block);
        }
        assert!(
            self.in_flight.is_empty(),
            "a replica follows another leader, but has own blocks in flight"
        );
        let commit = self.append(block.buffer.sealed_bytes(), block.end, Instant::now())?;
        self.sealed = self.writer.end();
        Ok(Submitted::Durable(commit))
    }

    fn poll_durable(&mut self, context: &mut Context<'_>) -> Poll<Result<Commit, LogFault>> {
        let Some(first) = self.in_flight.front() else {
            return Poll::Pending;
        };
        let through = match self.exchange.poll_accepted(first.sequence, context) {
            Poll::Ready(Ok(through)) => through,
            Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault.into())),
            Poll::Pending => return Poll::Pending,
        };
        let mut last = None;
        while let Some(first) = self.in_flight.pop_front_if(|first| first.sequence <= through) {
            match self.append(&first.bytes, first.end, first.since) {
                Ok(commit) => last = Some(commit),
                Err(fault) => return Poll::Ready(Err(fault)),
            }
        }
        match last {
            Some(commit) => Poll::Ready(Ok(commit)),
            None => unreachable!(
                "the log accepted blocks through {through}, which includes the first one in flight"
            ),
        }
    }

    fn finish(&mut self) -> Result<(), LogFault> {
        Ok(self.writer.finish()?)
    }
}
