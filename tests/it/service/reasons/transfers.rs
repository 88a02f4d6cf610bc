//! Rejections because of accounts, their balance rules, velocity limits and statuses, and rejected updates.

use std::time::Duration;

use tally::proto::{Account, AccountStatus, AmountRule, Transfer, Uint128, transfer as transfer_proto};
use tonic::Code;
use tonic_types::StatusExt;

use super::{PRECONDITION, Reasons, ledger, pay};
use crate::{
    service::{
        info,
        ledger_client::{clamped, hold, minor, post, reversal, status_update, update, void},
    },
    support::in_process::{account, config, transaction, transfer},
};

fn most(debit: &str, credit: &str) -> Transfer {
    Transfer {
        amount: Some(transfer_proto::Amount::WideMinorUnits(Uint128 {
            high: u64::MAX,
            low: u64::MAX,
        })),
        ..transfer(debit, credit, 1)
    }
}

/// Accounts and balance rules reject holds and clamped transfers.
pub(super) async fn balance_rules() -> Reasons {
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
    ledger.reasons
}

/// The error of a velocity limit names the maximum, and the time at which there is room again.
pub(super) async fn velocity_limits() -> Reasons {
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
    // There must be no RetryInfo: generic clients would repeat the same id after its delay.
    assert!(status.get_details_retry_info().is_none());
    let room_at = info(&status).metadata["room_at"].clone();
    let room_at = humantime::parse_rfc3339(&room_at).expect(&room_at);
    let wait = room_at.duration_since(std::time::SystemTime::now()).unwrap();
    assert!(
        wait > Duration::from_secs(3000) && wait < Duration::from_secs(3700),
        "{wait:?}"
    );
    // Holds count, too. Posts of holds do not count, and transfers of the other side do not.
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
    ledger.reasons
}

/// Frozen and closed accounts reject the transfers that their status forbids.
pub(super) async fn statuses() -> Reasons {
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
    ledger.reasons
}

/// An update is rejected if the account has changed since its etag was read, does not exist, or can't have the value.
pub(super) async fn etags() -> Reasons {
    let mut ledger = ledger(&config()).await;
    let before = ledger.account("wallet").await;
    ledger
        .update(status_update("wallet", AccountStatus::DebitsFrozen))
        .await
        .unwrap();
    let status = ledger
        .refuses(update(before, &["metadata"]), Code::Aborted, "ACCOUNT_CHANGED")
        .await;
    assert_eq!(info(&status).metadata["account_id"], "wallet");
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
    ledger.reasons
}
