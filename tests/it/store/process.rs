//! Tests of the `tally` binary: `tally verify`, the lock of a data directory, and a limit of file sizes.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use tally::proto::{
    CreateAccountRequest, account_service_client::AccountServiceClient,
    transaction_service_client::TransactionServiceClient,
};
use tally_journal::{Disk, Journal, JournalConfig, RealDisk};
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{
    in_process::{account, pay},
    server::{BINARY, ServerOptions, TestServer},
};

/// The content of each file, and its modification time in seconds and nanoseconds.
type Files = BTreeMap<PathBuf, (Vec<u8>, i64, i64)>;

async fn open_accounts(server: &TestServer) {
    let mut accounts = AccountServiceClient::connect(server.endpoint()).await.unwrap();
    for id in ["a", "b"] {
        let account = Some(account(id));
        accounts
            .create_account(CreateAccountRequest { account })
            .await
            .unwrap();
    }
}

/// Starts a server and commits 20 transactions.
pub(super) async fn server_with_transactions() -> TestServer {
    let server = small_segments().start();
    open_accounts(&server).await;
    let mut client = TransactionServiceClient::connect(server.endpoint())
        .await
        .unwrap();
    for number in 0..20 {
        client
            .process_transaction(pay(&format!("t{number}")))
            .await
            .unwrap();
    }
    server
}

/// Returns options with small segments, because the tests read every byte of them.
pub(crate) fn small_segments() -> ServerOptions {
    ServerOptions::default()
        .env("TALLY__STORE__SEGMENT_BYTES", "8MiB")
        .env("TALLY__STORE__BLOCK_BYTES_MAX", "2MiB")
}

fn files(dir: &Path) -> Files {
    let mut files = Files::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        let metadata = fs::metadata(&dir).unwrap();
        files.insert(dir.clone(), (Vec::new(), metadata.mtime(), metadata.mtime_nsec()));
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::metadata(&path).unwrap();
            if metadata.is_dir() {
                dirs.push(path);
            } else {
                let bytes = fs::read(&path).unwrap();
                files.insert(path, (bytes, metadata.mtime(), metadata.mtime_nsec()));
            }
        }
    }
    files
}

/// Flips a bit in the body of the last block.
fn damage_last_block(data: &Path) {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let journal = Journal::open_read_only(disk, data).unwrap();
    let last = journal.verify().unwrap().last.unwrap();
    let path = data
        .join("journal")
        .join(format!("{:010}.segment", last.position.segment()));
    let mut bytes = fs::read(&path).unwrap();
    bytes[last.position.offset() as usize + 140] ^= 1;
    fs::write(&path, bytes).unwrap();
}

fn verify(data: &Path) -> (Option<i32>, String) {
    result_of(&Command::new(BINARY).arg("verify").arg(data).output().unwrap())
}

/// Returns the exit code of a process, and its standard output and standard error as one text.
pub(super) fn result_of(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    (output.status.code(), text.concat())
}

/// Verifies twice, and checks that both results are equal and that no file has changed.
fn verify_twice(data: &Path) -> (Option<i32>, String) {
    let before = files(data);
    let results = [verify(data), verify(data)];
    assert!(files(data) == before, "verify changed the directory");
    let [first, second] = results;
    assert_eq!(first, second);
    first
}

#[tokio::test]
async fn verify_after_a_crash_reports_that_a_torn_tail_may_be_damage() {
    let mut server = server_with_transactions().await;
    server.kill9();
    let (code, text) = verify_twice(server.data());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("transactions     20\n"), "{text}");
    damage_last_block(server.data());
    let (code, text) = verify_twice(server.data());
    // After a crash, damage to the last block can't be distinguished from a torn write.
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("torn tail") && !text.contains("never acknowledged"),
        "{text}"
    );
    assert!(
        text.contains("Damage to the last acknowledged block looks the same"),
        "{text}"
    );
}

#[tokio::test]
async fn verify_and_the_start_detect_damage_to_the_last_block_after_a_clean_stop() {
    let mut server = server_with_transactions().await;
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    let (code, text) = verify_twice(server.data());
    assert!(
        code == Some(0) && text.contains("last stop        clean"),
        "{text}"
    );
    damage_last_block(server.data());
    let (code, text) = verify_twice(server.data());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("CORRUPT") && !text.contains("torn tail"), "{text}");
    for words in [
        "transactions     19 before the first damage\n",
        "accounts         2 before the first damage\n",
        "still sound      blocks 1 to ",
        ": all transactions through sequence 19, and 2 accounts\n",
        "not sound: nothing was changed",
    ] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    let before = files(server.data());
    let (code, text) = serve(server.data());
    assert!(
        code == Some(74) && text.contains("was durable"),
        "{code:?} {text}"
    );
    let contents = |files: Files| {
        files
            .into_iter()
            .map(|(path, file)| (path, file.0))
            .collect::<Vec<_>>()
    };
    assert!(
        contents(files(server.data())) == contents(before),
        "the start changed the directory"
    );
}

/// Flips a bit in the body of each of these blocks.
pub(crate) fn damage_blocks(data: &Path, blocks: &[u64]) {
    let path = data.join("journal").join("0000000000.segment");
    let journal = Journal::open_read_only(Arc::new(RealDisk), data).unwrap();
    let mut offsets = Vec::new();
    let scanned = journal.scan(
        journal.start(),
        0,
        |header, position, _| -> Result<(), Infallible> {
            if blocks.contains(&header.block_sequence) {
                offsets.push(position.offset() as usize + 140);
            }
            Ok(())
        },
    );
    scanned.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    for offset in offsets {
        bytes[offset] ^= 1;
    }
    fs::write(&path, bytes).unwrap();
}

#[tokio::test]
async fn verify_lists_all_damage_and_what_is_still_sound() {
    let mut server = server_with_transactions().await;
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    // The accounts are in blocks 1 and 2, and each transaction is in a separate block.
    damage_blocks(server.data(), &[8, 12]);
    let (code, text) = verify_twice(server.data());
    assert_eq!(code, Some(1), "{text}");
    for words in [
        "transactions     5 before the first damage\n",
        "block 8: the checksum of the body is wrong, but the later block 9 is at ",
        "block 12: the checksum of the body is wrong, but the later block 13 is at ",
        "still sound      blocks 1 to 7, from segment 0, offset 0, to the block at segment 0, offset ",
        "through sequence 5, and 2 accounts\n",
        "lost             block 8: transaction 6\n",
        "still whole      blocks 9 to 11, ",
        "lost             block 12: transactions up to sequence 10\n",
        "transactions from sequence 7 on",
        "still whole      blocks 13 to 22, ",
    ] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    assert_eq!(text.matches("CORRUPT").count(), 2, "{text}");
}

#[tokio::test]
async fn verify_lists_the_blocks_that_a_shorter_or_a_missing_segment_lost() {
    let mut server = server_with_transactions().await;
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    let segment = server.data().join("journal").join("0000000000.segment");
    // Only the end of the file is gone, and it had no blocks.
    let file = fs::OpenOptions::new().write(true).open(&segment).unwrap();
    file.set_len(1_000_000).unwrap();
    let (code, text) = verify_twice(server.data());
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("still sound      blocks 1 to 22, ") && !text.contains("\nlost "),
        "{text}"
    );
    file.set_len(2000).unwrap();
    let (code, text) = verify_twice(server.data());
    assert_eq!(code, Some(1), "{text}");
    let lost = text.lines().find(|line| line.starts_with("lost ")).expect(&text);
    assert!(text.contains("still sound      blocks 1 to "), "{text}");
    assert!(
        lost.contains(" to 22, the last block according to journal/CLEAN: all transactions after sequence "),
        "{text}"
    );
    fs::remove_file(server.data().join("journal").join("CLEAN")).unwrap();
    let (code, text) = verify_twice(server.data());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(" on; their number is unknown, "), "{text}");
    fs::remove_file(&segment).unwrap();
    let (code, text) = verify_twice(server.data());
    assert_eq!(code, Some(1), "{text}");
    for words in [
        "still sound      nothing: ",
        "lost             all blocks from block 1 on; ",
    ] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
}

#[test]
fn a_foreign_directory_is_named_as_such_and_stays_unchanged() {
    let home = tempfile::tempdir().unwrap();
    let (empty, foreign) = (home.path().join("empty"), home.path().join("foreign"));
    fs::create_dir(&empty).unwrap();
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.odt"), "text").unwrap();
    for dir in [&empty, &foreign] {
        let (code, text) = verify_twice(dir);
        assert_eq!(code, Some(74), "{text}");
        let expected = format!("{} is not a Tally data directory (no FORMAT)\n", dir.display());
        assert!(text.ends_with(&expected), "{text}");
    }
    let before = files(&foreign);
    let (code, text) = serve(&foreign);
    assert_eq!(code, Some(74), "{text}");
    let expected = "is not a Tally data directory (no FORMAT), and it is not empty: it has thesis.odt.";
    assert!(text.contains(expected), "{text}");
    assert!(files(&foreign) == before, "the start changed the directory");
}

/// Removes the files below `data` whose path contains one of `parts`.
fn remove(data: &Path, parts: &[&str]) {
    for path in files(data).into_keys().filter(|path| path.is_file()) {
        let name = path.strip_prefix(data).unwrap().to_str().unwrap();
        if parts.iter().any(|part| name.contains(part)) {
            fs::remove_file(&path).unwrap();
        }
    }
}

/// After a crash, only the segment note shows that the journal had more segments.
#[tokio::test]
async fn a_directory_that_has_lost_its_journal_is_refused() {
    let mut server = server_with_transactions().await;
    server.kill9();
    let data = server.data().to_owned();
    for (removed, expected) in [
        (
            ".segment",
            "the segment file is missing, but the journal had segments up to number ",
        ),
        ("SEGMENTS-", "is a data directory without a journal"),
        ("", "is a data directory without a journal"),
    ] {
        if removed.is_empty() {
            fs::remove_dir(data.join("journal")).unwrap();
        } else {
            remove(&data, &[removed, "checkpoint", "index"]);
        }
        let (code, text) = serve(&data);
        assert_eq!(code, Some(74), "{text}");
        assert!(text.contains(expected), "{text}");
        let (code, text) = verify_twice(&data);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(expected) && !text.contains("\nsound"), "{text}");
    }
}

/// A first start is killed before the directory is complete. The next start succeeds in spite of the left files.
#[test]
fn a_killed_first_start_is_completed_without_a_warning() {
    let home = tempfile::tempdir().unwrap();
    let mut server = small_segments().home(home.path()).start();
    server.kill9();
    let data = server.data().to_owned();
    remove(&data, &["FORMAT", "0000000001"]);
    fs::write(data.join("journal/SEGMENTS-0000000000"), "").unwrap();
    for name in ["checkpoint", "index"] {
        fs::remove_dir_all(data.join(name)).unwrap();
    }
    let (code, text) = verify_twice(&data);
    assert_eq!(code, Some(74), "{text}");
    server.restart();
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    let log = server.stderr();
    assert!(!log.contains("backup") && !log.contains("starts empty"), "{log}");
    let (code, text) = verify_twice(&data);
    assert_eq!(code, Some(0), "{text}");
}

/// Runs a server on `data` that is expected to fail at its start.
fn serve(data: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(BINARY);
    command.args([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--data",
    ]);
    result_of(&command.arg(data).output().unwrap())
}

/// Makes a named pipe. Opening it in the usual way waits for its other end for ever.
fn make_pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

/// Runs a command that ends with an error at once. `timeout` ends it with the exit code 124 if it waits.
fn refused(arguments: &[&str], data: &Path) -> (Option<i32>, String) {
    let mut command = Command::new("timeout");
    command.args(["30", BINARY]).args(arguments).arg(data);
    result_of(&command.output().unwrap())
}

const SERVE: [&str; 6] = [
    "serve",
    "--listen",
    "127.0.0.1:0",
    "--admin",
    "127.0.0.1:0",
    "--data",
];

#[tokio::test]
async fn something_else_than_a_file_in_a_data_directory_is_refused_and_nothing_waits() {
    let mut server = server_with_transactions().await;
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    let data = server.data();
    for name in ["FORMAT", "journal/CLEAN", "journal/0000000000.segment"] {
        let (path, kept) = (data.join(name), data.join("kept"));
        fs::rename(&path, &kept).unwrap();
        for (kind, words) in [
            (
                "pipe",
                "it is a named pipe, not a regular file; nothing was changed: move it away",
            ),
            (
                "directory",
                "it is a directory, not a regular file; nothing was changed: move it away",
            ),
            (
                "link",
                "it is a symbolic link to nowhere, which does not exist; nothing was changed",
            ),
            ("circle", "its symbolic links form a circle: correct them"),
        ] {
            match kind {
                "pipe" => make_pipe(&path),
                "directory" => fs::create_dir(&path).unwrap(),
                "link" => symlink("nowhere", &path).unwrap(),
                _ => symlink(path.file_name().unwrap(), &path).unwrap(),
            }
            for arguments in [&["verify"][..], &SERVE] {
                let (code, text) = refused(arguments, data);
                assert_eq!(code, Some(74), "{name} {kind} {arguments:?}: {text}");
                let expected = format!("cannot open {}: ", path.display());
                assert!(
                    text.contains(&expected) && text.contains(words),
                    "{name} {kind} {arguments:?}: {text}"
                );
            }
            if kind == "directory" {
                fs::remove_dir(&path).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
        }
        fs::rename(&kept, &path).unwrap();
    }
    // Checkpoints and id files are made again from the journal.
    make_pipe(&data.join("checkpoint/00000000000000000009.ckpt"));
    make_pipe(&data.join("index/00000000000000000009.ids"));
    let (code, text) = refused(&["verify"], data);
    assert!(code == Some(1) && text.contains("it is a named pipe"), "{text}");
    let (code, text) = serve_check(data);
    assert_eq!(code, Some(0), "{text}");
    // A file in the place of a directory.
    fs::rename(data.join("journal"), data.join("kept")).unwrap();
    fs::write(data.join("journal"), "").unwrap();
    for arguments in [&["verify"][..], &SERVE] {
        let (code, text) = refused(arguments, data);
        assert_eq!(code, Some(74), "{arguments:?}: {text}");
        assert!(text.contains("move"), "{arguments:?}: {text}");
    }
}

/// Checks the settings of a service on `data`.
fn serve_check(data: &Path) -> (Option<i32>, String) {
    refused(&["serve", "--check", "--data"], data)
}

#[test]
fn a_check_of_the_settings_refuses_the_directories_that_a_start_refuses() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    fs::create_dir(path("foreign")).unwrap();
    fs::write(path("foreign/thesis.odt"), "text").unwrap();
    fs::create_dir(path("empty")).unwrap();
    for (name, expected) in [
        (
            "foreign",
            "is not a Tally data directory (no FORMAT), and it is not empty: it has thesis.odt.",
        ),
        (
            "foreign/thesis.odt",
            "can't be a data directory, because it, or a directory in its path, is a file",
        ),
    ] {
        let (code, text) = serve_check(&path(name));
        assert!(code == Some(74) && text.contains(expected), "{code:?} {text}");
    }
    for name in ["empty", "absent"] {
        let (code, text) = serve_check(&path(name));
        assert_eq!(code, Some(0), "{text}");
    }
    assert!(!path("absent").exists() && fs::read_dir(path("empty")).unwrap().next().is_none());
}

#[tokio::test]
async fn foreign_files_in_a_data_directory_are_named() {
    let mut server = server_with_transactions().await;
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    let data = server.data().to_owned();
    // An operator may keep the tokens here.
    fs::write(data.join("tokens"), "").unwrap();
    fs::write(data.join("journal/7.segment"), "").unwrap();
    fs::write(data.join("index/notes.txt"), "").unwrap();
    let (code, text) = verify_twice(&data);
    assert_eq!(code, Some(0), "{text}");
    for name in ["journal/7.segment", "index/notes.txt"] {
        let expected = format!(
            "WARNING          {name} does not belong to the data directory, and is never read: move it away\n"
        );
        assert!(text.contains(&expected), "{text}");
    }
    assert!(!text.contains("tokens") && text.ends_with("sound\n"), "{text}");
    server.restart();
    server
        .wait_for_stderr("has files that do not belong to it, and that are never read; move them away")
        .await;
    let log = server.stderr();
    assert!(log.contains("journal/7.segment, index/notes.txt"), "{log}");
}

#[tokio::test]
async fn verify_works_on_a_read_only_file_system() {
    let mut server = server_with_transactions().await;
    server.kill9();
    let data = server.data().to_str().unwrap();
    let read_only = |command: &str| {
        let script = format!("mount --bind {data} {data} && mount -o remount,ro,bind {data} && {command}");
        Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .output()
    };
    match read_only(&format!("! touch {data}/x")) {
        Ok(output) if output.status.success() => {}
        failed => {
            println!("NOT RUN: a read-only mount can't be made here: {failed:?}");
            return;
        }
    }
    let (code, text) = result_of(&read_only(&format!("exec {BINARY} verify {data}")).unwrap());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.ends_with("sound\n"), "{text}");
}

#[tokio::test]
async fn a_directory_has_one_server_even_if_files_are_removed() {
    let server = server_with_transactions().await;
    let data = server.data();
    let (code, text) = verify(data);
    assert_eq!(code, Some(74), "{text}");
    assert!(
        text.contains("in use by process ") || text.contains("in use by another process"),
        "{text}"
    );
    // No lock file may exist, because an operator who removes it would release the lock.
    for name in ["LOCK", "journal/LOCK"] {
        assert!(!data.join(name).exists(), "{name} exists");
    }
    let second = Command::new(BINARY)
        .args(["serve", "--data", data.to_str().unwrap()])
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .output()
        .unwrap();
    let (code, text) = result_of(&second);
    assert_eq!(code, Some(74), "{text}");
    assert!(
        text.contains("in use by process ") || text.contains("in use by another process"),
        "{text}"
    );
    let mut client = TransactionServiceClient::connect(server.endpoint())
        .await
        .unwrap();
    assert_eq!(
        client
            .process_transaction(pay("u"))
            .await
            .unwrap()
            .into_inner()
            .sequence,
        21
    );
}

#[tokio::test]
async fn a_limit_of_file_sizes_that_is_lowered_below_a_segment_stops_the_service() {
    let mut server = server_with_transactions().await;
    let pid = server.pid().to_string();
    let limited = Command::new("prlimit")
        .args(["--pid", &pid, "--fsize=1024"])
        .status()
        .unwrap();
    assert!(limited.success());
    let mut client = TransactionServiceClient::connect(server.endpoint())
        .await
        .unwrap();
    let status = client.process_transaction(pay("u")).await.unwrap_err();
    let info = status.get_details_error_info().unwrap();
    assert_eq!(
        (
            status.code(),
            info.reason.as_str(),
            info.metadata["executed"].as_str()
        ),
        (Code::Unavailable, "STORE_FAILED", "unknown")
    );
    let ended = server.wait();
    assert_eq!(ended.code(), Some(74), "{ended:?}\n{}", server.stderr());
    // Without the limit, the server continues.
    server.restart();
    let mut client = TransactionServiceClient::connect(server.endpoint())
        .await
        .unwrap();
    assert!(
        client
            .process_transaction(pay("t19"))
            .await
            .unwrap()
            .into_inner()
            .replayed
    );
}

#[test]
fn a_start_with_a_limit_of_file_sizes_that_is_too_low_fails() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let output = Command::new("prlimit")
        .args(["--fsize=65536", BINARY, "serve", "--data", data.to_str().unwrap()])
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .output()
        .unwrap();
    let (code, text) = result_of(&output);
    assert_eq!(code, Some(74), "{text}");
    assert!(
        text.contains("File too large") || text.contains("os error 27"),
        "{text}"
    );
}

#[tokio::test]
async fn a_directory_of_a_replicated_ledger_is_refused_by_the_embedded_store_and_can_be_verified() {
    let mut server = server_with_transactions().await;
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    Journal::open(disk, server.data(), &JournalConfig::default())
        .unwrap()
        .make_replicated()
        .unwrap();
    let before = files(server.data());
    let expected = "is a directory of a replicated ledger (FORMAT: store = replicated). The embedded store would make it differ from \
                    the other replicas: set store.kind to replicated, or detach the directory first (tally replica detach)";
    for (code, text) in [serve(server.data()), serve_check(server.data())] {
        assert!(code == Some(74) && text.contains(expected), "{code:?} {text}");
    }
    assert!(files(server.data()) == before, "the start changed the directory");
    let (code, text) = verify_twice(server.data());
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("terms "), "{text}");
}
