//! Histories of services with a bug, which the oracle must reject. The name of each test says what the bug breaks.

use super::*;

/// A story in which call 2 has paid 100 to alice with the transaction `salary`.
fn paid() -> (Story, Transaction, Committed) {
    let mut story = Story::new();
    let salary = pay("salary", "bank", "alice", 100);
    story.send(2, &salary);
    let place = story.book.commit(&salary);
    story.outcome(2, first(place));
    (story, salary, place)
}

#[test]
fn acknowledged_and_lost() {
    let (mut story, ..) = paid();
    story.book = Story::new().book;
    story.refused(&["acknowledged: transaction salary is lost: call 2 was answered with sequence 1"]);
}

#[test]
fn acknowledged_with_other_figures() {
    let (mut story, salary, place) = paid();
    story.send(3, &salary);
    let other = Committed { sequence: 2, ..place };
    let result = story
        .oracle
        .answered(3, &Ok(Answer::Outcomes(vec![again(other)], Vec::new())));
    refused(
        result,
        &[
            "call 3: transaction salary was answered with sequence 2",
            "call 2 was answered with sequence 1",
        ],
    );
    story.book.recorded("salary").place.time = time(7);
    story.refused(&[
        "transaction salary: call 2 was answered with sequence 1 at 1700000001.000001000, but recorded is",
    ]);
}

#[test]
fn executed_twice() {
    let (mut story, salary, place) = paid();
    story.send(3, &salary);
    let result = story
        .oracle
        .answered(3, &Ok(Answer::Outcomes(vec![first(place)], Vec::new())));
    refused(result, &["transaction salary was executed twice: calls 2 and 3"]);
}

#[test]
fn one_sequence_for_two_transactions() {
    let (mut story, _, place) = paid();
    story.send(3, &pay("other", "bank", "bob", 1));
    let result = story
        .oracle
        .answered(3, &Ok(Answer::Outcomes(vec![first(place)], Vec::new())));
    refused(
        result,
        &["transaction other was answered with sequence 1, but so was transaction salary"],
    );
}

#[test]
fn other_content_under_the_same_id() {
    let (mut story, ..) = paid();
    story.send(3, &pay("salary", "bank", "alice", 7));
    story.outcome(
        3,
        Outcome::Reused {
            field: ContentField::Code(0),
        },
    );
    story.refused(&["refused because transfers[0].code differs, but the first difference from the recorded one is Some(Amount(0))"]);

    let (mut story, ..) = paid();
    story.book.recorded("salary").transaction.legs[0].amount = 7;
    story.refused(&["call 2 sent other content than recorded; it differs in transfers[0].amount"]);
}

#[test]
fn half_a_transaction() {
    let (mut story, ..) = paid();
    story.book.account("alice").balances.credits_posted = Amount::from(99);
    story.refused(&[
        "whole or absent: account alice has debits 0 (pending 0) and credits 99 (pending 0)",
        "credits 100 (pending 0) after record 4",
    ]);
}

#[test]
fn a_commit_that_a_rule_forbids() {
    let (mut story, ..) = paid();
    let rent = pay("rent", "alice", "bob", 150);
    story.send(3, &rent);
    let place = story.book.commit(&rent);
    story.outcome(3, first(place));
    story.refused(&[
        "transaction rent is recorded at sequence 2 as a commit",
        "INSUFFICIENT_FUNDS at transfer 0 side Debit available 100",
    ]);
}

#[test]
fn a_rejection_with_other_figures() {
    let (mut story, ..) = paid();
    let rent = pay("rent", "alice", "bob", 150);
    story.send(3, &rent);
    story.book.reject(&rent, no_funds(99), 2);
    story.outcome(3, rejected(no_funds(99)));
    story.refused(&[
        "available 99, but the reference expects INSUFFICIENT_FUNDS at transfer 0 side Debit available 100",
    ]);
}

#[test]
fn an_unrecorded_rejection_without_a_reason() {
    let (mut story, ..) = paid();
    story.send(3, &pay("rent", "alice", "bob", 50));
    story.outcome(3, rejected(Rejection::new(Reason::SameAccount, 0, Side::Credit)));
    story.refused(&[
        "call 3: transaction rent was rejected with SAME_ACCOUNT",
        "at no moment in 4..=4",
    ]);

    let (mut story, ..) = paid();
    story.send(3, &pay("rent", "alice", "bob", 50));
    story.outcome(
        3,
        rejected(Rejection::new(Reason::AccountNotFound, 0, Side::Credit)),
    );
    story.refused(&[
        "call 3: transaction rent was rejected with ACCOUNT_NOT_FOUND",
        "at no moment in 4..=4",
    ]);
}

#[test]
fn a_gap_in_the_order() {
    let (mut story, ..) = paid();
    let second = pay("second", "bank", "bob", 1);
    story.send(3, &second);
    story.oracle.abandoned(3);
    story.book.commit(&second);
    story.book.recorded("second").place = Committed {
        sequence: 3,
        time: time(3),
    };
    story.refused(&[
        "order: transaction second has sequence 3 and time 1700000001.000003000, but the next sequence is 2",
    ]);
    story.book.recorded("second").place = Committed {
        sequence: 2,
        time: time(1),
    };
    story.refused(&[
        "order: transaction second has sequence 2 and time 1700000001.000001000, but the next sequence is 2, and its time",
    ]);
}

#[test]
fn an_order_against_real_time() {
    let mut story = Story::new();
    let (one, two) = (pay("one", "bank", "alice", 1), pay("two", "bank", "alice", 2));
    let place_two = Committed {
        sequence: 2,
        time: time(2),
    };
    story.send(2, &one);
    story.outcome(2, first(place_two));
    story.send(3, &two);
    story.oracle.abandoned(3);
    story.book.commit(&two);
    story.book.commit(&one);
    story.refused(&[
        "order: call 2 place 0: transaction one is record 5",
        "the last record was in 3..=3",
    ]);
}

#[test]
fn an_account_later_than_a_transaction_that_was_known_before() {
    let (mut story, ..) = paid();
    let mut new = account("carol", BalanceRule::Unlimited);
    new.create_time = WALL_BASE.plus_nanos(1);
    story.begin(3, Request::CreateAccounts(vec![new.account.clone()]));
    story.answer(3, Ok(Answer::Created(vec![new.clone()])));
    story.book.create(new);
    // The records are swapped, so that the service has created the account earlier.
    story.book.log.swap(3, 4);
    story.refused(&[
        "order: call 2 place 0: transaction salary is record 5",
        "the last record was in 3..=3",
    ]);
}

#[test]
fn a_hole_in_a_stream() {
    let mut story = Story::new();
    let (one, two) = (pay("one", "bank", "alice", 1), pay("two", "bank", "alice", 2));
    story.send_message(2, 0, &one);
    story.send_message(3, 1, &two);
    story.oracle.abandoned(2);
    let place = story.book.commit(&two);
    story.outcome(3, first(place));
    story.refused(&[
        "streams: transaction two of call 3 is record 4, but transaction one of call 2",
        "was not executed",
    ]);
}

#[test]
fn a_message_after_a_refused_one() {
    let mut story = Story::new();
    let (one, two) = (pay("one", "bank", "alice", 1), pay("two", "bank", "alice", 2));
    story.send_message(2, 0, &one);
    story.send_message(3, 1, &two);
    story.answer(2, queue_full());
    let place = story.book.commit(&two);
    story.outcome(3, first(place));
    story.refused(&["streams: call 3 was executed, but call 2", "the queue is full"]);

    let mut story = Story::new();
    story.send_message(2, 0, &one);
    story.send_message(3, 1, &two);
    story.answer(2, queue_full());
    story.oracle.abandoned(3);
    story.book.commit(&two);
    story.refused(&[
        "not executed: transaction two",
        "an earlier message of its stream was not executed",
    ]);
}

#[test]
fn a_batch_out_of_order() {
    let mut story = Story::new();
    let batch = vec![pay("one", "bank", "alice", 1), pay("two", "bank", "alice", 2)];
    story.begin(2, Request::Transactions(batch.clone()));
    story.oracle.died();
    story.book.commit(&batch[1]);
    story.refused(&[
        "transaction two of call 2 is record 4, but transaction one of call 2",
        "was not executed",
    ]);
    story.book.commit(&batch[0]);
    story.refused(&["transaction one of call 2", "is record 5"]);
}

#[test]
fn a_stale_read() {
    let mut story = Story::new();
    let old = with_available(story.book.account("alice"));
    let salary = pay("salary", "bank", "alice", 100);
    story.send(2, &salary);
    let place = story.book.commit(&salary);
    story.outcome(2, first(place));
    story.begin(3, Request::Account("alice".to_owned()));
    story.answer(3, Ok(Answer::Account(Some(old))));
    story.refused(&[
        "reads: call 3 was shown account alice as",
        "which it was first at moment 2, but the answer is about a moment in 4..=4",
    ]);
}

#[test]
fn a_read_that_a_crash_undid() {
    let mut story = Story::new();
    let salary = pay("salary", "bank", "alice", 100);
    let before = story.book.clone();
    story.send(2, &salary);
    story.book.commit(&salary);
    story.read(3, "alice");
    story.oracle.died();
    story.book = before;
    story.refused(&["reads: call 3 was shown account alice as", "which it was never"]);
}

#[test]
fn a_read_older_than_an_earlier_read() {
    let mut story = Story::new();
    let old = with_available(story.book.account("alice"));
    let salary = pay("salary", "bank", "alice", 100);
    story.send(2, &salary);
    story.book.commit(&salary);
    story.read(3, "alice");
    story.begin(4, Request::Account("alice".to_owned()));
    story.answer(4, Ok(Answer::Account(Some(old))));
    story.refused(&[
        "reads: call 4 was shown account alice",
        "the answer is about a moment in 4..=4",
    ]);
}

#[test]
fn a_list_of_two_moments() {
    let mut story = Story::new();
    let mut list = story.book.state().accounts;
    let salary = pay("salary", "bank", "alice", 100);
    story.begin(2, Request::Accounts { from: 0, limit: 10 });
    story.send(3, &salary);
    story.book.commit(&salary);
    list[0] = with_available(story.book.account("bank"));
    story.answer(2, Ok(Answer::Accounts(list, None)));
    story.refused(&[
        "reads: call 2 was shown account alice as",
        "about a moment in 3..=4, and from 4 on because of the other accounts",
    ]);
}

#[test]
fn a_read_that_misses_what_was_known() {
    let (mut story, ..) = paid();
    story.begin(3, Request::Account("alice".to_owned()));
    story.answer(3, Ok(Answer::Account(None)));
    story.refused(&["reads: call 3 was answered that account alice does not exist"]);

    let (mut story, ..) = paid();
    story.begin(3, Request::Transaction("salary".to_owned()));
    story.answer(3, Ok(Answer::Transaction(None)));
    story.refused(&["reads: call 3 was answered that transaction salary is not recorded"]);

    let (mut story, ..) = paid();
    story.begin(3, Request::Accounts { from: 0, limit: 10 });
    story.answer(
        3,
        Ok(Answer::Accounts(story.book.state().accounts[..2].to_vec(), None)),
    );
    story.refused(&["reads: call 3 was answered that account bob does not exist"]);
}

#[test]
fn executed_although_refused() {
    let mut story = Story::new();
    let salary = pay("salary", "bank", "alice", 100);
    story.send(2, &salary);
    story.answer(2, queue_full());
    story.book.commit(&salary);
    story.refused(&[
        "not executed: transaction salary is recorded",
        "call 2 place 0 (answered as not executed: the queue is full",
    ]);

    let mut story = Story::new();
    let new = account("carol", BalanceRule::Unlimited);
    story.begin(2, Request::CreateAccounts(vec![new.account.clone()]));
    story.answer(2, queue_full());
    story.book.create(new);
    story.refused(&[
        "not executed: the creation of account carol is recorded",
        "answered as not executed",
    ]);
}

#[test]
fn a_dead_call_that_appears_later() {
    let mut story = Story::new();
    let salary = pay("salary", "bank", "alice", 100);
    story.send(2, &salary);
    story.oracle.died();
    story.examine().unwrap();
    story.book.commit(&salary);
    story.refused(&[
        "not executed: transaction salary",
        "call 2 place 0 (ended before, and without effect)",
    ]);
}

#[test]
fn a_record_that_changes() {
    let mut story = Story::new();
    let salary = pay("salary", "bank", "alice", 100);
    story.send(2, &salary);
    story.oracle.abandoned(2);
    story.book.commit(&salary);
    story.examine().unwrap();
    let seen = story.book.clone();
    story.book.retime("salary", time(9));
    story.refused(&["prefix: record 4 was"]);
    story.book = seen;
    story.book.log.swap(1, 2);
    story.refused(&["prefix: record 2 was"]);
}

#[test]
fn some_of_the_accounts_of_a_call() {
    let mut story = Story::new();
    let [carol, dave] = ["carol", "dave"].map(|id| account(id, BalanceRule::Unlimited));
    story.begin(
        2,
        Request::CreateAccounts(vec![carol.account.clone(), dave.account]),
    );
    story.oracle.died();
    story.book.create(carol);
    story.refused(&[
        "not executed: the creation of account carol is recorded",
        "only a part of its accounts exists",
    ]);
}

#[test]
fn an_account_that_is_lost_or_changed() {
    let mut story = Story::new();
    story.book.log.pop();
    story.book.accounts.pop();
    story.refused(&["accounts: account bob is lost"]);

    let mut story = Story::new();
    let Entry::Created { account, .. } = &mut story.book.log[2].entry else {
        panic!("the log has not the creation of bob as its third record");
    };
    account.overdraft_limit = Amount::from(1);
    story.refused(&[
        "not executed: the creation of account bank is recorded, but no attempt can have made the record",
        "one of its accounts exists with other content",
    ]);
}

#[test]
fn errors_without_a_cause() {
    let errors = |planted: fn(&mut Oracle), error: EngineError| {
        let mut story = Story::new();
        planted(&mut story.oracle);
        story.send(2, &pay("salary", "bank", "alice", 100));
        story.oracle.answered(2, &Err(error))
    };
    let none = |_: &mut Oracle| {};
    let damaged = StoreFault::Damaged {
        segment: 3,
        offset: 64,
    };
    refused(
        errors(none, StoreFault::ReadFailed.into()),
        &["errors: call 2 failed with", "the disk had no fault"],
    );
    refused(errors(none, damaged.into()), &["nothing was damaged"]);
    let full = StoreFault::DiskFull { executed_part: false };
    refused(errors(none, full.into()), &["the disk was not full"]);
    errors(Oracle::disk_fills, full.into()).unwrap();
    refused(
        errors(Oracle::faults_planted, BatchError::Lost.into()),
        &["the reply was lost"],
    );
    errors(Oracle::faults_planted, StoreFault::ReadFailed.into()).unwrap();
    errors(Oracle::damage_planted, damaged.into()).unwrap();
    errors(none, StoreFault::WriteFailed.into()).unwrap();
}

#[test]
fn an_answer_to_another_question() {
    let mut story = Story::new();
    story.begin(2, Request::Account("alice".to_owned()));
    let result = story.oracle.answered(2, &Ok(Answer::Transaction(None)));
    refused(
        result,
        &["answers: call 2 asked Account(\"alice\"), but was answered Transaction(None)"],
    );
}
