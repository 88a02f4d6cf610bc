//! The real binary on a frozen file system: an ext4 image, mounted through a loop device and frozen with `fsfreeze`. The test
//! needs root and the permission to mount. Without these, it prints that it did not run.

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

/// Shell script that mounts the image, and freezes and thaws the mount on the commands that it reads. At the end of its input, when
/// the test has ended for any reason, it thaws and unmounts. It checks that the directory is a mount point before it freezes, so
/// that it never freezes another file system.
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
/// Size of the image: space for a few segments. The file is sparse.
const IMAGE_BYTES: u64 = 256 << 20;
/// Longest time to wait for an expected state.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
/// Number of callers of `ProcessTransaction`, and of `ProcessTransactions`. The latter give up after [`BULK_PATIENCE`].
const CALLERS: [usize; 2] = [24, 3];
/// Deadline of bulk calls, shorter than their slow threshold.
const BULK_PATIENCE: Duration = Duration::from_millis(700);
/// Number of answered calls before the disk hangs.
const CALLS_BEFORE: u64 = 3_000;

/// A mounted file system image. Dropping it thaws and unmounts the file system, and removes the image.
struct LoopMount {
    keeper: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Holds the image and the mount point; removed last.
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
            orders: keeper.stdin.take(),
            answers,
            keeper,
            home,
        })
    }

    fn directory(&self) -> PathBuf {
        self.home.path().join("mount")
    }

    fn order(&mut self, word: &str, answer: &str) {
        writeln!(self.orders.as_mut().unwrap(), "{word}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), answer);
    }

    /// Freezes the file system until the returned value is dropped.
    fn freeze(&mut self) -> Freeze<'_> {
        self.order("freeze", "frozen");
        Freeze(self)
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.keeper.wait();
    }
}

struct Freeze<'a>(&'a mut LoopMount);

impl Drop for Freeze<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Ignore the result. Processes that wait for the disk can be killed only after the thaw, so it is always requested.
            let _ = writeln!(self.0.orders.as_mut().unwrap(), "thaw");
        } else {
            self.0.order("thaw", "thawed");
        }
    }
}

/// Prints that the test did not run. Writes to standard error directly, because the test harness hides the output of passing tests.
fn did_not_run(reason: &str) {
    let text = format!("\nfrozen_disk: DID NOT RUN, a file system can't be mounted here: {reason}\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

/// Callers that each make one call after the other until [`Load::stop`].
struct Load {
    callers: JoinSet<()>,
    tally: &'static Tally,
}

#[derive(Debug, Default)]
struct Tally {
    stopped: AtomicBool,
    answered: AtomicU64,
    refused: AtomicU64,
    expired: AtomicU64,
}

impl Load {
    fn start(client: &TransactionServiceClient<Channel>) -> Self {
        let tally: &'static Tally = Box::leak(Box::default());
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS.iter().sum() {
            let mut client = client.clone();
            let is_bulk = caller >= CALLERS[0];
            callers.spawn(async move {
                for call in 0_u64.. {
                    if tally.stopped.load(Ordering::Acquire) {
                        break;
                    }
                    let transaction = pay(&format!("{caller}:{call}"));
                    let answer = if is_bulk {
                        let transactions = vec![transaction];
                        let mut request = Request::new(ProcessTransactionsRequest { transactions });
                        request.set_timeout(BULK_PATIENCE);
                        client.process_transactions(request).await.map(drop)
                    } else {
                        client.process_transaction(transaction).await.map(drop)
                    };
                    tally.count(answer).await;
                }
            });
        }
        Load { callers, tally }
    }

    async fn stop(mut self) {
        self.tally.stopped.store(true, Ordering::Release);
        while let Some(caller) = self.callers.join_next().await {
            caller.unwrap();
        }
    }
}

impl Tally {
    async fn count(&self, answer: Result<(), Status>) {
        let counter = match answer {
            Ok(()) => &self.answered,
            Err(status) if is_refusal(&status) => {
                tokio::time::sleep(POLL).await;
                &self.refused
            }
            Err(status) if matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) => &self.expired,
            Err(status) => panic!("{status:?}"),
        };
        counter.fetch_add(1, Ordering::AcqRel);
    }
}

fn is_refusal(status: &Status) -> bool {
    let reason = status.get_details_error_info().map(|info| info.reason);
    reason.as_deref() == Some("CIRCUIT_OPEN")
}

/// Polls until `condition` returns true.
async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// The circuits of `ProcessTransaction` and `ProcessTransactions`.
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
        // A healthy disk stays below this threshold even on a busy machine.
        .env("TALLY__BREAKER__SLOW_THRESHOLD", "1s")
        .env(
            "TALLY__BREAKER__METHODS__PROCESSTRANSACTIONS__SLOW_THRESHOLD",
            "1s",
        )
        // The window is longer than the test, so the circuits can't open only because the fast calls leave the window.
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
        load.tally.answered.load(Ordering::Acquire) >= CALLS_BEFORE
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
    let refused = load.tally.refused.load(Ordering::Acquire);
    until("callers are refused", async || {
        load.tally.refused.load(Ordering::Acquire) > refused
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
    let answered = load.tally.answered.load(Ordering::Acquire);
    until("calls are answered again", async || {
        load.tally.answered.load(Ordering::Acquire) >= answered + 100
    })
    .await;
    println!("{:?}", load.tally);
    load.stop().await;
    server.terminate();
    assert!(server.wait().success());
    server.assert_verified();
}
