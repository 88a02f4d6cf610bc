//! Tests of the encoding of records.

use super::*;
use crate::{
    account::{AccountStatus, BalanceRule, METADATA_BYTES_MAX, METADATA_ENTRIES_MAX, Metadata},
    chain::LINKS_BYTES_MAX,
    effects::legs as legs_of,
    money::Amount,
    reject::Reason,
    side::Side,
    time::Timestamp,
    transaction::{AmountRule, EffectiveTime, Heading, TRANSFERS_MAX, Transfer, put_transaction},
    velocity::{Exceeded, Maximum, VELOCITY_LIMITS_MAX, VelocityLimit, WINDOW_NANOS_MAX},
};

#[test]
fn records_are_decoded_as_they_were_encoded() {
    let account = NewAccount {
        id: "a".into(),
        asset: "EUR".into(),
        rule: BalanceRule::DebitBalance,
        overdraft_limit: Amount::new(u128::MAX),
        status: AccountStatus::Frozen,
        metadata: Metadata::from([("k".into(), "v".into())]),
        velocity_limits: Vec::new(),
    };
    let content = content(1, &Metadata::new());
    let rejection =
        Rejection::new(Reason::InsufficientFunds, 0, Side::Debit).with_available(Amount::new(u128::MAX - 1));
    let mut body = vec![0; 16];
    let index = AccountIndex(300);
    let place = |at: usize| 0x0003_0000_0000 + at as u64;
    let put = |body: &mut Vec<u8>, ordinal, record| {
        let at = place(body.len());
        put_record(body, 16, ordinal, at, record, Links::default(), &mut Vec::new());
    };
    put(
        &mut body,
        0,
        NewRecord::AccountCreated {
            index,
            account: &account,
        },
    );
    let second_at = body.len();
    put(
        &mut body,
        0,
        NewRecord::Committed {
            content: &content,
            principal: None,
        },
    );
    let third_at = body.len();
    put(
        &mut body,
        1,
        NewRecord::Rejected {
            content: &content,
            principal: None,
            rejection,
        },
    );

    let mut reader = Reader::new(&body[16..]);
    let first = take_record(&mut reader, place(16)).unwrap();
    assert!(
        matches!(first.record, Record::AccountCreated { index: AccountIndex(300), account: read } if read == account)
    );
    let second = take_record(&mut reader, place(second_at)).unwrap();
    assert!(
        matches!(second.record, Record::Committed { transaction, effects: None } if transaction.encoded() == content)
    );
    let third = take_record(&mut reader, place(third_at)).unwrap();
    assert_eq!((third.back as usize, third.ordinal), (third_at - 16, 1));
    assert!(
        matches!(third.record, Record::Rejected { transaction, rejection: read } if transaction.id() == "t" && read == rejection)
    );
    assert!(reader.is_empty());
}

#[test]
fn every_changed_bit_and_every_wrong_place_is_detected() {
    let content = content(2, &Metadata::new());
    let (mut body, mut scratch) = (Vec::new(), Vec::new());
    let record = NewRecord::Committed {
        content: &content,
        principal: None,
    };
    put_record(&mut body, 0, 7, 1 << 40, record, Links::default(), &mut scratch);
    let whole = body.len();
    // A second record follows. If damage makes the first record longer, the reader takes bytes of the second
    // record.
    put_record(
        &mut body,
        0,
        8,
        (1 << 40) + whole as u64,
        record,
        Links::default(),
        &mut scratch,
    );
    assert!(take_record(&mut Reader::new(&body), 1 << 40).is_ok());
    for bit in 0..whole * 8 {
        let mut damaged = body.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(
            take_record(&mut Reader::new(&damaged), 1 << 40).is_err(),
            "bit {bit}"
        );
    }
    for bit in 0..u64::BITS {
        let elsewhere = 1 << 40 ^ 1 << bit;
        assert!(
            take_record(&mut Reader::new(&body), elsewhere).is_err(),
            "place {elsewhere}"
        );
    }
}

/// Existing data directories hold these bytes. If the encoding changes, the version of data directories must change
/// too.
#[test]
fn the_encoding_of_a_record_does_not_change() {
    let content = content(1, &Metadata::new());
    let (mut body, mut scratch) = (Vec::new(), Vec::new());
    put_record(
        &mut body,
        0,
        5,
        128,
        NewRecord::Committed {
            content: &content,
            principal: None,
        },
        Links::default(),
        &mut scratch,
    );
    let text: String = body.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        text,
        "3b020005000174010001ffffffffffffffff01000000ffffffff0ffeffffff0fffffffffffffffffffffffffffffffffffff03ffffffff0f8ee58e7f"
    );
}

/// Metadata with the maximum number of entries and of bytes.
fn longest_metadata() -> Metadata {
    let metadata: Metadata = (0..METADATA_ENTRIES_MAX)
        .map(|n| (format!("{n:032}"), "v".repeat(32)))
        .collect();
    let bytes = metadata.iter().map(|(key, value)| key.len() + value.len());
    assert_eq!(bytes.sum::<usize>(), METADATA_BYTES_MAX);
    metadata
}

const LONGEST_ID: [u8; 64] = [b'i'; 64];
const LONGEST_PRINCIPAL: [u8; PRINCIPAL_BYTES_MAX] = [b'p'; PRINCIPAL_BYTES_MAX];

/// The longest transaction of a form, with account numbers.
fn longest(phase: Phase, names: Names<'_>, transfers: usize, rule: AmountRule) -> Vec<u8> {
    let is_hold = phase == Phase::Pending;
    let metadata = longest_metadata();
    let heading = Heading {
        id: &LONGEST_ID,
        phase,
        effective_time: Some(EffectiveTime {
            seconds: -1,
            nanos: 1,
        }),
        metadata: &metadata,
        names,
        keep_remaining: phase == Phase::PostPending && transfers > 0,
        pending_timeout: is_hold.then_some(u64::MAX),
    };
    let mut content = Vec::new();
    let transfers = vec![Transfer { rule, ..WIDEST }; transfers];
    put_transaction(&mut content, &heading, transfers.into_iter());
    content
}

/// All forms of a transaction, each as long as it can be: with [`TRANSFERS_MAX`] transfers, or without them.
fn longest_of_each_form() -> Vec<Vec<u8>> {
    let (hold, reversed) = (Names::Hold(&LONGEST_ID), Names::Reversed(&LONGEST_ID));
    let forms = [
        (Phase::Posted, Names::Nothing, TRANSFERS_MAX, AmountRule::Exact),
        (
            Phase::Posted,
            Names::Nothing,
            TRANSFERS_MAX,
            AmountRule::UpToBothAvailable,
        ),
        (Phase::Pending, Names::Nothing, TRANSFERS_MAX, AmountRule::Exact),
        (
            Phase::Pending,
            Names::Nothing,
            TRANSFERS_MAX,
            AmountRule::UpToBothAvailable,
        ),
        (Phase::PostPending, hold, 0, AmountRule::Exact),
        (Phase::PostPending, hold, TRANSFERS_MAX, AmountRule::Exact),
        (Phase::VoidPending, hold, 0, AmountRule::Exact),
        (Phase::Posted, reversed, 0, AmountRule::Exact),
        (Phase::Posted, reversed, TRANSFERS_MAX, AmountRule::Exact),
    ];
    let longest = |(phase, names, transfers, rule)| longest(phase, names, transfers, rule);
    forms.into_iter().map(longest).collect()
}

/// Encodes a record with the largest numbers in its frame, checks its length, and passes the decoded record to `check`.
fn check_longest(record: NewRecord<'_>, check: impl FnOnce(FramedRecord<'_>)) {
    // In this test, the record starts 300 bytes after the start of its block, a number that takes 2 bytes. The largest
    // distance takes 5 bytes, so the longest record is 3 bytes longer.
    let (mut body, place) = (vec![0; 300], u64::MAX - 1);
    put_record(
        &mut body,
        0,
        u32::MAX,
        place,
        record,
        Links(&[0xff; LINKS_BYTES_MAX]),
        &mut Vec::new(),
    );
    let encoded = &body[300..];
    assert!(encoded.len() + 3 <= RECORD_BYTES_MAX, "{} bytes", encoded.len());
    let mut reader = Reader::new(encoded);
    let framed = take_record(&mut reader, place).unwrap();
    assert!(reader.is_empty());
    assert_eq!((framed.back, framed.ordinal), (300, u32::MAX));
    check(framed);
}

#[test]
fn the_longest_transaction_of_each_form_fits_a_record() {
    let principal = Some(&LONGEST_PRINCIPAL[..]);
    for content in longest_of_each_form() {
        let transaction = TransactionView::<AccountIndex>::parse(&content).unwrap();
        if transaction.is_derived() {
            let legs = vec![WIDEST_LEG; TRANSFERS_MAX];
            let record = NewRecord::Derived {
                content: &content,
                principal,
                origin: u64::MAX,
                legs: &legs,
            };
            check_longest(record, |framed| {
                assert_eq!(framed.principal, principal);
                let Record::Committed {
                    transaction,
                    effects: Some(effects),
                } = framed.record
                else {
                    panic!("{:?}", framed.record);
                };
                assert_eq!(transaction.encoded(), content);
                assert_eq!(effects.origin, u64::MAX);
                let mut read = Legs::new();
                legs_of(&transaction, Some(effects), &mut read).unwrap();
                assert_eq!(read.len(), TRANSFERS_MAX);
                assert!(
                    read.iter()
                        .all(|leg| (leg.debit, leg.credit) == (WIDEST.debit, WIDEST.credit))
                );
                let widest = |leg: &Leg| [leg.moved, leg.released, leg.remaining].contains(&WIDEST.amount);
                assert!(read.iter().all(widest));
            });
        } else {
            let record = NewRecord::Committed {
                content: &content,
                principal,
            };
            check_longest(record, |framed| {
                assert_eq!(framed.principal, principal);
                let read = framed.record.transaction().unwrap();
                assert_eq!((read.0.encoded(), read.1), (&content[..], None));
            });
        }
        let exceeded = Exceeded {
            limit: 3,
            maximum: Maximum::Single,
            used: u128::MAX,
            room_at: Some(Timestamp::from_nanos(4_294_967_295_000_000_000)),
        };
        let rejection = Rejection::velocity(255, Side::Credit, &exceeded);
        let record = NewRecord::Rejected {
            content: &content,
            principal,
            rejection,
        };
        check_longest(record, |framed| {
            assert_eq!(framed.principal, principal);
            let read = framed.record.transaction().unwrap();
            assert_eq!((read.0.encoded(), read.1), (&content[..], Some(rejection)));
            assert!(!framed.record.has_sequence());
        });
    }
}

#[test]
fn the_longest_expiry_account_and_update_fit_a_record() {
    let legs = vec![
        Leg {
            moved: Amount::ZERO,
            remaining: Amount::ZERO,
            ..WIDEST_LEG
        };
        TRANSFERS_MAX
    ];
    let record = NewRecord::HoldExpired {
        hold_id: &LONGEST_ID,
        hold: u64::MAX,
        legs: &legs,
    };
    check_longest(record, |framed| {
        let keys = framed.record.keys();
        assert_eq!(keys, [None, Some(RecordKey::HoldEnd(&LONGEST_ID))]);
        let Record::HoldExpired { hold, legs: read, .. } = framed.record else {
            panic!("{:?}", framed.record);
        };
        assert_eq!((hold, &read[..]), (u64::MAX, &legs[..]));
    });
    let limit = VelocityLimit {
        side: Side::Credit,
        window_nanos: WINDOW_NANOS_MAX,
        max_count: u64::MAX,
        max_amount: Some(WIDEST.amount),
        single_amount_max: Some(WIDEST.amount),
    };
    let account = NewAccount {
        id: "a".repeat(64),
        asset: "A".repeat(16),
        rule: BalanceRule::DebitBalance,
        overdraft_limit: WIDEST.amount,
        status: AccountStatus::DebitsFrozen,
        metadata: longest_metadata(),
        velocity_limits: vec![limit; VELOCITY_LIMITS_MAX],
    };
    let index = AccountIndex(u32::MAX);
    let record = NewRecord::AccountCreated {
        index,
        account: &account,
    };
    check_longest(record, |framed| {
        assert!(
            matches!(framed.record, Record::AccountCreated { index: found, account: read } if (found, &read) == (index, &account))
        );
    });
    let terms = account.clone().into_terms();
    let record = NewRecord::AccountUpdated {
        index,
        previous: Some(7),
        terms: &terms,
    };
    check_longest(record, |framed| {
        assert!(!framed.record.has_sequence());
        assert!(
            matches!(framed.record, Record::AccountUpdated { index: found, previous: Some(7), terms: read } if (found, &read) == (index, &terms))
        );
    });
}

/// The keys of a record include a key for its effect on another transaction.
#[test]
fn a_record_is_found_under_what_it_did() {
    let hold = Names::Hold(b"h");
    let end = Some(RecordKey::HoldEnd(b"h"));
    let reversal = Some(RecordKey::Reversal(b"h", 7));
    let zero = Leg::new(AccountIndex(0), AccountIndex(1));
    let rest = Leg {
        remaining: Amount::from(1),
        ..zero
    };
    for (phase, names, transfers, keeps, leg, other) in [
        (Phase::Posted, Names::Nothing, 1, false, zero, None),
        (Phase::Pending, Names::Nothing, 1, false, zero, None),
        (Phase::PostPending, hold, 0, false, zero, end),
        (Phase::PostPending, hold, 1, false, zero, end),
        (Phase::PostPending, hold, 1, true, rest, None),
        (Phase::PostPending, hold, 1, true, zero, end),
        (Phase::VoidPending, hold, 0, false, zero, end),
        (Phase::Posted, Names::Reversed(b"h"), 0, false, zero, reversal),
        (Phase::Posted, Names::Reversed(b"h"), 1, false, rest, reversal),
    ] {
        let metadata = Metadata::new();
        let heading = Heading {
            id: b"t",
            phase,
            effective_time: None,
            metadata: &metadata,
            names,
            keep_remaining: keeps,
            pending_timeout: None,
        };
        let mut content = Vec::new();
        put_transaction(&mut content, &heading, vec![WIDEST; transfers].into_iter());
        let record = NewRecord::Derived {
            content: &content,
            principal: None,
            origin: 7,
            legs: &[leg],
        };
        check_longest(record, |framed| {
            let own = Some(RecordKey::Transaction(b"t"));
            assert_eq!(framed.record.keys(), [own, other], "{phase:?} {names:?} {keeps}");
            assert_eq!(framed.record.ends_hold(), other == end);
        });
    }
}

#[test]
#[should_panic(expected = "a record can't start at byte 3 if the body of its block starts at byte 4")]
fn a_record_that_starts_before_its_block_is_not_written() {
    let record = NewRecord::Committed {
        content: b"",
        principal: None,
    };
    put_record(
        &mut vec![0; 3],
        4,
        0,
        0,
        record,
        Links::default(),
        &mut Vec::new(),
    );
}

#[test]
#[should_panic(expected = "is too long: it could not be read back")]
fn a_record_that_is_too_long_is_not_written() {
    let content = [0; RECORD_BYTES_MAX];
    let record = NewRecord::Committed {
        content: &content,
        principal: None,
    };
    put_record(
        &mut Vec::new(),
        0,
        0,
        0,
        record,
        Links::default(),
        &mut Vec::new(),
    );
}

/// A transfer with the largest numbers.
const WIDEST: Transfer<AccountIndex> = Transfer {
    debit: AccountIndex(u32::MAX),
    credit: AccountIndex(u32::MAX - 1),
    amount: Amount::new(u128::MAX),
    code: u32::MAX,
    rule: AmountRule::Exact,
};

const WIDEST_LEG: Leg = Leg {
    debit: WIDEST.debit,
    credit: WIDEST.credit,
    moved: WIDEST.amount,
    released: WIDEST.amount,
    remaining: WIDEST.amount,
};

fn content(transfers: usize, metadata: &Metadata) -> Vec<u8> {
    let effective_time = Some(EffectiveTime {
        seconds: -1,
        nanos: 1,
    });
    let heading = Heading {
        id: b"t",
        phase: Phase::Posted,
        effective_time,
        metadata,
        names: Names::Nothing,
        keep_remaining: false,
        pending_timeout: None,
    };
    let mut content = Vec::new();
    put_transaction(&mut content, &heading, vec![WIDEST; transfers].into_iter());
    content
}
