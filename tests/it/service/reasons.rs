//! Provokes every rejection of a transaction and of an update over the wire, and checks its code, its reason, its metadata, that a
//! repetition gets the same, and that nothing has changed. `statuses.rs` has the other errors.

use std::time::Duration;

use tally::{
    engine::{EngineConfig, HoldsMax},
    proto::{
        Account, AccountStatus, AmountRule, BalanceRule, ListAccountsRequest, ProcessTransactionRequest,
        Side, Transfer, Uint128, VelocityLimit, transfer as transfer_proto,
    },
};
use tonic::Code;
use tonic_types::StatusExt;

use super::{
    expected, info,
    ledger_client::{
        Ledger, clamped, columns, hold, minor, post, post_part, reversal, status_update, units, update, void,
    },
    summary,
};
use crate::support::in_process::{account, config, transaction, transfer};

const PRECONDITION: Code = Code::FailedPrecondition;

/// A ledger with an unlimited `bank`, a `wallet` with 100 that may not be overdrawn, and others.
async fn ledger(config: &EngineConfig) -> Ledger {
    let mut ledger = Ledger::start(config).await;
    let limited = VelocityLimit {
        side: Side::Debit.into(),
        window: Some(prost_types::Duration {
            seconds: 3600,
            nanos: 0,
        }),
        max_count: 3,
        max_amount: minor(50),
        single_amount_max: minor(40),
    };
    for account in [
        account("bank"),
        Account {
            balance_rule: BalanceRule::CreditBalance.into(),
            ..account("wallet")
        },
        Account {
            balance_rule: BalanceRule::CreditBalance.into(),
            ..account("empty")
        },
        Account {
            asset: "USD".to_owned(),
            ..account("usd")
        },
        Account {
            velocity_limits: vec![limited],
            ..account("limited")
        },
    ] {
        ledger.create(account).await;
    }
    ledger
        .commits(transaction("fund", vec![transfer("bank", "wallet", 100)]))
        .await;
    ledger
}

fn pay(units: i64) -> Vec<Transfer> {
    vec![transfer("wallet", "bank", units)]
}

fn most(debit: &str, credit: &str) -> Transfer {
    Transfer {
        amount: Some(transfer_proto::Amount::WideMinorUnits(Uint128 {
            high: u64::MAX,
            low: u64::MAX,
        })),
        ..transfer(debit, credit, 1)
    }
}

#[tokio::test]
async fn accounts_and_balance_rules_reject_holds_and_clamped_transfers() {
    let mut ledger = ledger(&config()).await;
    let debit = ("field", "transfers[0].debit_account_id");
    let credit = ("field", "transfers[0].credit_account_id");
    let funds = [
        ("account_id", "wallet"),
        ("transfer", "0"),
        ("needs", "101"),
        ("available", "100"),
        ("retry", "new_id"),
        debit,
    ];
    let cases: [(_, Vec<_>, _, _, Vec<_>); 7] = [
        ("h1", pay(101), PRECONDITION, "INSUFFICIENT_FUNDS", funds.to_vec()),
        (
            "h2",
            vec![clamped("empty", "bank", 5, AmountRule::UpToDebitAvailable)],
            PRECONDITION,
            "NOTHING_AVAILABLE",
            vec![("account_id", "empty"), ("retry", "new_id"), debit],
        ),
        (
            "h3",
            vec![transfer("bank", "nobody", 1)],
            Code::NotFound,
            "ACCOUNT_NOT_FOUND",
            vec![("account_id", "nobody"), ("retry", "no"), credit],
        ),
        (
            "h4",
            vec![transfer("bank", "bank", 1)],
            PRECONDITION,
            "SAME_ACCOUNT",
            vec![("retry", "no")],
        ),
        (
            "h5",
            vec![transfer("bank", "usd", 1)],
            PRECONDITION,
            "ASSET_MISMATCH",
            vec![("retry", "no")],
        ),
        (
            "h6",
            vec![most("bank", "limited"), most("bank", "limited")],
            Code::OutOfRange,
            "BALANCE_OVERFLOW",
            vec![("transfer", "0"), ("retry", "new_id")],
        ),
        (
            "h7",
            vec![
                clamped("wallet", "bank", 500, AmountRule::UpToDebitAvailable),
                transfer("wallet", "bank", 1),
            ],
            PRECONDITION,
            "INSUFFICIENT_FUNDS",
            vec![("transfer", "1"), ("needs", "1"), ("available", "0")],
        ),
    ];
    for (id, transfers, code, reason, metadata) in cases {
        ledger
            .rejects(hold(id, transfers.clone()), code, reason, &metadata)
            .await;
        let posted = transaction(&format!("posted-{id}"), transfers);
        ledger.rejects(posted, code, reason, &metadata).await;
    }
}

#[tokio::test]
async fn velocity_limits_name_the_maximum_and_when_there_is_room() {
    let mut ledger = ledger(&config()).await;
    let spend = |id: &str, units| transaction(id, vec![transfer("limited", "bank", units)]);
    let limit = [("account_id", "limited"), ("limit", "0"), ("retry", "new_id")];
    let too_large = [("maximum", "single_amount_max"), ("used", "0")];
    let status = ledger
        .rejects(
            spend("v1", 41),
            PRECONDITION,
            "VELOCITY_LIMIT",
            &[limit.as_slice(), &too_large].concat(),
        )
        .await;
    assert!(!info(&status).metadata.contains_key("room_at"), "{status:?}");
    ledger.commits(spend("v2", 30)).await;
    let over = [("maximum", "max_amount"), ("used", "30")];
    let status = ledger
        .rejects(
            spend("v3", 21),
            PRECONDITION,
            "VELOCITY_LIMIT",
            &[limit.as_slice(), &over].concat(),
        )
        .await;
    // Generic clients would repeat the same id after the delay of a RetryInfo.
    assert!(status.get_details_retry_info().is_none());
    let room_at = info(&status).metadata["room_at"].clone();
    let room_at = humantime::parse_rfc3339(&room_at).expect(&room_at);
    let wait = room_at.duration_since(std::time::SystemTime::now()).unwrap();
    assert!(
        wait > Duration::from_secs(3000) && wait < Duration::from_secs(3700),
        "{wait:?}"
    );
    // Holds count, too; their posts and the other side do not.
    ledger
        .commits(hold("v4", vec![transfer("limited", "bank", 1)]))
        .await;
    ledger.commits(post("v5", "v4", Vec::new())).await;
    ledger
        .commits(transaction("v6", vec![transfer("bank", "limited", 1000)]))
        .await;
    ledger.commits(spend("v7", 1)).await;
    let often = [("maximum", "max_count"), ("used", "3")];
    ledger
        .rejects(
            spend("v8", 1),
            PRECONDITION,
            "VELOCITY_LIMIT",
            &[limit.as_slice(), &often].concat(),
        )
        .await;
}

#[tokio::test]
async fn a_hold_that_ended_or_does_not_fit_rejects_posts_and_voids() {
    let mut ledger = ledger(&config()).await;
    for (name, end) in [
        ("posted", post("p", "posted", Vec::new())),
        ("voided", void("v", "voided")),
    ] {
        ledger.commits(hold(name, pay(10))).await;
        ledger.commits(end).await;
    }
    let timeout = Some(prost_types::Duration {
        seconds: 0,
        nanos: 1_000_000,
    });
    ledger
        .commits(ProcessTransactionRequest {
            pending_timeout: timeout,
            ..hold("expired", pay(10))
        })
        .await;
    while ledger.find("expired").await.hold_state() == tally::proto::HoldState::Pending {}
    let not_found = (Code::NotFound, "PENDING_NOT_FOUND");
    for (name, (code, reason)) in [
        ("nobody", not_found),
        // A transaction that is not a hold.
        ("fund", not_found),
        ("posted", (PRECONDITION, "PENDING_ALREADY_POSTED")),
        ("voided", (PRECONDITION, "PENDING_ALREADY_VOIDED")),
        ("expired", (PRECONDITION, "PENDING_EXPIRED")),
    ] {
        let metadata = [
            ("field", "pending_transaction_id"),
            ("pending_transaction_id", name),
            ("retry", "new_id"),
        ];
        for (number, request) in [
            void(&format!("1-{name}"), name),
            post(&format!("2-{name}"), name, Vec::new()),
            post_part(&format!("3-{name}"), name, pay(1)),
        ]
        .into_iter()
        .enumerate()
        {
            let status = ledger.rejects(request, code, reason, &metadata).await;
            assert!(status.message().contains(name), "{number}: {status:?}");
        }
    }

    ledger.commits(hold("h", pay(30))).await;
    ledger.commits(post_part("part", "h", pay(10))).await;
    let exceeded = [
        ("field", "transfers[0].amount"),
        ("needs", "21"),
        ("available", "20"),
        ("pending_transaction_id", "h"),
        ("retry", "new_id"),
    ];
    ledger
        .rejects(
            post("e", "h", pay(21)),
            PRECONDITION,
            "PENDING_AMOUNT_EXCEEDED",
            &exceeded,
        )
        .await;
    for (id, transfers, field) in [
        (
            "d1",
            vec![transfer("empty", "bank", 1)],
            "transfers[0].debit_account_id",
        ),
        (
            "d2",
            vec![transfer("wallet", "empty", 1)],
            "transfers[0].credit_account_id",
        ),
        ("d3", [pay(1), pay(1)].concat(), "transfers[1].debit_account_id"),
    ] {
        let metadata = [("field", field), ("retry", "new_id")];
        ledger
            .rejects(
                post(id, "h", transfers),
                PRECONDITION,
                "PENDING_TRANSFERS_DIFFER",
                &metadata,
            )
            .await;
    }
    ledger.commits(hold("two", [pay(1), pay(1)].concat())).await;
    ledger
        .rejects(
            post("d4", "two", pay(1)),
            PRECONDITION,
            "PENDING_TRANSFERS_DIFFER",
            &[("field", "transfers")],
        )
        .await;
    // What was rejected has left the hold as it was.
    ledger.commits(post("all", "h", Vec::new())).await;
    assert_eq!(columns(&ledger.account("wallet").await.balances), (2, 40, 0, 100));
}

#[tokio::test]
async fn frozen_and_closed_accounts_reject_what_their_status_says() {
    let mut ledger = ledger(&config()).await;
    for id in ["h1", "h2", "h3"] {
        ledger.commits(hold(id, pay(10))).await;
    }
    let frozen = |account_id| [("account_id", account_id), ("retry", "new_id")];
    ledger
        .update(status_update("wallet", AccountStatus::DebitsFrozen))
        .await
        .unwrap();
    ledger
        .rejects(
            transaction("f1", pay(1)),
            PRECONDITION,
            "ACCOUNT_FROZEN",
            &frozen("wallet"),
        )
        .await;
    ledger
        .rejects(
            hold("f2", pay(1)),
            PRECONDITION,
            "ACCOUNT_FROZEN",
            &frozen("wallet"),
        )
        .await;
    ledger
        .commits(transaction("credit", vec![transfer("bank", "wallet", 5)]))
        .await;
    ledger.commits(post("p1", "h1", Vec::new())).await;

    ledger
        .update(status_update("wallet", AccountStatus::Frozen))
        .await
        .unwrap();
    let credit = transaction("f3", vec![transfer("bank", "wallet", 1)]);
    ledger
        .rejects(credit, PRECONDITION, "ACCOUNT_FROZEN", &frozen("wallet"))
        .await;
    // The post was sent without the account, so the error names its place in the hold.
    let place = [
        ("field", "pending_transaction_id"),
        ("transfer", "0"),
        ("side", "debit"),
    ];
    ledger
        .rejects(
            post("f4", "h2", Vec::new()),
            PRECONDITION,
            "ACCOUNT_FROZEN",
            &place,
        )
        .await;
    ledger
        .rejects(
            post("f5", "h2", pay(3)),
            PRECONDITION,
            "ACCOUNT_FROZEN",
            &frozen("wallet"),
        )
        .await;
    ledger
        .rejects(
            reversal("f6", "p1", Vec::new()),
            PRECONDITION,
            "ACCOUNT_FROZEN",
            &[("side", "credit")],
        )
        .await;
    ledger.commits(void("v2", "h2")).await;

    let not_empty = status_update("wallet", AccountStatus::Closed);
    let status = ledger
        .refuses(not_empty.clone(), PRECONDITION, "ACCOUNT_NOT_EMPTY")
        .await;
    assert_eq!(info(&status).metadata["account_id"], "wallet");
    ledger
        .update(status_update("wallet", AccountStatus::Open))
        .await
        .unwrap();
    ledger.commits(transaction("out", pay(85))).await;
    // The balance is zero, but a hold is pending on the other side.
    ledger.commits(void("v3", "h3")).await;
    ledger.commits(transaction("rest", pay(10))).await;
    ledger
        .commits(hold("in", vec![transfer("bank", "wallet", 1)]))
        .await;
    ledger
        .refuses(not_empty.clone(), PRECONDITION, "ACCOUNT_NOT_EMPTY")
        .await;
    ledger.commits(void("v4", "in")).await;
    ledger.update(not_empty).await.unwrap();
    let credit = transaction("c1", vec![transfer("bank", "wallet", 1)]);
    ledger
        .rejects(credit, PRECONDITION, "ACCOUNT_CLOSED", &frozen("wallet"))
        .await;
    let reopen = status_update("wallet", AccountStatus::Open);
    ledger.refuses(reopen, PRECONDITION, "ACCOUNT_CLOSED").await;
}

#[tokio::test]
async fn a_reversal_is_bounded_by_what_it_reverses() {
    let mut ledger = ledger(&config()).await;
    ledger.commits(hold("held", pay(1))).await;
    ledger.commits(post("captured", "held", Vec::new())).await;
    ledger.commits(hold("held-2", pay(1))).await;
    ledger.commits(void("voided", "held-2")).await;
    ledger
        .rejects(
            transaction("poor", pay(500)),
            PRECONDITION,
            "INSUFFICIENT_FUNDS",
            &[],
        )
        .await;
    ledger.commits(transaction("paid", pay(30))).await;
    let back = |units| vec![transfer("bank", "wallet", units)];
    ledger.commits(reversal("refund", "paid", back(10))).await;

    let named = |id| {
        [
            ("field", "reverses_transaction_id"),
            ("reverses_transaction_id", id),
            ("retry", "new_id"),
        ]
    };
    ledger
        .rejects(
            reversal("r1", "nobody", Vec::new()),
            Code::NotFound,
            "REVERSED_NOT_FOUND",
            &named("nobody"),
        )
        .await;
    for (number, id) in ["held", "voided", "poor", "refund"].into_iter().enumerate() {
        let request = reversal(&format!("n{number}"), id, Vec::new());
        ledger
            .rejects(request, PRECONDITION, "NOT_REVERSIBLE", &named(id))
            .await;
    }
    let differs = vec![transfer("bank", "empty", 1)];
    let field = [
        ("field", "transfers[0].credit_account_id"),
        ("account_id", "empty"),
    ];
    ledger
        .rejects(
            reversal("r2", "paid", differs),
            PRECONDITION,
            "NOT_REVERSIBLE",
            &field,
        )
        .await;
    let exceeded = [
        ("field", "transfers[0].amount"),
        ("needs", "21"),
        ("available", "20"),
        ("retry", "new_id"),
    ];
    ledger
        .rejects(
            reversal("r3", "paid", back(21)),
            PRECONDITION,
            "ALREADY_REVERSED",
            &exceeded,
        )
        .await;
    ledger.commits(reversal("r4", "paid", Vec::new())).await;
    let status = ledger
        .rejects(
            reversal("r5", "paid", Vec::new()),
            PRECONDITION,
            "ALREADY_REVERSED",
            &named("paid"),
        )
        .await;
    assert!(!info(&status).metadata.contains_key("needs"));
    // A reversal obeys the balance rules, and stays possible.
    ledger
        .commits(transaction("out", vec![transfer("wallet", "empty", 99)]))
        .await;
    ledger
        .commits(transaction("spent", vec![transfer("empty", "bank", 99)]))
        .await;
    let place = [
        ("field", "reverses_transaction_id"),
        ("side", "debit"),
        ("available", "0"),
    ];
    ledger
        .rejects(
            reversal("r6", "out", Vec::new()),
            PRECONDITION,
            "INSUFFICIENT_FUNDS",
            &place,
        )
        .await;
    ledger
        .commits(transaction("fund-2", vec![transfer("bank", "empty", 99)]))
        .await;
    ledger.commits(reversal("r7", "out", Vec::new())).await;
}

#[tokio::test]
async fn the_number_of_outstanding_holds_is_limited() {
    let config = EngineConfig {
        holds_max: HoldsMax(2),
        ..config()
    };
    let mut ledger = ledger(&config).await;
    ledger.commits(hold("h1", pay(1))).await;
    ledger.commits(hold("h2", pay(1))).await;
    let status = ledger
        .rejects(
            hold("h3", pay(1)),
            Code::ResourceExhausted,
            "HOLDS_FULL",
            &[("retry", "same_id")],
        )
        .await;
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    assert_eq!(delay, Some(Duration::from_secs(1)));
    ledger.commits(void("v1", "h1")).await;
    ledger.commits(hold("h3", pay(1))).await;
}

#[tokio::test]
async fn an_id_with_other_content_names_the_field() {
    let mut ledger = ledger(&config()).await;
    let minute = Some(prost_types::Duration {
        seconds: 60,
        nanos: 0,
    });
    ledger.commits(hold("h", pay(10))).await;
    ledger.commits(post_part("p", "h", pay(1))).await;
    ledger.commits(transaction("t", pay(1))).await;
    ledger.commits(reversal("r", "t", Vec::new())).await;
    for (request, field) in [
        (transaction("h", pay(10)), "phase"),
        (
            ProcessTransactionRequest {
                pending_timeout: minute,
                ..hold("h", pay(10))
            },
            "pending_timeout",
        ),
        (post("p", "h", pay(1)), "keep_remaining"),
        (post_part("p", "other", pay(1)), "pending_transaction_id"),
        (reversal("r", "p", Vec::new()), "reverses_transaction_id"),
        (
            transaction(
                "t",
                vec![clamped("wallet", "bank", 1, AmountRule::UpToDebitAvailable)],
            ),
            "transfers[0].amount_rule",
        ),
    ] {
        let status = ledger
            .transactions
            .process_transaction(request)
            .await
            .unwrap_err();
        let reused = expected(Code::AlreadyExists, "TRANSACTION_ID_REUSED", "false");
        assert_eq!(summary(&status), reused);
        assert_eq!(info(&status).metadata["field"], field);
    }
}

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
    // An update that changes nothing changes nothing.
    let same = update(again.clone(), &["velocity_limits"]);
    assert_eq!(ledger.update(same).await.unwrap(), again);
    // A repetition of the creation compares with the account as it was created.
    let created = Account {
        balance_rule: BalanceRule::CreditBalance.into(),
        ..account("wallet")
    };
    assert_eq!(ledger.create(created).await, again);

    let nobody = status_update("nobody", AccountStatus::Frozen);
    ledger.refuses(nobody, Code::NotFound, "ACCOUNT_NOT_FOUND").await;
    let unlimited = Account {
        overdraft_limit: minor(1),
        ..account("bank")
    };
    let status = ledger
        .refuses(
            update(unlimited, &["overdraft_limit"]),
            Code::InvalidArgument,
            "INVALID_FIELD",
        )
        .await;
    assert!(
        status.message().starts_with("account.overdraft_limit"),
        "{status:?}"
    );
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
