//! Clients of both services of the ledger, with short forms of their calls for the tests of holds, reversals and accounts.

use std::collections::BTreeSet;

use prost_types::FieldMask;
use tally::{
    engine::EngineConfig,
    proto::{
        Account, AccountStatus, Amount, AmountRule, Balances, CreateAccountRequest, GetAccountRequest,
        GetTransactionRequest, HoldState, ListAccountsRequest, ListHoldsRequest, ProcessTransactionRequest,
        ProcessTransactionResponse, ProcessTransactionsRequest, Transaction, TransactionPhase, Transfer,
        UpdateAccountRequest, account_service_client::AccountServiceClient, amount,
        transaction_result::Outcome, transaction_service_client::TransactionServiceClient,
    },
};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use super::{expected, info, summary};
use crate::support::in_process::{Service, transaction, transfer};

/// Reasons of errors.
pub(super) type Reasons = BTreeSet<String>;

/// A service and its clients.
pub(super) struct Ledger {
    /// Runs until the value is dropped.
    _service: Service,
    pub(super) transactions: TransactionServiceClient<Channel>,
    pub(super) accounts: AccountServiceClient<Channel>,
    /// The reasons of the rejections that were checked.
    pub(super) reasons: Reasons,
}

/// The four columns: debits pending and posted, credits pending and posted.
pub(super) type Columns = (i128, i128, i128, i128);

pub(super) fn units(amount: &Option<Amount>) -> i128 {
    match amount
        .as_ref()
        .expect("an amount")
        .value
        .as_ref()
        .expect("a value")
    {
        amount::Value::MinorUnits(units) => i128::from(*units),
        amount::Value::WideMinorUnits(wide) => i128::from(wide.high) << 64 | i128::from(wide.low),
    }
}

pub(super) fn all_units(amounts: &[Amount]) -> Vec<i128> {
    amounts.iter().map(|amount| units(&Some(*amount))).collect()
}

pub(super) fn minor(units: i64) -> Option<Amount> {
    Some(Amount {
        value: Some(amount::Value::MinorUnits(units)),
    })
}

pub(super) fn columns(balances: &Option<Balances>) -> Columns {
    let balances = balances.as_ref().expect("balances");
    (
        units(&balances.debits_pending),
        units(&balances.debits_posted),
        units(&balances.credits_pending),
        units(&balances.credits_posted),
    )
}

/// The balances of a response, by account.
pub(super) fn balances(response: &ProcessTransactionResponse) -> Vec<(&str, Columns)> {
    let balances = response.balances.iter();
    balances
        .map(|account| (account.account_id.as_str(), columns(&account.balances)))
        .collect()
}

pub(super) fn hold(id: &str, transfers: Vec<Transfer>) -> ProcessTransactionRequest {
    ProcessTransactionRequest {
        phase: TransactionPhase::Pending.into(),
        ..transaction(id, transfers)
    }
}

pub(super) fn post(id: &str, hold: &str, transfers: Vec<Transfer>) -> ProcessTransactionRequest {
    ProcessTransactionRequest {
        phase: TransactionPhase::PostPending.into(),
        pending_transaction_id: hold.to_owned(),
        ..transaction(id, transfers)
    }
}

pub(super) fn post_part(id: &str, hold: &str, transfers: Vec<Transfer>) -> ProcessTransactionRequest {
    ProcessTransactionRequest {
        keep_remaining: true,
        ..post(id, hold, transfers)
    }
}

pub(super) fn void(id: &str, hold: &str) -> ProcessTransactionRequest {
    ProcessTransactionRequest {
        phase: TransactionPhase::VoidPending.into(),
        pending_transaction_id: hold.to_owned(),
        ..transaction(id, Vec::new())
    }
}

pub(super) fn reversal(id: &str, of: &str, transfers: Vec<Transfer>) -> ProcessTransactionRequest {
    ProcessTransactionRequest {
        reverses_transaction_id: of.to_owned(),
        ..transaction(id, transfers)
    }
}

pub(super) fn clamped(debit: &str, credit: &str, units: i64, rule: AmountRule) -> Transfer {
    Transfer {
        amount_rule: rule.into(),
        ..transfer(debit, credit, units)
    }
}

/// An update of the status of an account.
pub(super) fn status_update(id: &str, status: AccountStatus) -> UpdateAccountRequest {
    let account = Account {
        id: id.to_owned(),
        status: status.into(),
        ..Account::default()
    };
    update(account, &["status"])
}

pub(super) fn update(account: Account, paths: &[&str]) -> UpdateAccountRequest {
    UpdateAccountRequest {
        account: Some(account),
        update_mask: Some(FieldMask {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        }),
    }
}

impl Ledger {
    pub(super) async fn start(config: &EngineConfig) -> Self {
        let service = Service::start(config).await;
        Ledger {
            transactions: service.transactions().await,
            accounts: service.accounts().await,
            _service: service,
            reasons: Reasons::new(),
        }
    }

    pub(super) async fn create(&mut self, account: Account) -> Account {
        let request = CreateAccountRequest {
            account: Some(account),
        };
        let created = self.accounts.create_account(request).await.unwrap().into_inner();
        created.account.unwrap()
    }

    pub(super) async fn update(&mut self, request: UpdateAccountRequest) -> Result<Account, Status> {
        let updated = self.accounts.update_account(request).await?;
        Ok(updated.into_inner().account.unwrap())
    }

    pub(super) async fn account(&mut self, id: &str) -> Account {
        let request = GetAccountRequest {
            account_id: id.to_owned(),
            ..GetAccountRequest::default()
        };
        let found = self.accounts.get_account(request).await.unwrap().into_inner();
        found.account.unwrap()
    }

    pub(super) async fn commits(&mut self, request: ProcessTransactionRequest) -> ProcessTransactionResponse {
        self.transactions
            .process_transaction(request)
            .await
            .unwrap()
            .into_inner()
    }

    pub(super) async fn find(&mut self, id: &str) -> Transaction {
        let request = GetTransactionRequest {
            transaction_id: id.to_owned(),
            ..GetTransactionRequest::default()
        };
        let found = self
            .transactions
            .get_transaction(request)
            .await
            .unwrap()
            .into_inner();
        found.transaction.unwrap()
    }

    /// Returns the state of a hold, and the posted and the remaining amount of each transfer.
    pub(super) async fn hold_state(&mut self, id: &str) -> (HoldState, Vec<i128>, Vec<i128>) {
        let found = self.find(id).await;
        (
            found.hold_state(),
            all_units(&found.posted_amounts),
            all_units(&found.remaining_amounts),
        )
    }

    /// Returns all outstanding holds, or those of an account, in pages of `page_size`.
    pub(super) async fn holds(&mut self, account_id: &str, page_size: i32) -> Vec<Transaction> {
        let (mut holds, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListHoldsRequest {
                account_id: account_id.to_owned(),
                page_size,
                page_token,
                ..ListHoldsRequest::default()
            };
            let page = self.accounts.list_holds(request).await.unwrap().into_inner();
            assert!(page.holds.len() <= usize::try_from(page_size).unwrap());
            holds.extend(page.holds);
            if page.next_page_token.is_empty() {
                return holds;
            }
            page_token = page.next_page_token;
        }
    }

    /// Returns everything that a client can see: the accounts and the outstanding holds.
    async fn state(&mut self) -> (Vec<Account>, Vec<Transaction>) {
        let request = ListAccountsRequest {
            page_size: 1000,
            ..ListAccountsRequest::default()
        };
        let accounts = self.accounts.list_accounts(request).await.unwrap().into_inner();
        (accounts.accounts, self.holds("", 1000).await)
    }

    /// Checks that a transaction is rejected with this code, reason and metadata, alone and in a batch, and that nothing changes.
    /// Returns the status.
    pub(super) async fn rejects(
        &mut self,
        request: ProcessTransactionRequest,
        code: Code,
        reason: &str,
        metadata: &[(&str, &str)],
    ) -> Status {
        let before = self.state().await;
        let id = request.transaction_id.clone();
        let status = self.transactions.process_transaction(request.clone()).await;
        let status = status.expect_err(&id);
        assert_eq!(
            summary(&status),
            expected(code, reason, "false"),
            "{id}: {status:?}"
        );
        let found = info(&status).metadata;
        for (key, value) in metadata {
            assert_eq!(
                found.get(*key).map(String::as_str),
                Some(*value),
                "{id}: {key} in {found:?}"
            );
        }
        let many = ProcessTransactionsRequest {
            transactions: vec![request],
        };
        let results = self
            .transactions
            .process_transactions(many)
            .await
            .unwrap()
            .into_inner();
        let Some(Outcome::Error(error)) = &results.results[0].outcome else {
            panic!("{id}: {results:?}");
        };
        let again = Status::with_details(
            Code::from(error.code),
            error.message.clone(),
            prost::Message::encode_to_vec(error).into(),
        );
        let mut repeated = info(&again).metadata;
        let replayed = repeated.insert("replayed".to_owned(), "false".to_owned());
        // Only a rejection that is final for its id was recorded.
        let is_final = found["retry"] == "new_id";
        assert_eq!(
            replayed,
            found.get("replayed").map(|_| is_final.to_string()),
            "{id}"
        );
        assert_eq!(repeated, found, "{id}: the repetition");
        assert_eq!(self.state().await, before, "{id} has changed something");
        self.reasons.insert(reason.to_owned());
        status
    }

    /// Checks that an update is rejected with this code and reason, and that nothing changes.
    pub(super) async fn refuses(
        &mut self,
        request: UpdateAccountRequest,
        code: Code,
        reason: &str,
    ) -> Status {
        let before = self.state().await;
        let status = self.update(request).await.expect_err(reason);
        assert_eq!(summary(&status), expected(code, reason, "false"), "{status:?}");
        assert_eq!(info(&status).metadata["retry"], "no");
        assert!(status.get_details_retry_info().is_none());
        assert_eq!(self.state().await, before, "{reason}: something has changed");
        self.reasons.insert(reason.to_owned());
        status
    }
}
