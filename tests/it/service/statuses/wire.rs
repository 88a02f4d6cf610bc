//! A client that can send any bytes.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use prost::Message;
use tally::{
    grpc::error_kind::{ERROR_KINDS, ErrorKind, Retry},
    proto::{
        ProcessTransactionRequest, ProcessTransactionsRequest, ProcessTransactionsResponse,
        StreamTransactionsRequest, StreamTransactionsResponse, TransactionResult,
        transaction_result::Outcome,
    },
};
use tokio::net::TcpStream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{PROCESS_MANY, PROCESS_ONE, STREAM};
use crate::{
    service::{expected, summary},
    support::in_process::Service,
};
/// Returns an encoded message with the gRPC header before it: a flag and the length.
pub(super) fn framed(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], length.as_slice(), &message].concat()
}

/// A client that can send any bytes, and that collects the reasons of the errors that it receives.
pub(super) struct Wire {
    sender: SendRequest<Full<Bytes>>,
    endpoint: String,
    reasons: Arc<Mutex<BTreeSet<String>>>,
}

impl Wire {
    pub(super) async fn connect(service: &Service, reasons: &Arc<Mutex<BTreeSet<String>>>) -> Self {
        let stream = TcpStream::connect(service.address()).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        Wire {
            sender,
            endpoint: service.endpoint(),
            reasons: Arc::clone(reasons),
        }
    }

    /// Makes a call. Returns its status and the bytes of its messages.
    pub(super) async fn call(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> (Status, Bytes) {
        let mut request = Request::builder()
            .method("POST")
            .uri(format!("{}{path}", self.endpoint))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let response = self.sender.send_request(request).await.unwrap();
        if let Some(status) = Status::from_header_map(response.headers()) {
            return (status, Bytes::new());
        }
        let collected = response.into_body().collect().await.unwrap();
        let status = Status::from_header_map(collected.trailers().expect("trailers")).expect("a status");
        (status, collected.to_bytes())
    }

    /// Makes a call that must fail with this code and reason, and that must not be executed.
    pub(super) async fn fails(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
        code: Code,
        reason: &str,
    ) {
        let (status, _) = self.call(path, headers, body).await;
        self.check(path, &status, code, reason, "false");
    }

    /// Does the same as [`Wire::fails`], with a complete message.
    pub(super) async fn rejects(&mut self, path: &str, message: &impl Message, code: Code, reason: &str) {
        self.fails(path, &[], framed(message), code, reason).await;
    }

    /// Does the same as [`Wire::rejects`], with a message that has an invalid field.
    pub(super) async fn rejects_fields(&mut self, path: &str, message: &impl Message) {
        self.rejects(path, message, Code::InvalidArgument, "INVALID_FIELD")
            .await;
    }

    pub(super) fn check(&self, call: &str, status: &Status, code: Code, reason: &str, executed: &str) {
        assert_eq!(
            summary(status),
            expected(code, reason, executed),
            "{call}: {status:?}"
        );
        let kind = ERROR_KINDS.iter().find(|kind| kind.reason == reason);
        let kind = kind.unwrap_or_else(|| panic!("{reason} is not in ERROR_KINDS"));
        let retry = &status.get_details_error_info().unwrap().metadata["retry"];
        assert_eq!(retry, kind.retry.as_str(), "{call}: {status:?}");
        assert!(
            kind.codes.contains(&code) || *kind == ErrorKind::LIBRARY_ERROR,
            "{reason}"
        );
        let delay = status.get_details_retry_info().is_some();
        assert_eq!(delay, kind.retry == Retry::SameIdAfterDelay, "{call}: {status:?}");
        if let Some(documented) = kind.executed.as_str() {
            assert_eq!(executed, documented, "{call}: {status:?}");
        }
        self.reasons.lock().insert(reason.to_owned());
    }

    /// Checks that a transaction fails with the same error in all three ways to send it: alone, in a batch, and in a stream.
    pub(super) async fn rejects_transaction(
        &mut self,
        request: ProcessTransactionRequest,
        code: Code,
        reason: &str,
    ) {
        self.rejects(PROCESS_ONE, &request, code, reason).await;
        let many = ProcessTransactionsRequest {
            transactions: vec![request.clone()],
        };
        let (status, body) = self.call(PROCESS_MANY, &[], framed(&many)).await;
        assert_eq!(status.code(), Code::Ok);
        let response = ProcessTransactionsResponse::decode(&body[5..]).unwrap();
        self.check_result(response.results[0].clone(), code, reason);
        let one = StreamTransactionsRequest {
            transaction: Some(request),
        };
        let (status, body) = self.call(STREAM, &[], framed(&one)).await;
        assert_eq!(status.code(), Code::Ok);
        let response = StreamTransactionsResponse::decode(&body[5..]).unwrap();
        self.check_result(response.result.unwrap(), code, reason);
    }

    fn check_result(&self, result: TransactionResult, code: Code, reason: &str) {
        let Some(Outcome::Error(error)) = result.outcome else {
            panic!("{result:?}")
        };
        let details = error.encode_to_vec();
        let status = Status::with_details(Code::from(error.code), error.message, details.into());
        self.check("a result", &status, code, reason, "false");
    }
}
