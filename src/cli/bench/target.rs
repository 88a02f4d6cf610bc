//! What is loaded: a service that is there, one of our own, or the echo server.

use std::{
    fs,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use thiserror::Error;
use tokio::time::Instant;

use super::BenchError;
use crate::{
    cli::Credentials,
    client::Connection,
    proto::{GetBatchStatsRequest, GetBatchStatsResponse, engine_service_client::EngineServiceClient},
};

/// The line by which a server says where it listens.
const LISTENING: &str = "listening on ";
/// `sysconf(_SC_CLK_TCK)` is 100 on every Linux that Tally runs on.
const TICKS_PER_SECOND: u64 = 100;
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A service that was told to end is asked so often whether it has ...
const END_POLL: Duration = Duration::from_millis(5);
/// ... and for no longer.
const END_TIME_MAX: Duration = Duration::from_secs(120);

/// Why there is nothing to load.
#[derive(Debug, Error)]
pub(super) enum TargetError {
    #[error("the server could not be started: {0}")]
    Start(#[from] io::Error),
    #[error("the server ended before it listened; its log is above")]
    Ended,
    #[error("the server of our own could not be stopped: {0}")]
    Stop(io::Error),
}

/// A server under load. One of our own is stopped when this is dropped.
#[derive(Debug)]
pub(super) struct Target {
    reach: Reach,
    child: Option<Child>,
    /// The data of a service of our own.
    data: Option<PathBuf>,
    /// Whether the data is removed at the end.
    temporary: bool,
}

/// How a server is reached.
#[derive(Debug, Clone)]
pub(super) struct Reach {
    endpoint: String,
    credentials: Credentials,
}

/// How a service of our own is made to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It is asked to.
    Terminate,
    /// It is not asked.
    Kill,
}

// ===== impl Reach =====

impl Reach {
    pub(super) async fn connect(&self) -> Result<Connection, BenchError> {
        self.credentials
            .connect(&self.endpoint, CONNECT_TIMEOUT)
            .await
            .map_err(BenchError::Told)
    }
}

// ===== impl Target =====

impl Target {
    pub(super) fn remote(endpoint: &str, credentials: &Credentials) -> Self {
        Target {
            reach: Reach {
                endpoint: endpoint.to_owned(),
                credentials: credentials.clone(),
            },
            child: None,
            data: None,
            temporary: false,
        }
    }

    /// A service of our own.
    pub(super) fn service(data: Option<&Path>) -> Result<Self, TargetError> {
        let temporary = std::env::temp_dir().join(format!("tally-bench-{}", std::process::id()));
        let directory = data.map_or(temporary, Path::to_path_buf);
        let (child, endpoint) = start(&mut serve(&directory)?)?;
        let mut target = Self::own(child, endpoint);
        target.temporary = data.is_none();
        target.data = Some(directory);
        Ok(target)
    }

    /// The echo server.
    pub(super) fn echo() -> Result<Self, TargetError> {
        let (child, endpoint) = start(Command::new(std::env::current_exe()?).arg("echo"))?;
        Ok(Self::own(child, endpoint))
    }

    fn own(child: Child, endpoint: String) -> Self {
        Target {
            reach: Reach {
                endpoint,
                credentials: Credentials::default(),
            },
            child: Some(child),
            data: None,
            temporary: false,
        }
    }

    /// Ends a service of our own and starts it again on the same data; says how long it took from its start until it
    /// listened, which it does when it has read its data. `None` if the service is not ours.
    pub(super) async fn restart(&mut self, end: End) -> Result<Option<Duration>, TargetError> {
        let (Some(child), Some(data)) = (&mut self.child, &self.data) else {
            return Ok(None);
        };
        match end {
            End::Terminate => {
                kill_process(Pid::from_child(child), Signal::TERM)
                    .map_err(|error| TargetError::Stop(error.into()))?;
            }
            End::Kill => child.kill().map_err(TargetError::Stop)?,
        }
        // Meanwhile our runtime closes the connections, for which the service waits.
        let patience = Instant::now() + END_TIME_MAX;
        while child.try_wait().map_err(TargetError::Stop)?.is_none() {
            if Instant::now() >= patience {
                return Err(TargetError::Stop(io::ErrorKind::TimedOut.into()));
            }
            tokio::time::sleep(END_POLL).await;
        }
        let begun = Instant::now();
        let (child, endpoint) = start(&mut serve(data)?)?;
        self.child = Some(child);
        self.reach.endpoint = endpoint;
        Ok(Some(begun.elapsed()))
    }

    pub(super) const fn reach(&self) -> &Reach {
        &self.reach
    }

    /// CPU time that a server of our own has taken so far.
    pub(super) fn cpu_time(&self) -> Option<Duration> {
        let stat = self.proc("stat")?;
        // The command in parentheses may hold anything; utime and stime are the 12th and 13th fields behind it.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        Some(Duration::from_millis(
            (user + system).saturating_mul(1000 / TICKS_PER_SECOND),
        ))
    }

    /// Memory that a server of our own holds.
    pub(super) fn rss_bytes(&self) -> Option<u64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }

    fn proc(&self, file: &str) -> Option<String> {
        let pid = self.child.as_ref()?.id();
        fs::read_to_string(format!("/proc/{pid}/{file}")).ok()
    }

    /// What the service says of itself.
    pub(super) async fn stats(&self) -> Result<GetBatchStatsResponse, BenchError> {
        let mut client = EngineServiceClient::new(self.reach.connect().await?);
        let stats = client.get_batch_stats(GetBatchStatsRequest {}).await;
        Ok(stats
            .map_err(|status| BenchError::Call {
                call: "GetBatchStats",
                status,
            })?
            .into_inner())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Its data is thrown away, or durable: there is nothing to lose.
            let _ended = child.kill();
            let _status = child.wait();
        }
        if let Some(directory) = self.data.as_ref().filter(|_| self.temporary) {
            let _gone = fs::remove_dir_all(directory);
        }
    }
}

fn serve(data: &Path) -> Result<Command, TargetError> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("serve").arg("--data").arg(data);
    Ok(command)
}

/// Starts a server and waits until it listens.
fn start(command: &mut Command) -> Result<(Child, String), TargetError> {
    let mut child = command
        .args(["--listen", "127.0.0.1:0"])
        .env("TALLY__TELEMETRY__LOG", "warn")
        // Its port may be taken by another service on this machine.
        .env("TALLY__ADMIN__ENABLED", "false")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().ok_or(TargetError::Ended)?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let address = line.trim().strip_prefix(LISTENING).ok_or(TargetError::Ended)?;
    Ok((child, format!("http://{address}")))
}
