//! Tests that `tally import` sends the rows of a file in their order: each call after the answer to the previous call.

use std::{collections::HashSet, fs, process::Command, sync::Arc};

use parking_lot::Mutex;
use tally::proto::{
    BatchCreateAccountsRequest, BatchCreateAccountsResponse, CreateAccountRequest, CreateAccountResponse,
    GetAccountRequest, GetAccountResponse, GetChainHeadRequest, GetChainHeadResponse, GetTransactionRequest,
    GetTransactionResponse, ListAccountEntriesRequest, ListAccountEntriesResponse, ListAccountsRequest,
    ListAccountsResponse, ListHoldsRequest, ListHoldsResponse, ListTransactionsRequest,
    ListTransactionsResponse, ProcessTransactionRequest, ProcessTransactionResponse,
    ProcessTransactionsRequest, ProcessTransactionsResponse, StreamTransactionsRequest,
    StreamTransactionsResponse, TransactionResult, UpdateAccountRequest, UpdateAccountResponse,
    WatchTransactionsRequest, WatchTransactionsResponse,
    account_service_server::{AccountService, AccountServiceServer},
    transaction_result::Outcome,
    transaction_service_server::{TransactionService, TransactionServiceServer},
};
use tokio::net::TcpListener;
use tokio_stream::{Empty, wrappers::TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};
use tonic_types::{ErrorDetails, StatusExt};

use crate::support::server::BINARY;

/// Retry delay of a refused call, in milliseconds. If the import sent the next call without waiting for this answer, the next call would
/// arrive first.
const DELAY_MILLIS: &str = "20";

/// A service that records the calls that it accepts. It refuses the first attempt of every second call.
#[derive(Debug, Clone, Default)]
struct Recorder(Arc<Mutex<Calls>>);

#[derive(Debug, Default)]
struct Calls {
    /// The first rows of all calls.
    seen: HashSet<String>,
    /// The rows of the accepted calls.
    accepted: Vec<String>,
}

// ===== impl Recorder =====

impl Recorder {
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = Server::builder()
            .add_service(TransactionServiceServer::new(self.clone()))
            .add_service(AccountServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        endpoint
    }

    fn call(&self, rows: Vec<String>) -> Result<(), Status> {
        let mut calls = self.0.lock();
        if calls.seen.insert(rows[0].clone()) && calls.seen.len() % 2 == 1 {
            let mut status = Status::unavailable("not yet");
            let delay = DELAY_MILLIS.parse().unwrap();
            status.metadata_mut().insert("grpc-retry-pushback-ms", delay);
            return Err(status);
        }
        calls.accepted.extend(rows);
        Ok(())
    }
}

#[tonic::async_trait]
impl TransactionService for Recorder {
    type StreamTransactionsStream = Empty<Result<StreamTransactionsResponse, Status>>;
    type WatchTransactionsStream = Empty<Result<WatchTransactionsResponse, Status>>;

    async fn process_transactions(
        &self,
        request: Request<ProcessTransactionsRequest>,
    ) -> Result<Response<ProcessTransactionsResponse>, Status> {
        let transactions = request.into_inner().transactions;
        let ids: Vec<String> = transactions
            .into_iter()
            .map(|transaction| transaction.transaction_id)
            .collect();
        self.call(ids.clone())?;
        let committed = |transaction_id| TransactionResult {
            transaction_id,
            outcome: Some(Outcome::Committed(ProcessTransactionResponse::default())),
        };
        let results = ids.into_iter().map(committed).collect();
        Ok(Response::new(ProcessTransactionsResponse { results }))
    }

    async fn get_transaction(
        &self,
        _: Request<GetTransactionRequest>,
    ) -> Result<Response<GetTransactionResponse>, Status> {
        let details = ErrorDetails::with_error_info("TRANSACTION_NOT_FOUND", "tally.v1", []);
        Err(Status::with_error_details(Code::NotFound, "no", details))
    }

    async fn process_transaction(
        &self,
        _: Request<ProcessTransactionRequest>,
    ) -> Result<Response<ProcessTransactionResponse>, Status> {
        Err(Status::unimplemented("the import does not call this"))
    }

    async fn list_transactions(
        &self,
        _: Request<ListTransactionsRequest>,
    ) -> Result<Response<ListTransactionsResponse>, Status> {
        Err(Status::unimplemented("the import does not call this"))
    }

    async fn watch_transactions(
        &self,
        _: Request<WatchTransactionsRequest>,
    ) -> Result<Response<Self::WatchTransactionsStream>, Status> {
        Err(Status::unimplemented("the import does not call this"))
    }

    async fn get_chain_head(
        &self,
        _: Request<GetChainHeadRequest>,
    ) -> Result<Response<GetChainHeadResponse>, Status> {
        Err(Status::unimplemented("the import does not call this"))
    }

    async fn stream_transactions(
        &self,
        _: Request<Streaming<StreamTransactionsRequest>>,
    ) -> Result<Response<Self::StreamTransactionsStream>, Status> {
        Err(Status::unimplemented("the import does not call this"))
    }
}

#[tonic::async_trait]
impl AccountService for Recorder {
    async fn update_account(
        &self,
        request: Request<UpdateAccountRequest>,
    ) -> Result<Response<UpdateAccountResponse>, Status> {
        let account = request.into_inner().account;
        let id = account.as_ref().map(|account| account.id.clone()).unwrap();
        self.call(vec![id])?;
        Ok(Response::new(UpdateAccountResponse { account }))
    }

    async fn create_account(
        &self,
        _: Request<CreateAccountRequest>,
    ) -> Result<Response<CreateAccountResponse>, Status> {
        Err(Status::unimplemented("the import does not call this"))
    }

    async fn batch_create_accounts(
        &self,
        _: Request<BatchCreateAccountsRequest>,
    ) -> Result<Response<BatchCreateAccountsResponse>, Status> {
        Err(Status::unimplemented("the import does not call this"))
    }

    async fn get_account(
        &self,
        _: Request<GetAccountRequest>,
    ) -> Result<Response<GetAccountResponse>, Status> {
        Err(Status::unimplemented("the import does not call this"))
    }

    async fn list_accounts(
        &self,
        _: Request<ListAccountsRequest>,
    ) -> Result<Response<ListAccountsResponse>, Status> {
        Err(Status::unimplemented("the import does not call this"))
    }

    async fn list_account_entries(
        &self,
        _: Request<ListAccountEntriesRequest>,
    ) -> Result<Response<ListAccountEntriesResponse>, Status> {
        Err(Status::unimplemented("the import does not call this"))
    }

    async fn list_holds(&self, _: Request<ListHoldsRequest>) -> Result<Response<ListHoldsResponse>, Status> {
        Err(Status::unimplemented("the import does not call this"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_overtakes_an_earlier_row() {
    let transfers = r#""transfers":[{"debitAccountId":"a","creditAccountId":"b","minorUnits":"5"}]"#;
    let (mut lines, mut rows) = (String::new(), Vec::new());
    for number in 0..30 {
        let mut add = |row: &str, line: String| {
            lines.push_str(&line);
            lines.push('\n');
            rows.push(format!("{row}{number}"));
        };
        let id = |row: &str| format!(r#""transactionId":"{row}{number}""#);
        let hold = format!(r#""pendingTransactionId":"hold-{number}""#);
        let update = r#""updateMask":"metadata""#;
        add("plain-", format!("{{{},{transfers}}}", id("plain-")));
        add(
            "hold-",
            format!(
                r#"{{{},"phase":"TRANSACTION_PHASE_PENDING",{transfers}}}"#,
                id("hold-")
            ),
        );
        add(
            "post-",
            format!(
                r#"{{{},"phase":"TRANSACTION_PHASE_POST_PENDING",{hold}}}"#,
                id("post-")
            ),
        );
        add(
            "reversal-",
            format!(
                r#"{{{},"reversesTransactionId":"post-{number}"}}"#,
                id("reversal-")
            ),
        );
        add(
            "one-",
            format!(r#"{{"account":{{"id":"one-{number}"}},{update}}}"#),
        );
        add(
            "two-",
            format!(r#"{{"account":{{"id":"two-{number}"}},{update}}}"#),
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.ndjson");
    fs::write(&file, lines).unwrap();
    for batch in ["1", "2", "1000"] {
        let recorder = Recorder::default();
        let endpoint = recorder.start().await;
        let mut command = Command::new(BINARY);
        command
            .arg("import")
            .arg(&file)
            .args(["--batch", batch, "--endpoint", &endpoint]);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words}");
        assert_eq!(recorder.0.lock().accepted, rows, "--batch {batch}");
    }
}
