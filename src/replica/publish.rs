//! Publishes a data directory in a log: how a replicated ledger begins, and how it begins again after the log was lost.

use std::{convert::Infallible, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use tally_journal::{
    BlockHeader, BlockKind, ChainPoint, Disk, Genesis, Journal, JournalConfig, JournalError, JournalReader,
    ScanError, StoreKind,
};
use tally_replication::{HaltReason, LogReader, Step};
use thiserror::Error;

use super::place::{Codec, genesis_point};
use crate::store::{
    embedded::{OpenError, is_data_directory},
    replicated::{
        AppendError, DirectoryName, EndBody, PartitionLog, ReadError, ResumeFiles, ResumePoint, TopicFacts,
        UnsafeTopic, unsafe_properties,
    },
    settings::REPLICATED_BLOCK_BYTES_MAX,
};

/// Maximum number of bytes of the blocks in one request. A larger block is sent alone.
const REQUEST_BYTES_MAX: usize = 2 << 20;
/// Maximum number of blocks in one request.
const REQUEST_BLOCKS_MAX: usize = 1024;

/// Why a directory could not be published.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The directory can't be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The directory can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A block could not be appended. Repeat the command: it continues where it stopped.
    #[error("{0}; repeat the command, which continues where it stopped")]
    Append(#[from] AppendError),
    /// The topic could lose blocks.
    #[error("the topic is not safe: {}", join(.0))]
    Unsafe(Vec<UnsafeTopic>),
    /// The topic contains something else.
    #[error(
        "the topic is not empty, and it does not belong to this data directory; choose an empty topic (store.replicated.topic)"
    )]
    OtherTopic,
    /// The topic contains blocks that the directory does not have, or replicas have used it.
    #[error("the topic already belongs to a replicated ledger: {0}")]
    InUse(&'static str),
    /// The last block of the directory does not end the log.
    #[error("the topic already belongs to a replicated ledger: it has not ended")]
    NotEnded,
    /// The log of the directory has ended, and the directory went on as one of an embedded store.
    #[error(
        "block {end} of the data directory is the end of a replicated log, after which no replica accepts a block: export the ledger \
         (tally export), and import it into a new one"
    )]
    Ended {
        /// The number of the block that ends the log.
        end: u64,
    },
    /// The directory belongs to a replica that reads another topic.
    #[error(
        "the data directory belongs to a replica of another topic, which still has the ledger; after that log was lost, \
         `tally replica republish` publishes the directory in a new topic"
    )]
    OfOtherTopic,
    /// The blocks of the directory can be larger than a request to the brokers.
    #[error(
        "the data directory has blocks of up to {found} bytes, but a replicated store allows {REPLICATED_BLOCK_BYTES_MAX}: export it, and import it into a new one with a smaller store.block_bytes_max"
    )]
    LargeBlocks {
        /// The greatest length of a block.
        found: u32,
    },
    /// Another process writes to the topic.
    #[error("another process writes to the topic")]
    Raced,
    /// A record of the log stops every reader.
    #[error(transparent)]
    Halted(#[from] HaltReason),
}

/// What was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The number of the last block.
    pub last_block: u64,
    /// How many blocks this call has published.
    pub blocks: u64,
    /// The offset after the last record.
    pub next_offset: u64,
}

/// Publishes the directory at `path` in an empty topic: the first record, and then every block. First turns the directory, durably, into
/// one of the replicated store, so that no embedded store can append to it. If the directory does not exist, makes it with the sizes in
/// `config`.
///
/// A call that was interrupted can be repeated.
///
/// # Errors
/// [`PublishError`].
pub async fn publish<L: PartitionLog>(
    log: &mut L,
    disk: Arc<dyn Disk>,
    path: &Path,
    config: &JournalConfig,
    accept_unsafe: bool,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Published, PublishError> {
    log.reconnect().await?;
    let facts = log.inspect().await?;
    check_topic(&facts, accept_unsafe)?;
    let is_empty = facts.end_offset == 0;
    if !is_empty && !is_data_directory(&*disk, path)? {
        return Err(PublishError::OtherTopic);
    }
    let mut journal = open(disk, path, config)?;
    let genesis = journal.directory().genesis();
    if !is_empty {
        check_first_record(log, &genesis).await?;
    }
    // Before the directory is marked: the embedded store refuses it afterwards.
    let end = publishable(&journal)?;
    if journal.directory().store() == StoreKind::Embedded {
        journal.make_replicated()?;
    }
    if is_empty {
        append_first_record(log, &genesis).await?;
    }
    let mut publisher = Publisher {
        log,
        codec: Codec::new(genesis.data_id(), genesis.geometry()),
        reader: LogReader::new(genesis_point(&genesis), 1, None),
        accepted_at: (0, None),
        published: 0,
    };
    publisher.find_end().await?;
    publisher
        .blocks(&journal.reader(), journal.start(), &end, progress)
        .await?;
    publisher.find_end().await?;
    let resume = publisher.resume_point(&facts, &end)?;
    ResumeFiles::open(journal.directory())?.replace(&resume)?;
    Ok(Published {
        last_block: end.last_block_sequence(),
        blocks: publisher.published,
        next_offset: publisher.reader.next_offset(),
    })
}

/// Checks that the directory at `path` does not belong to a replica of another topic than that of `facts`: a second log of the same ledger
/// would split it. The directory of an interrupted call of [`publish`] may have no topic yet.
///
/// # Errors
/// [`PublishError`].
pub fn check_own_topic(disk: Arc<dyn Disk>, path: &Path, facts: &TopicFacts) -> Result<(), PublishError> {
    let journal = Journal::open_existing(disk, path)?;
    if journal.directory().store() == StoreKind::Embedded {
        return Ok(());
    }
    match ResumeFiles::open(journal.directory())?.newest()? {
        Some(resume) if resume.topic_id != facts.topic_id => Err(PublishError::OfOtherTopic),
        Some(_) | None => Ok(()),
    }
}

/// Makes the replica with the directory at `path` read the log of the topic from its beginning. Used when the topic was made anew after
/// the log was lost. The next start finds out whether the log has the blocks of the directory.
///
/// # Errors
/// [`PublishError`].
pub fn rejoin(disk: Arc<dyn Disk>, path: &Path, facts: &TopicFacts) -> Result<(), PublishError> {
    let journal = Journal::open_replica(disk, path)?;
    let resume = ResumePoint::beginning(facts.topic_id, &journal.directory().genesis());
    ResumeFiles::open(journal.directory())?.replace(&resume)?;
    Ok(())
}

/// Returns the name of the directory at `path` for the end of the log. Gives it one, durably, if it has none.
///
/// # Errors
/// [`PublishError`].
pub fn name_directory(disk: Arc<dyn Disk>, path: &Path) -> Result<DirectoryName, PublishError> {
    let journal = Journal::open_replica(disk, path)?;
    Ok(DirectoryName::make(journal.directory())?)
}

/// Makes the directory at `path` one of an embedded store, if its last block is the end of the log and names this directory. Can be
/// repeated.
///
/// # Errors
/// [`PublishError`].
pub fn detach(disk: Arc<dyn Disk>, path: &Path) -> Result<(), PublishError> {
    let mut journal = Journal::open_existing(disk, path)?;
    if journal.directory().store() == StoreKind::Embedded {
        return Ok(());
    }
    let mut last = None;
    scan(&journal, |header, body| {
        // Only a name that was read can be equal to that of the directory.
        let named = EndBody::decode(body).filter(|_| header.kind == BlockKind::End);
        last = Some((header.kind, named.map(|end| end.directory)));
    })?;
    let own = DirectoryName::of(journal.directory())?;
    match last {
        Some((BlockKind::End, named)) if named.is_some() && named == own => Ok(journal.make_embedded()?),
        Some((BlockKind::End, _)) => Err(PublishError::InUse(
            "its end names another directory, which goes on",
        )),
        Some(_) | None => Err(PublishError::NotEnded),
    }
}

/// Checks that the topic keeps what it has acknowledged.
///
/// # Errors
/// [`PublishError::Unsafe`], unless `accept_unsafe` is true. Then the function only logs a warning.
pub fn check_topic(facts: &TopicFacts, accept_unsafe: bool) -> Result<(), PublishError> {
    let found = unsafe_properties(facts, crate::store::replicated::REQUEST_BYTES_MAX as u64);
    if found.is_empty() {
        return Ok(());
    }
    if !accept_unsafe {
        return Err(PublishError::Unsafe(found));
    }
    for found in found {
        tracing::warn!(%found, "the topic of the replicated log is not safe, which store.replicated.accept_unsafe_topic accepts");
    }
    Ok(())
}

/// Opens the directory, or makes it.
fn open(disk: Arc<dyn Disk>, path: &Path, config: &JournalConfig) -> Result<Journal, PublishError> {
    let journal = if is_data_directory(&*disk, path)? {
        Journal::open_existing(disk, path)?
    } else {
        Journal::open(disk, path, config)?
    };
    let found = journal.directory().geometry().block_bytes_max();
    if u64::from(found) > REPLICATED_BLOCK_BYTES_MAX {
        return Err(PublishError::LargeBlocks { found });
    }
    Ok(journal)
}

/// Checks that readers would accept all blocks of the journal, and that no embedded store goes on after the end of an earlier log. Returns
/// the end of the journal.
fn publishable(journal: &Journal) -> Result<ChainPoint, PublishError> {
    let (mut end_of_log, mut goes_on) = (None, journal.directory().store() == StoreKind::Embedded);
    let end = scan(journal, |header, _| {
        goes_on |= end_of_log.is_some();
        if header.kind == BlockKind::End {
            end_of_log = Some(header.block_sequence);
        }
    })?;
    match end_of_log.filter(|_| goes_on) {
        Some(end) => Err(PublishError::Ended { end }),
        None => Ok(end),
    }
}

/// Shows every block of the journal, its header and its body, to `visit`. Returns the end of the journal.
///
/// # Errors
/// [`JournalError`].
pub(super) fn scan(
    journal: &Journal,
    mut visit: impl FnMut(&BlockHeader, &[u8]),
) -> Result<ChainPoint, JournalError> {
    let scanned = journal.scan(journal.start(), 0, |header, _, body| {
        visit(header, body);
        Ok::<(), Infallible>(())
    });
    match scanned {
        Ok(tail) => Ok(tail.end),
        Err(ScanError::Store(error)) => Err(error),
        Err(ScanError::Visitor(never)) => match never {},
    }
}

/// Reads the first record of the log; `None` if the log shows none. A record at another offset than 0 is not the beginning of a ledger, so its
/// value counts as empty.
///
/// # Errors
/// [`ReadError`].
pub(super) async fn first_record<L: PartitionLog>(log: &mut L) -> Result<Option<Bytes>, ReadError> {
    let found = log.read(0, Duration::ZERO).await?;
    let first = found.records.into_iter().next();
    Ok(first.map(|record| {
        if record.offset == 0 {
            record.value
        } else {
            Bytes::new()
        }
    }))
}

/// Checks that the first record of the log belongs to the ledger.
async fn check_first_record<L: PartitionLog>(log: &mut L, genesis: &Genesis) -> Result<(), PublishError> {
    match first_record(log).await? {
        Some(first) if first == genesis.encode() => Ok(()),
        Some(_) | None => Err(PublishError::OtherTopic),
    }
}

/// Writes the first record of an empty log.
async fn append_first_record<L: PartitionLog>(log: &mut L, genesis: &Genesis) -> Result<(), PublishError> {
    let appended = log.append(vec![Bytes::from(genesis.encode())]).await?;
    if appended.first_offset == 0 {
        Ok(())
    } else {
        Err(PublishError::Raced)
    }
}

/// The state of a publication.
struct Publisher<'a, L> {
    log: &'a mut L,
    codec: Codec,
    reader: LogReader,
    /// The offset of the record with the last accepted block, and its epoch if it is known.
    accepted_at: (u64, Option<i32>),
    published: u64,
}

// ===== impl Publisher =====

impl<L: PartitionLog> Publisher<'_, L> {
    /// Reads the log to its end.
    async fn find_end(&mut self) -> Result<(), PublishError> {
        loop {
            let found = self.log.read(self.reader.next_offset(), Duration::ZERO).await?;
            for record in &found.records {
                if self.reader.next(&self.codec.record(record), |_| Ok(()))? == Step::Accepted {
                    self.accepted_at = (record.offset, Some(record.epoch));
                }
            }
            self.reader.passed(found.next_offset)?;
            if self.reader.next_offset() >= found.end_offset {
                return Ok(());
            }
        }
    }

    /// Publishes the blocks that the log does not have yet.
    async fn blocks(
        &mut self,
        journal: &JournalReader,
        start: ChainPoint,
        end: &ChainPoint,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<(), PublishError> {
        let present = *self.reader.accepted();
        let mut point = start;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while !point.is_at(end) {
            let mut block = Vec::new();
            (_, point) = journal.read_sealed(&point, &mut block)?;
            let number = point.last_block_sequence();
            if number == present.number && point.previous_hash.0 != present.hash {
                return Err(PublishError::InUse(
                    "it has other blocks than this data directory",
                ));
            }
            if number <= present.number {
                continue;
            }
            bytes += block.len();
            batch.push(Bytes::from(block));
            if bytes >= REQUEST_BYTES_MAX || batch.len() >= REQUEST_BLOCKS_MAX || point.is_at(end) {
                self.published += batch.len() as u64;
                self.log.append(std::mem::take(&mut batch)).await?;
                bytes = 0;
                progress(number, end.last_block_sequence());
            }
        }
        Ok(())
    }

    /// Returns the resume point after the last block, if the log now has all blocks of the directory.
    fn resume_point(&self, facts: &TopicFacts, end: &ChainPoint) -> Result<ResumePoint, PublishError> {
        let accepted = self.reader.accepted();
        if accepted.number != end.last_block_sequence() || accepted.hash != end.previous_hash.0 {
            return Err(PublishError::InUse(
                "its last block is not the last one of this data directory",
            ));
        }
        let (offset, epoch) = self.accepted_at;
        Ok(ResumePoint {
            topic_id: facts.topic_id,
            offset,
            epoch,
            block: accepted.number,
            hash: accepted.hash,
            term: accepted.term,
            writer: accepted.writer,
        })
    }
}

fn join(found: &[UnsafeTopic]) -> String {
    let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
    texts.join("; ")
}
