//! Sizes of requests and of pages.

use tally::proto::{
    Account, BatchCreateAccountsRequest, CreateAccountRequest, ListAccountsRequest,
    ProcessTransactionsRequest, VelocityLimit,
};

use super::violation;
use crate::support::in_process::{Service, account, config, pay};

#[tokio::test]
async fn the_sizes_of_requests_and_pages_are_limited() {
    let service = Service::start(&config()).await;
    let mut client = service.transactions().await;
    for count in [0, 8193] {
        let transactions = vec![pay("t"); count];
        let status = client
            .process_transactions(ProcessTransactionsRequest { transactions })
            .await
            .unwrap_err();
        let (field, description) = violation(&status);
        assert_eq!(field, "transactions");
        assert!(
            description.contains(&format!("{count} transactions, 1 to 8192")),
            "{description}"
        );
    }
    let mut accounts = service.accounts().await;
    let many = BatchCreateAccountsRequest {
        requests: vec![CreateAccountRequest {
            account: Some(Account {
                velocity_limits: vec![VelocityLimit::default(); 5],
                ..account("x")
            }),
        }],
        skip_existing: false,
    };
    assert_eq!(
        violation(&accounts.batch_create_accounts(many).await.unwrap_err()).0,
        "requests[0].account.velocity_limits"
    );
    for (filter, field) in [
        (
            ListAccountsRequest {
                id_prefix: "a b".to_owned(),
                ..ListAccountsRequest::default()
            },
            "id_prefix",
        ),
        (
            ListAccountsRequest {
                asset: "x".repeat(17),
                ..ListAccountsRequest::default()
            },
            "asset",
        ),
        (
            ListAccountsRequest {
                status: 5,
                ..ListAccountsRequest::default()
            },
            "status",
        ),
    ] {
        let status = accounts.list_accounts(filter).await.unwrap_err();
        assert_eq!(violation(&status).0, field);
    }
    for (page_size, page_token, field) in [
        (-1, "", "page_size"),
        (1001, "", "page_size"),
        (1, "zz", "page_token"),
    ] {
        let request = ListAccountsRequest {
            page_size,
            page_token: page_token.to_owned(),
            ..ListAccountsRequest::default()
        };
        assert_eq!(
            violation(&accounts.list_accounts(request).await.unwrap_err()).0,
            field
        );
    }
}
