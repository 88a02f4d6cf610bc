//! The bytes of the ledger: LEB128 varints and length-prefixed text, read without copying.
//!
//! One encoding serves three masters: the request on its way from NET to EXEC, the record in the journal, and the
//! comparison that decides whether a repeated transaction id carries the same content. So it is canonical: equal
//! content has equal bytes.

use thiserror::Error;

/// Longest LEB128 form of a `u128`, in bytes.
pub const VARINT_BYTES_MAX: usize = 19;

/// The bytes are not what the encoder writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("malformed record: {what}")]
pub struct Malformed {
    /// What was expected.
    pub what: &'static str,
}

/// Takes values off the front of a byte slice.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

// ===== impl Reader =====

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// What has not been read.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether all has been read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `length` bytes.
    ///
    /// # Errors
    /// [`Malformed`] if there are fewer.
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(Malformed { what: "more bytes" })?;
        self.rest = rest;
        Ok(head)
    }

    /// The next byte.
    ///
    /// # Errors
    /// [`Malformed`] if there is none.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        let (byte, rest) = self.rest.split_first().ok_or(Malformed {
            what: "one more byte",
        })?;
        self.rest = rest;
        Ok(*byte)
    }

    /// What is behind a one-byte length.
    ///
    /// # Errors
    /// [`Malformed`] if it is cut short.
    pub fn short_bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::from(self.u8()?);
        self.bytes(length)
    }

    /// Text behind a one-byte length.
    ///
    /// # Errors
    /// [`Malformed`] if it is cut short or not UTF-8.
    pub fn short_str(&mut self) -> Result<&'a str, Malformed> {
        let length = usize::from(self.u8()?);
        self.utf8(length)
    }

    /// Text behind a varint length.
    ///
    /// # Errors
    /// [`Malformed`] if it is cut short or not UTF-8.
    pub fn long_str(&mut self) -> Result<&'a str, Malformed> {
        let length = usize::try_from(self.varint_u64()?).map_err(|_| Malformed { what: "a length" })?;
        self.utf8(length)
    }

    /// An unsigned number of up to 128 bits.
    ///
    /// # Errors
    /// [`Malformed`] if it is cut short, too long, or not in its shortest form.
    pub fn varint_u128(&mut self) -> Result<u128, Malformed> {
        // Amounts of up to two million minor units, without 128-bit arithmetic.
        match *self.rest {
            [byte @ 0..=0x7f, ..] => return self.advance(1, u128::from(byte)),
            [low @ 0x80..=0xff, high @ 1..=0x7f, ..] => {
                return self.advance(2, u128::from(u32::from(low & 0x7f) | u32::from(high) << 7));
            }
            [low @ 0x80..=0xff, middle @ 0x80..=0xff, high @ 1..=0x7f, ..] => {
                let value = u32::from(low & 0x7f) | u32::from(middle & 0x7f) << 7 | u32::from(high) << 14;
                return self.advance(3, u128::from(value));
            }
            _ => {}
        }
        let mut value = 0_u128;
        for (index, byte) in self.rest.iter().take(VARINT_BYTES_MAX).enumerate() {
            let bits = u128::from(byte & 0x7f);
            let shift = 7 * index;
            // The nineteenth byte has room for the top two bits of 128 only.
            if index == VARINT_BYTES_MAX - 1 && bits > 0b11 {
                return Err(Malformed {
                    what: "a number of at most 128 bits",
                });
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if *byte == 0 && index > 0 {
                    return Err(Malformed {
                        what: "a number in its shortest form",
                    });
                }
                self.rest = self.rest.get(index + 1..).unwrap_or_default();
                return Ok(value);
            }
        }
        Err(Malformed {
            what: "the end of a number",
        })
    }

    fn advance(&mut self, bytes: usize, value: u128) -> Result<u128, Malformed> {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
        Ok(value)
    }

    /// An unsigned number of up to 64 bits.
    ///
    /// # Errors
    /// As [`Reader::varint_u128`], or if it is larger.
    pub fn varint_u64(&mut self) -> Result<u64, Malformed> {
        // Nearly every number in a record has one byte.
        if let [byte @ 0..=0x7f, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        u64::try_from(self.varint_u128()?).map_err(|_| Malformed {
            what: "a number of at most 64 bits",
        })
    }

    /// An unsigned number of up to 32 bits.
    ///
    /// # Errors
    /// As [`Reader::varint_u128`], or if it is larger.
    pub fn varint_u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.varint_u64()?).map_err(|_| Malformed {
            what: "a number of at most 32 bits",
        })
    }

    fn utf8(&mut self, length: usize) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes(length)?).map_err(|_| Malformed { what: "UTF-8 text" })
    }
}

/// Appends `value` in as few bytes as it takes, seven bits each.
pub fn put_varint(out: &mut Vec<u8>, value: u128) {
    // Nearly every number fits 64 bits, whose shifts are one instruction.
    match u64::try_from(value) {
        Ok(value) => put_varint_u64(out, value),
        Err(_) => {
            let mut value = value;
            while value > 0x7f {
                out.push(low_seven_bits(value) | 0x80);
                value >>= 7;
            }
            out.push(low_seven_bits(value));
        }
    }
}

/// As [`put_varint`].
#[inline]
pub fn put_varint_u64(out: &mut Vec<u8>, value: u64) {
    let mut value = value;
    while value > 0x7f {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// Appends text of at most 255 bytes behind a one-byte length. Longer text is cut by the callers' own checks.
pub fn put_short_str(out: &mut Vec<u8>, text: &str) {
    put_short_bytes(out, text.as_bytes());
}

/// As [`put_short_str`].
pub fn put_short_bytes(out: &mut Vec<u8>, text: &[u8]) {
    debug_assert!(
        text.len() <= usize::from(u8::MAX),
        "checked where the text came in"
    );
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    out.push(length);
    out.extend_from_slice(text.get(..usize::from(length)).unwrap_or_default());
}

/// Appends text behind a varint length.
pub fn put_long_str(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u128);
    out.extend_from_slice(text.as_bytes());
}

/// Masked to seven bits, so the cast loses nothing.
const fn low_seven_bits(value: u128) -> u8 {
    (value & 0x7f) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_come_back(value in prop_oneof![any::<u128>(), 0..300_u128, Just(u128::MAX)]) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert!(bytes.len() <= VARINT_BYTES_MAX);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint_u128(), Ok(value));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn any_bytes_are_read_or_refused_but_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(value) = reader.varint_u128() {
                // Canonical: what was read is what would be written.
                let mut again = Vec::new();
                put_varint(&mut again, value);
                prop_assert_eq!(&again[..], &bytes[..again.len()]);
            }
            let _ = Reader::new(&bytes).short_str();
            let _ = Reader::new(&bytes).long_str();
        }
    }

    #[test]
    fn refuses_overlong_and_truncated_numbers() {
        assert!(Reader::new(&[0x80, 0x00]).varint_u128().is_err());
        assert!(Reader::new(&[0x80]).varint_u128().is_err());
        assert!(Reader::new(&[0xff; 20]).varint_u128().is_err());
        let mut large = Vec::new();
        put_varint(&mut large, u128::from(u64::MAX) + 1);
        assert!(Reader::new(&large).varint_u64().is_err());
    }
}
