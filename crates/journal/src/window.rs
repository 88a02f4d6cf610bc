//! A read buffer for a segment file, to read the file from start to end with few system calls.

use std::{path::Path, sync::Arc};

use crate::{
    block::{BlockHeader, HEADER_BYTES, HEADER_BYTES_U32, HeaderBytes},
    disk::{Disk, DiskFile, FileAccess},
    error::JournalError,
    segment_file::segment_name,
};

/// A part of a segment in memory. Bytes after the end of the file read as zeros, like bytes of a segment that were
/// never written.
#[derive(Debug)]
pub(super) struct SegmentWindow<'a> {
    disk: &'a dyn Disk,
    journal: &'a Path,
    segment: Option<(u32, Arc<dyn DiskFile>)>,
    /// The content of the window. Its length never changes.
    bytes: Vec<u8>,
    /// The offset of `bytes` in the segment; `None` before the first read.
    start: Option<u32>,
}

// ===== impl SegmentWindow =====

impl<'a> SegmentWindow<'a> {
    /// Makes a window of `bytes` bytes, or of the length of a header if that is more.
    pub(super) fn new(disk: &'a dyn Disk, journal: &'a Path, bytes: u32) -> Self {
        let bytes = vec![0; HEADER_BYTES.max(bytes as usize)];
        SegmentWindow {
            disk,
            journal,
            segment: None,
            bytes,
            start: None,
        }
    }

    /// Opens segment `number`. The other methods then read from this segment. Returns whether the segment exists.
    pub(super) fn open(&mut self, number: u32) -> Result<bool, JournalError> {
        if matches!(&self.segment, Some((open, _)) if *open == number) {
            return Ok(true);
        }
        self.start = None;
        match self
            .disk
            .open(&self.journal.join(segment_name(number)), FileAccess::Read)
        {
            Ok(file) => self.segment = Some((number, file)),
            Err(error) if error.is_not_found() => self.segment = None,
            Err(error) => return Err(error.into()),
        }
        Ok(self.segment.is_some())
    }

    /// Returns `length` bytes at `offset` of the open segment.
    ///
    /// # Panics
    /// If no segment is open, or `length` is more than the length of the window.
    pub(super) fn view(&mut self, offset: u32, length: u32) -> Result<&[u8], JournalError> {
        let length = length as usize;
        assert!(
            length <= self.bytes.len(),
            "a view of {length} bytes is longer than the window"
        );
        let skip = self
            .start
            .and_then(|start| offset.checked_sub(start))
            .map(|skip| skip as usize)
            .filter(|skip| skip.saturating_add(length) <= self.bytes.len());
        let skip = match skip {
            Some(skip) => skip,
            None => {
                self.fill(offset)?;
                0
            }
        };
        Ok(self.bytes.split_at(skip).1.split_at(length).0)
    }

    /// Returns the bytes of a header at `offset` of the open segment.
    ///
    /// # Panics
    /// If no segment is open.
    pub(super) fn header_bytes(&mut self, offset: u32) -> Result<&HeaderBytes, JournalError> {
        let Some(bytes) = self.view(offset, HEADER_BYTES_U32)?.first_chunk() else {
            panic!("the window must return as many bytes as were requested");
        };
        Ok(bytes)
    }

    /// Returns the header and the body of a block in the open segment.
    ///
    /// # Panics
    /// If the segment of the block is not open, or the block is longer than the window.
    pub(super) fn block(&mut self, header: &BlockHeader) -> Result<&[u8], JournalError> {
        let open = self.segment.as_ref().map(|(number, _)| *number);
        assert_eq!(
            open,
            Some(header.position.segment()),
            "the segment of the block must be open"
        );
        self.view(header.position.offset(), HEADER_BYTES_U32 + header.body_bytes)
    }

    /// Returns the body of a block in the open segment.
    ///
    /// # Panics
    /// See [`SegmentWindow::block`].
    pub(super) fn body(&mut self, header: &BlockHeader) -> Result<&[u8], JournalError> {
        Ok(self.block(header)?.split_at(HEADER_BYTES).1)
    }

    fn fill(&mut self, offset: u32) -> Result<(), JournalError> {
        self.start = None;
        let Some((_, file)) = &self.segment else {
            panic!("a segment must be open before a window reads from it");
        };
        let bytes_read = file.read_at(u64::from(offset), &mut self.bytes)?;
        self.bytes.split_at_mut(bytes_read).1.fill(0);
        self.start = Some(offset);
        Ok(())
    }
}
