//! Tests of the encoding of transactions.

use proptest::prelude::*;

use super::*;

fn heading(metadata: &Metadata) -> Heading<'_> {
    Heading {
        id: b"t",
        phase: Phase::Posted,
        effective_time: None,
        metadata,
        names: Names::Nothing,
        keep_remaining: false,
        pending_timeout: None,
    }
}

proptest! {
    #[test]
    fn both_forms_are_decoded_as_they_were_encoded(
        id in "[a-z]{1,64}",
        effective in proptest::option::of((any::<i64>(), 0..1_000_000_000_u32)),
        metadata in proptest::collection::btree_map("[a-z]{1,8}", ".{0,20}", 0..4),
        transfers in proptest::collection::vec(("[a-z]{1,20}", "[a-z]{1,20}", any::<u128>(), any::<u32>()), 1..5),
    ) {
        let effective_time = effective.map(|(seconds, nanos)| EffectiveTime { seconds, nanos });
        let heading = Heading { id: id.as_bytes(), effective_time, ..heading(&metadata) };
        let named: Vec<Transfer<&str>> = transfers.iter().map(|(debit, credit, amount, code)| Transfer {
            debit: debit.as_str(), credit: credit.as_str(), amount: Amount::new(*amount), code: *code, rule: AmountRule::Exact,
        }).collect();

        let mut bytes = Vec::new();
        put_transaction(&mut bytes, &heading, named.iter().copied());
        let view = TransactionView::<&str>::parse(&bytes).unwrap();
        prop_assert_eq!(view.id(), id.as_str());
        prop_assert_eq!(view.effective_time(), effective_time);
        prop_assert_eq!(view.metadata().unwrap(), metadata.clone());
        prop_assert_eq!(view.transfers().collect::<Result<Vec<_>, _>>().unwrap(), named);

        let numbered = transfers.iter().zip(0..).map(|((_, _, amount, code), number)| Transfer {
            debit: AccountIndex(number), credit: AccountIndex(u32::MAX - number), amount: Amount::new(*amount), code: *code, rule: AmountRule::Exact,
        }).collect::<Vec<_>>();
        let mut journal = Vec::new();
        put_transaction(&mut journal, &heading, numbered.iter().copied());
        let view_of_journal = TransactionView::<AccountIndex>::parse(&journal).unwrap();
        prop_assert_eq!(view_of_journal.heading_bytes(), view.heading_bytes());
        prop_assert_eq!(view_of_journal.transfers().collect::<Result<Vec<_>, _>>().unwrap(), numbered);
    }

    #[test]
    fn no_bytes_make_a_view_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(view) = TransactionView::<AccountIndex>::parse(&bytes) {
            prop_assert!(view.transfers().count() <= TRANSFERS_MAX);
        }
        if let Ok(view) = TransactionView::<&str>::parse(&bytes) {
            prop_assert!(view.transfers().count() <= TRANSFERS_MAX);
        }
    }
}

#[test]
#[should_panic(expected = "a transaction of 257 transfers")]
fn a_transaction_with_too_many_transfers_is_not_cut() {
    let metadata = Metadata::new();
    let transfer = Transfer {
        debit: AccountIndex(0),
        credit: AccountIndex(1),
        amount: Amount::from(1),
        code: 0,
        rule: AmountRule::Exact,
    };
    let transfers = vec![transfer; TRANSFERS_MAX + 1];
    put_transaction(&mut Vec::new(), &heading(&metadata), transfers.into_iter());
}

/// A void that has transfers, a reversal with an amount rule, and the like must never become a record: what a replay does
/// with them is not defined.
#[test]
fn fields_that_contradict_each_other_are_not_encoded() {
    let metadata = Metadata::new();
    let (hold, reversed) = (Names::Hold(b"h"), Names::Reversed(b"r"));
    let clamped = AmountRule::UpToDebitAvailable;
    let is_encoded = |phase, names, transfers: usize, rule, keep_remaining, pending_timeout| {
        let heading = Heading {
            phase,
            names,
            keep_remaining,
            pending_timeout,
            ..heading(&metadata)
        };
        let transfer = Transfer {
            debit: AccountIndex(0),
            credit: AccountIndex(1),
            amount: Amount::from(1),
            code: 0,
            rule,
        };
        let put = || put_transaction(&mut Vec::new(), &heading, vec![transfer; transfers].into_iter());
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(put)).is_ok()
    };
    let exact = AmountRule::Exact;
    for (phase, names, transfers, rule, keeps, timeout, expected) in [
        (Phase::Posted, Names::Nothing, 1, clamped, false, None, true),
        (Phase::Posted, Names::Nothing, 0, exact, false, None, false),
        (Phase::Posted, Names::Nothing, 1, exact, true, None, false),
        (Phase::Posted, Names::Nothing, 1, exact, false, Some(1), false),
        (Phase::Posted, hold, 1, exact, false, None, false),
        (Phase::Posted, reversed, 0, exact, false, None, true),
        (Phase::Posted, reversed, 1, exact, false, None, true),
        (Phase::Posted, reversed, 1, clamped, false, None, false),
        (Phase::Posted, reversed, 1, exact, true, None, false),
        (Phase::Pending, Names::Nothing, 1, clamped, false, Some(1), true),
        (Phase::Pending, Names::Nothing, 1, exact, true, None, false),
        (Phase::Pending, reversed, 0, exact, false, None, false),
        (Phase::PostPending, Names::Nothing, 1, exact, false, None, false),
        (Phase::PostPending, hold, 0, exact, false, None, true),
        (Phase::PostPending, hold, 1, exact, true, None, true),
        (Phase::PostPending, hold, 0, exact, true, None, false),
        (Phase::PostPending, hold, 1, clamped, false, None, false),
        (Phase::PostPending, hold, 0, exact, false, Some(1), false),
        (Phase::VoidPending, hold, 0, exact, false, None, true),
        (Phase::VoidPending, hold, 1, exact, false, None, false),
        (Phase::VoidPending, hold, 0, exact, true, None, false),
        (Phase::VoidPending, Names::Nothing, 1, exact, false, None, false),
    ] {
        assert_eq!(
            is_encoded(phase, names, transfers, rule, keeps, timeout),
            expected,
            "{phase:?} {names:?} {transfers} {rule:?} {keeps} {timeout:?}"
        );
    }
}

/// The phase, the other transaction, the number of transfers, their rule, whether the rest is kept, and the timeout.
type Form = (Phase, Names<'static>, u32, AmountRule, bool, Option<u64>);

/// The forms of a transaction.
fn forms() -> [Form; 8] {
    let exact = AmountRule::Exact;
    [
        (
            Phase::Posted,
            Names::Nothing,
            2,
            AmountRule::UpToCreditAvailable,
            false,
            None,
        ),
        (Phase::Posted, Names::Reversed(b"r"), 0, exact, false, None),
        (Phase::Posted, Names::Reversed(b"r"), 256, exact, false, None),
        (
            Phase::Pending,
            Names::Nothing,
            1,
            AmountRule::UpToBothAvailable,
            false,
            Some(u64::MAX),
        ),
        (
            Phase::Pending,
            Names::Nothing,
            1,
            AmountRule::UpToDebitAvailable,
            false,
            None,
        ),
        (Phase::PostPending, Names::Hold(b"h"), 0, exact, false, None),
        (Phase::PostPending, Names::Hold(b"h"), 1, exact, true, None),
        (Phase::VoidPending, Names::Hold(b"h"), 0, exact, false, None),
    ]
}

/// All combinations of the optional fields, in the forms that may have them.
#[test]
fn every_field_is_decoded_as_it_was_encoded() {
    let texts = [Metadata::new(), Metadata::from([("k".into(), "v".into())])];
    let times = [
        None,
        Some(EffectiveTime {
            seconds: i64::MIN,
            nanos: 999_999_999,
        }),
    ];
    let exact = AmountRule::Exact;
    for (metadata, effective_time) in texts.iter().zip(times) {
        for (phase, names, count, rule, keep_remaining, pending_timeout) in forms() {
            let heading = Heading {
                phase,
                names,
                keep_remaining,
                pending_timeout,
                effective_time,
                ..heading(metadata)
            };
            let transfers: Vec<_> = (0..count)
                .map(|number| Transfer {
                    debit: AccountIndex(number),
                    credit: AccountIndex(u32::MAX),
                    amount: Amount::new(u128::MAX - u128::from(number)),
                    code: number,
                    rule,
                })
                .collect();
            let mut encoded = Vec::new();
            put_transaction(&mut encoded, &heading, transfers.iter().copied());
            let view = TransactionView::<AccountIndex>::parse(&encoded).unwrap();
            let found = Heading {
                id: view.id_bytes(),
                phase: view.phase(),
                effective_time: view.effective_time(),
                metadata: &view.metadata().unwrap(),
                names: view.names(),
                keep_remaining: view.keep_remaining(),
                pending_timeout: view.pending_timeout(),
            };
            assert_eq!(found, heading);
            let found: Result<Vec<_>, _> = view.transfers().collect();
            assert_eq!(found, Ok(transfers));
            let is_plain = phase == Phase::Posted && names == Names::Nothing && rule == exact;
            assert_eq!(view.is_plain(), is_plain);
            assert_eq!(view.is_derived(), names != Names::Nothing || rule != exact);
        }
    }
}
