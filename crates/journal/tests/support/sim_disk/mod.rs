//! A simulated disk in memory. It loses and tears unsynced data, and fails when a test requests it or by chance. All
//! random decisions come from a seed, so a test is repeatable: the same seed and the same calls have the same results,
//! byte for byte ([`SimDisk::digest`]).
//!
//! - Bytes are durable after a sync of their file. The name of a file is durable after a sync of its directory. A crash
//!   keeps a random part of the unsynced bytes: it keeps, loses or tears each sector of 512 bytes. A lost sector in which
//!   no byte was ever synced contains what it contained before, zeros, or on request stale bytes ([`CrashModel`]). Of the
//!   unsynced changes of names in a directory, a crash keeps a random number of the oldest changes and drops the newer
//!   changes.
//! - A failed sync discards the bytes that it should have written, as on Linux: a process can still read the bytes and
//!   a later sync succeeds, but the bytes are not on the disk.
//! - A test can fill the disk, cut the power after a number of operations, flip bits, and delay syncs. A simulator lets
//!   operations fail by chance ([`FaultPlan`]).
//! - Operations take no time, except for syncs that a test stalls. A simulator asks how long they would have taken
//!   ([`SimDisk::take_latency`]).

mod contents;
mod disk;
mod latency;
mod names;
mod plan;
pub(crate) mod random;
mod state;
mod trace;

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tally_journal::{Disk, Operation};

#[allow(
    unused_imports,
    reason = "the tests that include this module each use a part of it"
)]
pub(crate) use self::{
    latency::LatencyModel,
    plan::{CrashModel, FaultPlan, FaultRates},
    trace::TraceEvent,
};
use self::{
    state::{Faults, Stall, State},
    trace::Event,
};

/// The simulated disk. Clones share the same disk.
#[derive(Clone)]
pub(crate) struct SimDisk {
    shared: Arc<Shared>,
}

/// A bit of a file that [`SimDisk::flip_random_bit`] flipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FlippedBit {
    pub(crate) path: PathBuf,
    /// The offset of the byte that contains the bit.
    pub(crate) offset: u64,
    /// The number of the bit in its byte, from 0 for the least significant bit.
    pub(crate) bit: u32,
}

/// What happened to a disk since it was made, so that a simulator can tell which faults its seeds reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct FaultCounts {
    /// Operations that were started.
    pub(crate) operations: u64,
    /// Operations that change something: the unit of [`SimDisk::power_off_after`].
    pub(crate) changes: u64,
    /// Operations that failed with EIO because of the plan, or because a fault lasts for ever.
    pub(crate) io_errors: u64,
    /// Operations that failed with ENOSPC because of the plan.
    pub(crate) full_errors: u64,
    /// Syncs of files that failed and lost data, planned by chance or by a test.
    pub(crate) failed_syncs: u64,
    pub(crate) crashes: u64,
    /// Unsynced parts of sectors that a crash or a failed sync tore at a byte.
    pub(crate) torn_sectors: u64,
    /// Unsynced parts of sectors that a crash or a failed sync lost.
    pub(crate) lost_sectors: u64,
    /// Lost sectors that a crash filled with bytes of an earlier life of the disk.
    pub(crate) stale_sectors: u64,
    /// Bits that [`SimDisk::flip_random_bit`] flipped.
    pub(crate) flipped_bits: u64,
}

struct Shared {
    state: Mutex<State>,
    /// Wakes waiting threads when stalled syncs may continue, and when a sync stalls.
    changed: Condvar,
}

/// Longest time that a test waits for a sync to stall. After this time the test fails.
const STALL_PATIENCE: Duration = Duration::from_secs(30);

// ===== impl SimDisk: control by tests =====

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Self {
        let state = Mutex::new(State::new(seed));
        SimDisk {
            shared: Arc::new(Shared {
                state,
                changed: Condvar::new(),
            }),
        }
    }

    /// Makes a disk that contains these files, durably.
    pub(crate) fn holding(seed: u64, files: &BTreeMap<PathBuf, Vec<u8>>) -> Self {
        let disk = SimDisk::new(seed);
        {
            let mut state = disk.shared.state.lock();
            for (path, contents) in files {
                state.add_durable_file(path, contents);
            }
        }
        disk
    }

    /// Returns the disk as the type that the code under test accepts.
    pub(crate) fn handle(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// Cuts and restores the power: each part of the unsynced data is kept or lost at random. Clears all faults.
    pub(crate) fn crash(&self) {
        self.shared.state.lock().crash();
        self.shared.changed.notify_all();
    }

    /// Kills the process: its open files and locks become invalid. The files keep the content that the process saw, but
    /// unsynced data is still not durable. Clears all faults.
    pub(crate) fn restart(&self) {
        self.shared.state.lock().begin_run();
        self.shared.changed.notify_all();
    }

    /// Lets all files together grow by at most `bytes` from now on.
    pub(crate) fn set_free_bytes(&self, bytes: u64) {
        self.shared.state.lock().faults.free_bytes = Some(bytes);
    }

    /// Makes the existing files own no space: [`tally_journal::DiskFile::own_space`] takes the space from the free bytes. A write
    /// still finds space.
    pub(crate) fn set_sparse(&self) {
        self.shared.state.lock().faults.sparse = true;
    }

    /// Lets the next `syncs` syncs succeed and the sync after them fail.
    pub(crate) fn fail_sync_after(&self, syncs: u64) {
        self.shared.state.lock().faults.syncs_before_failure = Some(syncs);
    }

    /// Fails every sync of this file from now on. Syncs of other files, which another thread may make, succeed.
    pub(crate) fn fail_syncs_of(&self, path: &Path) {
        self.fail_for_ever(Operation::Sync, path);
    }

    /// Fails every read of this file from now on.
    pub(crate) fn fail_reads_of(&self, path: &Path) {
        self.fail_for_ever(Operation::Read, path);
    }

    /// Fails every operation of this kind on this path from now on, with EIO.
    pub(crate) fn fail_for_ever(&self, operation: Operation, path: &Path) {
        let mut state = self.shared.state.lock();
        let path = state.paths.id(path);
        state.faults.break_for_ever(operation, path);
    }

    /// While `is_out` is true, fails every open of a file, as if no file descriptor were left.
    pub(crate) fn set_out_of_descriptors(&self, is_out: bool) {
        self.shared.state.lock().faults.out_of_descriptors = is_out;
    }

    /// Cuts the power after `operations` more operations that change something. The next such operation and all later
    /// operations fail.
    pub(crate) fn power_off_after(&self, operations: u64) {
        self.shared.state.lock().faults.operations_before_power_off = Some(operations);
    }

    /// Stalls every sync of a file until [`SimDisk::release_syncs`].
    pub(crate) fn stall_syncs(&self) {
        self.shared.state.lock().faults.stalled = Some(Stall::All);
    }

    /// Stalls the syncs of one file until [`SimDisk::release_syncs`].
    pub(crate) fn stall_syncs_of(&self, path: &Path) {
        let mut state = self.shared.state.lock();
        let path = state.paths.id(path);
        state.faults.stalled = Some(Stall::Of(path));
    }

    /// Lets all stalled syncs continue.
    pub(crate) fn release_syncs(&self) {
        self.shared.state.lock().faults.stalled = None;
        self.shared.changed.notify_all();
    }

    /// Lets one stalled sync continue. If no sync is stalled, the next sync does not stall. Other syncs stall as
    /// before.
    pub(crate) fn release_one_sync(&self) {
        self.shared.state.lock().faults.released_syncs += 1;
        self.shared.changed.notify_all();
    }

    /// Waits until a sync is stalled.
    pub(crate) fn wait_for_stalled_sync(&self) {
        let mut state = self.shared.state.lock();
        let waiting = self.shared.changed.wait_while_for(
            &mut state,
            |state| state.faults.waiting_syncs == 0,
            STALL_PATIENCE,
        );
        assert!(!waiting.timed_out(), "no sync stalled");
    }

    /// Stalls every read of a file until [`SimDisk::release_reads`].
    pub(crate) fn stall_reads(&self) {
        self.shared.state.lock().faults.stalls_reads = true;
    }

    /// Lets all stalled reads continue.
    pub(crate) fn release_reads(&self) {
        self.shared.state.lock().faults.stalls_reads = false;
        self.shared.changed.notify_all();
    }

    /// Waits until this many reads are stalled.
    pub(crate) fn wait_for_stalled_reads(&self, count: usize) {
        let mut state = self.shared.state.lock();
        let waiting = self.shared.changed.wait_while_for(
            &mut state,
            |state| state.faults.waiting_reads < count,
            STALL_PATIENCE,
        );
        assert!(!waiting.timed_out(), "{count} reads have not stalled");
    }

    /// Flips bit `bit` of a file, counted from its start.
    pub(crate) fn flip_bit(&self, path: &Path, bit: u64) {
        self.change(path, |contents| {
            let byte = usize::try_from(bit / 8).unwrap();
            contents[byte] ^= 1 << (bit % 8);
        });
    }

    /// Changes the durable bytes of a file without an operation of the disk.
    pub(crate) fn change(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.shared.state.lock();
        let file = state.existing(path);
        let contents = state.file_mut(file);
        assert!(
            !contents.has_unsynced_writes(),
            "there are unsynced writes to {}",
            path.display()
        );
        contents.change(change);
    }

    /// Returns the content of a file, as a process reads it.
    pub(crate) fn contents(&self, path: &Path) -> Vec<u8> {
        let state = self.shared.state.lock();
        state.file(state.existing(path)).view().to_vec()
    }

    /// Returns all files and their contents, as a process reads them.
    pub(crate) fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.shared.state.lock();
        let files = state.names.iter().map(|(path, file)| {
            let path = Path::to_path_buf(state.paths.path(path));
            (path, state.file(file).view().to_vec())
        });
        files.collect()
    }

    /// Returns the last operations, at most 100,000 or the number of [`SimDisk::set_trace_length`].
    pub(crate) fn trace(&self) -> Vec<TraceEvent> {
        let state = self.shared.state.lock();
        state.trace.events(&state.paths)
    }

    /// Adds a mark to the trace, so that a test can check the order of operations and its own events.
    pub(crate) fn mark(&self, text: &str) {
        self.shared.state.lock().note(Event::Mark(Arc::from(text)));
    }
}

// ===== impl SimDisk: control by a simulator =====

impl SimDisk {
    /// Lets operations fail by chance from now on, also after crashes and restarts. A crash or a restart ends the faults that last for
    /// ever, as if the disk was repaired before the next start.
    pub(crate) fn set_fault_plan(&self, plan: FaultPlan) {
        self.shared.state.lock().set_plan(plan);
    }

    /// Sets what crashes and failed syncs do to unsynced bytes from now on.
    pub(crate) fn set_crash_model(&self, model: CrashModel) {
        self.shared.state.lock().crash_model = model;
    }

    /// Sets how long operations take from now on. Operations of a new disk take no time.
    pub(crate) fn set_latency_model(&self, model: LatencyModel) {
        self.shared.state.lock().latency.set_model(model);
    }

    /// Returns how long the operations since the last call would have taken. No operation waits for this time.
    pub(crate) fn take_latency(&self) -> Duration {
        self.shared.state.lock().latency.take()
    }

    /// Lets each of the next `syncs` syncs take from `least` to `greatest` longer, in simulated time.
    pub(crate) fn delay_syncs(&self, syncs: u32, least: Duration, greatest: Duration) {
        self.shared.state.lock().latency.stall(syncs, least, greatest);
    }

    /// Ends all faults that are active: the disk has space and power again, and no operation fails for ever. The plan
    /// stays, see [`SimDisk::set_fault_plan`].
    pub(crate) fn clear_faults(&self) {
        self.shared.state.lock().faults = Faults::default();
        self.shared.changed.notify_all();
    }

    /// Returns whether the power is off because of [`SimDisk::power_off_after`]. The next step is [`SimDisk::crash`].
    pub(crate) fn is_powered_off(&self) -> bool {
        self.shared.state.lock().faults.powered_off
    }

    /// Returns what happened to the disk so far.
    pub(crate) fn counts(&self) -> FaultCounts {
        self.shared.state.lock().counts
    }

    /// Adds bytes of an earlier life of the disk. With [`CrashModel::STALE`], a crash may show them, or the bytes of removed files, in sectors that
    /// were never synced. The disk keeps the 16 newest of these files.
    pub(crate) fn bury(&self, bytes: &[u8]) {
        self.shared.state.lock().bury(bytes.to_vec());
    }

    /// Returns where crashes put stale bytes since the last call: files, each with a range of bytes.
    pub(crate) fn take_stale(&self) -> Vec<(PathBuf, Range<usize>)> {
        self.shared.state.lock().take_stale()
    }

    /// Flips a random bit of one of the files whose paths match. Returns `None` if no such file contains a byte.
    pub(crate) fn flip_random_bit(&self, matches: impl Fn(&Path) -> bool) -> Option<FlippedBit> {
        let mut state = self.shared.state.lock();
        let candidates: Vec<_> = state
            .names
            .iter()
            .filter(|(path, file)| {
                matches(state.paths.path(*path)) && !state.file(*file).durable().is_empty()
            })
            .collect();
        if candidates.is_empty() {
            return None;
        }
        let (path, file) = candidates[state.random.length_below(candidates.len())];
        let length = state.file(file).durable().len();
        let byte = state.random.length_below(length);
        let bit = u32::try_from(state.random.below(8)).unwrap();
        state.file_mut(file).flip(byte, bit);
        state.counts.flipped_bits += 1;
        state.digest.add(byte as u64);
        Some(FlippedBit {
            path: Path::to_path_buf(state.paths.path(path)),
            offset: byte as u64,
            bit,
        })
    }

    /// Keeps the last `events` events of the trace from now on; with 0, none.
    pub(crate) fn set_trace_length(&self, events: usize) {
        self.shared.state.lock().trace.set_length(events);
    }

    /// Returns a hash of all operations so far: their order, what they wrote, their faults, and the outcomes of crashes.
    /// Two runs of a deterministic program on disks of the same seed return the same hash.
    pub(crate) fn digest(&self) -> u64 {
        self.shared.state.lock().digest.value()
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}
