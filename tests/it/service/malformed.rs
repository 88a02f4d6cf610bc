//! Tests that the service rejects every invalid field with its name, its value and its bound, and that such a request
//! changes nothing.

use tally::proto::{
    Account, Amount, BalanceRule, Balances, CreateAccountRequest, ListAccountsRequest,
    ProcessTransactionRequest, ProcessTransactionsRequest, TransactionPhase, Uint128, amount,
    transfer as transfer_proto,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{expected, summary};
use crate::support::in_process::{Service, account, config, pay, transaction, transfer};

fn violation(status: &Status) -> (String, String) {
    assert_eq!(
        summary(status),
        expected(Code::InvalidArgument, "INVALID_FIELD", "false")
    );
    let details = status.get_details_bad_request().expect("BadRequest");
    assert_eq!(details.field_violations.len(), 1, "{details:?}");
    let violation = details.field_violations.into_iter().next().unwrap();
    (violation.field, violation.description)
}

type Change = fn(&mut ProcessTransactionRequest);

#[tokio::test]
async fn every_invalid_field_of_a_transaction_is_rejected() {
    let cases: Vec<(Change, &str, &str)> = vec![
        (|r| r.transaction_id.clear(), "transaction_id", "empty"),
        (
            |r| r.transaction_id = "x".repeat(65),
            "transaction_id",
            "65 bytes, at most 64",
        ),
        (
            |r| r.transaction_id = "a b".into(),
            "transaction_id",
            "' ' at byte 1",
        ),
        (|r| r.phase = 99, "phase", "99"),
        (|r| r.transfers.clear(), "transfers", "0 transfers, 1 to 256"),
        (
            |r| r.transfers = vec![transfer("a", "b", 1); 257],
            "transfers",
            "257 transfers, 1 to 256",
        ),
        (
            |r| r.transfers[0].debit_account_id.clear(),
            "transfers[0].debit_account_id",
            "empty",
        ),
        (
            |r| r.transfers[0].credit_account_id = "é".into(),
            "transfers[0].credit_account_id",
            "'é'",
        ),
        (
            |r| r.transfers[0] = transfer("a", "b", 0),
            "transfers[0].minor_units",
            "is 0, must be 1 to",
        ),
        (
            |r| r.transfers[0] = transfer("a", "b", -7),
            "transfers[0].minor_units",
            "is -7, must be 1 to",
        ),
        (
            |r| r.transfers[0].amount = None,
            "transfers[0].amount",
            "must be set",
        ),
        (
            |r| r.transfers[0].amount = Some(transfer_proto::Amount::WideMinorUnits(Uint128::default())),
            "transfers[0].wide_minor_units",
            "is 0",
        ),
        (
            |r| r.transfers[0].code = -1,
            "transfers[0].code",
            "is -1, must be 0 to",
        ),
        (
            |r| r.pending_transaction_id = "p".into(),
            "pending_transaction_id",
            "must be unset",
        ),
        (
            |r| r.pending_timeout = Some(prost_types::Duration::default()),
            "pending_timeout",
            "must be unset",
        ),
        (
            |r| {
                r.effective_time = Some(prost_types::Timestamp {
                    seconds: i64::MAX,
                    nanos: 0,
                })
            },
            "effective_time.seconds",
            "outside the years",
        ),
        (
            |r| {
                r.effective_time = Some(prost_types::Timestamp {
                    seconds: 0,
                    nanos: -1,
                })
            },
            "effective_time.nanos",
            "is -1",
        ),
        (
            |r| r.metadata = (0..17).map(|n| (n.to_string(), String::new())).collect(),
            "metadata",
            "17 entries, at most 16",
        ),
        (
            |r| r.metadata = [("k".into(), "x".repeat(1024))].into(),
            "metadata",
            "1025 bytes, at most 1024",
        ),
        (
            |r| r.metadata = [(String::new(), "x".into())].into(),
            "metadata",
            "a key of 0 bytes, 1 to 64",
        ),
    ];
    let service = Service::start(&config()).await;
    service.open_accounts(&["a", "b"]).await;
    let mut client = service.transactions().await;
    for (change, field, words) in cases {
        let mut request = pay("t");
        change(&mut request);
        let (named, description) = violation(&client.process_transaction(request).await.unwrap_err());
        assert_eq!(named, field);
        assert!(
            description.contains(words),
            "{field}: {description:?} does not say {words:?}"
        );
    }
    // Check that no rejected request has changed the ledger.
    assert_eq!(
        client
            .process_transaction(pay("t"))
            .await
            .unwrap()
            .into_inner()
            .sequence,
        1
    );
}

#[tokio::test]
async fn several_violations_are_reported_together() {
    let service = Service::start(&config()).await;
    let request = transaction("", vec![transfer("", "b", -1)]);
    let status = service
        .transactions()
        .await
        .process_transaction(request)
        .await
        .unwrap_err();
    let fields: Vec<String> = status
        .get_details_bad_request()
        .unwrap()
        .field_violations
        .into_iter()
        .map(|it| it.field)
        .collect();
    assert_eq!(
        fields,
        [
            "transaction_id",
            "transfers[0].debit_account_id",
            "transfers[0].minor_units"
        ]
    );
}

#[tokio::test]
async fn pending_phases_are_rejected_as_unimplemented() {
    let service = Service::start(&config()).await;
    let mut client = service.transactions().await;
    for phase in [
        TransactionPhase::Pending,
        TransactionPhase::PostPending,
        TransactionPhase::VoidPending,
    ] {
        let request = ProcessTransactionRequest {
            phase: phase.into(),
            ..pay("t")
        };
        let status = client.process_transaction(request).await.unwrap_err();
        assert_eq!(
            summary(&status),
            expected(Code::Unimplemented, "PHASE_NOT_SUPPORTED", "false")
        );
    }
}

#[tokio::test]
async fn every_invalid_field_of_an_account_is_rejected() {
    let wide = |high, low| {
        Some(Amount {
            value: Some(amount::Value::WideMinorUnits(Uint128 { high, low })),
        })
    };
    let cases: Vec<(Account, &str, &str)> = vec![
        (account(""), "account.id", "empty"),
        (
            Account {
                asset: String::new(),
                ..account("x")
            },
            "account.asset",
            "empty",
        ),
        (
            Account {
                asset: "x".repeat(17),
                ..account("x")
            },
            "account.asset",
            "17 bytes, at most 16",
        ),
        (
            Account {
                balance_rule: 9,
                ..account("x")
            },
            "account.balance_rule",
            "9",
        ),
        (
            Account {
                status: 9,
                ..account("x")
            },
            "account.status",
            "9",
        ),
        (
            Account {
                overdraft_limit: wide(0, 1),
                ..account("x")
            },
            "account.overdraft_limit",
            "UNLIMITED",
        ),
        (
            Account {
                balance_rule: BalanceRule::CreditBalance.into(),
                overdraft_limit: Some(Amount {
                    value: Some(amount::Value::MinorUnits(-1)),
                }),
                ..account("x")
            },
            "account.overdraft_limit.minor_units",
            "is -1",
        ),
        (
            Account {
                balances: Some(Balances::default()),
                ..account("x")
            },
            "account.balances",
            "output only",
        ),
        (
            Account {
                create_time: Some(prost_types::Timestamp::default()),
                ..account("x")
            },
            "account.create_time",
            "output only",
        ),
        (
            Account {
                metadata: [("k".repeat(65), String::new())].into(),
                ..account("x")
            },
            "account.metadata",
            "a key of 65 bytes",
        ),
    ];
    let service = Service::start(&config()).await;
    let mut client = service.accounts().await;
    for (account, field, words) in cases {
        let request = CreateAccountRequest {
            account: Some(account),
        };
        let (named, description) = violation(&client.create_account(request).await.unwrap_err());
        assert_eq!(named, field);
        assert!(
            description.contains(words),
            "{field}: {description:?} does not say {words:?}"
        );
    }
    let (field, _) = violation(
        &client
            .create_account(CreateAccountRequest { account: None })
            .await
            .unwrap_err(),
    );
    assert_eq!(field, "account");
}

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
