//! Prepares a segment before the writer needs it, by filling the file with zeros. So a later append does not change
//! the metadata of the file, and a sync writes only the block. This halves the duration of a sync on ext4.

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
    mutation::planted,
    position::Position,
    segment_file::{segment_after, segment_name},
};

/// Prepares the segment after the active segment, which is the segment to which the writer appends. The thread that
/// owns the preparer must be allowed to wait for the disk.
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
    /// A thread holds this lock while it renames a finished segment to its final name, so that the writer and the
    /// preparer never make the same segment. The writer waits for the lock at most for one rename and one sync of the
    /// directory. Without the preparer, the writer would do these two operations itself.
    state: Mutex<PoolState>,
}

#[derive(Debug)]
struct PoolState {
    /// The number of the segment to which the writer appends.
    active: u32,
    /// Whether the segment after the active segment exists and is full of zeros.
    spare_ready: bool,
    /// Whether a sync of the directory failed. After such a failure, it is unknown which names are durable, so no more
    /// segments are made.
    failed: bool,
}

/// Length of one write of zeros, in bytes.
const ZERO_STEP_BYTES: usize = 1 << 20;
/// Number of writes of zeros between two syncs. A single sync of the whole segment takes long, and would delay a
/// concurrent sync of a block for this time.
const ZERO_STEPS_PER_SYNC: u32 = 4;

// ===== impl SegmentPreparer =====

impl SegmentPreparer {
    pub(super) fn new(pool: Arc<SegmentPool>) -> Self {
        SegmentPreparer { pool }
    }

    /// Returns whether the segment after the active segment is not ready yet.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        let state = self.pool.state.lock();
        !state.spare_ready && !state.failed
    }

    /// Makes the segment after the active segment, unless it is ready. Returns whether this call made a segment.
    ///
    /// If the writer needs the segment before this call has finished, the writer makes the segment, and this call
    /// removes its unfinished file.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk is full or fails. Appends can continue, unless a sync of the directory
    /// failed.
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
            // If the removal fails, the next start removes the file.
            let unfinished = self.pool.unfinished_path(target);
            if let Err(error) = remove_if_present(&*self.pool.disk, &unfinished) {
                tracing::debug!(%error, "could not remove an unfinished segment");
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

    /// Makes segment `number`, full of zeros. Recovery calls this before any other thread uses the journal.
    pub(super) fn create_prepared(&self, number: u32) -> Result<(), JournalError> {
        self.write_zeros(number)?;
        self.disk
            .rename(&self.unfinished_path(number), &self.path(number))?;
        Ok(self.disk.sync_dir(&self.journal)?)
    }

    /// Opens segment `number` for appends and makes it the active segment. `number` must be the one after the active
    /// segment. Makes the segment if the preparer has not made it.
    ///
    /// # Panics
    /// If `number` is not the one after the active segment, because a segment would be missing between the two.
    pub(super) fn activate(&self, number: u32) -> Result<Arc<dyn DiskFile>, JournalError> {
        let mut state = self.state.lock();
        if state.failed {
            return Err(JournalError::Poisoned);
        }
        assert_eq!(
            number,
            segment_after(state.active),
            "the new segment must be the one after the active segment"
        );
        let file = if state.spare_ready {
            self.open_existing(number)?
        } else {
            let file = self.create_sparse(number)?;
            tracing::warn!(
                segment = number,
                "no prepared segment was ready; syncs of this segment are slower"
            );
            file
        };
        state.active = number;
        state.spare_ready = false;
        Ok(file)
    }

    /// Makes a sparse segment: a file of the full length for which the file system has not allocated space. The writer
    /// would lose more time by filling the file with zeros now than by the slower syncs later. The file is renamed
    /// last, so a file with the name of a segment is too short only if it is damaged.
    fn create_sparse(&self, number: u32) -> Result<Arc<dyn DiskFile>, JournalError> {
        // The preparer may be writing the same segment under another temporary name.
        let unfinished = self
            .journal
            .join(format!("{}.sparse{UNFINISHED_SUFFIX}", segment_name(number)));
        let file = create_unfinished(&*self.disk, &unfinished)?;
        file.write_at(u64::from(self.geometry.segment_bytes()) - 1, &[0])?;
        file.sync_all()?;
        self.disk.rename(&unfinished, &self.path(number))?;
        if !planted("skip_directory_sync") {
            self.disk.sync_dir(&self.journal)?;
        }
        self.open_existing(number)
    }

    fn write_zeros(&self, number: u32) -> Result<(), JournalError> {
        let file = create_unfinished(&*self.disk, &self.unfinished_path(number))?;
        let mut unwritten = self.geometry.segment_bytes() as usize;
        let zeros = vec![0; unwritten.min(ZERO_STEP_BYTES)];
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
        // `sync_all`, because the length is metadata and must be durable before the file is renamed.
        Ok(file.sync_all()?)
    }

    /// Renames the prepared segment to its final name, unless the writer has made this segment already. Returns whether
    /// the prepared segment was renamed.
    fn publish(&self, number: u32) -> Result<bool, JournalError> {
        let mut state = self.state.lock();
        if state.failed || segment_after(state.active) != number {
            return Ok(false);
        }
        self.disk
            .rename(&self.unfinished_path(number), &self.path(number))?;
        if !planted("skip_directory_sync")
            && let Err(error) = self.disk.sync_dir(&self.journal)
        {
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
