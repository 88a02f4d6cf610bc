//! Compares the reader of `wire.rs` with prost: both read the same bytes, prost into the generated types.

use proptest::{collection::vec, prelude::*, sample::Index};
use prost::{Message, encoding::WireType};
use tally_ledger::TRANSFERS_MAX;
use tonic::Status;

use super::{
    super::split::{Found, Splitter},
    *,
};
use crate::proto::{
    ProcessTransactionRequest, ProcessTransactionsRequest, StreamTransactionsRequest, Transfer, Uint128,
    transfer,
};

const FIXED64: u8 = WireType::SixtyFourBit as u8;
const FIXED32: u8 = WireType::ThirtyTwoBit as u8;
const DELIMITED: u8 = WireType::LengthDelimited as u8;
const GROUP: u8 = WireType::StartGroup as u8;
const GROUP_END: u8 = WireType::EndGroup as u8;

fn text(text: &str) -> Text<'_> {
    Text::of(text.as_bytes()).unwrap()
}

/// Converts a request that prost has read, for the comparison.
fn expected(request: &ProcessTransactionRequest) -> WireTransaction<'_> {
    let ProcessTransactionRequest {
        transaction_id,
        phase,
        transfers,
        pending_transaction_id,
        pending_timeout,
        effective_time,
        metadata,
        keep_remaining,
        reverses_transaction_id,
        return_balances,
    } = request;
    let amount = |amount: &transfer::Amount| match amount {
        transfer::Amount::MinorUnits(units) => WireAmount::Narrow(*units),
        transfer::Amount::WideMinorUnits(Uint128 { high, low }) => WireAmount::Wide {
            high: *high,
            low: *low,
        },
    };
    WireTransaction {
        id: text(transaction_id),
        phase: *phase,
        transfers: transfers
            .iter()
            .take(TRANSFERS_MAX)
            .map(|transfer| WireTransfer {
                debit: text(&transfer.debit_account_id),
                credit: text(&transfer.credit_account_id),
                amount: transfer.amount.as_ref().map(amount),
                code: transfer.code,
                amount_rule: transfer.amount_rule,
            })
            .collect(),
        transfer_count: transfers.len(),
        pending_transaction_id: text(pending_transaction_id),
        pending_timeout: pending_timeout.map(|time| Time {
            seconds: time.seconds,
            nanos: time.nanos,
        }),
        effective_time: effective_time.map(|time| Time {
            seconds: time.seconds,
            nanos: time.nanos,
        }),
        metadata: metadata.clone(),
        keep_remaining: *keep_remaining,
        reverses_transaction_id: text(reverses_transaction_id),
        return_balances: *return_balances,
    }
}

/// Checks that both readers find the same values, or that both readers fail.
fn agree(bytes: &[u8]) -> Result<(), TestCaseError> {
    let theirs = ProcessTransactionRequest::decode(bytes);
    match (transaction(bytes), &theirs) {
        (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours, expected(theirs)),
        (Err(_), Err(_)) => {}
        (ours, theirs) => prop_assert!(false, "this reader: {ours:?}, prost: {theirs:?}"),
    }
    let theirs =
        StreamTransactionsRequest::decode(bytes).map(|message| message.transaction.unwrap_or_default());
    match (read_with(stream_message, bytes), &theirs) {
        (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours, expected(theirs)),
        (Err(_), Err(_)) => {}
        (ours, theirs) => prop_assert!(false, "stream: this reader: {ours:?}, prost: {theirs:?}"),
    }
    let theirs = ProcessTransactionsRequest::decode(bytes);
    for piece in [1, 7, usize::MAX] {
        match (in_pieces(bytes, piece), &theirs) {
            (Ok(ours), Ok(theirs)) => {
                let ours: Vec<_> = ours
                    .iter()
                    .map(|bytes| read_with(nested_transaction, bytes).unwrap())
                    .collect();
                let theirs: Vec<_> = theirs.transactions.iter().map(expected).collect();
                prop_assert_eq!(ours, theirs);
            }
            (Err(_), Err(_)) => {}
            (ours, theirs) => {
                prop_assert!(
                    false,
                    "in pieces of {piece}: this reader: {ours:?}, prost: {theirs:?}"
                );
            }
        }
    }
    Ok(())
}

/// Returns the transactions of a `ProcessTransactionsRequest` that arrives in parts of `piece` bytes.
fn in_pieces(bytes: &[u8], piece: usize) -> Result<Vec<Vec<u8>>, Status> {
    let (mut transactions, mut to_come) = (Vec::new(), bytes.len());
    let mut splitter = Splitter::new(usize::MAX);
    for piece in bytes.chunks(piece) {
        to_come -= piece.len();
        splitter.read(piece, to_come, |found| {
            if let Found::Transaction(found) = found {
                read_with(nested_transaction, found)?;
                transactions.push(found.to_vec());
            }
            Ok(())
        })?;
    }
    Ok(transactions)
}

fn requests() -> impl Strategy<Value = ProcessTransactionRequest> {
    let id = || prop_oneof!["[a-zA-Z0-9_.:/@-]{1,64}", ".{0,8}", Just(String::new())];
    let amount = prop_oneof![
        any::<i64>().prop_map(transfer::Amount::MinorUnits),
        (any::<u64>(), any::<u64>())
            .prop_map(|(high, low)| transfer::Amount::WideMinorUnits(Uint128 { high, low })),
    ];
    let transfer = (
        id(),
        id(),
        proptest::option::of(amount),
        any::<i32>(),
        any::<i32>(),
    )
        .prop_map(
            |(debit_account_id, credit_account_id, amount, code, amount_rule)| Transfer {
                debit_account_id,
                credit_account_id,
                amount,
                code,
                amount_rule,
            },
        );
    let time = || proptest::option::of((any::<i64>(), any::<i32>()));
    let metadata = proptest::collection::btree_map(".{0,4}", ".{0,4}", 0..3);
    (
        id(),
        any::<i32>(),
        vec(transfer, 0..4),
        id(),
        time(),
        time(),
        metadata,
        (any::<bool>(), id(), any::<bool>()),
    )
        .prop_map(
            |(
                transaction_id,
                phase,
                transfers,
                pending_transaction_id,
                timeout,
                effective,
                metadata,
                added,
            )| {
                let (keep_remaining, reverses_transaction_id, return_balances) = added;
                ProcessTransactionRequest {
                    transaction_id,
                    phase,
                    transfers,
                    pending_transaction_id,
                    pending_timeout: timeout.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos }),
                    effective_time: effective
                        .map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos }),
                    metadata,
                    keep_remaining,
                    reverses_transaction_id,
                    return_balances,
                }
            },
        )
}

/// Generates fields of any number and wire type: some with known numbers, some nested. A later version or an attacker
/// may send such fields.
fn fields() -> impl Strategy<Value = Vec<u8>> {
    let scalar = prop_oneof![
        (1..12_u8, vec(any::<u8>(), 0..4)).prop_map(|(field, bytes)| delimited(field, &bytes)),
        (1..12_u8, any::<u64>()).prop_map(|(field, value)| {
            let mut bytes = vec![field << 3];
            prost::encoding::encode_varint(value, &mut bytes);
            bytes
        }),
        (1..12_u8, any::<[u8; 8]>())
            .prop_map(|(field, value)| [&[field << 3 | FIXED64][..], &value].concat()),
        (1..12_u8, any::<[u8; 4]>())
            .prop_map(|(field, value)| [&[field << 3 | FIXED32][..], &value].concat()),
        (1..12_u8, "[a-z]{0,5}").prop_map(|(field, text)| delimited(field, text.as_bytes())),
    ];
    scalar.prop_recursive(4, 32, 5, |inner| {
        let some = || vec(inner.clone(), 0..5).prop_map(|fields| fields.concat());
        prop_oneof![
            (1..12_u8, some()).prop_map(|(field, bytes)| delimited(field, &bytes)),
            (12..15_u8, some()).prop_map(|(field, bytes)| {
                [&[field << 3 | GROUP][..], &bytes, &[field << 3 | GROUP_END]].concat()
            }),
            some(),
        ]
    })
}

fn delimited(field: u8, bytes: &[u8]) -> Vec<u8> {
    let mut all = vec![field << 3 | DELIMITED];
    prost::encoding::encode_varint(bytes.len() as u64, &mut all);
    all.extend_from_slice(bytes);
    all
}

proptest! {
    #[test]
    fn reads_what_prost_writes(request in requests(), others in vec(requests(), 0..4)) {
        agree(&request.encode_to_vec())?;
        let nested = StreamTransactionsRequest { transaction: Some(request) };
        agree(&nested.encode_to_vec())?;
        agree(&ProcessTransactionsRequest { transactions: others }.encode_to_vec())?;
    }

    #[test]
    fn merges_and_skips_as_prost_does(first in requests(), between in fields(), second in requests()) {
        let bytes = [first.encode_to_vec(), between.clone(), second.encode_to_vec()].concat();
        agree(&bytes)?;
        agree(&[delimited(1, &bytes), between, delimited(1, &second.encode_to_vec())].concat())?;
    }

    #[test]
    fn reads_any_fields_as_prost_does(bytes in fields()) {
        agree(&bytes)?;
        agree(&delimited(1, &bytes))?;
        agree(&delimited(3, &bytes))?;
    }

    #[test]
    fn refuses_what_prost_refuses(request in requests(), damage in vec((any::<Index>(), any::<u8>()), 1..4), cut in any::<Index>()) {
        let mut bytes = delimited(1, &request.encode_to_vec());
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        agree(&bytes)?;
        agree(&bytes[2.min(bytes.len())..])?;
        agree(&bytes[..cut.index(bytes.len())])?;
    }

    #[test]
    fn reads_any_bytes_as_prost_does(bytes in vec(any::<u8>(), 0..60)) {
        agree(&bytes)?;
    }
}

#[test]
fn groups_may_be_nested_as_deep_as_in_prost() {
    for depth in 95..105 {
        let group = [vec![15 << 3 | GROUP; depth], vec![15 << 3 | GROUP_END; depth]].concat();
        agree(&group).unwrap();
        agree(&delimited(1, &group)).unwrap();
        agree(&delimited(3, &group)).unwrap();
        agree(&delimited(1, &delimited(3, &delimited(4, &group)))).unwrap();
    }
}

#[test]
fn more_transfers_than_allowed_are_counted_but_not_kept() {
    let many = ProcessTransactionRequest {
        transfers: vec![Transfer::default(); TRANSFERS_MAX + 3],
        ..ProcessTransactionRequest::default()
    };
    let bytes = many.encode_to_vec();
    let read = transaction(&bytes).unwrap();
    assert_eq!(
        (read.transfers.len(), read.transfer_count),
        (TRANSFERS_MAX, TRANSFERS_MAX + 3)
    );
}
