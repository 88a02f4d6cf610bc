//! Prepares a segment before the writer needs it, by filling the file with zeros. So a later append does not change
//! the metadata of the file, and a sync writes only the block. This halves the duration of a sync on ext4.
//!
//! A segment is *ready* for blocks when it is durable under its final name, owns its space (is not sparse, and shares no space with another
//! file), and is recorded in the segment note. To *note* a segment means to raise the number in this note to the number of the segment.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use crate::{
    disk::{Disk, DiskFile, FileAccess, remove_if_present},
    error::{Corruption, CorruptionKind, JournalError},
    geometry::Geometry,
    mutation::planted,
    position::Position,
    segment_file::{segment_after, segment_name, write_zeros},
    segment_note,
    unfinished::{UNFINISHED_SUFFIX, create_unfinished},
};

/// Prepares the segment after the active segment, which is the segment to which the writer appends. The thread that
/// owns the preparer must be allowed to wait for the disk.
#[derive(Debug)]
pub struct SegmentPreparer {
    pool: Arc<SegmentPool>,
}

/// Reports whether the journal has space for another segment. The thread that builds blocks asks before it puts a record
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
    /// A thread holds this lock while it gives a finished segment its name and notes it, so that the writer and the preparer never make the
    /// same segment. The writer waits for the lock at most for two renames and two syncs of the directory, which it would do itself without
    /// the preparer. If a segment does not own its space, the writer also waits until the space is reserved.
    state: Mutex<PoolState>,
    /// Whether the disk had no space for the segment after the active segment, or for the active segment itself, when a thread last tried
    /// to reserve the space. Only a thread that holds the lock changes the value. It is not part of [`PoolState`], so that a reader need
    /// not wait for the disk.
    full: AtomicBool,
}

#[derive(Debug)]
struct PoolState {
    /// The number of the segment to which the writer appends.
    active: u32,
    /// The offset at which the free part of the active segment began when the journal was opened.
    empty_from: u32,
    /// Whether the active segment owns its space and is noted. Until then, no block may be written to it.
    active_ready: bool,
    spare: Spare,
    /// The number that the segment note states.
    noted: u32,
    /// Whether a sync of the directory failed. After such a failure, it is unknown which names are durable, so no more
    /// segments are made.
    failed: bool,
}

/// The segment after the active segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spare {
    /// It does not exist.
    Absent,
    /// It exists and is full of zeros, but it does not own its space, or it is not noted.
    Incomplete,
    /// It exists, is full of zeros, owns its space and is noted.
    Ready,
}

/// What makes the next segment ready.
#[derive(Debug, Clone, Copy)]
enum Work {
    /// This segment exists. Its space must be reserved, and it must be noted.
    Complete(u32),
    /// This segment must be made.
    Make(u32),
}

// ===== impl SegmentPreparer =====

impl SegmentPreparer {
    pub(super) fn new(pool: Arc<SegmentPool>) -> Self {
        SegmentPreparer { pool }
    }

    /// Returns whether the segment after the active segment, or the active segment itself, is not ready yet.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        self.pool.state.lock().work().is_some()
    }

    /// Makes the segment after the active segment, unless it is ready. If the active segment does not own its space, reserves that space
    /// first. Returns whether this call made a segment ready.
    ///
    /// If the writer needs the segment before this call has finished, the writer makes the segment, and this call
    /// removes its unfinished file.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk is full or fails. Appends can continue, unless a sync of the directory
    /// failed. If the disk is full, [`SegmentSpace`] refuses the segment until a later call has made it.
    pub fn prepare_next(&mut self) -> Result<bool, JournalError> {
        let work = self.pool.state.lock().work();
        work.map_or(Ok(false), |work| self.pool.carry_out(work))
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
    /// segment, because otherwise the writer would make it. Returns `false` only if the disk is full: after any other
    /// failure, the writer must find out what is wrong with the disk.
    ///
    /// # Panics
    /// If `number` is another segment, because nothing is known about its space. A builder of blocks is never so far ahead of
    /// the writer, because a segment has room for several blocks.
    #[must_use]
    pub fn is_available(&self, number: u32) -> bool {
        self.pool.reserve(number)
    }

    /// Returns whether the disk had no space for the next segment at the last attempt to make it. Never waits for the
    /// disk.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.pool.is_full()
    }
}

// ===== impl PoolState =====

impl PoolState {
    fn work(&self) -> Option<Work> {
        if self.failed {
            return None;
        }
        if !self.active_ready {
            return Some(Work::Complete(self.active));
        }
        match self.spare {
            Spare::Absent => Some(Work::Make(segment_after(self.active))),
            Spare::Incomplete => Some(Work::Complete(segment_after(self.active))),
            Spare::Ready => None,
        }
    }

    fn is_ready(&self, number: u32) -> bool {
        if number == self.active {
            self.active_ready
        } else {
            self.spare == Spare::Ready
        }
    }

    /// Makes segment `number` the active segment. Segment `number` must be ready, and be the segment after the active segment.
    const fn activate(&mut self, number: u32) {
        self.active = number;
        self.spare = Spare::Absent;
    }

    /// Returns whether `number` is the active segment or the one after it.
    fn is_near(&self, number: u32) -> bool {
        number == self.active || number == segment_after(self.active)
    }
}

// ===== impl SegmentPool =====

impl SegmentPool {
    /// Makes the pool of a journal whose segment note states `noted`. [`SegmentPool::begin`] must be called next.
    pub(super) fn new(disk: Arc<dyn Disk>, journal: PathBuf, geometry: Geometry, noted: u32) -> Self {
        let state = Mutex::new(PoolState {
            active: noted,
            empty_from: 0,
            active_ready: false,
            spare: Spare::Absent,
            noted,
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

    /// Makes the segment ready in which the journal ends (at `end`), and also the segment after it if that segment exists.
    /// Recovery calls this before any other thread uses the journal. Returns the number of the active segment.
    ///
    /// If the disk is full, the journal can be read. The preparer makes the segments ready when there is space, and until then no block is
    /// written to them. If the segment of `end` could not be made, the active segment is the one before it.
    pub(super) fn begin(&self, end: Position, exists: bool, spare_exists: bool) -> Result<u32, JournalError> {
        let (end, empty_from) = (end.segment(), end.offset());
        let first = {
            let mut state = self.state.lock();
            if exists {
                (state.active, state.empty_from) = (end, empty_from);
                state.spare = if spare_exists {
                    Spare::Incomplete
                } else {
                    Spare::Absent
                };
                Work::Complete(end)
            } else {
                // The journal ends at the start of segment `end`, so the segment before it exists and is full.
                let Some(full) = end.checked_sub(1) else {
                    panic!("segment 0 is made with the directory, before its note");
                };
                (state.active, state.active_ready) = (full, true);
                Work::Make(end)
            }
        };
        let done = self.carry_out(first).and_then(|_| {
            let mut state = self.state.lock();
            if !exists {
                state.activate(end);
            }
            drop(state);
            if spare_exists {
                self.carry_out(Work::Complete(segment_after(end)))?;
            }
            Ok(())
        });
        match done {
            Err(error) if self.is_full() => {
                tracing::warn!(%error, "the disk has no space for the next segment, or for the rest of the current one; writes are refused when they need it, until the disk has space");
            }
            done => done?,
        }
        Ok(self.state.lock().active)
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
        if state.spare != Spare::Ready {
            self.make_now(number, &mut state)?;
        }
        let file = self.open_existing(number)?;
        state.activate(number);
        Ok(file)
    }

    fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Makes segment `number`, which is the active segment or the next segment, ready if it is not ready yet. Returns `false` if the disk
    /// is full.
    fn reserve(&self, number: u32) -> bool {
        let mut state = self.state.lock();
        assert!(
            state.is_near(number),
            "a block in segment {number} can't be built yet: the writer is in segment {}",
            state.active
        );
        if state.is_ready(number) || state.failed {
            return true;
        }
        if self.is_full() {
            return false;
        }
        match self.make_now(number, &mut state) {
            Ok(()) => true,
            Err(error) if is_storage_full(&error) && !state.failed => {
                tracing::warn!(%error, segment = number, "the disk has no space for the next segment; writes are refused until it has");
                self.full.store(true, Ordering::Release);
                false
            }
            Err(_) => true,
        }
    }

    /// Does the work, and stores whether the disk is full. Returns whether this call made a segment ready.
    fn carry_out(&self, work: Work) -> Result<bool, JournalError> {
        let (number, done) = match work {
            Work::Complete(number) => (number, self.complete(number)),
            Work::Make(number) => (number, self.make(number)),
        };
        if let Err(error) = &done {
            let state = self.state.lock();
            if state.is_near(number) && !state.is_ready(number) && !state.failed {
                self.full.store(is_storage_full(error), Ordering::Release);
            }
        }
        done
    }

    /// Reserves the space of an existing segment, and notes the segment. Holds the lock meanwhile: the reservation may write zeros over the
    /// segment, so no block may be written there at the same time.
    fn complete(&self, number: u32) -> Result<bool, JournalError> {
        let mut state = self.state.lock();
        if state.failed || !state.is_near(number) || state.is_ready(number) {
            return Ok(false);
        }
        self.make_now(number, &mut state)?;
        Ok(true)
    }

    /// Makes segment `number`, full of zeros, unless the writer makes it meanwhile.
    fn make(&self, number: u32) -> Result<bool, JournalError> {
        let unfinished = self.unfinished_path(number);
        let made = write_zeros(&*self.disk, &unfinished, self.geometry.segment_bytes())
            .map_err(JournalError::from)
            .and_then(|()| self.publish(number, &unfinished));
        if !matches!(made, Ok(true)) {
            self.remove_unfinished(&unfinished);
        }
        made
    }

    /// Gives the finished segment its name, and notes it, unless the writer has made this segment already. Returns
    /// whether this call did so.
    fn publish(&self, number: u32, unfinished: &Path) -> Result<bool, JournalError> {
        let mut state = self.state.lock();
        if state.failed || state.spare != Spare::Absent || segment_after(state.active) != number {
            return Ok(false);
        }
        self.name(number, unfinished, &mut state)?;
        self.note(number, &mut state)?;
        Ok(true)
    }

    /// Makes segment `number` ready for a thread that needs it now, and holds the lock meanwhile. If the segment does not exist, this
    /// method makes it and reserves its space, but does not fill it with zeros: that would take longer than the faster syncs of a filled
    /// segment would save.
    fn make_now(&self, number: u32, state: &mut PoolState) -> Result<(), JournalError> {
        if number == state.active || state.spare == Spare::Incomplete {
            let start = if number == state.active {
                state.empty_from
            } else {
                0
            };
            let file = self.open_existing(number)?;
            file.own_space(start.into(), self.geometry.segment_bytes().into())?;
            return self.note(number, state);
        }
        // The preparer may be writing the same segment under another temporary name.
        let unfinished = self
            .journal
            .join(format!("{}.sparse{UNFINISHED_SUFFIX}", segment_name(number)));
        let file = create_unfinished(&*self.disk, &unfinished)?;
        let made = file
            .allocate(self.geometry.segment_bytes().into())
            .and_then(|()| file.sync_all())
            .map_err(JournalError::from)
            .and_then(|()| self.name(number, &unfinished, state));
        if let Err(error) = made {
            self.remove_unfinished(&unfinished);
            return Err(error);
        }
        self.note(number, state)?;
        tracing::warn!(
            segment = number,
            "no prepared segment was ready; syncs of this segment are slower"
        );
        Ok(())
    }

    /// Gives the finished file of the segment after the active one its final name, durably. The rename is the last step, so a
    /// file with the name of a segment is too short only if it is damaged.
    fn name(&self, number: u32, unfinished: &Path, state: &mut PoolState) -> Result<(), JournalError> {
        self.disk.rename(unfinished, &self.path(number))?;
        state.spare = Spare::Incomplete;
        self.sync_names(state)
    }

    /// Notes that segment `number` exists, durably. The segment, its space and its name must be durable. From now on, blocks may be written
    /// to the segment.
    fn note(&self, number: u32, state: &mut PoolState) -> Result<(), JournalError> {
        if state.noted < number {
            segment_note::raise(&*self.disk, &self.journal, state.noted, number)?;
            self.sync_names(state)?;
            state.noted = number;
        }
        if number == state.active {
            state.active_ready = true;
        } else {
            state.spare = Spare::Ready;
        }
        self.full.store(false, Ordering::Release);
        Ok(())
    }

    /// Makes the names in the directory durable.
    fn sync_names(&self, state: &mut PoolState) -> Result<(), JournalError> {
        if planted("skip_directory_sync") {
            return Ok(());
        }
        self.disk.sync_dir(&self.journal).map_err(|error| {
            state.failed = true;
            error.into()
        })
    }

    /// Removes a segment that could not be completed, so that it takes no space. If the removal fails, the next start
    /// removes the file.
    fn remove_unfinished(&self, path: &Path) {
        if let Err(error) = remove_if_present(&*self.disk, path) {
            tracing::debug!(%error, "could not remove an unfinished segment");
        }
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
