//! The encoding of records. A record contains the effects of one request: a new account, or a transaction and its outcome.
//! The ledger applies records again, for example after a restart, without evaluating any rule. Records are stored in
//! blocks: a block is a header and a body, and the body is a sequence of records.
//!
//! ```text
//! length of the rest: varint | kind: u8 | back: varint | ordinal: varint | [principal: u8 length + bytes]
//!     | length of the links: varint | links | payload | checksum: u32
//! ```
//!
//! The record of a transaction that a client with a name sent has the bit `PRINCIPAL_BIT` set in its kind, and contains the name.
//!
//! A lookup reads a single record, without the rest of its block. So each record has its own checksum: the CRC-32C of
//! all bytes of the record before the checksum. The CRC starts from a number that depends on the record's place in the
//! journal. So a record fails the check if a reader finds it at another place, for example because the disk wrote a
//! sector to the wrong address.
//!
//! The links lead to the previous records of the accounts that the record changes, see [`chain`](super::chain).
//!
//! `back` is the distance, in bytes, from the start of the record back to the start of its block's body. `ordinal` is
//! the number of records in the block before the record that have a sequence: those of committed transactions and of
//! expired holds. With `back`, a reader finds the block's header.
//! From the header and `ordinal`, the reader computes the sequence and time of the record. So records store neither.

use super::{
    account::{AccountIndex, AccountTerms, NewAccount},
    chain::Links,
    codec::{Malformed, Reader, put_short_bytes, put_varint_u64},
    effects::{Effects, Leg, Legs, put_effects, put_released, take_released},
    keys::RecordKey,
    mutation::planted,
    reject::Rejection,
    shape::{Shape, is_hold},
    transaction::{Names, Phase, TransactionView},
};

/// Maximum length of a record, in bytes. The longest record has 256 transfers of the largest amount, the remaining amount of each transfer,
/// 1 KiB of metadata, and links of the maximum length.
pub const RECORD_BYTES_MAX: usize = 24 * 1024;
/// Maximum length of the name of the client that sent a transaction, in bytes.
pub const PRINCIPAL_BYTES_MAX: usize = 64;

/// Length of the checksum at the end of a record, in bytes.
pub(super) const CHECKSUM_BYTES: usize = 4;

const KIND_ACCOUNT_CREATED: u8 = 1;
pub(super) const KIND_COMMITTED: u8 = 2;
const KIND_REJECTED: u8 = 3;
pub(super) const KIND_DERIVED: u8 = 4;
const KIND_HOLD_EXPIRED: u8 = 5;
const KIND_ACCOUNT_UPDATED: u8 = 6;
/// This bit of the kind says that the record contains the name of the client.
pub(super) const PRINCIPAL_BIT: u8 = 0x80;

/// A decoded record.
#[derive(Debug, Clone)]
pub enum Record<'a> {
    /// An account was created.
    AccountCreated {
        /// The account's number.
        index: AccountIndex,
        /// The account.
        account: NewAccount,
    },
    /// A transaction was committed. Its sequence is the block's `first_sequence` plus the record's `ordinal`.
    Committed {
        /// The transaction, with account numbers.
        transaction: TransactionView<'a, AccountIndex>,
        /// What the transaction moved, if this does not follow from its transfers alone.
        effects: Option<Effects<'a>>,
    },
    /// A hold has expired. The record has a sequence, but no transaction id.
    HoldExpired {
        /// The id of the hold.
        hold_id: &'a [u8],
        /// The place of the hold's record.
        hold: u64,
        /// What the hold released.
        legs: Legs,
    },
    /// An account was updated.
    AccountUpdated {
        /// The account's number.
        index: AccountIndex,
        /// The place of the record of the account's previous update, if there is one.
        previous: Option<u64>,
        /// All of its new terms.
        terms: AccountTerms,
    },
    /// A transaction was rejected, for a reason that [is recorded](super::reject::Reason::is_recorded).
    Rejected {
        /// The transaction, with account numbers.
        transaction: TransactionView<'a, AccountIndex>,
        /// Why the transaction was rejected.
        rejection: Rejection,
    },
}

/// A decoded record and its place in its block.
#[derive(Debug, Clone)]
pub struct FramedRecord<'a> {
    /// Distance from the start of the record back to the start of the block's body, in bytes.
    pub back: u32,
    /// Number of transactions committed in the block before this record.
    pub ordinal: u32,
    /// The name of the client that sent the transaction, if it has one.
    pub principal: Option<&'a [u8]>,
    /// The links to the previous records of the accounts.
    pub links: Links<'a>,
    /// The record.
    pub record: Record<'a>,
}

/// A record to be appended, which borrows its content.
#[derive(Debug, Clone, Copy)]
pub enum NewRecord<'a> {
    /// See [`Record::AccountCreated`].
    AccountCreated {
        /// The account's number.
        index: AccountIndex,
        /// The account.
        account: &'a NewAccount,
    },
    /// See [`Record::Committed`]. The effects follow from the transfers.
    Committed {
        /// The encoded transaction, with account numbers.
        content: &'a [u8],
        /// The name of the client that sent the transaction.
        principal: Option<&'a [u8]>,
    },
    /// See [`Record::Committed`]. The record contains the effects.
    Derived {
        /// The encoded transaction, with account numbers.
        content: &'a [u8],
        /// The name of the client that sent the transaction.
        principal: Option<&'a [u8]>,
        /// The place of the hold's record, the number of the reversal, or 0.
        origin: u64,
        /// What the transaction did.
        legs: &'a [Leg],
    },
    /// See [`Record::HoldExpired`].
    HoldExpired {
        /// The id of the hold.
        hold_id: &'a [u8],
        /// The place of the hold's record.
        hold: u64,
        /// What the hold released.
        legs: &'a [Leg],
    },
    /// See [`Record::AccountUpdated`].
    AccountUpdated {
        /// The account's number.
        index: AccountIndex,
        /// The place of the record of the account's previous update, if there is one.
        previous: Option<u64>,
        /// All of its new terms.
        terms: &'a AccountTerms,
    },
    /// See [`Record::Rejected`].
    Rejected {
        /// The encoded transaction, with account numbers.
        content: &'a [u8],
        /// The name of the client that sent the transaction.
        principal: Option<&'a [u8]>,
        /// Why the transaction was rejected.
        rejection: Rejection,
    },
}

/// What precedes the payload of a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    back: u32,
    ordinal: u32,
    principal: Option<&'a [u8]>,
    links: Links<'a>,
}

// ===== impl Record =====

impl<'a> Record<'a> {
    /// The transaction of the record, and its rejection if it was rejected. `None` if the record is not about a transaction.
    #[must_use]
    pub const fn transaction(&self) -> Option<(TransactionView<'a, AccountIndex>, Option<Rejection>)> {
        match self {
            Record::Committed { transaction, .. } => Some((*transaction, None)),
            Record::Rejected {
                transaction,
                rejection,
            } => Some((*transaction, Some(*rejection))),
            Record::AccountCreated { .. } | Record::HoldExpired { .. } | Record::AccountUpdated { .. } => {
                None
            }
        }
    }

    /// Whether the record has a sequence: whether it changes balances or a hold.
    #[must_use]
    pub const fn has_sequence(&self) -> bool {
        matches!(self, Record::Committed { .. } | Record::HoldExpired { .. })
    }

    /// The keys under which an index must find the record: the key of its own transaction, and the key for its effect on another
    /// transaction.
    #[must_use]
    pub fn keys(&self) -> [Option<RecordKey<'a>>; 2] {
        let own = self
            .transaction()
            .map(|(transaction, _)| RecordKey::Transaction(transaction.id_bytes()));
        let other = match self {
            Record::HoldExpired { hold_id, .. } => Some(RecordKey::HoldEnd(hold_id)),
            Record::Committed {
                transaction,
                effects: Some(effects),
            } => match transaction.names() {
                Names::Hold(id) if self.ends_hold() => Some(RecordKey::HoldEnd(id)),
                Names::Reversed(id) => Some(RecordKey::Reversal(id, effects.origin)),
                Names::Hold(_) | Names::Nothing => None,
            },
            Record::Committed { effects: None, .. }
            | Record::Rejected { .. }
            | Record::AccountCreated { .. }
            | Record::AccountUpdated { .. } => None,
        };
        [own, other]
    }

    /// Whether the record ends the hold that it names: afterwards, the hold reserves nothing.
    #[must_use]
    pub fn ends_hold(&self) -> bool {
        match self {
            Record::HoldExpired { .. } => true,
            Record::Committed {
                transaction,
                effects: Some(effects),
            } => match transaction.phase() {
                Phase::VoidPending => true,
                Phase::PostPending => {
                    !transaction.keep_remaining() || effects.is_zero(transaction.transfer_count())
                }
                Phase::Posted | Phase::Pending => false,
            },
            Record::Committed { effects: None, .. }
            | Record::Rejected { .. }
            | Record::AccountCreated { .. }
            | Record::AccountUpdated { .. } => false,
        }
    }
}

// ===== impl NewRecord =====

impl NewRecord<'_> {
    /// Whether the record states what an outstanding hold reserves.
    #[inline]
    #[must_use]
    pub fn is_needed_by_hold(&self) -> bool {
        let phase = |content| Shape::of(content).map(|shape| shape.phase);
        match self {
            NewRecord::Committed { content, .. } => is_hold(content),
            NewRecord::Derived { content, legs, .. } => match phase(content) {
                Ok(Phase::Pending) => true,
                // Usually, a post leaves nothing reserved. The hold has then ended and needs no record.
                Ok(Phase::PostPending) => legs.iter().any(|leg| !leg.remaining.is_zero()),
                Ok(Phase::Posted | Phase::VoidPending) | Err(_) => false,
            },
            NewRecord::Rejected { .. }
            | NewRecord::HoldExpired { .. }
            | NewRecord::AccountCreated { .. }
            | NewRecord::AccountUpdated { .. } => false,
        }
    }

    /// Whether the record has a sequence: whether it changes balances or a hold.
    #[inline]
    #[must_use]
    pub const fn has_sequence(&self) -> bool {
        matches!(
            self,
            NewRecord::Committed { .. } | NewRecord::Derived { .. } | NewRecord::HoldExpired { .. }
        )
    }
}

/// Appends an encoded record to a block. The body of the block starts at `body_start` of `body`, and `ordinal`
/// transactions have been committed in the block so far. `place` is the record's place in the journal, a number that no
/// other record has; [`take_record`] needs the same number. `links` lead to the previous records of the record's accounts. `scratch` is
/// overwritten; the caller passes it in to reuse its memory.
///
/// # Panics
/// If the record is longer than [`RECORD_BYTES_MAX`], starts before `body_start`, or starts 4 GiB or more after
/// `body_start`. The bounds of requests and of blocks exclude these cases.
pub fn put_record(
    body: &mut Vec<u8>,
    body_start: usize,
    ordinal: u32,
    place: u64,
    record: NewRecord<'_>,
    links: Links<'_>,
    scratch: &mut Vec<u8>,
) {
    let start = body.len();
    let Some(Ok(back)) = start.checked_sub(body_start).map(u32::try_from) else {
        panic!("a record can't start at byte {start} if the body of its block starts at byte {body_start}");
    };
    scratch.clear();
    let payload = put_content(scratch, record, (back, ordinal, links));
    let length = scratch.len() + payload.len() + CHECKSUM_BYTES;
    // The encoded length takes at most four more bytes.
    assert!(
        length + 4 <= RECORD_BYTES_MAX,
        "a record of {length} bytes is too long: it could not be read back"
    );
    put_varint_u64(body, length as u64);
    body.extend_from_slice(scratch);
    body.extend_from_slice(payload);
    let checksum = checksum(place, body.split_at(start).1);
    body.extend_from_slice(&checksum.to_le_bytes());
}

/// Appends what precedes the payload of a record. Returns the payload that the caller must still append. It is empty if this function has
/// already appended the payload.
#[inline]
fn put_content<'a>(
    scratch: &mut Vec<u8>,
    record: NewRecord<'a>,
    (back, ordinal, links): (u32, u32, Links<'_>),
) -> &'a [u8] {
    let frame = |kind, principal| Frame {
        kind,
        back,
        ordinal,
        principal,
        links,
    };
    match record {
        NewRecord::AccountCreated { index, account } => {
            frame(KIND_ACCOUNT_CREATED, None).put(scratch);
            put_varint_u64(scratch, u64::from(index.0));
            account.content().put(scratch);
            &[]
        }
        NewRecord::AccountUpdated {
            index,
            previous,
            terms,
        } => {
            frame(KIND_ACCOUNT_UPDATED, None).put(scratch);
            put_varint_u64(scratch, u64::from(index.0));
            // 0 stands for "no previous update". No update is at place 0, because every update comes after the record that created the
            // account.
            put_varint_u64(scratch, previous.map_or(0, |place| place));
            terms.put(scratch);
            &[]
        }
        NewRecord::Committed { content, principal } => {
            frame(KIND_COMMITTED, principal).put(scratch);
            content
        }
        NewRecord::Derived {
            content,
            principal,
            origin,
            legs,
        } => {
            frame(KIND_DERIVED, principal).put(scratch);
            put_derived(scratch, content, origin, legs);
            &[]
        }
        NewRecord::HoldExpired { hold_id, hold, legs } => {
            frame(KIND_HOLD_EXPIRED, None).put(scratch);
            put_short_bytes(scratch, hold_id);
            put_varint_u64(scratch, hold);
            put_released(scratch, legs);
            &[]
        }
        NewRecord::Rejected {
            content,
            principal,
            rejection,
        } => {
            frame(KIND_REJECTED, principal).put(scratch);
            rejection.put(scratch);
            content
        }
    }
}

/// Appends a transaction, then its effects.
fn put_derived(out: &mut Vec<u8>, content: &[u8], origin: u64, legs: &[Leg]) {
    put_varint_u64(out, content.len() as u64);
    out.extend_from_slice(content);
    match Shape::of(content) {
        Ok(shape) => put_effects(out, shape, origin, legs),
        Err(error) => panic!("a transaction was not encoded correctly: {error}"),
    }
}

/// Computes the checksum of the record at `place`. `bytes` are all bytes of the record before the checksum.
#[inline]
fn checksum(place: u64, bytes: &[u8]) -> u32 {
    // The upper 32 bits of a place are the number of the journal's segment; the lower 32 bits are the offset in the
    // segment. The multiplication makes the initial values of neighbouring segments differ in many bits. If equal bytes
    // are at two offsets of one segment, their checksums always differ.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "both halves of the number are used"
    )]
    let initial = ((place >> u32::BITS) as u32).wrapping_mul(0x9e37_79b9) ^ place as u32;
    crc32c::crc32c_append(initial, bytes)
}

// ===== impl Frame =====

impl Frame<'_> {
    #[inline]
    fn put(self, out: &mut Vec<u8>) {
        let Frame {
            kind,
            back,
            ordinal,
            principal,
            links: Links(links),
        } = self;
        out.push(kind | (PRINCIPAL_BIT * u8::from(principal.is_some())));
        put_varint_u64(out, u64::from(back));
        put_varint_u64(out, u64::from(ordinal));
        if let Some(principal) = principal {
            put_short_bytes(out, principal);
        }
        put_varint_u64(out, links.len() as u64);
        out.extend_from_slice(links);
    }
}

/// Reads the next record of a block's body. `place` is the place at which the record was written, see [`put_record`].
/// The checksum is verified before the rest of the record is decoded.
///
/// # Errors
/// [`Malformed`] if no record is left, or the record is damaged.
pub fn take_record<'a>(reader: &mut Reader<'a>, place: u64) -> Result<FramedRecord<'a>, Malformed> {
    let from_start = reader.rest();
    let (content, found) = take_framed(reader)?;
    let record_bytes = from_start.len() - reader.rest().len();
    let (covered, _) = from_start.split_at(record_bytes - CHECKSUM_BYTES);
    if u32::from_le_bytes(*found) != checksum(place, covered) && !planted("ignore_record_crc") {
        return Err(Malformed {
            what: "a record with the right checksum",
        });
    }
    let mut rest = Reader::new(content);
    let frame = Frame::take(&mut rest)?;
    Ok(FramedRecord {
        back: frame.back,
        ordinal: frame.ordinal,
        principal: frame.principal,
        links: frame.links,
        record: take_content(frame.kind, &mut rest)?,
    })
}

/// Reads the bytes of a record between its length and its checksum, and the checksum.
#[inline]
pub(super) fn take_framed<'a>(
    reader: &mut Reader<'a>,
) -> Result<(&'a [u8], &'a [u8; CHECKSUM_BYTES]), Malformed> {
    let length = usize::try_from(reader.varint_u64()?).map_err(|_| Malformed {
        what: "a record's length",
    })?;
    let after_length = reader.bytes(length)?;
    after_length
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or(Malformed { what: "a record" })
}

impl<'a> Frame<'a> {
    #[inline]
    pub(super) fn take(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let kind = reader.u8()?;
        Ok(Frame {
            kind: kind & !PRINCIPAL_BIT,
            back: reader.varint_u32()?,
            ordinal: reader.varint_u32()?,
            principal: match kind & PRINCIPAL_BIT {
                0 => None,
                _ => Some(reader.short_bytes()?),
            },
            links: {
                let length = usize::try_from(reader.varint_u64()?).map_err(|_| Malformed {
                    what: "the length of a record's links",
                })?;
                Links(reader.bytes(length)?)
            },
        })
    }
}

/// Reads the content of a record of this kind, to the end of `record`.
#[inline]
pub(super) fn take_content<'a>(kind: u8, record: &mut Reader<'a>) -> Result<Record<'a>, Malformed> {
    Ok(match kind {
        KIND_ACCOUNT_CREATED => {
            let index = AccountIndex(record.varint_u32()?);
            Record::AccountCreated {
                index,
                account: NewAccount::take(record)?,
            }
        }
        KIND_ACCOUNT_UPDATED => Record::AccountUpdated {
            index: AccountIndex(record.varint_u32()?),
            previous: Some(record.varint_u64()?).filter(|place| *place > 0),
            terms: AccountTerms::take(record)?,
        },
        KIND_COMMITTED => Record::Committed {
            transaction: TransactionView::parse(record.rest())?,
            effects: None,
        },
        KIND_DERIVED => {
            let length = usize::try_from(record.varint_u64()?).map_err(|_| Malformed {
                what: "a transaction's length",
            })?;
            Record::Committed {
                transaction: TransactionView::parse(record.bytes(length)?)?,
                effects: Some(Effects::take(record)?),
            }
        }
        KIND_HOLD_EXPIRED => {
            let hold_id = record.short_bytes()?;
            let hold = record.varint_u64()?;
            let mut legs = Legs::new();
            take_released(record, &mut legs)?;
            Record::HoldExpired { hold_id, hold, legs }
        }
        KIND_REJECTED => {
            let rejection = Rejection::take(record)?;
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
    })
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
