//! Holds, reversals, clamped transfers, velocity limits and updates: histories that the oracle must accept and refuse.

use tally::engine::{BalancesAfter, Detail};
use tally_ledger::velocity::{Exceeded, Maximum};

use super::*;

const SECOND: u64 = 1_000_000_000;

/// A transaction that reserves an amount for a time.
fn hold(id: &str, amount: u128, timeout: Option<u64>) -> Transaction {
    Transaction {
        kind: Kind::Hold { timeout },
        ..pay(id, "bank", "alice", amount)
    }
}

/// A transaction that posts a part of a hold.
fn post(id: &str, hold: &str, amount: u128, keep_remaining: bool) -> Transaction {
    Transaction {
        kind: Kind::Post {
            hold: hold.to_owned(),
            keep_remaining,
        },
        ..pay(id, "bank", "alice", amount)
    }
}

/// A transaction without transfers.
fn whole(id: &str, kind: Kind) -> Transaction {
    Transaction {
        kind,
        ..Transaction::new(id, Vec::new())
    }
}

fn void(id: &str, hold: &str) -> Transaction {
    let hold = hold.to_owned();
    whole(id, Kind::Void { hold })
}

/// The effect of a transfer from bank to alice.
fn from_bank(amount: u128, released: u128, remaining: u128) -> Vec<Moved> {
    vec![moved(&leg("bank", "alice", 0), amount, released, remaining)]
}

impl Story {
    /// A call commits a transaction with these effects, and its answer shows them.
    fn commits(&mut self, call: CallId, transaction: &Transaction, moved: &[Moved]) -> Committed {
        self.send(call, transaction);
        let place = self.book.commit_as(transaction, moved.to_vec());
        let amounts: Vec<Amount> = moved.iter().map(|moved| Amount::new(moved.amount)).collect();
        let details = match transaction.kind {
            Kind::Post { .. } | Kind::Reverse { .. } => vec![Detail {
                place: 0,
                moved: amounts.into(),
                balances: BalancesAfter::default(),
            }],
            Kind::Move | Kind::Hold { .. } | Kind::Void { .. } => Vec::new(),
        };
        self.answer(call, Ok(Answer::Outcomes(vec![first(place)], details)));
        place
    }

    /// A call is answered with a rejection.
    fn refuses(&mut self, call: CallId, transaction: &Transaction, rejection: Rejection) {
        self.send(call, transaction);
        let sequence = self.book.next_sequence();
        self.book.reject(transaction, rejection, sequence);
        self.outcome(call, rejected(rejection));
    }

    /// The hold of this amount expires. The time of the expiry is that of the first sequence plus `after`.
    fn expires(&mut self, hold: &str, amount: u128, after: u64) {
        let sequence = self.book.next_sequence();
        let at = time(1).plus_nanos(after);
        let place = Committed { sequence, time: at };
        for (id, side) in [("bank", Side::Debit), ("alice", Side::Credit)] {
            let balances = &mut self.book.account(id).balances;
            let pending = match side {
                Side::Debit => &mut balances.debits_pending,
                Side::Credit => &mut balances.credits_pending,
            };
            *pending = pending.checked_sub(Amount::new(amount)).unwrap();
        }
        let entry = Entry::Expired {
            hold: hold.to_owned(),
            place,
            position: self.book.log.len() as u64,
            moved: from_bank(0, amount, 0),
        };
        self.book.append(entry, at);
    }
}

const fn reason(reason: Reason) -> Rejection {
    Rejection::new(reason, 0, Side::Debit)
}

#[test]
fn a_hold_is_posted_in_parts_and_reversed() {
    let mut story = Story::new();
    story.commits(2, &hold("room", 100, None), &from_bank(100, 0, 0));
    story.commits(3, &post("breakfast", "room", 30, true), &from_bank(30, 0, 70));
    let exceeded = reason(Reason::PendingAmountExceeded).with_available(Amount::from(70));
    story.refuses(4, &post("too much", "room", 71, false), exceeded);
    story.commits(5, &post("night", "room", 60, false), &from_bank(60, 10, 0));
    story.refuses(6, &void("late", "room"), reason(Reason::PendingAlreadyPosted));
    let refund = Transaction {
        kind: Kind::Reverse {
            target: "night".to_owned(),
        },
        ..pay("refund", "alice", "bank", 20)
    };
    let back = moved(&leg("alice", "bank", 0), 20, 0, 40);
    story.commits(7, &refund, &[back]);
    let target = "night".to_owned();
    let rest = whole("rest", Kind::Reverse { target });
    story.commits(8, &rest, &[moved(&leg("alice", "bank", 0), 40, 0, 0)]);
    let again = whole(
        "again",
        Kind::Reverse {
            target: "night".to_owned(),
        },
    );
    story.refuses(9, &again, reason(Reason::AlreadyReversed));
    story.book.holds = Some(Vec::new());
    story.examine().unwrap();
}

/// A story with a hold of 100 that expires after a second.
fn held() -> Story {
    let mut story = Story::new();
    story.commits(2, &hold("room", 100, Some(SECOND)), &from_bank(100, 0, 0));
    story
}

#[test]
fn a_hold_expires_when_its_time_has_come() {
    let mut story = held();
    story.expires("room", 100, SECOND);
    story.examine().unwrap();

    let mut story = held();
    story.expires("room", 100, SECOND - 1);
    story.refused(&[
        "expiry: record 5 is the expiry of hold room, but its deadline is 1700000002.000001000, but the block has the time \
         1700000002.000000999",
    ]);

    let mut story = held();
    story.expires("room", 99, SECOND);
    story.book.account("bank").balances.debits_pending = Amount::ZERO;
    story.refused(&["whole or absent: the expiry of hold room has released"]);
}

#[test]
fn a_hold_that_is_due_is_not_posted() {
    let mut story = held();
    let late = post("late", "room", 100, false);
    story.send(3, &late);
    story.oracle.abandoned(3);
    story.book.commit_as(&late, from_bank(100, 0, 0));
    story.book.retime("late", time(1).plus_nanos(SECOND));
    story.refused(&[
        "whole or absent: transaction late is recorded at sequence 2 as a commit",
        "the reference expects PENDING_EXPIRED",
    ]);
}

#[test]
fn a_hold_that_is_due_expires_although_nobody_calls() {
    let mut story = held();
    let seconds = |seconds| Duration::from_secs(seconds);
    story
        .oracle
        .wall_clock_read(seconds(1), WALL_BASE.plus_nanos(SECOND));
    story.oracle.time_is(seconds(1));
    story.examine().unwrap();
    story.oracle.time_is(seconds(3));
    story.refused(&[
        "expiry: hold room with the deadline",
        "is outstanding, although the clock of the ledger shows",
    ]);
}

#[test]
fn a_hold_that_is_due_expires_before_the_next_transaction() {
    let mut story = held();
    // The block before may not have been durable.
    let pays = |story: &mut Story, call: CallId, id: &str| {
        let transaction = pay(id, "bank", "bob", 1);
        story.send(call, &transaction);
        story.oracle.abandoned(call);
        story.book.commit(&transaction);
        story.book.retime(id, time(1).plus_nanos(SECOND + call));
    };
    pays(&mut story, 3, "one");
    pays(&mut story, 4, "two");
    story.examine().unwrap();
    pays(&mut story, 5, "three");
    story.refused(&[
        "expiry: transaction three is record 7 in a block with the time 1700000002.000001005, but hold room",
    ]);
}

#[test]
fn a_hold_is_not_posted_twice() {
    let mut story = Story::new();
    story.commits(2, &hold("room", 100, None), &from_bank(100, 0, 0));
    story.commits(3, &post("one", "room", 100, false), &from_bank(100, 0, 0));
    let two = post("two", "room", 100, false);
    story.send(4, &two);
    story.oracle.abandoned(4);
    story.book.account("bank").balances.debits_pending = Amount::from(100);
    story.book.account("alice").balances.credits_pending = Amount::from(100);
    story.book.commit_as(&two, from_bank(100, 0, 0));
    story.refused(&[
        "transaction two is recorded",
        "the reference expects PENDING_ALREADY_POSTED",
    ]);
}

#[test]
fn what_a_post_keeps_is_not_lost() {
    let mut story = Story::new();
    story.commits(2, &hold("room", 100, None), &from_bank(100, 0, 0));
    let part = post("part", "room", 30, true);
    story.commits(3, &part, &from_bank(30, 70, 0));
    story.refused(&[
        "transaction part is recorded at sequence 2 as a commit",
        "remaining: 70",
    ]);

    // The record is right, but the account is not.
    let mut story = Story::new();
    story.commits(2, &hold("room", 100, None), &from_bank(100, 0, 0));
    story.commits(3, &part, &from_bank(30, 0, 70));
    story.examine().unwrap();
    story.book.account("bank").balances.debits_pending = Amount::ZERO;
    story.refused(&[
        "account bank has debits 30 (pending 0)",
        "the reference has debits 30 (pending 70)",
    ]);
}

#[test]
fn the_outstanding_holds_are_compared() {
    let mut story = Story::new();
    story.commits(2, &hold("room", 100, None), &from_bank(100, 0, 0));
    let shown = Hold {
        place: 3,
        newest: 3,
        deadline: None,
        first: (AccountIndex(0), AccountIndex(1)),
        has_more: false,
    };
    story.begin(3, Request::Hold("room".to_owned()));
    story.answer(3, Ok(Answer::Hold(Some(shown))));
    story.begin(4, Request::Holds);
    story.answer(4, Ok(Answer::Holds(vec![shown])));
    story.book.holds = Some(vec![shown]);
    story.examine().unwrap();
    story.book.holds = Some(Vec::new());
    story.refused(&["whole or absent: the outstanding holds are []"]);
    story.book.holds = None;
    story.begin(5, Request::Hold("room".to_owned()));
    story.answer(5, Ok(Answer::Hold(None)));
    story.refused(&["reads: call 5 was shown hold room as None"]);
}

#[test]
fn too_many_holds_are_refused() {
    for (holds_max, is_right) in [(1, true), (2, false)] {
        let mut story = Story::new();
        story.oracle.holds_max_is(holds_max);
        story.commits(2, &hold("one", 1, None), &from_bank(1, 0, 0));
        story.send(3, &hold("two", 1, None));
        story.outcome(3, rejected(reason(Reason::HoldsFull)));
        let examined = story.examine();
        if is_right {
            examined.unwrap();
        } else {
            refused(
                examined,
                &["reads: call 3: transaction two was rejected with HOLDS_FULL"],
            );
        }
    }
}

#[test]
fn a_clamped_transfer_moves_what_is_available() {
    let clamped = Transaction {
        wants_balances: true,
        legs: vec![Leg {
            rule: AmountRule::UpToDebitAvailable,
            ..leg("alice", "bob", 50)
        }],
        ..Transaction::new("sweep", Vec::new())
    };
    let swept = |amount: u64, shown: u64| {
        let mut story = Story::new();
        story.commits(2, &pay("salary", "bank", "alice", 30), &from_bank(30, 0, 0));
        story.send(3, &clamped);
        let legs = vec![moved(&leg("alice", "bob", 0), u128::from(amount), 0, 0)];
        let place = story.book.commit_as(&clamped, legs);
        let balances = ["alice", "bob"].map(|id| (Box::from(id), story.book.account(id).balances));
        let detail = Detail {
            place: 0,
            moved: vec![Amount::from(shown)].into(),
            balances: BalancesAfter::Known(balances.to_vec()),
        };
        story.answer(3, Ok(Answer::Outcomes(vec![first(place)], vec![detail])));
        story.examine()
    };
    swept(30, 30).unwrap();
    refused(swept(29, 29), &["transaction sweep is recorded", "amount: 30"]);
    refused(
        swept(30, 50),
        &["details: call 3 place 0: the answer about transaction sweep has the details"],
    );
}

#[test]
fn a_velocity_limit_counts_what_is_in_its_window() {
    let limited = |seconds: u64| {
        let mut story = Story::new();
        let mut shop = account("shop", BalanceRule::Unlimited);
        shop.create_time = time(1);
        shop.account.velocity_limits = vec![VelocityLimit {
            side: Side::Debit,
            window_nanos: 63 * SECOND,
            max_count: 1,
            max_amount: None,
            single_amount_max: None,
        }];
        story.begin(2, Request::CreateAccounts(vec![shop.account.clone()]));
        story.book.create(shop.clone());
        story.answer(2, Ok(Answer::Created(vec![shop])));
        let [one, two] = ["one", "two"].map(|id| pay(id, "shop", "bob", 1));
        story.send(3, &one);
        let place = story.book.commit(&one);
        story.outcome(3, first(place));
        // Slices begin at whole seconds. The time of the first transaction is 1700000001.000001.
        let exceeded = Exceeded {
            limit: 0,
            maximum: Maximum::Count,
            used: 1,
            room_at: Some(Timestamp::from_nanos((1_700_000_001 + 64) * SECOND)),
        };
        let rejection = Rejection::velocity(0, Side::Debit, &exceeded);
        story.send(4, &two);
        story.book.reject(&two, rejection, 2);
        story.book.retime("two", time(1).plus_nanos(seconds * SECOND));
        story.outcome(4, rejected(rejection));
        story.examine()
    };
    limited(0).unwrap_err();
    limited(63).unwrap();
    refused(
        limited(64),
        &[
            "transaction two is recorded at sequence 2 as VELOCITY_LIMIT",
            "but the reference expects a commit",
        ],
    );
}

/// Call 3 requests an update of alice. If `is_recorded`, the journal has a record with these terms. The answer shows this revision.
fn update(
    update: impl Fn(&mut AccountUpdate),
    terms: impl Fn(&mut NewAccount),
    answer: Result<u64, UpdateOutcome>,
) -> Story {
    let mut story = Story::new();
    let mut sent = AccountUpdate {
        id: "alice".to_owned(),
        ..AccountUpdate::default()
    };
    update(&mut sent);
    story.begin(3, Request::Update(sent));
    if let Ok(revision) = answer {
        let alice = story.book.account("alice");
        terms(&mut alice.account);
        alice.revision = revision;
        let NewAccount {
            status,
            overdraft_limit,
            metadata,
            velocity_limits,
            ..
        } = alice.account.clone();
        let terms = AccountTerms {
            status,
            overdraft_limit,
            metadata,
            velocity_limits,
        };
        let id = "alice".to_owned();
        story.book.append(Entry::Updated { id, terms }, time(1));
    }
    let shown = with_available(story.book.account("alice"));
    let answer = answer.map(|_| Box::new(shown));
    story.answer(3, Ok(Answer::Updated(answer)));
    story
}

#[test]
fn updates_do_what_they_ask_for() {
    let freeze = |update: &mut AccountUpdate| update.status = Some(AccountStatus::Frozen);
    let frozen = |account: &mut NewAccount| account.status = AccountStatus::Frozen;
    let mut story = update(freeze, frozen, Ok(4));
    let salary = pay("salary", "bank", "alice", 1);
    let rejection = Rejection::new(Reason::AccountFrozen, 0, Side::Credit);
    story.send(5, &salary);
    story.book.reject(&salary, rejection, 1);
    story.book.retime("salary", time(2));
    story.outcome(5, rejected(rejection));
    story.examine().unwrap();

    let closed = |account: &mut NewAccount| account.status = AccountStatus::Closed;
    update(freeze, closed, Ok(4)).refused(&[
        "not executed: an update of account alice is recorded",
        "asks for something else",
    ]);
    update(freeze, frozen, Ok(5)).refused(&["not executed", "answered with another revision"]);
    update(freeze, frozen, Err(UpdateOutcome::Closed)).refused(&[
        "updates: call 3 was answered Err(Closed)",
        "at no moment in 3..=3",
    ]);
    let stale = |update: &mut AccountUpdate| update.expected_revision = Some(7);
    update(stale, frozen, Err(UpdateOutcome::ChangedSince))
        .examine()
        .unwrap();
}
