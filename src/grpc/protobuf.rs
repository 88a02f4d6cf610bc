//! Reads the fields of protobuf messages without copying: values borrow from the message.
//!
//! The rules are the same as in prost: unknown fields are skipped, text must be UTF-8, and messages are nested at most
//! [`DEPTH_MAX`] levels deep. The tests in `transactions/wire_tests.rs` compare this reader with prost.

use prost::encoding::{WireType, decode_varint};

/// Maximum number of levels of nested messages. The messages of the service have a few levels. Only groups can have
/// more levels. The schemas of the service have no groups, so a group is always an unknown field.
pub(crate) const DEPTH_MAX: u32 = 100;
/// Longest encoding of a number, in bytes.
pub(crate) const VARINT_BYTES_MAX: usize = 10;

/// The message ends before its last field is complete.
pub(crate) const CUT_SHORT: WireError = WireError("the message ends in the middle of a field");
/// The wire type of a field differs from the schema.
pub(crate) const WRONG_TYPE: WireError = WireError("a field has another wire type than it should");
/// The key of a field is not allowed in protobuf.
const MALFORMED_KEY: WireError = WireError("a key is malformed or cut short");
/// The end of a group without its beginning.
pub(crate) const NO_GROUP: WireError = WireError("a group ends that has not begun");
/// Messages or groups are nested more than [`DEPTH_MAX`] levels deep.
pub(crate) const TOO_DEEP: WireError = WireError("messages are nested too deep");

/// The reason why bytes are not the expected message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WireError(&'static str);

/// The beginning of a field: its key, and the length or number after the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FieldHead {
    pub(crate) field: u32,
    pub(crate) kind: WireType,
    /// Bytes of the key and of the length or number after the key.
    pub(crate) bytes: usize,
    /// Bytes of the field after the head; 0 for a group. `None` if the length exceeds the address space.
    pub(crate) behind: Option<usize>,
}

/// Reads values from the front of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// Maximum number of further levels of messages that may be nested in this message.
    depth: u32,
}

pub(crate) type Read<T> = Result<T, WireError>;

/// Reads the beginning of a field. Returns `None` if `bytes` end within the beginning.
///
/// # Errors
/// [`WireError`] if the message is malformed.
pub(crate) fn head(bytes: &[u8]) -> Read<Option<FieldHead>> {
    let mut reader = Reader::new(bytes);
    if !reader.has_varint() {
        return Ok(None);
    }
    let (field, kind) = reader.key()?;
    let behind = match kind {
        WireType::Varint | WireType::LengthDelimited => {
            if !reader.has_varint() {
                return Ok(None);
            }
            let number = reader.varint()?;
            if kind == WireType::Varint {
                Some(0)
            } else {
                usize::try_from(number).ok()
            }
        }
        WireType::SixtyFourBit => Some(8),
        WireType::ThirtyTwoBit => Some(4),
        WireType::StartGroup | WireType::EndGroup => Some(0),
    };
    Ok(Some(FieldHead {
        field,
        kind,
        bytes: bytes.len() - reader.rest.len(),
        behind,
    }))
}

// ===== impl Reader =====

impl<'a> Reader<'a> {
    /// Returns a reader for a message that is not within another message.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Reader {
            rest: bytes,
            depth: DEPTH_MAX,
        }
    }

    /// Returns a reader for a message that was found within another message.
    pub(crate) const fn nested(bytes: &'a [u8]) -> Self {
        Reader {
            rest: bytes,
            depth: DEPTH_MAX - 1,
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Reads the number and wire type of the next field.
    #[inline]
    pub(crate) fn key(&mut self) -> Read<(u32, WireType)> {
        let key = self
            .varint()
            .ok()
            .and_then(|key| u32::try_from(key).ok())
            .ok_or(MALFORMED_KEY)?;
        let kind = match key & 0b111 {
            0 => WireType::Varint,
            1 => WireType::SixtyFourBit,
            2 => WireType::LengthDelimited,
            3 => WireType::StartGroup,
            4 => WireType::EndGroup,
            5 => WireType::ThirtyTwoBit,
            _ => return Err(MALFORMED_KEY),
        };
        match key >> 3 {
            0 => Err(MALFORMED_KEY),
            field => Ok((field, kind)),
        }
    }

    #[inline]
    fn varint(&mut self) -> Read<u64> {
        // Nearly all keys and lengths have one byte.
        match self.rest {
            [byte @ 0..=0x7f, rest @ ..] => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Read<u64> {
        decode_varint(&mut self.rest).map_err(|_| WireError("a number is malformed or cut short"))
    }

    /// Returns whether the bytes of the next number are complete. The number may be malformed.
    fn has_varint(&self) -> bool {
        self.rest.len() >= VARINT_BYTES_MAX || self.rest.iter().any(|byte| byte & 0x80 == 0)
    }

    #[inline]
    fn length(&mut self) -> Read<usize> {
        usize::try_from(self.varint()?).map_err(|_| CUT_SHORT)
    }

    #[inline]
    fn bytes(&mut self, length: usize) -> Read<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(CUT_SHORT)?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    fn expect(&self, kind: WireType, expected: WireType) -> Read<()> {
        if kind == expected { Ok(()) } else { Err(WRONG_TYPE) }
    }

    pub(crate) fn delimited(&mut self, kind: WireType) -> Read<&'a [u8]> {
        self.expect(kind, WireType::LengthDelimited)?;
        let length = self.length()?;
        self.bytes(length)
    }

    pub(crate) fn message(&mut self, kind: WireType) -> Read<Reader<'a>> {
        let rest = self.delimited(kind)?;
        Ok(Reader {
            rest,
            depth: deeper(self.depth)?,
        })
    }

    pub(crate) fn int64(&mut self, kind: WireType) -> Read<i64> {
        self.expect(kind, WireType::Varint)?;
        Ok(self.varint()?.cast_signed())
    }

    /// Reads the lowest 32 bits, as protobuf requires.
    pub(crate) fn int32(&mut self, kind: WireType) -> Read<i32> {
        self.expect(kind, WireType::Varint)?;
        let low = self.varint()? & u64::from(u32::MAX);
        Ok(u32::try_from(low).unwrap_or_default().cast_signed())
    }

    /// Reads a truth value. As protobuf requires, every number but 0 is true.
    pub(crate) fn bool(&mut self, kind: WireType) -> Read<bool> {
        self.expect(kind, WireType::Varint)?;
        Ok(self.varint()? != 0)
    }

    pub(crate) fn fixed64(&mut self, kind: WireType) -> Read<u64> {
        self.expect(kind, WireType::SixtyFourBit)?;
        let bytes = self.bytes(8)?.try_into().map_err(|_| CUT_SHORT)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Skips an unknown field.
    pub(crate) fn skip(&mut self, field: u32, kind: WireType) -> Read<()> {
        let depth = deeper(self.depth)?;
        match kind {
            WireType::Varint => self.varint().map(drop),
            WireType::SixtyFourBit => self.bytes(8).map(drop),
            WireType::ThirtyTwoBit => self.bytes(4).map(drop),
            WireType::LengthDelimited => {
                let length = self.length()?;
                self.bytes(length).map(drop)
            }
            WireType::StartGroup => loop {
                match self.key()? {
                    (end, WireType::EndGroup) if end == field => return Ok(()),
                    (inner, kind) => {
                        let mut nested = Reader { depth, ..*self };
                        nested.skip(inner, kind)?;
                        self.rest = nested.rest;
                    }
                }
            },
            WireType::EndGroup => Err(NO_GROUP),
        }
    }
}

fn deeper(depth: u32) -> Read<u32> {
    depth.checked_sub(1).ok_or(TOO_DEEP)
}

pub(crate) fn utf8(bytes: &[u8]) -> Read<&str> {
    std::str::from_utf8(bytes).map_err(|_| WireError("text is not UTF-8"))
}
