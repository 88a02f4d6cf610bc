//! The byte encoding of the ledger: LEB128 varints and length-prefixed text, decoded without copying.
//!
//! Requests and records use the same encoding. The encoding is canonical: equal content always has equal bytes. So a
//! comparison of bytes decides whether a repeated transaction id has the same content as before.

use thiserror::Error;

/// Maximum length of a LEB128-encoded `u128`, in bytes.
pub const VARINT_BYTES_MAX: usize = 19;

/// An error: the bytes are not an encoding of the expected value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("malformed record: expected {what}")]
pub struct Malformed {
    /// The value that was expected.
    pub what: &'static str,
}

/// Decodes values from the front of a byte slice.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

// ===== impl Reader =====

impl<'a> Reader<'a> {
    /// Creates a reader at the start of `bytes`.
    #[inline]
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// The bytes that have not been read.
    #[inline]
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether all bytes have been read.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Reads the next `length` bytes.
    ///
    /// # Errors
    /// [`Malformed`] if fewer bytes are left.
    #[inline]
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(Malformed { what: "more bytes" })?;
        self.rest = rest;
        Ok(head)
    }

    /// Reads the next byte.
    ///
    /// # Errors
    /// [`Malformed`] if no byte is left.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        let (byte, rest) = self.rest.split_first().ok_or(Malformed {
            what: "one more byte",
        })?;
        self.rest = rest;
        Ok(*byte)
    }

    /// Reads a one-byte length, then that number of bytes.
    ///
    /// # Errors
    /// [`Malformed`] if fewer bytes are left.
    #[inline]
    pub fn short_bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::from(self.u8()?);
        self.bytes(length)
    }

    /// Reads a one-byte length, then text of that number of bytes.
    ///
    /// # Errors
    /// [`Malformed`] if fewer bytes are left, or the text is not UTF-8.
    pub fn short_str(&mut self) -> Result<&'a str, Malformed> {
        let length = usize::from(self.u8()?);
        self.utf8(length)
    }

    /// Reads a varint length, then text of that number of bytes.
    ///
    /// # Errors
    /// [`Malformed`] if fewer bytes are left, or the text is not UTF-8.
    pub fn long_str(&mut self) -> Result<&'a str, Malformed> {
        let length = usize::try_from(self.varint_u64()?).map_err(|_| Malformed { what: "a length" })?;
        self.utf8(length)
    }

    /// Skips a number.
    ///
    /// # Errors
    /// [`Malformed`] if the number is cut short.
    #[inline]
    pub fn skip_varint(&mut self) -> Result<(), Malformed> {
        while self.u8()? > 0x7f {}
        Ok(())
    }

    /// Reads an unsigned number of up to 128 bits.
    ///
    /// # Errors
    /// [`Malformed`] if the number is cut short, too long, or not in its shortest form.
    pub fn varint_u128(&mut self) -> Result<u128, Malformed> {
        // Numbers of one to three bytes (amounts of up to two million minor units) are decoded without 128-bit
        // arithmetic, which is slower.
        match self.rest {
            [byte @ 0..=0x7f, rest @ ..] => {
                self.rest = rest;
                return Ok(u128::from(*byte));
            }
            [low @ 0x80..=0xff, high @ 1..=0x7f, rest @ ..] => {
                self.rest = rest;
                return Ok(u128::from(u32::from(low & 0x7f) | u32::from(*high) << 7));
            }
            [
                low @ 0x80..=0xff,
                middle @ 0x80..=0xff,
                high @ 1..=0x7f,
                rest @ ..,
            ] => {
                self.rest = rest;
                let value = u32::from(low & 0x7f) | u32::from(middle & 0x7f) << 7 | u32::from(*high) << 14;
                return Ok(u128::from(value));
            }
            _ => {}
        }
        let mut value = 0_u128;
        let mut left = self.rest.iter();
        for index in 0..VARINT_BYTES_MAX {
            let byte = left.next().ok_or(Malformed {
                what: "the end of a number",
            })?;
            let bits = u128::from(byte & 0x7f);
            let shift = 7 * index;
            // Eighteen bytes hold 126 bits, so the nineteenth byte may hold only two more bits.
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
                self.rest = left.as_slice();
                return Ok(value);
            }
        }
        Err(Malformed {
            what: "the end of a number",
        })
    }

    /// Reads an unsigned number of up to 64 bits.
    ///
    /// # Errors
    /// Those of [`Reader::varint_u128`], and [`Malformed`] if the number exceeds 64 bits.
    #[inline]
    pub fn varint_u64(&mut self) -> Result<u64, Malformed> {
        // Most numbers in a record have one byte, so this case is checked first.
        if let [byte @ 0..=0x7f, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        u64::try_from(self.varint_u128()?).map_err(|_| Malformed {
            what: "a number of at most 64 bits",
        })
    }

    /// Reads an unsigned number of up to 32 bits.
    ///
    /// # Errors
    /// Those of [`Reader::varint_u128`], and [`Malformed`] if the number exceeds 32 bits.
    #[inline]
    pub fn varint_u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.varint_u64()?).map_err(|_| Malformed {
            what: "a number of at most 32 bits",
        })
    }

    fn utf8(&mut self, length: usize) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes(length)?).map_err(|_| Malformed { what: "UTF-8 text" })
    }
}

/// Appends `value` as the shortest LEB128 varint.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, value: u128) {
    // Most numbers fit 64 bits. The CPU shifts a 64-bit number with one instruction, but a 128-bit number with several.
    // So numbers of up to 64 bits have a separate function.
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

/// Appends `value` as the shortest LEB128 varint.
#[inline]
pub fn put_varint_u64(out: &mut Vec<u8>, value: u64) {
    let mut value = value;
    while value > 0x7f {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// Appends a one-byte length, then `text`.
///
/// # Panics
/// If `text` is longer than 255 bytes.
#[inline]
pub fn put_short_str(out: &mut Vec<u8>, text: &str) {
    put_short_bytes(out, text.as_bytes());
}

/// Appends a one-byte length, then `text`.
///
/// # Panics
/// If `text` is longer than 255 bytes. If the function cut the text instead, the result could be the id of another
/// transaction or account.
#[inline]
pub fn put_short_bytes(out: &mut Vec<u8>, text: &[u8]) {
    let Ok(length) = u8::try_from(text.len()) else {
        panic!(
            "a text of {} bytes is too long: at most 255 can be encoded",
            text.len()
        );
    };
    out.push(length);
    out.extend_from_slice(text);
}

/// Appends a varint length, then `text`.
pub fn put_long_str(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u128);
    out.extend_from_slice(text.as_bytes());
}

/// Returns the lowest seven bits.
#[inline]
const fn low_seven_bits(value: u128) -> u8 {
    (value & 0x7f) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_are_decoded_as_they_were_encoded(value in prop_oneof![any::<u128>(), 0..300_u128, Just(u128::MAX)]) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert!(bytes.len() <= VARINT_BYTES_MAX);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint_u128(), Ok(value));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(value) = reader.varint_u128() {
                // The encoding is canonical: encoding the value gives the bytes that were read.
                let mut again = Vec::new();
                put_varint(&mut again, value);
                prop_assert_eq!(&again[..], &bytes[..again.len()]);
            }
            let texts = [Reader::new(&bytes).short_str(), Reader::new(&bytes).long_str()];
            prop_assert!(texts.iter().flatten().all(|text| text.len() <= bytes.len()));
        }
    }

    #[test]
    #[should_panic(expected = "a text of 256 bytes")]
    fn a_text_that_is_too_long_is_not_cut() {
        put_short_bytes(&mut Vec::new(), &[b'x'; 256]);
    }

    #[test]
    fn overlong_and_truncated_numbers_are_malformed() {
        assert!(Reader::new(&[0x80, 0x00]).varint_u128().is_err());
        assert!(Reader::new(&[0x80]).varint_u128().is_err());
        assert!(Reader::new(&[0xff; 20]).varint_u128().is_err());
        let mut large = Vec::new();
        put_varint(&mut large, u128::from(u64::MAX) + 1);
        assert!(Reader::new(&large).varint_u64().is_err());
    }
}
