//! The journal's records: what happened, so that replaying needs no rules.
//!
//! ```text
//! length: varint of all that follows | kind: u8 | back: varint | ordinal: varint | payload | checksum: u32
//! ```
//!
//! A record is read back by itself, years later, without the block around it, so it carries a checksum of its own: CRC-32C
//! over everything before, begun with a number made from the record's place in the journal. A record that stands elsewhere
//! than where it was written, such as in a sector that the disk put at a wrong place, does not pass.
//!
//! `back` is the distance in bytes from the start of the record to the start of its block's body, and `ordinal` the
//! number of transactions that were committed in the block before it. So a record that is read by itself leads to its
//! block's header, and with it to its sequence and time, without a word of either being repeated in every record.

use super::{
    account::{AccountIndex, NewAccount},
    codec::{Malformed, Reader, put_varint_u64},
    reject::Rejection,
    transaction::TransactionView,
};

/// No record is longer: 256 transfers with the widest amounts, 1 KiB of metadata, and their framing.
pub const RECORD_BYTES_MAX: usize = 12 * 1024;

/// Bytes of the checksum at the end of a record.
const CHECKSUM_BYTES: usize = 4;

const KIND_ACCOUNT_CREATED: u8 = 1;
const KIND_COMMITTED: u8 = 2;
const KIND_REJECTED: u8 = 3;

/// What happened.
#[derive(Debug, Clone)]
pub enum Record<'a> {
    /// An account came into being under this number.
    AccountCreated {
        /// Its number.
        index: AccountIndex,
        /// The account.
        account: NewAccount,
    },
    /// A transaction was committed. Its sequence is `first_sequence + ordinal` of its block.
    Committed {
        /// The transaction, accounts by number.
        transaction: TransactionView<'a, AccountIndex>,
    },
    /// A transaction was refused for a reason that depended on the ledger's state.
    Rejected {
        /// The transaction, accounts by number.
        transaction: TransactionView<'a, AccountIndex>,
        /// Why.
        rejection: Rejection,
    },
}

/// A record and its place in its block.
#[derive(Debug, Clone)]
pub struct Framed<'a> {
    /// Bytes from the record's start back to the start of the block's body.
    pub back: u32,
    /// Transactions committed in the block before this record.
    pub ordinal: u32,
    /// What happened.
    pub record: Record<'a>,
}

/// What is to be written.
#[derive(Debug, Clone, Copy)]
pub enum Entry<'a> {
    /// See [`Record::AccountCreated`].
    AccountCreated {
        /// Its number.
        index: AccountIndex,
        /// The account.
        account: &'a NewAccount,
    },
    /// See [`Record::Committed`].
    Committed {
        /// The encoded transaction, accounts by number.
        content: &'a [u8],
    },
    /// See [`Record::Rejected`].
    Rejected {
        /// The encoded transaction, accounts by number.
        content: &'a [u8],
        /// Why.
        rejection: Rejection,
    },
}

/// Appends `entry` to `body`, the body of a block in which `ordinal` transactions have been committed so far. `place` is
/// where the record stands in the journal, a number that no other record has; [`take_record`] must be given the same.
/// `scratch` is overwritten; it is passed in so that it is allocated once.
///
/// # Panics
/// If the record is longer than [`RECORD_BYTES_MAX`] or the block longer than 4 GiB; both bounds are kept by what the
/// service accepts.
pub fn put_record(
    body: &mut Vec<u8>,
    body_start: usize,
    ordinal: u32,
    place: u64,
    entry: Entry<'_>,
    scratch: &mut Vec<u8>,
) {
    let start = body.len();
    let back = start.saturating_sub(body_start);
    scratch.clear();
    let payload: &[u8] = match entry {
        Entry::AccountCreated { index, account } => {
            put_frame(scratch, KIND_ACCOUNT_CREATED, back, ordinal);
            put_varint_u64(scratch, u64::from(index.0));
            account.content().put(scratch);
            &[]
        }
        Entry::Committed { content } => {
            put_frame(scratch, KIND_COMMITTED, back, ordinal);
            content
        }
        Entry::Rejected { content, rejection } => {
            put_frame(scratch, KIND_REJECTED, back, ordinal);
            rejection.put(scratch);
            content
        }
    };
    let length = scratch.len() + payload.len() + CHECKSUM_BYTES;
    assert!(length + 4 <= RECORD_BYTES_MAX, "a record of {length} bytes");
    put_varint_u64(body, length as u64);
    body.extend_from_slice(scratch);
    body.extend_from_slice(payload);
    let checksum = checksum(place, body.get(start..).unwrap_or_default());
    body.extend_from_slice(&checksum.to_le_bytes());
}

/// The checksum of the record at `place`, of which `bytes` is everything before the checksum.
fn checksum(place: u64, bytes: &[u8]) -> u32 {
    // The number of the segment and the offset in it, spread so that neighbours differ in many bits. Two places in one
    // segment never give the same bytes the same checksum.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the two halves, one after the other"
    )]
    let begun = ((place >> u32::BITS) as u32).wrapping_mul(0x9e37_79b9) ^ place as u32;
    crc32c::crc32c_append(begun, bytes)
}

fn put_frame(out: &mut Vec<u8>, kind: u8, back: usize, ordinal: u32) {
    out.push(kind);
    put_varint_u64(out, back as u64);
    put_varint_u64(out, u64::from(ordinal));
}

/// Reads the next record of a block's body, which was written at `place`. Nothing of it is believed before its checksum
/// is found to be right.
///
/// # Errors
/// [`Malformed`] if there is none, or it is damaged.
pub fn take_record<'a>(reader: &mut Reader<'a>, place: u64) -> Result<Framed<'a>, Malformed> {
    let from_start = reader.rest();
    let length = usize::try_from(reader.varint_u64()?).map_err(|_| Malformed {
        what: "a record's length",
    })?;
    let after_length = reader.bytes(length)?;
    let (content, found) = after_length
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or(Malformed { what: "a record" })?;
    let record_bytes = from_start.len() - reader.rest().len();
    let covered = from_start
        .get(..record_bytes - CHECKSUM_BYTES)
        .unwrap_or_default();
    if u32::from_le_bytes(*found) != checksum(place, covered) {
        return Err(Malformed {
            what: "a record with the right checksum",
        });
    }
    let mut record = Reader::new(content);
    let kind = record.u8()?;
    let back = record.varint_u32()?;
    let ordinal = record.varint_u32()?;
    let record = match kind {
        KIND_ACCOUNT_CREATED => {
            let index = AccountIndex(record.varint_u32()?);
            Record::AccountCreated {
                index,
                account: NewAccount::take(&mut record)?,
            }
        }
        KIND_COMMITTED => Record::Committed {
            transaction: TransactionView::parse(record.rest())?,
        },
        KIND_REJECTED => {
            let rejection = Rejection::take(&mut record)?;
            Record::Rejected {
                transaction: TransactionView::parse(record.rest())?,
                rejection,
            }
        }
        _ => {
            return Err(Malformed {
                what: "a known kind of record",
            });
        }
    };
    Ok(Framed {
        back,
        ordinal,
        record,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        money::Amount,
        {
            account::{AccountStatus, BalanceRule, METADATA_BYTES_MAX, Metadata},
            reject::{Reason, Side},
            transaction::{EffectiveTime, Heading, Phase, TRANSFERS_MAX, Transfer, put_transaction},
        },
    };

    #[test]
    fn records_come_back_with_their_place() {
        let account = NewAccount {
            id: "a".into(),
            asset: "EUR".into(),
            rule: BalanceRule::DebitBalance,
            overdraft_limit: Amount::new(u128::MAX),
            status: AccountStatus::Frozen,
            metadata: Metadata::from([("k".into(), "v".into())]),
        };
        let content = content(1, &Metadata::new());
        let rejection = Rejection {
            reason: Reason::InsufficientFunds,
            transfer: 0,
            side: Side::Debit,
        };
        let (mut body, mut scratch) = (vec![0; 16], Vec::new());
        let index = AccountIndex(300);
        let place = |at: usize| 0x0003_0000_0000 + at as u64;
        put_record(
            &mut body,
            16,
            0,
            place(16),
            Entry::AccountCreated {
                index,
                account: &account,
            },
            &mut scratch,
        );
        let second_at = body.len();
        put_record(
            &mut body,
            16,
            0,
            place(second_at),
            Entry::Committed { content: &content },
            &mut scratch,
        );
        let third_at = body.len();
        put_record(
            &mut body,
            16,
            1,
            place(third_at),
            Entry::Rejected {
                content: &content,
                rejection,
            },
            &mut scratch,
        );

        let mut reader = Reader::new(&body[16..]);
        let first = take_record(&mut reader, place(16)).unwrap();
        assert!(
            matches!(first.record, Record::AccountCreated { index: AccountIndex(300), account: read } if read == account)
        );
        let second = take_record(&mut reader, place(second_at)).unwrap();
        assert!(
            matches!(second.record, Record::Committed { transaction } if transaction.encoded() == content)
        );
        let third = take_record(&mut reader, place(third_at)).unwrap();
        assert_eq!((third.back as usize, third.ordinal), (third_at - 16, 1));
        assert!(
            matches!(third.record, Record::Rejected { transaction, rejection: read } if transaction.id() == "t" && read == rejection)
        );
        assert!(reader.is_empty());
    }

    #[test]
    fn every_changed_bit_and_every_other_place_is_noticed() {
        let content = content(2, &Metadata::new());
        let (mut body, mut scratch) = (Vec::new(), Vec::new());
        let entry = Entry::Committed { content: &content };
        put_record(&mut body, 0, 7, 1 << 40, entry, &mut scratch);
        let whole = body.len();
        // What follows in the block must not make up for what is missing.
        put_record(&mut body, 0, 8, (1 << 40) + whole as u64, entry, &mut scratch);
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

    /// The bytes of a record are what a data directory holds: another format needs another version of the directory.
    #[test]
    fn the_bytes_of_a_record_stay_what_they_are() {
        let content = content(1, &Metadata::new());
        let (mut body, mut scratch) = (Vec::new(), Vec::new());
        put_record(
            &mut body,
            0,
            5,
            128,
            Entry::Committed { content: &content },
            &mut scratch,
        );
        let text: String = body.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            text,
            "3a0200050174010001ffffffffffffffff01000000ffffffff0ffeffffff0fffffffffffffffffffffffffffffffffffff03ffffffff0f600e4878"
        );
    }

    #[test]
    fn the_longest_transaction_fits_the_longest_record() {
        let metadata = (0..16)
            .map(|n| (format!("{n:064}"), String::new()))
            .collect::<Metadata>();
        assert_eq!(
            metadata.keys().map(String::len).sum::<usize>(),
            METADATA_BYTES_MAX
        );
        let (mut body, mut scratch) = (Vec::new(), Vec::new());
        put_record(
            &mut body,
            0,
            8192,
            0,
            Entry::Committed {
                content: &content(TRANSFERS_MAX, &metadata),
            },
            &mut scratch,
        );
        assert!(body.len() <= RECORD_BYTES_MAX, "{} bytes", body.len());
    }

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
        };
        let widest = Transfer {
            debit: AccountIndex(u32::MAX),
            credit: AccountIndex(u32::MAX - 1),
            amount: Amount::new(u128::MAX),
            code: u32::MAX,
        };
        let mut content = Vec::new();
        put_transaction(&mut content, &heading, vec![widest; transfers].into_iter());
        content
    }
}
