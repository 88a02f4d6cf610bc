//! Watchers in separate processes. The server and the watchers are killed at random moments under load. Afterwards, the file of each
//! watcher must have the transactions of the ledger in order, without gap and without duplicate.

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use tally::{
    client::{Client, RetryPolicy},
    proto::{ListTransactionsRequest, Transaction, transaction_service_client::TransactionServiceClient},
};
use tempfile::TempDir;

use super::{
    Random,
    kills::{LISTEN, create_accounts},
    load::{Load, Shared, place_of},
    report, small_files,
};
use crate::support::server::TestServer;

/// Environment variable with the number of kills.
const KILLS: &str = "TALLY_TEST_WATCH_KILLS";
/// Number of kills without [`KILLS`].
const KILLS_DEFAULT: u64 = 10;
/// Maximum number of acknowledgements before a kill.
const ACKNOWLEDGED_MAX: u64 = 2000;
/// Interval of checks.
const POLL: Duration = Duration::from_millis(1);
/// Maximum number of checks for an event.
const POLLS_MAX: u64 = 60_000;
/// Environment variables of a watcher's process: the endpoint, the prefix of the ids, and the file.
const ENDPOINT: &str = "TALLY_TEST_WATCHER_ENDPOINT";
const PREFIX: &str = "TALLY_TEST_WATCHER_PREFIX";
const FILE: &str = "TALLY_TEST_WATCHER_FILE";

/// A watcher in its own process.
struct Watcher {
    endpoint: String,
    prefix: &'static str,
    file: PathBuf,
    process: Child,
}

// ===== impl Watcher =====

impl Watcher {
    fn start(server: &TestServer, prefix: &'static str, home: &Path) -> Self {
        let (endpoint, file) = (server.endpoint(), home.join(format!("watcher{prefix}")));
        let process = spawn(&endpoint, prefix, &file);
        Watcher {
            endpoint,
            prefix,
            file,
            process,
        }
    }

    /// Sends SIGKILL, and starts the watcher again.
    fn kill9(&mut self) {
        assert!(
            self.process.try_wait().unwrap().is_none(),
            "a watcher has ended by itself"
        );
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = spawn(&self.endpoint, self.prefix, &self.file);
    }

    /// Waits until the watcher has written everything in `expected`, and checks that it has written nothing else.
    async fn check(&self, expected: &str) {
        let written = || fs::read_to_string(&self.file).unwrap_or_default();
        for _ in 0..POLLS_MAX {
            if fs::metadata(&self.file).map_or(0, |file| file.len()) >= expected.len() as u64 {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        let written = written();
        let differs = written
            .lines()
            .zip(expected.lines())
            .find(|(got, wanted)| got != wanted);
        assert!(
            written == expected,
            "{} bytes were written, {} expected; the first difference: {differs:?}",
            written.len(),
            expected.len()
        );
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Errors are ignored, because the process may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts this program again, as a watcher.
fn spawn(endpoint: &str, prefix: &str, file: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "crash::watch::a_watcher_writes_what_it_receives",
            "--nocapture",
        ])
        .env(ENDPOINT, endpoint)
        .env(PREFIX, prefix)
        .env(FILE, file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// The line that a watcher writes for a transaction.
fn line(transaction: &Transaction) -> String {
    let place = place_of(transaction).expect("a committed transaction");
    format!("{} {}\n", place.sequence, transaction.transaction_id)
}

/// The process of a watcher. It resumes after the last complete line in its file.
#[tokio::test]
async fn a_watcher_writes_what_it_receives() {
    let Ok(endpoint) = env::var(ENDPOINT) else {
        // The variable is not set, so this is a normal run of the tests.
        return;
    };
    let (prefix, path) = (env::var(PREFIX).unwrap(), PathBuf::from(env::var(FILE).unwrap()));
    let before = fs::read_to_string(&path).unwrap_or_default();
    let complete = before.rfind('\n').map_or(0, |end| end + 1);
    let last = before[..complete].lines().next_back();
    let last: i64 = last.map_or(0, |line| line.split(' ').next().unwrap().parse().unwrap());
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .unwrap();
    file.set_len(complete as u64).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
    let client = loop {
        match Client::connect(&endpoint).await {
            Ok(client) => break client,
            Err(_) => tokio::time::sleep(POLL).await,
        }
    };
    let policy = RetryPolicy {
        attempts_max: u32::MAX,
        total_max: Duration::MAX,
        backoff_max: Duration::from_millis(200),
        ..RetryPolicy::default()
    };
    let mut watch = client.with_retry(policy).watch_transactions(last + 1, &prefix);
    loop {
        let response = watch.next().await.unwrap();
        for transaction in &response.transactions {
            file.write_all(line(transaction).as_bytes()).unwrap();
        }
    }
}

/// Returns the lines that a watcher must have written.
async fn ledger(server: &TestServer, prefix: &str) -> String {
    let mut client = TransactionServiceClient::connect(server.endpoint())
        .await
        .unwrap();
    client = client.max_decoding_message_size(tally::client::MESSAGE_BYTES_MAX);
    let mut request = ListTransactionsRequest {
        id_prefix: prefix.to_owned(),
        page_size: 1000,
        ..ListTransactionsRequest::default()
    };
    let mut lines = String::new();
    loop {
        let page = client
            .list_transactions(request.clone())
            .await
            .unwrap()
            .into_inner();
        page.transactions
            .iter()
            .for_each(|found| lines.push_str(&line(found)));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return lines;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_kill_makes_a_gap_or_a_duplicate_in_what_a_watcher_receives() {
    let kills_wanted = env::var(KILLS).map_or(KILLS_DEFAULT, |text| text.parse().expect("a number"));
    let mut random = Random::new();
    let mut server = small_files().listen(LISTEN).start();
    create_accounts(&server).await;
    let (address, home) = (server.address(), TempDir::new().unwrap());
    let mut watchers = ["", "r1"].map(|prefix| Watcher::start(&server, prefix, home.path()));
    let shared = Arc::new(Shared::default());
    let (mut servers, mut processes, mut round) = (0, 0, 0);
    while servers + processes < kills_wanted {
        round += 1;
        let endpoint = server.endpoint();
        let mut load = Load::start(&shared, &endpoint, &format!("r{round}"), None, &mut random).await;
        // Some kills of watchers, and then one of the server.
        for _ in 0..random.below(4) {
            wait_for_load(&shared, &mut load, &mut random).await;
            let watcher = random.between(0, watchers.len());
            watchers[watcher].kill9();
            processes += 1;
        }
        wait_for_load(&shared, &mut load, &mut random).await;
        server.kill9();
        servers += 1;
        load.join().await;
        server.restart_at(address);
    }
    let mut lines = 0;
    for watcher in &watchers {
        let expected = ledger(&server, watcher.prefix).await;
        watcher.check(&expected).await;
        lines += expected.lines().count();
    }
    drop(watchers);
    server.terminate();
    assert!(server.wait().success(), "{}", server.stderr());
    server.assert_verified();
    report(&format!(
        "{servers} kills of the server and {processes} of watchers, under load; the watchers have received {lines} transactions, \
         which are the ledger, in order, each once"
    ));
}

/// Waits until some transactions were acknowledged.
async fn wait_for_load(shared: &Shared, load: &mut Load, random: &mut Random) {
    let acknowledgements = || u64::try_from(shared.book().acknowledgements()).unwrap();
    let enough = acknowledgements() + 1 + random.below(ACKNOWLEDGED_MAX);
    for _ in 0..POLLS_MAX {
        assert!(load.is_running(), "the server runs, but no client makes calls");
        if acknowledgements() >= enough {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
    panic!("no acknowledgement in time");
}
