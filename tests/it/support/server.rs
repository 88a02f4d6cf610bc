//! Runs the `tally` binary as a process. Tests call it over a real socket, kill it and restart it.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use tally::client::Client;
use tempfile::TempDir;

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_tally");

/// Maximum time until a server must listen. It is enough for a recovery in a debug build on a busy machine.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// Maximum time until a process must end.
const END_TIME_MAX: Duration = Duration::from_secs(60);
/// Maximum time until a message must appear on the standard error of a server.
const STDERR_WAIT_MAX: Duration = Duration::from_secs(60);
/// Interval at which standard error is checked for a message.
const STDERR_POLL: Duration = Duration::from_millis(5);
/// Interval of checks whether a process has ended.
const END_POLL: Duration = Duration::from_millis(5);
/// Number of lines of standard error that are kept for the report of a failure.
const KEPT_LINES_MAX: usize = 200;
/// The start of the line that the server prints when it accepts connections.
const LISTENING: &str = "listening on ";
/// The start of the line with the address of the operators' port. The server prints this line first.
const OPERATORS: &str = "operators on ";

/// Options for the start of a server.
#[derive(Debug, Clone)]
pub(crate) struct ServerOptions {
    listen: SocketAddr,
    env: Vec<(String, String)>,
    wrapper: Vec<String>,
    home: Option<PathBuf>,
}

/// A running server. Dropping this value kills the server.
#[derive(Debug)]
pub(crate) struct TestServer {
    child: Child,
    address: SocketAddr,
    admin: Option<SocketAddr>,
    options: ServerOptions,
    data: PathBuf,
    /// Removes the data directory when dropped.
    home: TempDir,
    stderr: StderrTail,
}

/// The last lines of a process's standard error, stored by the thread that reads them.
#[derive(Debug, Clone, Default)]
struct StderrTail(Arc<Mutex<VecDeque<String>>>);

// ===== impl ServerOptions =====

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            // The disk of a busy test machine can stall for longer than the default threshold. Tests of the circuits set their own
            // threshold.
            env: vec![("TALLY__BREAKER__SLOW_THRESHOLD".to_owned(), "10s".to_owned())],
            wrapper: Vec::new(),
            home: None,
        }
    }
}

impl ServerOptions {
    /// Adds an environment variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the server with another program, such as `taskset -c 1`. The other program must replace itself by the
    /// server with `exec`.
    pub(crate) fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Sets the address on which the server listens. The port 0 means any free port.
    pub(crate) fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// Sets the directory in which the temporary data directory is made.
    pub(crate) fn home(mut self, home: &Path) -> Self {
        self.home = Some(home.to_path_buf());
        self
    }

    /// Starts a server with a new data directory.
    pub(crate) fn start(self) -> TestServer {
        let home = match &self.home {
            Some(home) => tempfile::tempdir_in(home),
            None => tempfile::tempdir(),
        }
        .expect("a temporary directory");
        let data = home.path().join("data");
        let Spawned {
            child,
            address,
            admin,
            stderr,
        } = spawn(&self, &data);
        TestServer {
            child,
            address,
            admin,
            options: self,
            data,
            home,
            stderr,
        }
    }
}

// ===== impl TestServer =====

impl TestServer {
    /// Starts a server without options, with a new data directory and a free port.
    pub(crate) fn start() -> Self {
        ServerOptions::default().start()
    }

    /// Returns the URL for clients.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the address of the operators' port.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
            .expect("the server printed the address of its operators' port")
    }

    /// Makes a client with a connection to the server.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.endpoint())
            .await
            .expect("the server listens")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Returns the last lines of the server's standard error.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until the standard error of the server contains `what`. The wait is necessary, because a reply can arrive
    /// before the log line about the same event.
    pub(crate) async fn wait_for_stderr(&self, what: &str) {
        for _ in 0..STDERR_WAIT_MAX.as_millis() / STDERR_POLL.as_millis() {
            if self.stderr().contains(what) {
                return;
            }
            tokio::time::sleep(STDERR_POLL).await;
        }
        panic!("standard error does not contain {what:?}:\n{}", self.stderr());
    }

    /// Sends SIGKILL and waits until the process has ended.
    pub(crate) fn kill9(&mut self) -> ExitStatus {
        self.child.kill().expect("the process is a child of the test");
        self.wait()
    }

    /// Sends SIGTERM and does not wait.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Sends SIGHUP, after which the server reads certificates and tokens again.
    pub(crate) fn hangup(&self) {
        self.signal("-HUP");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.pid().to_string()])
            .status()
            .expect("the command kill runs");
        assert!(status.success(), "{signal} to {}", self.pid());
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the process has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for(&mut self.child, &self.stderr)
    }

    /// Starts another server process on the same data directory. The previous process must have ended.
    pub(crate) fn restart(&mut self) {
        assert!(
            self.child
                .try_wait()
                .expect("the process is a child of the test")
                .is_some(),
            "the previous server is still running"
        );
        let spawned = spawn(&self.options, &self.data);
        (self.child, self.address, self.admin) = (spawned.child, spawned.address, spawned.admin);
        self.stderr = spawned.stderr;
    }

    /// Does the same as [`restart`](Self::restart), with the previous address, so that clients can reconnect.
    pub(crate) fn restart_in_place(&mut self) {
        self.restart_at(self.address);
    }

    /// Does the same as [`restart`](Self::restart), with this address.
    pub(crate) fn restart_at(&mut self, address: SocketAddr) {
        let before = self.options.listen;
        self.options.listen = address;
        self.restart();
        self.options.listen = before;
    }

    /// Starts another server process on the same data directory, and sends SIGKILL to it after `time`. Returns whether
    /// the process ran until then. The previous process must have ended.
    pub(crate) fn start_and_kill(&self, time: Duration) -> bool {
        let mut child = command(&self.options, &self.data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        thread::sleep(time);
        let ended = child.try_wait().expect("the process is a child of the test");
        child.kill().expect("the process is a child of the test");
        child.wait().expect("the process is a child of the test");
        ended.is_none()
    }

    /// Sends SIGSTOP, which stops every thread of the process.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Sends SIGCONT, after which the process continues.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Runs another subcommand of the binary and waits until it has ended.
    pub(crate) fn tally(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary runs")
    }

    /// Checks that `tally verify` finds no error in the data directory. The server must have ended.
    pub(crate) fn assert_verified(&self) {
        let output = Command::new(BINARY)
            .arg("verify")
            .arg(&self.data)
            .output()
            .expect("the binary runs");
        let words = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(output.status.success(), "{words:?}");
    }

    /// Makes another subcommand of the binary that calls this server.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(args)
            .env("TALLY_ENDPOINT", self.endpoint())
            .stdin(Stdio::null());
        command
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        // Errors are ignored, because the process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!(
                "--- standard error of the server on {} ---\n{}",
                self.home.path().display(),
                self.stderr()
            );
        }
    }
}

// ===== impl StderrTail =====

impl StderrTail {
    /// Starts a thread that reads `stderr` and keeps its last lines.
    fn follow(&self, stderr: impl Read + Send + 'static) {
        let lines = self.0.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut lines = lines.lock();
                if lines.len() == KEPT_LINES_MAX {
                    lines.pop_front();
                }
                lines.push_back(line);
            }
        });
    }

    fn text(&self) -> String {
        self.0.lock().iter().map(|line| format!("{line}\n")).collect()
    }
}

/// A server that accepts connections.
struct Spawned {
    child: Child,
    address: SocketAddr,
    admin: Option<SocketAddr>,
    stderr: StderrTail,
}

/// Makes the command that starts a server.
fn command(options: &ServerOptions, data: &Path) -> Command {
    let words: Vec<&str> = options
        .wrapper
        .iter()
        .map(String::as_str)
        .chain([BINARY, "serve"])
        .collect();
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .arg("--data")
        .arg(data)
        .args(["--listen", &options.listen.to_string(), "--admin", "127.0.0.1:0"])
        .envs(options.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null());
    command
}

fn spawn(options: &ServerOptions, data: &Path) -> Spawned {
    let mut child = command(options, data)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let stderr = StderrTail::default();
    stderr.follow(child.stderr.take().expect("piped"));
    let stdout = BufReader::new(child.stdout.take().expect("piped"));
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut admin = None;
        for line in stdout.lines().map_while(Result::ok) {
            if let Some(address) = line.strip_prefix(OPERATORS) {
                admin = address.parse().ok();
            }
            if let Some(address) = line.strip_prefix(LISTENING) {
                // Only the first lines matter. This thread reads the rest, too, so that the server never blocks on a
                // full pipe.
                let _ = sender.try_send((address.to_owned(), admin));
            }
        }
    });
    let (address, admin) = match receiver.recv_timeout(START_TIME_MAX) {
        Ok((address, admin)) => (address.parse().expect("an address"), admin),
        Err(error) => {
            let _ = child.kill();
            let status = child.wait();
            panic!(
                "the server does not listen after {START_TIME_MAX:?} ({error}; {status:?}):\n{}",
                stderr.text()
            );
        }
    };
    Spawned {
        child,
        address,
        admin,
        stderr,
    }
}

fn wait_for(child: &mut Child, stderr: &StderrTail) -> ExitStatus {
    for _ in 0..END_TIME_MAX.as_millis() / END_POLL.as_millis() {
        if let Some(status) = child.try_wait().expect("the process is a child of the test") {
            return status;
        }
        thread::sleep(END_POLL);
    }
    panic!(
        "the process did not end within {END_TIME_MAX:?}:\n{}",
        stderr.text()
    );
}
