//! `tally.v1.AccountService`.

use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{
    convert::{self, Violations},
    deadline, status,
};
use crate::{
    engine::{CREATE_ACCOUNTS_MAX, CreatedAccounts, PAGE_ACCOUNTS_MAX, TallyEngine},
    id::check_id,
    ledger::{AccountIndex, NewAccount},
    proto::{
        self, BatchCreateAccountsRequest, BatchCreateAccountsResponse, CreateAccountRequest,
        CreateAccountResponse, GetAccountRequest, GetAccountResponse, ListAccountsRequest,
        ListAccountsResponse, account_service_server,
    },
};

/// Accounts of a page if the client does not say.
const PAGE_ACCOUNTS_DEFAULT: usize = 100;

/// The service.
#[derive(Debug, Clone)]
pub(super) struct AccountService {
    engine: TallyEngine,
}

// ===== impl AccountService =====

impl AccountService {
    /// Serves `engine`.
    #[must_use]
    pub(super) const fn new(engine: TallyEngine) -> Self {
        AccountService { engine }
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
}

#[tonic::async_trait]
impl account_service_server::AccountService for AccountService {
    async fn create_account(
        &self,
        request: Request<CreateAccountRequest>,
    ) -> Result<Response<CreateAccountResponse>, Status> {
        let deadline = deadline::of(request.metadata())?;
        let mut violations = Violations::default();
        let account = convert::to_new_account(&mut violations, "account", request.into_inner().account);
        violations.finish().map_err(status::invalid)?;
        let mut accounts = self.create(account.into_iter().collect(), deadline).await?;
        Ok(Response::new(CreateAccountResponse {
            account: accounts.pop(),
        }))
    }

    async fn batch_create_accounts(
        &self,
        request: Request<BatchCreateAccountsRequest>,
    ) -> Result<Response<BatchCreateAccountsResponse>, Status> {
        let deadline = deadline::of(request.metadata())?;
        let requests = request.into_inner().requests;
        let count = requests.len();
        if !(1..=CREATE_ACCOUNTS_MAX).contains(&count) {
            let description = format!("has {count} requests, 1 to {CREATE_ACCOUNTS_MAX} are allowed");
            return Err(status::invalid_field("requests", description));
        }
        let mut violations = Violations::default();
        let accounts = requests.into_iter().enumerate().filter_map(|(place, request)| {
            convert::to_new_account(
                &mut violations,
                &format!("requests[{place}].account"),
                request.account,
            )
        });
        let accounts = accounts.collect();
        violations.finish().map_err(status::invalid)?;
        let accounts = self.create(accounts, deadline).await?;
        Ok(Response::new(BatchCreateAccountsResponse { accounts }))
    }

    async fn get_account(
        &self,
        request: Request<GetAccountRequest>,
    ) -> Result<Response<GetAccountResponse>, Status> {
        let deadline = deadline::of(request.metadata())?;
        let id = request.into_inner().account_id;
        check_id(&id).map_err(|error| status::invalid_field("account_id", error.to_string()))?;
        let account = self
            .engine
            .account(id.clone(), deadline)
            .await
            .map_err(|error| status::engine(&error))?;
        let account = account.ok_or_else(|| status::account_not_found(&id))?;
        Ok(Response::new(GetAccountResponse {
            account: Some(convert::from_account(*account)),
        }))
    }

    async fn list_accounts(
        &self,
        request: Request<ListAccountsRequest>,
    ) -> Result<Response<ListAccountsResponse>, Status> {
        let deadline = deadline::of(request.metadata())?;
        let ListAccountsRequest {
            page_size,
            page_token,
        } = request.into_inner();
        let limit = page_limit(page_size)?;
        let from = page_start(&page_token)?;
        let (accounts, next) = self
            .engine
            .accounts(from, limit, deadline)
            .await
            .map_err(|error| status::engine(&error))?;
        Ok(Response::new(ListAccountsResponse {
            accounts: accounts.into_iter().map(convert::from_account).collect(),
            next_page_token: next.map(page_token_of).unwrap_or_default(),
        }))
    }
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
