//! The methods of `tally.v1.AccountService`.
//!
//! Requests are read without tonic's server, so that the memory of a call is reserved before its message is decoded;
//! see `transport/framing.rs`.

use std::sync::Arc;

use prost::Message;
use tally_ledger::{NewAccount, id::check_id};
use tokio::time::Instant;
use tonic::{Status, server::NamedService};

use super::{decode, encode::from_account};
use crate::{
    engine::{CreatedAccounts, TallyEngine},
    grpc::{
        fields::Violations,
        limits::QUERY_BYTES_MAX,
        methods::AccountCall,
        status,
        transport::{
            budget::Reservation,
            framing::{AdmittedCall, Expected, Inbound},
            outbound::AnswerFuture,
        },
    },
    proto::{
        self, BatchCreateAccountsRequest, BatchCreateAccountsResponse, CreateAccountRequest,
        CreateAccountResponse, GetAccountRequest, GetAccountResponse, ListAccountsRequest,
        ListAccountsResponse, account_service_server::SERVICE_NAME,
    },
};

/// Longest message with one account. A valid one has less than 2 KiB.
const ACCOUNT_BYTES_MAX: usize = 16 << 10;
/// Longest message with many accounts: twice the longest one that can be valid.
const ACCOUNTS_BYTES_MAX: usize = 4 << 20;
/// Most memory of an account in an answer: the account with its metadata, and its encoding.
const SHOWN_ACCOUNT_BYTES: usize = 5 << 10;
/// Memory of an account that is created, in addition to copies of its bytes in the request.
const NEW_ACCOUNT_BYTES: usize = 2 << 10;
/// Copies of its bytes at the same time: in the request, decoded, in the ledger, in the answer.
const NEW_ACCOUNT_COPIES: usize = 4;
/// The service. Clones are cheap.
#[derive(Debug, Clone)]
pub(crate) struct AccountService {
    engine: Arc<TallyEngine>,
}

type AnswerResult = Result<(Vec<u8>, Reservation), Status>;

// ===== impl AccountService =====

impl NamedService for AccountService {
    const NAME: &'static str = SERVICE_NAME;
}

impl AccountService {
    /// A service over `engine`.
    #[must_use]
    pub(crate) fn new(engine: TallyEngine) -> Self {
        AccountService {
            engine: Arc::new(engine),
        }
    }

    /// Answers `CreateAccount`, `BatchCreateAccounts`, `GetAccount` or `ListAccounts`.
    pub(crate) fn call(&self, method: AccountCall, call: AdmittedCall) -> AnswerFuture {
        let (service, limits) = (self.clone(), Arc::clone(&call.limits));
        Box::pin(async move {
            let answered = match method {
                AccountCall::Create => service.create_account(call).await,
                AccountCall::BatchCreate => service.batch_create_accounts(call).await,
                AccountCall::Get => service.get_account(call).await,
                AccountCall::List => service.list_accounts(call).await,
            };
            Ok(limits.answer(answered))
        })
    }

    async fn create(
        &self,
        accounts: Vec<NewAccount>,
        deadline: Option<Instant>,
    ) -> Result<Vec<proto::Account>, Status> {
        let ids: Vec<String> = accounts.iter().map(|account| account.id.clone()).collect();
        match self.engine.create_accounts(accounts, deadline).await? {
            CreatedAccounts::All(accounts) => Ok(accounts.into_iter().map(from_account).collect()),
            CreatedAccounts::Reused { place } => Err(status::account_id_reused(
                ids.get(place).map_or("", String::as_str),
            )),
            CreatedAccounts::Full(full) => Err(status::accounts_full(full)),
        }
    }

    async fn create_account(&self, call: AdmittedCall) -> AnswerResult {
        let mut inbound = Inbound::open(call, Expected::Message, ACCOUNT_BYTES_MAX)?;
        let account = {
            let message = inbound.only().await?;
            let request = CreateAccountRequest::decode(message).map_err(status::malformed_message)?;
            let mut violations = Violations::default();
            let account = decode::to_new_account(&mut violations, "account", request.account);
            violations.finish().map_err(status::invalid)?;
            account
        };
        inbound.hold(SHOWN_ACCOUNT_BYTES)?;
        inbound.finish().await?;
        let mut accounts = self
            .create(account.into_iter().collect(), inbound.deadline())
            .await?;
        Ok(inbound.answer(&CreateAccountResponse {
            account: accounts.pop(),
        }))
    }

    async fn batch_create_accounts(&self, call: AdmittedCall) -> AnswerResult {
        let mut inbound = Inbound::open(call, Expected::Message, ACCOUNTS_BYTES_MAX)?;
        let accounts = {
            let message = inbound.only().await?;
            // A decoded message can take a thousand times the memory of its bytes, so the accounts are counted first.
            let count = decode::count_accounts(&message)?;
            inbound.hold(count * NEW_ACCOUNT_BYTES + message.len() * NEW_ACCOUNT_COPIES)?;
            let request = BatchCreateAccountsRequest::decode(message).map_err(status::malformed_message)?;
            decode::new_accounts(request)?
        };
        inbound.finish().await?;
        let accounts = self.create(accounts, inbound.deadline()).await?;
        Ok(inbound.answer(&BatchCreateAccountsResponse { accounts }))
    }

    async fn get_account(&self, call: AdmittedCall) -> AnswerResult {
        let (question, mut inbound) = Inbound::ask::<GetAccountRequest>(call, QUERY_BYTES_MAX).await?;
        let id = question.account_id;
        check_id(&id).map_err(|error| status::invalid_field("account_id", error.to_string()))?;
        inbound.hold(SHOWN_ACCOUNT_BYTES)?;
        let account = self.engine.account(id.clone(), inbound.deadline()).await?;
        let account = account.ok_or_else(|| status::account_not_found(&id))?;
        Ok(inbound.answer(&GetAccountResponse {
            account: Some(from_account(*account)),
        }))
    }

    async fn list_accounts(&self, call: AdmittedCall) -> AnswerResult {
        let (question, mut inbound) = Inbound::ask::<ListAccountsRequest>(call, QUERY_BYTES_MAX).await?;
        let limit = decode::page_limit(question.page_size)?;
        let from = decode::page_start(&question.page_token)?;
        // Reserved before EXEC reads the accounts, because they stay in memory until earlier transactions are durable.
        inbound.hold(limit * SHOWN_ACCOUNT_BYTES)?;
        let (accounts, next) = self.engine.accounts(from, limit, inbound.deadline()).await?;
        Ok(inbound.answer(&ListAccountsResponse {
            accounts: accounts.into_iter().map(from_account).collect(),
            next_page_token: next.map(decode::page_token_of).unwrap_or_default(),
        }))
    }
}
