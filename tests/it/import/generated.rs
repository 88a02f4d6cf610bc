//! Imports generated histories that use every feature of the ledger, and compares every answer, account and hold with the reference.
//! `TALLY_TEST_SEED` changes the first seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Range,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use serde_json::Value;
use tally::{
    client::{Client, PAGE_ACCOUNTS_MAX},
    proto::{Account, Amount, ConfirmClockRequest, GetClockRequest, amount},
    wall_clock::ManualWallClock,
};
use tally_ledger::Timestamp;

use super::history::{Answer, History};
use crate::support::{
    in_process::{Service, patient_config},
    server::{BINARY, TestServer},
    sim_disk::SimDisk,
};

/// Number of histories in a test.
const HISTORIES: u64 = 10;
/// Number of lines of a history.
pub(super) const LINES: usize = 600;
/// The time of the wall clock at the start, in seconds since the Unix epoch.
const START: u64 = 1_700_000_000;
const HOUR: u64 = 3600;

/// The features that must occur in the histories.
const FEATURES: [&str; 42] = [
    "posted",
    "clamped",
    "hold",
    "clamped hold",
    "timeout",
    "post of all",
    "post of a part",
    "post and keep",
    "void",
    "reversal of all",
    "reversal of a part",
    "effective time",
    "metadata",
    "wide",
    "replayed",
    "update status",
    "update overdraft_limit",
    "update metadata",
    "update velocity_limits",
    "update with etag",
    "close",
    "ACCOUNT_NOT_FOUND",
    "SAME_ACCOUNT",
    "ASSET_MISMATCH",
    "ACCOUNT_FROZEN",
    "ACCOUNT_CLOSED",
    "INSUFFICIENT_FUNDS",
    "BALANCE_OVERFLOW",
    "NOTHING_AVAILABLE",
    "VELOCITY_LIMIT",
    "PENDING_NOT_FOUND",
    "PENDING_ALREADY_POSTED",
    "PENDING_ALREADY_VOIDED",
    "PENDING_EXPIRED",
    "PENDING_AMOUNT_EXCEEDED",
    "PENDING_TRANSFERS_DIFFER",
    "REVERSED_NOT_FOUND",
    "NOT_REVERSIBLE",
    "ALREADY_REVERSED",
    "TRANSACTION_ID_REUSED",
    "NOT_SENT",
    "two assets",
];

/// Histories, and the files to which their lines are written.
pub(super) struct Histories {
    pub(super) histories: Vec<History>,
    dir: tempfile::TempDir,
    /// The lines of each history that are in its file.
    written: Vec<Range<usize>>,
}

// ===== impl Histories =====

impl Histories {
    pub(super) fn new() -> Self {
        let first = std::env::var("TALLY_TEST_SEED").map_or(1, |seed| seed.parse().expect("a number"));
        let seeds = first..first + HISTORIES;
        let histories: Vec<_> = seeds
            .map(|seed| History::new(seed, &format!("s{seed}/")))
            .collect();
        Histories {
            written: vec![0..0; histories.len()],
            histories,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) async fn create_accounts(&self, client: &Client) {
        for history in &self.histories {
            client
                .batch_create_accounts(history.accounts_before())
                .await
                .unwrap();
        }
    }

    fn file(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("{number}.ndjson"))
    }

    /// Writes the first `total` lines of all histories. The files of the others are empty.
    pub(super) fn write(&mut self, total: usize) {
        let mut left = total;
        for number in 0..self.histories.len() {
            let count = left.min(self.histories[number].lines.len());
            left -= count;
            self.write_lines(number, 0..count);
        }
    }

    /// Writes the lines that were added to each history after it was written.
    fn write_added(&mut self) {
        for number in 0..self.histories.len() {
            let from = self.written[number].end;
            self.write_lines(number, from..self.histories[number].lines.len());
        }
    }

    fn write_lines(&mut self, number: usize, range: Range<usize>) {
        let lines = &self.histories[number].lines[range.clone()];
        let text: String = lines.iter().map(|(line, _)| format!("{line}\n")).collect();
        fs::write(self.file(number), text).unwrap();
        self.written[number] = range;
    }

    pub(super) fn total(&self) -> usize {
        self.histories.iter().map(|history| history.lines.len()).sum()
    }

    /// Imports the files. Returns the summary and the reasons of the rejected lines.
    pub(super) fn import(&self, endpoint: &str, batch: u16) -> (Value, BTreeMap<(usize, usize), String>) {
        let rejects = self.dir.path().join("rejects.ndjson");
        let mut command = Command::new(BINARY);
        command
            .arg("import")
            .args((0..self.histories.len()).map(|number| self.file(number)))
            .args(["--allow-rejected", "-o", "json", "--batch", &batch.to_string()])
            .args(["--rejects".as_ref(), rejects.as_os_str()])
            .env("TALLY_ENDPOINT", endpoint)
            .stdin(Stdio::null());
        let output = command.output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words}");
        let summary = serde_json::from_slice(&output.stdout).unwrap();
        let rejects = fs::read_to_string(rejects).unwrap();
        let rejects = rejects.lines().map(|line| {
            let reject: Value = serde_json::from_str(line).unwrap();
            let name = Path::new(reject["file"].as_str().unwrap()).file_stem().unwrap();
            let number = name.to_str().unwrap().parse().unwrap();
            let line = usize::try_from(reject["line"].as_u64().unwrap()).unwrap();
            ((number, line), reject["reason"].as_str().unwrap().to_owned())
        });
        (summary, rejects.collect())
    }

    /// Returns the answers that the written lines must get.
    fn answers(&self) -> impl Iterator<Item = ((usize, usize), &str, &Answer)> {
        let files = self.histories.iter().zip(&self.written).enumerate();
        files.flat_map(|(number, (history, written))| {
            let lines = history.lines[written.clone()].iter().zip(1..);
            lines.map(move |((text, answer), line)| ((number, line), text.as_str(), answer))
        })
    }

    fn count(&self, is_wanted: impl Fn(&Answer) -> bool) -> usize {
        self.answers().filter(|(_, _, answer)| is_wanted(answer)).count()
    }

    /// Checks the reasons of all rejected lines. If some lines were imported before, a line whose rejection was not recorded may be
    /// rejected for another reason now.
    fn check_rejects(&self, rejects: &BTreeMap<(usize, usize), String>, is_first: bool) {
        for (place, text, answer) in self.answers() {
            let found = rejects.get(&place).map(String::as_str);
            match answer {
                Answer::Rejected(
                    reason @ ("ACCOUNT_NOT_FOUND" | "SAME_ACCOUNT" | "ASSET_MISMATCH" | "NOT_SENT"),
                ) if !is_first => assert!(found.is_some(), "{place:?}: {reason}: {text}"),
                Answer::Rejected(reason) => assert_eq!(found, Some(*reason), "{place:?}: {text}"),
                Answer::Committed | Answer::Replayed | Answer::Updated => {
                    assert_eq!(found, None, "{place:?}: {text}");
                }
            }
        }
    }

    /// Checks the answers to lines that were not imported before.
    fn check_first(&self, summary: &Value, rejects: &BTreeMap<(usize, usize), String>) {
        self.check_rejects(rejects, true);
        for (name, count) in [
            ("committed", self.count(|answer| *answer == Answer::Committed)),
            ("replayed", self.count(|answer| *answer == Answer::Replayed)),
            ("updates_applied", self.count(|answer| *answer == Answer::Updated)),
            ("updates_skipped", 0),
        ] {
            assert_eq!(summary[name], count, "{name}");
        }
    }

    /// Checks all accounts and holds.
    async fn check_state(&self, client: &Client) {
        let mut found = accounts(client).await;
        for history in &self.histories {
            for expected in history.accounts_after() {
                let account = found.remove(&expected.id).expect("the account exists");
                let expected = Account {
                    // The history does not know these fields.
                    create_time: account.create_time,
                    etag: account.etag.clone(),
                    ..expected
                };
                assert_eq!(account, expected);
            }
            for (id, state, left) in history.holds_after() {
                let hold = client
                    .get_transaction(&id)
                    .await
                    .unwrap()
                    .expect("the hold exists");
                assert_eq!(hold.hold_state(), state, "{id}");
                let remaining: Vec<u128> = hold.remaining_amounts.iter().map(units).collect();
                assert_eq!(remaining, left, "{id}");
            }
        }
        assert!(found.is_empty(), "{found:?}");
    }
}

fn units(amount: &Amount) -> u128 {
    match amount.value.expect("a value") {
        amount::Value::MinorUnits(units) => u128::try_from(units).unwrap(),
        amount::Value::WideMinorUnits(wide) => u128::from(wide.high) << 64 | u128::from(wide.low),
    }
}

pub(super) async fn accounts(client: &Client) -> BTreeMap<String, Account> {
    let (mut accounts, mut token) = (BTreeMap::new(), String::new());
    loop {
        let page = client.list_accounts(PAGE_ACCOUNTS_MAX, &token).await.unwrap();
        accounts.extend(
            page.accounts
                .into_iter()
                .map(|account| (account.id.clone(), account)),
        );
        if page.next_page_token.is_empty() {
            return accounts;
        }
        token = page.next_page_token;
    }
}

async fn last_sequence(client: &Client) -> i64 {
    client.batch_stats().await.unwrap().ledger.unwrap().last_sequence
}

#[tokio::test]
async fn a_history_of_every_feature_has_the_answers_and_balances_of_the_reference() {
    let mut all = Histories::new();
    all.histories.iter_mut().for_each(|history| history.extend(LINES));
    all.write(all.total());
    let server = TestServer::start();
    let client = server.client().await;
    all.create_accounts(&client).await;
    let (summary, rejects) = all.import(&server.endpoint(), 100);
    all.check_first(&summary, &rejects);
    all.check_state(&client).await;

    // A repetition, here with other batches, changes nothing, not even an etag, and gets the same rejections.
    let (before, sequence) = (accounts(&client).await, last_sequence(&client).await);
    for batch in [1000, 7] {
        let (summary, rejects) = all.import(&server.endpoint(), batch);
        all.check_rejects(&rejects, false);
        let updates = all.count(|answer| *answer == Answer::Updated);
        assert_eq!(
            (&summary["committed"], &summary["updates_applied"]),
            (&0.into(), &0.into())
        );
        assert_eq!(summary["updates_skipped"], updates);
        assert_eq!(accounts(&client).await, before);
        assert_eq!(last_sequence(&client).await, sequence);
    }
}

#[tokio::test]
async fn an_interrupted_import_is_continued_by_importing_the_same_files_again() {
    let mut all = Histories::new();
    all.histories.iter_mut().for_each(|history| history.extend(LINES));
    let server = TestServer::start();
    let client = server.client().await;
    all.create_accounts(&client).await;
    let parts = 5;
    for part in 1..=parts {
        all.write(all.total() * part / parts);
        let (summary, rejects) = all.import(&server.endpoint(), 13);
        all.check_rejects(&rejects, part == 1);
        let updates = all.count(|answer| *answer == Answer::Updated);
        let counted = ["updates_applied", "updates_skipped"].map(|name| summary[name].as_u64().unwrap());
        assert_eq!(counted.iter().sum::<u64>(), updates as u64);
        assert!(counted[0] > 0 && (part == 1 || counted[1] > 0), "{counted:?}");
    }
    all.check_state(&client).await;
}

/// The service of this test has a clock that the test sets, so that holds expire without a delay.
#[tokio::test(flavor = "multi_thread")]
async fn holds_that_expire_release_what_they_reserve() {
    let clock = Arc::new(ManualWallClock::new(Timestamp::from_nanos(START * 1_000_000_000)));
    let service = Service::start_with_clock(SimDisk::new(1), &patient_config(), clock.clone()).await;
    let client = Client::connect(&service.endpoint()).await.unwrap();
    let mut all = Histories::new();
    all.create_accounts(&client).await;
    for history in &mut all.histories {
        history.extend(LINES);
        history.reserve_for_an_hour();
    }
    all.write(all.total());
    let (summary, rejects) = all.import(&service.endpoint(), 100);
    all.check_first(&summary, &rejects);
    all.check_state(&client).await;

    clock.set(Timestamp::from_nanos((START + 2 * HOUR) * 1_000_000_000));
    let mut engine = service.stats().await;
    let held = engine.get_clock(GetClockRequest {}).await.unwrap().into_inner();
    let confirm = ConfirmClockRequest {
        held_step: held.clock.unwrap().held_step,
        comment: "test".to_owned(),
    };
    engine.confirm_clock(confirm).await.unwrap();
    for history in &mut all.histories {
        history.expire();
        history.extend(LINES / 4);
    }
    // The files differ from the earlier ones, because lines were added to each history.
    all.write_added();
    let (_, rejects) = all.import(&service.endpoint(), 100);
    all.check_rejects(&rejects, false);
    all.check_state(&client).await;

    // All histories together have used every feature.
    let mut reached: BTreeSet<&str> = all
        .histories
        .iter()
        .flat_map(|history| history.reached.clone())
        .collect();
    let assets: BTreeSet<String> = accounts(&client)
        .await
        .into_values()
        .map(|account| account.asset)
        .collect();
    if assets.len() > 1 {
        reached.insert("two assets");
    }
    let missing: Vec<_> = FEATURES
        .into_iter()
        .filter(|feature| !reached.contains(feature))
        .collect();
    assert!(missing.is_empty(), "{missing:?} do not occur");
}
