//! Tests of `tally import` as a process. It must not lose a row of a file, and an error must name the line that is
//! malformed.

use std::{
    fs,
    io::Write,
    process::{Output, Stdio},
};

use serde_json::Value;

use crate::support::server::TestServer;

const HEADER: &str = "transaction_id,debit_account_id,credit_account_id,minor_units";
const OPTIONS: [&str; 5] = ["--create-accounts", "--asset", "EUR", "--output", "json"];

fn import(server: &TestServer, file: &str) -> Output {
    let mut command = server.command(&["import", file]);
    command.args(OPTIONS).output().unwrap()
}

fn report(output: &Output) -> Value {
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {words}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn last_sequence(server: &TestServer) -> i64 {
    let stats = server.client().await.batch_stats().await.unwrap();
    stats.ledger.unwrap().last_sequence
}

#[tokio::test]
async fn a_file_in_which_a_row_could_be_overlooked_is_an_error_that_names_the_line() {
    let server = TestServer::start();
    let dir = tempfile::tempdir().unwrap();
    let line = r#"{"transactionId":"t1","transfers":[{"debitAccountId":"a","creditAccountId":"b","minorUnits":"1"}]}"#;
    let twice = line.replace("}]}", r#"}],"transfers":[]}"#);
    let nested = line.replace("}]}", r#","minorUnits":"2"}]}"#);
    for (name, text, expected) in [
        (
            "a.csv",
            format!("{HEADER}\nt1,a,b,1\rt2,a,b,1\nt3,a,b,1\n"),
            ":2: byte 9 is \"\\rt2,a,b,1\", expected a line feed after the carriage return",
        ),
        (
            "mac.csv",
            format!("{HEADER}\rt1,a,b,1\rt2,a,b,1\r"),
            "mac.csv:1: the header: byte 62 is \"\\rt1,a,b,1",
        ),
        (
            "nul.csv",
            format!("{HEADER}\nt1,a,b,1\n\0t2,a,b,1\n"),
            ":3: byte 1 is \"\\0t2,a,b,1\", expected no control character",
        ),
        (
            "quote.csv",
            format!("{HEADER}\nt1,a,b,\"1\nt2,a,b,1\n"),
            ":2: field 4 is \"\\\"1\", expected a closing quote",
        ),
        (
            "twice.ndjson",
            format!("{line}\n{twice}\n"),
            "(the key \"transfers\" is repeated)",
        ),
        (
            "nested.ndjson",
            format!("{line}\n{nested}\n"),
            "(the key \"minorUnits\" is repeated)",
        ),
    ] {
        let file = dir.path().join(name);
        fs::write(&file, text).unwrap();
        let output = import(&server, file.to_str().unwrap());
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(65), "{name}: {words}");
        assert!(words.contains(expected), "{name}: {words}");
    }
    assert_eq!(
        last_sequence(&server).await,
        0,
        "the service received a transaction"
    );
}

#[tokio::test]
async fn every_line_is_counted() {
    let server = TestServer::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.csv");
    fs::write(
        &file,
        format!("\u{feff}{HEADER}\r\n\r\nt1,a,b,1\r\nt1,a,b,1\n\nt2,a,a,1\nt3,a,b,1"),
    )
    .unwrap();
    let mut command = server.command(&["import", file.to_str().unwrap(), "--allow-rejected"]);
    let report = report(&command.args(OPTIONS).output().unwrap());
    for (what, count) in [
        ("lines", 7),
        ("header_lines", 1),
        ("blank_lines", 2),
        ("transactions", 4),
        ("committed", 2),
        ("replayed", 1),
        ("refused", 1),
    ] {
        assert_eq!(report[what], count, "{what} in {report}");
    }
}

/// The import reads the first bytes of its input to check the header. It must not lose these bytes, because a pipe can
/// be read only once.
#[tokio::test]
async fn a_pipe_is_imported_completely() {
    const ROWS: usize = 5000;
    let server = TestServer::start();
    let mut command = server.command(&["import", "/dev/stdin", "--format", "csv"]);
    command
        .args(OPTIONS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let rows: String = (0..ROWS).map(|number| format!("t{number},a,b,1\n")).collect();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || write!(input, "{HEADER}\n{rows}"));
    let report = report(&child.wait_with_output().unwrap());
    writer.join().unwrap().unwrap();
    assert_eq!(
        (&report["committed"], &report["lines"]),
        (&ROWS.into(), &(ROWS + 1).into())
    );
}
