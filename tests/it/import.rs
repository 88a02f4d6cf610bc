//! Tests of `tally import` as a process: it loses no row of a file, names the values that it does not accept, says why
//! it waits, and can be stopped and continued.

mod closing;
mod generated;
mod history;
mod holds;
mod order;
mod round_trip;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::Path,
    process::{Child, ChildStderr, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tally::proto::{Account, BalanceRule};

use crate::support::{
    operators::get,
    server::{BINARY, TestServer},
};

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
        ("rejected", 1),
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

/// An import that runs, with its standard error.
struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Running {
    fn start(server: &TestServer, arguments: &[&str]) -> Self {
        let mut command = server.command(&["import"]);
        let mut child = command
            .args(arguments)
            .args(OPTIONS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Running { child, stderr }
    }

    /// Returns the next line of standard error.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        line
    }

    /// Returns the exit code, standard output, and the rest of standard error.
    fn end(mut self) -> (Option<i32>, String, String) {
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        let output = self.child.wait_with_output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            rest,
        )
    }
}

fn csv(dir: &Path, name: &str, text: &str) -> String {
    let file = dir.join(name);
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_import_reports_that_it_waits_for_a_service_that_has_not_started() {
    let mut server = TestServer::start();
    server.kill9();
    let dir = tempfile::tempdir().unwrap();
    let file = csv(dir.path(), "a.csv", &format!("{HEADER}\nt1,a,b,1\n"));
    let mut import = Running::start(&server, &[&file]);
    let line = import.line();
    assert!(
        line.starts_with("tally: no connection to the service, retry in "),
        "{line}"
    );
    server.restart_in_place();
    let (code, out, rest) = tokio::task::spawn_blocking(|| import.end()).await.unwrap();
    assert_eq!(code, Some(0), "{rest}");
    assert!(out.contains("\"committed\": 1"), "{out}");

    // Without a service, the import gives up after the given time. A wrong address fails at once.
    server.kill9();
    let output = import_with(&server, &[&file, "--give-up-after", "200ms"]);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{words}");
    assert!(
        words.contains("no connection to the service, retry in"),
        "{words}"
    );
}

fn import_with(server: &TestServer, arguments: &[&str]) -> Output {
    let mut command = server.command(&["import"]);
    command.args(arguments).args(OPTIONS).output().unwrap()
}

#[tokio::test]
async fn an_import_says_that_it_waits_for_an_open_circuit() {
    let server = TestServer::start();
    let dir = tempfile::tempdir().unwrap();
    let file = csv(dir.path(), "a.csv", &format!("{HEADER}\nt1,a,b,1\n"));
    let mode = |mode: &str| {
        let output = server.tally(&["circuit", "mode", mode]);
        assert!(output.status.success(), "{output:?}");
    };
    mode("forced-open");
    let mut import = Running::start(&server, &[&file]);
    let line = import.line();
    assert!(line.starts_with("tally: CIRCUIT_OPEN, retry in "), "{line}");
    mode("auto");
    let (code, out, rest) = tokio::task::spawn_blocking(|| import.end()).await.unwrap();
    assert_eq!(code, Some(0), "{rest}");
    assert!(out.contains("\"committed\": 1"), "{out}");
}

#[test]
fn a_signal_before_the_connection_says_that_nothing_was_sent() {
    let mut server = TestServer::start();
    server.kill9();
    let dir = tempfile::tempdir().unwrap();
    let file = csv(dir.path(), "a.csv", &format!("{HEADER}\nt1,a,b,1\n"));
    let mut import = Running::start(&server, &[&file]);
    let line = import.line();
    assert!(line.contains("no connection to the service, retry in "), "{line}");
    let pid = import.child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(sent.success());
    let (code, _, words) = import.end();
    assert_eq!(code, Some(130), "{words}");
    assert!(
        words.contains("so nothing was sent") && !words.contains("may have been applied"),
        "{words}"
    );
}

/// The import waits for the header on standard input when the signal arrives.
#[test]
fn a_signal_stops_an_import_that_waits_for_a_header() {
    let server = TestServer::start();
    for (signal, exit_code, word) in [("-INT", 130, "interrupted"), ("-TERM", 143, "terminated")] {
        let mut import = Running::start(&server, &["-", "--format", "csv"]);
        let stdin = import.child.stdin.take();
        let pid = import.child.id().to_string();
        // The bits of SIGINT (2) and SIGTERM (15) in the mask of the signals that the process handles.
        let handled = (1 << 1) | (1 << 14);
        loop {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let mask = status
                .lines()
                .find_map(|line| line.strip_prefix("SigCgt:"))
                .unwrap();
            if u64::from_str_radix(mask.trim(), 16).unwrap() & handled == handled {
                break;
            }
            std::thread::yield_now();
        }
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
        let (code, _, words) = import.end();
        drop(stdin);
        assert_eq!(code, Some(exit_code), "{words}");
        let expected =
            format!("tally: {word}: there was no connection to the service, so nothing was sent; to go on, ");
        assert!(words.starts_with(&expected), "{words}");
    }
}

/// The import waits for more rows on standard input when the signal arrives.
#[tokio::test]
async fn a_signal_stops_an_import_which_says_how_far_it_came() {
    for (signal, exit_code, word) in [("-INT", 130, "interrupted"), ("-TERM", 143, "terminated")] {
        let server = TestServer::start();
        let mut import = Running::start(&server, &["-", "--format", "csv", "--batch", "2"]);
        let mut stdin = import.child.stdin.take().unwrap();
        let rows: String = (1..=4).map(|number| format!("t{number},a,b,1\n")).collect();
        write!(stdin, "{HEADER}\n{rows}").unwrap();
        // The import sends the second batch after the answer to the first.
        while last_sequence(&server).await < 4 {
            assert!(import.child.try_wait().unwrap().is_none(), "the import ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let pid = import.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
        let (code, out, words) = tokio::task::spawn_blocking(|| import.end()).await.unwrap();
        drop(stdin);
        assert_eq!(code, Some(exit_code), "{words}");
        let one_of = |count: u64, line: u64| {
            words.contains(&format!(
                "tally: {word}: {count} transactions were answered, through standard input:{line}, and the next batch \
                 may have been applied; to go on, import the same files again"
            ))
        };
        assert!(one_of(2, 3) || one_of(4, 5), "{words}");
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(report["answered_through"]["file"], "standard input", "{out}");
        // The files were not read to their ends, so the number of lines is unknown.
        assert!(report["lines"].is_null(), "{out}");
    }
}

#[tokio::test]
async fn rejected_transactions_are_written_to_a_file_that_can_be_imported() {
    let server = TestServer::start();
    let dir = tempfile::tempdir().unwrap();
    let file = csv(
        dir.path(),
        "a.csv",
        &format!("{HEADER}\nt1,a,b,1\nt2,a,a,7\nt3,a,b,1\n"),
    );
    let rejects = dir.path().join("rejects.ndjson");
    let rejects_name = rejects.to_str().unwrap();
    // The second import replaces the file that the first import has written.
    for _ in 0..2 {
        let output = import_with(&server, &[&file, "--rejects", rejects_name]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }
    let text = fs::read_to_string(&rejects).unwrap();
    let reject: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&reject["line"], &reject["transaction_id"]),
        (&3.into(), &"t2".into()),
        "{text}"
    );
    assert_eq!(reject["file"].as_str(), Some(file.as_str()));
    assert!(
        reject["reason"].is_string() && reject["message"].is_string(),
        "{text}"
    );
    // The transaction can be imported with another id and another account, here after a byte order mark and from standard input.
    let mut transaction = reject["transaction"].clone();
    transaction["transaction_id"] = "t4".into();
    transaction["transfers"][0]["credit_account_id"] = "b".into();
    let mut import = Running::start(&server, &["-", "--format", "ndjson"]);
    writeln!(import.child.stdin.take().unwrap(), "\u{feff}{transaction}").unwrap();
    let (code, out, words) = import.end();
    assert_eq!(code, Some(0), "{words}");
    assert!(out.contains("\"committed\": 1"), "{out}");

    let output = import_with(&server, &[&file, "--rejects", &file]);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(
        words.contains("is a file to import, so --rejects can't replace it"),
        "{words}"
    );
    assert_eq!(output.status.code(), Some(64), "{words}");
    assert!(fs::read_to_string(&file).unwrap().starts_with(HEADER));
}

#[tokio::test]
async fn other_names_of_columns_and_kinds_are_mapped() {
    let server = TestServer::start();
    let dir = tempfile::tempdir().unwrap();
    let text =
        "Nr,Datum,Konto,Seite,Art,Betrag,Text\n1,2023-01-31,k1,credit,Einzahlung,500,\"Danke, Anna\"\n";
    let file = csv(dir.path(), "a.csv", text);
    let columns = "transaction_id=Nr,date=Datum,account_id=Konto,side=Seite,kind=Art,amount=Betrag";
    let good = [
        file.as_str(),
        "--columns",
        columns,
        "--ignore-columns",
        "Text",
        "--kinds",
        "cash-deposit=Einzahlung",
    ];
    let report = report(&import_with(&server, &good));
    assert_eq!(
        (&report["committed"], &report["accounts_created"]),
        (&1.into(), &2.into())
    );
    let client = server.client().await;
    assert!(client.get_account("bank:cash-deposit").await.unwrap().is_some());

    for (arguments, exit_code, expected) in [
        (
            &good[..3],
            65,
            "column \"Text\" is unknown; the other columns are those of a bank statement",
        ),
        (
            &good[..5],
            65,
            "column \"Art\" (kind) is \"Einzahlung\", expected one of cash-deposit, ",
        ),
        (
            &[&file, "--columns", "day=Datum"][..],
            64,
            "no layout has a column day; ",
        ),
        (&[&file, "--columns", "date=Tag"], 65, "has no column \"Tag\""),
        (
            &[&file, "--kinds", "gift=Geschenk"],
            64,
            "a bank statement has no kind gift; ",
        ),
        (&[&file, "--columns", "Datum"], 64, "must be NAME=NAME-IN-FILE"),
        (
            &["-"],
            64,
            "standard input has no file name that shows its format; set --format",
        ),
        (
            &["-", "-", "--format", "csv"],
            64,
            "standard input (-) is named twice",
        ),
    ] {
        let output = import_with(&server, arguments);
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(exit_code), "{arguments:?}: {words}");
        assert!(words.contains(expected), "{arguments:?}: {words}");
    }
}

/// Imports `file` at `endpoint`, which is not a service. Returns the exit code and standard error.
fn import_at(endpoint: &str, file: &str, give_up_after: &str) -> (Option<i32>, String) {
    let output = Command::new(BINARY)
        .args([
            "import",
            file,
            "--give-up-after",
            give_up_after,
            "--endpoint",
            endpoint,
        ])
        .args(OPTIONS)
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// 2,000 accounts, so that an import that makes a call for each account makes many calls at the same time.
fn many_accounts(dir: &Path) -> String {
    let rows: String = (0..1000)
        .map(|number| format!("t{number},a{number},b{number},1\n"))
        .collect();
    csv(dir, "a.csv", &format!("{HEADER}\n{rows}"))
}

/// An importer that looks up accounts before it creates them would count an error for each account.
#[tokio::test]
async fn an_import_that_creates_accounts_counts_no_errors() {
    let server = TestServer::start();
    let dir = tempfile::tempdir().unwrap();
    let client = server.client().await;
    // An account that exists keeps its balance rule.
    let existing = Account {
        id: "b1".to_owned(),
        asset: "EUR".to_owned(),
        balance_rule: BalanceRule::CreditBalance.into(),
        ..Account::default()
    };
    client.batch_create_accounts(vec![existing]).await.unwrap();
    let file = many_accounts(dir.path());
    let first = report(&import(&server, &file));
    let again = report(&import(&server, &file));
    assert_eq!(
        (&first["accounts_created"], &again["accounts_created"]),
        (&1999.into(), &0.into())
    );
    assert_eq!(
        (&first["committed"], &again["replayed"]),
        (&1000.into(), &1000.into())
    );
    let kept = client.get_account("b1").await.unwrap().unwrap();
    assert_eq!(kept.balance_rule(), BalanceRule::CreditBalance);
    let metrics = get(&server, "/metrics").await.2;
    let errors: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("tally_errors_total{") && !line.ends_with(" 0"))
        .collect();
    assert_eq!(errors, [""; 0]);
}

#[test]
fn an_import_opens_few_connections_to_a_port_that_closes_them() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    // The thread ends with the process of the test.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            count.fetch_add(1, Ordering::Relaxed);
            drop(stream);
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let (code, words) = import_at(&endpoint, &many_accounts(dir.path()), "2s");
    assert_eq!(code, Some(69), "{words}");
    // The delays of the client are at least 25, 50, 100, 200, 400, 800 and 1000 ms, so at most 7 attempts begin within 2 s.
    let opened = opened.load(Ordering::Relaxed);
    assert!((1..=14).contains(&opened), "{opened} connections: {words}");
}

#[test]
fn an_import_names_the_time_in_which_no_answer_arrived() {
    // The system accepts connections to this port, but nobody answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let (code, words) = import_at(&endpoint, &many_accounts(dir.path()), "300ms");
    assert_eq!(code, Some(69), "{words}");
    assert!(words.contains("no answer within 300 ms"), "{words}");
}

#[test]
fn an_import_that_creates_accounts_needs_their_asset() {
    let server = TestServer::start();
    let statement = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/statement.csv");
    let output = server.tally(&["import", statement.to_str().unwrap()]);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{words}");
    assert!(words.contains("set --asset, for example --asset EUR"), "{words}");
}

/// A service whose process is stopped keeps its connections, so only the silence shows that something is wrong.
#[tokio::test]
async fn an_import_says_that_the_service_does_not_answer() {
    let server = TestServer::start();
    let mut import = Running::start(&server, &["-", "--format", "csv", "--batch", "1"]);
    let mut stdin = import.child.stdin.take().unwrap();
    writeln!(stdin, "{HEADER}\nt1,a,b,1").unwrap();
    while last_sequence(&server).await < 1 {
        assert!(import.child.try_wait().unwrap().is_none(), "the import ended");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.freeze();
    writeln!(stdin, "t2,a,b,1").unwrap();
    drop(stdin);
    let line = import.line();
    server.thaw();
    assert!(
        line.starts_with("tally: the service has not answered since ")
            && line.contains("the import waits for a call for up to 60 s (--give-up-after)"),
        "{line}"
    );
    assert_eq!(import.child.wait().unwrap().code(), Some(0));
    assert_eq!(last_sequence(&server).await, 2);
}

#[tokio::test]
async fn a_full_disk_for_rejections_is_reported_with_what_was_applied() {
    let server = TestServer::start();
    let dir = tempfile::tempdir().unwrap();
    let file = csv(dir.path(), "a.csv", &format!("{HEADER}\nt1,a,b,1\nt2,a,a,7\n"));
    let output = import_with(&server, &[&file, "--rejects", "/dev/full"]);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(74), "{words}");
    for expected in [
        "can't write the rejected transactions to /dev/full: No space left on device; free space on its file system",
        "; 2 transactions were answered, through ",
        "a.csv:3, and the file lacks rejections of the last of them; then import the same files again",
    ] {
        assert!(words.contains(expected), "{expected:?} is not in {words}");
    }
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["committed"], &report["rejected"]),
        (&1.into(), &1.into())
    );
    assert!(report["rejects_file"].is_null(), "{report}");
}
