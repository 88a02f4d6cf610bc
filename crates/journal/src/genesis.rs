//! The two records that occur in a replicated log, but never in a journal: its first record, and the record that stops all replicas.

use thiserror::Error;

use crate::{
    block::{BlockHash, BlockHeader, DataId, HEADER_BYTES},
    chain_point::ChainPoint,
    format::{DIRECTORY_FORMAT_VERSION, DirectoryFormat, FormatTextDefect, StoreKind},
    geometry::Geometry,
    position::Position,
    raw_block::{RawBlockDefect, parse_block},
    stamp::BlockKind,
};

/// The first record of a replicated log: what the directories of all replicas have in common.
///
/// The record is a block with number 0, whose body is the content of the replicas' file `FORMAT`. It is the same for all replicas,
/// byte by byte, and it is not in the hash chain: the chain begins with the [id](Genesis::data_id) of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Genesis {
    format: DirectoryFormat,
}

/// A record that stops all replicas. A replica writes it when it has blocks that the log has lost. The record is outside the hash
/// chain, and takes effect at any place of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halt {
    /// The term of the last block that the replica has; 0 if that block is older than the replicated log.
    pub term: u64,
    /// The writer of that block.
    pub writer: u32,
    /// The number of that block; 0 if the replica has none.
    pub last_block: u64,
    /// The hash of that block.
    pub last_hash: BlockHash,
    /// Bytes that the caller adds, such as the name of the replica.
    pub body: Vec<u8>,
}

/// Why bytes are not the first record of a replicated log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GenesisDefect {
    /// The bytes are not a block.
    #[error(transparent)]
    Block(#[from] RawBlockDefect),
    /// The block has another kind.
    #[error("the record is of the kind {0}, but must be of the kind genesis")]
    Kind(BlockKind),
    /// The directories of this ledger have another format version.
    #[error(
        "the ledger has format version {found}, this program reads version {supported} only: use the release that wrote it"
    )]
    Version {
        /// The version in the record.
        found: u32,
        /// The version that this program supports.
        supported: u32,
    },
    /// The body is not the description of a data directory, or the header contradicts it.
    #[error("the record does not describe a replicated ledger")]
    Content,
}

// ===== impl Genesis =====

impl Genesis {
    pub(super) const fn new(format: DirectoryFormat) -> Self {
        Genesis {
            format: DirectoryFormat {
                store: StoreKind::Replicated,
                ..format
            },
        }
    }

    pub(super) const fn format(&self) -> &DirectoryFormat {
        &self.format
    }

    /// Returns the format version of the directories of this ledger.
    #[must_use]
    pub const fn level(&self) -> u32 {
        DIRECTORY_FORMAT_VERSION
    }

    /// Returns the id that the directories of all replicas have.
    #[must_use]
    pub const fn data_id(&self) -> DataId {
        self.format.data_id
    }

    /// Returns the seed for hash tables and filters that all replicas use.
    #[must_use]
    pub const fn hash_seed(&self) -> u64 {
        self.format.hash_seed
    }

    /// Returns the sizes of the journals of all replicas.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.format.geometry
    }

    /// Returns the point before the first block of the chain.
    #[must_use]
    pub fn start(&self) -> ChainPoint {
        ChainPoint::start(self.format.data_id)
    }

    /// Encodes the record: header and body.
    ///
    /// # Panics
    /// Never: the content of `FORMAT` is shorter than any block may be.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let body = self.format.render().into_bytes();
        encode_record(
            self.format.data_id,
            BlockKind::Genesis,
            (0, 0),
            &self.start_of_all(),
            &body,
        )
    }

    /// Decodes the first record of a log.
    ///
    /// # Errors
    /// [`GenesisDefect`]; never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, GenesisDefect> {
        let (header, body) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(RawBlockDefect::Short(bytes.len()))?;
        let header = BlockHeader::decode(header).map_err(RawBlockDefect::Header)?;
        if header.kind != BlockKind::Genesis {
            return Err(GenesisDefect::Kind(header.kind));
        }
        if body.len() != header.body_bytes as usize {
            return Err(GenesisDefect::Block(RawBlockDefect::Length {
                found: bytes.len(),
                stated: HEADER_BYTES + header.body_bytes as usize,
            }));
        }
        if !header.is_body(body) {
            return Err(GenesisDefect::Block(RawBlockDefect::BodyChecksum));
        }
        let format = DirectoryFormat::parse_text(body).map_err(|defect| match defect {
            FormatTextDefect::Malformed => GenesisDefect::Content,
            FormatTextDefect::Version(found) => GenesisDefect::Version {
                found,
                supported: DIRECTORY_FORMAT_VERSION,
            },
        })?;
        let genesis = Genesis::new(format);
        // The decoded values determine all bytes, so this comparison checks every field.
        if genesis.encode() == bytes {
            Ok(genesis)
        } else {
            Err(GenesisDefect::Content)
        }
    }

    /// Returns the block number 0, and what the header of a block with this number states as the hash of the block before it.
    fn start_of_all(&self) -> (u64, BlockHash) {
        (0, self.start().previous_hash)
    }
}

// ===== impl Halt =====

impl Halt {
    /// Encodes the record for the log of the ledger `data_id`: header and body.
    ///
    /// # Panics
    /// If the body has more than 4 GiB.
    #[must_use]
    pub fn encode(&self, data_id: DataId) -> Vec<u8> {
        let last = (self.last_block, self.last_hash);
        encode_record(
            data_id,
            BlockKind::Halt,
            (self.term, self.writer),
            &last,
            &self.body,
        )
    }

    /// Decodes the record. Returns `None` if the bytes are a block of another kind.
    ///
    /// # Errors
    /// [`RawBlockDefect`] if the bytes are not a block; never panics.
    pub fn decode(bytes: &[u8], data_id: DataId, geometry: Geometry) -> Result<Option<Self>, RawBlockDefect> {
        let (header, _) = parse_block(bytes, data_id, geometry)?;
        if header.kind != BlockKind::Halt {
            return Ok(None);
        }
        let (_, body) = bytes.split_at(HEADER_BYTES);
        Ok(Some(Halt {
            term: header.term,
            writer: header.writer,
            last_block: header.block_sequence,
            last_hash: header.previous_hash,
            body: body.to_vec(),
        }))
    }
}

/// Encodes a record outside the chain.
fn encode_record(
    data_id: DataId,
    kind: BlockKind,
    (term, writer): (u64, u32),
    (block_sequence, previous_hash): &(u64, BlockHash),
    body: &[u8],
) -> Vec<u8> {
    let Ok(body_bytes) = u32::try_from(body.len()) else {
        panic!("a record of {} bytes is longer than any block", body.len());
    };
    let header = BlockHeader {
        position: Position::START,
        block_sequence: *block_sequence,
        first_entry: 0,
        first_sequence: 0,
        base_time_ns: 0,
        record_count: 0,
        body_bytes,
        data_id,
        previous_hash: *previous_hash,
        body_crc: crc32c::crc32c(body),
        term,
        writer,
        kind,
    };
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(body);
    bytes
}
