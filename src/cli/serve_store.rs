//! Opens the data directory and starts the engine of `tally serve`, on a separate thread: the recovery of a large journal takes
//! long, and a signal must be able to end the service meanwhile.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tally_journal::RealDisk;
use tally_topology::{CpuAffinityManager, Role};
use tokio::sync::oneshot;

use super::{
    serve_error::ServeError,
    serve_replica::{self, StartedReplica},
};
use crate::{
    engine::{EngineConfig, TallyEngine},
    store::{
        embedded::{self, RecoveryReport},
        replicated::ReplicatedConfig,
    },
    telemetry::millis,
    terminal::without_error_numbers,
    wall_clock::SystemWallClock,
};

/// Maximum number of foreign files that the log names.
const FOREIGN_FILES_SHOWN_MAX: usize = 8;

/// Which store to open.
#[derive(Debug)]
pub(super) struct StoreToOpen {
    pub(super) engine: EngineConfig,
    /// The path of the data directory.
    pub(super) data: PathBuf,
    /// The settings of a replicated store; `None` for the embedded store.
    pub(super) replicated: Option<ReplicatedConfig>,
    /// The files of the certificate and the key that this replica presents to the others, if they ask for them.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

/// Starts the engine. Returns `None` if `stop` completes first. Then the thread runs until the process exits. This is safe, as a
/// crash is: the next start repeats the recovery.
///
/// # Errors
/// [`ServeError`].
pub(super) async fn start(
    store: StoreToOpen,
    affinity: &CpuAffinityManager,
    stop: impl Future<Output = ()>,
) -> Result<Option<(TallyEngine, Option<StartedReplica>)>, ServeError> {
    let (data, placement) = (store.data.clone(), affinity.clone());
    let (report, started) = oneshot::channel();
    let thread = affinity.spawn(Role::Aux, 3, "tally-start", move || {
        let engine = store.open(&placement);
        // If `stop` completed first, the receiver was dropped and nobody needs the engine.
        let _received = report.send(engine);
    })?;
    let Some(started) = until(started, stop).await else {
        return Ok(None);
    };
    let (engine, replica) = match (started, thread.join()) {
        (Ok(engine), Ok(())) => engine?,
        (_, Err(panic)) => std::panic::resume_unwind(panic),
        (Err(_), Ok(())) => panic!("the thread that starts the engine ended without a result"),
    };
    log_recovery(&data, engine.recovery());
    warn_of_foreign_files(&data);
    Ok(Some((engine, replica)))
}

// ===== impl StoreToOpen =====

impl StoreToOpen {
    fn open(
        &self,
        affinity: &CpuAffinityManager,
    ) -> Result<(TallyEngine, Option<StartedReplica>), ServeError> {
        let StoreToOpen {
            engine,
            data,
            replicated,
            identity,
        } = self;
        match replicated {
            Some(config) => {
                let (engine, replica) =
                    serve_replica::open(engine, config, data, identity.clone(), affinity)?;
                Ok((engine, Some(replica)))
            }
            None => {
                let clock = Arc::new(SystemWallClock);
                let engine = TallyEngine::start(engine, Arc::new(RealDisk), data, clock, affinity)?;
                Ok((engine, None))
            }
        }
    }
}

/// Returns the result of `work`, or `None` if `stop` completes first. If both are complete, returns the result of `work`, so that
/// the caller stops the engine in order.
async fn until<T>(work: impl Future<Output = T>, stop: impl Future<Output = ()>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = stop => None,
    }
}

/// Logs how the store was opened. A field whose value is not known is absent.
fn log_recovery(data: &Path, report: &RecoveryReport) {
    tracing::info!(
        data = %data.display(),
        created = report.created,
        checkpoint_block = report.checkpoint,
        blocks_replayed = report.blocks_replayed,
        entries_replayed = report.entries_replayed,
        torn_tail = report.torn_tail,
        elapsed_ms = millis(report.elapsed),
        "store opened"
    );
}

/// Warns of files that do not belong to the data directory: a backup copied to a wrong place, or notes.
fn warn_of_foreign_files(data: &Path) {
    match embedded::foreign_files(&RealDisk, data) {
        Ok(files) if files.is_empty() => {}
        Ok(files) => {
            let shown: Vec<_> = files
                .iter()
                .take(FOREIGN_FILES_SHOWN_MAX)
                .map(String::as_str)
                .collect();
            tracing::warn!(
                data = %data.display(),
                files = shown.join(", "),
                count = files.len(),
                "the data directory has files that do not belong to it, and that are never read; move them away"
            );
        }
        Err(error) => {
            let error = without_error_numbers(error.to_string());
            tracing::warn!(error, "the files of the data directory could not be listed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that a stop does not wait for the start: recovery can take minutes, and a disk can hang.
    #[tokio::test]
    async fn a_signal_ends_a_start_that_does_not_end() {
        let (signal, received) = oneshot::channel::<()>();
        let stop = async { received.await.unwrap() };
        signal.send(()).unwrap();
        assert_eq!(until(std::future::pending::<()>(), stop).await, None);
        assert_eq!(until(async { 7 }, std::future::pending()).await, Some(7));
    }
}
