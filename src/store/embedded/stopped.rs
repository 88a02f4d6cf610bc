//! Reads all records of a data directory that no service has open.

use std::{path::Path, sync::Arc};

use tally_journal::{BlockHeader, Disk, Journal, Position, ScanError};

use super::{error::OpenError, record::BlockRecords, record_reader::FoundRecord};

/// A data directory that no service has open. A shared lock keeps services away from it until this value is dropped.
#[derive(Debug)]
pub struct StoppedDirectory {
    journal: Journal,
}

// ===== impl StoppedDirectory =====

impl StoppedDirectory {
    /// Opens the data directory `dir` without changing it; the file system may be read-only.
    ///
    /// # Errors
    /// [`OpenError`], for example because a service has opened the directory.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, OpenError> {
        Ok(StoppedDirectory {
            journal: Journal::open_read_only(disk, dir)?,
        })
    }

    /// Calls `visit` with each record, in the order of the journal. Checks the checksums of the blocks and the hash chain. The remains of
    /// an incomplete write at the end are left out, because nothing in them was acknowledged.
    ///
    /// # Errors
    /// The error of `visit`, or [`OpenError`] if the journal is damaged or can't be read.
    pub fn each_record<E: From<OpenError>>(
        &self,
        mut visit: impl FnMut(FoundRecord) -> Result<(), E>,
    ) -> Result<(), E> {
        let scanned = self
            .journal
            .scan(self.journal.start(), 0, |header, position, body| {
                each_of_block(header, position, body, &mut visit)
            });
        match scanned {
            Ok(_) => Ok(()),
            Err(ScanError::Store(error)) => Err(OpenError::from(error).into()),
            Err(ScanError::Visitor(error)) => Err(error),
        }
    }

    /// Returns the length of the journal's segments, in bytes.
    #[must_use]
    pub fn segment_bytes(&self) -> u32 {
        self.journal.directory().geometry().segment_bytes()
    }
}

fn each_of_block<E: From<OpenError>>(
    header: &BlockHeader,
    position: Position,
    body: &[u8],
    visit: &mut impl FnMut(FoundRecord) -> Result<(), E>,
) -> Result<(), E> {
    if !header.kind.is_data() {
        return Ok(());
    }
    let mut reader = BlockRecords::new(position, body);
    loop {
        let before = reader.rest_bytes();
        let Some(record) = reader.next() else {
            return Ok(());
        };
        let (position, framed) = record.map_err(|error| E::from(error.into()))?;
        let start = body.len() - before;
        let Some(bytes) = body.get(start..body.len() - reader.rest_bytes()) else {
            panic!("the record at {position} extends beyond the body of its block");
        };
        let found = FoundRecord::of_block(bytes.to_vec(), position, header, framed.ordinal);
        visit(found.map_err(|error| E::from(error.into()))?)?;
    }
}
