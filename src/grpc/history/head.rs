//! `GetChainHead`, and the blocks of transactions.

use std::collections::{HashMap, hash_map::Entry};

use tally_journal::{ChainPoint, Position};
use tonic::Status;

use crate::{
    engine::TallyEngine,
    grpc::{
        fields::from_time,
        limits::QUERY_BYTES_MAX,
        transport::{
            framing::{AdmittedCall, Inbound},
            outbound::AnswerResult,
        },
    },
    proto::{BlockReference, GetChainHeadRequest, GetChainHeadResponse},
    store::embedded::{FoundRecord, HistoryReader, RecordError},
};

/// The blocks of some records.
#[derive(Debug, Default)]
pub(crate) struct Blocks(HashMap<Position, BlockReference>);

// ===== impl Blocks =====

impl Blocks {
    /// Finds the blocks of `records`. `head` is the end of the durable blocks; `None` if the request does not ask for blocks.
    ///
    /// # Errors
    /// [`RecordError`] if the journal can't be read.
    pub(crate) fn of<'a>(
        reader: &HistoryReader,
        records: impl Iterator<Item = &'a FoundRecord>,
        head: Option<&ChainPoint>,
    ) -> Result<Self, RecordError> {
        let Some(head) = head else {
            return Ok(Blocks::default());
        };
        let mut blocks = HashMap::new();
        for record in records {
            let position = record.block_position()?;
            if let Entry::Vacant(vacant) = blocks.entry(position) {
                let (number, hash) = reader.block(position, head)?;
                vacant.insert(BlockReference {
                    block_sequence: i64::try_from(number).unwrap_or(i64::MAX),
                    block_hash: hash.0.to_vec(),
                });
            }
        }
        Ok(Blocks(blocks))
    }

    /// The block of a record. `None` if the request does not ask for blocks.
    pub(crate) fn get(&self, record: &FoundRecord) -> Option<BlockReference> {
        let position = record.block_position().ok()?;
        self.0.get(&position).cloned()
    }
}

/// Answers `GetChainHead`.
///
/// # Errors
/// INVALID_ARGUMENT if the request can't be decoded, or that of the engine.
pub(crate) async fn chain_head(engine: &TallyEngine, call: AdmittedCall) -> AnswerResult {
    let (_, inbound) = Inbound::read_request::<GetChainHeadRequest>(call, QUERY_BYTES_MAX).await?;
    let durable = engine.read_point(inbound.deadline).await?;
    let (chain, order) = (durable.chain(), durable.order());
    let number = chain.last_block_sequence();
    let block = (number > 0).then(|| BlockReference {
        block_sequence: i64::try_from(number).unwrap_or(i64::MAX),
        block_hash: chain.previous_hash.0.to_vec(),
    });
    Ok(inbound.answer(&GetChainHeadResponse {
        commit_time: block.is_some().then(|| from_time(order.last_time)),
        block,
        sequence: i64::try_from(order.next_sequence - 1).unwrap_or(i64::MAX),
    }))
}

/// Returns the status of a record that can't be decoded, although its checksum is right.
pub(super) fn damaged(record: &FoundRecord) -> Status {
    crate::grpc::status::engine(&crate::engine::StoreFault::damaged_at(record.position()).into())
}
