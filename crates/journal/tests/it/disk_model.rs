//! The simulated disk against a naive model, which knows for every byte and every name what may be there after a crash.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use proptest::{collection::vec, prelude::*};
use tally_journal::{Disk, DiskFile, FileAccess, Operation};

use crate::support::sim_disk::{CrashModel, FaultPlan, FaultRates, LatencyModel, SimDisk};

/// Number of names that the tests use in each of the two directories.
const NAMES: usize = 4;
const SECTOR_BYTES: usize = 512;

#[derive(Debug, Clone)]
enum Step {
    Create(usize),
    Write {
        name: usize,
        offset: usize,
        length: usize,
    },
    Sync(usize),
    FailedSync(usize),
    SyncDir(usize),
    Rename {
        from: usize,
        to: usize,
    },
    Remove(usize),
    Restart,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..2 * NAMES;
    prop_oneof![
        4 => name().prop_map(Step::Create),
        8 => (name(), 0_usize..3000, 0_usize..1500)
            .prop_map(|(name, offset, length)| Step::Write { name, offset, length }),
        3 => name().prop_map(Step::Sync),
        1 => name().prop_map(Step::FailedSync),
        2 => (0_usize..2).prop_map(Step::SyncDir),
        2 => (name(), 0..NAMES).prop_map(|(from, to)| Step::Rename { from, to }),
        1 => name().prop_map(Step::Remove),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ]
}

/// What the model knows of a file.
#[derive(Debug, Clone, Default)]
struct ModelFile {
    /// The bytes that a process reads.
    view: Vec<u8>,
    /// Every value that each byte may have after a crash. A byte that is not durable may also be missing.
    possible: Vec<BTreeSet<u8>>,
    /// The length that is certainly durable.
    durable_length: usize,
    /// The sectors in which a byte is certainly durable. The other sectors may be holes.
    synced: BTreeSet<usize>,
    /// The ranges of the writes since the last sync.
    unsynced: Vec<(usize, usize)>,
    /// The sectors of lost writes, whose other bytes may be stale.
    written: BTreeSet<usize>,
}

/// The names of one directory: as a process sees them, and the states that a crash may restore, oldest first.
type NameStates = Vec<BTreeMap<usize, usize>>;

struct Model {
    disk: SimDisk,
    files: Vec<ModelFile>,
    /// For each directory, the durable names, and the names after each unsynced change.
    names: [NameStates; 2],
    /// The number of writes so far. The bytes of a write depend on it.
    writes: u64,
}

fn directory(name: usize) -> usize {
    name / NAMES
}

fn directory_path(directory: usize) -> PathBuf {
    PathBuf::from(format!("/disk/{directory}"))
}

fn path(name: usize) -> PathBuf {
    directory_path(directory(name)).join(format!("file-{name}"))
}

fn sectors(start: usize, length: usize) -> impl Iterator<Item = usize> {
    start / SECTOR_BYTES..(start + length).div_ceil(SECTOR_BYTES)
}

impl ModelFile {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        if self.view.len() < end {
            self.view.resize(end, 0);
            self.possible.resize(end, BTreeSet::from([0]));
        }
        for (at, byte) in (offset..).zip(bytes) {
            self.view[at] = *byte;
            self.possible[at].insert(*byte);
        }
        self.unsynced.push((offset, bytes.len()));
        self.written.extend(sectors(offset, bytes.len()));
    }

    /// A sync makes certain only what was written since the last sync. What a failed sync lost stays uncertain.
    fn sync(&mut self) {
        for (offset, length) in std::mem::take(&mut self.unsynced) {
            for at in offset..offset + length {
                self.possible[at] = BTreeSet::from([self.view[at]]);
            }
            self.durable_length = self.durable_length.max(offset + length);
            self.synced.extend(sectors(offset, length));
        }
    }

    /// A failed sync may have made each byte durable or not.
    fn fail_sync(&mut self) {
        self.unsynced.clear();
    }

    /// Checks that the content `found` is legal after a crash.
    fn check_after_crash(&self, name: usize, found: &[u8]) -> Result<(), String> {
        let lengths = self.durable_length..=self.view.len();
        if !lengths.contains(&found.len()) {
            return Err(format!("file {name} has {} bytes, not {lengths:?}", found.len()));
        }
        for (at, byte) in found.iter().enumerate() {
            let sector = at / SECTOR_BYTES;
            let may_be_stale = self.written.contains(&sector) && !self.synced.contains(&sector);
            let possible = &self.possible[at];
            if !possible.contains(byte) && !may_be_stale {
                return Err(format!(
                    "byte {at} of file {name} is {byte}, not one of {possible:?}"
                ));
            }
        }
        Ok(())
    }

    /// Returns the file after a crash that left these bytes.
    fn after_crash(&self, bytes: &[u8]) -> Self {
        let mut synced = self.synced.clone();
        let not_zero = bytes.iter().enumerate().filter(|(_, byte)| **byte != 0);
        synced.extend(not_zero.map(|(at, _)| at / SECTOR_BYTES));
        ModelFile {
            view: bytes.to_vec(),
            possible: bytes.iter().map(|byte| BTreeSet::from([*byte])).collect(),
            durable_length: bytes.len(),
            synced,
            unsynced: Vec::new(),
            written: BTreeSet::new(),
        }
    }
}

impl Model {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        for directory in 0..2 {
            disk.create_dir_all(&directory_path(directory)).unwrap();
        }
        Model {
            disk,
            files: Vec::new(),
            names: [vec![BTreeMap::new()], vec![BTreeMap::new()]],
            writes: 0,
        }
    }

    fn file(&self, name: usize) -> Option<usize> {
        self.names[directory(name)].last().unwrap().get(&name).copied()
    }

    fn open(&self, name: usize) -> Arc<dyn DiskFile> {
        self.disk.open(&path(name), FileAccess::ReadWrite).unwrap()
    }

    fn change_names(&mut self, directory: usize, change: impl FnOnce(&mut BTreeMap<usize, usize>)) {
        let mut names = self.names[directory].last().unwrap().clone();
        change(&mut names);
        self.names[directory].push(names);
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Create(name) if self.file(name).is_none() => {
                self.disk.create_new(&path(name)).unwrap();
                self.files.push(ModelFile::default());
                let file = self.files.len() - 1;
                self.change_names(directory(name), |names| {
                    names.insert(name, file);
                });
            }
            Step::Create(name) => {
                let error = self.disk.create_new(&path(name)).map(|_| ()).unwrap_err();
                assert_eq!(error.operation, Operation::Create);
            }
            Step::SyncDir(directory) => {
                self.disk.sync_dir(&directory_path(directory)).unwrap();
                self.names[directory].drain(..self.names[directory].len() - 1);
            }
            Step::Restart => self.disk.restart(),
            Step::Crash => self.crash(),
            Step::Rename { from, to } => {
                let to = directory(from) * NAMES + to;
                match self.file(from) {
                    None => assert!(
                        self.disk
                            .rename(&path(from), &path(to))
                            .unwrap_err()
                            .is_not_found()
                    ),
                    Some(file) => {
                        self.disk.rename(&path(from), &path(to)).unwrap();
                        self.change_names(directory(from), |names| {
                            names.remove(&from);
                            names.insert(to, file);
                        });
                    }
                }
            }
            Step::Remove(name) | Step::Write { name, .. } | Step::Sync(name) | Step::FailedSync(name) => {
                match self.file(name) {
                    None => assert!(self.disk.remove(&path(name)).unwrap_err().is_not_found()),
                    Some(file) => self.step_on_file(step, name, file),
                }
            }
        }
        self.check_view();
    }

    fn step_on_file(&mut self, step: &Step, name: usize, file: usize) {
        match *step {
            Step::Write { offset, length, .. } => {
                self.writes += 1;
                let bytes: Vec<u8> = (0..length as u64)
                    .map(|at| (self.writes.wrapping_mul(37) + at % 7).to_le_bytes()[0] | 1)
                    .collect();
                self.open(name).write_at(offset as u64, &bytes).unwrap();
                self.files[file].write(offset, &bytes);
            }
            Step::Sync(_) => {
                self.open(name).sync_data().unwrap();
                self.files[file].sync();
            }
            Step::FailedSync(_) => {
                self.disk.fail_sync_after(0);
                self.open(name).sync_data().unwrap_err();
                self.files[file].fail_sync();
            }
            Step::Create(_) | Step::SyncDir(_) | Step::Rename { .. } | Step::Restart | Step::Crash => {
                unreachable!("not a step on a file")
            }
            Step::Remove(_) => {
                self.disk.remove(&path(name)).unwrap();
                self.change_names(directory(name), |names| {
                    names.remove(&name);
                });
            }
        }
    }

    /// Without a crash, a process reads what it has written.
    fn check_view(&self) {
        let mut expected = BTreeMap::new();
        for names in &self.names {
            for (name, file) in names.last().unwrap() {
                expected.insert(path(*name), self.files[*file].view.clone());
            }
        }
        assert_eq!(self.disk.snapshot(), expected);
        for directory in 0..2 {
            let mut names: Vec<String> = expected
                .keys()
                .filter(|path| path.parent() == Some(&directory_path(directory)))
                .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
                .collect();
            names.sort_unstable();
            assert_eq!(self.disk.list(&directory_path(directory)).unwrap(), names);
        }
    }

    /// After a crash, the names of each directory are those after some of the oldest unsynced changes. Only the contents
    /// say which file a name leads to, so a state is legal if every content is legal for its file.
    fn crash(&mut self) {
        self.disk.crash();
        let found = self.disk.snapshot();
        for directory in 0..2 {
            let inside: BTreeMap<usize, &Vec<u8>> = (0..2 * NAMES)
                .filter(|name| self::directory(*name) == directory)
                .filter_map(|name| Some((name, found.get(&path(name))?)))
                .collect();
            let same_names = |names: &&BTreeMap<usize, usize>| names.keys().eq(inside.keys());
            let checked = |names: &BTreeMap<usize, usize>| {
                names
                    .iter()
                    .try_for_each(|(name, file)| self.files[*file].check_after_crash(*name, inside[name]))
            };
            let states = self.names[directory].iter().filter(same_names);
            let results: Vec<_> = states
                .map(|names| checked(names).map(|()| names.clone()))
                .collect();
            let Some(state) = results.iter().find_map(|result| result.clone().ok()) else {
                panic!("names {:?} are illegal: {results:?}", inside.keys());
            };
            for (name, file) in &state {
                self.files[*file] = self.files[*file].after_crash(inside[name]);
            }
            self.names[directory] = vec![state];
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_leaves_a_legal_state(seed: u64, steps in vec(step(), 1..60), earlier_life: bool) {
        let mut model = Model::new(seed);
        if earlier_life {
            model.disk.set_crash_model(CrashModel::STALE);
            model.disk.bury(&[0xfe; 4096]);
        }
        for step in &steps {
            model.step(step);
        }
        model.step(&Step::Crash);
    }

    #[test]
    fn the_same_seed_and_calls_have_the_same_results(seed: u64, steps in vec(faulty_step(), 1..60)) {
        let runs = [0, 1].map(|_| faulty_run(seed, &steps));
        prop_assert_eq!(&runs[0], &runs[1]);
        let other = faulty_run(seed ^ 1, &steps);
        prop_assert_ne!(runs[0].digest, other.digest);
    }
}

/// A step of a run in which operations fail by chance, so its result is not checked by a model.
#[derive(Debug, Clone)]
enum FaultyStep {
    Step(Step),
    PowerOff(u64),
    Flip,
}

fn faulty_step() -> impl Strategy<Value = FaultyStep> {
    prop_oneof![
        20 => step().prop_map(FaultyStep::Step),
        1 => (0_u64..20).prop_map(FaultyStep::PowerOff),
        1 => Just(FaultyStep::Flip),
    ]
}

/// Everything that two runs must have in common.
#[derive(Debug, PartialEq)]
struct Outcome {
    results: Vec<String>,
    latencies: Vec<Duration>,
    files: BTreeMap<PathBuf, Vec<u8>>,
    digest: u64,
}

fn faulty_run(seed: u64, steps: &[FaultyStep]) -> Outcome {
    let disk = SimDisk::new(seed);
    disk.create_dir_all(&directory_path(0)).unwrap();
    disk.create_dir_all(&directory_path(1)).unwrap();
    let rates = FaultRates {
        io_for_ever: 20_000,
        full_once: 50_000,
        full_for_ever: 20_000,
        ..FaultRates::io_once(50_000)
    };
    disk.set_fault_plan(FaultPlan {
        write: rates,
        sync: rates,
        create: rates,
        open: FaultRates::io_once(50_000),
        ..FaultPlan::swarm(seed)
    });
    disk.set_latency_model(LatencyModel::CLOUD);
    let (mut results, mut latencies) = (Vec::new(), Vec::new());
    for step in steps {
        let result = match step {
            FaultyStep::PowerOff(operations) => {
                disk.power_off_after(*operations);
                String::new()
            }
            FaultyStep::Flip => format!("{:?}", disk.flip_random_bit(|_| true)),
            FaultyStep::Step(step) => format!("{:?}", attempt(&disk, step)),
        };
        results.push(result);
        latencies.push(disk.take_latency());
    }
    disk.crash();
    Outcome {
        results,
        latencies,
        files: disk.snapshot(),
        digest: disk.digest(),
    }
}

fn attempt(disk: &SimDisk, step: &Step) -> Result<(), tally_journal::DiskError> {
    let open = |name| disk.open(&path(name), FileAccess::ReadWrite);
    match *step {
        Step::Create(name) => disk.create_new(&path(name)).map(|_| ()),
        Step::Write { name, offset, length } => open(name)?.write_at(offset as u64, &vec![7; length]),
        Step::Sync(name) | Step::FailedSync(name) => open(name)?.sync_all(),
        Step::SyncDir(directory) => disk.sync_dir(&directory_path(directory)),
        Step::Rename { from, to } => disk.rename(&path(from), &path(directory(from) * NAMES + to)),
        Step::Remove(name) => disk.remove(&path(name)),
        Step::Restart => {
            disk.restart();
            Ok(())
        }
        Step::Crash => {
            disk.crash();
            Ok(())
        }
    }
}

/// Makes a disk with one durable file of `length` bytes, all of them 1.
fn disk_with_file(seed: u64, length: usize) -> (SimDisk, PathBuf) {
    let path = PathBuf::from("/disk/file");
    let files = BTreeMap::from([(path.clone(), vec![1; length])]);
    (SimDisk::holding(seed, &files), path)
}

fn open(disk: &SimDisk, path: &Path) -> Arc<dyn DiskFile> {
    disk.open(path, FileAccess::ReadWrite).unwrap()
}

#[test]
fn a_crash_tears_a_write_at_every_byte() {
    let mut torn_at = BTreeSet::new();
    for seed in 0..20_000 {
        let (disk, path) = disk_with_file(seed, 64);
        open(&disk, &path).write_at(0, &[2; 64]).unwrap();
        disk.crash();
        let found = disk.contents(&path);
        torn_at.insert(found.iter().take_while(|byte| **byte == 2).count());
    }
    assert_eq!(torn_at, (0..=64).collect());
}

#[test]
fn a_loss_of_power_interrupts_a_write_at_any_byte() {
    let mut written = BTreeSet::new();
    for seed in 0..2000 {
        let (disk, path) = disk_with_file(seed, 8);
        disk.set_crash_model(CrashModel {
            torn_sectors: 0,
            ..CrashModel::default()
        });
        disk.power_off_after(0);
        open(&disk, &path).write_at(0, &[2; 8]).unwrap_err();
        assert!(disk.is_powered_off());
        disk.crash();
        assert!(!disk.is_powered_off());
        let found = disk.contents(&path);
        let new = found.iter().take_while(|byte| **byte == 2).count();
        assert!(found[new..].iter().all(|byte| *byte == 1));
        written.insert(new);
    }
    assert_eq!(written, (0..=8).collect());
}

#[test]
fn a_sector_that_was_never_synced_may_contain_bytes_of_a_removed_file() {
    let mut kinds = BTreeSet::new();
    for seed in 0..300 {
        let (disk, path) = disk_with_file(seed, 2048);
        disk.set_crash_model(CrashModel::STALE);
        let directory = path.parent().unwrap();
        disk.remove(&path).unwrap();
        disk.sync_dir(directory).unwrap();
        disk.crash();
        let file = disk.create_new(&path).unwrap();
        disk.sync_dir(directory).unwrap();
        file.write_at(0, &[2; 2048]).unwrap();
        disk.crash();
        let found = disk.contents(&path);
        kinds.extend(found);
    }
    assert_eq!(kinds, BTreeSet::from([0, 1, 2]));
}

#[test]
fn a_failed_sync_lasts_for_once_or_for_ever() {
    for (rates, later) in [
        (FaultRates::io_once(1_000_000), true),
        (
            FaultRates {
                io_for_ever: 1_000_000,
                ..FaultRates::default()
            },
            false,
        ),
    ] {
        let (disk, path) = disk_with_file(1, 8);
        let file = open(&disk, &path);
        disk.set_fault_plan(FaultPlan {
            sync: rates,
            ..FaultPlan::default()
        });
        file.write_at(0, b"new").unwrap();
        assert_eq!(file.sync_data().unwrap_err().operation, Operation::Sync);
        disk.set_fault_plan(FaultPlan::default());
        assert_eq!(file.sync_data().is_ok(), later);
        disk.clear_faults();
        file.sync_data().unwrap();
        assert_eq!(disk.counts().failed_syncs, if later { 1 } else { 2 });
    }
}

#[test]
fn a_full_disk_accepts_overwrites_and_is_full_until_it_is_mended() {
    let (disk, path) = disk_with_file(1, 8);
    let file = open(&disk, &path);
    disk.set_fault_plan(FaultPlan {
        write: FaultRates {
            full_for_ever: 1_000_000,
            ..FaultRates::default()
        },
        ..FaultPlan::default()
    });
    assert!(file.write_at(0, b"new").unwrap_err().is_storage_full());
    disk.set_fault_plan(FaultPlan::default());
    file.write_at(0, b"new").unwrap();
    assert!(file.write_at(8, b"longer").unwrap_err().is_storage_full());
    disk.clear_faults();
    file.write_at(8, b"longer").unwrap();
    assert_eq!(disk.contents(&path), b"new\x01\x01\x01\x01\x01longer");
}

#[test]
fn a_flipped_bit_is_where_the_disk_says() {
    let (disk, path) = disk_with_file(3, 100);
    assert_eq!(disk.flip_random_bit(|path| path.ends_with("other")), None);
    let flipped = disk.flip_random_bit(|path| path.ends_with("file")).unwrap();
    let mut expected = vec![1; 100];
    expected[usize::try_from(flipped.offset).unwrap()] ^= 1 << flipped.bit;
    assert_eq!((&flipped.path, disk.contents(&path)), (&path, expected.clone()));
    disk.crash();
    assert_eq!(disk.contents(&path), expected);
}

#[test]
fn stalls_take_simulated_time_only_while_they_last() {
    let (disk, path) = disk_with_file(1, 8);
    let file = open(&disk, &path);
    assert_eq!(disk.take_latency(), Duration::ZERO);
    let (least, greatest) = (Duration::from_secs(2), Duration::from_secs(3));
    disk.delay_syncs(2, least, greatest);
    file.write_at(0, b"new").unwrap();
    assert_eq!(disk.take_latency(), Duration::ZERO);
    for _ in 0..2 {
        file.sync_data().unwrap();
        assert!((least..=greatest).contains(&disk.take_latency()));
    }
    file.sync_data().unwrap();
    assert_eq!(disk.take_latency(), Duration::ZERO);
    disk.set_latency_model(LatencyModel::CLOUD);
    let total: Duration = (0..1000)
        .map(|_| {
            file.sync_data().unwrap();
            disk.take_latency()
        })
        .sum();
    assert!(total >= Duration::from_millis(375), "{total:?}");
}
