//! Reads the fields of protobuf messages without copying: values borrow from the message.
//!
//! The rules are prost's: unknown fields are skipped, text must be UTF-8, and messages are nested at most [`DEPTH_MAX`]
//! levels deep. The tests in `transactions/wire_tests.rs` compare both readers.

/// Most levels of nested messages. Only groups, which are unknown fields here, come near it.
pub(crate) const DEPTH_MAX: u32 = 100;
/// Longest encoding of a number, in bytes.
pub(crate) const VARINT_BYTES_MAX: usize = 10;

const VARINT: u8 = 0;
pub(crate) const FIXED64: u8 = 1;
pub(crate) const DELIMITED: u8 = 2;
pub(crate) const GROUP: u8 = 3;
pub(crate) const GROUP_END: u8 = 4;
pub(crate) const FIXED32: u8 = 5;

/// The wire type of a field differs from the schema.
pub(crate) const WRONG_KIND: WireError = WireError::Malformed("a field has another kind than it should");
/// The end of a group without its beginning.
pub(crate) const NO_GROUP: WireError = WireError::Malformed("a group ends that has not begun");
/// Messages or groups are nested more than [`DEPTH_MAX`] levels deep.
pub(crate) const TOO_DEEP: WireError = WireError::Malformed("messages are nested too deep");

/// Why bytes are not the expected message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    /// They end in the middle of a field.
    #[error("the message ends in the middle of a field")]
    CutShort,
    /// They are malformed.
    #[error("{0}")]
    Malformed(&'static str),
}

/// The beginning of a field: its key, and the length or number behind the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FieldHead {
    pub(crate) field: u32,
    pub(crate) kind: u8,
    /// Bytes of the key and of the length or number behind it.
    pub(crate) bytes: usize,
    /// Bytes of the field that follow; 0 for a group. `None` if the number exceeds the address space.
    pub(crate) behind: Option<usize>,
}

/// Reads values from the front of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// How many more levels of messages may be nested here.
    depth: u32,
}

pub(crate) type Read<T> = Result<T, WireError>;

/// Reads the beginning of a field. Returns `None` if `bytes` end within it.
///
/// # Errors
/// [`WireError`] if the message is malformed.
pub(crate) fn head(bytes: &[u8]) -> Read<Option<FieldHead>> {
    let mut reader = Reader::new(bytes);
    match reader.head() {
        Ok((field, kind, behind)) => Ok(Some(FieldHead {
            field,
            kind,
            bytes: bytes.len() - reader.rest.len(),
            behind,
        })),
        Err(WireError::CutShort) => Ok(None),
        Err(error) => Err(error),
    }
}

// ===== impl Reader =====

impl<'a> Reader<'a> {
    /// Reads a whole message.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Reader {
            rest: bytes,
            depth: DEPTH_MAX,
        }
    }

    /// Reads a message that was found inside another one.
    pub(crate) const fn nested(bytes: &'a [u8]) -> Self {
        Reader {
            rest: bytes,
            depth: DEPTH_MAX - 1,
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The number and kind of the next field.
    pub(crate) fn key(&mut self) -> Read<(u32, u8)> {
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

    /// Reads a key and the length or number behind it. Also returns how many bytes of the field follow.
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
            // The tenth byte may hold only the top bit of 64.
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

    pub(crate) fn delimited(&mut self, kind: u8) -> Read<&'a [u8]> {
        self.expect(kind, DELIMITED)?;
        let length = self.length()?;
        self.bytes(length)
    }

    pub(crate) fn message(&mut self, kind: u8) -> Read<Reader<'a>> {
        let rest = self.delimited(kind)?;
        Ok(Reader {
            rest,
            depth: deeper(self.depth)?,
        })
    }

    pub(crate) fn int64(&mut self, kind: u8) -> Read<i64> {
        self.expect(kind, VARINT)?;
        Ok(self.varint()?.cast_signed())
    }

    /// Reads the lowest 32 bits, as protobuf requires.
    pub(crate) fn int32(&mut self, kind: u8) -> Read<i32> {
        self.expect(kind, VARINT)?;
        let low = self.varint()? & u64::from(u32::MAX);
        Ok(u32::try_from(low).unwrap_or_default().cast_signed())
    }

    pub(crate) fn fixed64(&mut self, kind: u8) -> Read<u64> {
        self.expect(kind, FIXED64)?;
        let bytes = self.bytes(8)?.try_into().map_err(|_| WireError::CutShort)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Skips an unknown field.
    pub(crate) fn skip(&mut self, field: u32, kind: u8) -> Read<()> {
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
                        let mut nested = Reader { depth, ..*self };
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

pub(crate) fn utf8(bytes: &[u8]) -> Read<&str> {
    std::str::from_utf8(bytes).map_err(|_| WireError::Malformed("text is not UTF-8"))
}
