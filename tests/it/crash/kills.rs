//! Kills the server with SIGKILL again and again: under load, while it writes a checkpoint, an id file or a segment, and
//! while it starts.

use std::{
    collections::BTreeMap,
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::Arc,
    time::Duration,
};

use tally::proto::Account;
use tempfile::TempDir;

use super::{
    Random,
    audit::{Auditor, Scope},
    book::{ACCOUNTS, Content, account_id},
    load::{Load, Shared},
    report, small_files,
};
use crate::support::{in_process::account, server::TestServer};

/// Environment variable with the number of kills. `scripts/test --soak` sets it.
const KILLS: &str = "TALLY_TEST_KILLS";
/// Number of kills without [`KILLS`].
const KILLS_DEFAULT: u64 = 14;
/// The server listens on an address from which no client connects. Otherwise a client that connects to the port while
/// the server is down could get this port as its own, and the server could not start.
pub(super) const LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 9)), 0);
/// Maximum number of acknowledgements before a kill under load.
const ACKNOWLEDGED_MAX: u64 = 4000;
/// Maximum number of kills during one start.
const START_KILLS_MAX: u64 = 3;
/// Maximum time after which a start is killed, in microseconds. A start with a small journal takes less.
const START_KILL_MICROS_MAX: u64 = 250_000;
/// Interval of checks whether it is time to kill.
const POLL: Duration = Duration::from_millis(1);
/// Maximum number of checks whether it is time to kill.
const POLLS_MAX: u64 = 1500;
/// Number of rows of a file that is imported.
const ROWS: usize = 4000;
/// Number of transactions in a call of an import.
const IMPORT_BATCH: &str = "50";
/// Time for which an import retries a call.
const IMPORT_GIVES_UP_AFTER: &str = "60s";

/// When the server is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    /// After some acknowledgements.
    Load,
    /// As soon as a file of this directory is unfinished.
    Unfinished(&'static str),
    /// As soon as the journal has another segment.
    NewSegment,
}

/// The imports: a process that imports one file after the other, and continues when the server runs again.
struct Imports {
    home: TempDir,
    files: usize,
    running: Option<Child>,
}

// ===== impl Moment =====

impl Moment {
    fn choose(random: &mut Random) -> Self {
        match random.below(8) {
            0..3 => Moment::Load,
            3..5 => Moment::Unfinished("checkpoint"),
            5 => Moment::Unfinished("index"),
            6 => Moment::Unfinished("journal"),
            _ => Moment::NewSegment,
        }
    }

    /// Waits until it is time to kill the server. If a moment of this kind does not come in time, returns at any moment.
    async fn wait(self, data: &Path, shared: &Shared, load: &mut Load, random: &mut Random) {
        let acknowledgements = || u64::try_from(shared.book().acknowledgements()).unwrap();
        let enough = acknowledgements() + 1 + random.below(ACKNOWLEDGED_MAX);
        let segments = files(&data.join("journal"), ".segment");
        for _ in 0..POLLS_MAX {
            assert!(load.is_running(), "the server runs, but no client makes calls");
            let is_time = match self {
                Moment::Load => acknowledgements() >= enough,
                Moment::Unfinished(directory) => files(&data.join(directory), ".tmp") > 0,
                Moment::NewSegment => files(&data.join("journal"), ".segment") > segments,
            };
            if is_time {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

// ===== impl Imports =====

impl Imports {
    fn new() -> Self {
        Imports {
            home: tempfile::tempdir().unwrap(),
            files: 0,
            running: None,
        }
    }

    /// Starts the import of the next file, unless an import is running. Checks the import that has ended.
    fn go_on(&mut self, server: &TestServer, shared: &Shared, random: &mut Random) {
        if let Some(import) = &mut self.running {
            if import.try_wait().unwrap().is_none() {
                return;
            }
            self.finish();
        }
        let file = self.write_file(shared, random);
        let import = server
            .command(&["import", file.to_str().unwrap()])
            .args(["--batch", IMPORT_BATCH, "--output", "json"])
            .args(["--give-up-after", IMPORT_GIVES_UP_AFTER])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        self.running = Some(import);
    }

    /// Waits until the import that is running has ended.
    fn finish(&mut self) {
        let Some(import) = self.running.take() else {
            return;
        };
        let output = import.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {words}", output.status);
        let done: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&done["transactions"], &done["rejected"]),
            (&ROWS.into(), &0.into()),
            "{done}"
        );
    }

    fn write_file(&mut self, shared: &Shared, random: &mut Random) -> PathBuf {
        self.files += 1;
        let mut text = "transaction_id,debit_account_id,credit_account_id,minor_units\n".to_owned();
        for row in 0..ROWS {
            let content = Content::random(random);
            let (debit, credit) = (account_id(content.debit), account_id(content.credit));
            let id = format!("import:{}:{row}", self.files);
            text.push_str(&format!("{id},{debit},{credit},{}\n", content.units));
            shared.book().may_be_sent(&id, content);
        }
        let path = self.home.path().join(format!("{}.csv", self.files));
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Imports {
    fn drop(&mut self) {
        if let Some(import) = &mut self.running {
            // Errors are ignored, because the process may have ended already.
            let _ = import.kill();
            let _ = import.wait();
        }
    }
}

/// Returns the number of files in a directory whose names end with `suffix`.
fn files(directory: &Path, suffix: &str) -> usize {
    fs::read_dir(directory).map_or(0, |entries| {
        entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().ends_with(suffix))
            .count()
    })
}

/// Returns the names of the directories with unfinished files.
fn unfinished(data: &Path) -> Vec<&'static str> {
    let names = ["checkpoint", "index", "journal"];
    let is_unfinished = |name: &&str| files(&data.join(name), ".tmp") > 0;
    names.into_iter().filter(is_unfinished).collect()
}

/// Creates the accounts of the load.
pub(super) async fn create_accounts(server: &TestServer) {
    let accounts: Vec<Account> = (0..ACCOUNTS).map(|number| account(&account_id(number))).collect();
    server
        .client()
        .await
        .batch_create_accounts(accounts)
        .await
        .unwrap();
}

/// The imports and the audits wait for processes, which blocks a thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_kill_loses_or_doubles_a_transaction() {
    let kills_wanted = env::var(KILLS).map_or(KILLS_DEFAULT, |text| text.parse().expect("a number"));
    let mut random = Random::new();
    let mut server = small_files().listen(LISTEN).start();
    create_accounts(&server).await;
    let address = server.address();
    let shared = Arc::new(Shared::default());
    let (mut auditor, mut imports) = (Auditor::default(), Imports::new());
    let mut kills: BTreeMap<String, u64> = BTreeMap::new();
    let mut round = 0;
    while kills.values().sum::<u64>() < kills_wanted {
        round += 1;
        // Under load.
        imports.go_on(&server, &shared, &mut random);
        let mut load = Load::start(
            &shared,
            &server.endpoint(),
            &format!("r{round}"),
            None,
            &mut random,
        )
        .await;
        let moment = Moment::choose(&mut random);
        moment.wait(server.data(), &shared, &mut load, &mut random).await;
        server.kill9();
        load.join().await;
        let mut kinds = unfinished(server.data());
        if moment == Moment::NewSegment {
            kinds.push("segment change");
        }
        *kills.entry(format!("under load {kinds:?}")).or_default() += 1;
        // During the start.
        for _ in 0..random.below(START_KILLS_MAX + 1) {
            let time = Duration::from_micros(random.below(START_KILL_MICROS_MAX));
            assert!(server.start_and_kill(time), "the server ended by itself");
            *kills.entry("during a start".to_owned()).or_default() += 1;
        }
        // The audit uses another address, so that the import does not reach the server.
        server.restart();
        auditor.audit(&server, &shared, Scope::New, &mut random).await;
        shared.book().drop_some_repeats(&mut random);
        server.kill9();
        server.restart_at(address);
    }
    tokio::task::block_in_place(|| imports.finish());
    auditor.audit(&server, &shared, Scope::All, &mut random).await;
    server.terminate();
    assert!(server.wait().success(), "{}", server.stderr());
    server.assert_verified();
    report(&format!(
        "{} kills in {round} rounds ({kills:?}), and one kill without load after each round; {}; calls that failed, by reason: {:?}",
        kills.values().sum::<u64>(),
        auditor.counts(),
        shared.book().errors
    ));
}
