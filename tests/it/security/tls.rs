//! Tests of TLS: which clients are accepted, and how certificates are replaced while the service runs.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rustls::{
    AlertDescription, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tally::client::{Client, ClientConfig, ConnectError, Connection, RetryPolicy};
use tally::proto::{GetCircuitStatsRequest, engine_service_client::EngineServiceClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::authority::{Authority, Pair, Validity};
use crate::support::{
    operators::get,
    server::{ServerOptions, TestServer},
};

const WAIT_MAX: Duration = Duration::from_secs(10);

fn server(pair: &Pair, client_ca: Option<&Authority>) -> TestServer {
    let mut options = ServerOptions::default()
        .env(
            "TALLY__SECURITY__TLS_CERTIFICATE",
            pair.certificate.to_str().unwrap(),
        )
        .env("TALLY__SECURITY__TLS_KEY", pair.key.to_str().unwrap());
    if let Some(authority) = client_ca {
        options = options.env(
            "TALLY__SECURITY__CLIENT_CA",
            authority.certificate.to_str().unwrap(),
        );
    }
    options.start()
}

fn client(server: &TestServer, ca: &Authority, identity: Option<&Pair>) -> ClientConfig {
    ClientConfig {
        endpoints: vec![server.endpoint().replace("http://", "https://")],
        ca: Some(ca.certificate.clone()),
        identity: identity.map(|pair| (pair.certificate.clone(), pair.key.clone())),
        ..ClientConfig::default()
    }
}

/// Connects and makes a call. Returns whether the call succeeded. The call is necessary, because with TLS 1.3 a client
/// learns only after the handshake that the server has rejected its certificate.
async fn is_served(config: &ClientConfig) -> bool {
    let asked = async |connection: Connection| {
        let mut client = EngineServiceClient::new(connection);
        client.get_circuit_stats(GetCircuitStatsRequest {}).await.is_ok()
    };
    match config.connect(WAIT_MAX).await {
        Ok(connection) => asked(connection).await,
        Err(ConnectError::Unreachable { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn clients_are_accepted_by_their_certificate() {
    let home = tempfile::tempdir().unwrap();
    let ours = Authority::new(home.path(), "ours");
    let foreign = Authority::new(home.path(), "foreign");
    let server = server(&ours.server("server"), Some(&ours));
    let valid = ours.client("valid", Validity::Now);
    let expired = ours.client("expired", Validity::LongAgo);
    let stranger = foreign.client("stranger", Validity::Now);
    assert!(is_served(&client(&server, &ours, Some(&valid))).await);
    assert!(
        !is_served(&client(&server, &ours, None)).await,
        "a client without a certificate"
    );
    assert!(
        !is_served(&client(&server, &ours, Some(&expired))).await,
        "an expired certificate"
    );
    assert!(
        !is_served(&client(&server, &ours, Some(&stranger))).await,
        "a certificate of an unknown authority"
    );
    assert!(
        !is_served(&client(&server, &foreign, Some(&valid))).await,
        "the client does not trust the server's certificate"
    );
    let plain = ClientConfig::plain(&server.endpoint());
    assert!(!is_served(&plain).await, "a client without TLS");
    assert!(
        is_served(&client(&server, &ours, Some(&valid))).await,
        "a valid client is still served"
    );
}

/// Returns the TLS alert that a client with this certificate receives; `None` if the server accepts the client.
async fn alert(server: &TestServer, ca: &Authority, identity: Option<&Pair>) -> Option<AlertDescription> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&ca.certificate).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let builder =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = CertificateDer::pem_file_iter(&pair.certificate).unwrap();
            let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
            let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    // With TLS 1.3, the handshake ends for the client before the server has checked the certificate of the client. The
    // alert comes later, so the client must read.
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    let error = stream.read_u8().await.err()?;
    let error = error.get_ref()?.downcast_ref::<rustls::Error>().cloned();
    match error {
        Some(rustls::Error::AlertReceived(alert)) => Some(alert),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_rejected_client_receives_a_tls_alert() {
    let home = tempfile::tempdir().unwrap();
    let ours = Authority::new(home.path(), "ours");
    let foreign = Authority::new(home.path(), "foreign");
    let server = server(&ours.server("server"), Some(&ours));
    let expired = ours.client("expired", Validity::LongAgo);
    let stranger = foreign.client("stranger", Validity::Now);
    let valid = ours.client("valid", Validity::Now);
    for (identity, expected) in [
        (None, Some(AlertDescription::CertificateRequired)),
        (Some(&expired), Some(AlertDescription::CertificateExpired)),
        (Some(&stranger), Some(AlertDescription::UnknownCA)),
        // The server accepts this client and sends its first HTTP/2 frame.
        (Some(&valid), None),
    ] {
        assert_eq!(alert(&server, &ours, identity).await, expected, "{identity:?}");
    }
    // The service counts a failed handshake after it has sent the alert.
    let counts = "tally_auth_failures_total{kind=\"client_certificate\"} 3\n\
        tally_auth_failures_total{kind=\"tls_handshake\"} 0\n";
    while !get(&server, "/metrics").await.2.contains(counts) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_handshake_that_is_not_tls_is_counted() {
    let home = tempfile::tempdir().unwrap();
    let ours = Authority::new(home.path(), "ours");
    let server = server(&ours.server("server"), None);
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // Read until the service closes the connection, which it may do with a reset.
    let _ended = stream.read_to_end(&mut Vec::new()).await;
    while !get(&server, "/metrics")
        .await
        .2
        .contains("tally_auth_failures_total{kind=\"tls_handshake\"} 1\n")
    {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_under_load_and_no_call_is_dropped() {
    let home = tempfile::tempdir().unwrap();
    let (old, new) = (
        Authority::new(home.path(), "old"),
        Authority::new(home.path(), "new"),
    );
    let pair = old.server("server");
    let server = server(&pair, None);
    let (done, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let config = client(&server, &old, None);
    // The client does not retry, so that the test notices a dropped call.
    let once = RetryPolicy {
        attempts_max: 1,
        ..RetryPolicy::default()
    };
    let steady = Client::connect_with(&config).await.unwrap().with_retry(once);
    let load = tokio::spawn({
        let (done, answered) = (Arc::clone(&done), Arc::clone(&answered));
        async move {
            while !done.load(Ordering::Relaxed) {
                steady.circuit_stats().await.unwrap();
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let renewed = new.server("renewed");
    fs::copy(&renewed.key, &pair.key).unwrap();
    fs::copy(&renewed.certificate, &pair.certificate).unwrap();
    server.hangup();
    // New connections get the new certificate.
    while !is_served(&client(&server, &new, None)).await {
        tokio::task::yield_now().await;
    }
    assert!(
        !is_served(&config).await,
        "the server still uses the old certificate"
    );
    // The open connection continues.
    let before = answered.load(Ordering::Relaxed);
    while answered.load(Ordering::Relaxed) < before + 100 {
        tokio::task::yield_now().await;
    }
    done.store(true, Ordering::Relaxed);
    load.await.unwrap();
}

#[test]
fn the_service_does_not_start_with_missing_or_malformed_files() {
    let home = tempfile::tempdir().unwrap();
    let ours = Authority::new(home.path(), "ours");
    let (a, b) = (ours.server("a"), ours.server("b"));
    let text = home.path().join("text");
    fs::write(&text, "no certificate").unwrap();
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let certificate = |value: String| ("TALLY__SECURITY__TLS_CERTIFICATE", value);
    let key = |value: String| ("TALLY__SECURITY__TLS_KEY", value);
    for (variables, words) in [
        (
            vec![certificate(path(&a.certificate))],
            "security.tls_key = unset",
        ),
        (vec![key(path(&a.key))], "security.tls_certificate = unset"),
        (
            vec![certificate(path(&a.certificate)), key("/nonexistent".to_owned())],
            "/nonexistent",
        ),
        (
            vec![certificate(path(&text)), key(path(&a.key))],
            "has no certificate in PEM",
        ),
        (
            vec![certificate(path(&a.certificate)), key(path(&b.key))],
            "b.key does not belong to the certificate in ",
        ),
        (
            vec![("TALLY__SECURITY__TOKENS_FILE", path(&text))],
            "line 1: must be: role name sha256 [prefix=TEXT]",
        ),
        (
            vec![("TALLY__SECURITY__TOKENS_FILE", path(&text))],
            "tally: security.tokens_file (from TALLY__SECURITY__TOKENS_FILE): ",
        ),
        (
            vec![("TALLY_LISTEN", "0.0.0.0:0".to_owned())],
            "security.allow_insecure",
        ),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tally"))
            .args(["serve", "--check"])
            .envs(variables)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{error}");
        assert!(error.contains(words), "{words:?} is not in {error:?}");
    }
}

/// Copies a certificate and its key over the files of the server, and sends SIGHUP.
fn put(pair: &Pair, to: &Pair, server: &TestServer) {
    fs::copy(&pair.key, &to.key).unwrap();
    fs::copy(&pair.certificate, &to.certificate).unwrap();
    server.hangup();
}

#[tokio::test]
async fn an_invalid_certificate_does_not_replace_a_valid_one() {
    let home = tempfile::tempdir().unwrap();
    let (old, new) = (
        Authority::new(home.path(), "old"),
        Authority::new(home.path(), "new"),
    );
    let pair = old.server("server");
    let server = server(&pair, None);
    let stale = |value: u8| format!("tally_security_stale{{what=\"certificates\"}} {value}\n");
    let not_after = "tally_certificate_not_after_timestamp_seconds";
    let metrics = || async { get(&server, "/metrics").await.2 };
    let before = metrics().await;
    assert!(
        before.contains(&stale(0)) && before.contains(not_after),
        "{before}"
    );
    for (name, validity, words) in [
        ("expired", Validity::LongAgo, "expired at 2002-01-01T00:00:00Z"),
        (
            "early",
            Validity::NotYet,
            "is not valid before 3001-01-01T00:00:00Z",
        ),
    ] {
        put(&new.server_valid(name, validity), &pair, &server);
        server.wait_for_stderr(words).await;
        assert!(metrics().await.contains(&stale(1)), "{name}");
        assert!(is_served(&client(&server, &old, None)).await, "{name}");
        assert!(!is_served(&client(&server, &new, None)).await, "{name}");
    }
    put(&new.server("renewed"), &pair, &server);
    while !is_served(&client(&server, &new, None)).await {
        tokio::task::yield_now().await;
    }
    assert!(metrics().await.contains(&stale(0)));
}

#[tokio::test]
async fn an_expired_certificate_at_the_start_is_a_warning_and_can_be_replaced() {
    let home = tempfile::tempdir().unwrap();
    let ours = Authority::new(home.path(), "ours");
    let pair = ours.server_valid("server", Validity::LongAgo);
    let server = server(&pair, None);
    server
        .wait_for_stderr("clients will refuse the certificate")
        .await;
    server.wait_for_stderr("expired at 2002-01-01T00:00:00Z").await;
    // The value is 2002-01-01 in seconds since the Unix epoch.
    let expected = "tally_certificate_not_after_timestamp_seconds 1009843200\n";
    let (_, _, text) = get(&server, "/metrics").await;
    assert!(text.contains(expected), "{text}");
    put(&ours.server_valid("early", Validity::NotYet), &pair, &server);
    server
        .wait_for_stderr("is not valid before 3001-01-01T00:00:00Z")
        .await;
    put(&ours.server("renewed"), &pair, &server);
    while !is_served(&client(&server, &ours, None)).await {
        tokio::task::yield_now().await;
    }
}

/// Checks that a server whose certificate is that of an authority logs a warning, and that `tally` rejects the certificate. OpenSSL and
/// Go accept such a certificate, so the server starts nevertheless.
#[tokio::test]
async fn the_certificate_of_an_authority_is_not_the_certificate_of_a_service() {
    let home = tempfile::tempdir().unwrap();
    let ours = Authority::new(home.path(), "ours");
    let server = server(&ours.own_pair(), None);
    server
        .wait_for_stderr("is the certificate of an authority (CA); many clients")
        .await;
    let refused = client(&server, &ours, None).connect(WAIT_MAX).await;
    let text = refused.err().unwrap().to_string();
    assert!(
        text.contains(
            "is the certificate of an authority (CA), not of a server; issue a certificate for the service"
        ),
        "{text}"
    );
}
