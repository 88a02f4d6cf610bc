//! Tests of accounts.

use super::*;

fn account(rule: BalanceRule, overdraft_limit: u64) -> Account {
    Account {
        balances: Balances::default(),
        overdraft_limit: Amount::from(overdraft_limit),
        head: 0,
        since_waypoint: 0,
        asset: AssetIndex(0),
        rule,
        status: AccountStatus::Open,
        extras: HasExtras::No,
    }
}

#[test]
fn the_part_that_a_transfer_changes_has_96_bytes() {
    assert_eq!(size_of::<Account>(), 96);
}

#[test]
fn a_credit_balance_accepts_the_bound_and_rejects_one_unit_more() {
    let mut wallet = account(BalanceRule::CreditBalance, 5);
    wallet
        .add(Side::Credit, Column::Posted, Amount::from(10))
        .unwrap();
    let before = wallet;
    assert_eq!(
        wallet.add(Side::Debit, Column::Posted, Amount::from(16)),
        Err(Reason::InsufficientFunds)
    );
    assert_eq!(wallet, before);
    assert_eq!(wallet.add(Side::Debit, Column::Posted, Amount::from(15)), Ok(()));
    assert_eq!(
        wallet.add(Side::Debit, Column::Posted, Amount::from(1)),
        Err(Reason::InsufficientFunds)
    );
}

#[test]
fn a_debit_balance_limits_credits_as_a_credit_balance_limits_debits() {
    let mut cash = account(BalanceRule::DebitBalance, 0);
    assert_eq!(
        cash.add(Side::Credit, Column::Posted, Amount::from(1)),
        Err(Reason::InsufficientFunds)
    );
    cash.add(Side::Debit, Column::Posted, Amount::from(7)).unwrap();
    assert_eq!(
        cash.add(Side::Credit, Column::Posted, Amount::from(8)),
        Err(Reason::InsufficientFunds)
    );
    assert_eq!(cash.add(Side::Credit, Column::Posted, Amount::from(7)), Ok(()));
}

#[test]
fn pending_amounts_count_against_the_bound() {
    let mut wallet = account(BalanceRule::CreditBalance, 0);
    wallet
        .add(Side::Credit, Column::Posted, Amount::from(10))
        .unwrap();
    wallet.balances.debits_pending = Amount::from(4);
    assert_eq!(
        wallet.add(Side::Debit, Column::Posted, Amount::from(7)),
        Err(Reason::InsufficientFunds)
    );
    assert_eq!(wallet.add(Side::Debit, Column::Posted, Amount::from(6)), Ok(()));
}

#[test]
fn overflow_is_rejected_and_a_bound_beyond_128_bits_is_never_exceeded() {
    let mut unlimited = account(BalanceRule::Unlimited, 0);
    unlimited
        .add(Side::Debit, Column::Posted, Amount::new(u128::MAX))
        .unwrap();
    assert_eq!(
        unlimited.add(Side::Debit, Column::Posted, Amount::from(1)),
        Err(Reason::BalanceOverflow)
    );

    let mut wallet = account(BalanceRule::CreditBalance, 1);
    wallet.balances.credits_posted = Amount::new(u128::MAX);
    assert_eq!(
        wallet.add(Side::Debit, Column::Posted, Amount::new(u128::MAX)),
        Ok(())
    );
}

#[test]
fn frozen_and_closed_accounts_reject_transfers() {
    let mut frozen = Account {
        status: AccountStatus::Frozen,
        ..account(BalanceRule::Unlimited, 0)
    };
    assert_eq!(
        frozen.add(Side::Debit, Column::Posted, Amount::from(1)),
        Err(Reason::AccountFrozen)
    );
    let mut closed = Account {
        status: AccountStatus::Closed,
        ..frozen
    };
    frozen.status = AccountStatus::Frozen;
    assert_eq!(
        frozen.add(Side::Credit, Column::Posted, Amount::from(1)),
        Err(Reason::AccountFrozen)
    );
    assert_eq!(
        closed.add(Side::Credit, Column::Posted, Amount::from(1)),
        Err(Reason::AccountClosed)
    );
}
