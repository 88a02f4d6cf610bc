//! Provokes every rejection of a transaction and of an update over the wire. Checks its code, reason and metadata, that a
//! repetition gets the same rejection, and that nothing has changed. `statuses` tests the other errors.

mod holds;
mod reversals;
mod transfers;

use tally::{
    engine::EngineConfig,
    proto::{Account, AmountRule, BalanceRule, ProcessTransactionRequest, Side, Transfer, VelocityLimit},
};
use tally_ledger::Reason;
use tonic::Code;

use super::{
    expected, info,
    ledger_client::{Ledger, Reasons, clamped, hold, minor, post, post_part, reversal},
    summary,
};
use crate::support::in_process::{account, config, transaction, transfer};

const PRECONDITION: Code = Code::FailedPrecondition;
/// The reasons for which an account is not updated, besides those for which a transaction is rejected.
const OF_UPDATES: [&str; 3] = ["ACCOUNT_NOT_EMPTY", "ACCOUNT_CHANGED", "INVALID_FIELD"];

/// A ledger with an unlimited `bank`, a `wallet` with 100 that may not be overdrawn, and other accounts.
pub(super) async fn ledger(config: &EngineConfig) -> Ledger {
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

#[tokio::test]
async fn every_rejection_of_the_ledger_has_its_code_reason_and_metadata_and_changes_nothing() {
    let provoked = [
        transfers::balance_rules().await,
        transfers::velocity_limits().await,
        transfers::statuses().await,
        transfers::etags().await,
        holds::ended_holds().await,
        holds::too_many_holds().await,
        reversals::reversals().await,
    ];
    let provoked: Reasons = provoked.into_iter().flatten().collect();
    // A test of `service/holds.rs` provokes MEMORY_LIMIT, which needs a service with little memory.
    let reasons = Reason::ALL
        .iter()
        .filter(|reason| **reason != Reason::MemoryLimit);
    let reasons = reasons.map(|reason| reason.as_str()).chain(OF_UPDATES);
    // `rejects` and `refuses` of the client have checked each of them.
    assert_eq!(provoked, reasons.map(str::to_owned).collect::<Reasons>());
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
