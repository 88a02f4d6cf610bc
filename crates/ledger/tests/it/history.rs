//! The histories of accounts, compared with a naive pass over all records.

use std::collections::BTreeMap;

use tally_ledger::{
    effects::legs,
    history::{Row, Step},
    record::Record,
    *,
};

use super::{
    content::{Content, transfer},
    memory_log::MemoryLog,
    world::World,
};

/// What one account has at a record: the place, the balances after it, and its rows.
type Moment = (u64, Balances, Vec<Row>);

/// The moments of each account, from a pass over all records in their order.
fn moments(log: &MemoryLog) -> BTreeMap<AccountIndex, Vec<Moment>> {
    let mut moments = BTreeMap::<AccountIndex, Vec<Moment>>::new();
    for (place, framed) in log.records() {
        let mut decoded = Legs::new();
        let phase = match &framed.record {
            Record::AccountCreated { index, .. } => {
                moments.insert(*index, vec![(place, Balances::default(), Vec::new())]);
                continue;
            }
            Record::AccountUpdated { index, .. } => {
                let of_account = moments.get_mut(index).unwrap();
                let balances = of_account.last().unwrap().1;
                of_account.push((place, balances, Vec::new()));
                continue;
            }
            Record::Rejected { .. } => continue,
            Record::Committed { transaction, effects } => {
                legs(transaction, *effects, &mut decoded).unwrap();
                Some(transaction.phase())
            }
            Record::HoldExpired { legs, .. } => {
                decoded.clone_from(legs);
                None
            }
        };
        for (number, leg) in decoded.iter().enumerate() {
            let change = phase.map_or_else(
                || Change::of_expiry(leg),
                |phase| Change::of_transaction(phase, leg),
            );
            for (account, side, counterparty) in [
                (leg.debit, Side::Debit, leg.credit),
                (leg.credit, Side::Credit, leg.debit),
            ] {
                let of_account = moments.get_mut(&account).unwrap();
                let before = of_account.last().unwrap().1;
                let balances = change.apply(&before, side).unwrap();
                assert_eq!(change.undo(&balances, side), Some(before));
                if of_account.last().unwrap().0 != place {
                    of_account.push((place, before, Vec::new()));
                }
                let moment = of_account.last_mut().unwrap();
                moment.1 = balances;
                let Change {
                    posted,
                    reserved,
                    unreserved,
                    released,
                } = change;
                // What changes nothing is no row.
                if [posted, reserved, unreserved, released] != [Amount::ZERO; 4] {
                    moment.2.push(Row {
                        leg: number,
                        side,
                        counterparty,
                        change,
                        balances,
                    });
                }
            }
        }
    }
    moments
}

/// Searches for the newest record before `bound`. Returns the balances after it, and the number of records that were read.
fn search(history: &History, log: &MemoryLog, bound: u64) -> (Option<Balances>, usize) {
    let (mut step, mut read) = (history.search(bound), 0);
    loop {
        if step.place < bound {
            return (step.balances, read);
        }
        let entry = entry(history, log, step);
        read += 1;
        match entry.towards(bound) {
            Some(next) => step = next,
            None => return (None, read),
        }
    }
}

fn entry(history: &History, log: &MemoryLog, step: Step) -> tally_ledger::history::Entry {
    let place = usize::try_from(step.place).unwrap();
    history.entry(step, &log.framed(place)).unwrap()
}

/// Checks that the chain of each account has all its records, with the balances after each, and that searches find them.
pub(super) fn check_histories(ledger: &Ledger, log: &MemoryLog) {
    for (account, expected) in moments(log) {
        let history = ledger.history(account).unwrap();
        let mut step = Some(history.newest);
        let mut found = Vec::new();
        while let Some(at) = step {
            let entry = entry(&history, log, at);
            found.push((entry.place, entry.balances, entry.rows.to_vec()));
            step = entry.previous();
        }
        found.reverse();
        assert_eq!(found, expected, "{account:?}");
        for (place, _, _) in &expected {
            for bound in [*place, *place + 1] {
                check_search(&history, log, &expected, bound);
            }
        }
    }
}

/// Checks one search, and returns how many records it has read.
fn check_search(history: &History, log: &MemoryLog, expected: &[Moment], bound: u64) -> usize {
    let before = expected.partition_point(|(place, _, _)| *place < bound);
    let balances = before.checked_sub(1).map(|last| expected[last].1);
    let (found, read) = search(history, log, bound);
    assert_eq!(found, balances, "before {bound}");
    read
}

#[test]
fn a_search_in_a_long_history_reads_few_records() {
    let mut world = World::new();
    let open = |id: &str| super::broken_logs::open(id);
    world.create(vec![open("hot"), open("b"), open("c")]);
    let mut most = Vec::new();
    let mut entries = 0_u32;
    for target in [100, 1_000, 10_000, 60_000] {
        while entries < target {
            let to = ["b", "c"][entries as usize % 2];
            world.process(&Content::posted(
                &format!("t{entries}"),
                &[transfer("hot", to, 1)],
            ));
            entries += 1;
        }
        let hot = world.ledger.accounts().find("hot").unwrap();
        let (history, moments) = (world.ledger.history(hot).unwrap(), moments(&world.log));
        let expected = &moments[&hot];
        assert_eq!(expected.len(), entries as usize + 1);
        let step = expected.len() / 97;
        let reads = (0..97).map(|number| {
            let (place, _, _) = expected[number * step];
            check_search(&history, &world.log, expected, place)
        });
        most.push(reads.max().unwrap());
    }
    // A search reads at most 32 records near its end, and at most 16 waypoints of each height.
    assert!(most[3] <= 32 + 16 * 4, "{most:?}");
}
