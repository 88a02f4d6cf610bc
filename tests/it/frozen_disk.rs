//! The real binary on a file system that is really frozen: an ext4 in a file, mounted by a loop device, and `fsfreeze`. It
//! needs root and a machine that lets it mount; elsewhere the test says that it did not run.

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

/// Holds the mount. It obeys what it reads, and when there is nothing to read any more, because the test has ended in
/// whatever way, it thaws and unmounts. Nothing but the mount is ever frozen: it is looked at before.
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
/// Room for a few segments; the file has holes.
const IMAGE_BYTES: u64 = 256 << 20;
/// A state that does not come about within this never will.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
/// Callers of `ProcessTransaction`, and of `ProcessTransactions`, which give up after [`BULK_PATIENCE`].
const CALLERS: [usize; 2] = [24, 3];
/// Shorter than the slow threshold of bulk calls.
const BULK_PATIENCE: Duration = Duration::from_millis(700);
/// Calls that are fast before the disk hangs.
const CALLS_BEFORE: u64 = 3_000;

/// A file system of its own. Dropped, it thaws and goes.
struct LoopMount {
    keeper: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Holds the image and the mount point; removed last.
    home: TempDir,
}

impl LoopMount {
    /// None, with the reason told, where mounts are not allowed.
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

    /// Nothing is written to it until what is returned is dropped.
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
            // Whatever it answers: the processes that wait for the disk can only be killed once it is thawed.
            let _ = writeln!(self.0.orders.as_mut().unwrap(), "thaw");
        } else {
            self.0.order("thaw", "thawed");
        }
    }
}

/// Past the test harness, which keeps what passing tests print to itself.
fn did_not_run(reason: &str) {
    let text = format!("\nfrozen_disk: DID NOT RUN, a file system can't be mounted here: {reason}\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

/// Callers that call one after the other until they are told to stop.
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

/// Looks again and again until it is so.
async fn until<F: Future<Output = bool>>(what: &str, mut so: impl FnMut() -> F) {
    let began = Instant::now();
    while !so().await {
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
        // One that a healthy disk keeps, however busy the machine is.
        .env("TALLY__BREAKER__SLOW_THRESHOLD", "1s")
        .env(
            "TALLY__BREAKER__METHODS__PROCESSTRANSACTIONS__SLOW_THRESHOLD",
            "1s",
        )
        // Nothing leaves it while the test runs: a hang can't be seen by waiting until fast calls have aged out.
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
