//! `tally circuit watch`: prints a line for every change of a circuit. Connects again when the service restarts.

use std::time::Duration;

use tonic::Status;

use super::{
    select::select,
    text::{Printed, now_text},
};
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
    /// Whether the service has ever sent a snapshot. Until then, the endpoint may be wrong, so a lost connection is an error.
    is_service: bool,
    /// Whether the current connection has delivered a snapshot.
    connected: bool,
    /// The delays between attempts to connect again, since the last snapshot.
    backoff: Backoff,
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
        is_service: false,
        connected: false,
        backoff: Backoff::default(),
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
                // An attempt that connects to the port but gets no snapshot is not reported: the line that reported the loss is still true.
                if std::mem::take(&mut view.connected) {
                    errln!(
                        "tally: {}  lost the connection to {}: {why}; connecting again",
                        now_text(),
                        config.endpoints_text()
                    );
                }
                engine = tokio::select! {
                    engine = reconnect(&config, &mut view.backoff) => engine?,
                    () = reader_gone() => return Ok(()),
                };
                // A restarted service counts its changes from the beginning, so the counts printed so far do not apply.
                view.printed = Printed::default();
            }
        }
    }
}

/// Tries to connect until an attempt succeeds.
async fn reconnect(config: &ClientConfig, backoff: &mut Backoff) -> Result<Engine, Failure> {
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
            Ok(Err(status)) => return self.ended(engine, &status),
            Err(_elapsed) => return self.cut(engine, &Fault::TimedOut(Some(TIMEOUT))),
        };
        loop {
            match next {
                Ok(Some(snapshot)) => {
                    self.note_connection(&engine.config);
                    if let Err(failure) = self.print(snapshot) {
                        return End::Failed(failure);
                    }
                    if stdout_failure().is_some() {
                        return End::NoReader;
                    }
                }
                Ok(None) if self.is_service => return End::Lost("the service ended the call".to_owned()),
                Ok(None) => return self.cut(engine, &Fault::Closed),
                Err(status) => return self.ended(engine, &status),
            }
            next = snapshots.message().await;
        }
    }

    /// Returns the end of a call that failed with `status`. Before the first snapshot, every failure is final.
    fn ended(&self, engine: &Engine, status: &Status) -> End {
        if self.is_service && is_lost(status) {
            End::Lost(Fault::of_call(status).to_string())
        } else {
            End::Failed(engine.failure(status))
        }
    }

    /// Returns the end of a call that `fault` cut off without a status. Before the first snapshot, the fault is final.
    fn cut(&self, engine: &Engine, fault: &Fault) -> End {
        if self.is_service {
            End::Lost(fault.to_string())
        } else {
            End::Failed(engine.faulty(fault))
        }
    }

    /// Notes that the connection has delivered a snapshot. Prints a line if the previous connection was lost.
    fn note_connection(&mut self, config: &ClientConfig) {
        if self.is_service && !self.connected {
            errln!(
                "tally: {}  connected to {} again",
                now_text(),
                config.endpoints_text()
            );
        }
        self.is_service = true;
        self.connected = true;
        self.backoff = Backoff::default();
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
