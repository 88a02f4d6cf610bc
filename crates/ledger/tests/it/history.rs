//! The histories of accounts, compared with a naive pass over all records.

use std::collections::{BTreeMap, HashMap};

use tally_ledger::{
    effects::legs,
    history::{LastUpdate, Row, Step},
    record::Record,
    *,
};

use super::{
    content::{Content, transfer},
    memory_log::MemoryLog,
    world::World,
};

/// What one record means for an account: the place of the record, the balances after it, and its rows.
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
                // A leg that changes nothing has no row.
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

/// Walks back from the record at `place` for these accounts. Returns the balances after it, and the number of records that were read.
fn walk_jointly(log: &MemoryLog, place: u64, accounts: &[AccountIndex]) -> (Vec<Balances>, usize) {
    let mut walk = JointWalk::new(place, accounts.iter().copied());
    let (mut limit, mut read) = (u64::MAX, 0);
    while let Some(next) = walk.next_place() {
        assert!(next < limit, "the record at {next} is read twice");
        limit = next;
        walk.pass(&log.framed(usize::try_from(next).unwrap())).unwrap();
        read += 1;
    }
    let balances = accounts.iter().map(|account| walk.balances(*account).unwrap());
    (balances.collect(), read)
}

/// Checks joint walks for all accounts of each record.
fn check_joint_walks(log: &MemoryLog, moments: &BTreeMap<AccountIndex, Vec<Moment>>) {
    let mut records = BTreeMap::<u64, (Vec<AccountIndex>, Vec<Balances>)>::new();
    for (account, of_account) in moments {
        for (place, balances, _) in of_account {
            let (accounts, expected) = records.entry(*place).or_default();
            accounts.push(*account);
            expected.push(*balances);
        }
    }
    for (place, (accounts, expected)) in records {
        let (found, _) = walk_jointly(log, place, &accounts);
        assert_eq!(found, expected, "after the record at {place}");
    }
}

/// Checks that the chain of each account has all its records, with the balances after each, and that searches find them.
pub(super) fn check_histories(ledger: &Ledger, log: &MemoryLog) {
    let all = moments(log);
    check_joint_walks(log, &all);
    for (account, expected) in all {
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

/// Returns the greatest number of links of an account from one waypoint to the next, and to the end.
fn greatest_distance(log: &MemoryLog) -> usize {
    let (mut since, mut greatest) = (HashMap::<AccountIndex, usize>::new(), 0);
    for (_, framed) in log.records() {
        let Record::Committed { transaction, effects } = &framed.record else {
            continue;
        };
        let mut decoded = Legs::new();
        legs(transaction, *effects, &mut decoded).unwrap();
        for (account, link) in linked_accounts(&decoded).iter().zip(framed.links.iter()) {
            let links = since.entry(*account).or_default();
            *links += 1;
            greatest = greatest.max(*links);
            if link.unwrap().waypoint.is_some() {
                *links = 0;
            }
        }
    }
    greatest
}

/// Each record has 512 accounts, far more than it can have waypoints. One of these accounts is the last account of every
/// record.
#[test]
fn every_account_that_keeps_moving_gets_its_waypoints() {
    const RECORDS: usize = 700;
    for pool in [600, 2048, 4096] {
        for is_random in [false, true] {
            let mut world = World::new();
            let names: Vec<String> = (0..pool).map(|number| format!("p{number}")).collect();
            let all = names.iter().map(String::as_str).chain(["last"]);
            world
                .ledger
                .create_accounts(all.map(super::broken_logs::open).collect(), &mut world.log);
            let mut random = 1_u64;
            for record in 0..RECORDS {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let start = if is_random {
                    (random >> 33) as usize
                } else {
                    record * 511
                };
                let name = |number: usize| names[(start + number) % pool].as_str();
                let mut transfers: Vec<_> = (0..255)
                    .map(|number| transfer(name(2 * number), name(2 * number + 1), 1))
                    .collect();
                transfers.push(transfer(name(510), "last", 1));
                let outcome = world.process(&Content::posted(&format!("t{record}"), &transfers));
                assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
            }
            let greatest = greatest_distance(&world.log);
            assert!(
                greatest <= 96,
                "{greatest} links, pool of {pool}, random: {is_random}"
            );
        }
    }
}

#[test]
fn a_joint_walk_reads_the_records_that_many_accounts_share_once() {
    const ACCOUNTS: usize = 512;
    let mut world = World::new();
    let names: Vec<String> = (0..ACCOUNTS).map(|number| format!("p{number}")).collect();
    let all = names.iter().map(|name| super::broken_logs::open(name));
    world.ledger.create_accounts(all.collect(), &mut world.log);
    let transfers: Vec<_> = names
        .chunks(2)
        .map(|pair| transfer(&pair[0], &pair[1], 1))
        .collect();
    for record in 0..300 {
        world.process(&Content::posted(&format!("t{record}"), &transfers));
    }
    let indexes: Vec<_> = (0..ACCOUNTS)
        .map(|number| AccountIndex(u32::try_from(number).unwrap()))
        .collect();
    let places: Vec<_> = world
        .log
        .records()
        .skip(ACCOUNTS)
        .map(|(place, _)| place)
        .collect();
    for record in [0, 10, 150, 299] {
        let (found, read) = walk_jointly(&world.log, places[record], &indexes);
        for (number, balances) in found.iter().enumerate() {
            let side = [Side::Debit, Side::Credit][number % 2];
            let moved = Amount::new(record as u128 + 1);
            assert_eq!(
                balances.column(side, Column::Posted),
                moved,
                "account {number} after {record}"
            );
        }
        // One walk for each account would read about 30 records for each.
        let most = if record == 0 { 1 + ACCOUNTS } else { 96 + ACCOUNTS };
        assert!(read <= most, "{read} records after {record}");
        assert!(record < 100 || read <= 96, "{read} records after {record}");
    }
}

/// Searches for the last update before `bound` as a reader does. Returns its place, and the number of records that were read.
fn search_update(history: &History, log: &MemoryLog, bound: u64) -> (Option<u64>, usize) {
    let (mut step, mut read) = (history.search(bound), 0);
    loop {
        let entry = entry(history, log, step);
        read += 1;
        let next = if entry.place >= bound {
            entry.towards(bound)
        } else {
            match entry.last_update() {
                LastUpdate::At(place) => return (Some(place), read),
                LastUpdate::Never => return (None, read),
                LastUpdate::AskPrevious => entry.previous(),
            }
        };
        match next {
            Some(next) => step = next,
            None => return (None, read),
        }
    }
}

#[test]
fn the_last_update_before_a_moment_is_found_with_few_reads() {
    // From the beginning: no update for a while, then only updates, then few updates, then only updates again.
    let updates_of = |number: usize| match number {
        0..200 => 0,
        200..2000 => 1,
        2000..6000 => usize::from(number.is_multiple_of(97)),
        _ => 1,
    };
    let mut world = World::new();
    world.create(["hot", "b"].map(super::broken_logs::open).to_vec());
    for number in 0..8000 {
        for update in 0..updates_of(number) {
            let mut metadata = Metadata::new();
            metadata.insert("number".to_owned(), format!("{number}-{update}"));
            let outcome = world.ledger.update_account(
                AccountUpdate {
                    id: "hot".to_owned(),
                    expected_revision: None,
                    status: None,
                    overdraft_limit: None,
                    metadata: Some(metadata),
                    velocity_limits: None,
                },
                &mut world.log,
            );
            assert!(matches!(outcome, UpdateOutcome::Updated(_)), "{outcome:?}");
        }
        if number % 3 != 0 || updates_of(number) == 0 {
            world.process(&Content::posted(
                &format!("t{number}"),
                &[transfer("b", "hot", 1)],
            ));
        }
    }
    let hot = world.ledger.accounts().find("hot").unwrap();
    let history = world.ledger.history(hot).unwrap();
    let (mut last, mut most) = (None, 0);
    let records: Vec<_> = world
        .log
        .records()
        .map(|(place, framed)| {
            let is_update = matches!(&framed.record, Record::AccountUpdated { index, .. } if *index == hot);
            (place, is_update)
        })
        .collect();
    for (place, is_update) in records.into_iter().skip(2) {
        let (found, read) = search_update(&history, &world.log, place);
        assert_eq!(found, last, "before {place}");
        most = most.max(read);
        if is_update {
            last = Some(place);
        }
    }
    // A search reads at most 32 records near its end, at most 16 waypoints of each height, and 32 records back to a waypoint.
    assert!(most <= 2 * 32 + 16 * 3, "{most} records");
}
