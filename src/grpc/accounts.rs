//! `tally.v1.AccountService`.
//!
//! Read and answered here without tonic's server ([`framing`](super::framing)), so that what a call holds is known and
//! bounded before it is decoded.

use std::sync::Arc;

use hyper::body::Incoming;
use prost::Message;
use tokio::time::Instant;
use tonic::{Status, server::NamedService};

use super::{
    budget::Charge,
    convert::{self, Violations},
    framing::{Expected, Inbound, malformed, undecodable},
    outbound::Answer,
    patience::Reception,
    status,
    transactions::{Answering, QUESTION_BYTES_MAX},
    wire,
};
use crate::{
    engine::{CREATE_ACCOUNTS_MAX, CreatedAccounts, PAGE_ACCOUNTS_MAX, TallyEngine},
    id::check_id,
    ledger::{AccountIndex, NewAccount, account::METADATA_ENTRIES_MAX},
    proto::{
        self, BatchCreateAccountsRequest, BatchCreateAccountsResponse, CreateAccountRequest,
        CreateAccountResponse, GetAccountRequest, GetAccountResponse, ListAccountsRequest,
        ListAccountsResponse, account_service_server::SERVICE_NAME,
    },
};

/// Longest message with one account; a valid one has less than 2 KiB.
const ACCOUNT_BYTES_MAX: usize = 16 << 10;
/// Longest message with many accounts: twice as long as the longest that can be valid.
const ACCOUNTS_BYTES_MAX: usize = 4 << 20;
/// What an account takes on its way to an answer, at most: read, with all its metadata, and written.
const SHOWN_ACCOUNT_BYTES: usize = 5 << 10;
/// What an account takes on its way into the ledger and to the answer, besides its bytes in the request.
const NEW_ACCOUNT_BYTES: usize = 2 << 10;
/// How often its bytes in the request are there at the same time: as sent, decoded, of the ledger, as answered.
const NEW_ACCOUNT_COPIES: usize = 4;
/// Accounts of a page if the client does not say.
const PAGE_ACCOUNTS_DEFAULT: usize = 100;

/// The service. Clones are cheap.
#[derive(Debug, Clone)]
pub(super) struct AccountService {
    engine: Arc<TallyEngine>,
}

/// Its methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// `CreateAccount`.
    Create,
    /// `BatchCreateAccounts`.
    BatchCreate,
    /// `GetAccount`.
    Get,
    /// `ListAccounts`.
    List,
}

type Answered = Result<(Vec<u8>, Charge), Status>;

// ===== impl AccountService =====

impl NamedService for AccountService {
    const NAME: &'static str = SERVICE_NAME;
}

impl AccountService {
    /// Serves `engine`.
    #[must_use]
    pub(super) fn new(engine: TallyEngine) -> Self {
        AccountService {
            engine: Arc::new(engine),
        }
    }

    /// Answers `CreateAccount`, `BatchCreateAccounts`, `GetAccount` or `ListAccounts`.
    pub(super) fn call(
        &self,
        call: Call,
        request: http::Request<Incoming>,
        reception: &Arc<Reception>,
        charge: Charge,
    ) -> Answering {
        let (service, reception) = (self.clone(), Arc::clone(reception));
        Box::pin(async move {
            let answered = match call {
                Call::Create => service.create_account(request, &reception, charge).await,
                Call::BatchCreate => service.batch_create_accounts(request, &reception, charge).await,
                Call::Get => service.get_account(request, &reception, charge).await,
                Call::List => service.list_accounts(request, &reception, charge).await,
            };
            Ok(Answer::message(answered, &reception))
        })
    }

    async fn create(
        &self,
        accounts: Vec<NewAccount>,
        deadline: Option<Instant>,
    ) -> Result<Vec<proto::Account>, Status> {
        let ids: Vec<String> = accounts.iter().map(|account| account.id.clone()).collect();
        match self.engine.create_accounts(accounts, deadline).await {
            Ok(CreatedAccounts::All(accounts)) => {
                Ok(accounts.into_iter().map(convert::from_account).collect())
            }
            Ok(CreatedAccounts::Reused { place }) => Err(status::account_id_reused(
                ids.get(place).map_or("", String::as_str),
            )),
            Ok(CreatedAccounts::Full(full)) => Err(status::accounts_full(full)),
            Err(error) => Err(status::engine(&error)),
        }
    }

    async fn create_account(
        &self,
        request: http::Request<Incoming>,
        reception: &Arc<Reception>,
        charge: Charge,
    ) -> Answered {
        let most = ACCOUNT_BYTES_MAX;
        let (mut inbound, deadline) = Inbound::open(request, Expected::Message, most, reception, charge)?;
        let account = {
            let message = inbound.only().await?;
            let request = CreateAccountRequest::decode(message).map_err(|error| undecodable(&error))?;
            let mut violations = Violations::default();
            let account = convert::to_new_account(&mut violations, "account", request.account);
            violations.finish().map_err(status::invalid)?;
            account
        };
        inbound.hold(SHOWN_ACCOUNT_BYTES)?;
        inbound.finish().await?;
        let mut accounts = self.create(account.into_iter().collect(), deadline).await?;
        Ok(inbound.answer(&CreateAccountResponse {
            account: accounts.pop(),
        }))
    }

    async fn batch_create_accounts(
        &self,
        request: http::Request<Incoming>,
        reception: &Arc<Reception>,
        charge: Charge,
    ) -> Answered {
        let most = ACCOUNTS_BYTES_MAX;
        let (mut inbound, deadline) = Inbound::open(request, Expected::Message, most, reception, charge)?;
        let accounts = {
            let message = inbound.only().await?;
            // Decoded, a short message can take a thousand times as much: it is counted first.
            let count = count_accounts(&message)?;
            inbound.hold(count * NEW_ACCOUNT_BYTES + message.len() * NEW_ACCOUNT_COPIES)?;
            let request = BatchCreateAccountsRequest::decode(message).map_err(|error| undecodable(&error))?;
            new_accounts(request)?
        };
        inbound.finish().await?;
        let accounts = self.create(accounts, deadline).await?;
        Ok(inbound.answer(&BatchCreateAccountsResponse { accounts }))
    }

    async fn get_account(
        &self,
        request: http::Request<Incoming>,
        reception: &Arc<Reception>,
        charge: Charge,
    ) -> Answered {
        let most = QUESTION_BYTES_MAX;
        let (question, mut inbound, deadline) =
            Inbound::ask::<GetAccountRequest>(request, most, reception, charge).await?;
        let id = question.account_id;
        check_id(&id).map_err(|error| status::invalid_field("account_id", error.to_string()))?;
        inbound.hold(SHOWN_ACCOUNT_BYTES)?;
        let account = self
            .engine
            .account(id.clone(), deadline)
            .await
            .map_err(|error| status::engine(&error))?;
        let account = account.ok_or_else(|| status::account_not_found(&id))?;
        Ok(inbound.answer(&GetAccountResponse {
            account: Some(convert::from_account(*account)),
        }))
    }

    async fn list_accounts(
        &self,
        request: http::Request<Incoming>,
        reception: &Arc<Reception>,
        charge: Charge,
    ) -> Answered {
        let most = QUESTION_BYTES_MAX;
        let (question, mut inbound, deadline) =
            Inbound::ask::<ListAccountsRequest>(request, most, reception, charge).await?;
        let limit = page_limit(question.page_size)?;
        let from = page_start(&question.page_token)?;
        // Before EXEC reads them, and they wait there for the disk.
        inbound.hold(limit * SHOWN_ACCOUNT_BYTES)?;
        let (accounts, next) = self
            .engine
            .accounts(from, limit, deadline)
            .await
            .map_err(|error| status::engine(&error))?;
        Ok(inbound.answer(&ListAccountsResponse {
            accounts: accounts.into_iter().map(convert::from_account).collect(),
            next_page_token: next.map(page_token_of).unwrap_or_default(),
        }))
    }
}

/// How many accounts a `BatchCreateAccountsRequest` has.
fn count_accounts(message: &[u8]) -> Result<usize, Status> {
    let counted =
        wire::count_accounts(message, CREATE_ACCOUNTS_MAX, METADATA_ENTRIES_MAX).map_err(malformed)?;
    match counted {
        wire::Counted::Accounts(count @ 1..) => Ok(count),
        wire::Counted::Accounts(_) => Err(request_count("0")),
        wire::Counted::TooManyAccounts => {
            Err(request_count(&format!("at least {}", CREATE_ACCOUNTS_MAX + 1)))
        }
        wire::Counted::TooManyEntries { account } => Err(status::invalid_field(
            format!("requests[{account}].account.metadata"),
            format!(
                "has more than {METADATA_ENTRIES_MAX} entries, at most {METADATA_ENTRIES_MAX} are allowed"
            ),
        )),
    }
}

fn request_count(count: &str) -> Status {
    let description = format!("has {count} requests, 1 to {CREATE_ACCOUNTS_MAX} are allowed");
    status::invalid_field("requests", description)
}

fn new_accounts(request: BatchCreateAccountsRequest) -> Result<Vec<NewAccount>, Status> {
    let mut violations = Violations::default();
    let accounts = request.requests.into_iter().enumerate();
    let accounts = accounts.filter_map(|(place, request)| {
        convert::to_new_account(
            &mut violations,
            &format!("requests[{place}].account"),
            request.account,
        )
    });
    let accounts = accounts.collect();
    violations.finish().map_err(status::invalid)?;
    Ok(accounts)
}

fn page_limit(page_size: i32) -> Result<usize, Status> {
    match usize::try_from(page_size) {
        Ok(0) => Ok(PAGE_ACCOUNTS_DEFAULT),
        Ok(size) if size <= PAGE_ACCOUNTS_MAX => Ok(size),
        _ => {
            let description =
                format!("is {page_size}, must be 0 (for {PAGE_ACCOUNTS_DEFAULT}) to {PAGE_ACCOUNTS_MAX}");
            Err(status::invalid_field("page_size", description))
        }
    }
}

/// Accounts are numbered in the order of their creation and none is ever taken away, so a page begins at a number.
fn page_token_of(next: AccountIndex) -> String {
    format!("a{:x}", next.0)
}

fn page_start(token: &str) -> Result<AccountIndex, Status> {
    if token.is_empty() {
        return Ok(AccountIndex(0));
    }
    let index = token
        .strip_prefix('a')
        .and_then(|digits| u32::from_str_radix(digits, 16).ok());
    // Only what `page_token_of` wrote: no sign, no leading zeros, no capitals.
    index
        .map(AccountIndex)
        .filter(|index| page_token_of(*index) == token)
        .ok_or_else(|| status::invalid_field("page_token", "is not a next_page_token of ListAccounts"))
}
