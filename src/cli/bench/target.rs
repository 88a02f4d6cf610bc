//! What is loaded: a service that is there, one of our own, or the echo server.

use std::{
    fs,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use thiserror::Error;
use tonic::transport::{Channel, Endpoint};

use crate::proto::{GetBatchStatsRequest, engine_service_client::EngineServiceClient};

/// The line by which a server says where it listens.
const LISTENING: &str = "listening on ";
/// `sysconf(_SC_CLK_TCK)` is 100 on every Linux that Tally runs on.
const TICKS_PER_SECOND: u64 = 100;
/// A window that a large batch fits.
const WINDOW_BYTES: u32 = 8 << 20;

/// Why there is nothing to load.
#[derive(Debug, Error)]
pub(super) enum TargetError {
    #[error("the server could not be started: {0}")]
    Start(#[from] io::Error),
    #[error("the server ended before it listened; its log is above")]
    Ended,
    #[error("the server can't be reached")]
    Connect(#[from] tonic::transport::Error),
}

/// A server under load. One of our own is stopped when this is dropped.
#[derive(Debug)]
pub(super) struct Target {
    endpoint: String,
    child: Option<Child>,
    /// Removed at the end.
    temporary: Option<PathBuf>,
}

// ===== impl Target =====

impl Target {
    pub(super) fn remote(endpoint: &str) -> Self {
        Target {
            endpoint: endpoint.to_owned(),
            child: None,
            temporary: None,
        }
    }

    /// A service of our own.
    pub(super) fn service(data: Option<&Path>) -> Result<Self, TargetError> {
        let temporary = std::env::temp_dir().join(format!("tally-bench-{}", std::process::id()));
        let data = data.map_or_else(|| temporary.clone(), Path::to_path_buf);
        let mut target = Self::start(
            Command::new(std::env::current_exe()?)
                .arg("serve")
                .arg("--data")
                .arg(&data),
        )?;
        target.temporary = (data == temporary).then_some(temporary);
        Ok(target)
    }

    /// The echo server.
    pub(super) fn echo() -> Result<Self, TargetError> {
        Self::start(Command::new(std::env::current_exe()?).arg("echo"))
    }

    fn start(command: &mut Command) -> Result<Self, TargetError> {
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
        Ok(Target {
            endpoint: format!("http://{address}"),
            child: Some(child),
            temporary: None,
        })
    }

    /// Where it is, and with windows that large batches fit.
    pub(super) fn endpoint(&self) -> Result<Endpoint, TargetError> {
        Ok(Endpoint::from_shared(self.endpoint.clone())?
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .tcp_nodelay(true))
    }

    pub(super) async fn connect(&self) -> Result<Channel, TargetError> {
        Ok(self.endpoint()?.connect().await?)
    }

    /// CPU time that a server of our own has taken so far.
    pub(super) fn cpu_time(&self) -> Option<Duration> {
        let pid = self.child.as_ref()?.id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command in parentheses may hold anything; utime and stime are the 12th and 13th fields behind it.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        Some(Duration::from_millis(
            (user + system).saturating_mul(1000 / TICKS_PER_SECOND),
        ))
    }

    /// What the service measured of writing and syncing a block.
    pub(super) async fn sync_p50(&self) -> Option<Duration> {
        let mut client = EngineServiceClient::new(self.connect().await.ok()?);
        let stats = client
            .get_batch_stats(GetBatchStatsRequest {})
            .await
            .ok()?
            .into_inner();
        stats.sync?.p50?.try_into().ok()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Its data is thrown away: there is nothing to lose.
            let _ended = child.kill();
            let _status = child.wait();
        }
        if let Some(directory) = &self.temporary {
            let _gone = fs::remove_dir_all(directory);
        }
    }
}
