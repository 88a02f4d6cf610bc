//! Tests with malformed bytes and with messages that are too large. The client must receive an error, and the server
//! must continue to serve other clients.

use tally::proto::transaction_service_client::TransactionServiceClient;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Status};

use super::{is_well_served, with_accounts};
use crate::support::{
    in_process::{pay, transaction, transfer},
    server::ServerOptions,
};

#[tokio::test]
async fn malformed_bytes_close_only_their_connection() {
    let (server, client) = with_accounts(ServerOptions::default()).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let after_preface = |bytes: &[u8]| [preface.as_slice(), bytes].concat();
    for garbage in [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        vec![0; 4096],
        vec![0xff; 4096],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        after_preface(&[0xff; 4096]),
        // A SETTINGS frame whose length is not a multiple of six.
        after_preface(b"\x00\x00\x05\x04\x00\x00\x00\x00\x00hello"),
        // DATA for a stream that was never opened.
        after_preface(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x01hello"),
    ] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        // The results are ignored, because the server may close the connection before the client has sent all bytes.
        let _ = stream.write_all(&garbage).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
    }
    is_well_served(&client, "after-the-garbage").await;
}

/// Returns the status code, and the reason if Tally set one.
fn code_and_reason(status: &Status) -> (Code, Option<String>) {
    let info = tonic_types::StatusExt::get_details_error_info(status);
    (status.code(), info.map(|info| info.reason))
}

#[tokio::test]
async fn too_large_messages_are_rejected_with_their_code() {
    let (server, client) = with_accounts(ServerOptions::default()).await;
    let connect = || TransactionServiceClient::connect(server.endpoint());
    let mut transactions = connect().await.unwrap();
    let invalid = (Code::InvalidArgument, Some("INVALID_FIELD".to_owned()));

    let transfers = vec![transfer("a", "b", 1); 257];
    let many = transactions
        .process_transaction(transaction("many", transfers))
        .await;
    assert_eq!(code_and_reason(&many.unwrap_err()), invalid, "257 transfers");

    let mut wordy = pay("wordy");
    wordy.metadata.insert("note".to_owned(), "x".repeat(4097));
    let wordy = transactions.process_transaction(wordy).await;
    assert_eq!(
        code_and_reason(&wordy.unwrap_err()),
        invalid,
        "metadata of 4097 bytes"
    );

    let mut huge = pay("huge");
    huge.metadata.insert("note".to_owned(), "x".repeat(17 << 20));
    let huge = transactions.process_transaction(huge).await;
    assert_eq!(
        code_and_reason(&huge.unwrap_err()).0,
        Code::OutOfRange,
        "a message of 17 MiB"
    );

    let mut request = tonic::Request::new(pay("headers"));
    let long = "x".repeat(20_000).parse().unwrap();
    request.metadata_mut().insert("x-long", long);
    let headers = transactions.process_transaction(request).await.unwrap_err();
    // The server answers with HTTP status 431. gRPC clients map that status to UNKNOWN.
    assert_eq!(headers.code(), Code::Unknown, "headers of 20 kB");
    assert!(headers.message().contains("431"), "{headers:?}");
    is_well_served(&client, "after-the-giants").await;
}
