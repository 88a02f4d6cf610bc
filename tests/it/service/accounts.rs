//! Tests of updates and lists of accounts. `reasons` has the rejected updates.

use tally::proto::{Account, AccountStatus, BalanceRule, ListAccountsRequest};
use tonic::Code;

use super::{
    info,
    ledger_client::{Ledger, minor, status_update, units, update},
    reasons::ledger,
};
use crate::support::in_process::{account, config, transaction, transfer};

#[tokio::test]
async fn an_account_is_updated_if_it_has_the_etag() {
    let mut ledger = ledger(&config()).await;
    let before = ledger.account("wallet").await;
    assert_eq!(units(&before.available), 100);
    assert!(ledger.account("bank").await.available.is_none());
    let limits = ledger.account("limited").await.velocity_limits;
    let wanted = Account {
        status: AccountStatus::Open.into(),
        overdraft_limit: minor(25),
        metadata: [("tier".to_owned(), "gold".to_owned())].into(),
        velocity_limits: limits,
        ..before.clone()
    };
    let all = ["status", "overdraft_limit", "metadata", "velocity_limits"];
    let updated = ledger.update(update(wanted.clone(), &all)).await.unwrap();
    assert_ne!(updated.etag, before.etag);
    assert_eq!(units(&updated.available), 125);
    let expected_account = Account {
        etag: updated.etag.clone(),
        available: minor(125),
        ..wanted.clone()
    };
    assert_eq!(updated, expected_account);
    assert_eq!(ledger.account("wallet").await, updated);

    // The etag changes with updates, and not with balances.
    ledger
        .commits(transaction("t", vec![transfer("bank", "wallet", 1)]))
        .await;
    assert_eq!(ledger.account("wallet").await.etag, updated.etag);
    let status = ledger
        .refuses(
            update(wanted.clone(), &["metadata"]),
            Code::Aborted,
            "ACCOUNT_CHANGED",
        )
        .await;
    assert_eq!(info(&status).metadata["account_id"], "wallet");
    // Without an etag, the update does not depend on the state. Fields outside the mask stay.
    let cleared = Account {
        id: "wallet".to_owned(),
        ..Account::default()
    };
    let again = ledger
        .update(update(cleared, &["metadata", "overdraft_limit"]))
        .await
        .unwrap();
    assert!(again.metadata.is_empty());
    assert_eq!(
        (units(&again.overdraft_limit), again.velocity_limits.len()),
        (0, 1)
    );
    // An update with the present values changes nothing, not even the etag.
    let same = update(again.clone(), &["velocity_limits"]);
    assert_eq!(ledger.update(same).await.unwrap(), again);
    // A repeated creation is compared with the account as it was created, not with the updated account.
    let created = Account {
        balance_rule: BalanceRule::CreditBalance.into(),
        ..account("wallet")
    };
    assert_eq!(ledger.create(created).await, again);
}

#[tokio::test]
async fn accounts_are_listed_by_prefix_asset_and_status() {
    let mut ledger = Ledger::start(&config()).await;
    for number in [0, 1, 1000, 1001, 2000, 2001] {
        ledger
            .create(Account {
                asset: if number % 3 == 0 { "USD" } else { "EUR" }.to_owned(),
                ..account(&format!("{}/{number}", ["acme", "acme2"][number % 2]))
            })
            .await;
    }
    ledger
        .update(status_update("acme/1000", AccountStatus::Frozen))
        .await
        .unwrap();
    let filters: [(ListAccountsRequest, &[&str]); 5] = [
        (
            ListAccountsRequest {
                id_prefix: "acme/".to_owned(),
                ..ListAccountsRequest::default()
            },
            &["acme/0", "acme/1000", "acme/2000"],
        ),
        (
            ListAccountsRequest {
                asset: "USD".to_owned(),
                ..ListAccountsRequest::default()
            },
            &["acme/0", "acme2/2001"],
        ),
        (
            ListAccountsRequest {
                status: AccountStatus::Frozen.into(),
                ..ListAccountsRequest::default()
            },
            &["acme/1000"],
        ),
        (
            ListAccountsRequest {
                id_prefix: "acme2".to_owned(),
                asset: "EUR".to_owned(),
                status: AccountStatus::Open.into(),
                ..ListAccountsRequest::default()
            },
            &["acme2/1", "acme2/1001"],
        ),
        (
            ListAccountsRequest {
                id_prefix: "x".to_owned(),
                ..ListAccountsRequest::default()
            },
            &[],
        ),
    ];
    for (filter, expected) in filters {
        for page_size in [1, 2, 1000] {
            let (mut listed, mut page_token) = (Vec::new(), String::new());
            loop {
                let request = ListAccountsRequest {
                    page_size,
                    page_token,
                    ..filter.clone()
                };
                let page = ledger.accounts.list_accounts(request).await.unwrap().into_inner();
                assert!(page.accounts.len() <= usize::try_from(page_size).unwrap());
                listed.extend(page.accounts.into_iter().map(|account| account.id));
                if page.next_page_token.is_empty() {
                    break;
                }
                page_token = page.next_page_token;
            }
            assert_eq!(listed, expected, "{filter:?} in pages of {page_size}");
        }
    }
}
