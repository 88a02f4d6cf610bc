//! The encoding of a transaction. The program encodes a request once, when the request arrives. The ledger executes,
//! records and compares the encoded bytes.
//!
//! The layout has two forms. A request contains account **ids** (`&str` or `&[u8]`). A record contains account
//! **numbers** ([`AccountIndex`]). Everything else is the same in both forms. [`AccountRef`] is implemented for ids and
//! for numbers.
//!
//! ```text
//! id: u8 length + bytes | phase: u8 | transfers - 1: u8 | flags: u8 | [effective time] | [metadata]
//!     | [timeout: varint] | [other id: u8 length + bytes] | transfers...
//! transfer: debit account | credit account | amount: varint | code: varint | [amount rule: u8]
//! ```

use std::{fmt, marker::PhantomData};

use super::{
    account::{AccountIndex, Metadata, put_metadata, skip_metadata, take_metadata},
    codec::{Malformed, Reader, put_short_bytes, put_short_str, put_varint, put_varint_u64},
    side::Side,
};
use crate::money::Amount;

/// Maximum number of transfers of a transaction.
pub const TRANSFERS_MAX: usize = 256;

const FLAG_EFFECTIVE_TIME: u8 = 1;
const FLAG_METADATA: u8 = 2;
/// The transaction names a hold, which it posts or voids.
pub(crate) const FLAG_PENDING_ID: u8 = 4;
pub(crate) const FLAG_KEEP_REMAINING: u8 = 8;
const FLAG_TIMEOUT: u8 = 16;
/// The transaction names the transaction that it reverses.
pub(crate) const FLAG_REVERSES: u8 = 32;
/// Each transfer has an amount rule.
const FLAG_RULES: u8 = 64;
/// The transaction has no transfers. The byte `transfers - 1` is 0.
pub(crate) const FLAG_NO_TRANSFERS: u8 = 128;
/// The flags of transactions whose effects are not simply those of their transfers.
const FLAGS_DERIVED: u8 = FLAG_PENDING_ID | FLAG_REVERSES | FLAG_RULES;

/// What a transaction does with its transfers. The numbers are part of the record format and never change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Phase {
    /// The transfers are posted immediately.
    #[default]
    Posted = 1,
    /// The transfers are reserved: a hold.
    Pending = 2,
    /// A hold is posted, whole or in part.
    PostPending = 3,
    /// What a hold still reserves is released.
    VoidPending = 4,
}

/// How much a transfer moves. The numbers are part of the record format and never change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AmountRule {
    /// Exactly the amount of the transfer.
    #[default]
    Exact = 1,
    /// At most the amount of the transfer, and at most what the debit account has available.
    UpToDebitAvailable = 2,
    /// At most the amount of the transfer, and at most what the credit account has available.
    UpToCreditAvailable = 3,
    /// At most the amount of the transfer, and at most what both accounts have available.
    UpToBothAvailable = 4,
}

/// The other transaction that a transaction names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Names<'a> {
    /// The transaction names no other transaction.
    #[default]
    Nothing,
    /// The hold to post or to void.
    Hold(&'a [u8]),
    /// The transaction to reverse.
    Reversed(&'a [u8]),
}

/// The client's business time. The ledger stores and returns it, and does not interpret it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EffectiveTime {
    /// Seconds since the Unix epoch, negative before the epoch.
    pub seconds: i64,
    /// Nanoseconds after that second, below 10^9.
    pub nanos: u32,
}

/// A reference to an account in an encoded transaction: the account's id or number.
pub trait AccountRef<'a>: Copy + PartialEq + fmt::Debug {
    /// Appends the encoded reference to `out`.
    fn put(self, out: &mut Vec<u8>);
    /// Reads an encoded reference.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes are not an encoded reference.
    fn take(reader: &mut Reader<'a>) -> Result<Self, Malformed>;
}

/// A movement of an amount from one account to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer<A> {
    /// The account that is debited.
    pub debit: A,
    /// The account that is credited.
    pub credit: A,
    /// The amount. It is more than zero, except in transactions that post a part of a hold or reverse a part of a transaction.
    pub amount: Amount,
    /// The client's reason code.
    pub code: u32,
    /// How much the transfer moves.
    pub rule: AmountRule,
}

/// All fields of a transaction except its transfers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heading<'a> {
    /// The client's idempotency key: UTF-8 text of at most 64 bytes.
    pub id: &'a [u8],
    /// What the transaction does with its transfers.
    pub phase: Phase,
    /// The business time.
    pub effective_time: Option<EffectiveTime>,
    /// The client's metadata.
    pub metadata: &'a Metadata,
    /// The other transaction that this one names.
    pub names: Names<'a>,
    /// With [`Phase::PostPending`]: whether the part of the hold that is not posted stays reserved.
    pub keep_remaining: bool,
    /// With [`Phase::Pending`]: the time after which the hold expires, in nanoseconds.
    pub pending_timeout: Option<u64>,
}

/// A decoded transaction that borrows its encoded bytes.
#[derive(Debug, Clone, Copy)]
pub struct TransactionView<'a, A> {
    encoded: &'a [u8],
    /// Offset of the first transfer in `encoded`, in bytes.
    transfers_at: usize,
    transfer_count: usize,
    id: &'a [u8],
    phase: Phase,
    flags: u8,
    effective_time: Option<EffectiveTime>,
    names: Names<'a>,
    pending_timeout: Option<u64>,
    form: PhantomData<A>,
}

/// Iterates over the transfers of a transaction.
#[derive(Debug, Clone)]
pub struct Transfers<'a, A> {
    reader: Reader<'a>,
    left: usize,
    has_rules: bool,
    form: PhantomData<A>,
}

// ===== impl AccountRef =====

impl<'a> AccountRef<'a> for &'a str {
    fn put(self, out: &mut Vec<u8>) {
        put_short_str(out, self);
    }

    fn take(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        reader.short_str()
    }
}

impl<'a> AccountRef<'a> for &'a [u8] {
    #[inline]
    fn put(self, out: &mut Vec<u8>) {
        put_short_bytes(out, self);
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        reader.short_bytes()
    }
}

impl<'a> AccountRef<'a> for AccountIndex {
    #[inline]
    fn put(self, out: &mut Vec<u8>) {
        put_varint_u64(out, u64::from(self.0));
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        reader.varint_u32().map(AccountIndex)
    }
}

// ===== impl Phase =====

impl Phase {
    #[inline]
    pub(crate) fn from_code(code: u8) -> Result<Self, Malformed> {
        match code {
            1 => Ok(Phase::Posted),
            2 => Ok(Phase::Pending),
            3 => Ok(Phase::PostPending),
            4 => Ok(Phase::VoidPending),
            _ => Err(Malformed { what: "a phase" }),
        }
    }
}

// ===== impl AmountRule =====

impl AmountRule {
    fn from_code(code: u8) -> Result<Self, Malformed> {
        match code {
            1 => Ok(AmountRule::Exact),
            2 => Ok(AmountRule::UpToDebitAvailable),
            3 => Ok(AmountRule::UpToCreditAvailable),
            4 => Ok(AmountRule::UpToBothAvailable),
            _ => Err(Malformed {
                what: "an amount rule",
            }),
        }
    }

    /// Whether the rule bounds the transfer by the amount that is available on this side.
    #[must_use]
    pub const fn bounds(self, side: Side) -> bool {
        match (self, side) {
            (AmountRule::UpToDebitAvailable, Side::Debit)
            | (AmountRule::UpToCreditAvailable, Side::Credit)
            | (AmountRule::UpToBothAvailable, _) => true,
            (AmountRule::Exact | AmountRule::UpToDebitAvailable | AmountRule::UpToCreditAvailable, _) => {
                false
            }
        }
    }
}

// ===== encoding =====

/// Appends an encoded transaction of up to [`TRANSFERS_MAX`] transfers.
///
/// The caller checks the bounds of a request. This function checks the bounds again, because bytes that can't be
/// decoded must never become a record.
///
/// # Panics
/// If there are more than [`TRANSFERS_MAX`] transfers, if an id is longer than 255 bytes, if a transaction without transfers
/// names no other transaction, or if fields contradict each other: for example if a transaction that voids a hold has transfers.
pub fn put_transaction<'a, A: AccountRef<'a>>(
    out: &mut Vec<u8>,
    heading: &Heading<'_>,
    transfers: impl ExactSizeIterator<Item = Transfer<A>> + Clone,
) {
    let (count_less_one, mut flags) = match transfers.len().checked_sub(1).map(u8::try_from) {
        Some(Ok(count_less_one)) => (count_less_one, 0),
        None if heading.names != Names::Nothing => (0, FLAG_NO_TRANSFERS),
        None | Some(Err(_)) => panic!(
            "a transaction of {} transfers can't be encoded: 1 to {TRANSFERS_MAX} are allowed",
            transfers.len()
        ),
    };
    let has_rules = transfers
        .clone()
        .any(|transfer| transfer.rule != AmountRule::Exact);
    assert!(
        is_consistent(heading, transfers.len(), has_rules),
        "the fields of this transaction contradict each other: {heading:?}, {} transfers, amount rules: {has_rules}",
        transfers.len()
    );
    let mut set = |flag: u8, condition: bool| flags |= flag * u8::from(condition);
    set(FLAG_EFFECTIVE_TIME, heading.effective_time.is_some());
    set(FLAG_METADATA, !heading.metadata.is_empty());
    set(FLAG_TIMEOUT, heading.pending_timeout.is_some());
    set(FLAG_KEEP_REMAINING, heading.keep_remaining);
    set(FLAG_PENDING_ID, matches!(heading.names, Names::Hold(_)));
    set(FLAG_REVERSES, matches!(heading.names, Names::Reversed(_)));
    set(FLAG_RULES, has_rules);
    put_short_bytes(out, heading.id);
    out.push(heading.phase as u8);
    out.push(count_less_one);
    out.push(flags);
    if flags != 0 {
        put_optional(out, heading);
    }
    put_transfers(out, transfers, has_rules);
}

/// Appends the fields of a heading that most transactions do not have.
fn put_optional(out: &mut Vec<u8>, heading: &Heading<'_>) {
    if let Some(time) = heading.effective_time {
        out.extend_from_slice(&time.seconds.to_le_bytes());
        out.extend_from_slice(&time.nanos.to_le_bytes());
    }
    if !heading.metadata.is_empty() {
        put_metadata(out, heading.metadata);
    }
    if let Some(timeout) = heading.pending_timeout {
        put_varint_u64(out, timeout);
    }
    match heading.names {
        Names::Nothing => {}
        Names::Hold(id) | Names::Reversed(id) => put_short_bytes(out, id),
    }
}

/// Whether the fields of a transaction fit its phase. What the ledger does with other combinations is not defined.
const fn is_consistent(heading: &Heading<'_>, transfers: usize, has_rules: bool) -> bool {
    let (keeps, expires) = (heading.keep_remaining, heading.pending_timeout.is_some());
    match (heading.names, heading.phase) {
        (Names::Nothing, Phase::Posted) => !keeps && !expires,
        (Names::Nothing, Phase::Pending) => !keeps,
        (Names::Hold(_), Phase::PostPending) => !has_rules && !expires && (transfers > 0 || !keeps),
        (Names::Hold(_), Phase::VoidPending) => transfers == 0 && !keeps && !expires,
        (Names::Reversed(_), Phase::Posted) => !has_rules && !keeps && !expires,
        (Names::Nothing | Names::Hold(_) | Names::Reversed(_), _) => false,
    }
}

/// Appends encoded transfers, which follow the heading of a transaction. `has_rules` says whether each transfer is followed by its
/// amount rule.
pub(crate) fn put_transfers<'a, A: AccountRef<'a>>(
    out: &mut Vec<u8>,
    transfers: impl Iterator<Item = Transfer<A>>,
    has_rules: bool,
) {
    for transfer in transfers {
        transfer.debit.put(out);
        transfer.credit.put(out);
        put_varint(out, transfer.amount.minor_units());
        put_varint_u64(out, u64::from(transfer.code));
        if has_rules {
            out.push(transfer.rule as u8);
        }
    }
}

// ===== impl TransactionView =====

impl<'a, A: AccountRef<'a>> TransactionView<'a, A> {
    /// Decodes the heading of `encoded`. The last byte of `encoded` must be the last byte of the last transfer.
    /// [`TransactionView::transfers`] decodes the transfers.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes do not start with an encoded heading.
    #[inline]
    pub fn parse(encoded: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(encoded);
        let id = reader.short_bytes()?;
        let &[phase, count_less_one, flags] = reader.bytes(3)? else {
            return Err(Malformed { what: "a heading" });
        };
        let mut transaction = TransactionView {
            encoded,
            transfers_at: encoded.len() - reader.rest().len(),
            transfer_count: usize::from(count_less_one) + 1,
            id,
            phase: Phase::from_code(phase)?,
            flags,
            effective_time: None,
            names: Names::Nothing,
            pending_timeout: None,
            form: PhantomData,
        };
        if flags != 0 {
            transaction.take_optional(reader)?;
        }
        Ok(transaction)
    }

    /// Reads the fields of the heading that most transactions do not have, after the flags are known.
    fn take_optional(&mut self, mut reader: Reader<'a>) -> Result<(), Malformed> {
        let flags = self.flags;
        if flags & FLAG_EFFECTIVE_TIME != 0 {
            self.effective_time = Some(take_effective_time(&mut reader)?);
        }
        if flags & FLAG_METADATA != 0 {
            skip_metadata(&mut reader)?;
        }
        if flags & FLAG_TIMEOUT != 0 {
            self.pending_timeout = Some(reader.varint_u64()?);
        }
        self.names = match flags & (FLAG_PENDING_ID | FLAG_REVERSES) {
            0 => Names::Nothing,
            FLAG_PENDING_ID => Names::Hold(reader.short_bytes()?),
            FLAG_REVERSES => Names::Reversed(reader.short_bytes()?),
            _ => {
                return Err(Malformed {
                    what: "one other transaction",
                });
            }
        };
        if flags & FLAG_NO_TRANSFERS != 0 {
            self.transfer_count = 0;
        }
        self.transfers_at = self.encoded.len() - reader.rest().len();
        Ok(())
    }

    #[inline]
    pub(crate) const fn flags(&self) -> u8 {
        self.flags
    }

    /// The other transaction that this one names.
    #[inline]
    #[must_use]
    pub const fn names(&self) -> Names<'a> {
        self.names
    }

    /// Whether the part of a hold that is not posted stays reserved.
    #[inline]
    #[must_use]
    pub const fn keep_remaining(&self) -> bool {
        self.flags & FLAG_KEEP_REMAINING != 0
    }

    /// The time after which a hold expires, in nanoseconds.
    #[inline]
    #[must_use]
    pub const fn pending_timeout(&self) -> Option<u64> {
        self.pending_timeout
    }

    /// Whether the transaction only posts its transfers, each with its exact amount.
    #[inline]
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.flags & FLAGS_DERIVED == 0 && matches!(self.phase, Phase::Posted)
    }

    /// Whether the amounts that the transaction moves are not simply those of its transfers.
    #[inline]
    #[must_use]
    pub const fn is_derived(&self) -> bool {
        self.flags & FLAGS_DERIVED != 0
    }

    /// Whether each encoded transfer is followed by its amount rule.
    #[inline]
    pub(crate) const fn has_rules(&self) -> bool {
        self.flags & FLAG_RULES != 0
    }

    /// The client's idempotency key.
    ///
    /// # Panics
    /// If the id is not UTF-8. The caller must check ids with [`check_id`](crate::id::check_id), which accepts only
    /// ASCII.
    #[must_use]
    pub fn id(&self) -> &'a str {
        let Ok(id) = std::str::from_utf8(self.id) else {
            panic!(
                "the transaction id {:?} is not UTF-8, although ids are checked",
                self.id
            );
        };
        id
    }

    /// The bytes of the client's idempotency key.
    #[inline]
    #[must_use]
    pub const fn id_bytes(&self) -> &'a [u8] {
        self.id
    }

    /// What the transaction does with its transfers.
    #[inline]
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The client's business time.
    #[inline]
    #[must_use]
    pub const fn effective_time(&self) -> Option<EffectiveTime> {
        self.effective_time
    }

    /// The number of transfers, at most [`TRANSFERS_MAX`]. Only a transaction that [names](TransactionView::names) another
    /// transaction can have no transfers.
    #[inline]
    #[must_use]
    pub const fn transfer_count(&self) -> usize {
        self.transfer_count
    }

    /// All bytes of the encoded transaction, with its transfers.
    #[inline]
    #[must_use]
    pub const fn encoded(&self) -> &'a [u8] {
        self.encoded
    }

    /// The bytes before the transfers. They are the same in both forms.
    #[inline]
    #[must_use]
    pub const fn heading_bytes(&self) -> &'a [u8] {
        self.encoded.split_at(self.transfers_at).0
    }

    /// The transfers in their order. The iterator ends after the first transfer that can't be decoded.
    #[inline]
    #[must_use]
    pub fn transfers(&self) -> Transfers<'a, A> {
        Transfers {
            reader: Reader::new(self.encoded.split_at(self.transfers_at).1),
            left: self.transfer_count,
            has_rules: self.has_rules(),
            form: PhantomData,
        }
    }

    /// Decodes the client's metadata.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes are not encoded metadata. This can't happen, because [`TransactionView::parse`] has
    /// checked the metadata.
    pub fn metadata(&self) -> Result<Metadata, Malformed> {
        let mut reader = Reader::new(self.encoded);
        reader.short_bytes()?;
        let [_phase, _count, flags] = reader.bytes(3)? else {
            return Err(Malformed { what: "a heading" });
        };
        if flags & FLAG_EFFECTIVE_TIME != 0 {
            take_effective_time(&mut reader)?;
        }
        if flags & FLAG_METADATA == 0 {
            Ok(Metadata::new())
        } else {
            take_metadata(&mut reader)
        }
    }
}

fn take_effective_time(reader: &mut Reader<'_>) -> Result<EffectiveTime, Malformed> {
    let too_short = Malformed {
        what: "an effective time",
    };
    let seconds = reader.bytes(8)?.try_into().map_err(|_| too_short)?;
    let nanos = reader.bytes(4)?.try_into().map_err(|_| too_short)?;
    Ok(EffectiveTime {
        seconds: i64::from_le_bytes(seconds),
        nanos: u32::from_le_bytes(nanos),
    })
}

// ===== impl Transfers =====

impl<'a, A: AccountRef<'a>> Iterator for Transfers<'a, A> {
    type Item = Result<Transfer<A>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let transfer = take_transfer(&mut self.reader, self.has_rules);
        if transfer.is_err() {
            self.left = 0;
        }
        Some(transfer)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

#[inline]
fn take_transfer<'a, A: AccountRef<'a>>(
    reader: &mut Reader<'a>,
    has_rules: bool,
) -> Result<Transfer<A>, Malformed> {
    Ok(Transfer {
        debit: A::take(reader)?,
        credit: A::take(reader)?,
        amount: Amount::new(reader.varint_u128()?),
        code: reader.varint_u32()?,
        rule: if has_rules {
            AmountRule::from_code(reader.u8()?)?
        } else {
            AmountRule::Exact
        },
    })
}

#[cfg(test)]
#[path = "transaction_tests.rs"]
mod tests;
