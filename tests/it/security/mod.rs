//! The real binary with certificates and tokens, and against clients that mean no good.

mod abuse;
mod admin;
mod authority;
mod tls;
mod tokens;

use std::path::PathBuf;

use tally::security::hash_hex;
use tempfile::TempDir;

use crate::support::server::{ServerOptions, TestServer};

/// Tokens of the three roles, in the order of their power.
const READ: &str = "token-of-the-reader";
const WRITE: &str = "token-of-the-writer";
const ADMIN: &str = "token-of-the-administrator";

/// The lines of the file of tokens.
fn token_lines() -> String {
    [
        ("read", "reader", READ),
        ("write", "writer", WRITE),
        ("admin", "root", ADMIN),
    ]
    .map(|(role, name, token)| format!("{role} {name} {}\n", hash_hex(token.as_bytes())))
    .concat()
}

/// A server that asks for tokens, and the directory of the file.
fn with_tokens() -> (TestServer, TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("tokens");
    std::fs::write(&file, token_lines()).unwrap();
    let server = ServerOptions::default()
        .env("TALLY__SECURITY__TOKENS_FILE", file.to_str().unwrap())
        .start();
    (server, home, file)
}
