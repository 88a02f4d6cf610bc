//! Tests that the service rejects every invalid field with its name, its value and its bound, and that such a request
//! changes nothing.

use tally::proto::{
    Account, AccountStatus, Amount, BalanceRule, Balances, BatchCreateAccountsRequest, CreateAccountRequest,
    ListAccountsRequest, ProcessTransactionRequest, ProcessTransactionsRequest, TransactionPhase, Uint128,
    UpdateAccountRequest, VelocityLimit, amount, transfer as transfer_proto,
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
async fn a_field_that_does_not_belong_to_the_phase_is_rejected() {
    let service = Service::start(&config()).await;
    let mut ledger = service.transactions().await;
    let posts = |r: &mut ProcessTransactionRequest| {
        r.phase = TransactionPhase::PostPending.into();
        r.pending_transaction_id = "h".into();
    };
    let reverses = |r: &mut ProcessTransactionRequest| r.reverses_transaction_id = "r".into();
    let holds = |r: &mut ProcessTransactionRequest| r.phase = TransactionPhase::Pending.into();
    let base = |change: &dyn Fn(&mut ProcessTransactionRequest)| {
        let mut request = pay("t");
        change(&mut request);
        request
    };
    let (plain, hold) = (pay("t"), base(&holds));
    let (post, reversal) = (base(&posts), base(&reverses));
    let void = ProcessTransactionRequest {
        phase: TransactionPhase::VoidPending.into(),
        transfers: Vec::new(),
        ..post.clone()
    };
    let cases: Vec<(&ProcessTransactionRequest, Change, &str, &str)> = vec![
        (&plain, |r| r.phase = 5, "phase", "output only"),
        (&plain, |r| r.phase = -1, "phase", "-1 is not a phase"),
        // The other transaction.
        (
            &hold,
            |r| r.pending_transaction_id = "h".into(),
            "pending_transaction_id",
            "must be unset unless",
        ),
        (
            &reversal,
            |r| r.pending_transaction_id = "h".into(),
            "pending_transaction_id",
            "must be unset unless",
        ),
        (
            &post,
            |r| r.pending_transaction_id.clear(),
            "pending_transaction_id",
            "must not be empty",
        ),
        (
            &void,
            |r| r.pending_transaction_id.clear(),
            "pending_transaction_id",
            "must not be empty",
        ),
        (
            &void,
            |r| r.pending_transaction_id = "a b".into(),
            "pending_transaction_id",
            "' ' at byte 1",
        ),
        (
            &post,
            |r| r.pending_transaction_id = "t".into(),
            "pending_transaction_id",
            "the transaction itself",
        ),
        (
            &hold,
            |r| r.reverses_transaction_id = "r".into(),
            "reverses_transaction_id",
            "must be unset unless",
        ),
        (
            &post,
            |r| r.reverses_transaction_id = "r".into(),
            "reverses_transaction_id",
            "must be unset unless",
        ),
        (
            &void,
            |r| r.reverses_transaction_id = "r".into(),
            "reverses_transaction_id",
            "must be unset unless",
        ),
        (
            &plain,
            |r| r.reverses_transaction_id = "a b".into(),
            "reverses_transaction_id",
            "' ' at byte 1",
        ),
        (
            &plain,
            |r| r.reverses_transaction_id = "t".into(),
            "reverses_transaction_id",
            "the transaction itself",
        ),
        // The timeout.
        (
            &post,
            |r| r.pending_timeout = timeout(60, 0),
            "pending_timeout",
            "must be unset unless",
        ),
        (
            &hold,
            |r| r.pending_timeout = timeout(0, 0),
            "pending_timeout",
            "is 0 s and 0 ns, must be 1 ms to 3650 days",
        ),
        (
            &hold,
            |r| r.pending_timeout = timeout(0, 999_999),
            "pending_timeout",
            "must be 1 ms",
        ),
        (
            &hold,
            |r| r.pending_timeout = timeout(315_360_000, 1),
            "pending_timeout",
            "must be 1 ms",
        ),
        (
            &hold,
            |r| r.pending_timeout = timeout(-1, 0),
            "pending_timeout",
            "is -1 s",
        ),
        (
            &hold,
            |r| r.pending_timeout = timeout(1, -1),
            "pending_timeout",
            "and -1 ns",
        ),
        (
            &hold,
            |r| r.pending_timeout = timeout(1, 1_000_000_000),
            "pending_timeout",
            "and 1000000000 ns",
        ),
        (
            &hold,
            |r| r.pending_timeout = timeout(i64::MAX, 0),
            "pending_timeout",
            "must be 1 ms",
        ),
        // What remains.
        (
            &plain,
            |r| r.keep_remaining = true,
            "keep_remaining",
            "must be unset unless",
        ),
        (
            &hold,
            |r| r.keep_remaining = true,
            "keep_remaining",
            "must be unset unless",
        ),
        (
            &void,
            |r| r.keep_remaining = true,
            "keep_remaining",
            "must be unset unless",
        ),
        (
            &reversal,
            |r| r.keep_remaining = true,
            "keep_remaining",
            "must be unset unless",
        ),
        (
            &post,
            |r| {
                r.keep_remaining = true;
                r.transfers.clear();
            },
            "keep_remaining",
            "must be unset without transfers",
        ),
        // The transfers.
        (
            &hold,
            |r| r.transfers.clear(),
            "transfers",
            "0 transfers, 1 to 256",
        ),
        (
            &void,
            |r| r.transfers = pay("t").transfers,
            "transfers",
            "1 transfers, TRANSACTION_PHASE_VOID_PENDING has none",
        ),
        (
            &post,
            |r| r.transfers = vec![transfer("a", "b", 1); 257],
            "transfers",
            "257 transfers, 0 to 256",
        ),
        (
            &reversal,
            |r| r.transfers = vec![transfer("a", "b", 1); 257],
            "transfers",
            "257 transfers, 0 to 256",
        ),
        (
            &hold,
            |r| r.transfers[0] = transfer("a", "b", 0),
            "transfers[0].minor_units",
            "is 0, must be 1 to",
        ),
        (
            &post,
            |r| r.transfers[0] = transfer("a", "b", -1),
            "transfers[0].minor_units",
            "is -1, must be 0 to",
        ),
        (
            &post,
            |r| r.transfers[0].amount = None,
            "transfers[0].amount",
            "must be set",
        ),
        (
            &post,
            |r| r.transfers[0] = transfer("a", "b", 0),
            "transfers",
            "all amounts are 0",
        ),
        (
            &reversal,
            |r| r.transfers[0].amount = Some(transfer_proto::Amount::WideMinorUnits(Uint128::default())),
            "transfers",
            "all amounts are 0",
        ),
        // The amount rule.
        (
            &plain,
            |r| r.transfers[0].amount_rule = 5,
            "transfers[0].amount_rule",
            "5 is not a rule",
        ),
        (
            &post,
            |r| r.transfers[0].amount_rule = 2,
            "transfers[0].amount_rule",
            "must be unset or AMOUNT_RULE_EXACT",
        ),
        (
            &reversal,
            |r| r.transfers[0].amount_rule = 4,
            "transfers[0].amount_rule",
            "must be unset or AMOUNT_RULE_EXACT",
        ),
    ];
    for (base, change, field, words) in cases {
        let mut request = base.clone();
        change(&mut request);
        let (named, description) = violation(&ledger.process_transaction(request).await.unwrap_err());
        assert_eq!(named, field);
        assert!(
            description.contains(words),
            "{field}: {description:?} does not say {words:?}"
        );
    }
    // The outermost values that are allowed.
    service.open_accounts(&["a", "b"]).await;
    for (number, timeout) in [timeout(0, 1_000_000), timeout(315_360_000, 0)]
        .into_iter()
        .enumerate()
    {
        let request = ProcessTransactionRequest {
            transaction_id: format!("h{number}"),
            pending_timeout: timeout,
            ..hold.clone()
        };
        let committed = ledger.process_transaction(request).await.unwrap().into_inner();
        assert_eq!(committed.transaction_id, format!("h{number}"));
    }
    let partly_zero = vec![transfer("a", "b", 0), transfer("a", "b", 1)];
    for (request, reason) in [(post, "PENDING_NOT_FOUND"), (reversal, "REVERSED_NOT_FOUND")] {
        for (id, transfers) in [("1", partly_zero.clone()), ("2", Vec::new())] {
            let request = ProcessTransactionRequest {
                transaction_id: format!("{reason}-{id}"),
                transfers,
                ..request.clone()
            };
            let status = ledger.process_transaction(request).await.unwrap_err();
            assert_eq!(summary(&status), expected(Code::NotFound, reason, "false"));
        }
    }
}

fn timeout(seconds: i64, nanos: i32) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos })
}

#[tokio::test]
async fn every_invalid_update_of_an_account_is_rejected() {
    let service = Service::start(&config()).await;
    let mut client = service.accounts().await;
    let frozen = || Account {
        id: "a".to_owned(),
        status: AccountStatus::Frozen.into(),
        ..Account::default()
    };
    let metadata = Account {
        metadata: [("k".repeat(65), String::new())].into(),
        ..frozen()
    };
    let cases: Vec<(Option<Account>, &[&str], &str, &str)> = vec![
        (None, &["status"], "account", "must be set"),
        (
            Some(Account {
                id: String::new(),
                ..frozen()
            }),
            &["status"],
            "account.id",
            "must not be empty",
        ),
        (
            Some(frozen()),
            &[],
            "update_mask",
            "at least one of status, overdraft_limit, metadata and velocity_limits",
        ),
        (
            Some(frozen()),
            &["asset"],
            "update_mask",
            "\"asset\" can't be updated",
        ),
        (
            Some(frozen()),
            &["status", "*"],
            "update_mask",
            "\"*\" can't be updated",
        ),
        (
            Some(frozen()),
            &["account.status"],
            "update_mask",
            "can't be updated",
        ),
        (
            Some(Account {
                status: 0,
                ..frozen()
            }),
            &["status"],
            "account.status",
            "must be set",
        ),
        (
            Some(Account {
                status: 5,
                ..frozen()
            }),
            &["status"],
            "account.status",
            "5 is not a status",
        ),
        (
            Some(Account {
                etag: "x".to_owned(),
                ..frozen()
            }),
            &["status"],
            "account.etag",
            "is not the etag",
        ),
        (
            Some(metadata),
            &["metadata"],
            "account.metadata",
            "a key of 65 bytes",
        ),
        (
            Some(Account {
                velocity_limits: vec![VelocityLimit::default(); 5],
                ..frozen()
            }),
            &["velocity_limits"],
            "account.velocity_limits",
            "has 5 limits, at most 4",
        ),
    ];
    for (account, paths, field, words) in cases {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let request = UpdateAccountRequest {
            account,
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let (named, description) = violation(&client.update_account(request).await.unwrap_err());
        assert_eq!(named, field);
        assert!(
            description.contains(words),
            "{field}: {description:?} does not say {words:?}"
        );
    }
}

#[tokio::test]
async fn every_invalid_velocity_limit_is_rejected() {
    let units = |units| {
        Some(Amount {
            value: Some(amount::Value::MinorUnits(units)),
        })
    };
    let wide_zero = Some(Amount {
        value: Some(amount::Value::WideMinorUnits(Uint128::default())),
    });
    let good = VelocityLimit {
        side: 1,
        window: timeout(1, 0),
        max_count: 1,
        max_amount: units(1),
        single_amount_max: units(1),
    };
    let single = VelocityLimit {
        window: None,
        max_count: 0,
        max_amount: None,
        ..good
    };
    let cases: Vec<(VelocityLimit, &str, &str)> = vec![
        (VelocityLimit { side: 0, ..good }, ".side", "must be set"),
        (VelocityLimit { side: 3, ..good }, ".side", "3 is not a side"),
        (
            VelocityLimit { window: None, ..good },
            ".window",
            "must be set with",
        ),
        (
            VelocityLimit {
                window: timeout(0, 999_999_999),
                ..good
            },
            ".window",
            "must be 1 s to 30 days",
        ),
        (
            VelocityLimit {
                window: timeout(2_592_000, 1),
                ..good
            },
            ".window",
            "must be 1 s to 30 days",
        ),
        (
            VelocityLimit {
                window: timeout(-1, 0),
                ..good
            },
            ".window",
            "is -1 s",
        ),
        (
            VelocityLimit {
                window: timeout(1, 0),
                ..single
            },
            ".window",
            "must be unset without",
        ),
        (
            VelocityLimit {
                max_count: -1,
                ..good
            },
            ".max_count",
            "is -1, must be 0 to",
        ),
        (
            VelocityLimit {
                max_amount: units(0),
                ..good
            },
            ".max_amount.minor_units",
            "is 0, must be 1 to",
        ),
        (
            VelocityLimit {
                max_amount: wide_zero,
                ..good
            },
            ".max_amount.wide_minor_units",
            "is 0, must be 1 to",
        ),
        (
            VelocityLimit {
                max_amount: Some(Amount { value: None }),
                ..good
            },
            ".max_amount",
            "must have a value",
        ),
        (
            VelocityLimit {
                single_amount_max: units(-5),
                ..good
            },
            ".single_amount_max.minor_units",
            "is -5",
        ),
        (
            VelocityLimit {
                single_amount_max: None,
                ..single
            },
            "",
            "must have at least one of",
        ),
    ];
    let service = Service::start(&config()).await;
    let mut client = service.accounts().await;
    for (limit, field, words) in cases {
        let request = CreateAccountRequest {
            account: Some(Account {
                velocity_limits: vec![good, limit],
                ..account("x")
            }),
        };
        let (named, description) = violation(&client.create_account(request).await.unwrap_err());
        assert_eq!(named, format!("account.velocity_limits[1]{field}"));
        assert!(
            description.contains(words),
            "{field}: {description:?} does not say {words:?}"
        );
    }
    let month = VelocityLimit {
        window: timeout(2_592_000, 0),
        ..good
    };
    let sent = Account {
        velocity_limits: vec![good, single, month],
        ..account("x")
    };
    let request = CreateAccountRequest {
        account: Some(sent.clone()),
    };
    let created = client.create_account(request).await.unwrap().into_inner();
    assert_eq!(created.account.unwrap().velocity_limits, sent.velocity_limits);
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
                available: Some(Amount::default()),
                ..account("x")
            },
            "account.available",
            "output only",
        ),
        (
            Account {
                etag: "r0".to_owned(),
                ..account("x")
            },
            "account.etag",
            "output only",
        ),
        (
            Account {
                velocity_limits: vec![VelocityLimit::default(); 5],
                ..account("x")
            },
            "account.velocity_limits",
            "has 5 limits, at most 4",
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
