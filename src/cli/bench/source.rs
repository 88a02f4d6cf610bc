//! Transactions, made from a seed: between which accounts, and under which ids.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{BenchArgs, zipf::Zipf};
use crate::proto::{ProcessTransactionRequest, Transfer, transfer::Amount};

/// Makes transactions. Clones share the count, so that no id is sent twice.
#[derive(Debug, Clone)]
pub(super) struct Source {
    accounts: u64,
    choice: Choice,
    random_ids: bool,
    seed: u64,
    /// The number of the next transaction.
    count: Arc<AtomicU64>,
    /// No transaction has this number or a higher one.
    end: Arc<AtomicU64>,
}

/// How accounts are drawn.
#[derive(Debug, Clone, Copy)]
enum Choice {
    /// Every account with the same chances.
    Uniform,
    /// Every transfer debits the first account.
    Hot,
    /// A few accounts much more often than the others.
    Zipf(Zipf),
}

/// Prime, and larger than any number of accounts: multiplied by it, popular accounts are spread over all of them.
const SPREAD: u64 = (1 << 31) - 1;

// ===== impl Source =====

impl Source {
    pub(super) fn new(args: &BenchArgs) -> Self {
        let accounts = u64::from(args.accounts);
        let choice = match args.zipf {
            Some(theta) => Choice::Zipf(Zipf::new(accounts, theta)),
            None if args.hot => Choice::Hot,
            None => Choice::Uniform,
        };
        Source {
            accounts,
            choice,
            random_ids: args.random_ids,
            seed: args.seed,
            count: Arc::new(AtomicU64::new(0)),
            end: Arc::new(AtomicU64::new(u64::MAX)),
        }
    }

    pub(super) const fn accounts(&self) -> u64 {
        self.accounts
    }

    /// Lets `transactions` more be taken, and no others.
    pub(super) fn allow(&self, transactions: u64) {
        let end = self.count.load(Ordering::Relaxed).saturating_add(transactions);
        self.end.store(end, Ordering::Relaxed);
    }

    /// The numbers of the next `want` transactions; fewer, or none, at the end.
    pub(super) fn take(&self, want: u32) -> Range<u64> {
        let end = self.end.load(Ordering::Relaxed);
        let after = |first: u64| first.saturating_add(want.into()).min(end).max(first);
        let taken = self
            .count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |first| Some(after(first)));
        let (Ok(first) | Err(first)) = taken;
        first..after(first)
    }

    /// The transaction of that number: the same for the same seed.
    pub(super) fn make(&self, number: u64) -> ProcessTransactionRequest {
        let random = mix(self.seed ^ mix(number));
        let (debit, credit) = self.accounts_of(random);
        ProcessTransactionRequest {
            transaction_id: self.id(number, random),
            transfers: vec![Transfer {
                debit_account_id: account_id(debit),
                credit_account_id: account_id(credit),
                amount: Some(Amount::MinorUnits(i64::try_from(1 + random % 1000).unwrap_or(1))),
                code: 1,
            }],
            ..ProcessTransactionRequest::default()
        }
    }

    /// Two different accounts.
    fn accounts_of(&self, random: u64) -> (u64, u64) {
        let debit = match self.choice {
            Choice::Uniform => random % self.accounts,
            Choice::Hot => 0,
            Choice::Zipf(zipf) => {
                let place = |rank: u64| (rank - 1).wrapping_mul(SPREAD) % self.accounts;
                let (debit, credit) = (place(zipf.draw(random)), place(zipf.draw(mix(!random))));
                if debit != credit {
                    return (debit, credit);
                }
                debit
            }
        };
        // Another one than the debit account, with equal chances.
        (
            debit,
            (debit + 1 + (random >> 32) % (self.accounts - 1)) % self.accounts,
        )
    }

    fn id(&self, number: u64, random: u64) -> String {
        if !self.random_ids {
            return format!("bench-{}-{number}", self.seed);
        }
        let (high, low) = (mix(random), mix(!random));
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xfff,
            // The variant of RFC 9562 in the two highest bits.
            low >> 48 & 0x3fff | 0x8000,
            low & 0xffff_ffff_ffff
        )
    }
}

/// splitmix64's finaliser: a bijection, so that different numbers give different ids.
pub(super) const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

pub(super) fn account_id(number: u64) -> String {
    format!("acct-{number:08}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn source(choice: Choice, random_ids: bool) -> Source {
        Source {
            accounts: 10,
            choice,
            random_ids,
            seed: 7,
            count: Arc::default(),
            end: Arc::new(AtomicU64::new(u64::MAX)),
        }
    }

    #[test]
    fn accounts_are_two_and_ids_are_new() {
        for choice in [
            Choice::Uniform,
            Choice::Hot,
            Choice::Zipf(Zipf::new(10, 0.99)),
            Choice::Zipf(Zipf::new(10, 8.0)),
        ] {
            for random_ids in [false, true] {
                let source = source(choice, random_ids);
                let mut ids = HashSet::new();
                for number in source.take(10_000) {
                    let transaction = source.make(number);
                    let transfer = &transaction.transfers[0];
                    assert_ne!(transfer.debit_account_id, transfer.credit_account_id);
                    for id in [&transfer.debit_account_id, &transfer.credit_account_id] {
                        assert!((0..10).any(|number| account_id(number) == *id), "{id}");
                    }
                    if matches!(choice, Choice::Hot) {
                        assert_eq!(transfer.debit_account_id, account_id(0));
                    }
                    assert_eq!(source.make(number), transaction);
                    assert!(ids.insert(transaction.transaction_id));
                }
            }
        }
    }

    #[test]
    fn no_more_are_taken_than_allowed() {
        let source = source(Choice::Uniform, false);
        assert_eq!(source.take(3), 0..3);
        source.allow(5);
        assert_eq!(source.take(3), 3..6);
        assert_eq!(source.take(3), 6..8);
        assert!(source.take(3).is_empty());
        source.allow(1);
        assert_eq!(source.take(3), 8..9);
    }
}
