//! Sets the wall clock of the server back and forward under load, with libfaketime. The server follows a large step only
//! after it is confirmed or after a restart. Commit times keep increasing, and nothing is lost.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    Random,
    audit::{Auditor, Scope},
    book::Known,
    kills::create_accounts,
    load::{Load, Shared},
    report, small_files,
    stops::wait_for_acknowledgements,
};
use crate::support::{operators::get, server::TestServer};

/// Environment variable with the path of `libfaketimeMT.so.1`. `scripts/test` sets it.
const LIBRARY: &str = "TALLY_TEST_FAKETIME";
/// Where Debian installs the library, below a directory for the architecture.
const DEBIAN: &str = "/usr/lib";
/// The steps of the clock, as seconds from the real time. Each step except the first is too large to be followed.
const STEPS: [i64; 6] = [0, -3600, 7200, -DAY, 30 * DAY, 0];
/// The largest step that is followed, in seconds.
const STEP_MAX: i64 = 60;
/// A day in seconds.
const DAY: i64 = 86_400;
/// Number of acknowledgements after each step.
const ACKNOWLEDGED: usize = 400;

/// Returns the path of the library. If it is not installed, prints this and returns `None`.
fn library() -> Option<PathBuf> {
    let named = env::var_os(LIBRARY)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let found = named.or_else(|| {
        fs::read_dir(DEBIAN)
            .ok()?
            .filter_map(Result::ok)
            .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
            .find(|path| path.is_file())
    });
    if found.is_none() {
        report("DID NOT RUN, libfaketime is not installed, so the clock can't be set");
    }
    found
}

/// Sets the clock of the server to this many seconds after the real time. The file is replaced in one step, because the server
/// reads it at any time.
fn set_clock(file: &Path, seconds: i64) {
    let new = file.with_extension("new");
    fs::write(&new, format!("{seconds:+}\n")).unwrap();
    fs::rename(new, file).unwrap();
}

/// Returns the latest commit time in the answers to clients, in seconds after the real time.
fn latest_commit(shared: &Shared) -> i64 {
    let book = shared.book();
    let times = book.entries().filter_map(|entry| match &entry.known {
        Known::Committed(place) => Some(place.time.seconds),
        Known::Unknown | Known::NotExecuted => None,
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    times.max().unwrap() - i64::try_from(now.as_secs()).unwrap()
}

/// Checks that the server reports a held step everywhere: in its log, its metrics and its calls.
async fn assert_held(server: &TestServer) {
    server.wait_for_stderr("the system clock made a large step").await;
    let metrics = get(server, "/metrics").await.2;
    assert!(metrics.contains("\ntally_clock_held_seconds "), "{metrics}");
    assert!(!metrics.contains("\ntally_clock_held_seconds 0\n"), "{metrics}");
    let (_, _, ready) = get(server, "/ready").await;
    assert!(
        ready.starts_with("ready, but the system clock made a large step"),
        "{ready}"
    );
    for (command, text) in [
        (["clock", "show"].as_slice(), "HELD: the system clock stepped "),
        (&["stats"], "THE LEDGER DOES NOT FOLLOW"),
    ] {
        let output = server.tally(command);
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(shown.contains(text), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_of_the_clock_neither_lose_a_transaction_nor_turn_commit_times_back() {
    let Some(library) = library() else {
        return;
    };
    let mut random = Random::new();
    let home = tempfile::tempdir().unwrap();
    let clock = home.path().join("clock");
    set_clock(&clock, 0);
    let mut server = small_files()
        .env("LD_PRELOAD", library.to_str().unwrap())
        .env("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap())
        // Read the file at each call instead of once in 10 s.
        .env("FAKETIME_NO_CACHE", "1")
        // Only the wall clock steps. The monotonic clock of a machine never does.
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        // After most steps, the clock is behind the journal. A start without this variable is refused, which
        // service/clock.rs tests.
        .env("TALLY_ACCEPT_CLOCK_BEHIND", "true")
        .start();
    create_accounts(&server).await;
    let shared = Arc::new(Shared::default());
    let mut auditor = Auditor::default();
    let mut followed = 0;
    for (number, seconds) in STEPS.into_iter().enumerate() {
        let load = Load::start(
            &shared,
            &server.endpoint(),
            &format!("s{number}"),
            None,
            &mut random,
        )
        .await;
        set_clock(&clock, seconds);
        wait_for_acknowledgements(&shared, ACKNOWLEDGED).await;
        if number > 0 {
            // No commit has the new time, because the step is held.
            let ahead = latest_commit(&shared);
            assert!(ahead <= followed + STEP_MAX, "{ahead} s, after {followed} s");
            assert_held(&server).await;
        }
        if random.below(2) == 0 {
            server.kill9();
            load.join().await;
            server.restart();
        } else {
            let confirmed = server.tally(&["clock", "confirm", "--comment", "crash test"]);
            assert!(confirmed.status.success(), "{confirmed:?}");
            if number > 0 {
                for line in [
                    "an administrator confirmed a step of the system clock",
                    "the time of the ledger follows the system clock again",
                ] {
                    server.wait_for_stderr(line).await;
                }
            }
            wait_for_acknowledgements(&shared, ACKNOWLEDGED).await;
            load.stop().await;
        }
        followed = followed.max(seconds);
        // The audit checks that commit times increase with the sequences.
        auditor.audit(&server, &shared, Scope::New, &mut random).await;
    }
    // Commits got the time of the last step forward after it was confirmed. This shows that the server saw the steps.
    let ahead = latest_commit(&shared);
    assert!(
        ahead > 29 * DAY,
        "the latest commit time is {ahead} s after the real time"
    );
    auditor.audit(&server, &shared, Scope::All, &mut random).await;
    server.terminate();
    assert!(server.wait().success(), "{}", server.stderr());
    server.assert_verified();
    report(&format!(
        "{} steps of the clock; {}; calls that failed, by reason: {:?}",
        STEPS.len(),
        auditor.counts(),
        shared.book().errors
    ));
}
