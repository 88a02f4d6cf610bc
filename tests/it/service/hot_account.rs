//! Balances of the past of an account with many records, compared with a replay of the ledger in its order.
//!
//! `TALLY_TEST_HOT_RECORDS` says how many records the account gets, and `TALLY_TEST_SEED` the seed of the random numbers.

use tally::proto::{
    ListTransactionsRequest, ProcessTransactionRequest, ProcessTransactionsRequest, Transaction,
    get_account_request::AsOf,
};

use super::{
    history::{Columns, apply, as_of, columns, place},
    ledger_client::{hold, post_part, void},
};
use crate::support::in_process::{Service, patient_config, transaction, transfer};

/// Environment variable with the number of records of the hot account.
const RECORDS: &str = "TALLY_TEST_HOT_RECORDS";
/// Number of records of the hot account if [`RECORDS`] is unset.
const RECORDS_DEFAULT: u64 = 20_000;
/// Environment variable with the seed of the random numbers, to repeat a run.
const SEED: &str = "TALLY_TEST_SEED";
/// Number of moments of each kind that are compared.
const MOMENTS: usize = 1000;
/// Maximum number of transactions of a call.
const CALL_MAX: u64 = 1000;
/// The only account that is in every record.
const HOT: &str = "hot";

/// The random number generator `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
struct Random(u64);

/// The balances of the hot account after each record, in the order of the ledger.
struct Replay {
    /// By sequence, from 1: the commit time, in seconds and nanoseconds, and the balances.
    steps: Vec<((i64, i32), Columns)>,
}

// ===== impl Random =====

impl Random {
    fn new() -> Self {
        let seed = std::env::var(SEED).map_or(17, |seed| seed.parse().expect("a number"));
        println!("to repeat this run: {SEED}={seed}");
        Random(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

// ===== impl Replay =====

impl Replay {
    /// Reads all transactions in their order, and adds up their effects. This does not use the chain of an account.
    async fn of(service: &Service) -> Self {
        let mut client = service.transactions().await;
        let mut request = ListTransactionsRequest {
            page_size: 1000,
            ..ListTransactionsRequest::default()
        };
        let mut replay = Replay { steps: Vec::new() };
        loop {
            let page = client.list_transactions(request.clone()).await.unwrap();
            let page = page.into_inner();
            for transaction in &page.transactions {
                replay.add(transaction);
            }
            if page.next_page_token.is_empty() {
                return replay;
            }
            request.page_token = page.next_page_token;
        }
    }

    fn add(&mut self, transaction: &Transaction) {
        let (sequence, time) = place(transaction);
        assert_eq!(usize::try_from(sequence), Ok(self.steps.len() + 1), "no gaps");
        let mut columns = self.after(self.steps.len());
        for effect in &transaction.effects {
            for (id, is_debit) in [
                (&effect.debit_account_id, true),
                (&effect.credit_account_id, false),
            ] {
                if id == HOT {
                    apply(&mut columns, effect, is_debit);
                }
            }
        }
        self.steps.push(((time.seconds, time.nanos), columns));
    }

    /// The balances after the first `count` records.
    fn after(&self, count: usize) -> Columns {
        count.checked_sub(1).map_or([0; 4], |last| self.steps[last].1)
    }

    /// A random moment, with the number of records up to it.
    fn moment(&self, random: &mut Random, by_time: bool) -> (AsOf, usize) {
        let sequence = 1 + usize::try_from(random.below(self.steps.len() as u64)).unwrap();
        if !by_time {
            return (AsOf::AsOfSequence(sequence as i64), sequence);
        }
        // Exactly the time of a record, or one nanosecond before or after that time.
        let (seconds, nanos) = self.steps[sequence - 1].0;
        let time = i128::from(seconds) * 1_000_000_000 + i128::from(nanos) + i128::from(random.below(3)) - 1;
        let seconds = i64::try_from(time / 1_000_000_000).unwrap();
        let nanos = i32::try_from(time % 1_000_000_000).unwrap();
        let count = self.steps.partition_point(|(of, _)| *of <= (seconds, nanos));
        (AsOf::AsOfTime(prost_types::Timestamp { seconds, nanos }), count)
    }

    /// Compares random moments. Returns the largest number of records that a read has followed.
    async fn check(&self, service: &Service, random: &mut Random) -> u64 {
        let mut most = 0;
        for by_time in [false, true] {
            for _ in 0..MOMENTS {
                let (moment, count) = self.moment(random, by_time);
                let (_, before) = service.engine.history_figures();
                let account = as_of(service, HOT, moment).await.unwrap();
                most = most.max(service.engine.history_figures().1 - before);
                let found = columns(account.balances.as_ref());
                assert_eq!(found, self.after(count), "{moment:?}, after {count} records");
            }
        }
        most
    }
}

/// Fills the ledger with calls of random length, so that blocks have random length too.
async fn fill(service: &Service, random: &mut Random, records: u64) {
    service.open_accounts(&[HOT, "b", "c"]).await;
    let mut client = service.patient_transactions().await;
    let mut sent = 0;
    while sent < records {
        let count = (1 + random.below(CALL_MAX)).min(records - sent);
        let transactions = (sent..sent + count).map(|number| request(random, number));
        let request = ProcessTransactionsRequest {
            transactions: transactions.collect(),
        };
        client.process_transactions(request).await.unwrap();
        sent += count;
    }
}

/// Returns transaction `number`: each eighth transaction makes a hold, and the next two post a part of the hold and void the rest.
fn request(random: &mut Random, number: u64) -> ProcessTransactionRequest {
    let id = format!("t{number}");
    let hold_of = |back: u64| format!("t{}", number - back);
    let units = 10 + i64::try_from(random.below(1000)).unwrap();
    match number % 8 {
        0 => hold(&id, vec![transfer(HOT, "b", units)]),
        1 => ProcessTransactionRequest {
            keep_remaining: true,
            ..post_part(&id, &hold_of(1), vec![transfer(HOT, "b", 5)])
        },
        2 => void(&id, &hold_of(2)),
        3 | 4 => transaction(&id, vec![transfer("c", HOT, units), transfer(HOT, "b", 1)]),
        _ => transaction(&id, vec![transfer(HOT, "c", units)]),
    }
}

/// The maximum number of records that a read of an account with `records` records may follow: the links between two waypoints, and for each
/// height the waypoints between two waypoints of the next height.
fn records_max(records: u64) -> u64 {
    let waypoints = records / 32 + 1;
    let heights = u64::from(waypoints.ilog2() / 4 + 1);
    // A search begins with one waypoint, and ends with the links between two waypoints.
    1 + 16 * heights + 32
}

#[tokio::test(flavor = "multi_thread")]
async fn past_balances_of_a_hot_account_are_those_of_a_replay() {
    let records = std::env::var(RECORDS).map_or(RECORDS_DEFAULT, |text| text.parse().expect("a number"));
    let mut random = Random::new();
    let service = Service::start(&patient_config()).await;
    fill(&service, &mut random, records).await;
    let replay = Replay::of(&service).await;
    assert_eq!(
        replay.steps.len() as u64,
        records,
        "every record is one of the account"
    );
    let most = replay.check(&service, &mut random).await;
    println!("{records} records: {most} of them for a read at most");
    assert!(most <= records_max(records), "{most}, {}", records_max(records));
    // After the restart, the account's newest record and waypoints come from the journal.
    let service = Service::start_on(service.stop().await, &patient_config()).await;
    let again = replay.check(&service, &mut random).await;
    assert!(again <= records_max(records), "{again}, {}", records_max(records));
}
