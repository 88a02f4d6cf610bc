//! Prepares the data directory of a replica, before the engine opens it.

use std::{path::Path, sync::Arc, time::Duration};

use tally_journal::{ChainPoint, Disk, Genesis, GenesisDefect, Journal, JournalError};
use thiserror::Error;
use tokio::time::{Instant, sleep};

use super::publish::{PublishError, check_topic, first_record};
use crate::{
    store::{
        embedded::{OpenError, is_data_directory},
        replicated::{PartitionLog, ReadError, ResumeFiles, ResumePoint, TopicFacts},
    },
    telemetry::LogLimit,
};

/// Delay between two attempts to reach the log.
const RETRY_DELAY: Duration = Duration::from_millis(250);

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
    /// The topic is empty.
    #[error(
        "the topic is empty: make the replicated ledger with `tally replica init` on one replica, and start this one again"
    )]
    Empty,
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
/// does not exist. Returns what the log says about the topic.
///
/// # Errors
/// [`PrepareError`]. A log that can't be reached is not an error: the function waits.
pub async fn prepare<L: PartitionLog>(
    log: &mut L,
    disk: Arc<dyn Disk>,
    path: &Path,
    accept_unsafe: bool,
) -> Result<TopicFacts, PrepareError> {
    let mut facts = reach(log).await?;
    check_topic(&facts, accept_unsafe)?;
    if is_data_directory(&*disk, path)? {
        return Ok(facts);
    }
    if facts.end_offset == 0 {
        return Err(PrepareError::Empty);
    }
    let genesis = loop {
        match first_record(log).await {
            Ok(Some(first)) => break Genesis::decode(&first)?,
            // The broker that leads since a moment ago may not show yet what the log has.
            Ok(None) => sleep(RETRY_DELAY).await,
            Err(error @ (ReadError::Unusable(_) | ReadError::Replaced(_) | ReadError::OutOfRange { .. })) => {
                return Err(error.into());
            }
            Err(ReadError::Unavailable(_) | ReadError::Damaged(_)) => {
                facts = reach(log).await?;
            }
        }
    };
    let journal = Journal::create_replica(disk, path, &genesis)?;
    let resume = ResumePoint::beginning(facts.topic_id, &genesis.start().previous_hash);
    ResumeFiles::open(journal.directory())?.write(&resume)?;
    tracing::info!(data = %path.display(), "made the data directory of a new replica from the first record of the log");
    Ok(facts)
}

/// Returns where the replica with a directory whose journal ends at `end` continues to read the log of the topic.
///
/// # Errors
/// [`PrepareError::NoResumePoint`] or [`PrepareError::OtherTopic`].
pub fn check_resume(
    resume: Option<ResumePoint>,
    end: &ChainPoint,
    facts: &TopicFacts,
) -> Result<ResumePoint, PrepareError> {
    match resume {
        Some(resume) if resume.topic_id == facts.topic_id => Ok(resume),
        Some(_) => Err(PrepareError::OtherTopic),
        // The process that made the directory has ended before it wrote the first resume point.
        None if end.last_block_sequence() == 0 => {
            Ok(ResumePoint::beginning(facts.topic_id, &end.previous_hash))
        }
        None => Err(PrepareError::NoResumePoint),
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
