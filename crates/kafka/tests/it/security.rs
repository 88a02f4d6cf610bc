//! Tests of TLS and SASL.

use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes};
use tally_kafka::{
    Error, Mechanism, Partition, Password, Sasl, Settings, Tls,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use crate::{
    broker::{API_VERSIONS, Broker, Call, METADATA, Reply, SASL_AUTHENTICATE, SASL_HANDSHAKE},
    settings,
};

fn sasl(broker: &Broker, mechanism: Mechanism) -> Settings {
    let mut settings = settings(&[broker]);
    settings.sasl = Some(Sasl {
        mechanism,
        user: "tally".to_owned(),
        password: Password::new("secret"),
    });
    settings
}

async fn failure(settings: Settings) -> String {
    let error = Partition::new(settings).unwrap().locate().await.unwrap_err();
    assert!(error.is_fatal(), "{error}");
    if let Error::Authentication { cause, .. } | Error::Tls { cause, .. } = error {
        return cause;
    }
    panic!("{error}");
}

fn handshake(code: i16, offered: &str) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_i16(code);
    body.put_i32(1);
    body.put_i16(i16::try_from(offered.len()).unwrap());
    body.put_slice(offered.as_bytes());
    body
}

fn authenticated(code: i16, bytes: &[u8], lifetime_ms: i64) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_i16(code);
    body.put_i16(-1);
    body.put_i32(i32::try_from(bytes.len()).unwrap());
    body.put_slice(bytes);
    body.put_i64(lifetime_ms);
    body
}

fn message(call: &Call) -> Bytes {
    let mut body = call.body.clone();
    body.advance(4);
    body
}

#[tokio::test]
async fn plain_sends_user_and_password_and_learns_when_the_session_ends() {
    let broker = Broker::start(|call| match call.key {
        SASL_HANDSHAKE => Reply::Body(handshake(0, "PLAIN")),
        SASL_AUTHENTICATE => {
            assert_eq!(message(call), "\0tally\0secret");
            Reply::Body(authenticated(0, b"", 60_000))
        }
        _ => Reply::Usual,
    })
    .await;
    let partition = Partition::new(sasl(&broker, Mechanism::Plain)).unwrap();
    assert!(partition.appender().await.unwrap().session_ends().is_some());
    assert!(partition.reader().await.unwrap().session_ends().is_some());
}

#[tokio::test]
async fn wrong_credentials_and_a_missing_mechanism_are_fatal() {
    let wrong = Broker::start(|call| match call.key {
        SASL_HANDSHAKE => Reply::Body(handshake(0, "PLAIN")),
        SASL_AUTHENTICATE => Reply::Body(authenticated(58, b"", 0)),
        _ => Reply::Usual,
    })
    .await;
    let cause = failure(sasl(&wrong, Mechanism::Plain)).await;
    assert_eq!(cause, "the user name or the password is wrong");
    assert_eq!(wrong.count(METADATA), 0);
    let other = Broker::start(|call| match call.key {
        SASL_HANDSHAKE => Reply::Body(handshake(33, "GSSAPI")),
        _ => Reply::Usual,
    })
    .await;
    let cause = failure(sasl(&other, Mechanism::ScramSha512)).await;
    assert_eq!(cause, "the broker offers GSSAPI, not SCRAM-SHA-512");
}

#[tokio::test]
async fn a_broker_that_cannot_prove_that_it_knows_the_password_is_refused() {
    let broker = Broker::start(|call| match (call.key, call.index) {
        (SASL_HANDSHAKE, _) => Reply::Body(handshake(0, "SCRAM-SHA-256")),
        (SASL_AUTHENTICATE, 0) => {
            let first = String::from_utf8(message(call).to_vec()).unwrap();
            let nonce = first.split_once(",r=").unwrap().1;
            Reply::Body(authenticated(
                0,
                format!("r={nonce}x,s=AAAA,i=4096").as_bytes(),
                0,
            ))
        }
        (SASL_AUTHENTICATE, _) => Reply::Body(authenticated(0, b"v=AAAA", 0)),
        _ => Reply::Usual,
    })
    .await;
    let cause = failure(sasl(&broker, Mechanism::ScramSha256)).await;
    assert_eq!(
        cause,
        "the broker's proof is wrong: it does not know the password"
    );
    assert_eq!(broker.count(METADATA), 0);
}

#[tokio::test]
async fn tls_needs_a_trusted_certificate_for_the_name() {
    let key = rcgen::generate_simple_self_signed(["broker.test".to_owned()]).unwrap();
    let certificate = key.cert.der().clone();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()));
    let server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], private)
        .unwrap();
    let versions = vec![(API_VERSIONS, 4), (METADATA, 12)];
    let broker = Broker::with(versions, Some(server), |_| Reply::Usual).await;
    let with = |trusted: bool, name: Option<&str>| {
        let mut roots = RootCertStore::empty();
        if trusted {
            roots.add(certificate.clone()).unwrap();
        }
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut settings = settings(&[&broker]);
        settings.tls = Some(Tls {
            config: Arc::new(config),
            server_name: name.map(str::to_owned),
        });
        settings
    };
    let partition = Partition::new(with(true, Some("broker.test"))).unwrap();
    partition.locate().await.unwrap();
    failure(with(true, None)).await;
    failure(with(true, Some("other.test"))).await;
    failure(with(false, Some("broker.test"))).await;
    let cause = failure(with(true, Some("no name"))).await;
    assert_eq!(cause, "no name is neither a host name nor an IP address");
}

#[test]
fn a_password_is_not_shown() {
    let sasl = Sasl {
        mechanism: Mechanism::Plain,
        user: "tally".to_owned(),
        password: Password::new("secret"),
    };
    let shown = format!("{sasl:?}");
    assert!(shown.contains("tally") && !shown.contains("secret"), "{shown}");
}
