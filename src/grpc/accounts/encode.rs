//! Converts accounts of the ledger for the API.

use tally_ledger::{AccountSnapshot, AccountStatus, BalanceRule};

use crate::{
    grpc::fields::{from_amount, from_time},
    proto,
};

/// Converts an account for the API.
#[must_use]
pub(crate) fn from_account(snapshot: AccountSnapshot) -> proto::Account {
    let AccountSnapshot {
        account,
        balances,
        create_time,
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
    };
    proto::Account {
        id: account.id,
        asset: account.asset,
        balance_rule: rule.into(),
        overdraft_limit: Some(from_amount(account.overdraft_limit)),
        status: status.into(),
        metadata: account.metadata,
        balances: Some(proto::Balances {
            debits_pending: Some(from_amount(balances.debits_pending)),
            debits_posted: Some(from_amount(balances.debits_posted)),
            credits_pending: Some(from_amount(balances.credits_pending)),
            credits_posted: Some(from_amount(balances.credits_posted)),
        }),
        create_time: Some(from_time(create_time)),
    }
}
