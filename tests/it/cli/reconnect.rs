//! A test of `tally circuit watch` while the service restarts.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use crate::support::server::TestServer;

/// Returns the text of a line of standard error after its time, such as `2026-01-31T12:00:00.000Z`.
fn event(line: &str) -> &str {
    let (time, event) = line.strip_prefix("tally: ").unwrap().split_once("  ").unwrap();
    let digits = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "0");
    assert_eq!(digits(time), "0000-00-00T00:00:00.000Z", "{line}");
    event
}

#[test]
fn a_watch_connects_again_when_the_service_restarts() {
    let mut server = TestServer::start();
    let mut child = server
        .command(&["circuit", "watch", "--key", "ProcessTransaction"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = out.next().unwrap().unwrap();
    assert!(first.contains("  ProcessTransaction  CLOSED for "), "{first}");
    server.kill9();
    let lost = errors.next().unwrap().unwrap();
    let expected = format!("lost the connection to {}: ", server.endpoint());
    assert!(event(&lost).starts_with(&expected), "{lost}");
    server.restart_in_place();
    let again = errors.next().unwrap().unwrap();
    assert_eq!(event(&again), format!("connected to {} again", server.endpoint()));
    let second = out.next().unwrap().unwrap();
    assert!(second.contains("  ProcessTransaction  CLOSED for "), "{second}");

    // The watch prints a change as one line.
    let changed = server.tally(&["circuit", "mode", "forced-open", "--key", "ProcessTransaction"]);
    assert_eq!(changed.status.code(), Some(0), "{changed:?}");
    let change = out.next().unwrap().unwrap();
    assert!(
        change.ends_with("  ProcessTransaction  mode AUTO to FORCED_OPEN"),
        "{change}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}
