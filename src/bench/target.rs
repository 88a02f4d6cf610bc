//! The server under load: a running service, a service that the benchmark starts, or the echo server.

use std::{
    fs,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;
use tonic::{Request, Status};

use super::error::BenchError;
use crate::{
    client::{ClientConfig, Connection},
    proto::{GetBatchStatsRequest, GetBatchStatsResponse, engine_service_client::EngineServiceClient},
};

/// Start of the line in which a server prints its address.
const LISTENING: &str = "listening on ";
/// Clock ticks per second in `/proc/PID/stat`. `sysconf(_SC_CLK_TCK)` is 100 on every Linux that Tally runs on.
const TICKS_PER_SECOND: u64 = 100;
/// Longest time to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time to wait for the answer of a call that prepares or reads the service. The creation of 1000 accounts on a slow disk
/// is the longest of these calls.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two checks whether a server has stopped.
const STOP_POLL: Duration = Duration::from_millis(5);
/// Longest time to wait for a server to stop.
const STOP_TIME_MAX: Duration = Duration::from_secs(120);

/// A server under load. Dropping this value kills a server that the benchmark started.
#[derive(Debug)]
pub(super) struct Target {
    kind: TargetKind,
    client: ClientConfig,
    /// The process of a server that the benchmark started.
    child: Option<Child>,
    /// The data directory of that process. Dropped after the process was killed.
    data: Option<DataDirectory>,
}

/// The data directory of a service that the benchmark starts. Dropping this value removes a temporary directory.
#[derive(Debug)]
struct DataDirectory {
    path: PathBuf,
    temporary: bool,
}

/// The API of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TargetKind {
    /// The service.
    Service,
    /// The echo server.
    Echo,
}

/// Connects to the server at `client`.
pub(super) async fn connect(client: &ClientConfig) -> Result<Connection, BenchError> {
    Ok(client.connect(CONNECT_TIMEOUT).await?)
}

/// Returns a request that fails if no answer arrives within [`CALL_TIMEOUT`].
pub(super) fn in_time<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// Returns the error of a call whose request was made by [`in_time`].
pub(super) const fn call_failed(call: &'static str, status: Status) -> BenchError {
    BenchError::Call {
        call,
        status,
        timeout: Some(CALL_TIMEOUT),
    }
}

// ===== impl Target =====

impl Target {
    /// Returns the target for a service that already runs.
    pub(super) const fn remote(client: ClientConfig) -> Self {
        Self::new(TargetKind::Service, client, None)
    }

    const fn new(kind: TargetKind, client: ClientConfig, child: Option<Child>) -> Self {
        Target {
            kind,
            client,
            child,
            data: None,
        }
    }

    /// Starts a service on `data`, or on a temporary directory.
    pub(super) fn start_service(data: Option<&Path>) -> Result<Self, BenchError> {
        let data = DataDirectory::new(data)?;
        let arguments: [&Path; 3] = ["serve".as_ref(), "--data".as_ref(), &data.path];
        let mut target = Self::start(TargetKind::Service, &arguments)?;
        target.data = Some(data);
        Ok(target)
    }

    /// Starts the echo server.
    pub(super) fn start_echo() -> Result<Self, BenchError> {
        Self::start(TargetKind::Echo, &["echo".as_ref()])
    }

    fn start(kind: TargetKind, arguments: &[&Path]) -> Result<Self, BenchError> {
        let (child, endpoint) = start(arguments)?;
        Ok(Self::new(kind, ClientConfig::plain(&endpoint), Some(child)))
    }

    /// Sends `signal` to a service that the benchmark started, and starts the service again on the same data. Returns the time from
    /// the second start until the service listens, which it does after it has read its data. Returns `None` for a remote service.
    pub(super) async fn restart(&mut self, signal: Signal) -> Result<Option<Duration>, BenchError> {
        let (Some(child), Some(data)) = (&mut self.child, &self.data) else {
            return Ok(None);
        };
        kill_process(Pid::from_child(child), signal).map_err(|error| BenchError::Stop(error.into()))?;
        // The service waits for its connections to close. The runtime closes them while this function sleeps.
        let deadline = Instant::now() + STOP_TIME_MAX;
        while child.try_wait().map_err(BenchError::Stop)?.is_none() {
            if Instant::now() >= deadline {
                return Err(BenchError::Stop(io::ErrorKind::TimedOut.into()));
            }
            tokio::time::sleep(STOP_POLL).await;
        }
        let begun = Instant::now();
        let (child, endpoint) = start(&["serve".as_ref(), "--data".as_ref(), &data.path])?;
        self.child = Some(child);
        self.client.endpoints = vec![endpoint];
        Ok(Some(begun.elapsed()))
    }

    pub(super) const fn kind(&self) -> TargetKind {
        self.kind
    }

    /// Returns the configuration of a client of the server.
    pub(super) const fn client(&self) -> &ClientConfig {
        &self.client
    }

    /// Returns the CPU time, user and system, of a server that the benchmark started.
    pub(super) fn cpu_time(&self) -> Option<Duration> {
        let stat = self.proc("stat")?;
        // The command name in parentheses may contain any characters, so the fields are counted after the last
        // parenthesis. utime and stime are the 12th and 13th fields after it.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        Some(Duration::from_millis(
            (user + system).saturating_mul(1000 / TICKS_PER_SECOND),
        ))
    }

    /// Returns the resident memory of a server that the benchmark started.
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

    /// Calls `GetBatchStats`.
    pub(super) async fn stats(&self) -> Result<GetBatchStatsResponse, BenchError> {
        let mut client = EngineServiceClient::new(connect(&self.client).await?);
        let stats = client.get_batch_stats(in_time(GetBatchStatsRequest {})).await;
        Ok(stats
            .map_err(|status| call_failed("GetBatchStats", status))?
            .into_inner())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Killing the process loses nothing: its data is durable, or the data is removed next.
            end(child);
        }
    }
}

// ===== impl DataDirectory =====

impl DataDirectory {
    /// Returns the directory `path`, or a new name in the directory for temporary files.
    ///
    /// # Errors
    /// [`BenchError::Usage`] if the directory exists. The benchmark fills the directory and kills the service, so the directory must
    /// not be somebody's ledger.
    fn new(path: Option<&Path>) -> Result<Self, BenchError> {
        let temporary = || std::env::temp_dir().join(format!("tally-bench-{}", std::process::id()));
        let directory = path.map_or_else(temporary, Path::to_path_buf);
        if directory.exists() {
            let existing = directory.display();
            return Err(BenchError::Usage(format!(
                "{existing} exists; the benchmark fills its data directory, so name a directory that does not exist with --data"
            )));
        }
        Ok(DataDirectory {
            path: directory,
            temporary: path.is_none(),
        })
    }
}

impl Drop for DataDirectory {
    fn drop(&mut self) {
        if self.temporary {
            // A failure is ignored, because the directory may not exist yet.
            let _removed = fs::remove_dir_all(&self.path);
        }
    }
}

/// Kills a process and waits for its end.
fn end(child: &mut Child) {
    let _killed = child.kill();
    let _status = child.wait();
}

/// Starts this program with `arguments` and waits until it listens. Returns its endpoint.
fn start(arguments: &[&Path]) -> Result<(Child, String), BenchError> {
    let program = std::env::current_exe().map_err(BenchError::Start)?;
    let mut child = Command::new(program)
        .args(arguments)
        .args(["--listen", "127.0.0.1:0"])
        .env("TALLY__TELEMETRY__LOG", "warn")
        // Another service on this machine may use the operators' port, so this service does not open the port.
        .env("TALLY__ADMIN__ENABLED", "false")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(BenchError::Start)?;
    match endpoint(&mut child) {
        Ok(endpoint) => Ok((child, endpoint)),
        Err(error) => {
            end(&mut child);
            Err(error)
        }
    }
}

/// Waits until a server listens, and returns its endpoint.
fn endpoint(child: &mut Child) -> Result<String, BenchError> {
    let stdout = child.stdout.take().ok_or(BenchError::Exited)?;
    let mut line = String::new();
    BufReader::new(stdout)
        .read_line(&mut line)
        .map_err(BenchError::Start)?;
    let address = line.trim().strip_prefix(LISTENING).ok_or(BenchError::Exited)?;
    Ok(format!("http://{address}"))
}
