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
