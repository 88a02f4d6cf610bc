//! Reads requests with transactions straight from their bytes.
//!
//! They are nearly all of the traffic, and a generated type has a `String` for every name in them. What is read here is
//! borrowed from the request. The rules are those of protobuf as prost has them, of which the tests make sure: unknown
//! fields are skipped, the last of several values counts, messages that come twice are merged, text must be UTF-8.

use smallvec::SmallVec;

use crate::{
    id::is_id,
    ledger::{Metadata, TRANSFERS_MAX},
};

/// Messages may be nested so deep; only groups, which are unknown fields here, come near it.
pub(super) const DEPTH_MAX: u32 = 100;
/// Longest form of a number, in bytes.
pub(super) const VARINT_BYTES_MAX: usize = 10;

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
pub(super) const DELIMITED: u8 = 2;
pub(super) const GROUP: u8 = 3;
pub(super) const GROUP_END: u8 = 4;
const FIXED32: u8 = 5;

/// A field is not of the kind that the schema says.
pub(super) const WRONG_KIND: WireError = WireError::Malformed("a field has another kind than it should");
/// A group ends where none, or another one, has begun.
pub(super) const NO_GROUP: WireError = WireError::Malformed("a group ends that has not begun");
/// Messages or groups are nested more than [`DEPTH_MAX`] times.
pub(super) const TOO_DEEP: WireError = WireError::Malformed("messages are nested too deep");

/// The bytes are no such message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    /// They end in the middle of a field.
    #[error("the message ends in the middle of a field")]
    CutShort,
    /// They are malformed.
    #[error("{0}")]
    Malformed(&'static str),
}

/// A field with an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text<'a> {
    /// What an id may be.
    Id(&'a [u8]),
    /// Other text.
    Other(&'a str),
}

/// `ProcessTransactionRequest`. Fields that are not there have their defaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct WireTransaction<'a> {
    pub(super) id: Text<'a>,
    pub(super) phase: i32,
    /// The first [`TRANSFERS_MAX`].
    pub(super) transfers: SmallVec<[WireTransfer<'a>; 2]>,
    /// How many there are.
    pub(super) transfer_count: usize,
    pub(super) pending_transaction_id: &'a str,
    pub(super) pending_timeout: Option<Time>,
    pub(super) effective_time: Option<Time>,
    pub(super) metadata: Metadata,
}

/// `Transfer`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct WireTransfer<'a> {
    pub(super) debit: Text<'a>,
    pub(super) credit: Text<'a>,
    pub(super) amount: Option<WireAmount>,
    pub(super) code: i32,
}

/// The amount of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WireAmount {
    /// `minor_units`.
    Narrow(i64),
    /// `wide_minor_units`.
    Wide {
        /// The upper 64 bits.
        high: u64,
        /// The lower 64 bits.
        low: u64,
    },
}

/// `google.protobuf.Timestamp` and `Duration`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Time {
    pub(super) seconds: i64,
    pub(super) nanos: i32,
}

/// A field's key, and what can be said of the field from the few bytes at its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) field: u32,
    pub(super) kind: u8,
    /// Bytes that were read: the key, and the length or number behind it.
    pub(super) bytes: usize,
    /// Bytes of the field that are behind these; `None` if there are more than memory could ever hold. A group has none.
    pub(super) behind: Option<usize>,
}

/// Takes values off the front of a message.
#[derive(Debug, Clone, Copy)]
struct Wire<'a> {
    rest: &'a [u8],
    /// How much deeper messages may be nested here.
    depth: u32,
}

type Read<T> = Result<T, WireError>;

// ===== impl Text =====

impl Default for Text<'_> {
    fn default() -> Self {
        Text::Other("")
    }
}

impl<'a> Text<'a> {
    fn of(bytes: &'a [u8]) -> Read<Self> {
        // An id is ASCII, so that nothing else has to be looked at.
        if is_id(bytes) {
            Ok(Text::Id(bytes))
        } else {
            utf8(bytes).map(Text::Other)
        }
    }

    /// As it was sent.
    #[must_use]
    pub(super) fn as_str(self) -> &'a str {
        match self {
            // Always UTF-8, as ids are ASCII.
            Text::Id(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            Text::Other(text) => text,
        }
    }
}

// ===== reading messages =====

/// Reads a `ProcessTransactionRequest`.
///
/// # Errors
/// [`WireError`] if it is none.
pub(super) fn transaction(bytes: &[u8]) -> Read<WireTransaction<'_>> {
    let mut transaction = WireTransaction::default();
    transaction.merge(Wire {
        rest: bytes,
        depth: DEPTH_MAX,
    })?;
    Ok(transaction)
}

/// Reads a transaction of a `ProcessTransactionsRequest`, from the bytes that a [`Splitter`](super::split::Splitter) found.
///
/// # Errors
/// [`WireError`] if it is none.
pub(super) fn nested_transaction(bytes: &[u8]) -> Read<WireTransaction<'_>> {
    let mut transaction = WireTransaction::default();
    transaction.merge(Wire {
        rest: bytes,
        depth: DEPTH_MAX - 1,
    })?;
    Ok(transaction)
}

/// Reads a `StreamTransactionsRequest`. Without a transaction in it, it has the default one.
///
/// # Errors
/// [`WireError`] if it is none.
pub(super) fn stream_message(bytes: &[u8]) -> Read<WireTransaction<'_>> {
    let mut transaction = WireTransaction::default();
    let mut wire = Wire {
        rest: bytes,
        depth: DEPTH_MAX,
    };
    while !wire.is_empty() {
        match wire.key()? {
            (1, kind) => transaction.merge(wire.message(kind)?)?,
            (field, kind) => wire.skip(field, kind)?,
        }
    }
    Ok(transaction)
}

/// Reads a field's key, and the length or number behind it; `None` if `bytes` end before that.
///
/// # Errors
/// [`WireError`] if the message is malformed.
pub(super) fn head(bytes: &[u8]) -> Read<Option<Head>> {
    let mut wire = Wire {
        rest: bytes,
        depth: DEPTH_MAX,
    };
    match wire.head() {
        Ok((field, kind, behind)) => Ok(Some(Head {
            field,
            kind,
            bytes: bytes.len() - wire.rest.len(),
            behind,
        })),
        Err(WireError::CutShort) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How many accounts a `BatchCreateAccountsRequest` has, if that and their metadata are within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    /// So many.
    Accounts(usize),
    /// Too many; how many was not counted.
    TooManyAccounts,
    /// An account has too many entries of metadata, those counted that are replaced by later ones.
    TooManyEntries {
        /// Its place.
        account: usize,
    },
}

/// Counts the accounts of a `BatchCreateAccountsRequest`, without decoding them.
///
/// # Errors
/// [`WireError`] if it is none.
pub(super) fn count_accounts(bytes: &[u8], accounts_max: usize, entries_max: usize) -> Read<Counted> {
    let mut wire = Wire {
        rest: bytes,
        depth: DEPTH_MAX,
    };
    let mut count = 0;
    while !wire.is_empty() {
        match wire.key()? {
            (1, kind) => {
                if count == accounts_max {
                    return Ok(Counted::TooManyAccounts);
                }
                if count_entries(wire.message(kind)?)? > entries_max {
                    return Ok(Counted::TooManyEntries { account: count });
                }
                count += 1;
            }
            (field, kind) => wire.skip(field, kind)?,
        }
    }
    Ok(Counted::Accounts(count))
}

/// The entries of metadata of the account in a `CreateAccountRequest`.
fn count_entries(mut request: Wire<'_>) -> Read<usize> {
    let mut count = 0;
    while !request.is_empty() {
        match request.key()? {
            (1, kind) => {
                let mut account = request.message(kind)?;
                while !account.is_empty() {
                    let (field, kind) = account.key()?;
                    count += usize::from(field == 6);
                    account.skip(field, kind)?;
                }
            }
            (field, kind) => request.skip(field, kind)?,
        }
    }
    Ok(count)
}

impl<'a> WireTransaction<'a> {
    fn merge(&mut self, mut wire: Wire<'a>) -> Read<()> {
        while !wire.is_empty() {
            match wire.key()? {
                (1, kind) => self.id = Text::of(wire.delimited(kind)?)?,
                (2, kind) => self.phase = wire.int32(kind)?,
                (3, kind) => self.merge_transfer(wire.message(kind)?)?,
                (4, kind) => self.pending_transaction_id = utf8(wire.delimited(kind)?)?,
                (5, kind) => merge_time(self.pending_timeout.get_or_insert_default(), wire.message(kind)?)?,
                (6, kind) => merge_time(self.effective_time.get_or_insert_default(), wire.message(kind)?)?,
                (7, kind) => merge_entry(&mut self.metadata, wire.message(kind)?)?,
                (field, kind) => wire.skip(field, kind)?,
            }
        }
        Ok(())
    }

    fn merge_transfer(&mut self, mut wire: Wire<'a>) -> Read<()> {
        let mut transfer = WireTransfer::default();
        while !wire.is_empty() {
            match wire.key()? {
                (1, kind) => transfer.debit = Text::of(wire.delimited(kind)?)?,
                (2, kind) => transfer.credit = Text::of(wire.delimited(kind)?)?,
                (3, kind) => transfer.amount = Some(WireAmount::Narrow(wire.int64(kind)?)),
                (4, kind) => merge_wide(&mut transfer.amount, wire.message(kind)?)?,
                (5, kind) => transfer.code = wire.int32(kind)?,
                (field, kind) => wire.skip(field, kind)?,
            }
        }
        self.transfer_count += 1;
        if self.transfers.len() < TRANSFERS_MAX {
            self.transfers.push(transfer);
        }
        Ok(())
    }
}

fn merge_wide(amount: &mut Option<WireAmount>, mut wire: Wire<'_>) -> Read<()> {
    let (mut high, mut low) = match amount {
        Some(WireAmount::Wide { high, low }) => (*high, *low),
        Some(WireAmount::Narrow(_)) | None => (0, 0),
    };
    while !wire.is_empty() {
        match wire.key()? {
            (1, kind) => high = wire.fixed64(kind)?,
            (2, kind) => low = wire.fixed64(kind)?,
            (field, kind) => wire.skip(field, kind)?,
        }
    }
    *amount = Some(WireAmount::Wide { high, low });
    Ok(())
}

fn merge_time(time: &mut Time, mut wire: Wire<'_>) -> Read<()> {
    while !wire.is_empty() {
        match wire.key()? {
            (1, kind) => time.seconds = wire.int64(kind)?,
            (2, kind) => time.nanos = wire.int32(kind)?,
            (field, kind) => wire.skip(field, kind)?,
        }
    }
    Ok(())
}

fn merge_entry(metadata: &mut Metadata, mut wire: Wire<'_>) -> Read<()> {
    let (mut key, mut value) = ("", "");
    while !wire.is_empty() {
        match wire.key()? {
            (1, kind) => key = utf8(wire.delimited(kind)?)?,
            (2, kind) => value = utf8(wire.delimited(kind)?)?,
            (field, kind) => wire.skip(field, kind)?,
        }
    }
    metadata.insert(key.to_owned(), value.to_owned());
    Ok(())
}

// ===== impl Wire =====

impl<'a> Wire<'a> {
    const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The number and kind of the next field.
    fn key(&mut self) -> Read<(u32, u8)> {
        let key = u32::try_from(self.varint()?).map_err(|_| WireError::Malformed("a key is too large"))?;
        let (field, kind) = (key >> 3, key & 7);
        if field == 0 {
            return Err(WireError::Malformed("there is no field 0"));
        }
        match u8::try_from(kind) {
            Ok(kind @ ..=FIXED32) => Ok((field, kind)),
            _ => Err(WireError::Malformed("a field has no known kind")),
        }
    }

    /// A key and, where the kind has one, the length or number behind it: how many bytes of the field are left then.
    fn head(&mut self) -> Read<(u32, u8, Option<usize>)> {
        let (field, kind) = self.key()?;
        let behind = match kind {
            VARINT => {
                self.varint()?;
                Some(0)
            }
            FIXED64 => Some(8),
            FIXED32 => Some(4),
            DELIMITED => usize::try_from(self.varint()?).ok(),
            _ => Some(0),
        };
        Ok((field, kind, behind))
    }

    fn varint(&mut self) -> Read<u64> {
        if let [byte @ 0..=0x7f, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        let mut value = 0;
        for (index, byte) in self.rest.iter().take(VARINT_BYTES_MAX).enumerate() {
            // The tenth byte has room for the top bit of 64 only.
            if index == VARINT_BYTES_MAX - 1 && *byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.rest = self.rest.get(index + 1..).unwrap_or_default();
                return Ok(value);
            }
        }
        Err(if self.rest.len() < VARINT_BYTES_MAX {
            WireError::CutShort
        } else {
            WireError::Malformed("a number has more than 64 bits")
        })
    }

    fn length(&mut self) -> Read<usize> {
        usize::try_from(self.varint()?).map_err(|_| WireError::CutShort)
    }

    fn bytes(&mut self, length: usize) -> Read<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(WireError::CutShort)?;
        self.rest = rest;
        Ok(head)
    }

    fn expect(&self, kind: u8, expected: u8) -> Read<()> {
        if kind == expected { Ok(()) } else { Err(WRONG_KIND) }
    }

    fn delimited(&mut self, kind: u8) -> Read<&'a [u8]> {
        self.expect(kind, DELIMITED)?;
        let length = self.length()?;
        self.bytes(length)
    }

    fn message(&mut self, kind: u8) -> Read<Wire<'a>> {
        let rest = self.delimited(kind)?;
        Ok(Wire {
            rest,
            depth: deeper(self.depth)?,
        })
    }

    fn int64(&mut self, kind: u8) -> Read<i64> {
        self.expect(kind, VARINT)?;
        Ok(self.varint()?.cast_signed())
    }

    /// The lowest 32 bits, as every protobuf reader takes them.
    fn int32(&mut self, kind: u8) -> Read<i32> {
        self.expect(kind, VARINT)?;
        let low = self.varint()? & u64::from(u32::MAX);
        Ok(u32::try_from(low).unwrap_or_default().cast_signed())
    }

    fn fixed64(&mut self, kind: u8) -> Read<u64> {
        self.expect(kind, FIXED64)?;
        let bytes = self.bytes(8)?.try_into().map_err(|_| WireError::CutShort)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads past an unknown field.
    fn skip(&mut self, field: u32, kind: u8) -> Read<()> {
        let depth = deeper(self.depth)?;
        match kind {
            VARINT => self.varint().map(drop),
            FIXED64 => self.bytes(8).map(drop),
            FIXED32 => self.bytes(4).map(drop),
            DELIMITED => {
                let length = self.length()?;
                self.bytes(length).map(drop)
            }
            GROUP => loop {
                match self.key()? {
                    (end, GROUP_END) if end == field => return Ok(()),
                    (inner, kind) => {
                        let mut nested = Wire { depth, ..*self };
                        nested.skip(inner, kind)?;
                        self.rest = nested.rest;
                    }
                }
            },
            _ => Err(NO_GROUP),
        }
    }
}

fn deeper(depth: u32) -> Read<u32> {
    depth.checked_sub(1).ok_or(TOO_DEEP)
}

fn utf8(bytes: &[u8]) -> Read<&str> {
    std::str::from_utf8(bytes).map_err(|_| WireError::Malformed("text is not UTF-8"))
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
