//! The primitive types of the protocol. Every length that a peer claims is checked against the bytes that are present,
//! before anything is allocated.

use bytes::Bytes;

use crate::error::Malformed;

/// Encodes the body of a request. In a flexible version, lengths are varints and each structure ends with tagged fields.
#[derive(Debug)]
pub(crate) struct Encoder {
    bytes: Vec<u8>,
    flexible: bool,
}

impl Encoder {
    pub(crate) fn new(flexible: bool) -> Self {
        Self {
            bytes: Vec::with_capacity(128),
            flexible,
        }
    }

    pub(crate) fn finish(self) -> Bytes {
        Bytes::from(self.bytes)
    }

    /// Returns the bytes so far, and continues with an empty encoder.
    pub(crate) fn take(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.bytes))
    }

    pub(crate) fn i8(&mut self, value: i8) {
        self.bytes.extend(value.to_be_bytes());
    }

    pub(crate) fn i16(&mut self, value: i16) {
        self.bytes.extend(value.to_be_bytes());
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.bytes.extend(value.to_be_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.bytes.extend(value.to_be_bytes());
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.bytes.push(u8::from(value));
    }

    pub(crate) fn uuid(&mut self, value: [u8; 16]) {
        self.bytes.extend(value);
    }

    /// Writes the length of an array.
    pub(crate) fn array(&mut self, items: usize) {
        self.length(items);
    }

    /// Writes an absent array.
    pub(crate) fn null_array(&mut self) {
        if self.flexible {
            self.bytes.push(0);
        } else {
            self.i32(-1);
        }
    }

    /// Writes the length of a field of bytes. The caller sends the bytes themselves.
    pub(crate) fn bytes_length(&mut self, length: usize) {
        self.length(length);
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.length(value.len());
        self.bytes.extend(value);
    }

    /// Writes a string. The settings bound every string that is sent, so the length fits.
    pub(crate) fn string(&mut self, value: &str) {
        if self.flexible {
            self.length(value.len());
        } else {
            self.i16(i16::try_from(value.len()).unwrap_or(i16::MAX));
        }
        self.bytes.extend(value.as_bytes());
    }

    pub(crate) fn null_string(&mut self) {
        if self.flexible {
            self.bytes.push(0);
        } else {
            self.i16(-1);
        }
    }

    /// Ends a structure. In a flexible version, the tagged fields follow here; this client sends none.
    pub(crate) fn tags(&mut self) {
        if self.flexible {
            self.bytes.push(0);
        }
    }

    fn length(&mut self, length: usize) {
        if self.flexible {
            put_varint(&mut self.bytes, length as u64 + 1);
        } else {
            self.i32(i32::try_from(length).unwrap_or(i32::MAX));
        }
    }
}

/// Appends an unsigned varint: seven bits per byte, the lowest bits first.
pub(crate) fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            bytes.push(low & 0x7f);
            return;
        }
        bytes.push(low | 0x80);
    }
}

/// Appends a signed varint, in which small negative numbers are short ("zigzag").
pub(crate) fn put_signed_varint(bytes: &mut Vec<u8>, value: i64) {
    put_varint(bytes, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

/// Decodes an answer, or a batch of records.
#[derive(Debug, Clone)]
pub(crate) struct Decoder {
    bytes: Bytes,
    flexible: bool,
}

type Decoded<T> = Result<T, Malformed>;

impl Decoder {
    pub(crate) fn new(bytes: Bytes, flexible: bool) -> Self {
        Self { bytes, flexible }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// Takes the next `length` bytes without copying them.
    pub(crate) fn take(&mut self, length: usize) -> Decoded<Bytes> {
        if length > self.bytes.len() {
            return Err(Malformed("a field ends after the last byte"));
        }
        Ok(self.bytes.split_to(length))
    }

    fn fixed<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let bytes = self.take(N)?;
        bytes
            .as_ref()
            .try_into()
            .map_err(|_| Malformed("a field ends after the last byte"))
    }

    pub(crate) fn i8(&mut self) -> Decoded<i8> {
        self.fixed().map(i8::from_be_bytes)
    }

    pub(crate) fn i16(&mut self) -> Decoded<i16> {
        self.fixed().map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Decoded<i32> {
        self.fixed().map(i32::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Decoded<u32> {
        self.fixed().map(u32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Decoded<i64> {
        self.fixed().map(i64::from_be_bytes)
    }

    pub(crate) fn bool(&mut self) -> Decoded<bool> {
        self.i8().map(|value| value != 0)
    }

    pub(crate) fn uuid(&mut self) -> Decoded<[u8; 16]> {
        self.fixed()
    }

    /// Reads an unsigned varint of at most `bits` bits.
    fn varint(&mut self, bits: u32) -> Decoded<u64> {
        let mut value = 0_u64;
        for shift in (0..bits).step_by(7) {
            let [byte] = self.fixed()?;
            let low = u64::from(byte & 0x7f);
            if bits - shift < 7 && low >> (bits - shift) != 0 {
                return Err(Malformed("a varint is too large"));
            }
            value |= low << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("a varint is too long"))
    }

    /// Reads a signed varint of 64 bits.
    pub(crate) fn signed_varint(&mut self) -> Decoded<i64> {
        let value = self.varint(64)?;
        Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    /// Reads a length; `None` stands for an absent value.
    fn length(&mut self) -> Decoded<Option<usize>> {
        let length = if self.flexible {
            i64::try_from(self.varint(32)?).map_err(|_| Malformed("a length is too large"))? - 1
        } else {
            i64::from(self.i32()?)
        };
        Self::checked(length)
    }

    fn checked(length: i64) -> Decoded<Option<usize>> {
        match length {
            -1 => Ok(None),
            _ => usize::try_from(length)
                .map(Some)
                .map_err(|_| Malformed("a length is negative")),
        }
    }

    /// Reads a signed varint as the length of bytes in a record, and takes these bytes.
    pub(crate) fn record_bytes(&mut self) -> Decoded<Option<Bytes>> {
        match Self::checked(self.signed_varint()?)? {
            None => Ok(None),
            Some(length) => self.take(length).map(Some),
        }
    }

    /// Reads an array. The bytes that follow must have room for the claimed number of items, with at least
    /// `item_bytes_min` bytes per item.
    pub(crate) fn array<T>(
        &mut self,
        item_bytes_min: usize,
        mut item: impl FnMut(&mut Self) -> Decoded<T>,
    ) -> Decoded<Vec<T>> {
        let length = self.length()?.unwrap_or(0);
        if length > self.remaining() / item_bytes_min.max(1) {
            return Err(Malformed("an array is longer than the bytes that follow"));
        }
        (0..length).map(|_| item(self)).collect()
    }

    pub(crate) fn bytes(&mut self) -> Decoded<Option<Bytes>> {
        match self.length()? {
            None => Ok(None),
            Some(length) => self.take(length).map(Some),
        }
    }

    pub(crate) fn nullable_string(&mut self) -> Decoded<Option<String>> {
        let length = if self.flexible {
            self.length()?
        } else {
            Self::checked(i64::from(self.i16()?))?
        };
        let Some(length) = length else {
            return Ok(None);
        };
        let bytes = self.take(length)?;
        std::str::from_utf8(&bytes)
            .map(|text| Some(text.to_owned()))
            .map_err(|_| Malformed("a string is not UTF-8"))
    }

    pub(crate) fn string(&mut self) -> Decoded<String> {
        self.nullable_string()?.ok_or(Malformed("a string is absent"))
    }

    /// Skips the tagged fields at the end of a structure.
    pub(crate) fn tags(&mut self) -> Decoded<()> {
        if !self.flexible {
            return Ok(());
        }
        // Each field has at least two bytes, so the bytes that are present bound the loop.
        for _ in 0..self.varint(32)? {
            self.varint(32)?;
            let size = self.varint(32)?;
            self.take(usize::try_from(size).map_err(|_| Malformed("a length is too large"))?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
