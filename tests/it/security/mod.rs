//! Tests of the `tally` binary with certificates and tokens, and with hostile clients.

mod abuse;
mod admin;
mod admin_crowd;
mod audit;
pub(crate) mod authority;
mod clock;
mod counts;
mod crowd;
mod ledger_view;
mod paths;
mod revocation;
mod slow;
mod tenants;
mod tls;
mod tokens;
mod watchers;

use std::path::PathBuf;

use tally::{client::Client, security::hash_hex};
use tempfile::TempDir;

use crate::support::{
    in_process::{account, pay},
    server::{ServerOptions, TestServer},
};

/// Tokens of the three roles, the weakest role first.
pub(crate) const READ: &str = "token-of-the-reader";
pub(crate) const WRITE: &str = "token-of-the-writer";
const ADMIN: &str = "token-of-the-administrator";

/// Returns the text of the tokens file, with one line per token.
pub(crate) fn token_lines() -> String {
    [
        ("read", "reader", READ),
        ("write", "writer", WRITE),
        ("admin", "root", ADMIN),
    ]
    .map(|(role, name, token)| format!("{role} {name} {}\n", hash_hex(token.as_bytes())))
    .concat()
}

/// Starts a server that requires tokens. Returns the server, the directory of the tokens file, and the path of the
/// file.
pub(crate) fn with_tokens() -> (TestServer, TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("tokens");
    std::fs::write(&file, token_lines()).unwrap();
    let server = ServerOptions::default()
        .env("TALLY__SECURITY__TOKENS_FILE", file.to_str().unwrap())
        .start();
    (server, home, file)
}

/// Starts a server with two accounts. Returns the server and a client.
async fn with_accounts(options: ServerOptions) -> (TestServer, Client) {
    let server = options.start();
    let client = server.client().await;
    let accounts = ["a", "b"].map(account).to_vec();
    client.batch_create_accounts(accounts).await.unwrap();
    (server, client)
}

/// Checks that the server still serves a well-behaved client.
async fn is_well_served(client: &Client, id: &str) {
    let answer = client.process_transaction(pay(id)).await.unwrap();
    assert!(!answer.replayed);
}

/// Returns the resident memory of the server, in bytes.
fn resident(server: &TestServer) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
