//! The ledger view of the operators' page: accounts with their holds and statements, transactions, and the newest transactions.
//!
//! The answers are messages of the API in their JSON form. Unlike the figures of the service, they are only for callers that may read
//! the ledger (`access.rs`).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{ConnectInfo, State},
    http::{HeaderMap, HeaderName, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use prost::Message;
use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, timeout_at},
};
use tonic::{Code, Status};

use super::{
    access::{self, Refusal},
    parameters::Parameters,
};
use crate::{
    engine::TallyEngine,
    grpc::{ReadCall, entries_page, holds_page, read_account, read_transaction, transactions_page},
    json::to_json_line,
    proto::{
        GetAccountRequest, GetTransactionRequest, ListAccountEntriesRequest, ListHoldsRequest,
        ListTransactionsRequest,
    },
    security::{Scope, Security},
    terminal::units,
};

/// Maximum number of reads at a time. The others wait. The engine reads the history for four callers at a time
/// ([`HISTORY_READS_MAX`](crate::engine::HISTORY_READS_MAX)), so the callers of the gRPC port always get a turn.
const READS_MAX: usize = 2;
/// Time limit of a read.
const READ_TIME_MAX: Duration = Duration::from_secs(5);
/// Number of rows of a page of a statement, and of transactions of the feed.
const PAGE_ROWS: i32 = 50;
/// Number of holds of a page.
const PAGE_HOLDS: i32 = 20;

/// Headers of every answer: a browser must not guess another type, must not store the answer, and must not send the page's address to other
/// servers.
const HEADERS: [(HeaderName, &str); 3] = [
    (header::CONTENT_TYPE, "application/json"),
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

/// The state that all reads of the view share.
#[derive(Debug, Clone)]
struct LedgerView {
    engine: TallyEngine,
    security: Arc<Security>,
    /// [`READS_MAX`] permits.
    reads: Arc<Semaphore>,
}

/// What a request reads.
#[derive(Debug, Clone, Copy)]
enum Read {
    Account,
    Entries,
    Holds,
    Transaction,
    Feed,
}

/// A read of the view.
#[derive(Debug)]
struct ViewCall {
    scope: Scope,
    deadline: Instant,
}

/// The paths of the view.
pub(super) fn routes<S>(engine: &TallyEngine, security: &Arc<Security>) -> Router<S> {
    Router::new()
        .route("/ledger/account", answer(Read::Account))
        .route("/ledger/entries", answer(Read::Entries))
        .route("/ledger/holds", answer(Read::Holds))
        .route("/ledger/transaction", answer(Read::Transaction))
        .route("/ledger/feed", answer(Read::Feed))
        .with_state(LedgerView {
            engine: engine.clone(),
            security: Arc::clone(security),
            reads: Arc::new(Semaphore::new(READS_MAX)),
        })
}

fn answer(read: Read) -> MethodRouter<LedgerView> {
    get(
        move |State(view): State<LedgerView>,
              ConnectInfo(peer): ConnectInfo<SocketAddr>,
              headers: HeaderMap,
              uri: Uri| async move { view.answer(read, peer, &headers, &uri).await },
    )
}

// ===== impl LedgerView =====

impl LedgerView {
    async fn answer(&self, read: Read, peer: SocketAddr, headers: &HeaderMap, uri: &Uri) -> Response {
        let checked = access::reader(&self.security, peer, headers).and_then(|scope| {
            let query = uri.query().unwrap_or_default();
            Ok((scope, Parameters::read(query, read.parameters())?))
        });
        let (scope, parameters) = match checked {
            Ok(checked) => checked,
            Err(refusal) => return refusal.into_response(),
        };
        let deadline = Instant::now() + READ_TIME_MAX;
        let call = ViewCall { scope, deadline };
        let reading = async {
            let _permit = self.reads.acquire().await;
            read.json(&self.engine, &parameters, call).await
        };
        match timeout_at(deadline, reading).await {
            Ok(Ok(json)) => (HEADERS, json).into_response(),
            Ok(Err(refusal)) => refusal.into_response(),
            Err(_) => {
                let limit = units::time(READ_TIME_MAX);
                let text =
                    format!("the ledger did not answer within {limit}: it is busy, or its disk is slow\n");
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text).into_response()
            }
        }
    }
}

// ===== impl Read =====

impl Read {
    /// The parameters that a request may have.
    const fn parameters(self) -> &'static [&'static str] {
        match self {
            Read::Account => &["account_id"],
            Read::Entries | Read::Holds => &["account_id", "page_token"],
            Read::Transaction => &["transaction_id"],
            Read::Feed => &["from"],
        }
    }

    async fn json(
        self,
        engine: &TallyEngine,
        parameters: &Parameters,
        mut call: ViewCall,
    ) -> Result<String, Refusal> {
        let call = &mut call;
        let account_id = || parameters.text("account_id");
        let page_token = || parameters.text("page_token");
        match self {
            Read::Account => {
                let request = GetAccountRequest {
                    account_id: account_id(),
                    ..GetAccountRequest::default()
                };
                let found = Box::pin(read_account(engine, request, call)).await?;
                encoded("GetAccountResponse", found).await
            }
            Read::Entries => {
                let request = ListAccountEntriesRequest {
                    account_id: account_id(),
                    newest_first: true,
                    page_size: PAGE_ROWS,
                    page_token: page_token(),
                    ..ListAccountEntriesRequest::default()
                };
                let page = Box::pin(entries_page(engine, &request, call)).await?;
                encoded("ListAccountEntriesResponse", page).await
            }
            Read::Holds => {
                let request = ListHoldsRequest {
                    account_id: account_id(),
                    page_size: PAGE_HOLDS,
                    page_token: page_token(),
                    ..ListHoldsRequest::default()
                };
                let page = Box::pin(holds_page(engine, &request, call)).await?;
                encoded("ListHoldsResponse", page).await
            }
            Read::Transaction => {
                let request = GetTransactionRequest {
                    transaction_id: parameters.text("transaction_id"),
                    with_block: true,
                };
                let found = Box::pin(read_transaction(engine, request, call)).await?;
                encoded("GetTransactionResponse", found).await
            }
            Read::Feed => {
                let request = ListTransactionsRequest {
                    from_sequence: parameters.sequence("from")?,
                    newest_first: true,
                    page_size: PAGE_ROWS,
                    ..ListTransactionsRequest::default()
                };
                let page = Box::pin(transactions_page(engine, &request, call)).await?;
                encoded("ListTransactionsResponse", page).await
            }
        }
    }
}

/// Encodes message `name` of the API. A page can have thousands of transfers, so this does not run on the port's only thread, which
/// must answer probes.
async fn encoded(name: &'static str, message: impl Message + 'static) -> Result<String, Refusal> {
    let why = match spawn_blocking(move || to_json_line(name, &message)).await {
        Ok(Ok(json)) => return Ok(json),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::error!(
        error = why,
        name,
        "an answer of the ledger view could not be encoded"
    );
    let text = "the answer could not be encoded; see the log of the service\n";
    Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text))
}

impl From<Status> for Refusal {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all other codes are faults of the service"
    )]
    fn from(status: Status) -> Self {
        let code = match status.code() {
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::ResourceExhausted | Code::Unavailable | Code::DeadlineExceeded => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal::new(code, format!("{}\n", status.message()))
    }
}

// ===== impl ViewCall =====

impl ReadCall for ViewCall {
    fn scope(&self) -> Scope {
        self.scope.clone()
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.deadline)
    }

    /// The budget of the gRPC port does not count the view: the reads bound their pages, and [`READS_MAX`] bounds the reads.
    fn hold(&mut self, _bytes: usize) -> Result<(), Status> {
        Ok(())
    }
}
