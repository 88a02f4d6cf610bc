//! Prepares the data directory of a replica, before the engine opens it.

use std::{path::Path, sync::Arc, time::Duration};

use tally_journal::{Disk, Genesis, GenesisDefect, Journal, JournalError, StoreKind};
use thiserror::Error;
use tokio::time::{Instant, sleep};

use super::publish::{PublishError, check_topic, first_record, scan};
use crate::{
    store::{
        embedded::{OpenError, is_data_directory},
        replicated::{PartitionLog, ReadError, ResumeFiles, ResumePoint, TopicFacts},
    },
    telemetry::LogLimit,
};

/// Delay between two attempts to reach the log, or to read its first record.
const RETRY_DELAY: Duration = Duration::from_millis(250);
/// Number of attempts to read the first record if it is damaged. Another broker may lead meanwhile whose copy is whole.
const DAMAGED_ATTEMPTS_MAX: u32 = 40;

/// Why the directory of a replica could not be prepared.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// The topic could lose blocks, or does not belong to a replicated ledger.
    #[error(transparent)]
    Topic(#[from] PublishError),
    /// The log can't be used, and waiting would not help.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// The beginning of the log was removed, and the directory has no ledger yet.
    #[error("{0}, so this directory can't follow it: clone another replica (tally replica clone)")]
    Trimmed(ReadError),
    /// The topic is empty.
    #[error(
        "the topic is empty: make the replicated ledger with `tally replica init` on one replica, and start this one again"
    )]
    Empty,
    /// The first record of the topic stays damaged.
    #[error(
        "the first record of the topic can't be read: {0}; look at the disks of the brokers, or publish the ledger in another topic \
         (tally replica republish)"
    )]
    FirstRecord(ReadError),
    /// The first record of the topic is not that of a ledger.
    #[error("the first record of the topic is not the beginning of a replicated ledger: {0}")]
    Genesis(#[from] GenesisDefect),
    /// The directory can't be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The directory can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The directory has no resume point.
    #[error(
        "the data directory does not say where to continue to read the log: its resume point is missing or damaged; make this \
         replica anew from another one (tally replica clone), or remove the directory to read the whole log"
    )]
    NoResumePoint,
    /// The directory belongs to another topic.
    #[error(
        "the data directory belongs to another topic than the one that has this name now; if the topic was made anew after the log was \
         lost, use `tally replica republish`"
    )]
    OtherTopic,
}

/// Waits until the log can be reached, checks its topic, and makes the data directory at `path` from the first record of the log if it
/// does not exist, or was not completed by an earlier call. Returns what the log says about the topic.
///
/// # Errors
/// [`PrepareError`]. A log that can't be reached is not an error: the function waits.
pub async fn prepare<L: PartitionLog>(
    log: &mut L,
    disk: Arc<dyn Disk>,
    path: &Path,
    accept_unsafe: bool,
) -> Result<TopicFacts, PrepareError> {
    let facts = reach(log).await?;
    check_topic(&facts, accept_unsafe)?;
    if is_data_directory(&*disk, path)? && !is_unfinished(Arc::clone(&disk), path)? {
        return Ok(facts);
    }
    if facts.end_offset == 0 {
        return Err(PrepareError::Empty);
    }
    let genesis = read_genesis(log).await?;
    let journal = Journal::create_replica(disk, path, &genesis)?;
    let resume = ResumePoint::beginning(facts.topic_id, &genesis);
    ResumeFiles::open(journal.directory())?.write(&resume)?;
    tracing::info!(data = %path.display(), "made the data directory of a new replica from the first record of the log");
    Ok(facts)
}

/// Returns whether the directory of a replica has no block and no resume point: an earlier call was interrupted after it had made the
/// directory.
fn is_unfinished(disk: Arc<dyn Disk>, path: &Path) -> Result<bool, PrepareError> {
    if ResumeFiles::are_in(&*disk, path)? {
        return Ok(false);
    }
    let journal = Journal::open_existing(disk, path)?;
    let is_replica = journal.directory().store() == StoreKind::Replicated;
    Ok(is_replica && scan(&journal, |_, _| {})?.last_block_sequence() == 0)
}

/// Reads the first record of a log that has one.
async fn read_genesis<L: PartitionLog>(log: &mut L) -> Result<Genesis, PrepareError> {
    let (lines, mut damaged) = (LogLimit::default(), 0);
    loop {
        let error = match first_record(log).await {
            Ok(Some(first)) => return Ok(Genesis::decode(&first)?),
            // The topic had an end. A broker that has just begun to lead may not show yet what the topic contains.
            Ok(None) => ReadError::Unavailable("the topic shows no record yet".to_owned()),
            Err(error) => error,
        };
        match error {
            ReadError::Unusable(_) | ReadError::Replaced(_) => return Err(error.into()),
            ReadError::OutOfRange { .. } => return Err(PrepareError::Trimmed(error)),
            ReadError::Unavailable(_) => {}
            ReadError::Damaged(_) => {
                damaged += 1;
                if damaged >= DAMAGED_ATTEMPTS_MAX {
                    return Err(PrepareError::FirstRecord(error));
                }
            }
        }
        if let Some(omitted) = lines.admit(Instant::now()) {
            tracing::warn!(%error, omitted, "the first record of the replicated log can't be read at the moment");
        }
        sleep(RETRY_DELAY).await;
        reach(log).await?;
    }
}

/// Checks that the resume point of a directory belongs to the topic.
///
/// # Errors
/// [`PrepareError::NoResumePoint`] or [`PrepareError::OtherTopic`].
pub fn check_resume(resume: Option<ResumePoint>, facts: &TopicFacts) -> Result<ResumePoint, PrepareError> {
    let resume = resume.ok_or(PrepareError::NoResumePoint)?;
    if resume.topic_id == facts.topic_id {
        Ok(resume)
    } else {
        Err(PrepareError::OtherTopic)
    }
}

/// Connects to the log and asks for its topic, until it answers.
///
/// # Errors
/// [`ReadError::Unusable`].
pub async fn reach<L: PartitionLog>(log: &mut L) -> Result<TopicFacts, ReadError> {
    let lines = LogLimit::default();
    loop {
        let asked = match log.reconnect().await {
            Ok(()) => log.inspect().await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(facts) => return Ok(facts),
            Err(error @ (ReadError::Unusable(_) | ReadError::Replaced(_))) => return Err(error),
            Err(error) => {
                if let Some(omitted) = lines.admit(Instant::now()) {
                    tracing::warn!(%error, omitted, "waiting for the brokers of the replicated log");
                }
                sleep(RETRY_DELAY).await;
            }
        }
    }
}
