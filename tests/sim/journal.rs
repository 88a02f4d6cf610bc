//! Reads the whole journal from the disk, with code that is independent of the service. `crates/journal/src/block.rs` defines the format
//! of a block.

use std::{collections::BTreeMap, path::PathBuf};

use tally_journal::{HEADER_BYTES, Position};
use tally_ledger::{AccountIndex, Committed, Record, Timestamp, codec::Reader, record::take_record};

use crate::{
    calls::{Entry, Logged},
    records::{moved, recorded},
    world::{DATA, Failure},
};

/// The files of a disk.
pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// The fields of a block's header that matter here.
#[derive(Debug, Clone, Copy)]
struct Header {
    sequence: u64,
    first_sequence: u64,
    base_time: Timestamp,
    body_bytes: usize,
    /// Other blocks than those of the kind 0 have no records.
    kind: u32,
}

/// Reads the records of a journal one block after the other.
#[derive(Debug, Default)]
pub(crate) struct JournalWalk {
    log: Vec<Logged>,
    /// The ids of the accounts, by their numbers.
    accounts: Vec<String>,
    /// The number of blocks so far.
    blocks: u64,
    /// The position of the next block, unless it is at the beginning of the next segment.
    segment: u32,
    offset: usize,
}

/// Blocks begin at multiples of this number of bytes.
const ALIGNMENT: usize = 8;

// ===== impl JournalWalk =====

impl JournalWalk {
    /// Continues reading to the end of the journal in `files`.
    pub(crate) fn read(&mut self, files: &Files) -> Result<(), Failure> {
        loop {
            let here = self.block_at(files, self.segment, self.offset);
            let found = here.or_else(|| self.block_at(files, self.segment + 1, 0));
            let Some((header, segment, offset)) = found else {
                return Ok(());
            };
            let body = &files[&segment_path(segment)][offset + HEADER_BYTES..][..header.body_bytes];
            if header.kind == 0 {
                self.read_block(
                    header,
                    Position::new(segment, u32::try_from(offset).unwrap()),
                    body,
                )?;
            }
            self.blocks += 1;
            self.segment = segment;
            self.offset = (offset + HEADER_BYTES + header.body_bytes).next_multiple_of(ALIGNMENT);
        }
    }

    /// The number of blocks.
    pub(crate) const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The records.
    pub(crate) fn into_log(self) -> Vec<Logged> {
        self.log
    }

    /// The next block, if it is whole and begins here.
    fn block_at(&self, files: &Files, segment: u32, offset: usize) -> Option<(Header, u32, usize)> {
        let file = files.get(&segment_path(segment))?;
        let bytes = file.get(offset..)?.first_chunk::<HEADER_BYTES>()?;
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let header = Header {
            sequence: u64_at(8),
            first_sequence: u64_at(24),
            base_time: Timestamp::from_nanos(u64_at(32)),
            body_bytes: u32_at(44) as usize,
            kind: u32_at(120),
        };
        let position = Position::new(segment, u32::try_from(offset).unwrap());
        let is_header = &bytes[..4] == b"TLYB"
            && u32_at(124) == crc32c(&bytes[..124])
            && u64_at(48) == position.as_u64()
            && header.sequence == self.blocks + 1;
        let body = file.get(offset + HEADER_BYTES..)?.get(..header.body_bytes)?;
        (is_header && u32_at(104) == crc32c(body)).then_some((header, segment, offset))
    }

    fn read_block(&mut self, header: Header, block: Position, body: &[u8]) -> Result<(), Failure> {
        let mut reader = Reader::new(body);
        let mut committed = 0;
        while !reader.is_empty() {
            let at = u32::try_from(HEADER_BYTES + body.len() - reader.rest().len()).unwrap();
            let position = block.checked_add(at).unwrap().as_u64();
            let framed = take_record(&mut reader, position)
                .map_err(|error| Failure(format!("the record at {block} + {at} can't be read: {error}")))?;
            let place = Committed {
                sequence: header.first_sequence + committed,
                time: header.base_time.plus_nanos(committed),
            };
            committed += u64::from(framed.record.has_sequence());
            let entry = self.entry(&framed.record, place, position);
            self.log.push(Logged {
                entry,
                block: header.sequence,
                block_time: header.base_time,
            });
        }
        Ok(())
    }

    fn entry(&mut self, record: &Record<'_>, place: Committed, position: u64) -> Entry {
        let accounts = &self.accounts;
        let id_of = |index: AccountIndex| accounts[index.0 as usize].clone();
        match record {
            Record::AccountCreated { account, .. } => {
                self.accounts.push(account.id.clone());
                Entry::Created {
                    account: account.clone(),
                    time: place.time,
                }
            }
            Record::AccountUpdated { index, terms, .. } => Entry::Updated {
                id: id_of(*index),
                terms: terms.clone(),
            },
            Record::Committed { .. } | Record::Rejected { .. } => {
                Entry::Transaction(recorded(record, place, position, id_of))
            }
            Record::HoldExpired { hold_id, .. } => Entry::Expired {
                hold: String::from_utf8(hold_id.to_vec()).unwrap(),
                place,
                position,
                moved: moved(record, id_of),
            },
        }
    }
}

fn segment_path(segment: u32) -> PathBuf {
    PathBuf::from(format!("{DATA}/journal/{segment:010}.segment"))
}

/// The checksum of blocks: CRC-32C.
fn crc32c(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
        CRC_TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ crc >> 8
    });
    !crc
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte: u32 = 0;
    while byte < 256 {
        let mut crc = byte;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
};
