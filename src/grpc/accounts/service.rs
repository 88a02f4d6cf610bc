//! The methods of `tally.v1.AccountService`.
//!
//! Requests are read without tonic's server, so that the memory of a call is reserved before the message is decoded.
//! `transport/framing.rs` gives the details.

use std::{fmt::Display, sync::Arc};

use prost::Message;
use tally_ledger::{AccountIndex, NewAccount, id::check_id};
use tokio::time::Instant;
use tonic::Status;

use super::{decode, encode::from_account, holds, pages::Filter};
use crate::{
    engine::{CreatedAccounts, Existing, PAGE_ACCOUNTS_MAX, TallyEngine},
    grpc::{
        fields::Violations,
        history,
        limits::QUERY_BYTES_MAX,
        methods::AccountCall,
        paging::page_limit,
        read_call::ReadCall,
        status,
        transport::{
            framing::{AdmittedCall, Expected, Inbound},
            outbound::{AnswerFuture, AnswerResult},
        },
    },
    proto::{
        self, BatchCreateAccountsRequest, BatchCreateAccountsResponse, CreateAccountRequest,
        CreateAccountResponse, GetAccountRequest, GetAccountResponse, ListAccountsRequest,
        ListAccountsResponse, UpdateAccountRequest, UpdateAccountResponse,
    },
    security::Scope,
};

/// Longest message with one account, in bytes. A valid message has less than 2 KiB.
const ACCOUNT_BYTES_MAX: usize = 16 << 10;
/// Longest message with many accounts, in bytes: twice the length of the longest valid message.
const ACCOUNTS_BYTES_MAX: usize = 4 << 20;
/// Maximum memory of an account in an answer, in bytes: the account with its metadata, and its encoding.
const SHOWN_ACCOUNT_BYTES: usize = 5 << 10;
/// Memory of a new account, in bytes, in addition to [`NEW_ACCOUNT_COPIES`] copies of its bytes in the request.
const NEW_ACCOUNT_BYTES: usize = 2 << 10;
/// Maximum number of steps through the accounts for one page, if the request has a filter.
const LIST_STEPS_MAX: usize = 16;
/// Number of copies of a new account that exist at the same time: the bytes of the request, the decoded message, the
/// account in the ledger, and the account in the answer.
const NEW_ACCOUNT_COPIES: usize = 4;

/// The service. Clones are cheap.
#[derive(Debug, Clone)]
pub(crate) struct AccountService {
    engine: Arc<TallyEngine>,
}

// ===== impl AccountService =====

impl AccountService {
    /// Returns the service over `engine`.
    #[must_use]
    pub(crate) fn new(engine: TallyEngine) -> Self {
        AccountService {
            engine: Arc::new(engine),
        }
    }

    /// Answers a method of the service.
    pub(crate) fn call(&self, method: AccountCall, call: AdmittedCall) -> AnswerFuture {
        let (service, limits) = (self.clone(), Arc::clone(&call.limits));
        Box::pin(async move {
            let answered = match method {
                AccountCall::Create => service.create_account(call).await,
                AccountCall::BatchCreate => service.batch_create_accounts(call).await,
                AccountCall::Update => service.update_account(call).await,
                AccountCall::Get => Box::pin(service.get_account(call)).await,
                AccountCall::List => service.list_accounts(call).await,
                // Boxed, because their futures are much larger than those of the other methods.
                AccountCall::ListEntries => Box::pin(history::list_entries(service.engine, call)).await,
                AccountCall::ListHolds => Box::pin(holds::list(service.engine, call)).await,
            };
            Ok(limits.answer(answered))
        })
    }

    async fn create(
        &self,
        accounts: Vec<NewAccount>,
        existing: Existing,
        deadline: Option<Instant>,
    ) -> Result<Vec<proto::Account>, Status> {
        let ids: Vec<String> = accounts.iter().map(|account| account.id.clone()).collect();
        match self.engine.create_accounts(accounts, existing, deadline).await? {
            CreatedAccounts::All(accounts) => Ok(accounts.into_iter().map(from_account).collect()),
            CreatedAccounts::Reused { place, field } => {
                let id = ids.get(place).map_or("", String::as_str);
                Err(status::account_id_reused(id, field))
            }
            CreatedAccounts::Full(full) => Err(status::accounts_full(full)),
        }
    }

    async fn create_account(&self, call: AdmittedCall) -> AnswerResult {
        let mut inbound = Inbound::open(call, Expected::Message, ACCOUNT_BYTES_MAX)?;
        let scope = inbound.scope();
        let account = {
            let message = inbound.only().await?;
            decode::check_limit_count(&message)?;
            let request = CreateAccountRequest::decode(message).map_err(status::malformed_message)?;
            let mut violations = Violations::default();
            let account = decode::to_new_account(&mut violations, "account", request.account);
            violations.finish().map_err(status::invalid)?;
            if let Some(account) = &account {
                check_scope(&scope, "account.id", &account.id)?;
            }
            account
        };
        inbound.hold(SHOWN_ACCOUNT_BYTES)?;
        inbound.finish().await?;
        let mut accounts = self
            .create(account.into_iter().collect(), Existing::Compare, inbound.deadline)
            .await?;
        Ok(inbound.answer(&CreateAccountResponse {
            account: accounts.pop(),
        }))
    }

    async fn batch_create_accounts(&self, call: AdmittedCall) -> AnswerResult {
        let mut inbound = Inbound::open(call, Expected::Message, ACCOUNTS_BYTES_MAX)?;
        let scope = inbound.scope();
        let (accounts, existing) = {
            let message = inbound.only().await?;
            // A decoded message can take a thousand times as much memory as its bytes. So the accounts are counted
            // first, and their memory is reserved before the message is decoded.
            let count = decode::count_accounts(&message)?;
            inbound.hold(count * NEW_ACCOUNT_BYTES + message.len() * NEW_ACCOUNT_COPIES)?;
            let request = BatchCreateAccountsRequest::decode(message).map_err(status::malformed_message)?;
            let existing = if request.skip_existing {
                Existing::Skip
            } else {
                Existing::Compare
            };
            let accounts = decode::new_accounts(request)?;
            for (place, account) in accounts.iter().enumerate() {
                check_scope(&scope, format_args!("requests[{place}].account.id"), &account.id)?;
            }
            (accounts, existing)
        };
        inbound.finish().await?;
        let accounts = self.create(accounts, existing, inbound.deadline).await?;
        Ok(inbound.answer(&BatchCreateAccountsResponse { accounts }))
    }

    async fn get_account(&self, call: AdmittedCall) -> AnswerResult {
        let (request, mut inbound) =
            Inbound::read_request::<GetAccountRequest>(call, QUERY_BYTES_MAX).await?;
        let answer = read_account(&self.engine, request, &mut inbound).await?;
        Ok(inbound.answer(&answer))
    }

    async fn update_account(&self, call: AdmittedCall) -> AnswerResult {
        let mut inbound = Inbound::open(call, Expected::Message, ACCOUNT_BYTES_MAX)?;
        let scope = inbound.scope();
        let update = {
            let message = inbound.only().await?;
            decode::check_limit_count(&message)?;
            let request = UpdateAccountRequest::decode(message).map_err(status::malformed_message)?;
            let update = decode::to_update(request)?;
            check_scope(&scope, "account.id", &update.id)?;
            update
        };
        inbound.hold(SHOWN_ACCOUNT_BYTES)?;
        inbound.finish().await?;
        let id = update.id.clone();
        match self.engine.update_account(update, inbound.deadline).await? {
            Ok(account) => Ok(inbound.answer(&UpdateAccountResponse {
                account: Some(from_account(*account)),
            })),
            Err(outcome) => Err(status::account_not_updated(&id, outcome)),
        }
    }

    async fn list_accounts(&self, call: AdmittedCall) -> AnswerResult {
        let (request, mut inbound) =
            Inbound::read_request::<ListAccountsRequest>(call, QUERY_BYTES_MAX).await?;
        let limit = page_limit(request.page_size)?;
        let filter = Filter::of(&request, inbound.scope())?;
        let mut from = filter.start(&request.page_token)?;
        let mut accounts = Vec::new();
        for _ in 0..LIST_STEPS_MAX {
            // With a filter, each step reads as many accounts as a page may have, because few of them may pass the filter.
            let read = if filter.is_empty() {
                limit
            } else {
                PAGE_ACCOUNTS_MAX
            };
            // The memory is reserved before the EXEC thread copies the accounts for the answer, because the copies stay in
            // memory until all earlier transactions are durable. Only then is the answer released.
            inbound.hold((accounts.len() + read) * SHOWN_ACCOUNT_BYTES)?;
            let (found, next) = self.engine.accounts(from, read, inbound.deadline).await?;
            let mut found = found.into_iter();
            while accounts.len() < limit
                && let Some(account) = found.next()
            {
                from = AccountIndex(from.0 + 1);
                if filter.accepts(&account) {
                    accounts.push(from_account(account));
                }
            }
            let is_end = next.is_none() && found.len() == 0;
            if is_end {
                return Ok(inbound.answer(&ListAccountsResponse {
                    accounts,
                    next_page_token: String::new(),
                }));
            }
            if accounts.len() >= limit {
                break;
            }
        }
        Ok(inbound.answer(&ListAccountsResponse {
            accounts,
            next_page_token: filter.token_of(from),
        }))
    }
}

/// Reads an account.
///
/// # Errors
/// INVALID_ARGUMENT, NOT_FOUND if the account does not exist, or an error of the engine.
pub(crate) async fn read_account(
    engine: &TallyEngine,
    request: GetAccountRequest,
    call: &mut impl ReadCall,
) -> Result<GetAccountResponse, Status> {
    let id = request.account_id;
    check_id(&id).map_err(|error| status::invalid_field("account_id", error.to_string()))?;
    // An account of another tenant looks as if it did not exist.
    if !call.scope().contains(id.as_bytes()) {
        return Err(status::account_not_found(&id));
    }
    call.hold(SHOWN_ACCOUNT_BYTES)?;
    let account = match request.as_of {
        None => {
            let account = engine.account(id.clone(), call.deadline()).await?;
            let account = account.ok_or_else(|| status::account_not_found(&id))?;
            from_account(*account)
        }
        Some(moment) => {
            let account = history::account_as_of(engine, &id, moment, call.deadline()).await?;
            proto::Account {
                etag: String::new(),
                ..from_account(account)
            }
        }
    };
    Ok(GetAccountResponse {
        account: Some(account),
    })
}

/// Checks that a write names an account of the caller's scope. The check reads only the id, so the answer does not show whether the
/// account exists.
///
/// # Errors
/// PERMISSION_DENIED if not.
fn check_scope(scope: &Scope, field: impl Display, id: &str) -> Result<(), Status> {
    match scope.prefix() {
        Some(prefix) if !scope.contains(id.as_bytes()) => {
            Err(status::foreign_id(&field.to_string(), id, prefix))
        }
        Some(_) | None => Ok(()),
    }
}
