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
#[path = "../../sim/oracle/mod.rs"]
mod oracle;
mod random;
mod refused;
mod times;

use std::time::Duration;

use tally::engine::{CallKind, EngineError, LedgerFigures, StoreFault};
use tally_batch::BatchError;
use tally_ledger::*;

use calls::{Answer, Call, CallId, Leg, Note, Recorded, Reply, Request, State, Transaction};
use oracle::{Oracle, Violation, WALL_BASE};

/// A history that a test writes by hand. The calls to the oracle must be accepted, unless the test expects a violation.
struct Story {
    oracle: Oracle,
    /// What the service has recorded.
    book: Book,
}

/// What a service has recorded.
#[derive(Debug, Clone)]
struct Book {
    accounts: Vec<AccountSnapshot>,
    transactions: Vec<(String, Result<Option<Recorded>, EngineError>)>,
    figures: Option<LedgerFigures>,
}

// ===== impl Story =====

impl Story {
    /// Call 1 has created the accounts bank (unlimited), alice and bob (with a credit balance).
    fn new() -> Self {
        let book = Book {
            accounts: vec![
                account("bank", BalanceRule::Unlimited),
                account("alice", BalanceRule::CreditBalance),
                account("bob", BalanceRule::CreditBalance),
            ],
            transactions: Vec::new(),
            figures: None,
        };
        let mut oracle = Oracle::new();
        oracle.queue_is_small();
        let mut story = Story { oracle, book };
        let created = story.book.accounts.clone();
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
        self.answer(id, Ok(Answer::Outcomes(vec![outcome])));
    }

    /// A call reads an account, and gets what the book has.
    fn read(&mut self, id: CallId, account: &str) {
        self.begin(id, Request::Account(account.to_owned()));
        let found = self
            .book
            .accounts
            .iter()
            .find(|found| found.account.id == account);
        self.answer(id, Ok(Answer::Account(found.cloned())));
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
    /// Commits a transaction, without rules.
    fn commit(&mut self, transaction: &Transaction) -> Committed {
        let sequence = 1 + self
            .transactions
            .iter()
            .filter(|(_, found)| matches!(found, Ok(Some(found)) if found.rejection.is_none()))
            .count() as u64;
        for leg in &transaction.legs {
            let debtor = &mut self.account(&leg.debit).balances.debits_posted;
            *debtor = debtor.checked_add(Amount::new(leg.amount)).unwrap();
            let creditor = &mut self.account(&leg.credit).balances.credits_posted;
            *creditor = creditor.checked_add(Amount::new(leg.amount)).unwrap();
        }
        self.record(transaction, None, sequence)
    }

    /// Records a rejection before the transaction with this sequence.
    fn reject(&mut self, transaction: &Transaction, rejection: Rejection, sequence: u64) {
        self.record(transaction, Some(rejection), sequence);
    }

    fn record(
        &mut self,
        transaction: &Transaction,
        rejection: Option<Rejection>,
        sequence: u64,
    ) -> Committed {
        let place = Committed {
            sequence,
            time: time(sequence),
        };
        let recorded = Recorded {
            transaction: transaction.clone(),
            rejection,
            place,
        };
        self.transactions
            .push((transaction.id.clone(), Ok(Some(recorded))));
        place
    }

    fn recorded(&mut self, id: &str) -> &mut Recorded {
        let found = self.transactions.iter_mut().find(|(found, _)| found == id);
        found.unwrap().1.as_mut().unwrap().as_mut().unwrap()
    }

    fn account(&mut self, id: &str) -> &mut AccountSnapshot {
        let found = self.accounts.iter_mut().find(|found| found.account.id == id);
        found.unwrap()
    }

    fn state(&self) -> State {
        State {
            accounts: self.accounts.clone(),
            transactions: self.transactions.clone(),
            figures: self.figures,
        }
    }
}

fn call(request: Request) -> Call {
    let kind = match request {
        Request::Transactions(_) => Some(CallKind::Unary),
        Request::CreateAccounts(_) | Request::CreateMissing(_) => Some(CallKind::Accounts),
        Request::Account(_) | Request::Accounts { .. } | Request::Transaction(_) => None,
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
