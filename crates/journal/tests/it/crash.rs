//! Tests that faults lose no acknowledged block. Each time the journal is opened, it contains every acknowledged block.
//! If an append failed, the journal may or may not contain the block of this append when it is opened the next time.

use proptest::{collection::vec, prelude::*};
use tally_journal::JournalError;

use super::{Running, body, data, verify};
use crate::support::sim_disk::{FaultPlan, FaultRates, SimDisk};

#[derive(Debug, Clone)]
enum Step {
    Append {
        length: usize,
    },
    Prepare,
    /// The machine loses power between two operations.
    Crash,
    /// The process is killed.
    Restart,
    /// The process stops cleanly, and then the machine loses power.
    Stop,
    /// The machine loses power during one of the next operations.
    PowerOff {
        operations: u64,
    },
    FailSync {
        syncs: u64,
    },
    Fill {
        free_bytes: u64,
    },
    /// From now on, operations of every kind fail by chance.
    Faults {
        per_million: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => prop_oneof![0_usize..40, 0_usize..=1024].prop_map(|length| Step::Append { length }),
        4 => Just(Step::Prepare),
        1 => Just(Step::Crash),
        1 => Just(Step::Restart),
        1 => Just(Step::Stop),
        2 => (0_u64..30).prop_map(|operations| Step::PowerOff { operations }),
        1 => (0_u64..10).prop_map(|syncs| Step::FailSync { syncs }),
        1 => (0_u64..20_000).prop_map(|free_bytes| Step::Fill { free_bytes }),
        1 => prop_oneof![Just(0), Just(10_000), Just(100_000)].prop_map(|per_million| Step::Faults { per_million }),
    ]
}

/// The journal under test and the blocks that it must contain.
struct Model {
    disk: SimDisk,
    running: Option<Running>,
    acknowledged: Vec<Vec<u8>>,
    /// The block whose append failed. The journal may contain it or not.
    unknown: Option<Vec<u8>>,
    appends: u64,
}

impl Model {
    fn new(seed: u64) -> Self {
        Model {
            disk: SimDisk::new(seed),
            running: None,
            acknowledged: Vec::new(),
            unknown: None,
            appends: 0,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Append { length } => self.append(length),
            Step::Prepare => {
                // Ignores an error: if the preparation of a segment fails, appends must work as before.
                self.running
                    .as_mut()
                    .map(|running| running.preparer.prepare_next());
            }
            Step::Crash => self.stop(SimDisk::crash),
            Step::Restart => self.stop(SimDisk::restart),
            Step::Stop => {
                // Ignores an error: `finish` may fail because of a planned fault, and then the stop was not clean.
                self.running.as_mut().map(|running| running.writer.finish());
                self.stop(SimDisk::crash);
            }
            Step::PowerOff { operations } => self.disk.power_off_after(operations),
            Step::FailSync { syncs } => self.disk.fail_sync_after(syncs),
            Step::Fill { free_bytes } => self.disk.set_free_bytes(free_bytes),
            Step::Faults { per_million } => {
                self.disk
                    .set_fault_plan(FaultPlan::every(FaultRates::io_once(per_million)));
            }
        }
    }

    fn append(&mut self, length: usize) {
        let Some(running) = &mut self.running else {
            return self.open();
        };
        self.appends += 1;
        let bytes = body(self.appends, length);
        match running.append(&bytes) {
            Ok(_) => self.acknowledged.push(bytes),
            Err(JournalError::Poisoned) => assert!(running.writer.is_poisoned()),
            Err(_) => {
                assert!(running.writer.is_poisoned());
                assert_eq!(
                    self.unknown.replace(bytes),
                    None,
                    "after a failed append, every later append must fail with `Poisoned`"
                );
            }
        }
    }

    fn stop(&mut self, how: impl Fn(&SimDisk)) {
        self.running = None;
        how(&self.disk);
    }

    /// Opens the journal. If a planned fault prevents this, crashes the disk. A later step opens the journal again.
    fn open(&mut self) {
        match Running::open(&self.disk.handle()) {
            Ok(running) => self.check(running),
            Err(JournalError::Disk(_)) => self.disk.crash(),
            Err(error) => panic!("{error}"),
        }
    }

    fn check(&mut self, running: Running) {
        let bodies = running.bodies();
        if bodies.len() > self.acknowledged.len() {
            self.acknowledged.extend(self.unknown.take());
        }
        assert_eq!(bodies.len(), self.acknowledged.len());
        let differs = bodies
            .iter()
            .zip(&self.acknowledged)
            .position(|(found, expected)| found != expected);
        assert_eq!(differs, None);
        for (sequence, seen) in (1_u64..).zip(&running.seen) {
            assert_eq!(
                (seen.header.block_sequence, seen.header.position),
                (sequence, seen.position)
            );
            assert_eq!(seen.header.first_sequence, sequence * 100);
        }
        self.unknown = None;
        self.running = Some(running);
    }

    fn finish(mut self) {
        self.disk.set_fault_plan(FaultPlan::default());
        self.stop(SimDisk::crash);
        self.open();
        let blocks = self.acknowledged.len() as u64;
        self.append(8);
        self.stop(SimDisk::restart);
        let report = verify(&self.disk.handle(), &data()).unwrap();
        assert!(report.is_intact(), "{report:?}");
        assert_eq!((report.blocks, report.torn), (blocks + 1, None));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_journal_contains_every_acknowledged_block(seed: u64, steps in vec(step(), 1..120)) {
        let mut model = Model::new(seed);
        for step in &steps {
            model.step(step);
        }
        model.finish();
    }

    #[test]
    fn crashes_during_starts_lose_no_acknowledged_block(
        seed: u64,
        lengths in vec(0_usize..=1024, 1..12),
        lost_power in vec(0_u64..12, 1..6),
    ) {
        let mut model = Model::new(seed);
        model.open();
        for length in lengths {
            model.append(length);
        }
        model.disk.power_off_after(1);
        model.append(1000);
        for operations in lost_power {
            model.stop(SimDisk::crash);
            model.disk.power_off_after(operations);
            model.open();
        }
        model.finish();
    }
}
