//! A sliding view of one segment file, for reading it from front to back with few reads.

use std::{path::Path, sync::Arc};

use crate::{
    block::{BlockHeader, HEADER_BYTES, HEADER_BYTES_U32},
    disk::{Disk, DiskFile, FileAccess},
    error::JournalError,
    segment_file::segment_name,
};

/// A part of a segment in memory. What is behind the end of the file reads as zeros, as in a segment that is not
/// written to yet.
#[derive(Debug)]
pub(super) struct SegmentWindow<'a> {
    disk: &'a dyn Disk,
    journal: &'a Path,
    segment: Option<(u32, Arc<dyn DiskFile>)>,
    /// Always of the same length.
    bytes: Vec<u8>,
    /// Where `bytes` stands in the segment; `None` before the first read.
    start: Option<u32>,
}

// ===== impl SegmentWindow =====

impl<'a> SegmentWindow<'a> {
    /// A window of `bytes`, or of a header if that is more.
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

    /// Turns to a segment. Says whether there is one.
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

    /// `length` bytes at `offset` of the open segment.
    ///
    /// # Panics
    /// When that is longer than the window.
    pub(super) fn view(&mut self, offset: u32, length: u32) -> Result<&[u8], JournalError> {
        let length = length as usize;
        assert!(
            length <= self.bytes.len(),
            "a view of {length} bytes is wider than the window"
        );
        let held = self
            .start
            .and_then(|start| offset.checked_sub(start))
            .map(|skip| skip as usize);
        let skip = match held {
            Some(skip) if skip.saturating_add(length) <= self.bytes.len() => skip,
            Some(_) | None => {
                self.fill(offset)?;
                0
            }
        };
        Ok(self
            .bytes
            .get(skip..)
            .and_then(|bytes| bytes.get(..length))
            .unwrap_or_default())
    }

    /// The header and the body of the block in the open segment.
    pub(super) fn block(&mut self, header: &BlockHeader) -> Result<&[u8], JournalError> {
        let length = HEADER_BYTES_U32.saturating_add(header.body_bytes);
        self.view(header.position.offset(), length)
    }

    /// The body of the block in the open segment.
    pub(super) fn body(&mut self, header: &BlockHeader) -> Result<&[u8], JournalError> {
        Ok(self.block(header)?.get(HEADER_BYTES..).unwrap_or_default())
    }

    fn fill(&mut self, offset: u32) -> Result<(), JournalError> {
        self.start = None;
        let bytes_read = match &self.segment {
            Some((_, file)) => file.read_at(u64::from(offset), &mut self.bytes)?,
            None => 0,
        };
        if let Some(behind_the_end) = self.bytes.get_mut(bytes_read..) {
            behind_the_end.fill(0);
        }
        self.start = Some(offset);
        Ok(())
    }
}
