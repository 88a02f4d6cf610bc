//! Tests with clients that are slow on purpose: connections without a call, requests that do not arrive completely, and
//! streams that stay open.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tally::proto::{StreamTransactionsRequest, StreamTransactionsResponse};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{is_well_served, with_accounts};
use crate::support::{
    in_process::pay,
    server::{ServerOptions, TestServer},
};

/// Sends pieces of the body of a request. Dropping it ends the body.
type Pieces = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;
type Body = StreamBody<ReceiverStream<Result<Frame<Bytes>, Infallible>>>;

/// Maximum time to wait for an expected event. No test measures this time.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Returns an HTTP/2 client that sends only what the test says, and a task that ends with its connection.
async fn connect(server: &TestServer) -> (SendRequest<Body>, JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    (sender, tokio::spawn(connection))
}

/// Makes a request whose body is sent in pieces.
fn request(server: &TestServer, method: &str) -> (Pieces, Request<Body>) {
    let (pieces, body) = mpsc::channel(16);
    let request = Request::post(format!("{}/{method}", server.endpoint()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(StreamBody::new(ReceiverStream::new(body)))
        .unwrap();
    (pieces, request)
}

async fn send(pieces: &Pieces, bytes: impl Into<Bytes>) {
    pieces.send(Ok(Frame::data(bytes.into()))).await.unwrap();
}

/// Returns the status of a call, from its headers or its trailers.
async fn status_of(response: Response<Incoming>) -> Status {
    if let Some(status) = Status::from_header_map(response.headers()) {
        return status;
    }
    let collected = response.into_body().collect().await.unwrap();
    Status::from_header_map(collected.trailers().expect("trailers")).expect("a status")
}

#[tokio::test]
async fn a_connection_without_a_call_is_closed_and_delays_no_other_connection() {
    let options = ServerOptions::default().env("TALLY__SERVER__IDLE_TIMEOUT", "1s");
    let (server, client) = with_accounts(options).await;
    // One connection sends half a preface. Another connection sends a header block that never ends.
    let mut slow = TcpStream::connect(server.address()).await.unwrap();
    slow.write_all(b"PRI * HT").await.unwrap();
    let mut endless = TcpStream::connect(server.address()).await.unwrap();
    endless
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82")
        .await
        .unwrap();
    is_well_served(&client, "meanwhile").await;
    for stream in [&mut slow, &mut endless] {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(WAIT_MAX, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "the connection is still open");
    }
    // A client whose idle connection was closed opens a new connection.
    is_well_served(&client, "after").await;
}

/// The beginning of a transaction with an unknown field. [`UNKNOWN`] bytes of the field must follow. The service
/// rejects the transaction.
const TRANSACTION: &[u8] = &[0x0a, 0xff, 0x0f, 0x7a, 0xfc, 0x0f];
/// Number of bytes of the unknown field.
const UNKNOWN: usize = 0x7fc;
/// Number of transactions in a request.
const TRANSACTIONS: usize = 8000;
/// The size of a message in bytes. It is more than a sixth of the memory that a single client may use.
const LARGE: usize = TRANSACTIONS * (TRANSACTION.len() + UNKNOWN);

/// Starts a call and sends its message of [`LARGE`] bytes. The request stays open until the returned sender is dropped.
fn upload(server: &TestServer, sender: &mut SendRequest<Body>) -> (Pieces, JoinHandle<Status>) {
    let (pieces, request) = request(server, "tally.v1.TransactionService/ProcessTransactions");
    let call = sender.send_request(request);
    let answered = tokio::spawn(async move { status_of(call.await.unwrap()).await });
    let sending = pieces.clone();
    tokio::spawn(async move {
        let mut header = vec![0];
        header.extend_from_slice(&u32::try_from(LARGE).unwrap().to_be_bytes());
        let transactions = [TRANSACTION, &[0; UNKNOWN]].concat().repeat(TRANSACTIONS / 16);
        let chunks = std::iter::repeat_n(transactions, 16);
        for bytes in std::iter::once(header).chain(chunks) {
            // The service may end the call before the message is sent completely.
            if sending.send(Ok(Frame::data(bytes.into()))).await.is_err() {
                break;
            }
        }
    });
    (pieces, answered)
}

#[tokio::test]
async fn unfinished_requests_use_bounded_memory_and_free_it_at_their_end() {
    let (server, client) = with_accounts(ServerOptions::default()).await;
    let (mut sender, connection) = connect(&server).await;
    let (pieces, calls): (Vec<_>, Vec<_>) = (0..8).map(|_| upload(&server, &mut sender)).unzip();
    let (first, _, others) = futures_util::future::select_all(calls).await;
    let status = first.unwrap();
    let info = tonic_types::StatusExt::get_details_error_info(&status).unwrap();
    assert_eq!(
        (status.code(), info.reason.as_str()),
        (Code::ResourceExhausted, "MEMORY_LIMIT")
    );
    is_well_served(&client, "meanwhile").await;
    for call in others {
        call.abort();
    }
    drop((pieces, sender));
    connection.await.unwrap().unwrap();

    // If the same calls are made one after the other, each of them gets enough memory.
    let (mut sender, connection) = connect(&server).await;
    for _ in 0..6 {
        let (pieces, call) = upload(&server, &mut sender);
        drop(pieces);
        let status = call.await.unwrap();
        assert_eq!(status.code(), Code::Ok, "{status:?}");
    }
    drop(sender);
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn requests_that_arrive_too_slowly_fail_with_their_code_for_every_method() {
    let options = ServerOptions::default().env("TALLY__SERVER__MESSAGE_TIME_MAX", "1s");
    let (server, client) = with_accounts(options).await;
    let (mut sender, connection) = connect(&server).await;
    // A stream that has not begun a message is not slow, so the service does not end it.
    let (idle, quiet) = request(&server, "tally.v1.TransactionService/StreamTransactions");
    let quiet = tokio::spawn(sender.send_request(quiet));
    let mut calls = Vec::new();
    for method in [
        "tally.v1.TransactionService/ProcessTransaction",
        "tally.v1.TransactionService/ProcessTransactions",
        "tally.v1.TransactionService/StreamTransactions",
        "tally.v1.TransactionService/GetTransaction",
        "tally.v1.AccountService/CreateAccount",
        "tally.v1.AccountService/ListAccounts",
        "tally.v1.EngineService/GetCircuitStats",
        "tally.v1.EngineService/SetCircuitMode",
        "tally.v1.EngineService/WatchCircuitStats",
        "grpc.health.v1.Health/Check",
    ] {
        let (pieces, request) = request(&server, method);
        // The header announces 100 bytes, and only one of them arrives.
        send(&pieces, vec![0, 0, 0, 0, 100, 10]).await;
        calls.push((method, pieces, tokio::spawn(sender.send_request(request))));
    }
    is_well_served(&client, "meanwhile").await;
    for (method, pieces, call) in calls {
        let status = status_of(call.await.unwrap().unwrap()).await;
        let info = tonic_types::StatusExt::get_details_error_info(&status);
        let reason = info.map(|info| info.reason);
        assert_eq!(
            (status.code(), reason.as_deref()),
            (Code::DeadlineExceeded, Some("REQUEST_TOO_SLOW")),
            "{method}"
        );
        drop(pieces);
    }
    let message = StreamTransactionsRequest {
        transaction: Some(pay("after-a-while")),
    }
    .encode_to_vec();
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(&message);
    send(&idle, framed).await;
    drop(idle);
    let response = quiet.await.unwrap().unwrap();
    let collected = response.into_body().collect().await.unwrap();
    let status = Status::from_header_map(collected.trailers().expect("trailers")).unwrap();
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    let answer = collected.to_bytes();
    let answer = StreamTransactionsResponse::decode(&answer[5..]).unwrap();
    assert!(format!("{answer:?}").contains("after-a-while"), "{answer:?}");
    connection.abort();
}

#[tokio::test]
async fn a_connection_that_stays_after_goaway_is_closed() {
    let options = ServerOptions::default()
        .env("TALLY__SERVER__CONNECTION_AGE_MAX", "1s")
        .env("TALLY__SERVER__CONNECTION_GRACE", "1s");
    let (server, client) = with_accounts(options).await;
    let (mut sender, connection) = connect(&server).await;
    // Open a stream without messages, which stays open.
    let (pieces, request) = request(&server, "tally.v1.TransactionService/StreamTransactions");
    let call = sender.send_request(request);
    let response = call.await.unwrap();
    let ended = tokio::time::timeout(WAIT_MAX, connection).await;
    assert!(ended.is_ok(), "still open");
    assert!(
        response.into_body().collect().await.is_err(),
        "the open stream ends with an error"
    );
    drop(pieces);
    is_well_served(&client, "after").await;
}
