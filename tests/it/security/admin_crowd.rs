//! The operators' port against clients that try to block it. A health probe is always answered.

use std::time::Duration;

use http::{Method, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{ADMIN, with_tokens};
use crate::support::{
    operators::{ask, get},
    server::{ServerOptions, TestServer},
};

/// Longest time for an expected event. No test measures this time. It is shorter than the five minutes after which the port closes
/// every connection.
const PATIENCE: Duration = Duration::from_secs(60);
/// The port's limit of connections.
const CONNECTIONS_MAX: u8 = 64;
/// Requests that a client writes without reading any answer.
const REQUESTS_AT_ONCE: usize = 1000;

/// A connection from one of many addresses of this machine, with `bytes` sent on it.
async fn held(server: &TestServer, last: u8, bytes: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 2, last], 0).into()).unwrap();
    let mut stream = socket.connect(server.admin()).await.unwrap();
    // The server may have closed the connection already.
    let _ = stream.write_all(bytes).await;
    stream
}

/// Reads until the server closes the connection. Fails if the server does not.
async fn rest(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    // A reset closes the connection, too.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .expect("the connection is closed");
    String::from_utf8_lossy(&rest).into_owned()
}

#[tokio::test]
async fn a_probe_is_answered_while_every_place_is_held() {
    let (server, _home, _file) = with_tokens();
    let administrator = format!(
        "PUT /log-level HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\ncontent-length: 9\r\n\r\ni"
    );
    for bytes in [
        // An incomplete body, an incomplete body with an administrator's token, an incomplete head, and no bytes.
        "PUT /log-level HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\ni",
        administrator.as_str(),
        "GET /live HTTP/1.1\r\nhost",
        "",
        // A connection that is idle after an answer.
        "GET /live HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        for of_one_address in [true, false] {
            let mut crowd = Vec::new();
            for number in 1..=2 * CONNECTIONS_MAX {
                let last = if of_one_address { 1 } else { number };
                crowd.push(held(&server, last, bytes.as_bytes()).await);
                if number % CONNECTIONS_MAX == 0 {
                    for path in ["/live", "/ready", "/metrics"] {
                        let answer = timeout(PATIENCE, get(&server, path)).await;
                        let (status, _, _) = answer.expect("a probe is answered");
                        assert_eq!(status, StatusCode::OK, "{path} beside {bytes:?}");
                    }
                }
            }
            // The oldest connection was evicted.
            rest(&mut crowd[0]).await;
        }
    }
}

#[tokio::test]
async fn a_probe_of_the_same_address_is_answered_while_it_holds_connections() {
    let server = TestServer::start();
    let mut crowd = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(server.admin()).await.unwrap();
        stream
            .write_all(b"PUT /log-level HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\ni")
            .await
            .unwrap();
        crowd.push(stream);
    }
    let answer = timeout(PATIENCE, get(&server, "/live")).await;
    assert_eq!(answer.expect("a probe is answered").0, StatusCode::OK);
}

#[tokio::test]
async fn an_incomplete_body_and_an_unread_answer_end_the_connection() {
    let server = ServerOptions::default().start();
    // From this machine, so that no token is needed.
    let mut partial = TcpStream::connect(server.admin()).await.unwrap();
    partial
        .write_all(b"PUT /log-level HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\ni")
        .await
        .unwrap();
    let mut reads_nothing = TcpStream::connect(server.admin()).await.unwrap();
    let asking = tokio::spawn(async move {
        let requests = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(REQUESTS_AT_ONCE);
        // Writes until the client's own socket is full, and then until the server has closed the connection.
        while reads_nothing.write_all(&requests).await.is_ok() {}
    });
    let answer = rest(&mut partial).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let given_up = timeout(PATIENCE, asking).await;
    given_up.expect("the server closes the connection").unwrap();
    assert_eq!(get(&server, "/live").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_caller_without_permission_is_refused_before_its_body_is_read() {
    let (server, _home, _file) = with_tokens();
    let mut stranger = held(
        &server,
        1,
        b"PUT /log-level HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\ni",
    )
    .await;
    let answer = rest(&mut stranger).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let (status, _, _) = ask(&server, Method::PUT, "/log-level", Some(ADMIN), "info").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
}
