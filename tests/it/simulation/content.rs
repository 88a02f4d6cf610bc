//! Rules about the content of transactions, about accounts that are created only if they are missing, and about lists.

use super::*;

fn missing(ids: &[&str]) -> Request {
    let account = |id: &&str| account(id, BalanceRule::Unlimited).account;
    Request::CreateMissing(ids.iter().map(account).collect())
}

/// Creates an account with the time of the transaction `sequence`.
fn create(story: &mut Story, id: &str, sequence: u64) -> AccountSnapshot {
    let mut created = account(id, BalanceRule::Unlimited);
    created.create_time = time(sequence);
    story.book.create(created.clone());
    with_available(&created)
}

#[test]
fn every_field_of_the_content_is_compared() {
    let effective_time = Some(EffectiveTime { seconds: 5, nanos: 0 });
    let salary = pay("salary", "bank", "alice", 100);
    let later = Transaction {
        effective_time,
        ..salary.clone()
    };
    let noted = Transaction {
        note: Note::Short(1),
        ..salary.clone()
    };
    for (other, field) in [
        (later, ContentField::EffectiveTime),
        (noted, ContentField::Metadata),
    ] {
        let story = || {
            let mut story = Story::new();
            story.send(2, &salary);
            let place = story.book.commit(&salary);
            story.outcome(2, first(place));
            story.send(3, &other);
            (story, place)
        };
        let (mut reused, _) = story();
        reused.outcome(3, Outcome::Reused { field });
        reused.examine().unwrap();
        reused.book.recorded("salary").transaction = other.clone();
        reused.refused(&[
            "call 2 sent other content than recorded; it differs in",
            &field.to_string(),
        ]);
        let (mut replayed, place) = story();
        let answer = Ok(Answer::Outcomes(vec![again(place)], Vec::new()));
        refused(
            replayed.oracle.answered(3, &answer),
            &["although they differ in", &field.to_string()],
        );
        let (mut wrong, _) = story();
        let field = ContentField::Amount(0);
        wrong.outcome(3, Outcome::Reused { field });
        wrong.refused(&["refused because transfers[0].amount differs, but the first difference"]);
    }
}

#[test]
fn notes_are_read_back() {
    for note in [Note::None, Note::Short(2), Note::Long] {
        let transaction = Transaction {
            note,
            ..Transaction::new("t7", Vec::new())
        };
        let mut metadata = transaction.metadata();
        assert_eq!(Note::from_metadata("t7", &metadata), Some(note));
        metadata.insert("other".to_owned(), String::new());
        assert_eq!(Note::from_metadata("t7", &metadata), None);
    }
    let metadata = Metadata::from([("note".to_owned(), "t7t7".to_owned())]);
    assert_eq!(Note::from_metadata("t7", &metadata), None);
}

#[test]
fn missing_accounts_are_created_and_others_left_out() {
    let mut story = Story::new();
    // Alice exists with another content, and carol is named twice.
    story.begin(2, missing(&["alice", "carol", "carol", "dave"]));
    let created = vec![create(&mut story, "carol", 1), create(&mut story, "dave", 1)];
    story.answer(2, Ok(Answer::Created(created)));
    story.begin(3, missing(&["carol"]));
    story.answer(3, Ok(Answer::Created(Vec::new())));
    story.begin(4, missing(&["bob", "erin"]));
    story.oracle.died();
    create(&mut story, "erin", 2);
    story.examine().unwrap();
}

#[test]
fn missing_accounts_that_are_not_created() {
    let mut story = Story::new();
    story.begin(2, missing(&["carol"]));
    story.answer(2, Ok(Answer::Created(Vec::new())));
    story.refused(&["accounts: account carol is lost"]);

    let mut story = Story::new();
    story.begin(2, missing(&["carol", "dave"]));
    story.oracle.died();
    create(&mut story, "dave", 1);
    story.refused(&[
        "the creation of account dave",
        "only a part of its accounts exists",
    ]);

    // No other call can have created carol.
    let mut story = Story::new();
    story.begin(2, missing(&["carol"]));
    create(&mut story, "carol", 1);
    story.answer(2, Ok(Answer::Created(Vec::new())));
    story.refused(&[
        "no attempt can have made the record",
        "answered that the account existed",
    ]);
}

#[test]
fn a_missing_account_that_is_created_twice() {
    let mut story = Story::new();
    story.begin(2, missing(&["carol"]));
    story.begin(3, missing(&["carol"]));
    let carol = create(&mut story, "carol", 1);
    for call in [2, 3] {
        story.answer(call, Ok(Answer::Created(vec![carol.clone()])));
    }
    story.refused(&[
        "the creation of account carol is recorded, but more than one attempt says that it made the record: call 2 place 0",
        "call 3 place 0",
    ]);
}

#[test]
fn answers_about_missing_accounts_that_do_not_fit() {
    let mut story = Story::new();
    story.begin(2, missing(&["alice"]));
    let field = AccountField::BalanceRule;
    let reused = Ok(Answer::Reused { place: 0, field });
    refused(story.oracle.answered(2, &reused), &["answers: call 2 asked"]);

    let mut story = Story::new();
    story.begin(2, missing(&["carol", "dave"]));
    let [carol, dave] = ["carol", "dave"].map(|id| create(&mut story, id, 1));
    story.answer(2, Ok(Answer::Created(vec![dave, carol])));
    story.refused(&[
        "call 2 was answered that it created",
        "for which it did not ask at this place",
    ]);

    let mut story = Story::new();
    story.begin(2, missing(&["carol"]));
    let mut carol = create(&mut story, "carol", 1);
    carol.balances.debits_posted = Amount::from(1);
    story.answer(2, Ok(Answer::Created(vec![carol])));
    story.refused(&["call 2 was answered that it created account carol with"]);
}

/// The examination after a list of the accounts from `from` on. The book has three accounts.
fn listed(
    from: u32,
    limit: usize,
    shown: std::ops::Range<usize>,
    next: Option<u32>,
) -> Result<(), Violation> {
    let mut story = Story::new();
    story.begin(2, Request::Accounts { from, limit });
    let page = story.book.state().accounts[shown].to_vec();
    story.answer(2, Ok(Answer::Accounts(page, next)));
    story.examine()
}

#[test]
fn lists_from_a_later_account() {
    listed(1, 10, 1..3, None).unwrap();
    listed(1, 1, 1..2, Some(2)).unwrap();
    listed(3, 10, 0..0, None).unwrap();
    listed(9, 10, 0..0, None).unwrap();
    refused(
        listed(1, 10, 0..2, None),
        &["reads: call 2 was shown account bank as number 1, but this is account Some(\"alice\")"],
    );
    refused(
        listed(1, 10, 1..2, None),
        &["call 2 was answered that account bob does not exist"],
    );
    refused(
        listed(1, 1, 1..2, None),
        &["call 2 was answered that account bob does not exist"],
    );
    for (limit, next) in [(1, 0), (2, 3), (10, 2)] {
        let end = if limit == 1 || limit == 10 { 2 } else { 3 };
        refused(
            listed(1, limit, 1..end, Some(next)),
            &[
                "call 2 was shown the accounts from number 1",
                "the next page begins at",
            ],
        );
    }
}
