//! Tests of `tally export` as a process: an interrupted export is resumed and gets the same bytes, and other files are never changed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use crate::support::server::{BINARY, ServerOptions, TestServer};

/// Number of transactions. Their lines have more than 2 MiB, in CSV too.
const TRANSACTIONS: usize = 30_000;
/// Interval at which the length of a file is read.
const POLL: Duration = Duration::from_millis(2);

/// A server with many transactions.
fn server() -> (TestServer, tempfile::TempDir) {
    let server = ServerOptions::default()
        .env("TALLY__STORE__SEGMENT_BYTES", "8MiB")
        .env("TALLY__STORE__BLOCK_BYTES_MAX", "2MiB")
        .start();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("transfers.csv");
    let mut lines = "transaction_id,debit_account_id,credit_account_id,minor_units\n".to_owned();
    for number in 0..TRANSACTIONS {
        let (debit, credit) = (number % 7, number % 5 + 7);
        lines.push_str(&format!(
            "t{number},account-{debit},account-{credit},{}\n",
            number + 1
        ));
    }
    fs::write(&file, lines).unwrap();
    let file = file.to_str().unwrap();
    let imported = server.tally(&["import", "--create-accounts", "--asset", "EUR", file]);
    assert!(imported.status.success(), "{imported:?}");
    (server, home)
}

fn command(source: &[&str], output: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("export").args(source).arg("--output").arg(output);
    command.stdin(Stdio::null());
    command
}

fn assert_done(done: &Output) {
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn note(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".progress");
    name.into()
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Exports with a limit of file sizes, which ends the export like a full disk, then kills some exports, and lets the last one finish.
fn assert_goes_on(source: &[&str], home: &Path, name: &str) {
    let whole = home.join(format!("whole-{name}"));
    assert_done(&command(source, &whole).output().unwrap());
    assert!(!note(&whole).exists());
    let bytes = fs::read(&whole).unwrap();
    let interrupted = home.join(format!("interrupted-{name}"));
    let export = command(source, &interrupted);
    // In units of 512 bytes.
    let limited = Command::new("sh")
        .args(["-c", "ulimit -f 3000; exec \"$@\"", "sh"])
        .arg(export.get_program())
        .args(export.get_args())
        .output()
        .unwrap();
    assert_eq!(limited.status.code(), Some(74), "{limited:?}");
    let noted = length(&note(&interrupted));
    assert!(
        noted > 0 && length(&interrupted) >= 1 << 20,
        "the export got a note on its way"
    );

    // An export with other options can't resume the file.
    let mut other: Vec<&str> = source.to_vec();
    other.extend(["--from", "2"]);
    let refused = command(&other, &interrupted).output().unwrap();
    assert_eq!(refused.status.code(), Some(64), "{refused:?}");

    for megabytes in [1, 2] {
        let mut export = command(source, &interrupted)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while length(&interrupted) < (megabytes << 20) + (512 << 10) && export.try_wait().unwrap().is_none() {
            thread::sleep(POLL);
        }
        let _ = export.kill();
        let _ = export.wait();
        if !note(&interrupted).exists() {
            // The export has ended before the test could kill it.
            fs::remove_file(&interrupted).unwrap();
        }
    }
    assert_done(&command(source, &interrupted).output().unwrap());
    assert!(
        fs::read(&interrupted).unwrap() == bytes,
        "{name}: the bytes differ"
    );
    assert!(!note(&interrupted).exists());

    // A complete file is never replaced.
    let again = command(source, &interrupted).output().unwrap();
    assert_eq!(again.status.code(), Some(64), "{again:?}");
    assert!(fs::read(&interrupted).unwrap() == bytes);
}

#[test]
fn an_interrupted_export_goes_on_and_gets_the_same_bytes() {
    let (mut server, home) = server();
    let endpoint = server.endpoint();
    let service = ["--endpoint", endpoint.as_str()];
    assert_goes_on(&service, home.path(), "service.ndjson");
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    let directory = ["--data", server.data().to_str().unwrap()];
    assert_goes_on(&directory, home.path(), "directory.ndjson");
    assert_goes_on(&directory, home.path(), "directory.csv");
    // On standard output, the export has the same bytes.
    let printed = Command::new(BINARY)
        .arg("export")
        .args(directory)
        .output()
        .unwrap();
    assert_done(&printed);
    assert!(printed.stdout == fs::read(home.path().join("whole-directory.ndjson")).unwrap());
}
