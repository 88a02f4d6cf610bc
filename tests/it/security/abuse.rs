//! Garbage, messages that are too large, crowds of idle connections, and clients that are slow on purpose: the others are
//! served all the same.

use std::{io::Read, net::SocketAddr, time::Duration};

use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};

use tally::client::Client;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tonic::Code;

use crate::support::{
    in_process::{pay, transaction, transfer},
    server::{ServerOptions, TestServer},
};

/// Idle connections that are tried at once.
const CROWD: usize = 10_000;
/// Open files that the crowd needs of this process.
const FILES: u64 = 12_000;

/// Connects from another address of this machine: limits are for each client address.
async fn connect_from(host: u8, server: &TestServer) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, host], 0)))?;
    socket.connect(server.address()).await
}

async fn is_well_served(client: &Client, id: &str) {
    let answer = client.process_transaction(pay(id)).await.unwrap();
    assert!(!answer.replayed);
}

async fn with_accounts(options: ServerOptions) -> (TestServer, Client) {
    let server = options.start();
    let client = server.client().await;
    let accounts = ["a", "b"].map(crate::support::in_process::account).to_vec();
    client.batch_create_accounts(accounts).await.unwrap();
    (server, client)
}

/// Memory of the server, in bytes.
fn resident(server: &TestServer) -> u64 {
    let mut text = String::new();
    std::fs::File::open(format!("/proc/{}/status", server.pid()))
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn garbage_is_closed_and_harms_nobody() {
    let (server, client) = with_accounts(ServerOptions::default()).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let after_preface = |bytes: &[u8]| [preface.as_slice(), bytes].concat();
    for garbage in [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        vec![0; 4096],
        vec![0xff; 4096],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        after_preface(&[0xff; 4096]),
        // A SETTINGS frame with a length that is no multiple of six.
        after_preface(b"\x00\x00\x05\x04\x00\x00\x00\x00\x00hello"),
        // DATA for a stream that was never opened.
        after_preface(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x01hello"),
    ] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        // The server may hang up in the middle.
        let _ = stream.write_all(&garbage).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
    }
    is_well_served(&client, "after-the-garbage").await;
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_by_its_code() {
    let (server, client) = with_accounts(ServerOptions::default()).await;
    let mut transactions =
        tally::proto::transaction_service_client::TransactionServiceClient::connect(server.endpoint())
            .await
            .unwrap();
    let transfers = vec![transfer("a", "b", 1); 257];
    let status = transactions
        .process_transaction(transaction("many", transfers))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let mut huge = pay("huge");
    huge.metadata.insert("note".to_owned(), "x".repeat(17 << 20));
    let status = transactions.process_transaction(huge).await.unwrap_err();
    assert!(
        matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted),
        "{status:?}"
    );
    let mut request = tonic::Request::new(pay("headers"));
    request
        .metadata_mut()
        .insert("x-long", "x".repeat(20_000).parse().unwrap());
    transactions.process_transaction(request).await.unwrap_err();
    is_well_served(&client, "after-the-giants").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_leave_others_served_and_memory_flat() {
    if tally::sys::limits::raise_open_files(FILES).unwrap() < FILES {
        eprintln!("SKIPPED: this process may not open {FILES} files");
        return;
    }
    let (server, client) = with_accounts(ServerOptions::default()).await;
    is_well_served(&client, "before").await;
    let before = resident(&server);
    let mut crowd = Vec::with_capacity(CROWD);
    let mut told = 0;
    for number in 0..CROWD {
        let mut stream = connect_from(2, &server).await.unwrap();
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
            .await
            .ok();
        if number == CROWD - 1 {
            // One more than may be: told to calm down (11), and closed.
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            told += usize::from(answer.windows(4).any(|window| window == [0, 0, 0, 11]));
        }
        crowd.push(stream);
        if number % 1000 == 0 {
            is_well_served(&client, &format!("among:{number}")).await;
        }
    }
    assert_eq!(told, 1, "the last one was not told");
    is_well_served(&client, "among-all").await;
    // Another address is let in.
    let mut other = connect_from(3, &server).await.unwrap();
    other
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut settings = [0; 9];
    other.read_exact(&mut settings).await.unwrap();
    assert_eq!(settings[3], 4, "SETTINGS");
    let grown = resident(&server).saturating_sub(before);
    assert!(grown < 100 << 20, "{grown} bytes more than before the crowd");
    drop(crowd);
}

#[tokio::test]
async fn a_connection_without_a_call_is_closed_and_slow_ones_hold_nobody_up() {
    let options = ServerOptions::default().env("TALLY__SERVER__IDLE_TIMEOUT", "1s");
    let (server, client) = with_accounts(options).await;
    // Half a preface, and then nothing; and a header block that never ends.
    let mut slow = connect_from(2, &server).await.unwrap();
    slow.write_all(b"PRI * HT").await.unwrap();
    let mut endless = connect_from(2, &server).await.unwrap();
    endless
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82")
        .await
        .unwrap();
    is_well_served(&client, "meanwhile").await;
    for stream in [&mut slow, &mut endless] {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "still open");
    }
    // A client whose connection was closed for idleness makes a new one by itself.
    is_well_served(&client, "after").await;
}

#[tokio::test]
async fn a_request_that_trickles_in_is_given_up_by_its_code() {
    let (server, client) = with_accounts(ServerOptions::default()).await;
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    // The frame's header promises a hundred bytes, and none of them comes.
    let (pieces, body) =
        tokio::sync::mpsc::channel::<Result<http_body::Frame<Bytes>, std::convert::Infallible>>(1);
    pieces
        .send(Ok(http_body::Frame::data(Bytes::from_static(&[0, 0, 0, 0, 100]))))
        .await
        .unwrap();
    let body = http_body_util::StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body));
    let request = http::Request::post(format!(
        "{}/tally.v1.TransactionService/ProcessTransaction",
        server.endpoint()
    ))
    .header("content-type", "application/grpc")
    .header("te", "trailers")
    .body(body)
    .unwrap();
    let answer = sender.send_request(request);
    is_well_served(&client, "meanwhile").await;
    let response = answer.await.unwrap();
    let status = tonic::Status::from_header_map(response.headers()).unwrap();
    let info = tonic_types::StatusExt::get_details_error_info(&status).unwrap();
    assert_eq!(
        (status.code(), info.reason.as_str()),
        (Code::DeadlineExceeded, "REQUEST_TOO_SLOW")
    );
    drop(pieces);
}
