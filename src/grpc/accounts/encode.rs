//! Converts accounts of the ledger for the API.

use tally_ledger::{AccountSnapshot, AccountStatus, BalanceRule, Side, VelocityLimit};

use super::decode::etag_of;
use crate::{
    grpc::fields::{from_amount, from_balances, from_time},
    proto,
};

/// Converts an account for the API.
#[must_use]
pub(crate) fn from_account(snapshot: AccountSnapshot) -> proto::Account {
    let AccountSnapshot {
        account,
        balances,
        available,
        create_time,
        revision,
    } = snapshot;
    let rule = match account.rule {
        BalanceRule::Unlimited => proto::BalanceRule::Unlimited,
        BalanceRule::CreditBalance => proto::BalanceRule::CreditBalance,
        BalanceRule::DebitBalance => proto::BalanceRule::DebitBalance,
    };
    let status = match account.status {
        AccountStatus::Open => proto::AccountStatus::Open,
        AccountStatus::Frozen => proto::AccountStatus::Frozen,
        AccountStatus::Closed => proto::AccountStatus::Closed,
        AccountStatus::DebitsFrozen => proto::AccountStatus::DebitsFrozen,
    };
    proto::Account {
        id: account.id,
        asset: account.asset,
        balance_rule: rule.into(),
        overdraft_limit: Some(from_amount(account.overdraft_limit)),
        status: status.into(),
        metadata: account.metadata,
        balances: Some(from_balances(&balances)),
        create_time: Some(from_time(create_time)),
        available: available.map(from_amount),
        velocity_limits: account.velocity_limits.iter().map(from_limit).collect(),
        etag: etag_of(revision),
    }
}

/// Converts a velocity limit for the API.
fn from_limit(limit: &VelocityLimit) -> proto::VelocityLimit {
    let side = match limit.side {
        Side::Debit => proto::Side::Debit,
        Side::Credit => proto::Side::Credit,
    };
    proto::VelocityLimit {
        side: side.into(),
        window: (limit.window_nanos > 0).then(|| prost_types::Duration {
            seconds: i64::try_from(limit.window_nanos / 1_000_000_000).unwrap_or(i64::MAX),
            nanos: i32::try_from(limit.window_nanos % 1_000_000_000).unwrap_or_default(),
        }),
        max_count: i64::try_from(limit.max_count).unwrap_or(i64::MAX),
        max_amount: limit.max_amount.map(from_amount),
        single_amount_max: limit.single_amount_max.map(from_amount),
    }
}
