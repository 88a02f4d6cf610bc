//! Single rules, each with its figures. Every request also goes through the model, which must agree.

use tally_ledger::{velocity::Maximum, *};

use super::{
    broken_logs::open,
    content::{Content, transfer},
    world::{HOLDS_MAX, World},
};

const MAX: u128 = u128::MAX;
const SECOND: u64 = 1_000_000_000;

/// An account whose debits may not exceed its credits.
fn wallet(id: &str) -> NewAccount {
    NewAccount {
        rule: BalanceRule::CreditBalance,
        ..open(id)
    }
}

/// The accounts `bank`, without limits, and `w` and `x`, which may not be overdrawn. `w` has a balance of `funds`.
fn world(funds: u128) -> World {
    let mut world = World::new();
    world.create(vec![open("bank"), wallet("w"), wallet("x")]);
    if funds > 0 {
        world.send(Content::posted("funds", &[transfer("bank", "w", funds)]));
    }
    world
}

fn sequence(outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Committed { committed, .. } => committed.sequence,
        Outcome::Rejected { .. } | Outcome::Reused { .. } => panic!("{outcome:?} instead of a commit"),
    }
}

/// The reason, transfer, side and figure of a first rejection.
fn figures(outcome: Outcome) -> (Reason, u8, Side, u128) {
    match outcome {
        Outcome::Rejected {
            rejection,
            replayed: false,
        } => (
            rejection.reason,
            rejection.transfer,
            rejection.side,
            rejection.available().minor_units(),
        ),
        Outcome::Committed { .. } | Outcome::Rejected { .. } | Outcome::Reused { .. } => {
            panic!("{outcome:?} instead of a first rejection")
        }
    }
}

fn status(world: &mut World, id: &str, status: AccountStatus) {
    let outcome = world.update(AccountUpdate {
        id: id.to_owned(),
        status: Some(status),
        ..AccountUpdate::default()
    });
    assert!(matches!(outcome, UpdateOutcome::Updated(_)), "{outcome:?}");
}

fn clamped(debit: &str, credit: &str, amount: u128, rule: AmountRule) -> Transfer<String> {
    Transfer {
        rule,
        ..transfer(debit, credit, amount)
    }
}

/// Posted debits and credits, then pending debits and credits.
fn columns(world: &World, id: &str) -> [u128; 4] {
    let balances = world.ledger.account(id).unwrap().balances;
    [
        balances.debits_posted,
        balances.credits_posted,
        balances.debits_pending,
        balances.credits_pending,
    ]
    .map(Amount::minor_units)
}

fn available(world: &World, id: &str) -> Option<u128> {
    world
        .ledger
        .account(id)
        .unwrap()
        .available
        .map(Amount::minor_units)
}

fn moved(world: &World) -> Vec<u128> {
    let legs = world.ledger.last_legs().iter();
    legs.map(|leg| leg.moved.minor_units()).collect()
}

// ===== holds =====

#[test]
fn a_hold_expires_exactly_at_the_time_of_a_block() {
    for (later, expired) in [(8, 0), (9, 1)] {
        let mut world = world(50);
        let hold = Content::pending("h", Some(10), &[transfer("w", "x", 20)]);
        let Outcome::Committed { committed, .. } = world.send(hold) else {
            panic!("the hold is refused");
        };
        assert_eq!(available(&world, "w"), Some(30));
        // The time of the next record is one nanosecond after the hold.
        assert_eq!(world.log.next().time, committed.time.plus_nanos(1));
        world.log.next_block(later);
        assert_eq!(world.log.block_time(), committed.time.plus_nanos(later + 1));
        let found = world.ledger.expire_due(9, &mut world.log, |_| true).unwrap();
        assert_eq!(found, expired);
        assert_eq!(columns(&world, "w")[2], if expired == 1 { 0 } else { 20 });
    }
}

#[test]
fn a_post_of_a_due_hold_writes_the_expiry_first_and_is_refused() {
    for is_void in [false, true] {
        let mut world = world(50);
        world.send(Content::pending("h", Some(10), &[transfer("w", "x", 20)]));
        // No hold expires at the start of the block, because the bound is 0.
        world.next_block(100, 0);
        let entries = world.log.entries;
        let end = if is_void {
            Content::void("p", "h")
        } else {
            Content::post("p", "h", &[])
        };
        let next = world.log.next().sequence;
        assert_eq!(figures(world.send(end.clone())).0, Reason::PendingExpired);
        assert_eq!(world.log.entries, entries + 2);
        assert_eq!(world.log.next().sequence, next + 1, "the expiry has a sequence");
        assert_eq!(columns(&world, "w"), [0, 50, 0, 0]);
        // The rejection is recorded, and nothing expires twice.
        assert!(matches!(
            world.send(end),
            Outcome::Rejected { replayed: true, .. }
        ));
        assert_eq!(world.log.entries, entries + 2);
        let again = Content::post("q", "h", &[]);
        assert_eq!(figures(world.send(again)).0, Reason::PendingExpired);
        assert_eq!(world.ledger.holds().len(), 0);
    }
}

#[test]
fn due_holds_expire_by_deadline_and_sequence_and_as_far_as_there_is_room() {
    let mut world = world(100);
    for (id, timeout) in [("h0", 30), ("h1", 10), ("h2", 28), ("h3", 5_000)] {
        world.send(Content::pending(id, Some(timeout), &[transfer("w", "x", 1)]));
    }
    // The deadlines of h0 and h2 are equal, because h2 came 2 nanoseconds later.
    world.log.next_block(100);
    let start = world.log.entries;
    let has_room = |log: &super::memory_log::MemoryLog| log.entries < start + 1;
    assert_eq!(world.ledger.expire_due(9, &mut world.log, has_room), Ok(1));
    let places = |world: &World| {
        let (mut holds, _) = world.ledger.holds().page(0, 99);
        holds.sort_by_key(|hold| hold.place);
        holds.len()
    };
    assert_eq!(places(&world), 3);
    let first = world.ledger.holds().next_to_expire().unwrap();
    assert_eq!(world.ledger.expire_due(1, &mut world.log, |_| true), Ok(1));
    let second = world.ledger.holds().next_to_expire().unwrap();
    assert_eq!(first.deadline, second.deadline);
    assert!(first.place < second.place);
    assert_eq!(world.ledger.expire_due(9, &mut world.log, |_| true), Ok(1));
    assert_eq!(columns(&world, "w")[2], 1, "h3 is not due");
}

#[test]
fn a_hold_whose_record_is_unreadable_is_suspended() {
    let mut world = world(100);
    world.send(Content::pending("h", Some(1), &[transfer("w", "x", 1)]));
    world.log.next_block(100);
    world.log.unreadable = true;
    assert!(world.ledger.expire_due(9, &mut world.log, |_| true).is_err());
    let hold = world.ledger.holds().next_to_expire().unwrap();
    world.ledger.holds_mut().suspend_expiry(hold.place);
    assert_eq!(world.ledger.expire_due(9, &mut world.log, |_| true), Ok(0));
    assert_eq!(world.ledger.holds().len(), 1);
    // When the disk works again, a post finds that the hold is due.
    world.log.unreadable = false;
    assert_eq!(
        figures(world.process(&Content::post("p", "h", &[]))).0,
        Reason::PendingExpired
    );
    assert_eq!(world.ledger.holds().len(), 0);
}

#[test]
fn a_hold_is_captured_in_parts_with_single_zero_amounts() {
    let mut world = world(100);
    let legs = [
        transfer("w", "x", 20),
        transfer("w", "bank", 30),
        transfer("bank", "x", 5),
    ];
    world.send(Content::pending("h", None, &legs));
    assert_eq!(columns(&world, "w"), [0, 100, 50, 0]);
    let part = |amounts: [u128; 3]| {
        let mut legs = legs.clone();
        for (leg, amount) in legs.iter_mut().zip(amounts) {
            leg.amount = Amount::new(amount);
        }
        legs
    };
    world.send(Content::post_and_keep("p1", "h", &part([0, 30, 0])));
    assert_eq!(columns(&world, "w"), [30, 100, 20, 0]);
    let over = world.send(Content::post_and_keep("p2", "h", &part([1, 1, 0])));
    assert_eq!(figures(over), (Reason::PendingAmountExceeded, 1, Side::Debit, 0));
    let over = world.send(Content::post("p3", "h", &part([21, 0, 0])));
    assert_eq!(figures(over), (Reason::PendingAmountExceeded, 0, Side::Debit, 20));
    world.send(Content::post_and_keep("p4", "h", &part([20, 0, 0])));
    assert_eq!(
        world.ledger.holds().len(),
        1,
        "the third leg still reserves something"
    );
    // Nothing remains after this, so the hold is posted, although `keep_remaining` is set.
    world.send(Content::post_and_keep("p5", "h", &part([0, 0, 5])));
    assert_eq!(world.ledger.holds().len(), 0);
    let ended = world.send(Content::void("v", "h"));
    assert_eq!(figures(ended).0, Reason::PendingAlreadyPosted);
    assert_eq!(columns(&world, "w"), [50, 100, 0, 0]);
    assert_eq!(columns(&world, "bank"), [100 + 5, 30, 0, 0]);
    world.log.check_keys_and_sequences();
}

#[test]
fn a_post_of_less_releases_the_rest_and_says_what_it_released() {
    let mut world = world(100);
    world.send(Content::pending("h", None, &[transfer("w", "x", 20)]));
    world.send(Content::post("p", "h", &[transfer("w", "x", 12)]));
    let leg = world.ledger.last_legs()[0];
    assert_eq!(
        (leg.moved, leg.released, leg.remaining),
        (Amount::from(12), Amount::from(8), Amount::ZERO)
    );
    assert_eq!(available(&world, "w"), Some(88));
}

#[test]
fn a_hold_that_can_not_be_posted_is_refused_with_the_reason() {
    let mut world = world(100);
    world.send(Content::posted("plain", &[transfer("w", "x", 1)]));
    world.send(Content::posted("refused", &[transfer("x", "w", 50)]));
    for id in ["posted", "voided", "open"] {
        world.send(Content::pending(id, None, &[transfer("w", "x", 5)]));
    }
    world.send(Content::post("p", "posted", &[]));
    world.send(Content::void("v", "voided"));
    let other = |debit, credit| [transfer(debit, credit, 5)];
    let two = [transfer("w", "x", 5), transfer("w", "x", 5)];
    let cases = [
        (
            Content::post("1", "nobody", &[]),
            Reason::PendingNotFound,
            0,
            Side::Debit,
        ),
        (
            Content::post("2", "plain", &[]),
            Reason::PendingNotFound,
            0,
            Side::Debit,
        ),
        (
            Content::void("3", "refused"),
            Reason::PendingNotFound,
            0,
            Side::Debit,
        ),
        (Content::void("4", "p"), Reason::PendingNotFound, 0, Side::Debit),
        (
            Content::post("5", "posted", &[]),
            Reason::PendingAlreadyPosted,
            0,
            Side::Debit,
        ),
        (
            Content::post("6", "voided", &[]),
            Reason::PendingAlreadyVoided,
            0,
            Side::Debit,
        ),
        (
            Content::post("7", "open", &other("bank", "x")),
            Reason::PendingTransfersDiffer,
            0,
            Side::Debit,
        ),
        (
            Content::post("8", "open", &other("w", "bank")),
            Reason::PendingTransfersDiffer,
            0,
            Side::Credit,
        ),
        (
            Content::post("9", "open", &two),
            Reason::PendingTransfersDiffer,
            1,
            Side::Debit,
        ),
    ];
    for (content, reason, place, side) in cases {
        let before = columns(&world, "w");
        assert_eq!(figures(world.send(content.clone())), (reason, place, side, 0));
        assert_eq!(columns(&world, "w"), before);
        assert!(matches!(
            world.send(content),
            Outcome::Rejected { replayed: true, .. }
        ));
    }
    // An unknown account is reported before an unknown hold.
    let unknown = Content::post("10", "nobody", &other("w", "nobody"));
    assert_eq!(
        figures(world.send(unknown)),
        (Reason::AccountNotFound, 0, Side::Credit, 0)
    );
}

#[test]
fn too_many_holds_are_refused_and_the_refusal_is_not_recorded() {
    let mut world = world(100);
    for number in 0..HOLDS_MAX {
        world.send(Content::pending(
            &format!("h{number}"),
            None,
            &[transfer("w", "x", 1)],
        ));
    }
    let more = Content::pending("more", None, &[transfer("w", "x", 1)]);
    assert_eq!(
        figures(world.send(more.clone())),
        (Reason::HoldsFull, 0, Side::Debit, 0)
    );
    world.send(Content::void("v", "h3"));
    sequence(world.send(more));
    // A lower maximum does not end holds.
    world.ledger.set_holds_max(0);
    assert_eq!(world.ledger.holds().len(), HOLDS_MAX);
    sequence(world.send(Content::post("p", "more", &[])));
}

// ===== status and limits =====

#[test]
fn frozen_debits_allow_credits_and_posts_and_frozen_accounts_only_void_and_expiry() {
    let mut world = world(100);
    for id in ["h1", "h2", "h3"] {
        world.send(Content::pending(id, None, &[transfer("w", "x", 5)]));
    }
    world.send(Content::pending("h4", Some(100), &[transfer("w", "x", 5)]));
    status(&mut world, "w", AccountStatus::DebitsFrozen);
    for content in [
        Content::posted("1", &[transfer("w", "x", 1)]),
        Content::pending("2", None, &[transfer("w", "x", 1)]),
        Content::reversal("3", "funds", &[]),
    ] {
        assert_eq!(
            figures(world.send(content)),
            (Reason::AccountFrozen, 0, Side::Debit, 0)
        );
    }
    sequence(world.send(Content::posted("4", &[transfer("bank", "w", 1)])));
    sequence(world.send(Content::post("5", "h1", &[])));

    status(&mut world, "w", AccountStatus::Frozen);
    let credit = world.send(Content::posted("6", &[transfer("bank", "w", 1)]));
    assert_eq!(figures(credit), (Reason::AccountFrozen, 0, Side::Credit, 0));
    let post = world.send(Content::post("7", "h2", &[]));
    assert_eq!(figures(post), (Reason::AccountFrozen, 0, Side::Debit, 0));
    sequence(world.send(Content::void("8", "h2")));
    // The hold is still there, and its debit account is not the only one that counts.
    status(&mut world, "w", AccountStatus::Open);
    status(&mut world, "x", AccountStatus::Frozen);
    let post = world.send(Content::post("9", "h3", &[]));
    assert_eq!(figures(post), (Reason::AccountFrozen, 0, Side::Credit, 0));
    world.next_block(200, 9);
    assert_eq!(
        columns(&world, "x"),
        [0, 5, 0, 5],
        "the void and the expiry worked"
    );
    // The rejected reversal left its target reversible.
    status(&mut world, "x", AccountStatus::Open);
    world.send(Content::reversal("10", "funds", &[transfer("w", "bank", 7)]));
    assert_eq!(columns(&world, "w"), [12, 101, 5, 0]);
}

#[test]
fn a_limit_that_is_lowered_after_a_hold_stops_neither_its_post_nor_its_end() {
    let mut world = world(0);
    let limit = |world: &mut World, units: u64| {
        let outcome = world.update(AccountUpdate {
            id: "w".to_owned(),
            overdraft_limit: Some(Amount::from(units)),
            ..AccountUpdate::default()
        });
        assert!(matches!(outcome, UpdateOutcome::Updated(_)), "{outcome:?}");
    };
    limit(&mut world, 50);
    for id in ["h1", "h2"] {
        sequence(world.send(Content::pending(id, None, &[transfer("w", "x", 25)])));
    }
    limit(&mut world, 0);
    assert_eq!(available(&world, "w"), Some(0), "never below zero");
    let more = world.send(Content::posted("1", &[transfer("w", "x", 1)]));
    assert_eq!(figures(more), (Reason::InsufficientFunds, 0, Side::Debit, 0));
    sequence(world.send(Content::post("2", "h1", &[])));
    sequence(world.send(Content::void("3", "h2")));
    assert_eq!(columns(&world, "w"), [25, 0, 0, 0]);
    // Pending credits fund nothing.
    world.send(Content::pending("h3", None, &[transfer("bank", "w", 100)]));
    let more = world.send(Content::posted("4", &[transfer("w", "x", 1)]));
    assert_eq!(figures(more).0, Reason::InsufficientFunds);
}

#[test]
fn an_account_is_closed_only_when_it_is_empty_and_stays_closed() {
    let mut world = world(10);
    let close = |world: &mut World, id: &str| {
        world.update(AccountUpdate {
            id: id.to_owned(),
            status: Some(AccountStatus::Closed),
            ..AccountUpdate::default()
        })
    };
    assert_eq!(close(&mut world, "w"), UpdateOutcome::NotEmpty);
    world.send(Content::posted("1", &[transfer("w", "bank", 10)]));
    world.send(Content::pending("2", None, &[transfer("bank", "w", 1)]));
    assert_eq!(close(&mut world, "w"), UpdateOutcome::NotEmpty);
    world.send(Content::void("3", "2"));
    assert!(matches!(close(&mut world, "w"), UpdateOutcome::Updated(_)));
    let revision = world.ledger.account("w").unwrap().revision;
    let credit = world.send(Content::posted("4", &[transfer("bank", "w", 1)]));
    assert_eq!(figures(credit), (Reason::AccountClosed, 0, Side::Credit, 0));
    let reopen = AccountUpdate {
        id: "w".to_owned(),
        status: Some(AccountStatus::Open),
        ..AccountUpdate::default()
    };
    assert_eq!(world.update(reopen), UpdateOutcome::Closed);
    let note = AccountUpdate {
        id: "w".to_owned(),
        metadata: Some(Metadata::from([("k".to_owned(), "v".to_owned())])),
        expected_revision: Some(revision),
        ..AccountUpdate::default()
    };
    assert!(matches!(world.update(note.clone()), UpdateOutcome::Updated(_)));
    assert_eq!(world.update(note), UpdateOutcome::ChangedSince);
    let unlimited = AccountUpdate {
        id: "bank".to_owned(),
        overdraft_limit: Some(Amount::from(1)),
        ..AccountUpdate::default()
    };
    assert_eq!(world.update(unlimited), UpdateOutcome::Unlimited);
    assert_eq!(close(&mut world, "nobody"), UpdateOutcome::NotFound);
    // The account is the one that was created, so a retry of its creation finds it.
    world.create(vec![wallet("w")]);
}

// ===== amount rules, overflow, precedence =====

#[test]
fn a_clamped_transfer_moves_what_both_accounts_allow() {
    let mut world = world(30);
    let till = NewAccount {
        rule: BalanceRule::DebitBalance,
        ..open("till")
    };
    world.create(vec![till]);
    world.send(Content::posted("1", &[transfer("till", "bank", 20)]));
    let both = |amount| [clamped("w", "till", amount, AmountRule::UpToBothAvailable)];
    world.send(Content::posted("2", &both(5)));
    assert_eq!(moved(&world), [5]);
    world.send(Content::posted("3", &both(MAX)));
    assert_eq!(moved(&world), [15], "the till had less than the wallet");
    let nothing = world.send(Content::posted("4", &both(1)));
    assert_eq!(figures(nothing), (Reason::NothingAvailable, 0, Side::Credit, 0));
    // A rule bounds only one side.
    let debit = [clamped("w", "till", 99, AmountRule::UpToDebitAvailable)];
    let refused = world.send(Content::posted("5", &debit));
    assert_eq!(figures(refused), (Reason::InsufficientFunds, 0, Side::Credit, 0));
    let sweep = [clamped("w", "bank", 99, AmountRule::UpToDebitAvailable)];
    world.send(Content::posted("6", &sweep));
    assert_eq!(moved(&world), [10]);
    // A leg that would move nothing refuses the whole transaction.
    let two = [transfer("bank", "x", 5), sweep[0].clone()];
    let nothing = world.send(Content::posted("7", &two));
    assert_eq!(figures(nothing), (Reason::NothingAvailable, 1, Side::Debit, 0));
    assert_eq!(columns(&world, "x"), [0, 0, 0, 0]);
}

#[test]
fn idempotency_compares_the_requested_amount() {
    let mut world = world(30);
    let sweep = |amount| {
        Content::posted(
            "s",
            &[clamped("w", "bank", amount, AmountRule::UpToDebitAvailable)],
        )
    };
    world.send(sweep(99));
    assert_eq!(moved(&world), [30]);
    assert!(matches!(
        world.send(sweep(99)),
        Outcome::Committed { replayed: true, .. }
    ));
    assert_eq!(moved(&world), [30], "the answer of a replay is the first one");
    let field = ContentField::Amount(0);
    assert_eq!(world.send(sweep(30)), Outcome::Reused { field });
    let exact = Content::posted("s", &[transfer("w", "bank", 99)]);
    let field = ContentField::AmountRule(0);
    assert_eq!(world.send(exact), Outcome::Reused { field });
    // A clamped hold reserves what there is.
    world.send(Content::posted("more", &[transfer("bank", "w", 8)]));
    let hold = [clamped("w", "x", 99, AmountRule::UpToDebitAvailable)];
    world.send(Content::pending("h", None, &hold));
    assert_eq!(columns(&world, "w"), [30, 38, 8, 0]);
    world.send(Content::post("p", "h", &[]));
    assert_eq!(columns(&world, "x"), [0, 8, 0, 0]);
}

#[test]
fn posted_and_pending_together_never_exceed_128_bits() {
    let mut world = World::new();
    world.create(vec![open("a"), open("b")]);
    world.send(Content::posted("1", &[transfer("a", "b", MAX - 10)]));
    world.send(Content::pending("h", None, &[transfer("a", "b", 10)]));
    for content in [
        Content::posted("2", &[transfer("a", "b", 1)]),
        Content::pending("3", None, &[transfer("a", "b", 1)]),
    ] {
        assert_eq!(
            figures(world.send(content)),
            (Reason::BalanceOverflow, 0, Side::Debit, 0)
        );
    }
    world.create(vec![open("c")]);
    let credit = world.send(Content::posted("4", &[transfer("c", "b", 1)]));
    assert_eq!(figures(credit), (Reason::BalanceOverflow, 0, Side::Credit, 0));
    world.send(Content::post("5", "h", &[]));
    assert_eq!(columns(&world, "a"), [MAX, 0, 0, 0]);
}

/// Each account breaks one rule more than the one before. The first rule in the order decides.
#[test]
fn the_first_broken_rule_decides() {
    let mut world = world(0);
    let dollars = NewAccount {
        asset: "USD".to_owned(),
        status: AccountStatus::Closed,
        ..wallet("usd")
    };
    let frozen = NewAccount {
        status: AccountStatus::Frozen,
        velocity_limits: vec![single_max(1)],
        ..wallet("frozen")
    };
    let closed = NewAccount {
        status: AccountStatus::Closed,
        ..wallet("closed")
    };
    let slow = NewAccount {
        velocity_limits: vec![single_max(1)],
        ..open("slow")
    };
    world.create(vec![dollars, frozen, closed, slow]);
    let any = AmountRule::UpToDebitAvailable;
    let cases = [
        ("nobody", "nobody", Reason::AccountNotFound, Side::Debit),
        ("closed", "nobody", Reason::AccountNotFound, Side::Credit),
        ("closed", "closed", Reason::SameAccount, Side::Credit),
        ("closed", "usd", Reason::AssetMismatch, Side::Credit),
        ("closed", "frozen", Reason::AccountClosed, Side::Debit),
        ("frozen", "closed", Reason::AccountFrozen, Side::Debit),
        ("w", "closed", Reason::AccountClosed, Side::Credit),
        ("w", "slow", Reason::NothingAvailable, Side::Debit),
    ];
    for (number, (debit, credit, reason, side)) in cases.into_iter().enumerate() {
        let id = format!("c{number}");
        let outcome = world.send(Content::posted(&id, &[clamped(debit, credit, 5, any)]));
        assert_eq!(figures(outcome), (reason, 0, side, 0), "{debit} {credit}");
    }
    let funds = world.send(Content::posted("1", &[transfer("w", "slow", 5)]));
    assert_eq!(figures(funds), (Reason::InsufficientFunds, 0, Side::Debit, 0));
    // Velocity limits are checked last: a later transfer that breaks another rule decides first.
    let two = [transfer("slow", "bank", 5), transfer("w", "x", 1)];
    let funds = world.send(Content::posted("2", &two));
    assert_eq!(figures(funds), (Reason::InsufficientFunds, 1, Side::Debit, 0));
    let slow = world.send(Content::posted("3", &two[..1]));
    assert_eq!(figures(slow).0, Reason::VelocityLimit);
}

// ===== velocity =====

fn single_max(units: u64) -> VelocityLimit {
    VelocityLimit {
        side: Side::Debit,
        window_nanos: 0,
        max_count: 0,
        max_amount: None,
        single_amount_max: Some(Amount::from(units)),
    }
}

#[test]
fn a_velocity_limit_names_what_is_used_and_when_there_is_room() {
    let mut world = World::new();
    world.log = super::memory_log::MemoryLog::starting_at(Timestamp::from_nanos(1_000 * SECOND));
    let limit = VelocityLimit {
        window_nanos: 63 * SECOND,
        max_count: 3,
        max_amount: Some(Amount::from(100)),
        ..single_max(90)
    };
    let limited = NewAccount {
        velocity_limits: vec![single_max(95), limit],
        ..open("l")
    };
    world.create(vec![open("bank"), limited]);
    let pay = |id: &str, amount| Content::posted(id, &[transfer("l", "bank", amount)]);
    let refused = |outcome: Outcome| match outcome {
        Outcome::Rejected { rejection, .. } => {
            let figures = rejection.velocity_figures().unwrap();
            let used = figures.used.minor_units();
            (figures.limit, figures.maximum, used, figures.room_at_seconds)
        }
        Outcome::Committed { .. } | Outcome::Reused { .. } => panic!("{outcome:?} instead of a rejection"),
    };
    assert_eq!(refused(world.send(pay("1", 96))), (0, Maximum::Single, 0, None));
    assert_eq!(refused(world.send(pay("2", 91))), (1, Maximum::Single, 0, None));
    // A hold counts when it is made. Its end gives nothing back, and a reversal neither counts nor gives back.
    world.send(Content::pending("h", None, &[transfer("l", "bank", 60)]));
    world.send(Content::void("v", "h"));
    assert_eq!(
        refused(world.send(pay("3", 41))),
        (1, Maximum::Amount, 60, Some(1_064))
    );
    world.next_block(10 * SECOND, 9);
    world.send(pay("4", 40));
    world.send(Content::reversal("r", "4", &[]));
    assert_eq!(
        refused(world.send(pay("5", 1))),
        (1, Maximum::Amount, 100, Some(1_064))
    );
    assert_eq!(
        refused(world.send(pay("6", 61))),
        (1, Maximum::Amount, 100, Some(1_074))
    );
    // All transfers of a transaction count, or none.
    world.next_block(60 * SECOND, 9);
    let three = [1, 2, 3].map(|amount| transfer("l", "bank", amount));
    let outcome = world.send(Content::posted("7", &three));
    let Outcome::Rejected { rejection, .. } = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!((rejection.transfer, rejection.side), (2, Side::Debit));
    assert_eq!(refused(outcome), (1, Maximum::Count, 3, Some(1_074)));
    sequence(world.send(Content::posted("8", &three[..2])));
    // The other side has no limit.
    sequence(world.send(Content::posted("9", &[transfer("bank", "l", 1_000)])));
}

// ===== reversals =====

#[test]
fn partial_reversals_never_exceed_the_payment_however_many_there_are() {
    let mut world = world(10_000);
    let two = [transfer("w", "x", 1_000), transfer("w", "bank", 5)];
    world.send(Content::posted("pay", &two));
    let back = |first, second| [transfer("x", "w", first), transfer("bank", "w", second)];
    let mut most = 0;
    for number in 0..999 {
        let before = world.log.lookups;
        sequence(world.send(Content::reversal(&format!("r{number}"), "pay", &back(1, 0))));
        most = most.max(world.log.lookups - before);
        assert_eq!(world.ledger.last_legs()[0].remaining, Amount::from(999 - number));
    }
    // Two lookups of ids, and then twice the logarithm of the number of reversals and a few more.
    assert!(most <= 2 + 2 * 10 + 2, "{most} lookups");
    let over = world.send(Content::reversal("over", "pay", &back(2, 0)));
    assert_eq!(figures(over), (Reason::AlreadyReversed, 0, Side::Debit, 1));
    let over = world.send(Content::reversal("over2", "pay", &back(1, 6)));
    assert_eq!(figures(over), (Reason::AlreadyReversed, 1, Side::Debit, 5));
    // Without transfers, a reversal takes what is left, the last transfer first.
    sequence(world.send(Content::reversal("rest", "pay", &[])));
    let legs = world.ledger.last_legs();
    let amounts: Vec<_> = legs.iter().map(|leg| leg.moved.minor_units()).collect();
    assert_eq!(amounts, [5, 1]);
    for content in [
        Content::reversal("again", "pay", &[]),
        Content::reversal("again2", "pay", &back(0, 1)),
    ] {
        assert_eq!(
            figures(world.send(content)),
            (Reason::AlreadyReversed, 0, Side::Debit, 0)
        );
    }
    assert_eq!(columns(&world, "w"), [1_005, 11_005, 0, 0]);
    world.log.check_keys_and_sequences();
}

#[test]
fn a_capture_is_reversed_by_its_own_id() {
    let mut world = world(100);
    let legs = [transfer("w", "x", 20), transfer("w", "bank", 10)];
    world.send(Content::pending("h", None, &legs));
    let capture = [transfer("w", "x", 15), transfer("w", "bank", 0)];
    world.send(Content::post_and_keep("c1", "h", &capture));
    world.send(Content::post("c2", "h", &[]));
    sequence(world.send(Content::reversal("r1", "c1", &[])));
    assert_eq!(columns(&world, "w"), [15 + 5 + 10, 115, 0, 0]);
    let part = [transfer("x", "w", 2), transfer("bank", "w", 10)];
    sequence(world.send(Content::reversal("r2", "c2", &part)));
    sequence(world.send(Content::reversal("r3", "c2", &[])));
    assert_eq!(columns(&world, "w"), [30, 130, 0, 0]);
    for id in ["c1", "c2"] {
        let again = world.send(Content::reversal(&format!("{id}-again"), id, &[]));
        assert_eq!(figures(again).0, Reason::AlreadyReversed);
    }
}

#[test]
fn only_what_moved_money_can_be_reversed() {
    let mut world = world(100);
    world.send(Content::pending("h", None, &[transfer("w", "x", 5)]));
    world.send(Content::posted("refused", &[transfer("x", "w", 50)]));
    world.send(Content::posted("pay", &[transfer("w", "x", 9)]));
    world.send(Content::reversal("r", "pay", &[transfer("x", "w", 4)]));
    world.send(Content::void("v", "h"));
    for id in ["h", "refused", "r", "v"] {
        let outcome = world.send(Content::reversal(&format!("of-{id}"), id, &[]));
        assert_eq!(
            figures(outcome),
            (Reason::NotReversible, 0, Side::Debit, 0),
            "{id}"
        );
    }
    let unknown = world.send(Content::reversal("1", "nothing", &[]));
    assert_eq!(figures(unknown), (Reason::ReversedNotFound, 0, Side::Debit, 0));
    let two = [transfer("x", "w", 1), transfer("x", "w", 1)];
    for (id, transfers, place, side) in [
        ("2", vec![transfer("w", "x", 1)], 0, Side::Debit),
        ("3", vec![transfer("x", "bank", 1)], 0, Side::Credit),
        ("4", two.to_vec(), 1, Side::Debit),
    ] {
        let outcome = world.send(Content::reversal(id, "pay", &transfers));
        assert_eq!(figures(outcome), (Reason::NotReversible, place, side, 0));
    }
    // The balance rule applies, and the target stays reversible.
    world.send(Content::posted("spend", &[transfer("x", "bank", 5)]));
    let short = world.send(Content::reversal("5", "pay", &[]));
    assert_eq!(figures(short), (Reason::InsufficientFunds, 0, Side::Debit, 0));
    world.send(Content::posted("back", &[transfer("bank", "x", 5)]));
    sequence(world.send(Content::reversal("6", "pay", &[])));
}

/// Without transfers, the caller does not know the number of legs before the execution.
#[test]
fn what_has_more_legs_than_the_caller_can_answer_for_changes_nothing() {
    let mut world = world(100);
    let legs: Vec<_> = (1..=3).map(|amount| transfer("w", "x", amount)).collect();
    for hold in ["h1", "h2", "h3"] {
        world.send(Content::pending(hold, None, &legs));
    }
    for (content, recorded) in [
        (Content::post("p", "h1", &[]), false),
        (Content::void("v", "h2"), false),
        (Content::reversal("r", "p", &[]), false),
        (Content::post("p", "h1", &[]), true),
        (Content::reversal("r", "p", &[]), true),
    ] {
        let entries = world.log.entries;
        let refused = process_with_legs(&mut world, &content, 2);
        let Outcome::Rejected { rejection, replayed } = refused else {
            panic!("{content:?}: {refused:?}");
        };
        assert_eq!(
            (rejection.reason, rejection.available().minor_units(), replayed),
            (Reason::MemoryLimit, 3, recorded),
            "{content:?}"
        );
        assert_eq!(world.log.entries, entries);
        let outcome = world.send(content.clone());
        assert!(
            matches!(outcome, Outcome::Committed { replayed, .. } if replayed == recorded),
            "{content:?}"
        );
        let repeated = process_with_legs(&mut world, &content, 3);
        assert!(
            matches!(repeated, Outcome::Committed { replayed: true, .. }),
            "{content:?}"
        );
    }
    // The number of transfers bounds the number of legs.
    let content = Content::post("all", "h3", &legs);
    let content = process_with_legs(&mut world, &content, 0);
    assert!(matches!(content, Outcome::Committed { .. }));
}

fn process_with_legs(world: &mut World, content: &Content, legs_max: usize) -> Outcome {
    let encoded = content.encode();
    let view = TransactionView::parse(&encoded).unwrap();
    let tags = Tags {
        id: tag_index::tag(content.id.as_bytes(), world.ledger.accounts().seed()),
        named: None,
        accounts: &[],
    };
    let processed = world
        .ledger
        .process_tagged(&view, tags, None, legs_max, &mut world.log);
    processed.unwrap()
}

#[test]
fn the_first_sender_of_a_transaction_is_recorded() {
    let mut world = world(10);
    let content = Content::posted("t", &[transfer("w", "x", 1)]);
    let encoded = content.encode();
    let view = TransactionView::parse(&encoded).unwrap();
    let tags = Tags {
        id: tag_index::tag(b"t", world.ledger.accounts().seed()),
        named: None,
        accounts: &[],
    };
    for (name, is_replayed) in [("alice", false), ("bob", true)] {
        let name = Some(name.as_bytes());
        let outcome = world
            .ledger
            .process_tagged(&view, tags, name, TRANSFERS_MAX, &mut world.log);
        assert!(matches!(outcome, Ok(Outcome::Committed { replayed, .. }) if replayed == is_replayed));
    }
    assert_eq!(world.log.principal("t"), Some(&b"alice"[..]));
    assert_eq!(world.log.principal("funds"), None);
}
