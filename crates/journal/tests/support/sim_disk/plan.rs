//! What goes wrong on a simulated disk by chance: failed operations, and the damage of a crash.

use tally_journal::Operation;

use super::random::SplitMix64;

/// The probabilities with which operations fail. Every random decision comes from the seed of the disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct FaultPlan {
    pub(crate) write: FaultRates,
    pub(crate) sync: FaultRates,
    pub(crate) sync_dir: FaultRates,
    pub(crate) create: FaultRates,
    pub(crate) rename: FaultRates,
    pub(crate) remove: FaultRates,
    pub(crate) read: FaultRates,
    pub(crate) open: FaultRates,
    pub(crate) list: FaultRates,
}

/// The probabilities of the faults of one kind of operation. Each rate is the number of faults per million operations;
/// the sum of the four rates must not exceed one million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct FaultRates {
    /// The operation fails with EIO. The next operation succeeds. A failed sync has lost what it should have written.
    pub(crate) io_once: u32,
    /// The operation fails with EIO, and so does every later operation of this kind on this path, until the next crash,
    /// restart or [`super::SimDisk::clear_faults`].
    pub(crate) io_for_ever: u32,
    /// The operation fails with ENOSPC. The next operation succeeds.
    pub(crate) full_once: u32,
    /// The operation fails with ENOSPC, and the disk stays full: no file can grow before a file is removed, the next
    /// crash or restart, or [`super::SimDisk::clear_faults`].
    pub(crate) full_for_ever: u32,
}

/// What a crash does to bytes that were not synced. Each rate is a number per million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CrashModel {
    /// The part of the unsynced sectors that are torn at a byte: the bytes on one side of it are new, the bytes on the
    /// other side old.
    pub(crate) torn_sectors: u32,
    /// Of the lost sectors in which no byte was ever synced, the part that contains bytes of an earlier life of the
    /// disk: sectors of removed files, or of other files as if the file system had moved them.
    pub(crate) stale_sectors: u32,
    /// Of the same lost sectors, the part for which the length of the file is durable although the bytes are not. They
    /// are zeros.
    pub(crate) zero_sectors: u32,
}

/// A fault that the plan of a disk drew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Io { for_ever: bool },
    Full { for_ever: bool },
}

/// The rates from which [`FaultPlan::swarm`] chooses.
const SWARM_RATES: [u32; 4] = [100, 1_000, 10_000, 100_000];
/// [`FaultPlan::swarm`] plans each fault with a probability of 1 to this number.
const SWARM_ONE_OF: u64 = 12;

// ===== impl FaultPlan =====

impl FaultPlan {
    /// Makes a plan in which every kind of operation has the same faults.
    pub(crate) fn every(rates: FaultRates) -> Self {
        FaultPlan {
            write: rates,
            sync: rates,
            sync_dir: rates,
            create: rates,
            rename: rates,
            remove: rates,
            read: rates,
            open: rates,
            list: rates,
        }
    }

    /// Makes a plan in which a random few kinds of faults happen, at random rates. Seeds that plan different faults find
    /// more than seeds that plan all faults: Groce, Zhang, Eide, Chen, Regehr, "Swarm testing", 2012.
    pub(crate) fn swarm(seed: u64) -> Self {
        let mut random = SplitMix64::new(seed, 3);
        let mut rate = || {
            let chosen = SWARM_RATES[random.length_below(SWARM_RATES.len())];
            if random.below(SWARM_ONE_OF) == 0 {
                chosen
            } else {
                0
            }
        };
        let mut both = || FaultRates {
            io_once: rate(),
            io_for_ever: rate(),
            full_once: rate(),
            full_for_ever: rate(),
        };
        let (write, sync, sync_dir, create, rename) = (both(), both(), both(), both(), both());
        // The other operations need no space.
        let mut io_only = || FaultRates {
            full_once: 0,
            full_for_ever: 0,
            ..both()
        };
        FaultPlan {
            write,
            sync,
            sync_dir,
            create,
            rename,
            remove: io_only(),
            read: io_only(),
            open: io_only(),
            list: io_only(),
        }
    }

    /// Returns whether the plan has no fault.
    pub(super) fn is_empty(&self) -> bool {
        *self == FaultPlan::default()
    }

    /// Draws the fault of an operation.
    pub(super) fn draw(&self, operation: Operation, random: &mut SplitMix64) -> Option<Fault> {
        let rates = match operation {
            Operation::Write => &self.write,
            Operation::Sync => &self.sync,
            Operation::SyncDir => &self.sync_dir,
            Operation::Create => &self.create,
            Operation::Rename => &self.rename,
            Operation::Remove => &self.remove,
            Operation::Read => &self.read,
            Operation::Open => &self.open,
            Operation::List => &self.list,
            Operation::CreateDir | Operation::Size | Operation::Lock | Operation::Random => return None,
        };
        rates.draw(random)
    }
}

impl FaultRates {
    /// The operation fails with EIO, once, with this rate per million operations.
    pub(crate) const fn io_once(per_million: u32) -> Self {
        FaultRates {
            io_once: per_million,
            io_for_ever: 0,
            full_once: 0,
            full_for_ever: 0,
        }
    }

    fn draw(&self, random: &mut SplitMix64) -> Option<Fault> {
        let faults = [
            (self.io_once, Fault::Io { for_ever: false }),
            (self.io_for_ever, Fault::Io { for_ever: true }),
            (self.full_once, Fault::Full { for_ever: false }),
            (self.full_for_ever, Fault::Full { for_ever: true }),
        ];
        let mut left = random.millionth();
        for (rate, fault) in faults {
            if left < u64::from(rate) {
                return Some(fault);
            }
            left -= u64::from(rate);
        }
        None
    }
}

// ===== impl CrashModel =====

impl CrashModel {
    /// A disk whose file system may show stale bytes in new sectors of a file, as file systems do that write metadata
    /// before data and do not mark new sectors as unwritten.
    pub(crate) const STALE: CrashModel = CrashModel {
        torn_sectors: 125_000,
        stale_sectors: 250_000,
        zero_sectors: 250_000,
    };
}

/// A disk whose file system shows no stale bytes, such as ext4 and XFS.
impl Default for CrashModel {
    fn default() -> Self {
        CrashModel {
            stale_sectors: 0,
            ..CrashModel::STALE
        }
    }
}
