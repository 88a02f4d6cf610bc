//! Tests the example of a bank statement: the generator makes the statement, the real binary imports it, and every
//! balance must equal the balance that the generator states.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    real_data::{all_balances, read_csv},
    support::server::TestServer,
};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn balances(file: &Path) -> BTreeMap<String, i128> {
    read_csv::<(String, i128)>(file).into_iter().collect()
}

/// Imports a statement with its names, and returns the report.
fn import(server: &TestServer, file: &Path) -> Value {
    let output = server.tally(&[
        "import",
        file.to_str().unwrap(),
        "--asset",
        "EUR",
        "--output",
        "json",
    ]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_generator_makes_the_files_of_the_repository() {
    let home = tempfile::tempdir().unwrap();
    let generated = Command::new(examples().join("generate-statement"))
        .arg("1000")
        .arg(home.path())
        .status()
        .unwrap();
    assert!(generated.success());
    for name in ["statement.csv", "statement-balances.csv"] {
        assert_eq!(
            fs::read_to_string(home.path().join(name)).unwrap(),
            fs::read_to_string(examples().join(name)).unwrap(),
            "{name} differs; run examples/generate-statement"
        );
    }
}

#[test]
fn the_generator_rejects_wrong_arguments_and_writes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("statements");
    for rows in [
        "abc",
        "--help",
        "",
        "0",
        "-5",
        "1.5",
        "1000001",
        "99999999999999999999",
    ] {
        let output = Command::new(examples().join("generate-statement"))
            .arg(rows)
            .arg(&directory)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(64), "{rows}: {output:?}");
        assert!(
            output.stderr.starts_with(b"usage: generate-statement "),
            "{output:?}"
        );
        assert!(!directory.exists(), "{rows}");
    }
}

#[tokio::test]
async fn an_import_of_the_example_gives_the_balances_of_the_generator() {
    let server = TestServer::start();
    let (statement, expected) = (
        examples().join("statement.csv"),
        balances(&examples().join("statement-balances.csv")),
    );
    assert_eq!(expected.values().sum::<i128>(), 0);
    let report = import(&server, &statement);
    assert_eq!(
        (
            &report["committed"],
            &report["rejected"],
            &report["last_sequence"]
        ),
        (&1000.into(), &0.into(), &1000.into())
    );
    let client = server.client().await;
    assert_eq!(all_balances(&client).await, expected);
    let again = import(&server, &statement);
    assert_eq!(
        (&again["replayed"], &again["committed"]),
        (&1000.into(), &0.into())
    );
    assert_eq!(all_balances(&client).await, expected);
}
