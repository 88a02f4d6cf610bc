//! Rejections of reversals.

use tonic::Code;

use super::{PRECONDITION, Reasons, ledger, pay};
use crate::{
    service::{
        info,
        ledger_client::{hold, post, reversal, void},
    },
    support::in_process::{config, transaction, transfer},
};

/// Checks the rejections of reversals. A reversal can't exceed the transaction that it reverses.
pub(super) async fn reversals() -> Reasons {
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
    // A reversal must obey the balance rules. If it is rejected for this reason, a later reversal of the same transaction is possible.
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
    ledger.reasons
}
