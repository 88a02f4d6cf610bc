//! Runs the `tally` binary on a file system that the test freezes. The file system is an ext4 image that is mounted
//! through a loop device and frozen with `fsfreeze`. The test needs root and the permission to mount. Without them, it
//! prints that it did not run.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tally::proto::{
    CircuitState, CircuitStats, CreateAccountRequest, GetCircuitStatsRequest, ProcessTransactionsRequest,
    account_service_client::AccountServiceClient, engine_service_client::EngineServiceClient,
    transaction_service_client::TransactionServiceClient,
};
use tempfile::TempDir;
use tokio::{task::JoinSet, time::Instant};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt;

use crate::support::{
    in_process::{account, pay},
    server::{ServerOptions, TestServer},
};

/// Shell script that mounts the image, and then reads the commands `freeze` and `thaw`. Its input ends when the test
/// ends for any reason; then the script thaws and unmounts the file system. Before it freezes, it checks that the
/// directory is a mount point, so that it never freezes another file system.
const KEEPER: &str = r#"
set -u
mkfs.ext4 -q -F "$1" && mount -o loop "$1" "$2" || exit 1
echo mounted
while read -r word; do
    case $word in
        freeze) mountpoint -q "$2" && fsfreeze -f "$2" && echo frozen ;;
        thaw) fsfreeze -u "$2" && echo thawed ;;
    esac
done
fsfreeze -u "$2" 2>/dev/null
umount "$2" || umount -l "$2"
"#;
/// Size of the image in bytes. The space is enough for a few segments. The file is sparse.
const IMAGE_BYTES: u64 = 256 << 20;
/// Maximum time to wait for an expected state.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Pause between two checks for an expected state.
const POLL: Duration = Duration::from_millis(5);
/// Number of callers of `ProcessTransaction`, and number of callers of `ProcessTransactions`. Only the calls of
/// `ProcessTransactions` have a deadline: [`BULK_DEADLINE`].
const CALLERS: [usize; 2] = [24, 3];
/// Deadline of calls of `ProcessTransactions`. It is shorter than their slow threshold.
const BULK_DEADLINE: Duration = Duration::from_millis(700);
/// Number of answered calls before the disk hangs.
const CALLS_BEFORE: u64 = 3_000;

/// A mounted file system image. Dropping this value thaws and unmounts the file system, and removes the image.
struct LoopMount {
    /// The process of the shell script [`KEEPER`].
    keeper: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// The directory of the image and of the mount point. It is the last field, so it is removed last.
    home: TempDir,
}

impl LoopMount {
    /// Mounts a new file system. If mounting is not allowed, prints the reason and returns `None`.
    fn new() -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let (image, directory) = (home.path().join("image"), home.path().join("mount"));
        std::fs::File::create(&image)
            .unwrap()
            .set_len(IMAGE_BYTES)
            .unwrap();
        std::fs::create_dir(&directory).unwrap();
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .args([&image, &directory])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut answers = BufReader::new(keeper.stdout.take().unwrap());
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        if line != "mounted\n" {
            let output = keeper.wait_with_output().unwrap();
            did_not_run(&String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Some(LoopMount {
            commands: keeper.stdin.take(),
            answers,
            keeper,
            home,
        })
    }

    fn directory(&self) -> PathBuf {
        self.home.path().join("mount")
    }

    /// Sends a command to the shell script, and checks its answer.
    fn command(&mut self, word: &str, answer: &str) {
        writeln!(self.commands.as_mut().unwrap(), "{word}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), answer);
    }

    /// Freezes the file system until the returned value is dropped.
    fn freeze(&mut self) -> Freeze<'_> {
        self.command("freeze", "frozen");
        Freeze(self)
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        self.commands = None;
        let _ = self.keeper.wait();
    }
}

/// Thaws the file system when it is dropped.
struct Freeze<'a>(&'a mut LoopMount);

impl Drop for Freeze<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The thaw is necessary after a panic, too, because a process that waits for the disk can be killed only
            // after the thaw. The result is ignored, because the panic is reported already.
            let _ = writeln!(self.0.commands.as_mut().unwrap(), "thaw");
        } else {
            self.0.command("thaw", "thawed");
        }
    }
}

/// Prints that the test did not run. Writes directly to standard error, because the test harness hides the output of
/// `println!` if a test passes.
fn did_not_run(reason: &str) {
    let text = format!("\nfrozen_disk: DID NOT RUN, a file system can't be mounted here: {reason}\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

/// Callers that make calls until [`Load::stop`]. Each caller makes one call after the other.
struct Load {
    callers: JoinSet<()>,
    counts: &'static CallCounts,
}

#[derive(Debug, Default)]
struct CallCounts {
    stopped: AtomicBool,
    answered: AtomicU64,
    rejected: AtomicU64,
    expired: AtomicU64,
}

impl Load {
    fn start(client: &TransactionServiceClient<Channel>) -> Self {
        let counts: &'static CallCounts = Box::leak(Box::default());
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS.iter().sum() {
            let mut client = client.clone();
            let is_bulk = caller >= CALLERS[0];
            callers.spawn(async move {
                for call in 0_u64.. {
                    if counts.stopped.load(Ordering::Acquire) {
                        break;
                    }
                    let transaction = pay(&format!("{caller}:{call}"));
                    let answer = if is_bulk {
                        let transactions = vec![transaction];
                        let mut request = Request::new(ProcessTransactionsRequest { transactions });
                        request.set_timeout(BULK_DEADLINE);
                        client.process_transactions(request).await.map(drop)
                    } else {
                        client.process_transaction(transaction).await.map(drop)
                    };
                    counts.count(answer).await;
                }
            });
        }
        Load { callers, counts }
    }

    async fn stop(mut self) {
        self.counts.stopped.store(true, Ordering::Release);
        while let Some(caller) = self.callers.join_next().await {
            caller.unwrap();
        }
    }
}

impl CallCounts {
    async fn count(&self, answer: Result<(), Status>) {
        let counter = match answer {
            Ok(()) => &self.answered,
            Err(status) if is_circuit_open(&status) => {
                tokio::time::sleep(POLL).await;
                &self.rejected
            }
            Err(status) if matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) => &self.expired,
            Err(status) => panic!("{status:?}"),
        };
        counter.fetch_add(1, Ordering::AcqRel);
    }
}

fn is_circuit_open(status: &Status) -> bool {
    let reason = status.get_details_error_info().map(|info| info.reason);
    reason.as_deref() == Some("CIRCUIT_OPEN")
}

/// Polls until `condition` returns true.
async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < WAIT_MAX, "{what}: not within {WAIT_MAX:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// Returns the statistics of the circuits of `ProcessTransaction` and `ProcessTransactions`.
async fn circuits(stats: &EngineServiceClient<Channel>) -> Vec<CircuitStats> {
    let response = stats.clone().get_circuit_stats(GetCircuitStatsRequest {}).await;
    let mut circuits = response.unwrap().into_inner().circuits;
    circuits.truncate(CALLERS.len());
    circuits
}

fn start(home: &Path) -> TestServer {
    ServerOptions::default()
        .home(home)
        .env("TALLY__STORE__SEGMENT_BYTES", "8MiB")
        .env("TALLY__STORE__BLOCK_BYTES_MAX", "2MiB")
        // Commits on a healthy disk take less than this threshold even on a busy machine.
        .env("TALLY__BREAKER__SLOW_THRESHOLD", "1s")
        .env(
            "TALLY__BREAKER__METHODS__PROCESSTRANSACTIONS__SLOW_THRESHOLD",
            "1s",
        )
        // The window is longer than the test. So the fast calls before the freeze stay in the window, and the circuits
        // must open in spite of them.
        .env("TALLY__BREAKER__BUCKET", "60s")
        .env("TALLY__BREAKER__WINDOW_BUCKETS", "60")
        .env("TALLY__BREAKER__OPEN_BASE", "300ms")
        .env("TALLY__BREAKER__OPEN_MAX", "300ms")
        .env("TALLY__BREAKER__RAMP", "300ms")
        .start()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_file_system_opens_the_circuits_and_a_thawed_one_closes_them() {
    let Some(mut mount) = LoopMount::new() else {
        return;
    };
    let mut server = start(&mount.directory());
    let channel = Channel::from_shared(server.endpoint())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let stats = EngineServiceClient::new(channel.clone());
    for id in ["a", "b"] {
        let account = Some(account(id));
        let mut accounts = AccountServiceClient::new(channel.clone());
        accounts
            .create_account(CreateAccountRequest { account })
            .await
            .unwrap();
    }
    let load = Load::start(&TransactionServiceClient::new(channel));
    until("calls are answered", async || {
        load.counts.answered.load(Ordering::Acquire) >= CALLS_BEFORE
    })
    .await;
    for circuit in circuits(&stats).await {
        assert_eq!(
            circuit.totals.unwrap().opens,
            0,
            "{}: the disk is healthy",
            circuit.key
        );
    }

    let freeze = mount.freeze();
    let frozen = Instant::now();
    until("the circuits open while the disk is frozen", async || {
        circuits(&stats)
            .await
            .iter()
            .all(|circuit| circuit.totals.as_ref().unwrap().opens > 0)
    })
    .await;
    println!("both circuits open {:?} after the freeze", frozen.elapsed());
    for circuit in circuits(&stats).await {
        assert_eq!(circuit.history[0].reason, "overdue", "{}", circuit.key);
    }
    let rejected = load.counts.rejected.load(Ordering::Acquire);
    until("callers are rejected", async || {
        load.counts.rejected.load(Ordering::Acquire) > rejected
    })
    .await;
    drop(freeze);

    until("the circuits close", async || {
        circuits(&stats)
            .await
            .iter()
            .all(|circuit| circuit.effective_state() == CircuitState::Closed)
    })
    .await;
    let answered = load.counts.answered.load(Ordering::Acquire);
    until("calls are answered again", async || {
        load.counts.answered.load(Ordering::Acquire) >= answered + 100
    })
    .await;
    println!("{:?}", load.counts);
    load.stop().await;
    server.terminate();
    assert!(server.wait().success());
    server.assert_verified();
}
