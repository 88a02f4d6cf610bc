//! Transactions, made from a seed: between which accounts, and under which ids.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{BenchArgs, zipf::Zipf};

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

/// What a transaction moves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Payment {
    pub(super) debit: AccountNumber,
    pub(super) credit: AccountNumber,
    pub(super) minor_units: u64,
    pub(super) code: u64,
}

/// One of the accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AccountNumber(pub(super) u64);

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

    /// The transfer of the transaction with that number: the same for the same seed.
    pub(super) fn payment(&self, number: u64) -> Payment {
        let random = self.random(number);
        let (debit, credit) = self.accounts_of(random);
        Payment {
            debit: AccountNumber(debit),
            credit: AccountNumber(credit),
            minor_units: 1 + random % 1000,
            code: 1,
        }
    }

    const fn random(&self, number: u64) -> u64 {
        mix(self.seed ^ mix(number))
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

    /// Writes the id of the transaction with that number.
    pub(super) fn put_id(&self, out: &mut Vec<u8>, number: u64) {
        if !self.random_ids {
            out.extend_from_slice(b"bench-");
            put_decimal(out, self.seed, 1);
            out.push(b'-');
            put_decimal(out, number, 1);
            return;
        }
        let random = self.random(number);
        let (high, low) = (mix(random), mix(!random));
        put_hex(out, high >> 32, 8);
        out.push(b'-');
        put_hex(out, high >> 16, 4);
        out.extend_from_slice(b"-4");
        put_hex(out, high, 3);
        out.push(b'-');
        // The variant of RFC 9562 in the two highest bits.
        put_hex(out, low >> 48 & 0x3fff | 0x8000, 4);
        out.push(b'-');
        put_hex(out, low, 12);
    }
}

// ===== impl AccountNumber =====

impl AccountNumber {
    /// Writes the account's id.
    pub(super) fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"acct-");
        put_decimal(out, self.0, 8);
    }

    /// The account's id.
    pub(super) fn id(self) -> String {
        let mut id = Vec::new();
        self.put(&mut id);
        String::from_utf8(id).unwrap_or_default()
    }
}

/// At least so many digits.
fn put_decimal(out: &mut Vec<u8>, value: u64, digits: usize) {
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(value);
    out.extend(std::iter::repeat_n(b'0', digits.saturating_sub(text.len())));
    out.extend_from_slice(text.as_bytes());
}

/// The last so many digits.
fn put_hex(out: &mut Vec<u8>, value: u64, digits: u32) {
    let nibble = |place| char::from_digit((value >> (4 * place) & 0xf) as u32, 16);
    out.extend((0..digits).rev().filter_map(nibble).map(|digit| digit as u8));
}

/// splitmix64's finaliser: a bijection, so that different numbers give different ids.
pub(super) const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::proto::{ProcessTransactionRequest, Transfer, transfer::Amount};

    impl Source {
        /// The transaction of that number, as the generated types have it.
        pub(in crate::cli::bench) fn make(&self, number: u64) -> ProcessTransactionRequest {
            let payment = self.payment(number);
            let random = self.random(number);
            let (high, low) = (mix(random), mix(!random));
            let transaction_id = if self.random_ids {
                format!(
                    "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
                    high >> 32,
                    high >> 16 & 0xffff,
                    high & 0xfff,
                    low >> 48 & 0x3fff | 0x8000,
                    low & 0xffff_ffff_ffff
                )
            } else {
                format!("bench-{}-{number}", self.seed)
            };
            ProcessTransactionRequest {
                transaction_id,
                transfers: vec![Transfer {
                    debit_account_id: payment.debit.id(),
                    credit_account_id: payment.credit.id(),
                    amount: Some(Amount::MinorUnits(payment.minor_units.try_into().unwrap())),
                    code: payment.code.try_into().unwrap(),
                }],
                ..ProcessTransactionRequest::default()
            }
        }
    }

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

    /// One of each kind.
    pub(in crate::cli::bench) fn every_source() -> Vec<Source> {
        let choices = [
            Choice::Uniform,
            Choice::Hot,
            Choice::Zipf(Zipf::new(10, 0.99)),
            Choice::Zipf(Zipf::new(10, 8.0)),
        ];
        let sources = |random_ids| choices.map(|choice| source(choice, random_ids));
        [sources(false), sources(true)].concat()
    }

    #[test]
    fn accounts_are_two_and_ids_are_new() {
        assert_eq!(AccountNumber(42).id(), "acct-00000042");
        assert_eq!(AccountNumber(1_234_567_890).id(), "acct-1234567890");
        for source in every_source() {
            let mut ids = HashSet::new();
            for number in source.take(10_000) {
                let transaction = source.make(number);
                let transfer = &transaction.transfers[0];
                assert_ne!(transfer.debit_account_id, transfer.credit_account_id);
                for id in [&transfer.debit_account_id, &transfer.credit_account_id] {
                    assert!((0..10).any(|number| AccountNumber(number).id() == *id), "{id}");
                }
                if matches!(source.choice, Choice::Hot) {
                    assert_eq!(transfer.debit_account_id, AccountNumber(0).id());
                }
                assert_eq!(source.make(number), transaction);
                assert!(ids.insert(transaction.transaction_id));
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
