//! A client of the service: combines the generated clients and adds retries.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = tally::client::Client::connect("http://127.0.0.1:50051").await?;
//! let account = client.get_account("wallet:alice").await?;
//! # Ok(()) }
//! ```
//!
//! With several endpoints (the replicas of one ledger), the client finds the leader. If it loses a replica, it continues at another:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let config = tally::client::ClientConfig {
//!     endpoints: ["http://a:50051", "http://b:50051", "http://c:50051"].map(str::to_owned).to_vec(),
//!     ..Default::default()
//! };
//! let client = tally::client::Client::connect_with(&config).await?;
//! # Ok(()) }
//! ```

mod address;
mod connect;
mod connection;
mod failover;
mod fault;
mod retry;
mod watch;

use std::time::Duration;

use tonic::{Code, Request, Status};

pub use self::{
    address::check_endpoint,
    connect::{ClientConfig, ConnectError, ENDPOINTS_MAX, Token},
    connection::Connection,
    fault::{Fault, code_name},
    retry::{CallError, Executed, RetryObserver, RetryPolicy},
    watch::TransactionWatch,
};
use crate::proto::{
    Account, BatchCreateAccountsRequest, CreateAccountRequest, GetAccountRequest, GetBatchStatsRequest,
    GetBatchStatsResponse, GetChainHeadRequest, GetChainHeadResponse, GetCircuitStatsRequest,
    GetCircuitStatsResponse, GetTopologyRequest, GetTopologyResponse, GetTransactionRequest,
    ListAccountEntriesRequest, ListAccountEntriesResponse, ListAccountsRequest, ListAccountsResponse,
    ListTransactionsRequest, ListTransactionsResponse, ProcessTransactionRequest, ProcessTransactionResponse,
    ProcessTransactionsRequest, Transaction, TransactionResult, UpdateAccountRequest,
    account_service_client::AccountServiceClient, engine_service_client::EngineServiceClient,
    transaction_service_client::TransactionServiceClient,
};

/// Maximum number of transactions in one [`Client::process_transactions`].
pub const TRANSACTIONS_MAX: usize = 8192;
/// Maximum number of accounts in one [`Client::batch_create_accounts`].
pub const CREATE_ACCOUNTS_MAX: usize = 1000;
/// Largest page of [`Client::list_accounts`].
pub const PAGE_ACCOUNTS_MAX: i32 = 1000;
/// Largest request and largest response, in bytes; the same as on the server.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Longest time to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a service. Clones share the connection. A lost connection is replaced at the next attempt. With several endpoints,
/// the next attempt goes to the leader, or to another replica that answers.
#[derive(Debug, Clone)]
pub struct Client {
    transactions: TransactionServiceClient<Connection>,
    accounts: AccountServiceClient<Connection>,
    engine: EngineServiceClient<Connection>,
    /// Whether the connection has several endpoints.
    has_alternatives: bool,
    retry: RetryPolicy,
    observer: RetryObserver,
}

// ===== impl Client =====

/// Calls a method of a generated client, with retries.
macro_rules! call {
    ($self:ident . $service:ident . $method:ident, $message:expr) => {{
        let message = $message;
        $self
            .retry
            .run_over($self.has_alternatives, &$self.observer, |left| {
                let mut service = $self.$service.clone();
                let mut request = Request::new(message.clone());
                // With this timeout, the server does not begin to execute the call after its deadline.
                request.set_timeout(left);
                async move { service.$method(request).await.map(tonic::Response::into_inner) }
            })
            .await
    }};
}

impl Client {
    /// Connects to `endpoint`: `http://HOST:PORT`, or `HOST:PORT`. Makes one attempt, because only calls are retried.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(endpoint: &str) -> Result<Self, ConnectError> {
        Self::connect_with(&ClientConfig::plain(endpoint)).await
    }

    /// Connects with `config`, which may contain several endpoints, TLS files and a token. Makes one attempt at each endpoint.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect_with(config: &ClientConfig) -> Result<Self, ConnectError> {
        let connection = config.connect(CONNECT_TIMEOUT).await?;
        Ok(Client {
            has_alternatives: connection.has_alternatives(),
            transactions: TransactionServiceClient::new(connection.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            accounts: AccountServiceClient::new(connection.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            engine: EngineServiceClient::new(connection),
            retry: RetryPolicy::default(),
            observer: RetryObserver::default(),
        })
    }

    /// Returns a client with the same connection and another retry policy.
    #[must_use]
    pub fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Returns a client with the same connection that calls `observer` before each delay of a retry, with the status of the failed
    /// attempt and the delay.
    #[must_use]
    pub fn on_retry(mut self, observer: impl Fn(&Status, Duration) + Send + Sync + 'static) -> Self {
        self.observer = RetryObserver::new(observer);
        self
    }

    /// Applies one transaction.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn process_transaction(
        &self,
        transaction: ProcessTransactionRequest,
    ) -> Result<ProcessTransactionResponse, CallError> {
        call!(self.transactions.process_transaction, transaction)
    }

    /// Applies up to [`TRANSACTIONS_MAX`] independent transactions. Returns one result per transaction, in the same order.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn process_transactions(
        &self,
        transactions: Vec<ProcessTransactionRequest>,
    ) -> Result<Vec<TransactionResult>, CallError> {
        let count = transactions.len();
        let results = call!(
            self.transactions.process_transactions,
            ProcessTransactionsRequest { transactions }
        )?
        .results;
        if results.len() == count {
            Ok(results)
        } else {
            let message = format!("{} results for {count} transactions", results.len());
            Err(CallError::new(Status::internal(message)))
        }
    }

    /// Reads a transaction; `None` if it does not exist.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn get_transaction(&self, transaction_id: &str) -> Result<Option<Transaction>, CallError> {
        let request = GetTransactionRequest {
            transaction_id: transaction_id.to_owned(),
            ..GetTransactionRequest::default()
        };
        let found = call!(self.transactions.get_transaction, request);
        found_or_none(found).map(|response| response.and_then(|response| response.transaction))
    }

    /// Follows the ledger from the sequence `from_sequence` on; 0 and 1 mean from the beginning. The watch shows only transactions and
    /// expiries of holds whose ids begin with `id_prefix`, or all if it is empty.
    #[must_use]
    pub fn watch_transactions(&self, from_sequence: i64, id_prefix: &str) -> TransactionWatch {
        let (service, retry) = (self.transactions.clone(), (self.retry, self.observer.clone()));
        TransactionWatch::new(service, retry, self.has_alternatives, from_sequence, id_prefix)
    }

    /// Creates up to [`CREATE_ACCOUNTS_MAX`] accounts, all or none.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn batch_create_accounts(&self, accounts: Vec<Account>) -> Result<Vec<Account>, CallError> {
        let request = batch_of(accounts, false);
        call!(self.accounts.batch_create_accounts, request).map(|response| response.accounts)
    }

    /// Creates those of up to [`CREATE_ACCOUNTS_MAX`] accounts whose ids do not exist, all or none, and returns them. Existing
    /// accounts stay unchanged, whatever their content. A retry after a lost answer does not return the accounts that the lost call
    /// created.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn create_missing_accounts(&self, accounts: Vec<Account>) -> Result<Vec<Account>, CallError> {
        let request = batch_of(accounts, true);
        call!(self.accounts.batch_create_accounts, request).map(|response| response.accounts)
    }

    /// Updates an account, and returns it. Without an `etag`, the same update can be repeated. With an `etag`, a repetition after a lost
    /// answer fails with `ACCOUNT_CHANGED` if the lost call has changed the account.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn update_account(&self, request: UpdateAccountRequest) -> Result<Account, CallError> {
        let updated = call!(self.accounts.update_account, request)?.account;
        updated.ok_or_else(|| CallError::new(Status::internal("the answer has no account")))
    }

    /// Reads an account; `None` if it does not exist.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn get_account(&self, account_id: &str) -> Result<Option<Account>, CallError> {
        let request = GetAccountRequest {
            account_id: account_id.to_owned(),
            ..GetAccountRequest::default()
        };
        let found = call!(self.accounts.get_account, request);
        found_or_none(found).map(|response| response.and_then(|response| response.account))
    }

    /// Reads a page of up to `page_size` accounts (0 to [`PAGE_ACCOUNTS_MAX`]; 0 means the default of the server). `page_token`
    /// is empty for the first page.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn list_accounts(
        &self,
        page_size: i32,
        page_token: &str,
    ) -> Result<ListAccountsResponse, CallError> {
        let request = ListAccountsRequest {
            page_size,
            page_token: page_token.to_owned(),
            ..ListAccountsRequest::default()
        };
        call!(self.accounts.list_accounts, request)
    }

    /// Reads an account as of a moment, or now; `None` if it does not exist, or did not exist then.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn get_account_as_of(&self, request: GetAccountRequest) -> Result<Option<Account>, CallError> {
        let found = call!(self.accounts.get_account, request);
        found_or_none(found).map(|response| response.and_then(|response| response.account))
    }

    /// Reads a page of the statement of an account.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn list_account_entries(
        &self,
        request: ListAccountEntriesRequest,
    ) -> Result<ListAccountEntriesResponse, CallError> {
        call!(self.accounts.list_account_entries, request)
    }

    /// Reads a page of the ledger in its order.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn list_transactions(
        &self,
        request: ListTransactionsRequest,
    ) -> Result<ListTransactionsResponse, CallError> {
        call!(self.transactions.list_transactions, request)
    }

    /// Reads the end of the journal.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn chain_head(&self) -> Result<GetChainHeadResponse, CallError> {
        call!(self.transactions.get_chain_head, GetChainHeadRequest {})
    }

    /// Reads the statistics of the circuits.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn circuit_stats(&self) -> Result<GetCircuitStatsResponse, CallError> {
        call!(self.engine.get_circuit_stats, GetCircuitStatsRequest {})
    }

    /// Reads the CPUs, roles and threads of the service.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn topology(&self) -> Result<GetTopologyResponse, CallError> {
        call!(self.engine.get_topology, GetTopologyRequest {})
    }

    /// Reads the statistics of the batch processor, the journal and the ledger.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn batch_stats(&self) -> Result<GetBatchStatsResponse, CallError> {
        call!(self.engine.get_batch_stats, GetBatchStatsRequest {})
    }
}

fn batch_of(accounts: Vec<Account>, skip_existing: bool) -> BatchCreateAccountsRequest {
    let request = |account| CreateAccountRequest {
        account: Some(account),
    };
    BatchCreateAccountsRequest {
        requests: accounts.into_iter().map(request).collect(),
        skip_existing,
    }
}

/// Turns NOT_FOUND into `None`.
fn found_or_none<T>(answer: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        // Only the service sends a reason. A proxy may also answer NOT_FOUND, for an unknown path.
        Err(error) if error.status().code() == Code::NotFound && error.reason().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}
