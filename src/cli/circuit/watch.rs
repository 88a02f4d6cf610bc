//! `tally circuit watch`: prints a line for every change of a circuit. Connects again when the service restarts.

use std::time::Duration;

use tonic::Status;

use super::{select::select, text::Printed};
use crate::{
    cli::{
        client_args::{Engine, TIMEOUT},
        exit::{self, Failure},
        output::{OutputFormat, json_line},
        reconnect::{AttemptError, Backoff, attempt, is_lost},
    },
    client::{ClientConfig, Fault},
    proto::{WatchCircuitStatsRequest, WatchCircuitStatsResponse},
    sys::stdout::reader_gone,
    terminal::{errln, outln, stdout_failure},
};

/// What `tally circuit watch` prints.
struct View<'a> {
    /// The circuit to print; empty for all circuits.
    key: &'a str,
    output: OutputFormat,
    request: WatchCircuitStatsRequest,
    printed: Printed,
}

/// Why a stream of snapshots ended.
enum End {
    /// Nobody reads standard output any more.
    NoReader,
    /// The connection was lost, or the service stops. The text says why.
    Lost(String),
    /// The service rejected the call.
    Failed(Failure),
}

/// Prints changes until standard output has no reader, or the service rejects the call.
pub(super) async fn watch(
    config: ClientConfig,
    key: &str,
    output: OutputFormat,
    interval: Option<Duration>,
) -> Result<(), Failure> {
    let interval = interval
        .map(prost_types::Duration::try_from)
        .transpose()
        .map_err(|error| Failure::new(exit::USAGE, &error))?;
    let mut view = View {
        key,
        output,
        request: WatchCircuitStatsRequest { interval },
        printed: Printed::default(),
    };
    let mut engine = Engine::connect(config.clone()).await?;
    loop {
        let end = tokio::select! {
            end = view.follow(&mut engine) => end,
            () = reader_gone() => End::NoReader,
        };
        match end {
            End::NoReader => return Ok(()),
            End::Failed(failure) => return Err(failure),
            End::Lost(why) => {
                errln!(
                    "tally: lost the connection to {}: {why}; connecting again",
                    config.endpoint
                );
                engine = tokio::select! {
                    engine = reconnect(&config) => engine?,
                    () = reader_gone() => return Ok(()),
                };
                errln!("tally: connected to {} again", config.endpoint);
                // A restarted service counts its changes from the beginning, so the counts printed so far do not apply.
                view.printed = Printed::default();
            }
        }
    }
}

/// Tries to connect until an attempt succeeds.
async fn reconnect(config: &ClientConfig) -> Result<Engine, Failure> {
    let mut backoff = Backoff::default();
    loop {
        tokio::time::sleep(backoff.next()).await;
        match attempt(config).await {
            Ok(engine) => return Ok(engine),
            Err(AttemptError::Unreachable(_)) => {}
            Err(AttemptError::Final(failure)) => return Err(failure),
        }
    }
}

// ===== impl View =====

impl View<'_> {
    /// Prints the changes that the service sends, until the stream ends.
    async fn follow(&mut self, engine: &mut Engine) -> End {
        let ended = |engine: &Engine, status: &Status| {
            if is_lost(status) {
                End::Lost(Fault::of_call(status).to_string())
            } else {
                End::Failed(engine.failure(status))
            }
        };
        // The service sends the first snapshot at once, so a service that sends nothing for this time is not a Tally service,
        // or does not work. Later snapshots have no deadline, because they follow changes.
        let first = async {
            let mut snapshots = engine
                .client
                .watch_circuit_stats(self.request)
                .await?
                .into_inner();
            let snapshot = snapshots.message().await;
            Ok((snapshots, snapshot))
        };
        let (mut snapshots, mut next) = match tokio::time::timeout(TIMEOUT, first).await {
            Ok(Ok(first)) => first,
            Ok(Err(status)) => return ended(engine, &status),
            Err(_elapsed) => return End::Failed(engine.unanswered()),
        };
        loop {
            match next {
                Ok(Some(snapshot)) => {
                    if let Err(failure) = self.print(snapshot) {
                        return End::Failed(failure);
                    }
                    if stdout_failure().is_some() {
                        return End::NoReader;
                    }
                }
                Ok(None) => return End::Lost("the service ended the call".to_owned()),
                Err(status) => return ended(engine, &status),
            }
            next = snapshots.message().await;
        }
    }

    fn print(&mut self, mut snapshot: WatchCircuitStatsResponse) -> Result<(), Failure> {
        snapshot.circuits = select(snapshot.circuits, self.key)?;
        if self.output == OutputFormat::Json {
            outln!("{}", json_line("WatchCircuitStatsResponse", &snapshot)?);
            return Ok(());
        }
        let always = self.request.interval.is_some();
        for line in self
            .printed
            .lines(&snapshot.circuits, snapshot.snapshot_time, always)
        {
            outln!("{line}");
        }
        Ok(())
    }
}
