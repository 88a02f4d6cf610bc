//! Reads and writes gRPC's frames. A frame is one byte for the compression, four bytes for the length, and the message.

use bytes::Bytes;
use tonic::Status;

use crate::grpc::status;

/// Length of the header in front of a message, in bytes.
pub(crate) const HEADER_BYTES: usize = 5;

/// Reads the messages of a call out of the bytes of its HTTP/2 frames.
#[derive(Debug)]
pub(crate) struct FrameReader {
    /// Bytes that have arrived and are not read yet.
    arrived: Bytes,
    header: [u8; HEADER_BYTES],
    header_read: usize,
    /// Bytes of the current message that are not read yet. `None` between two messages.
    left: Option<usize>,
    /// The longest message that is read, in bytes.
    message_bytes_max: usize,
}

/// The next part of a message.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) bytes: Bytes,
    /// Bytes of the message that follow this part. 0 after the last part.
    pub(crate) to_come: usize,
}

// ===== impl FrameReader =====

impl FrameReader {
    /// Begins a call. A message may have at most `message_bytes_max` bytes.
    pub(crate) const fn new(message_bytes_max: usize) -> Self {
        FrameReader {
            arrived: Bytes::new(),
            header: [0; HEADER_BYTES],
            header_read: 0,
            left: None,
            message_bytes_max,
        }
    }

    /// Adds the bytes that have arrived next. All earlier bytes must have been taken.
    pub(crate) fn put(&mut self, bytes: Bytes) {
        self.arrived = bytes;
    }

    /// Returns the number of bytes that have arrived and are not read yet.
    pub(crate) fn arrived(&self) -> usize {
        self.arrived.len()
    }

    /// Returns whether a message has begun and is not complete.
    pub(crate) const fn has_begun(&self) -> bool {
        self.left.is_some() || self.header_read > 0
    }

    /// Drops the bytes that have arrived, and the message that has begun.
    pub(crate) fn clear(&mut self) {
        self.left = None;
        self.header_read = 0;
        self.arrived = Bytes::new();
    }

    /// Takes the next part of a message. Returns `None` if more bytes must arrive.
    ///
    /// # Errors
    /// INTERNAL if a header is malformed, OUT_OF_RANGE if a message is too long.
    pub(crate) fn take_piece(&mut self) -> Result<Option<Piece>, Status> {
        let left = match self.left {
            Some(left) => left,
            None => match self.take_header()? {
                Some(length) => length,
                None => return Ok(None),
            },
        };
        self.left = Some(left);
        if self.arrived.is_empty() && left > 0 {
            return Ok(None);
        }
        let bytes = self.arrived.split_to(left.min(self.arrived.len()));
        let to_come = left - bytes.len();
        self.left = (to_come > 0).then_some(to_come);
        Ok(Some(Piece { bytes, to_come }))
    }

    /// Takes the header of the next message, and returns the length of the message. Returns `None` if more bytes must
    /// arrive.
    fn take_header(&mut self) -> Result<Option<usize>, Status> {
        if let Some(room) = self.header.get_mut(self.header_read..) {
            let part = self.arrived.split_to(room.len().min(self.arrived.len()));
            if let Some(room) = room.get_mut(..part.len()) {
                room.copy_from_slice(&part);
            }
            self.header_read += part.len();
        }
        if self.header_read < HEADER_BYTES {
            return Ok(None);
        }
        self.header_read = 0;
        let [flag, length @ ..] = self.header;
        if flag != 0 {
            return Err(status::malformed_call(format!(
                "the message has compression flag {flag}, it must be 0 without grpc-encoding"
            )));
        }
        let length = u32::from_be_bytes(length) as usize;
        let most = self.message_bytes_max;
        if length > most {
            return Err(status::message_too_large(length, most));
        }
        Ok(Some(length))
    }
}

/// Appends a frame to `out`. `put` appends the message of the frame.
pub(crate) fn put_frame(out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    let header_at = begin_frame(out);
    put(out);
    end_frame(out, header_at);
}

/// Appends the empty header of a frame, and returns the position of the header.
pub(crate) fn begin_frame(out: &mut Vec<u8>) -> usize {
    let header_at = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    header_at
}

/// Fills in the header at `header_at`. Everything after the header is the message of the frame.
pub(crate) fn end_frame(out: &mut [u8], header_at: usize) {
    let length = u32::try_from(out.len() - header_at - HEADER_BYTES).unwrap_or(u32::MAX);
    if let Some(room) = out.get_mut(header_at + 1..header_at + HEADER_BYTES) {
        room.copy_from_slice(&length.to_be_bytes());
    }
}
