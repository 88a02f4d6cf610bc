//! Tests of the ledger view of the operators' port: who may read what, its pages and its bounds.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tally::{
    client::Client,
    proto::{
        Account, ProcessTransactionRequest, TransactionPhase, Transfer, Uint128,
        transaction_service_client::TransactionServiceClient, transfer::Amount,
    },
    security::hash_hex,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::transport::Channel;

use super::{ADMIN, READ, WRITE, tokens::with_token, with_accounts, with_tokens};
use crate::support::{
    in_process::{account, pay, transaction, transfer},
    operators::{ask, get},
    server::{ServerOptions, TestServer},
};

/// The token of a tenant, which may use only ids that begin with `acme/`.
const TENANT: &str = "token-of-the-tenant";
/// Number of rows of a page of a statement and of the feed.
const PAGE_ROWS: usize = 50;

async fn read(server: &TestServer, path: &str, token: Option<&str>) -> (StatusCode, String) {
    let (status, content_type, text) = ask(server, Method::GET, path, token, "").await;
    if status == StatusCode::OK {
        assert_eq!(content_type, "application/json", "{path}");
    }
    (status, text)
}

/// Makes a request that must succeed, and returns its JSON.
async fn shown(server: &TestServer, path: &str, token: Option<&str>) -> Value {
    let (status, text) = read(server, path, token).await;
    assert_eq!(status, StatusCode::OK, "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn every_role_reads_the_ledger_and_nobody_reads_it_without_a_token() {
    let (server, _home, _file) = with_tokens();
    let not_valid = "the bearer token is not valid\n";
    let missing = "the request needs a bearer token\n";
    for path in [
        "/ledger/account?account_id=a",
        "/ledger/entries?account_id=a",
        "/ledger/holds?account_id=a",
        "/ledger/transaction?transaction_id=t",
        "/ledger/feed",
        // Without a token, a caller does not learn what is wrong with a request.
        "/ledger/feed?nothing=1",
    ] {
        for (token, expected) in [(None, missing), (Some("wrong"), not_valid), (Some(""), missing)] {
            let refused = read(&server, path, token).await;
            assert_eq!(refused, (StatusCode::UNAUTHORIZED, expected.to_owned()), "{path}");
        }
    }
    for token in [READ, WRITE, ADMIN].map(Some) {
        let (status, text) = read(&server, "/ledger/account?account_id=a", token).await;
        assert_eq!(
            (status, text.as_str()),
            (StatusCode::NOT_FOUND, "account \"a\" does not exist\n")
        );
        assert_eq!(
            shown(&server, "/ledger/feed", token).await["transactions"],
            json!([])
        );
        assert_eq!(shown(&server, "/ledger/holds", token).await["holds"], json!([]));
    }
    let (status, _, text) = ask(&server, Method::POST, "/ledger/feed", Some(READ), "").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{text}");
    // 18 requests had no valid token. 12 of them had no token; an empty token counts as none.
    let metrics = get(&server, "/metrics").await.2;
    for line in [
        "tally_auth_failures_total{kind=\"missing_token\"} 12",
        "tally_auth_failures_total{kind=\"invalid_token\"} 6",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    // The page itself has no data, and loads nothing from elsewhere.
    let (status, content_type, page) = get(&server, "/ledger").await;
    assert_eq!(
        (status, content_type.as_str()),
        (StatusCode::OK, "text/html; charset=utf-8")
    );
    assert!(page.starts_with("<!doctype html>") && !page.contains("innerHTML"));
}

/// Sends a request by hand. Returns the answer with its head.
async fn by_hand(server: &TestServer, path: &str, host: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(server.admin()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn without_tokens_the_ledger_is_shown_under_addresses_of_this_machine_only() {
    let (server, client) = with_accounts(ServerOptions::default()).await;
    client.process_transaction(pay("t")).await.unwrap();
    let path = "/ledger/transaction?transaction_id=t";
    for host in ["localhost:9090", "127.0.0.1"] {
        let answer = by_hand(&server, path, host).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        for header in [
            "cache-control: no-store\r\n",
            "x-content-type-options: nosniff\r\n",
        ] {
            assert!(answer.contains(header), "{answer}");
        }
    }
    // The owner of a host name can let it point to this machine, so that a page loaded from this name could read the ledger.
    let answer = by_hand(&server, path, "rebound.example:9090").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let page = by_hand(&server, "/ledger", "rebound.example").await;
    let policy = "content-security-policy: default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                  base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n";
    assert!(
        page.starts_with("HTTP/1.1 200 ") && page.contains(policy),
        "{page}"
    );
}

/// A client of the gRPC port that has a token.
struct Writer(TransactionServiceClient<Channel>);

impl Writer {
    async fn process(&mut self, request: ProcessTransactionRequest) {
        let request = with_token(request, Some(WRITE));
        self.0.process_transaction(request).await.unwrap();
    }
}

/// Starts a server with the three roles and a tenant, with accounts and transactions of the tenant and of others.
async fn with_tenant() -> (TestServer, tempfile::TempDir) {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("tokens");
    let tenant = format!("read acme {} prefix=acme/\n", hash_hex(TENANT.as_bytes()));
    std::fs::write(&file, super::token_lines() + &tenant).unwrap();
    let server = ServerOptions::default()
        .env("TALLY__SECURITY__TOKENS_FILE", file.to_str().unwrap())
        .start();
    let channel = Channel::from_shared(server.endpoint())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut accounts = tally::proto::account_service_client::AccountServiceClient::new(channel.clone());
    for id in ["acme/a", "acme/b", "other/a"] {
        let request = tally::proto::CreateAccountRequest {
            account: Some(account(id)),
        };
        accounts
            .create_account(with_token(request, Some(WRITE)))
            .await
            .unwrap();
    }
    let mut writer = Writer(TransactionServiceClient::new(channel));
    let pay = |id: &str, debit: &str, credit: &str| transaction(id, vec![transfer(debit, credit, 5)]);
    writer.process(pay("acme/own", "acme/a", "acme/b")).await;
    writer.process(pay("acme/across", "acme/a", "other/a")).await;
    writer.process(pay("other/across", "acme/a", "other/a")).await;
    let hold = ProcessTransactionRequest {
        phase: TransactionPhase::Pending.into(),
        ..pay("other/hold", "acme/a", "other/a")
    };
    writer.process(hold).await;
    (server, home)
}

#[tokio::test]
async fn a_token_with_a_prefix_shows_its_own_ids_only() {
    let (server, _home) = with_tenant().await;
    let tenant = Some(TENANT);
    // Accounts and transactions of others look as if they did not exist.
    for (path, id) in [
        ("account?account_id", "account"),
        ("entries?account_id", "account"),
        ("transaction?transaction_id", "transaction"),
    ] {
        for name in ["other/a", "other/across", "other/nothing"] {
            let refused = read(&server, &format!("/ledger/{path}={name}"), tenant).await;
            let expected = (StatusCode::NOT_FOUND, format!("{id} \"{name}\" does not exist\n"));
            assert_eq!(refused, expected);
        }
    }
    let found = shown(&server, "/ledger/account?account_id=acme%2Fa", tenant).await;
    assert_eq!(found["account"]["balances"]["debits_posted"]["minor_units"], "15");
    let entries = shown(&server, "/ledger/entries?account_id=acme/a", tenant).await;
    let row = |row: &Value| {
        (
            row["transaction_id"].clone(),
            row["counterparty_account_id"].clone(),
        )
    };
    let rows: Vec<_> = entries["entries"].as_array().unwrap().iter().map(row).collect();
    let expected = [("", ""), ("", ""), ("acme/across", ""), ("acme/own", "acme/b")];
    assert_eq!(rows, expected.map(|(id, other)| (json!(id), json!(other))));
    let across = shown(&server, "/ledger/transaction?transaction_id=acme/across", tenant).await;
    let transfer = &across["transaction"]["transfers"][0];
    assert_eq!(
        (&transfer["debit_account_id"], &transfer["credit_account_id"]),
        (&json!("acme/a"), &json!(""))
    );
    assert_eq!(across["transaction"]["principal"], "writer");
    let ids = |feed: &Value| -> Vec<Value> {
        let transactions = feed["transactions"].as_array().unwrap();
        transactions
            .iter()
            .map(|shown| shown["transaction_id"].clone())
            .collect()
    };
    let feed = shown(&server, "/ledger/feed", tenant).await;
    assert_eq!(ids(&feed), ["acme/across", "acme/own"]);
    let feed = shown(&server, "/ledger/feed", Some(READ)).await;
    assert_eq!(
        ids(&feed),
        ["other/hold", "other/across", "acme/across", "acme/own"]
    );
    let holds = "/ledger/holds?account_id=acme/a";
    assert_eq!(shown(&server, holds, tenant).await["holds"], json!([]));
    assert_eq!(
        shown(&server, holds, Some(READ)).await["holds"][0]["transaction_id"],
        "other/hold"
    );
    for text in [feed, entries, across] {
        assert!(text.to_string().contains("acme/"), "{text}");
    }
}

/// Reads a statement page by page, and returns the sequences of its rows.
async fn statement(server: &TestServer, account: &str) -> Vec<u64> {
    let (mut token, mut sequences) = (String::new(), Vec::new());
    loop {
        let path = format!("/ledger/entries?account_id={account}&page_token={token}");
        let page = shown(server, &path, None).await;
        let rows = page["entries"].as_array().unwrap();
        assert!(rows.len() <= PAGE_ROWS);
        sequences.extend(
            rows.iter()
                .map(|row| row["sequence"].as_str().unwrap().parse::<u64>().unwrap()),
        );
        token = page["next_page_token"].as_str().unwrap().to_owned();
        if token.is_empty() {
            return sequences;
        }
    }
}

#[tokio::test]
async fn the_pages_of_a_statement_are_complete_and_the_feed_continues_where_it_ended() {
    let (server, client) = with_accounts(ServerOptions::default()).await;
    let count = u64::try_from(2 * PAGE_ROWS + 3).unwrap();
    for number in 0..count {
        client
            .process_transaction(pay(&format!("t{number}")))
            .await
            .unwrap();
    }
    assert_eq!(
        statement(&server, "a").await,
        (1..=count).rev().collect::<Vec<_>>()
    );
    let page = shown(&server, "/ledger/entries?account_id=a", None).await;
    let foreign = format!(
        "/ledger/entries?account_id=b&page_token={}",
        page["next_page_token"].as_str().unwrap()
    );
    let (status, text) = read(&server, &foreign, None).await;
    let expected = "page_token: is not a next_page_token of ListAccountEntries with the same filter\n";
    assert_eq!((status, text.as_str()), (StatusCode::BAD_REQUEST, expected));

    let feed = shown(&server, "/ledger/feed", None).await;
    let newest = feed["transactions"].as_array().unwrap();
    assert_eq!(
        (newest.len(), &newest[0]["transaction_id"]),
        (PAGE_ROWS, &json!(format!("t{}", count - 1)))
    );
    assert_eq!(feed["durable_sequence"], count.to_string());
    let rest = format!("/ledger/feed?from={}", count + 1);
    assert_eq!(shown(&server, &rest, None).await["transactions"], json!([]));
    client.process_transaction(pay("later")).await.unwrap();
    let feed = shown(&server, &rest, None).await;
    let found = feed["transactions"].as_array().unwrap();
    assert_eq!((found.len(), &found[0]["transaction_id"]), (1, &json!("later")));
    assert_eq!(found[0]["effects"][0]["posted_amount"]["minor_units"], "1");
}

#[tokio::test]
async fn malformed_requests_name_the_parameter() {
    let server = TestServer::start();
    for (path, expected) in [
        (
            "feed?from=-1",
            "from: is \"-1\", must be a whole number from 0 to 9223372036854775807\n",
        ),
        (
            "feed?page_token=t1",
            "\"page_token\" is not a parameter of this path; it has from\n",
        ),
        (
            "account?account_id=%E2%82",
            "the query has a wrong percent-encoding\n",
        ),
        ("holds?account_id=a&account_id=b", "account_id is repeated\n"),
        (
            "holds?page_token=h7",
            "page_token: is not a next_page_token of ListHolds with the same filter\n",
        ),
    ] {
        let refused = read(&server, &format!("/ledger/{path}"), None).await;
        assert_eq!(refused, (StatusCode::BAD_REQUEST, expected.to_owned()));
    }
    for path in [
        "account",
        "entries",
        "account?account_id=%3Cscript%3E",
        "transaction",
        "transaction?transaction_id=a+b",
    ] {
        let (status, text) = read(&server, &format!("/ledger/{path}"), None).await;
        let field = if path.starts_with("transaction") {
            "transaction_id: "
        } else {
            "account_id: "
        };
        assert!(
            status == StatusCode::BAD_REQUEST && text.starts_with(field),
            "{path}: {status} {text}"
        );
    }
    let long = format!("/ledger/account?account_id={}", "x".repeat(15_000));
    let (status, text) = read(&server, &long, None).await;
    assert!(
        status == StatusCode::BAD_REQUEST && text.len() < 1000,
        "{status} {text}"
    );
}

async fn is_rejected(client: &Client, request: ProcessTransactionRequest) {
    client.process_transaction(request).await.unwrap_err();
}

#[tokio::test]
async fn wide_amounts_rejections_and_hostile_metadata_are_shown_as_they_are() {
    let (server, client) = with_accounts(ServerOptions::default()).await;
    let script = "<script>alert(1)</script>";
    let hostile = Account {
        metadata: [(script.to_owned(), "\u{202e}\"'&</td>".to_owned())].into(),
        balance_rule: tally::proto::BalanceRule::CreditBalance.into(),
        ..account("hostile")
    };
    client.batch_create_accounts(vec![hostile]).await.unwrap();
    let wide = Transfer {
        amount: Some(Amount::WideMinorUnits(Uint128 {
            high: u64::MAX,
            low: u64::MAX - 1,
        })),
        ..transfer("a", "b", 1)
    };
    client
        .process_transaction(transaction("wide", vec![wide]))
        .await
        .unwrap();
    is_rejected(
        &client,
        transaction("too-much", vec![transfer("hostile", "a", 7)]),
    )
    .await;

    let found = shown(&server, "/ledger/account?account_id=b", None).await;
    let expected = json!({ "high": u64::MAX.to_string(), "low": (u64::MAX - 1).to_string() });
    assert_eq!(
        found["account"]["balances"]["credits_posted"]["wide_minor_units"],
        expected
    );
    let found = shown(&server, "/ledger/account?account_id=hostile", None).await;
    assert_eq!(
        found["account"]["metadata"],
        json!({ script: "\u{202e}\"'&</td>" })
    );
    let found = shown(&server, "/ledger/transaction?transaction_id=wide", None).await;
    assert_eq!(found["transaction"]["transfers"][0]["wide_minor_units"], expected);
    let block = &found["transaction"]["block"];
    // 32 bytes in base64.
    assert_eq!(block["block_hash"].as_str().unwrap().len(), 44, "{block}");
    let found = shown(&server, "/ledger/transaction?transaction_id=too-much", None).await;
    let error = &found["transaction"]["error"];
    assert_eq!(error["details"][0]["reason"], "INSUFFICIENT_FUNDS");
    assert!(
        error["message"].as_str().unwrap().contains("needs 7, has 0"),
        "{error}"
    );
}
