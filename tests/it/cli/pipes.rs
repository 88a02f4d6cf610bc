//! Tests with a standard output that is closed or full: subcommands must end quietly, and the service must keep running.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::support::server::{BINARY, TestServer};

/// Every write to this file fails, as on a full disk.
fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// Waits until the process ends. Returns its exit code and the text of its standard error. Standard error must be a
/// pipe.
fn end(mut child: Child) -> (Option<i32>, String) {
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    (child.wait().unwrap().code(), error)
}

#[test]
fn a_closed_pipe_ends_every_subcommand_quietly() {
    let server = TestServer::start();
    let mut stopped = TestServer::start();
    stopped.terminate();
    assert_eq!(stopped.wait().code(), Some(0));
    for words in [
        &["--help"][..],
        &["--version"],
        &["health"],
        &["stats"],
        &["stats", "-o", "json"],
        &["topology"],
        &["topology", "-o", "json"],
        &["circuit", "show"],
        &["circuit", "show", "-o", "json"],
        &["circuit", "watch"],
        &["top", "--once", "--interval", "100ms"],
        &["import", "--asset", "EUR", "examples/statement.csv"],
        &["import", "--asset", "EUR", "-o", "json", "examples/statement.csv"],
        &[
            "bench",
            "--endpoint",
            &server.endpoint(),
            "--duration",
            "50ms",
            "--rounds",
            "1",
            "--accounts",
            "10",
        ],
        &["verify", stopped.data().to_str().unwrap()],
        &["completions", "bash"],
        &["man"],
    ] {
        let mut child = server
            .command(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        assert_eq!(end(child), (Some(0), String::new()), "{words:?}");
    }
}

#[test]
fn a_watch_ends_when_its_reader_has_gone_although_nothing_changes() {
    let server = TestServer::start();
    let mut child = server
        .command(&["circuit", "watch"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..4 {
        lines.next().unwrap().unwrap();
    }
    drop(lines);
    assert_eq!(end(child), (Some(0), String::new()));
}

#[test]
fn a_result_that_can_not_be_written_is_an_error() {
    for words in [
        &["completions", "bash"][..],
        &["--help"],
        &["--version"],
        &["config"],
        &["serve", "--check"],
    ] {
        let child = Command::new(BINARY)
            .args(words)
            .stdout(full())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (code, error) = end(child);
        // `serve --check` also prints warnings about the machine.
        let error = error.lines().last().unwrap_or_default();
        assert_eq!(code, Some(74), "{words:?}: {error}");
        assert!(
            error.starts_with("tally: the result can't be written to standard output: No space left"),
            "{words:?}: {error}"
        );
    }
}

/// A service on free ports, with its data below `home`.
fn serve_command(home: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(home.join("data"));
    command
}

/// Checks that the service at `address` is serving.
fn assert_serving(address: &str) {
    let health = Command::new(BINARY)
        .args(["health", "--endpoint", &format!("http://{address}")])
        .output()
        .unwrap();
    assert_eq!(health.status.code(), Some(0), "{health:?}");
}

#[test]
fn the_service_needs_no_standard_output() {
    for is_full in [false, true] {
        let home = tempfile::tempdir().unwrap();
        let mut child = serve_command(home.path())
            .stdout(if is_full { full().into() } else { Stdio::piped() })
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let serving = log
            .find(|line| line.as_ref().is_ok_and(|line| line.contains("\"serving\"")))
            .expect("the service writes to its log that it is serving")
            .unwrap();
        let (_, address) = serving.split_once("\"address\":\"").unwrap();
        let (address, _) = address.split_once('"').unwrap();
        assert_serving(address);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn the_service_goes_on_when_its_log_can_not_be_written() {
    let home = tempfile::tempdir().unwrap();
    let mut child = serve_command(home.path())
        .stdout(Stdio::piped())
        .stderr(full())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines
        .find_map(|line| line.unwrap().strip_prefix("listening on ").map(str::to_owned))
        .expect("the service listens");
    assert_serving(&address);
    child.kill().unwrap();
    child.wait().unwrap();
}
