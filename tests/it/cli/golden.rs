//! Compares the output of commands with the golden files in `tests/cli`. Each directory of golden files has its own environment.
//!
//! `TRYCMD=overwrite cargo test --locked --workspace --test it -- cli::golden` writes the current output into the files.

use std::{fs, path::Path, process::Command};

use tally::proto::{Account, BalanceRule, ProcessTransactionRequest, TransactionPhase};
use trycmd::TestCases;

use crate::{
    security::{READ, WRITE, authority::Authority, token_lines, with_tokens},
    store::process::{damage_blocks, small_segments},
    support::{
        in_process::{account, transaction, transfer},
        server::{BINARY, ServerOptions, TestServer},
    },
};

/// An endpoint at which nothing listens: port 1 is reserved for a protocol that is no longer in use.
const NOTHING: &str = "http://127.0.0.1:1";

/// Returns the golden files in `directory`. Commands call the service at `endpoint`, unless an option says otherwise.
fn cases(directory: &str, endpoint: &str) -> TestCases {
    let cases = TestCases::new();
    cases
        .case(format!("tests/cli/{directory}/*.md"))
        .register_bin("tally", std::path::Path::new(BINARY))
        .env("TALLY_ENDPOINT", endpoint)
        // The width of help texts must not depend on the terminal.
        .env("COLUMNS", "100");
    cases.insert_var("[ENDPOINT]", endpoint.to_owned()).unwrap();
    cases
}

/// Runs the golden file `tests/cli/files/NAME.md`, whose commands read and write files. They run in a new directory that `prepare`
/// fills. With TRYCMD=overwrite, writes the current output into the golden file.
fn cases_with_files(name: &str, endpoint: &str, prepare: impl FnOnce(&Path)) {
    let home = tempfile::tempdir().unwrap();
    let golden = Path::new("tests/cli/files").join(name).with_extension("md");
    let copy = home.path().join(name).with_extension("md");
    // `[ENDPOINT]` in a command is the endpoint. trycmd replaces it in outputs only.
    let replaced = |text: String, from: &str, to: &str| -> String {
        text.split_inclusive('\n')
            .map(|line| {
                if line.starts_with("$ ") {
                    line.replace(from, to)
                } else {
                    line.to_owned()
                }
            })
            .collect()
    };
    let text = fs::read_to_string(&golden).unwrap();
    fs::write(&copy, replaced(text, "[ENDPOINT]", endpoint)).unwrap();
    let directory = copy.with_extension("in");
    fs::create_dir(&directory).unwrap();
    prepare(&directory);
    let cases = TestCases::new();
    cases
        .case(&copy)
        .register_bin("tally", Path::new(BINARY))
        .register_bin("cat", Path::new("/bin/cat"))
        .env("TALLY_ENDPOINT", endpoint)
        .env("COLUMNS", "100");
    cases.insert_var("[ENDPOINT]", endpoint.to_owned()).unwrap();
    cases.run();
    if std::env::var("TRYCMD").is_ok_and(|mode| mode == "overwrite") {
        drop(cases);
        let text = fs::read_to_string(&copy).unwrap();
        fs::write(&golden, replaced(text, endpoint, "[ENDPOINT]")).unwrap();
    }
}

/// Returns a service with TLS and tokens, its `https` endpoint, and the authority that signed its certificate.
fn secured(home: &std::path::Path) -> (TestServer, String, Authority) {
    let authority = Authority::new(home, "authority");
    let pair = authority.server("server");
    let tokens = home.join("tokens");
    std::fs::write(&tokens, token_lines()).unwrap();
    let server = ServerOptions::default()
        .env(
            "TALLY__SECURITY__TLS_CERTIFICATE",
            pair.certificate.to_str().unwrap(),
        )
        .env("TALLY__SECURITY__TLS_KEY", pair.key.to_str().unwrap())
        .env("TALLY__SECURITY__TOKENS_FILE", tokens.to_str().unwrap())
        .start();
    let endpoint = server.endpoint().replace("http://", "https://");
    (server, endpoint, authority)
}

/// The texts of `--help`, errors of the command line, and errors without a service.
#[test]
fn without_a_service() {
    let home = tempfile::tempdir().unwrap();
    let cases = TestCases::new();
    cases
        .case("tests/cli/offline/*.md")
        .register_bin("tally", std::path::Path::new(BINARY))
        .env("COLUMNS", "100")
        .env("HOME", home.path().to_str().unwrap());
    cases.run();
}

#[test]
fn at_an_endpoint_without_a_service() {
    cases("nothing", NOTHING).run();
}

#[test]
fn with_a_service() {
    let server = TestServer::start();
    cases("service", &server.endpoint()).run();
}

/// These commands change circuits, so they have their own service: the files of a directory run in parallel.
#[test]
fn with_a_service_whose_circuits_change() {
    let server = TestServer::start();
    cases("circuit", &server.endpoint()).run();
}

/// A hold, two posts (of a part and of the rest), a reversal, an update, a transaction that the update forbids, and a transaction that it
/// allows.
const HOLDS: [&str; 7] = [
    r#"{"transactionId":"h1","phase":"TRANSACTION_PHASE_PENDING","transfers":[{"debitAccountId":"bank","creditAccountId":"shop","minorUnits":"600"}],"pendingTimeout":"604800s"}"#,
    r#"{"transactionId":"h2","phase":"TRANSACTION_PHASE_POST_PENDING","pendingTransactionId":"h1","transfers":[{"debitAccountId":"bank","creditAccountId":"shop","minorUnits":"250"}],"keepRemaining":true}"#,
    r#"{"transactionId":"h3","phase":"TRANSACTION_PHASE_POST_PENDING","pendingTransactionId":"h1"}"#,
    r#"{"transactionId":"h4","reversesTransactionId":"h2"}"#,
    r#"{"account":{"id":"shop","status":"ACCOUNT_STATUS_DEBITS_FROZEN"},"updateMask":"status"}"#,
    r#"{"transactionId":"h5","transfers":[{"debitAccountId":"shop","creditAccountId":"bank","minorUnits":"1"}]}"#,
    r#"{"transactionId":"h6","transfers":[{"debitAccountId":"bank","creditAccountId":"shop","minorUnits":"1"}]}"#,
];

/// A service with a payment, a hold that is posted in two parts, and a rejection.
#[tokio::test]
async fn with_a_ledger() {
    let server = TestServer::start();
    let client = server.client().await;
    let limited = |id: &str| Account {
        balance_rule: BalanceRule::CreditBalance.into(),
        metadata: [("name".to_owned(), format!("{id}'s"))].into(),
        ..account(id)
    };
    let accounts = vec![account("bank"), limited("alice"), limited("shop")];
    client.batch_create_accounts(accounts).await.unwrap();
    let pay =
        |id: &str, debit: &str, credit: &str, units| transaction(id, vec![transfer(debit, credit, units)]);
    let of_hold = |request: ProcessTransactionRequest, keep_remaining| ProcessTransactionRequest {
        phase: TransactionPhase::PostPending.into(),
        pending_transaction_id: "hold".to_owned(),
        keep_remaining,
        ..request
    };
    let hold = ProcessTransactionRequest {
        phase: TransactionPhase::Pending.into(),
        ..pay("hold", "alice", "shop", 60)
    };
    for request in [
        pay("pay", "bank", "alice", 100),
        hold,
        of_hold(pay("capture", "alice", "shop", 25), true),
        of_hold(transaction("rest", Vec::new()), false),
    ] {
        client.process_transaction(request).await.unwrap();
    }
    let rejected = client
        .process_transaction(pay("too-much", "alice", "shop", 500))
        .await;
    assert!(rejected.is_err());
    cases("ledger", &server.endpoint()).run();
}

#[test]
fn imports() {
    let server = TestServer::start();
    cases_with_files("import", &server.endpoint(), |directory| {
        fs::copy("examples/statement.csv", directory.join("statement.csv")).unwrap();
        let header = "transaction_id,debit_account_id,credit_account_id,minor_units";
        let transfers = format!("{header}\nt1,bank,alice,5\nt2,alice,bob,7\n");
        for (name, text) in [
            ("transfers.csv", transfers.clone()),
            ("transfers.txt", transfers.clone()),
            ("renamed.csv", transfers.replace("minor_units", "Betrag")),
            ("fraction.csv", format!("{header}\nt3,bank,alice,1.50\n")),
            ("empty.csv", String::new()),
            (
                "unknown-field.ndjson",
                r#"{"transaction_id":"t4","transfers":[{"debit_account_id":"bank","amount":5}]}"#.to_owned(),
            ),
            ("cut.ndjson", r#"{"transaction_id":"t5","transfers":["#.to_owned()),
            ("holds.ndjson", HOLDS.join("\n")),
            (
                "update.ndjson",
                r#"{"account":{"id":"nobody","status":"ACCOUNT_STATUS_FROZEN"},"updateMask":"status"}"#
                    .to_owned(),
            ),
            (
                "hold-without-transfers.ndjson",
                r#"{"transactionId":"h7","phase":"TRANSACTION_PHASE_PENDING"}"#.to_owned(),
            ),
            ("holds.csv", format!("{header},phase\nt6,bank,alice,1,PENDING\n")),
        ] {
            fs::write(directory.join(name), text).unwrap();
        }
        // The first bytes of a gzip file.
        for name in ["compressed.csv.gz", "compressed.csv", "compressed.ndjson"] {
            fs::write(directory.join(name), [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]).unwrap();
        }
        // The first bytes of zstd, of a spreadsheet, and of UTF-16 text.
        fs::write(directory.join("statement.csv.zst"), b"\x28\xb5\x2f\xfd\x24\0").unwrap();
        fs::write(directory.join("sheet.xlsx"), b"PK\x03\x04\x14\0").unwrap();
        fs::write(directory.join("excel.csv"), b"\xff\xfet\0r\0").unwrap();
        for (name, target) in [("dangling.csv", "nowhere.csv"), ("circle.csv", "circle.csv")] {
            std::os::unix::fs::symlink(target, directory.join(name)).unwrap();
        }
        fs::write(
            directory.join("wrong-value.ndjson"),
            r#"{"transaction_id":"t6","transfers":[{"debit_account_id":"bank","minor_units":"1.50"}]}"#,
        )
        .unwrap();
    });
}

#[test]
fn imports_without_a_service() {
    cases_with_files("import-nothing", NOTHING, |directory| {
        fs::write(directory.join("empty.ndjson"), "").unwrap();
    });
}

#[test]
fn checks_of_data_directories() {
    let mut stopped = small_segments().start();
    let imported = stopped.tally(&[
        "import",
        "--asset",
        "EUR",
        "--batch",
        "250",
        "examples/statement.csv",
    ]);
    assert!(imported.status.success(), "{imported:?}");
    stopped.terminate();
    assert_eq!(stopped.wait().code(), Some(0));
    let running = TestServer::start();
    cases_with_files("verify", NOTHING, |directory| {
        let copy = |name: &str| {
            let target = directory.join(name);
            let copied = Command::new("cp")
                .arg("-r")
                .arg(stopped.data())
                .arg(&target)
                .status();
            assert!(copied.unwrap().success());
            target
        };
        copy("sound");
        damage_blocks(&copy("damaged"), &[3]);
        fs::write(copy("damaged-format").join("FORMAT"), "no format\n").unwrap();
        let segment = copy("cut").join("journal/0000000000.segment");
        let file = fs::OpenOptions::new().write(true).open(segment).unwrap();
        file.set_len(1 << 20).unwrap();
        let format_only = directory.join("format-only");
        fs::create_dir(&format_only).unwrap();
        fs::copy(stopped.data().join("FORMAT"), format_only.join("FORMAT")).unwrap();
        std::os::unix::fs::symlink(running.data(), directory.join("running")).unwrap();
        fs::create_dir(directory.join("empty")).unwrap();
        fs::create_dir(directory.join("foreign")).unwrap();
        fs::write(directory.join("foreign/notes.txt"), "text").unwrap();
        fs::write(directory.join("file"), "text").unwrap();
    });
}

#[test]
fn tokens() {
    cases_with_files("token", NOTHING, |directory| {
        fs::write(directory.join("malformed"), "write payments\n").unwrap();
        fs::write(directory.join("mine.token"), "mine\n").unwrap();
    });
}

#[test]
fn benchmarks() {
    let server = TestServer::start();
    cases_with_files("bench", &server.endpoint(), |_| ());
}

#[test]
fn with_tls_but_the_service_has_no_tls() {
    let server = TestServer::start();
    cases("tls_to_plain", &server.endpoint().replace("http://", "https://")).run();
}

#[test]
fn without_tls_but_the_service_has_tls() {
    let home = tempfile::tempdir().unwrap();
    let (server, endpoint, _) = secured(home.path());
    cases("plain_to_tls", &server.endpoint()).run();
    for (name, endpoint) in [
        ("import-plain-to-tls", server.endpoint()),
        ("import-untrusted", endpoint),
    ] {
        cases_with_files(name, &endpoint, |directory| {
            fs::copy("examples/statement.csv", directory.join("statement.csv")).unwrap();
        });
    }
}

#[test]
fn with_tls_and_tokens() {
    let home = tempfile::tempdir().unwrap();
    let (_server, endpoint, authority) = secured(home.path());
    cases("untrusted", &endpoint).run();
    let ca = authority.certificate.to_str().unwrap();
    cases("tls", &endpoint)
        .env("TALLY_CA", ca)
        .env("TALLY_TOKEN", READ)
        .run();
    cases_with_files("bench-tls", &endpoint, |directory| {
        fs::copy(ca, directory.join("ca.pem")).unwrap();
        fs::write(directory.join("write.token"), WRITE).unwrap();
        fs::write(directory.join("read.token"), READ).unwrap();
    });
}

#[test]
fn with_tokens_but_the_client_has_none() {
    let (server, ..) = with_tokens();
    cases("no_token", &server.endpoint()).run();
    cases_with_files("import-no-token", &server.endpoint(), |directory| {
        fs::copy("examples/statement.csv", directory.join("statement.csv")).unwrap();
    });
}

#[test]
fn at_the_operators_port() {
    let server = TestServer::start();
    cases("operators_port", &format!("http://{}", server.admin())).run();
}
