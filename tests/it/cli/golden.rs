//! Compares the output of commands with the golden files in `tests/cli`. Each directory of golden files has its own environment.
//!
//! `TRYCMD=overwrite cargo test --locked --workspace --test it -- cli::golden` writes the current output into the files.

use trycmd::TestCases;

use crate::{
    security::{READ, authority::Authority, token_lines, with_tokens},
    support::server::{BINARY, ServerOptions, TestServer},
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

#[test]
fn with_tls_but_the_service_has_no_tls() {
    let server = TestServer::start();
    cases("tls_to_plain", &server.endpoint().replace("http://", "https://")).run();
}

#[test]
fn without_tls_but_the_service_has_tls() {
    let home = tempfile::tempdir().unwrap();
    let (server, ..) = secured(home.path());
    cases("plain_to_tls", &server.endpoint()).run();
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
}

#[test]
fn with_tokens_but_the_client_has_none() {
    let (server, ..) = with_tokens();
    cases("no_token", &server.endpoint()).run();
}

#[test]
fn at_the_operators_port() {
    let server = TestServer::start();
    cases("operators_port", &format!("http://{}", server.admin())).run();
}
