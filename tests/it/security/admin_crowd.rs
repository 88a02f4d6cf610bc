//! Tests with clients that try to block the operators' port. The port must always answer a health probe.

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

/// Maximum time to wait for an expected event. No test measures this time. It is shorter than the five minutes after
/// which the port closes every connection, so this rule can't end a wait.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Maximum number of connections of the port.
const CONNECTIONS_MAX: u8 = 64;
/// Number of requests that a client writes at once. It does not read the answers.
const REQUESTS_AT_ONCE: usize = 1000;

/// Connects from the address 127.0.2.`last`, and sends `bytes`.
async fn connect_and_send(server: &TestServer, last: u8, bytes: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 2, last], 0).into()).unwrap();
    let mut stream = socket.connect(server.admin()).await.unwrap();
    // The result is ignored, because the server may have closed the connection already.
    let _ = stream.write_all(bytes).await;
    stream
}

/// Reads until the server closes the connection. Fails if the server does not.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    // An error of the read is ignored, because a reset closes the connection, too.
    let _ = timeout(WAIT_MAX, stream.read_to_end(&mut rest))
        .await
        .expect("the connection is closed");
    String::from_utf8_lossy(&rest).into_owned()
}

#[tokio::test]
async fn a_probe_is_answered_while_other_clients_use_all_connections() {
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
                crowd.push(connect_and_send(&server, last, bytes.as_bytes()).await);
                if number % CONNECTIONS_MAX == 0 {
                    for path in ["/live", "/ready", "/metrics"] {
                        let answer = timeout(WAIT_MAX, get(&server, path)).await;
                        let (status, _, _) = answer.expect("a probe is answered");
                        assert_eq!(status, StatusCode::OK, "{path} beside {bytes:?}");
                    }
                }
            }
            // The server has closed the oldest connection to accept newer ones.
            read_to_end(&mut crowd[0]).await;
        }
    }
}

#[tokio::test]
async fn a_probe_is_answered_while_its_own_address_uses_all_connections() {
    let server = TestServer::start();
    let mut crowd = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(server.admin()).await.unwrap();
        stream
            .write_all(b"PUT /log-level HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\ni")
            .await
            .unwrap();
        crowd.push(stream);
    }
    let answer = timeout(WAIT_MAX, get(&server, "/live")).await;
    assert_eq!(answer.expect("a probe is answered").0, StatusCode::OK);
}

/// The crowd replaces its connections all the time, so each new one evicts another one of the same address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_keep_their_places_while_their_own_address_floods_the_port() {
    const PROBES: usize = 200;
    let server = TestServer::start();
    let address = server.admin();
    let crowd: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(async move {
                let mut open = std::collections::VecDeque::new();
                loop {
                    let Ok(mut stream) = TcpStream::connect(address).await else {
                        continue;
                    };
                    let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nhost").await;
                    open.push_back(stream);
                    if open.len() > usize::from(CONNECTIONS_MAX) {
                        open.pop_front();
                    }
                }
            })
        })
        .collect();
    for number in 0..PROBES {
        let path = ["/live", "/ready"][number % 2];
        // The request follows the connection after the crowd has had time for many others.
        let mut probe = TcpStream::connect(address).await.unwrap();
        tokio::task::yield_now().await;
        probe
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let answer = read_to_end(&mut probe).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "probe {number}: {answer:?}");
    }
    for task in crowd {
        task.abort();
    }
}

#[tokio::test]
async fn an_incomplete_body_and_an_unread_answer_end_the_connection() {
    let server = ServerOptions::default().start();
    // The server has no tokens file, so a client on this machine needs no token.
    let mut partial = TcpStream::connect(server.admin()).await.unwrap();
    partial
        .write_all(b"PUT /log-level HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\ni")
        .await
        .unwrap();
    let mut reads_nothing = TcpStream::connect(server.admin()).await.unwrap();
    let asking = tokio::spawn(async move {
        let requests = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(REQUESTS_AT_ONCE);
        // The write blocks when the socket buffers are full, and fails when the server has closed the connection.
        while reads_nothing.write_all(&requests).await.is_ok() {}
    });
    let answer = read_to_end(&mut partial).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let given_up = timeout(WAIT_MAX, asking).await;
    given_up.expect("the server closes the connection").unwrap();
    assert_eq!(get(&server, "/live").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_caller_without_permission_is_rejected_before_its_body_is_read() {
    let (server, _home, _file) = with_tokens();
    let mut stranger = connect_and_send(
        &server,
        1,
        b"PUT /log-level HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\ni",
    )
    .await;
    let answer = read_to_end(&mut stranger).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let (status, _, _) = ask(&server, Method::PUT, "/log-level", Some(ADMIN), "info").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
}
