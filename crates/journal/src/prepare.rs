//! Prepares a segment before the writer needs it, by filling the file with zeros. So a later append does not change
//! the metadata of the file, and a sync writes only the block. This halves the duration of a sync on ext4.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
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

/// Answers whether the journal has space for another segment. The thread that builds blocks asks before it puts a record
/// into a block, because a block that is built must be written.
#[derive(Debug, Clone)]
pub struct SegmentSpace {
    pool: Arc<SegmentPool>,
}

/// The state that the writer, the preparer and [`SegmentSpace`] share.
#[derive(Debug)]
pub(super) struct SegmentPool {
    disk: Arc<dyn Disk>,
    journal: PathBuf,
    geometry: Geometry,
    /// A thread holds this lock while it renames a finished segment to its final name, so that the writer and the
    /// preparer never make the same segment. The writer waits for the lock at most for one rename and one sync of the
    /// directory. Without the preparer, the writer would do these two operations itself.
    state: Mutex<PoolState>,
    /// Whether the disk had no space for the segment after the active segment when a thread last tried to make it. Only
    /// a thread that holds the lock changes the value. It is not part of [`PoolState`], so that a reader need not wait
    /// for the disk.
    full: AtomicBool,
}

#[derive(Debug)]
struct PoolState {
    /// The number of the segment to which the writer appends.
    active: u32,
    /// Whether the segment after the active segment exists with its space, and is full of zeros.
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
    /// failed. If the disk is full, [`SegmentSpace`] refuses the segment until a later call has made it.
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
            self.pool.remove_unfinished(&self.pool.unfinished_path(target));
        }
        if let Err(error) = &prepared {
            self.pool.note_failure(target, error);
        }
        prepared
    }
}

// ===== impl SegmentSpace =====

impl SegmentSpace {
    pub(super) fn new(pool: Arc<SegmentPool>) -> Self {
        SegmentSpace { pool }
    }

    /// Returns whether blocks can be placed in segment `number`, which is the active segment or the one after it.
    ///
    /// If the preparer has not made the segment, and the disk was not full at the last attempt, this call makes the
    /// segment, because otherwise the writer would do so. Returns `false` only if the disk is full: after any other
    /// failure, the writer must find out what is wrong with the disk.
    #[must_use]
    pub fn is_available(&self, number: u32) -> bool {
        self.pool.reserve(number)
    }

    /// Returns whether the disk had no space for the next segment at the last attempt to make it. Never waits for the
    /// disk.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.pool.full.load(Ordering::Acquire)
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
            full: AtomicBool::new(false),
        }
    }

    pub(super) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Returns the directory of the segments.
    pub(super) fn journal(&self) -> &Path {
        &self.journal
    }

    /// Makes segment `number` the active segment. Recovery calls this before any other thread uses the journal.
    pub(super) fn set_active(&self, number: u32) {
        self.state.lock().active = number;
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
        if let Err(error) = self.write_zeros(number) {
            self.remove_unfinished(&self.unfinished_path(number));
            return Err(error);
        }
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
            self.create_unwritten(number, &mut state)?;
            self.open_existing(number)?
        };
        state.active = number;
        state.spare_ready = false;
        Ok(file)
    }

    /// Makes segment `number` if it is the one after the active segment and does not exist. Returns `false` if the disk
    /// is full.
    fn reserve(&self, number: u32) -> bool {
        let mut state = self.state.lock();
        if number != segment_after(state.active) || state.spare_ready || state.failed {
            return true;
        }
        if self.full.load(Ordering::Acquire) {
            return false;
        }
        match self.create_unwritten(number, &mut state) {
            Ok(()) => {
                state.spare_ready = true;
                true
            }
            Err(error) if is_storage_full(&error) && !state.failed => {
                tracing::warn!(%error, segment = number, "the disk has no space for the next segment; writes are refused until it has");
                self.full.store(true, Ordering::Release);
                false
            }
            Err(_) => true,
        }
    }

    /// Makes a segment whose space is allocated, but that was not filled with zeros. A thread that needs the segment now
    /// would lose more time by filling the file than by the slower syncs later. The file is renamed last, so a file with
    /// the name of a segment is too short only if it is damaged.
    fn create_unwritten(&self, number: u32, state: &mut PoolState) -> Result<(), JournalError> {
        // The preparer may be writing the same segment under another temporary name.
        let unfinished = self
            .journal
            .join(format!("{}.sparse{UNFINISHED_SUFFIX}", segment_name(number)));
        let file = create_unfinished(&*self.disk, &unfinished)?;
        let made = file
            .allocate(self.geometry.segment_bytes().into())
            .and_then(|()| file.sync_all())
            .and_then(|()| self.disk.rename(&unfinished, &self.path(number)));
        if let Err(error) = made {
            self.remove_unfinished(&unfinished);
            return Err(error.into());
        }
        if !planted("skip_directory_sync")
            && let Err(error) = self.disk.sync_dir(&self.journal)
        {
            state.failed = true;
            return Err(error.into());
        }
        tracing::warn!(
            segment = number,
            "no prepared segment was ready; syncs of this segment are slower"
        );
        Ok(())
    }

    /// Removes a segment that could not be completed, so that it takes no space. If the removal fails, the next start
    /// removes the file.
    fn remove_unfinished(&self, path: &Path) {
        if let Err(error) = remove_if_present(&*self.disk, path) {
            tracing::debug!(%error, "could not remove an unfinished segment");
        }
    }

    /// Notes whether segment `number` could not be prepared because the disk is full.
    fn note_failure(&self, number: u32, error: &JournalError) {
        let state = self.state.lock();
        if !state.spare_ready && !state.failed && number == segment_after(state.active) {
            self.full.store(is_storage_full(error), Ordering::Release);
        }
    }

    fn write_zeros(&self, number: u32) -> Result<(), JournalError> {
        let file = create_unfinished(&*self.disk, &self.unfinished_path(number))?;
        // A full disk is found out before the zeros are written, so that repeated attempts do not load the disk.
        file.allocate(self.geometry.segment_bytes().into())?;
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
        if state.failed || state.spare_ready || segment_after(state.active) != number {
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
        self.full.store(false, Ordering::Release);
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

/// Returns whether an operation failed because no space is left.
pub(super) fn is_storage_full(error: &JournalError) -> bool {
    matches!(error, JournalError::Disk(error) if error.is_storage_full())
}
