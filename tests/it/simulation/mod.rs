//! The tests of the simulation's oracle. They are in this binary because the binary of the simulation has no test harness.

mod accepted;
#[path = "../../sim/arguments.rs"]
#[allow(dead_code, reason = "only the simulation obeys the options")]
mod arguments;
#[path = "../../sim/calls.rs"]
mod calls;
mod command_line;
mod content;
mod healthy;
mod holds;
#[path = "../../sim/oracle/mod.rs"]
mod oracle;
mod random;
mod refused;
mod times;

use std::{collections::BTreeMap, time::Duration};

use tally::engine::{CallKind, EngineError, LedgerFigures, StoreFault};
use tally_batch::BatchError;
use tally_ledger::*;

use calls::{
    Answer, Call, CallId, Entry, Kind, Leg, Logged, Moved, Note, Recorded, Reply, Request, State, Transaction,
};
use oracle::{Oracle, Violation, WALL_BASE};

/// A history that a test writes by hand. The calls to the oracle must be accepted, unless the test expects a violation.
struct Story {
    oracle: Oracle,
    /// The records of the service.
    book: Book,
}

/// The records of a service.
#[derive(Debug, Clone, Default)]
struct Book {
    /// The records. The number of each block is set when the book is read.
    log: Vec<Logged>,
    accounts: Vec<AccountSnapshot>,
    holds: Option<Vec<Hold>>,
    /// The ids of transactions that can't be read.
    unreadable: BTreeMap<String, EngineError>,
    figures: Option<LedgerFigures>,
}

// ===== impl Story =====

impl Story {
    /// Call 1 has created the accounts bank (unlimited), alice and bob (with a credit balance).
    fn new() -> Self {
        let mut book = Book::default();
        for (id, rule) in [
            ("bank", BalanceRule::Unlimited),
            ("alice", BalanceRule::CreditBalance),
            ("bob", BalanceRule::CreditBalance),
        ] {
            book.create(account(id, rule));
        }
        let mut oracle = Oracle::new();
        oracle.queue_is_small();
        let mut story = Story { oracle, book };
        let created = story.book.state().accounts;
        story.begin(
            1,
            Request::CreateAccounts(created.iter().map(|new| new.account.clone()).collect()),
        );
        story.answer(1, Ok(Answer::Created(created)));
        story
    }

    fn begin(&mut self, id: CallId, request: Request) {
        self.oracle.invoked(id, &call(request));
    }

    /// A call with one transaction begins.
    fn send(&mut self, id: CallId, transaction: &Transaction) {
        self.begin(id, Request::Transactions(vec![transaction.clone()]));
    }

    /// A message of stream 1 with one transaction begins.
    fn send_message(&mut self, id: CallId, message: u64, transaction: &Transaction) {
        let request = Request::Transactions(vec![transaction.clone()]);
        let call = Call {
            message: Some((1, message)),
            ..call(request)
        };
        self.oracle.invoked(id, &call);
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "every caller makes the reply in the call"
    )]
    fn answer(&mut self, id: CallId, reply: Reply) {
        self.oracle.answered(id, &reply).unwrap();
    }

    /// A call with one transaction is answered.
    fn outcome(&mut self, id: CallId, outcome: Outcome) {
        self.answer(id, Ok(Answer::Outcomes(vec![outcome], Vec::new())));
    }

    /// A call reads an account, and gets the account of the book.
    fn read(&mut self, id: CallId, account: &str) {
        self.begin(id, Request::Account(account.to_owned()));
        let accounts = self.book.state().accounts;
        let found = accounts.into_iter().find(|found| found.account.id == account);
        self.answer(id, Ok(Answer::Account(found)));
    }

    fn examine(&mut self) -> Result<(), Violation> {
        self.oracle.examine(&self.book.state())
    }

    /// Expects that the examination finds a violation with each of these texts.
    #[track_caller]
    fn refused(&mut self, texts: &[&str]) {
        refused(self.examine(), texts);
    }
}

// ===== impl Book =====

impl Book {
    /// Creates an account.
    fn create(&mut self, created: AccountSnapshot) {
        let entry = Entry::Created {
            account: created.account.clone(),
            time: created.create_time,
        };
        self.append(entry, created.create_time);
        self.accounts.push(created);
    }

    fn append(&mut self, entry: Entry, block_time: Timestamp) {
        let block = 0;
        self.log.push(Logged {
            entry,
            block,
            block_time,
        });
    }

    /// The sequence of the next commit.
    fn next_sequence(&self) -> u64 {
        1 + self
            .log
            .iter()
            .filter(|logged| logged.committed().is_some())
            .count() as u64
    }

    /// Commits a transaction that posts its transfers, without checking rules.
    fn commit(&mut self, transaction: &Transaction) -> Committed {
        let moved = transaction
            .legs
            .iter()
            .map(|leg| moved(leg, leg.amount, 0, 0))
            .collect();
        self.commit_as(transaction, moved)
    }

    /// Commits a transaction with these effects, without checking rules.
    fn commit_as(&mut self, transaction: &Transaction, moved: Vec<Moved>) -> Committed {
        for leg in &moved {
            let (amount, taken) = (Amount::new(leg.amount), Amount::new(leg.amount + leg.released));
            for (id, side) in [(&leg.debit, Side::Debit), (&leg.credit, Side::Credit)] {
                let balances = &mut self.account(id).balances;
                let (posted, pending) = match side {
                    Side::Debit => (&mut balances.debits_posted, &mut balances.debits_pending),
                    Side::Credit => (&mut balances.credits_posted, &mut balances.credits_pending),
                };
                match transaction.kind {
                    Kind::Hold { .. } => *pending = pending.checked_add(amount).unwrap(),
                    Kind::Post { .. } | Kind::Void { .. } => {
                        *posted = posted.checked_add(amount).unwrap();
                        *pending = pending.checked_sub(taken).unwrap();
                    }
                    Kind::Move | Kind::Reverse { .. } => *posted = posted.checked_add(amount).unwrap(),
                }
            }
        }
        self.record(transaction, None, self.next_sequence(), moved)
    }

    /// Records a rejection before the transaction with this sequence.
    fn reject(&mut self, transaction: &Transaction, rejection: Rejection, sequence: u64) {
        self.record(transaction, Some(rejection), sequence, Vec::new());
    }

    fn record(
        &mut self,
        transaction: &Transaction,
        rejection: Option<Rejection>,
        sequence: u64,
        moved: Vec<Moved>,
    ) -> Committed {
        let place = Committed {
            sequence,
            time: time(sequence),
        };
        let recorded = Recorded {
            transaction: Transaction {
                wants_balances: false,
                ..transaction.clone()
            },
            rejection,
            place,
            position: self.log.len() as u64,
            moved,
        };
        self.append(Entry::Transaction(recorded), place.time);
        place
    }

    fn logged(&mut self, id: &str) -> &mut Logged {
        let found = self.log.iter_mut().find(|logged| {
            let recorded = logged.transaction();
            recorded.is_some_and(|recorded| recorded.transaction.id == id)
        });
        found.unwrap()
    }

    fn recorded(&mut self, id: &str) -> &mut Recorded {
        match &mut self.logged(id).entry {
            Entry::Transaction(recorded) => recorded,
            entry @ (Entry::Created { .. } | Entry::Updated { .. } | Entry::Expired { .. }) => {
                panic!("{entry:?}")
            }
        }
    }

    /// Gives a transaction another time, and its block, too.
    fn retime(&mut self, id: &str, time: Timestamp) {
        self.recorded(id).place.time = time;
        self.logged(id).block_time = time;
    }

    fn account(&mut self, id: &str) -> &mut AccountSnapshot {
        let found = self.accounts.iter_mut().find(|found| found.account.id == id);
        found.unwrap()
    }

    /// The state that a service with this book reports. The columns determine the available amounts.
    fn state(&self) -> State {
        let mut log = self.log.clone();
        let mut last = (0, Timestamp::from_nanos(0));
        for logged in &mut log {
            if logged.block_time != last.1 {
                last = (last.0 + 1, logged.block_time);
            }
            logged.block = last.0;
        }
        let recorded = self.log.iter().filter_map(Logged::transaction);
        let transactions = recorded.map(|recorded| {
            let id = &recorded.transaction.id;
            let read = self.unreadable.get(id);
            (
                id.clone(),
                read.map_or_else(|| Ok(Some(recorded.clone())), |error| Err(error.clone())),
            )
        });
        State {
            transactions: transactions.collect(),
            accounts: self.accounts.iter().map(with_available).collect(),
            holds: self.holds.clone(),
            found: Vec::new(),
            figures: self.figures,
            log,
        }
    }
}

/// The account with its available amount. The accounts of the tests have no overdraft limit.
fn with_available(snapshot: &AccountSnapshot) -> AccountSnapshot {
    let balances = &snapshot.balances;
    let units = |amount: Amount| amount.minor_units();
    let room = |own: [Amount; 2], other: Amount| {
        Amount::new(units(other).saturating_sub(units(own[0]) + units(own[1])))
    };
    let available = match snapshot.account.rule {
        BalanceRule::Unlimited => None,
        BalanceRule::CreditBalance => Some(room(
            [balances.debits_posted, balances.debits_pending],
            balances.credits_posted,
        )),
        BalanceRule::DebitBalance => Some(room(
            [balances.credits_posted, balances.credits_pending],
            balances.debits_posted,
        )),
    };
    AccountSnapshot {
        available,
        ..snapshot.clone()
    }
}

/// The effect of a transfer.
fn moved(leg: &Leg, amount: u128, released: u128, remaining: u128) -> Moved {
    Moved {
        debit: leg.debit.clone(),
        credit: leg.credit.clone(),
        amount,
        released,
        remaining,
    }
}

fn call(request: Request) -> Call {
    let kind = match request {
        Request::Transactions(_) => Some(CallKind::Unary),
        Request::CreateAccounts(_) | Request::CreateMissing(_) | Request::Update(_) => {
            Some(CallKind::Accounts)
        }
        Request::Account(_)
        | Request::Accounts { .. }
        | Request::Transaction(_)
        | Request::Hold(_)
        | Request::Holds => None,
    };
    Call {
        request,
        kind,
        message: None,
        deadline: None,
    }
}

fn account(id: &str, rule: BalanceRule) -> AccountSnapshot {
    AccountSnapshot {
        account: NewAccount {
            id: id.to_owned(),
            asset: "EUR".to_owned(),
            rule,
            overdraft_limit: Amount::ZERO,
            status: AccountStatus::Open,
            metadata: Metadata::new(),
            velocity_limits: Vec::new(),
        },
        balances: Balances::default(),
        available: None,
        create_time: WALL_BASE,
        revision: 0,
    }
}

/// A transaction with one leg.
fn pay(id: &str, debit: &str, credit: &str, amount: u128) -> Transaction {
    Transaction::new(id, vec![leg(debit, credit, amount)])
}

fn leg(debit: &str, credit: &str, amount: u128) -> Leg {
    Leg {
        debit: debit.to_owned(),
        credit: credit.to_owned(),
        amount,
        code: 0,
        rule: AmountRule::Exact,
    }
}

/// The time of the transaction with this sequence: 1 s and some µs after the start. Each has its own block.
fn time(sequence: u64) -> Timestamp {
    WALL_BASE.plus_nanos(1_000_000_000 + 1000 * sequence)
}

const fn first(committed: Committed) -> Outcome {
    Outcome::Committed {
        committed,
        replayed: false,
    }
}

const fn again(committed: Committed) -> Outcome {
    Outcome::Committed {
        committed,
        replayed: true,
    }
}

const fn rejected(rejection: Rejection) -> Outcome {
    Outcome::Rejected {
        rejection,
        replayed: false,
    }
}

fn no_funds(available: u128) -> Rejection {
    Rejection::new(Reason::InsufficientFunds, 0, Side::Debit).with_available(Amount::new(available))
}

fn queue_full() -> Reply {
    let retry_after = Duration::ZERO;
    Err(BatchError::Full { retry_after }.into())
}

/// Checks the text of a violation.
#[track_caller]
fn refused(result: Result<(), Violation>, texts: &[&str]) {
    let violation = result.expect_err("a violation").to_string();
    for text in texts {
        assert!(
            violation.contains(text),
            "{violation:?} does not contain {text:?}"
        );
    }
}
