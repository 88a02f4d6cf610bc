//! The place of a replica in its log: the last accepted block, and the checks of the next block.

use tally_journal::{
    BlockHash, BlockHeader, BlockKind, BlockSealer, ChainPoint, DataId, Genesis, Geometry, HEADER_BYTES,
    HeaderDefect, RawBlockDefect, parse_block,
};
use tally_replication::{Accepted, BlockFacts, HaltReason, LogReader, Record, Seen, Step, WrongField};
use thiserror::Error;

use crate::{
    mutation::planted,
    store::{
        embedded::AcceptedBlock,
        replicated::{ClaimBody, EndBody, LogRecord, ResignBody, ResumePoint, TopicId},
    },
};

/// Recognizes the blocks of a ledger.
#[derive(Debug, Clone, Copy)]
pub(super) struct Codec {
    data_id: DataId,
    geometry: Geometry,
}

/// The place of a replica in its log.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) codec: Codec,
    topic_id: TopicId,
    pub(super) reader: LogReader,
    /// The point after the last accepted block. At the start, this is the end of the journal.
    pub(super) chain: ChainPoint,
    /// The number of the last block that the journal had at the start.
    journal_end: u64,
    /// The number of the first record of the next block; `None` until a block was accepted.
    next_entry: Option<u64>,
    /// The time of the last accepted block.
    pub(super) base_time_ns: u64,
    /// Who leads, according to the accepted blocks.
    pub(super) leader: Option<String>,
    /// Whether a claim, a resignation or the end of the log was read since the start. Before that, the log has not said who leads.
    pub(super) has_read_term: bool,
    /// Who should lead next, according to a resignation, or whose directory goes on, according to the end of the log.
    pub(super) successor: Option<String>,
    pub(super) skipped: u64,
    pub(super) term_changes: u64,
}

/// The result of judging a record of the log.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every record is a new block, and it is moved once"
)]
pub(super) enum Judged {
    /// A block that the journal does not have yet. The resume point is the point after this block.
    New(AcceptedBlock, ResumePoint),
    /// A block that was accepted, and that the journal already has.
    InJournal,
    /// A record that is no newly accepted block. The replica skips it.
    Other,
}

/// Why a replica can't start at its resume point.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// The journal has fewer blocks than the resume point says.
    #[error(
        "the journal ends with block {journal}, but block {resume} was in it before: blocks are missing; make this replica anew \
         from another one (tally replica clone)"
    )]
    Shorter {
        /// The last block of the journal.
        journal: u64,
        /// The block of the resume point.
        resume: u64,
    },
    /// The journal has another block than the resume point says.
    #[error("block {0} of the journal is not the one that was accepted from the log")]
    OtherBlock(u64),
}

// ===== impl Place =====

impl Place {
    /// Continues at `resume`. The journal ends at `chain`; `has_ended` says whether its last block is the end of the log.
    pub(super) fn new(
        codec: Codec,
        resume: &ResumePoint,
        chain: ChainPoint,
        has_ended: bool,
    ) -> Result<Self, PlaceError> {
        let journal_end = chain.last_block_sequence();
        if journal_end < resume.block {
            return Err(PlaceError::Shorter {
                journal: journal_end,
                resume: resume.block,
            });
        }
        if journal_end == resume.block && resume.hash != chain.previous_hash.0 {
            return Err(PlaceError::OtherBlock(journal_end));
        }
        let accepted = Accepted {
            number: resume.block,
            hash: resume.hash,
            term: resume.term,
            writer: resume.writer,
            // An end behind the resume point is read again.
            ended: has_ended && journal_end == resume.block && !planted("forget_end_at_start"),
        };
        let seen = Seen {
            offset: resume.offset,
            epoch: resume.epoch,
            hash: Some(resume.hash),
        };
        Ok(Place {
            codec,
            topic_id: resume.topic_id,
            reader: LogReader::new(accepted, resume.offset + 1, Some(seen)),
            chain,
            journal_end,
            next_entry: None,
            base_time_ns: 0,
            leader: None,
            has_read_term: false,
            successor: None,
            skipped: 0,
            term_changes: 0,
        })
    }

    /// Returns whether everything that the journal had at the start was found in the log.
    pub(super) fn has_found_journal(&self) -> bool {
        self.reader.accepted().number >= self.journal_end
    }

    /// Judges the next record of the log.
    ///
    /// # Errors
    /// Why the replica must halt.
    pub(super) fn judge(&mut self, record: &LogRecord) -> Result<Judged, HaltReason> {
        let (facts, header) = self.codec.facts_of(&record.value);
        let (journal_end, chain, next_entry, base_time_ns) =
            (self.journal_end, self.chain, self.next_entry, self.base_time_ns);
        let judged = self.reader.next(
            &Record {
                offset: record.offset,
                epoch: record.epoch,
                block: facts,
            },
            |block| match &header {
                None => Ok(()),
                Some(header) if header.block_sequence <= journal_end => {
                    let is_other = block.number == journal_end && block.hash != chain.previous_hash.0;
                    if is_other {
                        Err(WrongField("hash: the journal has another block"))
                    } else {
                        Ok(())
                    }
                }
                Some(header) => check_fields(header, &chain, next_entry, base_time_ns),
            },
        )?;
        match (judged, header) {
            (Step::Accepted, Some(header)) => Ok(self.accepted(&header, record)),
            (Step::Accepted, None) => unreachable!("a record without a header was accepted"),
            (Step::Known | Step::Skipped(_) | Step::Foreign, _) => {
                self.skipped += 1;
                Ok(Judged::Other)
            }
            (Step::Again, _) => Ok(Judged::Other),
        }
    }

    fn accepted(&mut self, header: &BlockHeader, record: &LogRecord) -> Judged {
        let (_, body) = record.value.split_at(HEADER_BYTES);
        self.note(header, body);
        let accepted = *self.reader.accepted();
        let hash = BlockHash(accepted.hash);
        let resume = self.resume_point(header, hash, record.offset, Some(record.epoch));
        if accepted.number <= self.journal_end {
            return Judged::InJournal;
        }
        self.chain = self.chain.after(header, hash, self.codec.geometry);
        let block = AcceptedBlock {
            header: *header,
            bytes: record.value.clone(),
        };
        Judged::New(block, resume)
    }

    /// Notes what an accepted block says about who leads.
    fn note(&mut self, header: &BlockHeader, body: &[u8]) {
        self.base_time_ns = header.base_time_ns;
        self.has_read_term |= !header.kind.is_data();
        self.next_entry = Some(header.first_entry + u64::from(header.record_count));
        match header.kind {
            BlockKind::Claim => {
                self.leader = ClaimBody::decode(body).map(|claim| claim.address);
                self.successor = None;
                self.term_changes += 1;
            }
            BlockKind::Resign => {
                self.leader = None;
                self.successor = ResignBody::decode(body).and_then(|resign| resign.successor);
            }
            BlockKind::End => {
                self.leader = None;
                self.successor = EndBody::decode(body).map(|end| end.address);
            }
            BlockKind::Data | BlockKind::Level | BlockKind::Genesis | BlockKind::Halt => {}
        }
    }

    /// Notes a block of this replica that the log has accepted.
    pub(super) fn accepted_own(&mut self, header: &BlockHeader, hash: BlockHash, body: &[u8]) {
        self.note(header, body);
        self.chain = self.chain.after(header, hash, self.codec.geometry);
    }

    /// Returns the resume point after an accepted block, which the record at `offset` contains.
    pub(super) const fn resume_point(
        &self,
        header: &BlockHeader,
        hash: BlockHash,
        offset: u64,
        epoch: Option<i32>,
    ) -> ResumePoint {
        ResumePoint {
            topic_id: self.topic_id,
            offset,
            epoch,
            block: header.block_sequence,
            hash: hash.0,
            term: header.term,
            writer: header.writer,
        }
    }
}

// ===== impl Codec =====

impl Codec {
    pub(super) const fn new(data_id: DataId, geometry: Geometry) -> Self {
        Codec { data_id, geometry }
    }

    /// Makes a sealer for the block after `chain`.
    pub(super) const fn sealer(&self, chain: ChainPoint) -> BlockSealer {
        BlockSealer::new(self.data_id, self.geometry, chain)
    }

    /// Returns the id of the ledger.
    pub(super) const fn data_id(&self) -> DataId {
        self.data_id
    }

    /// Returns what the protocol knows about a record.
    pub(super) fn record(&self, record: &LogRecord) -> Record {
        Record {
            offset: record.offset,
            epoch: record.epoch,
            block: self.facts_of(&record.value).0,
        }
    }

    /// Returns what the protocol knows about a block of this replica.
    ///
    /// # Panics
    /// If the bytes are not a block.
    pub(super) fn own_facts(&self, bytes: &[u8]) -> BlockFacts {
        match self.facts_of(bytes) {
            (Some(facts), Some(_)) => facts,
            (Some(_) | None, _) => panic!("an own block must be readable"),
        }
    }

    /// Returns what the protocol knows about the bytes of a record, and the header if the bytes are a block. Bytes that are not a block
    /// of this ledger have no facts.
    fn facts_of(&self, value: &[u8]) -> (Option<BlockFacts>, Option<BlockHeader>) {
        match parse_block(value, self.data_id, self.geometry) {
            Ok((header, hash)) => (Some(facts(&header, hash)), Some(header)),
            Err(RawBlockDefect::Header(HeaderDefect::Version(version))) => {
                (Some(unknown(version.into())), None)
            }
            Err(RawBlockDefect::Header(HeaderDefect::Kind(kind))) => (Some(unknown(kind)), None),
            Err(_) => (None, None),
        }
    }
}

/// The state before the first block.
pub(super) fn genesis_point(genesis: &Genesis) -> Accepted {
    Accepted {
        number: 0,
        hash: genesis.start().previous_hash.0,
        term: 0,
        writer: 0,
        ended: false,
    }
}

/// Returns what the protocol knows about a block. The chain begins with the hash that the first record states, and not with the hash of
/// the first record.
pub(super) fn facts(header: &BlockHeader, hash: BlockHash) -> BlockFacts {
    let hash = match header.kind {
        BlockKind::Genesis => header.previous_hash,
        BlockKind::Data
        | BlockKind::Claim
        | BlockKind::Resign
        | BlockKind::End
        | BlockKind::Halt
        | BlockKind::Level => hash,
    };
    BlockFacts {
        number: header.block_sequence,
        hash: hash.0,
        previous: header.previous_hash.0,
        term: header.term,
        writer: header.writer,
        kind: tally_replication::BlockKind::from_code(header.kind.number()),
    }
}

fn unknown(code: u32) -> BlockFacts {
    BlockFacts {
        number: 0,
        hash: [0; 32],
        previous: [0; 32],
        term: 0,
        writer: 0,
        kind: tally_replication::BlockKind::Unknown(code),
    }
}

/// Checks the fields of a block that continues the chain.
fn check_fields(
    header: &BlockHeader,
    chain: &ChainPoint,
    next_entry: Option<u64>,
    base_time_ns: u64,
) -> Result<(), WrongField> {
    if header.position != chain.position {
        return Err(WrongField("position"));
    }
    if next_entry.is_some_and(|next| header.first_entry != next) {
        return Err(WrongField("first_entry"));
    }
    if header.base_time_ns <= base_time_ns {
        return Err(WrongField("base_time"));
    }
    Ok(())
}
