//! Rejections of posts and voids of holds, and of holds beyond their maximum number.

use std::time::Duration;

use tally::{
    engine::{EngineConfig, HoldsMax},
    proto::ProcessTransactionRequest,
};
use tonic::Code;
use tonic_types::StatusExt;

use super::{PRECONDITION, Reasons, ledger, pay};
use crate::{
    service::ledger_client::{columns, hold, post, post_part, void},
    support::in_process::{config, transfer},
};

/// A hold that has ended, or that does not fit, rejects posts and voids.
pub(super) async fn ended_holds() -> Reasons {
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
    // The rejected transactions have not changed the hold.
    ledger.commits(post("all", "h", Vec::new())).await;
    assert_eq!(columns(&ledger.account("wallet").await.balances), (2, 40, 0, 100));
    ledger.reasons
}

/// The number of outstanding holds is limited.
pub(super) async fn too_many_holds() -> Reasons {
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
    ledger.reasons
}
