//! Prepares segments before they are needed: writes them full of zeros, so that an append changes no metadata of the file and
//! a sync writes the block only. This halves the duration of a sync on ext4.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    directory::{UNFINISHED_SUFFIX, create_unfinished},
    disk::{Disk, DiskFile, FileAccess, remove_if_present},
    error::{Corruption, CorruptionKind, JournalError},
    geometry::Geometry,
    position::Position,
    segment_file::{segment_after, segment_name},
};

/// Prepares the segment after the active segment. A thread that may wait for the disk owns the preparer.
#[derive(Debug)]
pub struct SegmentPreparer {
    pool: Arc<SegmentPool>,
}

/// The state that the writer and the preparer share.
#[derive(Debug)]
pub(super) struct SegmentPool {
    disk: Arc<dyn Disk>,
    journal: PathBuf,
    geometry: Geometry,
    /// Locked while a segment gets its name, so that the two threads never make the same segment. The writer waits for this
    /// lock at most as long as one rename and one sync of the directory take, which it would otherwise do itself.
    state: Mutex<PoolState>,
}

#[derive(Debug)]
struct PoolState {
    /// The number of the segment to which the writer appends.
    active: u32,
    /// Whether the segment after the active one is ready.
    spare_ready: bool,
    /// Whether a sync of the directory failed: then it is unknown which names are durable.
    failed: bool,
}

/// Length of one write of zeros, in bytes.
const ZERO_STEP_BYTES: usize = 1 << 20;
/// Number of writes between two syncs. One sync of the whole segment would delay the sync of a block as long as it takes.
const ZERO_STEPS_PER_SYNC: u32 = 4;

// ===== impl SegmentPreparer =====

impl SegmentPreparer {
    pub(super) fn new(pool: Arc<SegmentPool>) -> Self {
        SegmentPreparer { pool }
    }

    /// Returns whether the segment after the active one is not ready yet.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        let state = self.pool.state.lock();
        !state.spare_ready && !state.failed
    }

    /// Makes the segment after the active one, unless it is ready. Returns whether it made one.
    ///
    /// If the writer needs the segment earlier, the writer makes it, and this call discards its own work.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk is full or fails. Appends can continue, unless a sync of the directory failed.
    pub fn prepare_next(&mut self) -> Result<bool, JournalError> {
        let target = {
            let state = self.pool.state.lock();
            if state.spare_ready || state.failed {
                return Ok(false);
            }
            segment_after(state.active)
        };
        let prepared = self
            .pool
            .write_zeros(target)
            .and_then(|()| self.pool.publish(target));
        if !matches!(prepared, Ok(true)) {
            // The next start removes a file that this cannot remove.
            let unfinished = self.pool.unfinished_path(target);
            if let Err(error) = remove_if_present(&*self.pool.disk, &unfinished) {
                tracing::debug!(%error, "did not remove an unfinished segment");
            }
        }
        prepared
    }
}

// ===== impl SegmentPool =====

impl SegmentPool {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        journal: PathBuf,
        geometry: Geometry,
        active: u32,
        spare_ready: bool,
    ) -> Self {
        let state = Mutex::new(PoolState {
            active,
            spare_ready,
            failed: false,
        });
        SegmentPool {
            disk,
            journal,
            geometry,
            state,
        }
    }

    pub(super) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Returns the directory of the segments.
    pub(super) fn journal(&self) -> &Path {
        &self.journal
    }

    /// Opens an existing segment for appends.
    pub(super) fn open_existing(&self, number: u32) -> Result<Arc<dyn DiskFile>, JournalError> {
        let file = self.disk.open(&self.path(number), FileAccess::ReadWrite)?;
        let (found, expected) = (file.size_bytes()?, u64::from(self.geometry.segment_bytes()));
        if found == expected {
            return Ok(file);
        }
        let kind = CorruptionKind::SegmentLength { found, expected };
        Err(Corruption::new(&self.journal, Position::new(number, 0), 0, kind).into())
    }

    /// Makes segment `number`, full of zeros, while no other thread uses the journal.
    pub(super) fn create_prepared(&self, number: u32) -> Result<(), JournalError> {
        self.write_zeros(number)?;
        self.disk
            .rename(&self.unfinished_path(number), &self.path(number))?;
        Ok(self.disk.sync_dir(&self.journal)?)
    }

    /// Opens segment `number`, the one after the active segment, for appends, and makes it the active one. Makes the segment
    /// if it is not prepared.
    ///
    /// # Panics
    /// If `number` is not the one after the active segment: blocks would be missing between the two.
    pub(super) fn activate(&self, number: u32) -> Result<Arc<dyn DiskFile>, JournalError> {
        let mut state = self.state.lock();
        if state.failed {
            return Err(JournalError::Poisoned);
        }
        assert_eq!(
            number,
            segment_after(state.active),
            "segments are written one after the other"
        );
        let file = if state.spare_ready {
            self.open_existing(number)?
        } else {
            let file = self.create_sparse(number)?;
            tracing::warn!(
                segment = number,
                "no prepared segment was ready; syncs into this one are slower"
            );
            file
        };
        state.active = number;
        state.spare_ready = false;
        Ok(file)
    }

    /// Makes a segment of the full length without allocated blocks: writing it full of zeros here would delay commits much
    /// longer than slower syncs do. The segment gets its name last, so that a file with the name of a segment is too short
    /// only if it is damaged.
    fn create_sparse(&self, number: u32) -> Result<Arc<dyn DiskFile>, JournalError> {
        // The preparer may be writing the same segment under its own unfinished name.
        let unfinished = self
            .journal
            .join(format!("{}.sparse{UNFINISHED_SUFFIX}", segment_name(number)));
        let file = create_unfinished(&*self.disk, &unfinished)?;
        file.write_at(u64::from(self.geometry.segment_bytes()) - 1, &[0])?;
        file.sync_all()?;
        self.disk.rename(&unfinished, &self.path(number))?;
        self.disk.sync_dir(&self.journal)?;
        self.open_existing(number)
    }

    fn write_zeros(&self, number: u32) -> Result<(), JournalError> {
        let file = create_unfinished(&*self.disk, &self.unfinished_path(number))?;
        let zeros = vec![0; ZERO_STEP_BYTES];
        let mut unwritten = self.geometry.segment_bytes() as usize;
        let mut offset = 0;
        let mut steps = 0_u32;
        while unwritten > 0 {
            let (step, _) = zeros.split_at(unwritten.min(ZERO_STEP_BYTES));
            file.write_at(offset, step)?;
            offset += step.len() as u64;
            unwritten -= step.len();
            steps += 1;
            if steps.is_multiple_of(ZERO_STEPS_PER_SYNC) {
                file.sync_data()?;
            }
        }
        // The length is metadata and must be durable before the name.
        Ok(file.sync_all()?)
    }

    /// Gives the prepared segment its name, unless the writer made the segment earlier. Returns whether it did.
    fn publish(&self, number: u32) -> Result<bool, JournalError> {
        let mut state = self.state.lock();
        if state.failed || segment_after(state.active) != number {
            return Ok(false);
        }
        self.disk
            .rename(&self.unfinished_path(number), &self.path(number))?;
        if let Err(error) = self.disk.sync_dir(&self.journal) {
            state.failed = true;
            return Err(error.into());
        }
        state.spare_ready = true;
        Ok(true)
    }

    fn path(&self, number: u32) -> PathBuf {
        self.journal.join(segment_name(number))
    }

    fn unfinished_path(&self, number: u32) -> PathBuf {
        self.journal
            .join(format!("{}{UNFINISHED_SUFFIX}", segment_name(number)))
    }
}
