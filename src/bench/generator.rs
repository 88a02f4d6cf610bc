//! Generates transactions from a seed: their accounts, amounts and ids.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{random::mix, settings::BenchSettings, zipf::Zipf};

/// Generates transactions by their numbers. Clones share the counter, so that no id is sent twice.
#[derive(Debug, Clone)]
pub(super) struct Generator {
    accounts: u64,
    distribution: Distribution,
    random_ids: bool,
    seed: u64,
    /// Half of the number of transactions of a call, if the first half of each call makes holds and the second half posts them. Otherwise
    /// `None`.
    holds: Option<u64>,
    /// The number of the next transaction.
    next: Arc<AtomicU64>,
    /// The numbers of all transactions are below this number.
    end: Arc<AtomicU64>,
}

/// The transfer of a transaction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Payment {
    pub(super) debit: AccountNumber,
    pub(super) credit: AccountNumber,
    pub(super) minor_units: u64,
    pub(super) code: u64,
}

/// What a transaction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The transaction posts its transfer.
    Post,
    /// The transaction makes a hold.
    Hold,
    /// The transaction posts the hold that the transaction with this number has made.
    PostHold(u64),
}

/// An account by its number, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AccountNumber(pub(super) u64);

/// How accounts are chosen.
#[derive(Debug, Clone, Copy)]
enum Distribution {
    /// Every account is equally likely.
    Uniform,
    /// Every transfer debits the first account.
    Hot,
    /// A few accounts are much more likely than the others.
    Zipf(Zipf),
}

/// Ranks are multiplied by this number, modulo the number of accounts, so that popular accounts are not neighbours. It is prime
/// and larger than any number of accounts, so that different ranks stay different.
const SPREAD: u64 = (1 << 31) - 1;

// ===== impl Generator =====

impl Generator {
    pub(super) fn new(settings: &BenchSettings) -> Self {
        let accounts = u64::from(settings.accounts);
        let distribution = match settings.zipf {
            Some(theta) => Distribution::Zipf(Zipf::new(accounts, theta)),
            None if settings.hot => Distribution::Hot,
            None => Distribution::Uniform,
        };
        Generator {
            accounts,
            distribution,
            random_ids: settings.random_ids,
            seed: settings.seed,
            holds: settings
                .holds
                .then(|| u64::from(settings.transactions_per_call() / 2)),
            next: Arc::new(AtomicU64::new(0)),
            end: Arc::new(AtomicU64::new(u64::MAX)),
        }
    }

    pub(super) const fn accounts(&self) -> u64 {
        self.accounts
    }

    /// Lets callers take the numbers of `transactions` more transactions. After these, [`Generator::take`] returns an empty range.
    pub(super) fn allow(&self, transactions: u64) {
        let end = self.next.load(Ordering::Relaxed).saturating_add(transactions);
        self.end.store(end, Ordering::Relaxed);
    }

    /// Takes the numbers of the next `want` transactions: fewer or none if the allowance is used up.
    pub(super) fn take(&self, want: u32) -> Range<u64> {
        let end = self.end.load(Ordering::Relaxed);
        let after = |first: u64| first.saturating_add(want.into()).min(end).max(first);
        let taken = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |first| Some(after(first)));
        let (Ok(first) | Err(first)) = taken;
        first..after(first)
    }

    /// Returns the transfer of transaction `number`: always the same for the same seed.
    pub(super) fn payment(&self, number: u64) -> Payment {
        let random = self.random(number);
        let (debit, credit) = self.choose_accounts(random);
        Payment {
            debit: AccountNumber(debit),
            credit: AccountNumber(credit),
            minor_units: 1 + random % 1000,
            code: 1,
        }
    }

    /// Returns what transaction `number` does. The numbers of a call begin at a multiple of the number of its transactions.
    pub(super) const fn step(&self, number: u64) -> Step {
        match self.holds {
            None => Step::Post,
            Some(half) if number % (2 * half) < half => Step::Hold,
            Some(half) => Step::PostHold(number - half),
        }
    }

    const fn random(&self, number: u64) -> u64 {
        mix(self.seed ^ mix(number))
    }

    /// Chooses two different accounts.
    fn choose_accounts(&self, random: u64) -> (u64, u64) {
        let debit = match self.distribution {
            Distribution::Uniform => random % self.accounts,
            Distribution::Hot => 0,
            Distribution::Zipf(zipf) => {
                let account = |rank: u64| (rank - 1).wrapping_mul(SPREAD) % self.accounts;
                let (debit, credit) = (account(zipf.draw(random)), account(zipf.draw(mix(!random))));
                if debit != credit {
                    return (debit, credit);
                }
                debit
            }
        };
        // Every account except the debit account is equally likely.
        (
            debit,
            (debit + 1 + (random >> 32) % (self.accounts - 1)) % self.accounts,
        )
    }

    /// Writes the id of transaction `number`.
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
        // RFC 9562: the two highest bits are the variant.
        put_hex(out, low >> 48 & 0x3fff | 0x8000, 4);
        out.push(b'-');
        put_hex(out, low, 12);
    }
}

// ===== impl AccountNumber =====

impl AccountNumber {
    /// The account that is used most often, or one of them.
    pub(super) const MOST_USED: AccountNumber = AccountNumber(0);

    /// Writes the id of the account.
    pub(super) fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"acct-");
        put_decimal(out, self.0, 8);
    }

    /// Returns the id of the account.
    pub(super) fn id(self) -> String {
        let mut id = Vec::new();
        self.put(&mut id);
        String::from_utf8(id).unwrap_or_default()
    }
}

/// Writes a decimal number with at least `digits` digits.
fn put_decimal(out: &mut Vec<u8>, value: u64, digits: usize) {
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(value);
    out.extend(std::iter::repeat_n(b'0', digits.saturating_sub(text.len())));
    out.extend_from_slice(text.as_bytes());
}

/// Writes the last `digits` digits of a hexadecimal number.
fn put_hex(out: &mut Vec<u8>, value: u64, digits: u32) {
    let digit_at = |place| char::from_digit((value >> (4 * place) & 0xf) as u32, 16);
    out.extend((0..digits).rev().filter_map(digit_at).map(|digit| digit as u8));
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::proto::{ProcessTransactionRequest, TransactionPhase, Transfer, transfer::Amount};

    impl Generator {
        /// Returns transaction `number` as a generated type.
        pub(in crate::bench) fn transaction(&self, number: u64) -> ProcessTransactionRequest {
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
            let (phase, held) = match self.step(number) {
                Step::Post => (TransactionPhase::Unspecified, None),
                Step::Hold => (TransactionPhase::Pending, None),
                Step::PostHold(held) => (TransactionPhase::PostPending, Some(held)),
            };
            if let Some(held) = held {
                return ProcessTransactionRequest {
                    transaction_id,
                    phase: phase.into(),
                    pending_transaction_id: self.transaction(held).transaction_id,
                    ..ProcessTransactionRequest::default()
                };
            }
            ProcessTransactionRequest {
                transaction_id,
                phase: phase.into(),
                transfers: vec![Transfer {
                    debit_account_id: payment.debit.id(),
                    credit_account_id: payment.credit.id(),
                    amount: Some(Amount::MinorUnits(payment.minor_units.try_into().unwrap())),
                    code: payment.code.try_into().unwrap(),
                    ..Transfer::default()
                }],
                ..ProcessTransactionRequest::default()
            }
        }
    }

    fn generator(distribution: Distribution, random_ids: bool) -> Generator {
        Generator {
            accounts: 10,
            distribution,
            random_ids,
            seed: 7,
            holds: None,
            next: Arc::default(),
            end: Arc::new(AtomicU64::new(u64::MAX)),
        }
    }

    /// Returns one generator for each distribution and kind of id.
    pub(in crate::bench) fn all_generators() -> Vec<Generator> {
        let distributions = [
            Distribution::Uniform,
            Distribution::Hot,
            Distribution::Zipf(Zipf::new(10, 0.99)),
            Distribution::Zipf(Zipf::new(10, 8.0)),
        ];
        let generators = |random_ids| distributions.map(|distribution| generator(distribution, random_ids));
        let holds = generators(true).map(|generator| Generator {
            holds: Some(2),
            ..generator
        });
        [generators(false), generators(true), holds].concat()
    }

    #[test]
    fn a_transfer_has_two_accounts_and_ids_are_unique() {
        assert_eq!(AccountNumber(42).id(), "acct-00000042");
        assert_eq!(AccountNumber(1_234_567_890).id(), "acct-1234567890");
        for generator in all_generators() {
            let mut ids = HashSet::new();
            for number in generator.take(10_000) {
                let transaction = generator.transaction(number);
                assert!(ids.insert(transaction.transaction_id.clone()));
                let Some(transfer) = transaction.transfers.first() else {
                    assert!(ids.contains(&transaction.pending_transaction_id));
                    continue;
                };
                assert_ne!(transfer.debit_account_id, transfer.credit_account_id);
                for id in [&transfer.debit_account_id, &transfer.credit_account_id] {
                    assert!((0..10).any(|number| AccountNumber(number).id() == *id), "{id}");
                }
                if matches!(generator.distribution, Distribution::Hot) {
                    assert_eq!(transfer.debit_account_id, AccountNumber(0).id());
                }
                assert_eq!(generator.transaction(number), transaction);
            }
        }
    }

    #[test]
    fn callers_take_no_more_than_allowed() {
        let generator = generator(Distribution::Uniform, false);
        assert_eq!(generator.take(3), 0..3);
        generator.allow(5);
        assert_eq!(generator.take(3), 3..6);
        assert_eq!(generator.take(3), 6..8);
        assert!(generator.take(3).is_empty());
        generator.allow(1);
        assert_eq!(generator.take(3), 8..9);
    }
}
