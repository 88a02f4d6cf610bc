//! Histories of a correct service, which the oracle must accept.

use super::*;

#[test]
fn calls_one_after_the_other() {
    let mut story = Story::new();
    let salary = pay("salary", "bank", "alice", 100);
    story.send(2, &salary);
    let place = story.book.commit(&salary);
    story.outcome(2, first(place));
    story.read(3, "alice");
    story.send(4, &salary);
    story.outcome(4, again(place));
    let rent = pay("rent", "alice", "bob", 150);
    story.send(5, &rent);
    story.book.reject(&rent, no_funds(100), 2);
    story.outcome(5, rejected(no_funds(100)));
    let other = pay("salary", "bank", "alice", 101);
    story.send(6, &other);
    let field = ContentField::Amount(0);
    story.outcome(6, Outcome::Reused { field });
    story.begin(7, Request::Accounts { from: 0, limit: 10 });
    story.answer(7, Ok(Answer::Accounts(story.book.state().accounts, None)));
    story.begin(8, Request::Transaction("salary".to_owned()));
    let recorded = story.book.recorded("salary").clone();
    story.answer(8, Ok(Answer::Transaction(Some(recorded))));
    story.examine().unwrap();
    story.oracle.died();
    story.examine().unwrap();
}

#[test]
fn calls_at_the_same_time_in_any_order() {
    let mut story = Story::new();
    let (one, two) = (pay("one", "bank", "alice", 1), pay("two", "bank", "alice", 2));
    story.send(2, &one);
    story.send(3, &two);
    story.begin(4, Request::Account("alice".to_owned()));
    story.begin(5, Request::Account("alice".to_owned()));
    // The call that began last is executed first, and the read that was answered last shows the fewest records.
    let place_two = story.book.commit(&two);
    let between = with_available(story.book.account("alice"));
    let place_one = story.book.commit(&one);
    story.outcome(2, first(place_one));
    let last = with_available(story.book.account("alice"));
    story.answer(4, Ok(Answer::Account(Some(last))));
    story.outcome(3, first(place_two));
    story.answer(5, Ok(Answer::Account(Some(between))));
    story.examine().unwrap();
}

#[test]
fn an_unknown_outcome_may_be_either() {
    let mut story = Story::new();
    let (kept, lost) = (pay("kept", "bank", "alice", 1), pay("lost", "bank", "alice", 2));
    story.send(2, &kept);
    story.send(3, &lost);
    story.oracle.abandoned(2);
    story.answer(3, Err(StoreFault::WriteFailed.into()));
    story.book.commit(&kept);
    story.oracle.died();
    story.examine().unwrap();
    // The same id again, after the next start.
    story.send(4, &lost);
    let place = story.book.commit(&lost);
    story.outcome(4, first(place));
    story.send(5, &kept);
    let place = story.book.recorded("kept").place;
    story.outcome(5, again(place));
    story.examine().unwrap();
}

#[test]
fn a_batch_with_every_outcome() {
    let mut story = Story::new();
    let batch = vec![
        pay("a", "bank", "alice", 10),
        pay("b", "alice", "bob", 11),
        pay("c", "alice", "nobody", 1),
        Transaction::new("d", vec![leg("bank", "alice", 5), leg("bob", "bob", 1)]),
        pay("e", "alice", "bob", 10),
        pay("a", "bank", "alice", 10),
    ];
    story.begin(2, Request::Transactions(batch.clone()));
    let a = story.book.commit(&batch[0]);
    story.book.reject(&batch[1], no_funds(10), 2);
    let e = story.book.commit(&batch[4]);
    let outcomes = vec![
        first(a),
        rejected(no_funds(10)),
        rejected(Rejection::new(Reason::AccountNotFound, 0, Side::Credit)),
        rejected(Rejection::new(Reason::SameAccount, 1, Side::Credit)),
        first(e),
        again(a),
    ];
    story.answer(2, Ok(Answer::Outcomes(outcomes, Vec::new())));
    story.examine().unwrap();
}

#[test]
fn a_stream_ends_at_the_first_message_that_is_not_executed() {
    let mut story = Story::new();
    let messages: Vec<Transaction> = (0..4)
        .map(|number| pay(&format!("m{number}"), "bank", "alice", 1))
        .collect();
    for (message, transaction) in (0..).zip(&messages) {
        story.send_message(2 + message, message, transaction);
    }
    let place = story.book.commit(&messages[0]);
    story.outcome(2, first(place));
    story.oracle.abandoned(3);
    story.book.commit(&messages[1]);
    story.answer(4, queue_full());
    story.answer(5, Err(BatchError::Interrupted.into()));
    story.examine().unwrap();
}

#[test]
fn accounts_of_an_unknown_call_exist_all_or_none() {
    let mut story = Story::new();
    let new = |ids: [&str; 2]| {
        Request::CreateAccounts(ids.map(|id| account(id, BalanceRule::Unlimited).account).to_vec())
    };
    story.begin(2, new(["carol", "dave"]));
    story.begin(3, new(["erin", "frank"]));
    story.oracle.died();
    for id in ["carol", "dave"] {
        let mut created = account(id, BalanceRule::Unlimited);
        created.create_time = time(1);
        story.book.create(created);
    }
    story.examine().unwrap();
    story.begin(
        4,
        Request::CreateAccounts(vec![account("carol", BalanceRule::DebitBalance).account]),
    );
    let field = AccountField::BalanceRule;
    story.answer(4, Ok(Answer::Reused { place: 0, field }));
    story.read(5, "erin");
    story.examine().unwrap();
}

#[test]
fn damage_is_accepted_where_the_record_is_known() {
    let mut story = Story::new();
    let salary = pay("salary", "bank", "alice", 100);
    story.send(2, &salary);
    let place = story.book.commit(&salary);
    story.outcome(2, first(place));
    story.oracle.damage_planted();
    let damaged = StoreFault::Damaged {
        segment: 0,
        offset: 8,
    };
    story.book.unreadable.insert("salary".to_owned(), damaged.into());
    story.examine().unwrap();
    story.book.account("alice").balances.credits_posted = Amount::ZERO;
    story.refused(&[
        "account alice has debits 0 (pending 0) and credits 0 (pending 0), but the reference has debits 0 (pending 0) and credits \
         100 (pending 0)",
    ]);
}

#[test]
fn a_late_execution_is_accepted_if_exec_was_blocked_or_the_clock_was_set() {
    let late = |report: fn(&mut Oracle)| {
        let mut story = Story::new();
        let salary = pay("salary", "bank", "alice", 100);
        let deadline = Some(Duration::from_millis(500));
        let call = Call {
            deadline,
            ..call(Request::Transactions(vec![salary.clone()]))
        };
        story.oracle.invoked(2, &call);
        report(&mut story.oracle);
        let place = story.book.commit(&salary);
        story.outcome(2, first(place));
        story.examine()
    };
    late(|oracle| oracle.exec_was_blocked(WALL_BASE.plus_nanos(700_000_000))).unwrap();
    late(Oracle::clock_stepped).unwrap();
    let expected = "transaction salary was executed at 1700000001.000001000, but the deadline of call 2 was 1700000000.500";
    refused(late(|_| {}), &["deadlines", expected]);
    let blocked_before = |oracle: &mut Oracle| {
        oracle.exec_was_blocked(WALL_BASE);
        oracle.exec_resumed(WALL_BASE.plus_nanos(1));
    };
    refused(late(blocked_before), &["deadlines", expected]);
}
