//! Generates random sequences of requests. Only a few accounts and transaction ids exist, so requests
//! often use the same accounts and ids.

use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{Index, select},
};
use tally_ledger::*;

use super::model::{ACCOUNTS, Change, Content};

/// Number of transaction ids.
const TRANSACTIONS: usize = 40;
/// Maximum number of requests in a sequence.
const STEPS_MAX: usize = 80;
/// Number of accounts that are created first.
const CREATED_FIRST: usize = 5;
const MAX: u128 = u128::MAX;

#[derive(Debug, Clone)]
pub(super) enum Step {
    Create(Vec<NewAccount>),
    Send(Content),
    SendAgain(Index),
    SendChanged(Index, Change),
    /// Starts a new block. Its time is this number of nanoseconds after the time of the next transaction.
    NextBlock(u64),
    /// Copies this number of accounts into the checkpoint.
    Copy(usize),
}

// ===== generators =====

fn account_id() -> impl Strategy<Value = String> {
    // Most ids belong to accounts that are created first.
    prop_oneof![20 => select(&ACCOUNTS[..CREATED_FIRST]), 1 => select(&ACCOUNTS[CREATED_FIRST..])]
        .prop_map(str::to_owned)
}

fn metadata() -> impl Strategy<Value = Metadata> {
    prop_oneof![
        4 => Just(Metadata::new()),
        1 => Just(Metadata::from([("k".to_owned(), "v".to_owned())])),
    ]
}

fn new_account(id: impl Strategy<Value = String>) -> impl Strategy<Value = NewAccount> {
    let asset = prop_oneof![16 => Just("EUR"), 1 => Just("USD"), 1 => Just("ETH-wei")];
    let rule = prop_oneof![
        4 => Just(BalanceRule::Unlimited),
        2 => Just(BalanceRule::CreditBalance),
        2 => Just(BalanceRule::DebitBalance),
    ];
    let status = prop_oneof![
        20 => Just(AccountStatus::Open),
        1 => Just(AccountStatus::Frozen),
        1 => Just(AccountStatus::Closed),
    ];
    let overdraft = select(vec![0, 0, 10, MAX]);
    (id, asset, rule, overdraft, status, metadata()).prop_map(
        |(id, asset, rule, overdraft, status, metadata)| NewAccount {
            id,
            asset: asset.to_owned(),
            rule,
            overdraft_limit: Amount::new(overdraft),
            status,
            metadata,
        },
    )
}

fn amount() -> impl Strategy<Value = Amount> {
    prop_oneof![12 => 1..=20_u128, 1 => Just(MAX), 1 => Just(MAX - 20), 1 => Just(MAX / 2)]
        .prop_map(Amount::new)
}

fn transfer() -> impl Strategy<Value = Transfer<String>> {
    (account_id(), account_id(), amount(), 0..3_u32).prop_map(|(debit, credit, amount, code)| Transfer {
        debit,
        credit,
        amount,
        code,
    })
}

fn content() -> impl Strategy<Value = Content> {
    let effective_time = option::weighted(0.2, (any::<i64>(), 0..1_000_000_000_u32));
    // Most transactions are short, because long transactions are rarely committed.
    let transfers = prop_oneof![3 => vec(transfer(), 1..=2), 1 => vec(transfer(), 3..=6)];
    (0..TRANSACTIONS, effective_time, metadata(), transfers).prop_map(|(id, time, metadata, transfers)| {
        Content {
            id: format!("t{id}"),
            effective_time: time.map(|(seconds, nanos)| EffectiveTime { seconds, nanos }),
            metadata,
            transfers,
        }
    })
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<Index>;
    prop_oneof![
        Just(Change::EffectiveTime),
        Just(Change::Metadata),
        Just(Change::OneTransferMore),
        Just(Change::OneTransferLess),
        (place(), place()).prop_map(|(place, account)| Change::Debit(place, account)),
        (place(), place()).prop_map(|(place, account)| Change::Credit(place, account)),
        place().prop_map(Change::Amount),
        place().prop_map(Change::Code),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let known = select(&ACCOUNTS[..ACCOUNTS.len() - 1]).prop_map(str::to_owned);
    prop_oneof![
        2 => vec(new_account(known), 1..=3).prop_map(Step::Create),
        16 => content().prop_map(Step::Send),
        8 => any::<Index>().prop_map(Step::SendAgain),
        4 => (any::<Index>(), change()).prop_map(|(place, change)| Step::SendChanged(place, change)),
        2 => (0..1000_u64).prop_map(Step::NextBlock),
        6 => (1..=3_usize).prop_map(Step::Copy),
    ]
}

/// Generates a sequence that creates some accounts first, and then makes random requests. Some sequences create the
/// first two accounts twice.
pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let first =
        std::array::from_fn::<_, CREATED_FIRST, _>(|place| new_account(Just(ACCOUNTS[place].to_owned())));
    (first, any::<bool>(), vec(step(), 1..STEPS_MAX)).prop_map(|(first, twice, rest)| {
        let mut steps = vec![Step::Create(first.to_vec())];
        if twice {
            steps.push(Step::Create(first[..2].to_vec()));
        }
        steps.extend(rest);
        steps
    })
}
