//! Runs random histories through the ledger and the model at once, and checks all invariants.

use std::collections::{BTreeMap, BTreeSet};

use tally_ledger::{
    codec::Reader,
    effects::{self, Legs},
    record::Record,
    tag_index::tag,
    velocity::SLICES,
    *,
};

use super::{
    checkpoint::Checkpoint,
    content::{Content, Other},
    generators::{self, ACCOUNTS, CREATED_FIRST, Random},
    history::check_histories,
    memory_log::MemoryLog,
    model::{Columns, Model, ModelLeg, Now},
};

/// The largest maximum number of outstanding holds.
pub(super) const HOLDS_MAX: usize = 12;

/// A sum of amounts that can't overflow: the multiple of 2^128, and the remainder.
#[derive(Debug, Default, PartialEq)]
struct Sum(u32, u128);

/// What the model knew at the end of a block.
#[derive(Debug)]
struct Prefix {
    columns: BTreeMap<String, Columns>,
    accounts: BTreeMap<String, NewAccount>,
    /// The deadlines of the outstanding holds, in order.
    deadlines: Vec<Option<Timestamp>>,
}

/// The ledger, its log, the model, and the transactions sent so far.
pub(super) struct World {
    pub(super) ledger: Ledger,
    pub(super) log: MemoryLog,
    pub(super) model: Model,
    sent: Vec<Content>,
    checkpoint: Option<Checkpoint>,
    prefixes: Vec<Prefix>,
    is_wide: bool,
    holds_max: usize,
    pub(super) reached: BTreeSet<String>,
}

// ===== impl World: steps =====

impl World {
    pub(super) fn new() -> Self {
        World::with_holds_max(HOLDS_MAX)
    }

    fn with_holds_max(holds_max: usize) -> Self {
        let mut ledger = Ledger::new(1);
        ledger.set_holds_max(holds_max);
        World {
            ledger,
            log: MemoryLog::new(),
            model: Model::new(holds_max),
            sent: Vec::new(),
            checkpoint: None,
            prefixes: Vec::new(),
            is_wide: false,
            holds_max,
            reached: BTreeSet::new(),
        }
    }

    /// Runs a history: some accounts, then a step for each number. Checks after each step, after each block, and at the end.
    pub(super) fn run(&mut self, first: u64, steps: impl IntoIterator<Item = u64>) {
        let mut random = Random(first);
        *self = World::with_holds_max(1 + random.index(HOLDS_MAX));
        self.is_wide = random.percent(25);
        let accounts: Vec<NewAccount> = ACCOUNTS[..CREATED_FIRST]
            .iter()
            .map(|id| generators::new_account(&mut random, id))
            .collect();
        let twice = accounts[..2].to_vec();
        self.create(accounts);
        if random.percent(20) {
            self.create(twice);
        }
        for step in steps {
            self.step(&mut Random(step));
        }
        self.check_block();
        self.prefixes.push(Prefix::of(&self.model));
        self.check_prefixes();
        self.log.check_keys_and_sequences();
        check_histories(&self.ledger, &self.log);
    }

    fn step(&mut self, random: &mut Random) {
        let before = self.model.columns.clone();
        match random.below(1000) {
            0..10 => self.create(generators::new_accounts(&self.model, random)),
            10..60 => {
                self.update(generators::update(&self.model, random));
            }
            60..680 => {
                // Some ids are used twice.
                let number = if random.percent(4) {
                    random.index(self.sent.len() + 1)
                } else {
                    self.sent.len()
                };
                let content = generators::content(&self.model, random, &format!("t{number}"), self.is_wide);
                self.send(content);
            }
            680..760 if !self.sent.is_empty() => {
                let again = self.sent[random.index(self.sent.len())].clone();
                self.send(again);
            }
            760..820 if !self.sent.is_empty() => {
                let again = self.sent[random.index(self.sent.len())].clone();
                self.send(generators::change(random, again));
            }
            820..940 => self.next_block(generators::later_by(random), random.index(5)),
            940..995 => self.copy(1 + random.index(4)),
            995.. => self.restart(random),
            _ => {}
        }
        self.check_step(&before);
    }

    pub(super) fn create(&mut self, new: Vec<NewAccount>) {
        let (entries, before) = (self.log.entries, self.ledger.accounts().len());
        let names: Vec<_> = new.iter().map(|account| account.id.clone()).collect();
        let expected = self.model.create(&new);
        let outcome = self.ledger.create_accounts(new, &mut self.log);
        let created = self.ledger.accounts().len() - before;
        assert_eq!(self.log.entries - entries, created as u64);
        match (expected, outcome) {
            (Ok(()), AccountOutcome::Created(indexes)) => {
                assert_eq!(indexes.len(), names.len());
                for (index, name) in indexes.into_iter().zip(&names) {
                    assert_eq!(self.ledger.accounts().id(index), Some(name.as_str()));
                }
                let all = if created == names.len() {
                    "all new"
                } else {
                    "some known"
                };
                self.reach(&format!("accounts created, {all}"));
            }
            (Err(expected), AccountOutcome::Reused { place, .. }) => {
                assert_eq!((place, created), (expected, 0));
                self.reach("account reused");
            }
            (expected, outcome) => panic!("{outcome:?} instead of {expected:?}"),
        }
    }

    pub(super) fn update(&mut self, update: AccountUpdate) -> UpdateOutcome {
        let entries = self.log.entries;
        let revision = self.model.revision(&update.id);
        let id = update.id.clone();
        let expected = self.model.update(&update, entries + 1);
        let outcome = self.ledger.update_account(update, &mut self.log);
        let without_index = if matches!(outcome, UpdateOutcome::Updated(_)) {
            UpdateOutcome::Updated(AccountIndex(0))
        } else {
            outcome
        };
        assert_eq!(without_index, expected);
        let recorded = self.log.entries - entries;
        assert_eq!(recorded, u64::from(self.model.revision(&id) != revision));
        self.reach(&format!("update, {recorded} records: {without_index:?}"));
        outcome
    }

    pub(super) fn send(&mut self, content: Content) -> Outcome {
        let (entries, sequence) = (self.log.entries, self.model.sequence);
        let now = Now {
            next: self.log.next(),
            block_time: self.log.block_time(),
        };
        let (expected, legs) = self.model.process(&content, now);
        let outcome = self.process(&content);
        assert_eq!(outcome, expected, "{content:?}");
        let is_committed = matches!(outcome, Outcome::Committed { .. });
        if content.is_derived() && is_committed {
            let found: Vec<_> = self
                .ledger
                .last_legs()
                .iter()
                .map(|leg| self.named(leg))
                .collect();
            assert_eq!(found, legs, "{content:?}");
        } else {
            assert_eq!(self.ledger.last_legs(), []);
        }
        let new_rejection = matches!(outcome, Outcome::Rejected { rejection, replayed: false }
            if super::model::is_recorded(rejection.reason));
        assert_eq!(
            self.log.entries - entries,
            self.model.sequence - sequence + u64::from(new_rejection)
        );
        self.reach(&label(outcome, &content));
        if new_rejection && self.model.sequence > sequence {
            self.reach("a hold expired before its post or void");
        }
        self.sent.push(content);
        outcome
    }

    /// Processes a transaction in the ledger only.
    pub(super) fn process(&mut self, content: &Content) -> Outcome {
        let encoded = content.encode();
        let view = TransactionView::parse(&encoded).unwrap();
        let tags = Tags {
            id: tag(content.id.as_bytes(), self.ledger.accounts().seed()),
            named: None,
            accounts: &[],
        };
        let processed = self
            .ledger
            .process_tagged(&view, tags, None, TRANSFERS_MAX, &mut self.log);
        processed.unwrap()
    }

    /// Starts a block. At most `limit` holds expire before its first transaction.
    pub(super) fn next_block(&mut self, later_by_nanos: u64, limit: usize) {
        self.check_block();
        self.prefixes.push(Prefix::of(&self.model));
        self.log.next_block(later_by_nanos);
        let expected = self.model.expire_due(self.log.block_time(), limit);
        let expired = self.ledger.expire_due(limit, &mut self.log, |_| true).unwrap();
        assert_eq!(expired, expected);
        self.reach(if expired == 0 {
            "block"
        } else {
            "block with expiry"
        });
    }

    /// Copies the next accounts or holds into the checkpoint. Starts a checkpoint if there is none, or it is complete.
    fn copy(&mut self, count: usize) {
        if self.checkpoint.as_ref().is_none_or(Checkpoint::is_complete) {
            self.checkpoint = Some(Checkpoint::begin(&self.ledger, self.log.next_entry()));
        }
        let checkpoint = self.checkpoint.as_mut().unwrap();
        checkpoint.copy(&self.ledger, count);
        if checkpoint.is_complete() {
            let first_entry = checkpoint.first_entry;
            let mut restored = checkpoint.restore();
            self.log.replay_into(&mut restored, first_entry).unwrap();
            self.check_same(&restored);
            if self.log.entries >= first_entry {
                self.reach("checkpoint copied amid changes");
            }
        }
    }

    /// Continues with a ledger that is made from the log, and from the checkpoint if the checkpoint is complete.
    fn restart(&mut self, random: &mut Random) {
        let complete = self.checkpoint.as_ref().filter(|copy| copy.is_complete());
        let (mut ledger, first_entry) = match complete {
            Some(checkpoint) if random.percent(60) => (checkpoint.restore(), checkpoint.first_entry),
            _ => (Ledger::new(random.next()), 1),
        };
        self.log.replay_into(&mut ledger, first_entry).unwrap();
        self.check_same(&ledger);
        ledger.set_holds_max(self.holds_max);
        self.ledger = ledger;
        // A checkpoint that is not complete is lost with the process. The slots of its holds are not those of the new ledger.
        if complete.is_none() {
            self.checkpoint = None;
        }
        self.reach(if first_entry > 1 {
            "restart from a checkpoint"
        } else {
            "restart"
        });
    }

    fn reach(&mut self, label: &str) {
        if !self.reached.contains(label) {
            self.reached.insert(label.to_owned());
        }
    }
}

// ===== impl World: checks =====

impl World {
    /// Checks after a step that balances and holds are those of the model, that debits equal credits for each asset, and that
    /// no rule is broken. `before` is what the model had before the step.
    fn check_step(&self, before: &BTreeMap<String, Columns>) {
        let (table, model) = (self.ledger.accounts(), &self.model);
        assert_eq!(table.len(), model.accounts.len());
        let mut sums = BTreeMap::<&str, [Sum; 4]>::new();
        for (name, expected) in &model.accounts {
            let account = table.get(table.find(name).unwrap()).unwrap();
            let balances = account.balances;
            let columns = model.columns[name];
            assert_eq!(balances, columns.balances(), "{name}");
            assert_eq!(
                (account.status, account.overdraft_limit),
                (expected.status, expected.overdraft_limit)
            );
            for side in [Side::Debit, Side::Credit] {
                let available = account.available(side).map(Amount::minor_units);
                assert_eq!(available, model.available(name, side), "{name}");
                let grown = columns.total(side) > before.get(name).map_or(0, |before| before.total(side));
                if available.is_some() && grown {
                    let other = balances.column(side.other(), Column::Posted).minor_units();
                    let overdraft = columns.total(side).saturating_sub(other);
                    assert!(overdraft <= expected.overdraft_limit.minor_units(), "{name}");
                }
            }
            let [debits, credits, debits_pending, credits_pending] = sums.entry(&expected.asset).or_default();
            debits.add(balances.debits_posted);
            credits.add(balances.credits_posted);
            debits_pending.add(balances.debits_pending);
            credits_pending.add(balances.credits_pending);
        }
        for (asset, [debits, credits, debits_pending, credits_pending]) in sums {
            assert_eq!(debits, credits, "posted, asset {asset}");
            assert_eq!(debits_pending, credits_pending, "pending, asset {asset}");
        }
        assert_eq!(self.log.next().sequence, model.sequence + 1);
        assert_eq!(self.ledger.holds().len(), model.outstanding().count());
        let deadlines = model.outstanding().filter_map(|(_, hold)| hold.deadline);
        let next = self.ledger.holds().next_to_expire();
        assert_eq!(next.and_then(|hold| hold.deadline), deadlines.min());
    }

    /// Checks after a block that each outstanding hold reserves what the model says, and that the holds of an account together reserve
    /// its pending columns.
    fn check_block(&mut self) {
        let mut pending = BTreeMap::<AccountIndex, [u128; 2]>::new();
        let (holds, rest) = self.ledger.holds().page(0, usize::MAX);
        assert_eq!(rest, None);
        for hold in holds {
            let id = transaction_id(&self.log.record_at(hold.place).unwrap().record);
            let newest = self.log.record_at(hold.newest).unwrap().record;
            let Record::Committed { transaction, effects } = newest else {
                panic!("the newest record of hold {id} is not that of a transaction");
            };
            let mut legs = Legs::new();
            effects::legs(&transaction, effects, &mut legs).unwrap();
            let model = &self.model.holds[&id];
            assert_eq!((hold.deadline, hold.has_more), (model.deadline, legs.len() > 1));
            assert_eq!(Some(hold.first), legs.first().map(|leg| (leg.debit, leg.credit)));
            for (leg, expected) in legs.iter().zip(&model.legs) {
                let is_new = hold.newest == hold.place;
                let reserved = if is_new { leg.moved } else { leg.remaining };
                assert_eq!(reserved.minor_units(), expected.remaining, "hold {id}");
                pending.entry(leg.debit).or_default()[0] += reserved.minor_units();
                pending.entry(leg.credit).or_default()[1] += reserved.minor_units();
            }
        }
        let table = self.ledger.accounts();
        for index in table.indexes_from(AccountIndex(0)) {
            let snapshot = table.snapshot(index).unwrap();
            let expected = &self.model.accounts[&snapshot.account.id];
            assert_eq!(&snapshot.account, expected);
            assert_eq!(snapshot.revision, self.model.revision(&expected.id));
            let [debits, credits] = pending.remove(&index).unwrap_or_default();
            assert_eq!(snapshot.balances.debits_pending.minor_units(), debits);
            assert_eq!(snapshot.balances.credits_pending.minor_units(), credits);
        }
    }

    /// Checks that a replay of the first n blocks gives the state that the model had after them, for each n. A replay of all blocks
    /// must give the state of the ledger, also if they are applied twice.
    fn check_prefixes(&self) {
        let mut replayed = Ledger::new(2);
        let check = |number: usize, ledger: &Ledger| self.prefixes[number].check(ledger);
        self.log.replay_blocks(&mut replayed, 1, check).unwrap();
        assert_eq!(self.log.block_count(), self.prefixes.len());
        self.check_same(&replayed);
        self.log.replay_into(&mut replayed, 1).unwrap();
        self.check_same(&replayed);
    }

    /// Checks that another ledger has the same state.
    fn check_same(&self, other: &Ledger) {
        let now = self.log.next().time;
        assert_eq!(state(other, now), state(&self.ledger, now));
    }

    fn named(&self, leg: &Leg) -> ModelLeg {
        let name = |index| self.ledger.accounts().id(index).unwrap().to_owned();
        ModelLeg {
            debit: name(leg.debit),
            credit: name(leg.credit),
            moved: leg.moved.minor_units(),
            released: leg.released.minor_units(),
            remaining: leg.remaining.minor_units(),
        }
    }
}

fn transaction_id(record: &Record<'_>) -> String {
    let (transaction, _) = record.transaction().unwrap();
    transaction.id().to_owned()
}

/// An account with what its velocity limits have counted: the last update, for each limit its slices in the window, and the waypoints.
type FullAccount = (
    AccountSnapshot,
    Account,
    Vec<u8>,
    Vec<Vec<(u64, u64, u128)>>,
    Vec<u8>,
);

/// All that a ledger knows: the accounts in the order of creation, and the holds in the order of their places.
pub(super) fn state(ledger: &Ledger, now: Timestamp) -> (Vec<FullAccount>, Vec<Hold>) {
    let table = ledger.accounts();
    let accounts = table.indexes_from(AccountIndex(0)).map(|index| {
        let snapshot = table.snapshot(index).unwrap();
        let account = *table.get(index).unwrap();
        let mut extras = Vec::new();
        table.put_extras(index, &mut extras);
        let mut reader = Reader::new(&extras);
        if reader.u8().unwrap() == 1 {
            reader.varint_u64().unwrap();
            reader.varint_u64().unwrap();
            AccountTerms::take(&mut reader).unwrap();
        }
        let updated = extras[..extras.len() - reader.rest().len()].to_vec();
        let mut slices = Vec::new();
        for limit in &snapshot.account.velocity_limits {
            // A slice that has left the window no longer counts. A ledger may forget such a slice earlier or later.
            let length = limit.window_nanos.div_ceil(SLICES - 1).max(1);
            let count = reader.varint_u64().unwrap();
            let all = (0..count).map(|_| {
                (
                    reader.varint_u64().unwrap(),
                    reader.varint_u64().unwrap(),
                    reader.varint_u128().unwrap(),
                )
            });
            let all: Vec<_> = all.collect();
            let is_in_window = |(number, _, _): &(u64, u64, u128)| number + SLICES > now.as_nanos() / length;
            slices.push(all.into_iter().filter(is_in_window).collect());
        }
        (snapshot, account, updated, slices, reader.rest().to_vec())
    });
    let (mut holds, _) = ledger.holds().page(0, usize::MAX);
    holds.sort_by_key(|hold| hold.place);
    (accounts.collect(), holds)
}

// ===== impl Prefix =====

impl Prefix {
    fn of(model: &Model) -> Self {
        let mut deadlines: Vec<_> = model.outstanding().map(|(_, hold)| hold.deadline).collect();
        deadlines.sort();
        Prefix {
            columns: model.columns.clone(),
            accounts: model.accounts.clone(),
            deadlines,
        }
    }

    fn check(&self, ledger: &Ledger) {
        assert_eq!(ledger.accounts().len(), self.accounts.len());
        for (name, account) in &self.accounts {
            let found = ledger.account(name).unwrap();
            assert_eq!(
                (found.account, found.balances),
                (account.clone(), self.columns[name].balances())
            );
        }
        let (holds, _) = ledger.holds().page(0, usize::MAX);
        let mut deadlines: Vec<_> = holds.iter().map(|hold| hold.deadline).collect();
        deadlines.sort();
        assert_eq!(deadlines, self.deadlines);
    }
}

// ===== impl Sum =====

impl Sum {
    fn add(&mut self, amount: Amount) {
        let (sum, carry) = self.1.overflowing_add(amount.minor_units());
        *self = Sum(self.0 + u32::from(carry), sum);
    }
}

/// The outcome as text, without its numbers.
fn label(outcome: Outcome, content: &Content) -> String {
    match outcome {
        Outcome::Committed { replayed, .. } => {
            let what = match (&content.other, content.phase) {
                (Other::Nothing, Phase::Pending) => "hold",
                (Other::Nothing, _) => "posted",
                (Other::Hold(_), Phase::VoidPending) => "void",
                (Other::Hold(_), _) => "post",
                (Other::Reversed(_), _) => "reversal",
            };
            let how = match (content.other == Other::Nothing, content.transfers.is_empty()) {
                (true, _) if content.is_derived() => ", clamped",
                (true, _) | (false, true) => "",
                (false, false) if content.keep_remaining => " of parts, the rest kept",
                (false, false) => " of parts",
            };
            format!("{what}{how}{}", if replayed { ", replayed" } else { "" })
        }
        Outcome::Rejected { rejection, replayed } => {
            let replayed = if replayed { ", replayed" } else { "" };
            let place = if rejection.transfer == 0 { "first" } else { "later" };
            format!("{} {:?} {place}{replayed}", rejection.reason, rejection.side)
        }
        Outcome::Reused { field } => field
            .to_string()
            .replace(|digit: char| digit.is_ascii_digit(), ""),
    }
}
