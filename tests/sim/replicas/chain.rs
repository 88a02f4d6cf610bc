//! The chain of accepted blocks, from the records of the log. It is computed without the code that the replicas use.

use std::collections::BTreeMap;

use bytes::Bytes;
use tally::store::replicated::ClaimBody;
use tally_journal::{
    BlockBuffer, BlockHash, BlockHeader, BlockKind, BlockMeta, BlockSealer, BlockStamp, ChainPoint, Genesis,
    parse_block,
};

use crate::{
    calls::Logged,
    journal::{Files, JournalWalk},
    world::{DATA, Failure},
};

/// An accepted block.
#[derive(Debug, Clone)]
pub(crate) struct ChainBlock {
    pub(crate) header: BlockHeader,
    pub(crate) bytes: Bytes,
    pub(crate) hash: [u8; 32],
}

/// All accepted blocks, in order: the first one has the number 1.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) genesis: Genesis,
    pub(crate) blocks: Vec<ChainBlock>,
    /// Whether a replica has stopped all others.
    pub(crate) is_halted: bool,
}

// ===== impl Chain =====

impl Chain {
    /// Reads all records of a log.
    pub(crate) fn read(records: &[Bytes]) -> Result<Self, Failure> {
        let genesis =
            Genesis::decode(&records[0]).map_err(|error| Failure(format!("the first record: {error}")))?;
        let mut chain = Chain {
            blocks: Vec::new(),
            is_halted: false,
            genesis,
        };
        for record in &records[1..] {
            let parsed = parse_block(record, chain.genesis.data_id(), chain.genesis.geometry());
            if let Ok((header, hash)) = parsed {
                chain.add(header, hash.0, record);
            }
        }
        Ok(chain)
    }

    fn add(&mut self, header: BlockHeader, hash: [u8; 32], bytes: &Bytes) {
        if header.kind == BlockKind::Halt {
            self.is_halted = true;
        }
        let (number, previous, term, writer, ended) = match self.blocks.last() {
            None => (0, self.genesis.start().previous_hash.0, 0, 0, false),
            Some(last) => {
                let header = &last.header;
                let ended = header.kind == BlockKind::End;
                (
                    header.block_sequence,
                    last.hash,
                    header.term,
                    header.writer,
                    ended,
                )
            }
        };
        let continues = header.block_sequence == number + 1 && header.previous_hash.0 == previous;
        let may_write = match header.kind {
            BlockKind::Claim => header.term > term,
            BlockKind::Data | BlockKind::Resign | BlockKind::End | BlockKind::Level => {
                header.term == term && header.writer == writer
            }
            BlockKind::Genesis | BlockKind::Halt => false,
        };
        if continues && may_write && !ended && !self.is_halted {
            self.blocks.push(ChainBlock {
                header,
                bytes: bytes.clone(),
                hash,
            });
        }
    }

    /// The point after the last block.
    pub(crate) fn end(&self) -> ChainPoint {
        let after = |point: ChainPoint, block: &ChainBlock| {
            point.after(&block.header, BlockHash(block.hash), self.genesis.geometry())
        };
        self.blocks.iter().fold(self.genesis.start(), after)
    }

    /// A block of the last writer that has the number of the next block, but does not name the last block.
    pub(crate) fn forge_next(&self) -> Option<Bytes> {
        let last = self.blocks.last()?.header;
        let mut end = self.end();
        end.previous_hash.0[0] ^= 1;
        let stamp = BlockStamp {
            term: last.term,
            writer: last.writer,
            kind: BlockKind::Data,
        };
        Some(self.seal_next(end, stamp, &[]))
    }

    /// A claim of the next term on top of the last block.
    pub(crate) fn claim_next(&self, address: &str) -> Result<Bytes, Failure> {
        let last = self.blocks.last();
        let last = last
            .ok_or_else(|| Failure("the log has no block".to_owned()))?
            .header;
        let stamp = BlockStamp {
            term: last.term + 1,
            writer: last.writer ^ 1,
            kind: BlockKind::Claim,
        };
        let claim = ClaimBody {
            address: address.to_owned(),
            version: "simulation".to_owned(),
        };
        Ok(self.seal_next(self.end(), stamp, &claim.encode()))
    }

    /// Seals a block without records at `end`.
    fn seal_next(&self, end: ChainPoint, stamp: BlockStamp, body: &[u8]) -> Bytes {
        let last = self.blocks.last().map(|block| block.header);
        let meta = BlockMeta {
            position: end.position,
            first_entry: last.map_or(0, |last| last.first_entry + u64::from(last.record_count)),
            first_sequence: last.map_or(1, |last| last.first_sequence),
            base_time_ns: last.map_or(0, |last| last.base_time_ns) + 1_000_000,
            record_count: 0,
        };
        let mut buffer = BlockBuffer::with_capacity(0);
        buffer.push(body);
        let mut sealer = BlockSealer::new(self.genesis.data_id(), self.genesis.geometry(), end);
        sealer
            .seal(&meta, stamp, &mut buffer)
            .expect("the block has its place");
        Bytes::copy_from_slice(buffer.sealed_bytes())
    }

    /// The segments of a journal with exactly these blocks.
    pub(crate) fn files(&self) -> Files {
        let mut files: Files = BTreeMap::new();
        for block in &self.blocks {
            let position = block.header.position;
            let path = format!("{DATA}/journal/{:010}.segment", position.segment());
            let file = files.entry(path.into()).or_default();
            let offset = usize::try_from(position.offset()).unwrap();
            file.resize(offset, 0);
            file.extend(&block.bytes);
        }
        files
    }

    /// The records of the blocks.
    pub(crate) fn records(&self) -> Result<Vec<Logged>, Failure> {
        let mut walk = JournalWalk::default();
        walk.read(&self.files())?;
        if walk.blocks() != self.blocks.len() as u64 {
            return Err(Failure(format!(
                "the accepted chain has {} blocks, but a journal of its blocks only {}",
                self.blocks.len(),
                walk.blocks()
            )));
        }
        Ok(walk.into_log())
    }

    /// Checks that a journal contains nothing but blocks of the chain, byte for byte. Returns the number of its blocks.
    pub(crate) fn contains(&self, name: &str, files: &Files) -> Result<u64, Failure> {
        let mut walk = JournalWalk::default();
        walk.read(files)?;
        let count = walk.blocks();
        if count > self.blocks.len() as u64 {
            return Err(Failure(format!(
                "{name} has {count} blocks, but only {} were accepted",
                self.blocks.len()
            )));
        }
        let accepted = self.files();
        for (path, bytes) in files {
            if path.extension().is_none_or(|extension| extension != "segment") {
                continue;
            }
            let used = bytes
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last + 1);
            let expected = accepted
                .get(path)
                .map_or(&[][..], |file| file.get(..used).unwrap_or(file));
            // The last block may end with zeros.
            if let Some(at) = (0..used).find(|at| expected.get(*at) != bytes.get(*at)) {
                return Err(Failure(format!(
                    "{name}: {} differs at {at} from the accepted blocks; the journal has {count} blocks",
                    path.display()
                )));
            }
        }
        Ok(count)
    }
}
