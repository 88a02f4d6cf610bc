//! Splits a `ProcessTransactionsRequest` into its transactions while the message arrives.
//!
//! Every byte is read a bounded number of times, however the message is divided into parts. For an unknown field, the
//! splitter keeps only the number of remaining bytes.

use prost::encoding::WireType;
use tonic::Status;

use crate::grpc::protobuf::{self, FieldHead};

/// Maximum length of a key and the number after the key together, in bytes.
const HEAD_BYTES_MAX: usize = 2 * protobuf::VARINT_BYTES_MAX;
/// The number of the field with the transactions.
const TRANSACTIONS: u32 = 1;

/// A transaction in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// The bytes of a transaction.
    Transaction(&'a [u8]),
    /// The length of a transaction that is too long to read.
    TooLong(usize),
}

/// The state of reading one message.
#[derive(Debug)]
pub(crate) struct Splitter {
    /// Longest transaction that is read, in bytes.
    transaction_bytes_max: usize,
    next: Next,
    /// The first bytes of a key or of a transaction whose rest has not arrived. Nearly always empty.
    carry: Vec<u8>,
    /// The field numbers of the open groups. A group is an unknown field, so a field within a group is not a
    /// transaction.
    groups: Vec<u32>,
    /// Bytes read or copied up to now.
    #[cfg(test)]
    work: usize,
}

#[derive(Debug, Clone, Copy)]
enum Next {
    /// A field's key.
    Key,
    /// A transaction of this many bytes.
    Transaction(usize),
    /// This many more bytes of an unknown field.
    Unknown(usize),
}

// ===== impl Splitter =====

impl Splitter {
    /// Begins a message. A transaction of more than `transaction_bytes_max` bytes is skipped.
    pub(crate) const fn new(transaction_bytes_max: usize) -> Self {
        Splitter {
            transaction_bytes_max,
            next: Next::Key,
            carry: Vec::new(),
            groups: Vec::new(),
            #[cfg(test)]
            work: 0,
        }
    }

    /// Reads the next part of the message, and calls `each` for every transaction. After this `piece`, the message has
    /// `to_come` more bytes.
    ///
    /// # Errors
    /// The error of `each`; INTERNAL if the message is malformed.
    pub(crate) fn read(
        &mut self,
        piece: &[u8],
        to_come: usize,
        mut each: impl FnMut(Found<'_>) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let mut piece = piece;
        while !piece.is_empty() {
            match self.next {
                Next::Key => self.read_head(&mut piece, to_come, &mut each)?,
                Next::Unknown(left) => {
                    let skipped = left.min(piece.len());
                    piece = piece.get(skipped..).unwrap_or_default();
                    self.next = match left - skipped {
                        0 => Next::Key,
                        left => Next::Unknown(left),
                    };
                }
                Next::Transaction(length) => {
                    let (part, rest) = piece.split_at(piece.len().min(length - self.carry.len()));
                    piece = rest;
                    self.note(part.len());
                    if self.carry.is_empty() && part.len() == length {
                        self.next = Next::Key;
                        each(Found::Transaction(part))?;
                    } else {
                        self.carry.extend_from_slice(part);
                        if self.carry.len() == length {
                            self.next = Next::Key;
                            self.note(length);
                            each(Found::Transaction(&self.carry))?;
                            self.carry.clear();
                        }
                    }
                }
            }
        }
        let at_end = matches!(self.next, Next::Key) && self.carry.is_empty() && self.groups.is_empty();
        if to_come == 0 && !at_end {
            return Err(protobuf::CUT_SHORT.into());
        }
        Ok(())
    }

    /// Returns the memory that the splitter holds, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.carry.capacity() + self.groups.capacity() * size_of::<u32>()
    }

    /// Reads a key, and the length or number after the key.
    fn read_head(
        &mut self,
        piece: &mut &[u8],
        to_come: usize,
        each: &mut impl FnMut(Found<'_>) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let head = if self.carry.is_empty() {
            self.note(piece.len().min(HEAD_BYTES_MAX));
            let head = protobuf::head(piece)?;
            if head.is_none() {
                self.carry.extend_from_slice(piece);
            }
            let read = head.as_ref().map_or(piece.len(), |head| head.bytes);
            *piece = piece.get(read..).unwrap_or_default();
            head
        } else {
            // The key began in an earlier part. A key is short, so it is parsed again after each byte.
            let Some((byte, rest)) = piece.split_first() else {
                return Ok(());
            };
            *piece = rest;
            self.carry.push(*byte);
            self.note(self.carry.len());
            let head = protobuf::head(&self.carry)?;
            if head.is_some() {
                self.carry.clear();
            }
            head
        };
        match head {
            Some(head) => self.enter(&head, piece.len() + to_come, each),
            None => Ok(()),
        }
    }

    /// Sets `next` to the kind of data that follows the key and the length in `head`.
    fn enter(
        &mut self,
        head: &FieldHead,
        left: usize,
        each: &mut impl FnMut(Found<'_>) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let FieldHead { field, kind, .. } = *head;
        let is_transaction = field == TRANSACTIONS && self.groups.is_empty();
        if is_transaction && kind != WireType::LengthDelimited {
            return Err(protobuf::WRONG_TYPE.into());
        }
        if kind == WireType::EndGroup {
            return match self.groups.pop() {
                Some(group) if group == field => Ok(()),
                _ => Err(protobuf::NO_GROUP.into()),
            };
        }
        if self.groups.len() >= protobuf::DEPTH_MAX as usize {
            return Err(protobuf::TOO_DEEP.into());
        }
        if kind == WireType::StartGroup {
            self.groups.push(field);
            return Ok(());
        }
        let length = head
            .behind
            .filter(|length| *length <= left)
            .ok_or(protobuf::CUT_SHORT)?;
        if is_transaction && length > self.transaction_bytes_max {
            each(Found::TooLong(length))?;
            self.next = Next::Unknown(length);
        } else if is_transaction && length == 0 {
            each(Found::Transaction(&[]))?;
        } else if is_transaction {
            self.next = Next::Transaction(length);
        } else if length > 0 {
            self.next = Next::Unknown(length);
        }
        Ok(())
    }

    /// Counts bytes that are read or copied.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "only tests count"))]
    fn note(&mut self, bytes: usize) {
        #[cfg(test)]
        {
            self.work += bytes;
        }
        #[cfg(not(test))]
        let _ = bytes;
    }

    /// Returns the bytes that were read or copied up to now.
    #[cfg(test)]
    pub(crate) const fn work(&self) -> usize {
        self.work
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Maximum number of reads or copies for each byte of a message.
    const WORK_MAX: usize = 24;

    /// Reads `message` in parts of `piece` bytes. Returns the number of its transactions and the bytes read.
    fn read(message: &[u8], piece: usize) -> Result<(usize, usize), Status> {
        let mut splitter = Splitter::new(1 << 20);
        let (mut count, mut to_come) = (0, message.len());
        for piece in message.chunks(piece) {
            to_come -= piece.len();
            splitter.read(piece, to_come, |_| {
                count += 1;
                Ok(())
            })?;
        }
        Ok((count, splitter.work()))
    }

    fn number(value: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        prost::encoding::encode_varint(value as u64, &mut bytes);
        bytes
    }

    #[test]
    fn the_work_is_linear_in_the_length_of_the_message_for_pieces_of_any_length() {
        const BYTES: usize = 1 << 20;
        // One unknown field that spans all parts.
        let unknown = [&[0x12], number(BYTES).as_slice(), &vec![0; BYTES]].concat();
        // An unknown field whose content looks like transactions, and fields of each other wire type.
        let nested = [&[0x12], number(BYTES).as_slice(), &[0x0a, 0].repeat(BYTES / 2)].concat();
        let numbers = [0x10, 0xff, 0xff, 0x7f].repeat(BYTES / 4);
        let fixed = [0x11, 1, 2, 3, 4, 5, 6, 7, 8, 0x15, 1, 2, 3, 4].repeat(BYTES / 14);
        let groups = [0x13, 0x1b, 0x0a, 0, 0x1c, 0x14].repeat(BYTES / 6);
        // Keys and lengths in their longest encoding.
        let long_key = [0x92, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0];
        let long_length = [0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0];
        let long = [long_key.as_slice(), &long_length, &[7]]
            .concat()
            .repeat(BYTES / 21);
        let transactions = [&[0x0a, 100], [9; 100].as_slice()].concat().repeat(BYTES / 102);
        let empty = [0x0a, 0].repeat(BYTES / 2);
        for (name, message, expected) in [
            ("unknown", unknown, 0),
            ("nested", nested, 0),
            ("numbers", numbers, 0),
            ("fixed", fixed, 0),
            ("groups", groups, 0),
            ("long", long, 0),
            ("transactions", transactions, BYTES / 102),
            ("empty", empty, BYTES / 2),
        ] {
            for piece in [1, 2, 19, 1000, 16 << 10, usize::MAX] {
                let (count, work) = read(&message, piece).unwrap();
                assert_eq!(count, expected, "{name} in pieces of {piece}");
                let each = work / message.len();
                assert!(
                    each <= WORK_MAX,
                    "{name} in pieces of {piece}: {each} times each byte"
                );
            }
        }
    }

    #[test]
    fn a_transaction_that_is_too_long_is_reported_and_skipped() {
        let mut splitter = Splitter::new(3);
        let mut found = Vec::new();
        let message = [0x0a, 4, 1, 2, 3, 4, 0x0a, 3, 7, 8, 9];
        for (place, byte) in message.iter().enumerate() {
            let to_come = message.len() - 1 - place;
            splitter
                .read(&[*byte], to_come, |each| {
                    found.push(match each {
                        Found::Transaction(bytes) => bytes.to_vec(),
                        Found::TooLong(length) => vec![0; length],
                    });
                    Ok(())
                })
                .unwrap();
        }
        assert_eq!(found, [vec![0; 4], vec![7, 8, 9]]);
        assert!(splitter.held_bytes() < 64);
    }

    #[test]
    fn a_message_that_ends_within_a_field_is_an_error() {
        for message in [
            &[0x0a][..],
            &[0x0a, 2, 1],
            &[0x12, 2, 1],
            &[0x10, 0x80],
            &[0x11, 1],
            &[0x13],
            &[0x14],
            &[0x13, 0x1c],
            &[0x08, 1],
            &[0x0f],
            &[0x00],
        ] {
            for piece in [1, usize::MAX] {
                assert!(read(message, piece).is_err(), "{message:?}");
            }
        }
        assert!(read(&[0x13].repeat(101), 1).is_err(), "too deep");
    }
}
