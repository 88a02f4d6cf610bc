//! Compares the answers that the clients of the crash harness got with the state of the service, while no client sends.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};
use tally::client::Client;

use super::{
    Random,
    book::{Content, Entry, Known, Place, account_id},
    load::{Shared, place_of},
};
use crate::{
    real_data::{all_balances, committed},
    support::server::TestServer,
};

/// Number of reads in flight.
const READS_IN_FLIGHT: usize = 64;
/// Number of transactions that an audit reads although an earlier audit has read them.
const SAMPLE: usize = 200;
/// Number of transactions in a call that repeats them.
const BATCH: usize = 2000;
/// Number of findings that the report of a failure shows.
const SHOWN_MAX: usize = 10;

/// The auditor, which reads the transactions that were sent since the last audit.
#[derive(Debug, Default)]
pub(super) struct Auditor {
    /// Number of acknowledgements that were audited.
    acknowledged: usize,
    findings: Findings,
}

/// The mistakes that an audit has found.
#[derive(Debug, Default)]
struct Findings {
    lost: u64,
    doubled: u64,
    /// Transactions that exist although every answer said that they were not executed.
    contradicted: u64,
    examples: Vec<String>,
}

/// What an audit covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The transactions that were sent since the last audit, and a sample of the others.
    New,
    /// Everything that was ever sent.
    All,
}

// ===== impl Findings =====

impl Findings {
    fn add(&mut self, count: fn(&mut Self) -> &mut u64, example: String) {
        *count(self) += 1;
        if self.examples.len() < SHOWN_MAX {
            self.examples.push(example);
        }
    }
}

// ===== impl Auditor =====

impl Auditor {
    /// Reads the state of the service, and checks it. Afterwards, the book also has the places of committed transactions whose outcome
    /// was unknown before.
    ///
    /// # Panics
    /// If anything is wrong.
    pub(super) async fn audit(
        &mut self,
        server: &TestServer,
        shared: &Shared,
        scope: Scope,
        random: &mut Random,
    ) {
        let client = server.client().await;
        self.read_doubtful(&client, shared, scope).await;
        match scope {
            Scope::New => self.read_acknowledged(&client, shared, random).await,
            Scope::All => self.repeat_all(&client, shared).await,
        }
        self.check_order(&client, shared).await;
        self.check_balances(&client, shared).await;
        let findings = &self.findings;
        let count = findings.lost + findings.doubled + findings.contradicted;
        assert!(
            count == 0 && findings.examples.is_empty(),
            "{findings:#?}\n{}",
            server.stderr()
        );
    }

    /// Returns the counts for the report.
    pub(super) fn counts(&self) -> String {
        format!(
            "{} acknowledged, {} lost, {} doubled, {} executed although refused",
            self.acknowledged, self.findings.lost, self.findings.doubled, self.findings.contradicted
        )
    }

    /// Reads the transactions that were not acknowledged.
    async fn read_doubtful(&mut self, client: &Client, shared: &Shared, scope: Scope) {
        let doubtful: Vec<Entry> = shared
            .book()
            .entries()
            .filter(|entry| !matches!(entry.known, Known::Committed(_)))
            .filter(|entry| scope == Scope::All || !entry.audited)
            .cloned()
            .collect();
        for (entry, place) in read(client, doubtful).await {
            let id = &entry.id;
            match place {
                None => shared.book().set_audited(id),
                Some(_) if entry.known == Known::NotExecuted => {
                    let example = format!("{id} exists, but every answer was executed=false");
                    self.findings.add(|findings| &mut findings.contradicted, example);
                }
                Some(place) => shared.book().settle(id, place),
            }
        }
    }

    /// Reads the transactions that were acknowledged since the last audit, and a sample of the others.
    async fn read_acknowledged(&mut self, client: &Client, shared: &Shared, random: &mut Random) {
        let mut entries = shared.book().acknowledged_after(self.acknowledged);
        for _ in 0..SAMPLE {
            entries.extend(shared.book().any_acknowledged(random));
        }
        for (entry, place) in read(client, entries).await {
            if place.map(Known::Committed).as_ref() != Some(&entry.known) {
                self.lost(&entry);
            }
        }
        self.acknowledged = shared.book().acknowledgements();
    }

    /// Sends every committed transaction again. The service must answer with the recorded outcome.
    async fn repeat_all(&mut self, client: &Client, shared: &Shared) {
        let is_committed = |entry: &&Entry| matches!(entry.known, Known::Committed(_));
        let entries: Vec<Entry> = shared.book().entries().filter(is_committed).cloned().collect();
        for entries in entries.chunks(BATCH) {
            let again = entries
                .iter()
                .map(|entry| entry.content.request(&entry.id))
                .collect();
            let results = client.process_transactions(again).await.unwrap();
            for (entry, result) in entries.iter().zip(&results) {
                let answer = committed(result);
                let place = Place::new(answer.sequence, answer.commit_time);
                if !answer.replayed || Known::Committed(place) != entry.known {
                    self.lost(entry);
                }
            }
        }
        self.acknowledged = shared.book().acknowledgements();
    }

    fn lost(&mut self, entry: &Entry) {
        let example = format!("{} is lost: {:?}", entry.id, entry.known);
        self.findings.add(|findings| &mut findings.lost, example);
    }

    /// Checks that the sequences have no gaps and occur once, and that the times increase with them.
    async fn check_order(&mut self, client: &Client, shared: &Shared) {
        let ledger = client.batch_stats().await.unwrap().ledger.unwrap();
        let mut order = BTreeMap::new();
        for entry in shared.book().entries() {
            if let Known::Committed(place) = &entry.known {
                let time = (place.time.seconds, place.time.nanos);
                let id = entry.id.clone();
                if let Some((_, other)) = order.insert(place.sequence, (time, id.clone())) {
                    let example = format!("{id} and {other} both have sequence {}", place.sequence);
                    self.findings.add(|findings| &mut findings.doubled, example);
                }
            }
        }
        assert!(
            order.keys().copied().eq(1..=ledger.last_sequence),
            "{} transactions are known, but the last sequence is {}",
            order.len(),
            ledger.last_sequence
        );
        let times: Vec<_> = order.values().map(|(time, _)| *time).collect();
        assert!(times.is_sorted_by(|a, b| a < b), "commit times do not increase");
    }

    /// Checks that the balance of each account is the sum of its committed transfers.
    async fn check_balances(&self, client: &Client, shared: &Shared) {
        let mut expected = all_balances(client).await;
        let found = expected.clone();
        expected.values_mut().for_each(|balance| *balance = 0);
        for entry in shared.book().entries() {
            if matches!(entry.known, Known::Committed(_)) {
                let Content {
                    debit, credit, units, ..
                } = entry.content;
                for (account, change) in [(debit, -units), (credit, units)] {
                    *expected.get_mut(&account_id(account)).unwrap() += i128::from(change);
                }
            }
        }
        assert_eq!(found, expected, "the balances are not the sums of the transfers");
    }
}

/// Reads transactions. Returns each with its place, or with `None` if it does not exist.
async fn read(client: &Client, entries: Vec<Entry>) -> Vec<(Entry, Option<Place>)> {
    stream::iter(entries)
        .map(|entry| async move {
            let id = &entry.id;
            let found = client.get_transaction(id).await.unwrap();
            let place = found.map(|found| {
                let sent = entry.content.request(id);
                assert_eq!(
                    (&found.transfers, &found.metadata),
                    (&sent.transfers, &sent.metadata),
                    "{id}"
                );
                place_of(&found).unwrap_or_else(|| panic!("{found:?}"))
            });
            (entry, place)
        })
        .buffer_unordered(READS_IN_FLIGHT)
        .collect()
        .await
}
