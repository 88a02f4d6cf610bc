//! Tests with unusual paths of calls, which different parsers interpret differently. A caller with a token of role
//! `read` must not be able to move money by any of these paths.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tally::proto::{
    CreateAccountRequest, GetTransactionRequest, ProcessTransactionsRequest, StreamTransactionsRequest,
    account_service_client::AccountServiceClient, transaction_service_client::TransactionServiceClient,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Status};

use super::{
    READ, WRITE,
    tokens::{code_and_reason, with_token},
    with_tokens,
};
use crate::support::{
    in_process::{account, pay},
    server::TestServer,
};

async fn create_accounts(server: &TestServer) {
    let mut accounts = AccountServiceClient::connect(server.endpoint()).await.unwrap();
    for id in ["a", "b"] {
        let request = CreateAccountRequest {
            account: Some(account(id)),
        };
        accounts
            .create_account(with_token(request, Some(WRITE)))
            .await
            .unwrap();
    }
}

/// Checks that the ledger contains none of the transactions.
async fn assert_none_is_committed(server: &TestServer, ids: &[String]) {
    let mut client = TransactionServiceClient::connect(server.endpoint())
        .await
        .unwrap();
    for id in ids {
        let request = GetTransactionRequest {
            transaction_id: id.clone(),
            ..GetTransactionRequest::default()
        };
        let found = client.get_transaction(with_token(request, Some(READ))).await;
        assert_eq!(found.unwrap_err().code(), Code::NotFound, "{id}");
    }
}

/// Returns an encoded message with the gRPC header before it: a flag and the length.
fn framed(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], length.as_slice(), &message].concat()
}

/// Returns the body of a call of `method` that would commit the transaction `id`.
fn body_of(method: &str, id: &str) -> Vec<u8> {
    match method {
        "ProcessTransactions" => framed(&ProcessTransactionsRequest {
            transactions: vec![pay(id)],
        }),
        "StreamTransactions" => framed(&StreamTransactionsRequest {
            transaction: Some(pay(id)),
        }),
        _ => framed(&pay(id)),
    }
}

/// A client that can call any path with any HTTP method.
struct Raw {
    sender: SendRequest<Full<Bytes>>,
    endpoint: String,
}

impl Raw {
    async fn to(server: &TestServer) -> Self {
        let stream = TcpStream::connect(server.address()).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        Raw {
            sender,
            endpoint: server.endpoint(),
        }
    }

    async fn call(&mut self, method: &str, path: &str, token: Option<&str>, body: Vec<u8>) -> Status {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.endpoint))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let response = self.sender.send_request(request).await.unwrap();
        if let Some(status) = Status::from_header_map(response.headers()) {
            return status;
        }
        let collected = response.into_body().collect().await.unwrap();
        Status::from_header_map(collected.trailers().expect("trailers")).expect("a status")
    }
}

/// Returns unusual paths that a parser could take for the path of `method`.
fn odd_paths(service: &str, method: &str) -> Vec<String> {
    let lower = method.to_lowercase();
    let first = method.as_bytes()[0];
    vec![
        format!("/{service}/Get/{method}"),
        format!("/{service}/List/{method}"),
        format!("/{service}/Watch/{method}"),
        format!("/{service}/GetTransaction/{method}"),
        format!("/{service}/GetTransaction/../{method}"),
        format!("/{service}/./{method}"),
        format!("/{service}//{method}"),
        format!("//{service}/{method}"),
        format!("/{service}/{method}/"),
        format!("/{service}/{method}//"),
        format!("/{service}/{method}/GetTransaction"),
        format!("/{service}/{method}?"),
        format!("/{service}/{method}?/Get/x"),
        format!("/{service}/{lower}"),
        format!("/{}/{method}", service.to_lowercase()),
        format!("/{service}/%{first:02X}{}", &method[1..]),
        format!("/{service}%2F{method}"),
        format!("/{service}/{method}%00"),
        format!("/grpc.health.v1.Health/{service}/{method}"),
        format!("/grpc.health.v1.Health/Check/{method}"),
        format!("/tally.v1.AccountService/Get/{service}/{method}"),
        format!("/x/{service}/{method}"),
        format!("/{method}"),
        "/".to_owned(),
    ]
}

#[tokio::test]
async fn a_token_of_role_read_moves_no_money_by_any_path() {
    let (server, _home, _file) = with_tokens();
    create_accounts(&server).await;
    let mut raw = Raw::to(&server).await;
    let service = "tally.v1.TransactionService";
    let mut ids = Vec::new();
    for method in ["ProcessTransaction", "ProcessTransactions", "StreamTransactions"] {
        for path in odd_paths(service, method) {
            let id = format!("odd-{}", ids.len());
            let body = body_of(method, &id);
            ids.push(id);
            let answers = [
                raw.call("POST", &path, Some(READ), body.clone()).await,
                // gRPC allows only the HTTP method POST.
                raw.call("PUT", &path, Some(READ), body.clone()).await,
            ]
            .map(|status| code_and_reason::<()>(Err(status)));
            let unknown = (Code::Unimplemented, "UNKNOWN_METHOD".to_owned());
            assert_eq!(answers, [unknown.clone(), unknown], "{path}");
            // A caller without a token gets the same error for every path, so the caller does not learn which paths
            // exist.
            let answer = raw.call("POST", &path, None, body).await;
            assert_eq!(answer.code(), Code::Unauthenticated, "{path}");
        }
        let path = format!("/{service}/{method}");
        let id = format!("straight-{method}");
        let straight = raw.call("POST", &path, Some(READ), body_of(method, &id)).await;
        assert_eq!(straight.code(), Code::PermissionDenied, "{path}");
        for other in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            // With a token of role `write`, the HTTP method must be POST, too.
            let status = raw.call(other, &path, Some(WRITE), body_of(method, &id)).await;
            assert_eq!(status.code(), Code::Unimplemented, "{other} {path}");
        }
        ids.push(id);
    }
    assert_none_is_committed(&server, &ids).await;
    // A valid call with the same transaction ids succeeds.
    for method in ["ProcessTransaction", "ProcessTransactions", "StreamTransactions"] {
        let path = format!("/{service}/{method}");
        let status = raw
            .call("POST", &path, Some(WRITE), body_of(method, method))
            .await;
        assert_eq!(status.code(), Code::Ok, "{status:?}");
    }
}

/// Returns the bytes of a connection with one call: the preface, and a HEADERS frame and a DATA frame of stream 1. HTTP
/// libraries would not send some of these paths. The numbers of the header fields are in RFC 7541, appendix A.
fn frames(path: &str, token: &str, body: &[u8]) -> Vec<u8> {
    let text = |prefix: &[u8], text: &str| {
        let length = u8::try_from(text.len()).unwrap();
        assert!(length < 127, "a length of one byte");
        [prefix, &[length], text.as_bytes()].concat()
    };
    let block = [
        // :method: POST, :scheme: http.
        vec![0x83, 0x86],
        text(&[0x04], path),
        // The names :authority, authorization and content-type are given by their numbers.
        text(&[0x01], "localhost"),
        text(&[0x0f, 23 - 15], &format!("Bearer {token}")),
        text(&[0x0f, 31 - 15], "application/grpc"),
    ]
    .concat();
    let frame = |kind: u8, flags: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    };
    // The flag 4 of HEADERS is END_HEADERS, and the flag 1 of DATA is END_STREAM.
    let frames = [frame(1, 4, &block), frame(0, 1, body)].concat();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    [preface.as_slice(), &frames].concat()
}

#[tokio::test]
async fn a_token_of_role_read_moves_no_money_by_a_path_that_http_libraries_do_not_send() {
    let (server, _home, _file) = with_tokens();
    create_accounts(&server).await;
    let call = "tally.v1.TransactionService/ProcessTransaction";
    let mut ids = Vec::new();
    for path in [
        format!("http://localhost/{call}"),
        call.to_owned(),
        format!("/{call}#x"),
        format!("/{call} "),
        format!("/x\\{call}"),
        "*".to_owned(),
        String::new(),
    ] {
        let id = format!("hand-{}", ids.len());
        let body = body_of("ProcessTransaction", &id);
        ids.push(id);
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(&frames(&path, READ, &body)).await.unwrap();
        // Wait for the first frame of stream 1, for GOAWAY, or for the end of the connection.
        loop {
            let mut header = [0; 9];
            if stream.read_exact(&mut header).await.is_err() {
                break;
            }
            let [a, b, c, kind, _, .., number] = header;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            let mut payload = vec![0; length];
            if stream.read_exact(&mut payload).await.is_err() || number == 1 || kind == 7 {
                break;
            }
        }
    }
    assert_none_is_committed(&server, &ids).await;
}
