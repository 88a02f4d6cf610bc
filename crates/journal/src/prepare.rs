//! Segments ahead of need: written full of zeros, so that appending to them changes no metadata and a sync writes
//! nothing but the block. It halves the time of a sync on ext4.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    directory::{UNFINISHED_SUFFIX, create_unfinished},
    disk::{Disk, DiskFile, FileAccess},
    error::JournalError,
    geometry::Geometry,
    segment_file::segment_name,
};

/// Prepares the segment after the active one. It belongs to a thread that may wait for the disk.
#[derive(Debug)]
pub struct SegmentPreparer {
    pool: Arc<SegmentPool>,
}

/// What the writer and the preparer know together.
#[derive(Debug)]
pub(super) struct SegmentPool {
    disk: Arc<dyn Disk>,
    journal: PathBuf,
    geometry: Geometry,
    /// Held while a segment gets its name, so that the two threads never make one segment twice. The writer waits
    /// here at most for one rename and one sync of the directory, which it would have to do itself otherwise.
    state: Mutex<PoolState>,
}

#[derive(Debug)]
struct PoolState {
    /// The segment that is written to.
    active: u32,
    /// Whether the segment after it is ready.
    spare_ready: bool,
    /// Whether the directory failed to sync: which names are durable is unknown then.
    failed: bool,
}

/// Zeros are written in steps of this.
const ZERO_STEP_BYTES: usize = 1 << 20;
/// So many steps between two syncs: one sync of a whole segment would hold up the sync of a block for its whole length.
const ZERO_STEPS_PER_SYNC: u32 = 4;

// ===== impl SegmentPreparer =====

impl SegmentPreparer {
    pub(super) fn new(pool: Arc<SegmentPool>) -> Self {
        SegmentPreparer { pool }
    }

    /// Whether the segment after the active one is not ready yet.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        let state = self.pool.state.lock();
        !state.spare_ready && !state.failed
    }

    /// Makes the segment after the active one, unless it is ready. Says whether it made one.
    ///
    /// When the writer needs the segment sooner, it makes one itself, and the work here is thrown away.
    ///
    /// # Errors
    /// [`JournalError::Disk`] when the disk is full or fails. The journal can still be appended to, unless the directory
    /// failed to sync.
    pub fn prepare_next(&mut self) -> Result<bool, JournalError> {
        let target = {
            let state = self.pool.state.lock();
            if state.spare_ready || state.failed {
                return Ok(false);
            }
            state.active.saturating_add(1)
        };
        let prepared = self
            .pool
            .write_zeros(target)
            .and_then(|()| self.pool.publish(target));
        if !matches!(prepared, Ok(true)) {
            // It may be gone already, and the next start removes it in any case.
            let _ = self.pool.disk.remove(&self.pool.unfinished_path(target));
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

    /// The directory of the segments.
    pub(super) fn journal(&self) -> &Path {
        &self.journal
    }

    /// Opens a segment that is there, for appending.
    pub(super) fn open_existing(&self, number: u32) -> Result<Arc<dyn DiskFile>, JournalError> {
        Ok(self.disk.open(&self.path(number), FileAccess::ReadWrite)?)
    }

    /// Makes a whole segment of zeros, durably. Only while nobody else uses the pool.
    pub(super) fn create_prepared(&self, number: u32) -> Result<(), JournalError> {
        self.write_zeros(number)?;
        self.disk
            .rename(&self.unfinished_path(number), &self.path(number))?;
        Ok(self.disk.sync_dir(&self.journal)?)
    }

    /// Makes `number`, the one after the active segment, the active one: the prepared one if there is one.
    pub(super) fn activate(&self, number: u32) -> Result<Arc<dyn DiskFile>, JournalError> {
        let mut state = self.state.lock();
        if state.failed {
            return Err(JournalError::Poisoned);
        }
        assert_eq!(
            number,
            state.active.saturating_add(1),
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

    /// Makes a segment of the whole length that has no blocks on the disk yet: writing it full of zeros here would hold up
    /// commits far longer than slower syncs do. It gets its name last, so that a segment with a name is never shorter than it
    /// was, but by damage.
    fn create_sparse(&self, number: u32) -> Result<Arc<dyn DiskFile>, JournalError> {
        // Not the name under which the preparer may be writing the same segment.
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
        // The size is metadata, and must be durable before the name is.
        Ok(file.sync_all()?)
    }

    /// Gives the prepared segment its name, unless the writer was faster.
    fn publish(&self, number: u32) -> Result<bool, JournalError> {
        let mut state = self.state.lock();
        if state.failed || state.active.saturating_add(1) != number {
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
