//! What the clients of a run have sent and got, and the check against the accepted chain.

use std::collections::BTreeMap;

use tally::engine::EngineError;
use tally_ledger::{AccountSnapshot, Committed, Outcome, Rejection};

use super::chain::Chain;
use crate::{
    calls::{Entry, Recorded, Transaction},
    world::Failure,
};

/// Everything that the clients know.
#[derive(Debug, Default)]
pub(crate) struct History {
    sent: BTreeMap<String, Sent>,
    reads: Vec<Read>,
    /// The greatest sequence of an answer so far.
    highest: u64,
    pub(crate) answers: u64,
}

/// A transaction that a client has sent at least once.
#[derive(Debug)]
struct Sent {
    transaction: Transaction,
    /// The greatest sequence that was answered before the first attempt.
    floor: u64,
    /// Whether an attempt may have been executed.
    may_exist: bool,
    answer: Option<Answered>,
}

/// The answer to a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answered {
    result: Result<Committed, Rejection>,
    /// The writer whose process has executed it, if it says so.
    executed_by: Option<u32>,
}

/// A read of an account that was answered, in the order of the answers.
#[derive(Debug)]
struct Read {
    account: String,
    /// What was known when the read began.
    floor: ReadFloor,
    debits: u128,
    credits: u128,
}

/// What a read must show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadFloor {
    /// The greatest sequence that was answered before.
    sequence: u64,
    /// The number of reads that were answered before; 0 if the read was not one of the leader.
    reads: usize,
    pub(crate) is_of_leader: bool,
}

/// The postings of an account: after each transaction, its sequence and the sums of debits and credits.
type Postings = Vec<(u64, u128, u128)>;

/// What the chain says of a transaction.
struct Final {
    recorded: Recorded,
    writer: u32,
}

// ===== impl History =====

impl History {
    /// A client sends a transaction, for the first time or again.
    pub(crate) fn sends(&mut self, transaction: &Transaction) {
        let floor = self.highest;
        self.sent.entry(transaction.id.clone()).or_insert_with(|| Sent {
            transaction: transaction.clone(),
            floor,
            may_exist: false,
            answer: None,
        });
    }

    /// Nobody knows the outcome of an attempt.
    pub(crate) fn unknown(&mut self, id: &str) {
        if let Some(sent) = self.sent.get_mut(id) {
            sent.may_exist = true;
        }
    }

    /// An attempt has failed. Returns whether it is certain that it was not executed.
    pub(crate) fn failed(&mut self, id: &str, error: &EngineError) -> bool {
        let certain = error.is_not_executed();
        if !certain {
            self.unknown(id);
        }
        certain
    }

    /// An attempt was answered by the process of `writer`.
    pub(crate) fn answered(&mut self, id: &str, outcome: &Outcome, writer: u32) -> Result<(), Failure> {
        self.answers += 1;
        let (result, replayed) = match outcome {
            Outcome::Committed { committed, replayed } => (Ok(*committed), *replayed),
            Outcome::Rejected { rejection, replayed } => (Err(*rejection), *replayed),
            Outcome::Reused { field } => {
                return Err(Failure(format!(
                    "{id} was sent with one content only, but {field:?} differs"
                )));
            }
        };
        if let Ok(committed) = &result {
            self.highest = self.highest.max(committed.sequence);
        }
        let executed_by = (!replayed).then_some(writer);
        let Some(sent) = self.sent.get_mut(id) else {
            return Err(Failure(format!("{id} was never sent")));
        };
        sent.may_exist = true;
        match &mut sent.answer {
            None => sent.answer = Some(Answered { result, executed_by }),
            Some(before) if before.result != result => {
                return Err(Failure(format!(
                    "{id} was answered with {:?}, and now with {result:?}",
                    before.result
                )));
            }
            Some(before) if before.executed_by.is_some() && executed_by.is_some() => {
                return Err(Failure(format!(
                    "{id} was executed twice, by {before:?} and by {writer}"
                )));
            }
            Some(before) => before.executed_by = before.executed_by.or(executed_by),
        }
        Ok(())
    }

    /// A read begins. `is_of_leader`: the replica says that it leads.
    pub(crate) fn read_begins(&self, is_of_leader: bool) -> ReadFloor {
        ReadFloor {
            sequence: if is_of_leader { self.highest } else { 0 },
            reads: if is_of_leader { self.reads.len() } else { 0 },
            is_of_leader,
        }
    }

    /// A read of an account is answered.
    pub(crate) fn read_ends(&mut self, account: &str, floor: ReadFloor, snapshot: &AccountSnapshot) {
        self.answers += 1;
        self.reads.push(Read {
            account: account.to_owned(),
            floor,
            debits: snapshot.balances.debits_posted.minor_units(),
            credits: snapshot.balances.credits_posted.minor_units(),
        });
    }

    /// A transaction that was answered, to send it again.
    pub(crate) fn some_answered(&self, choice: usize) -> Option<Transaction> {
        let sent = self.sent.values().nth(choice % self.sent.len().max(1))?;
        sent.answer.is_some().then(|| sent.transaction.clone())
    }

    /// Compares everything with the accepted chain. Returns the postings of each account. `lost`: the log has lost records that replicas
    /// may have seen, and shown where they do not lead.
    pub(crate) fn check(&self, chain: &Chain, lost: bool) -> Result<BTreeMap<String, Postings>, Failure> {
        let (finals, postings) = ledger(chain)?;
        for (id, sent) in &self.sent {
            sent.check(id, finals.get(id))?;
        }
        if let Some(id) = finals.keys().find(|id| !self.sent.contains_key(*id)) {
            return Err(Failure(format!("{id} is recorded, but nobody has sent it")));
        }
        self.check_reads(&postings, lost)?;
        Ok(postings)
    }

    fn check_reads(&self, postings: &BTreeMap<String, Postings>, lost: bool) -> Result<(), Failure> {
        // What the first reads have shown, by their number: the greatest sequence.
        let mut shown = vec![0];
        for (number, read) in self.reads.iter().enumerate() {
            if lost && !read.floor.is_of_leader {
                shown.extend(shown.last().copied());
                continue;
            }
            let none = Vec::new();
            let account = postings.get(&read.account).unwrap_or(&none);
            let sums = (read.debits, read.credits);
            let found = if sums == (0, 0) {
                Some(0)
            } else {
                let at = account
                    .iter()
                    .position(|(_, debits, credits)| (*debits, *credits) == sums);
                at.map(|at| at + 1)
            };
            let Some(count) = found else {
                return Err(Failure(format!(
                    "read {number} shows {sums:?} for {}, which the account never had: {account:?}",
                    read.account
                )));
            };
            let floor = read.floor.sequence.max(shown[read.floor.reads]);
            if let Some((missed, ..)) = account.get(count).filter(|(next, ..)| *next <= floor) {
                return Err(Failure(format!(
                    "read {number} of {} is stale: it does not show transaction {missed}, but {floor} was known before it began",
                    read.account
                )));
            }
            let last = shown.last().copied().unwrap_or(0);
            let now = if count == 0 || !read.floor.is_of_leader {
                0
            } else {
                account[count - 1].0
            };
            shown.push(last.max(now));
        }
        Ok(())
    }
}

// ===== impl Sent =====

impl Sent {
    fn check(&self, id: &str, last: Option<&Final>) -> Result<(), Failure> {
        let Some(Final { recorded, writer }) = last else {
            return match &self.answer {
                None => Ok(()),
                Some(answer) => Err(Failure(format!(
                    "{id} was answered with {answer:?}, but it is not recorded"
                ))),
            };
        };
        if !self.may_exist {
            return Err(Failure(format!(
                "{id} is recorded at {:?}, but every attempt ended with the answer that nothing was executed",
                recorded.place
            )));
        }
        if recorded.transaction != self.transaction {
            return Err(Failure(format!(
                "{id} is recorded as {:?}, not as {:?}",
                recorded.transaction, self.transaction
            )));
        }
        if recorded.rejection.is_none() && recorded.place.sequence <= self.floor {
            return Err(Failure(format!(
                "{id} has the sequence {}, but {} was answered before it was sent",
                recorded.place.sequence, self.floor
            )));
        }
        let Some(answer) = &self.answer else {
            return Ok(());
        };
        let result = match recorded.rejection {
            None => Ok(recorded.place),
            Some(rejection) => Err(rejection),
        };
        if answer.result != result {
            return Err(Failure(format!(
                "{id} was answered with {:?}, but it is recorded with {result:?}",
                answer.result
            )));
        }
        if answer.executed_by.is_some_and(|by| by != *writer) {
            return Err(Failure(format!(
                "{id} was executed by the process with the writer number {:?}, but its block was written by {writer}",
                answer.executed_by
            )));
        }
        Ok(())
    }
}

/// The transactions by their ids, and the postings of the accounts by the ids of the accounts.
type LedgerOfChain = (BTreeMap<String, Final>, BTreeMap<String, Postings>);

/// Reads the ledger from the accepted chain: the transactions, and the postings of the accounts.
fn ledger(chain: &Chain) -> Result<LedgerOfChain, Failure> {
    let (mut finals, mut postings) = (BTreeMap::new(), BTreeMap::<String, Postings>::new());
    let (mut next, mut last_time) = (1, None);
    for logged in chain.records()? {
        let Entry::Transaction(recorded) = logged.entry else {
            continue;
        };
        let id = recorded.transaction.id.clone();
        if recorded.rejection.is_none() {
            let place = recorded.place;
            if place.sequence != next || last_time.is_some_and(|time| place.time <= time) {
                return Err(Failure(format!(
                    "{id} has the place {place:?} after the sequence {} at {last_time:?}",
                    next - 1
                )));
            }
            next += 1;
            last_time = Some(place.time);
            for leg in &recorded.transaction.legs {
                post(&mut postings, &leg.debit, place.sequence, leg.amount, 0);
                post(&mut postings, &leg.credit, place.sequence, 0, leg.amount);
            }
        }
        let block = usize::try_from(logged.block - 1).unwrap();
        let writer = chain.blocks[block].header.writer;
        if finals.insert(id.clone(), Final { recorded, writer }).is_some() {
            return Err(Failure(format!("{id} is recorded twice")));
        }
    }
    Ok((finals, postings))
}

fn post(postings: &mut BTreeMap<String, Postings>, account: &str, sequence: u64, debit: u128, credit: u128) {
    let postings = postings.entry(account.to_owned()).or_default();
    let (last, debits, credits) = postings.last().copied().unwrap_or((0, 0, 0));
    if last == sequence {
        postings.pop();
    }
    postings.push((sequence, debits + debit, credits + credit));
}
