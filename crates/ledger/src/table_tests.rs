//! Tests of the account table.

use std::mem::offset_of;

use super::*;
use crate::{
    account::{AccountStatus, BalanceRule},
    money::Amount,
};

fn new(id: &str, asset: &str) -> NewAccount {
    NewAccount {
        id: id.to_owned(),
        asset: asset.to_owned(),
        rule: BalanceRule::CreditBalance,
        overdraft_limit: Amount::from(3),
        status: AccountStatus::Open,
        metadata: Metadata::new(),
        velocity_limits: Vec::new(),
    }
}

#[test]
fn adding_an_account_takes_constant_work_with_many_assets() {
    let mut table = AccountTable::new(7);
    for number in 0..20_000 {
        let account = new(&format!("a{number}"), &format!("asset-{number}"));
        table.push(account, 1, Timestamp::default()).unwrap();
    }
    let comparisons = table.asset_comparisons();
    assert!(comparisons < 100, "{comparisons} comparisons");
}

#[test]
fn finds_accounts_by_id_across_pages() {
    let mut table = AccountTable::new(7);
    let count = PAGE_ACCOUNTS * 2 + 1;
    // No account of the first page has metadata.
    let account = |number: usize| {
        let text = || number.to_string();
        let has_metadata = number > PAGE_ACCOUNTS && number.is_multiple_of(3);
        NewAccount {
            metadata: has_metadata.then(|| (text(), text())).into_iter().collect(),
            ..new(&format!("a{number}"), ["EUR", "USD"][number % 2])
        }
    };
    for number in 0..count {
        let index = table.push(account(number), 1, Timestamp::default());
        assert_eq!(index, Ok(AccountIndex(u32::try_from(number).unwrap())));
    }
    assert_eq!(table.len(), count);
    // The two prefetched fields are in different cache lines.
    let head = offset_of!(AccountSlot, account.head);
    assert_eq!(
        (size_of::<AccountSlot>(), offset_of!(AccountSlot, name), head / 64),
        (128, 0, 1)
    );
    for number in (0..count).step_by(97) {
        let index = table.find(&format!("a{number}")).unwrap();
        assert_eq!(table.snapshot(index).unwrap().account, account(number));
    }
    let long = "b".repeat(INLINE_BYTES + 1);
    for id in [&long, &long[1..]] {
        assert_eq!(table.find(id), None);
        let index = table.push(new(id, "EUR"), 1, Timestamp::default()).ok();
        table.prefetch_account(tag(id.as_bytes(), table.seed()));
        assert_eq!(table.find(id), index);
        assert_eq!(index.and_then(|index| table.id(index)), Some(id));
    }
    assert_eq!(table.find("b"), None);
    assert_eq!(table.get(AccountIndex(u32::MAX)), None);
    assert_eq!(table.indexes_from(AccountIndex(5)).count(), count + 2 - 5);
}

#[test]
#[should_panic(expected = "the index holds account number 5")]
fn an_index_entry_without_an_account_is_a_panic() {
    let mut table = AccountTable::new(7);
    table.by_name.insert(tag(b"a", 7), 5);
    assert_eq!(table.find("a"), None);
}

#[test]
fn only_new_accounts_need_room() {
    let mut table = AccountTable::new(7);
    for (id, asset) in [("a", "EUR"), ("b", "USD")] {
        table.push(new(id, asset), 1, Timestamp::default()).unwrap();
    }
    let check = |new: &[NewAccount]| table.check_room_within(new, 4, 3);
    assert_eq!(check(&[]), Ok(()));
    assert_eq!(check(&[new("c", "CZK"), new("d", "CZK")]), Ok(()));
    assert_eq!(check(&[new("c", "CZK"), new("d", "GBP")]), Err(TableFull::Assets));
    assert_eq!(
        check(&[new("c", "EUR"), new("d", "EUR"), new("e", "EUR")]),
        Err(TableFull::Accounts)
    );
    // An existing account needs no room. An account that is listed twice needs room for one account.
    let again = [
        new("a", "EUR"),
        new("b", "USD"),
        new("c", "CZK"),
        new("c", "CZK"),
        new("d", "CZK"),
    ];
    assert_eq!(check(&again), Ok(()));
}
