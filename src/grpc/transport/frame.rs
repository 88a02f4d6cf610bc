//! Writes gRPC's frames. A frame is one byte for the compression, four bytes for the length, and the message.

/// Length of the header in front of a message, in bytes.
pub(crate) const HEADER_BYTES: usize = 5;

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

/// Fills in the header at `header_at`. Everything behind the header is the message of the frame.
pub(crate) fn end_frame(out: &mut [u8], header_at: usize) {
    let length = u32::try_from(out.len() - header_at - HEADER_BYTES).unwrap_or(u32::MAX);
    if let Some(room) = out.get_mut(header_at + 1..header_at + HEADER_BYTES) {
        room.copy_from_slice(&length.to_be_bytes());
    }
}
