//! How the service dies, what happens to its disk then, and how it starts again.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    task::Poll,
};

use tally::{
    engine::{Condition, EngineConfig, ExecStep, PipelineStep, StartError, TallyEngine},
    ledger_clock::ClockError,
    store::block_log::BlockLog,
};
use tally_journal::HEADER_BYTES;

use crate::{
    config::Config,
    random::Random,
    refusal::{cannot_start, names_a_place, shown},
    service::Service,
    sim_disk::{CrashModel, FaultPlan, SimDisk},
    slow_log::SlowLog,
    world::{DATA, Failure, World},
};

/// The deaths that are planned.
#[derive(Debug)]
pub(crate) struct Deaths {
    /// The planned deaths, each with the number of the call before which it happens. The next death is the last element.
    planned: Vec<(u64, Death)>,
    /// Whether a power cut is planned for one of the next operations of the disk.
    pub(crate) armed: bool,
    /// Whether an operation of the disk may fail.
    pub(crate) faulty: bool,
}

/// A way to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// The power fails between two steps.
    PowerCut,
    /// The power fails after this number of further operations of the disk.
    PowerCutAfter(u64),
    Kill,
    Stop,
    /// After this number of further syncs, the next sync fails.
    SyncFails(u64),
}

/// Maximum number of attempts to start, if the power fails again and again.
const STARTS_MAX: usize = 20;

// ===== impl Deaths =====

impl Deaths {
    pub(crate) fn plan(config: &Config, random: &mut Random) -> Self {
        let mut planned: Vec<_> = (0..config.deaths)
            .map(|_| {
                let at = random.within(&(1..config.calls.max(2)));
                (at, Death::choose(config, random))
            })
            .collect();
        planned.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        Deaths {
            planned,
            armed: false,
            faulty: false,
        }
    }

    pub(crate) fn end(&mut self) {
        self.planned.clear();
    }
}

impl Death {
    fn choose(config: &Config, random: &mut Random) -> Self {
        let weights = [
            config.power_cuts,
            config.kills,
            config.stops,
            config.disk_failures,
        ];
        let total: u64 = weights.iter().sum();
        let mut choice = if total == 0 { 0 } else { random.within(&(0..total)) };
        for (kind, weight) in weights.into_iter().enumerate() {
            if choice < weight {
                return match kind {
                    0 if random.percent(30) => Death::PowerCut,
                    0 => Death::PowerCutAfter(random.within(&(0..60))),
                    1 => Death::Kill,
                    2 => Death::Stop,
                    _ => Death::SyncFails(random.within(&(0..10))),
                };
            }
            choice -= weight;
        }
        Death::PowerCut
    }
}

// ===== impl World: deaths =====

impl World {
    /// Ends the process if a death is planned now, or if a fault has broken the service.
    pub(crate) fn die_if_due(&mut self) -> Result<(), Failure> {
        self.kill_if_faulty()?;
        let Some((at, death)) = self.deaths.planned.last().copied() else {
            return Ok(());
        };
        if self.calls < at {
            return Ok(());
        }
        self.deaths.planned.pop();
        self.note(format_args!("{death:?}"));
        match death {
            Death::PowerCut => self.cut_power(),
            Death::PowerCutAfter(operations) => {
                self.disk.power_off_after(operations);
                self.deaths.armed = true;
                Ok(())
            }
            Death::Kill => {
                self.bury();
                self.disk.restart();
                self.start()
            }
            Death::Stop => {
                self.stop()?;
                self.start()?;
                // The power fails soon after the next start, while the journal still has the marker of the clean stop.
                if self.random.percent(40) {
                    self.disk.power_off_after(self.random.within(&(0..8)));
                    self.deaths.armed = true;
                }
                Ok(())
            }
            Death::SyncFails(syncs) => {
                self.disk.fail_sync_after(syncs);
                self.deaths.faulty = true;
                Ok(())
            }
        }
    }

    /// If the power is out or the service has failed, ends the process and starts the service again.
    pub(crate) fn kill_if_faulty(&mut self) -> Result<(), Failure> {
        if self.healed && (self.deaths.armed || self.deaths.faulty) {
            return self.cut_power();
        }
        if self.disk.is_powered_off() {
            self.note(format_args!("the power is out"));
            return self.cut_power();
        }
        let condition = self.service.as_ref().unwrap().engine.health().condition();
        if condition == Condition::Running {
            return Ok(());
        }
        if !self.deaths.faulty {
            return Err(Failure(format!(
                "the service is {condition:?}, but nothing had failed"
            )));
        }
        // The process ends some time after the failure.
        if self.random.percent(90) && !self.healed {
            return Ok(());
        }
        self.note(format_args!("the service ends because its disk failed"));
        self.bury();
        if self.random.percent(50) {
            self.crash_disk();
        } else {
            self.disk.restart();
        }
        self.start()
    }

    fn cut_power(&mut self) -> Result<(), Failure> {
        if !self.disk.is_powered_off() && self.pace.due().is_some() && self.random.percent(50) {
            // The power fails while the block in flight is written.
            let operations = self.random.within(&(0..3));
            self.disk.power_off_after(operations);
            self.pace.hurry();
            self.pace.wake_if_due();
            self.service.as_mut().unwrap().step_wal();
        }
        // The disk loses power before the process ends, so that the last actions of the process do not reach the disk.
        self.crash_disk();
        self.bury();
        self.start()
    }

    /// The machine loses its power.
    fn crash_disk(&mut self) {
        self.disk.crash();
        self.stale.extend(self.disk.take_stale());
    }

    /// Ends the process at once, without any last step of the service.
    fn bury(&mut self) {
        self.forget_calls();
        self.pace.reset();
        self.service = None;
        (self.deaths.armed, self.deaths.faulty) = (false, false);
    }

    /// Stops the service in good order.
    pub(crate) fn stop(&mut self) -> Result<(), Failure> {
        self.note(format_args!("the service stops"));
        self.oracle.stops();
        let service = self.service.as_mut().unwrap();
        service.engine.drain();
        let mut steps = 0;
        loop {
            self.pace.hurry();
            self.pace.wake_if_due();
            let service = self.service.as_mut().unwrap();
            let exec = service.step_exec();
            let wal = service.step_wal();
            if exec == ExecStep::Ended && wal != PipelineStep::Worked {
                break;
            }
            steps += 1;
            if steps > 100_000 {
                return Err(Failure("the service does not stop".to_owned()));
            }
            if self.disk.is_powered_off() {
                self.crash_disk();
                self.bury();
                return Ok(());
            }
        }
        self.collect_answers()?;
        let service = self.service.take().unwrap();
        service.cores.end();
        drop(service.engine);
        let powered_off = self.disk.is_powered_off();
        self.bury();
        if powered_off {
            self.crash_disk();
        } else {
            self.disk.restart();
        }
        Ok(())
    }

    /// Gives the clients the answers that the service gave before it stopped.
    fn collect_answers(&mut self) -> Result<(), Failure> {
        self.tell_time();
        for mut flight in std::mem::take(&mut self.flights) {
            // A call that still needs a read, or has not begun, gets no answer.
            if let Poll::Ready(reply) = flight.poll() {
                self.oracle.answered(flight.id, &reply)?;
            }
        }
        Ok(())
    }

    /// Starts the service, sometimes on a damaged disk, and examines what it knows.
    pub(crate) fn start(&mut self) -> Result<(), Failure> {
        self.tell_time();
        // A disk that was full has space again after a death.
        self.oracle.disk_has_space();
        self.journal_damage_is_seen()?;
        for attempt in 0..STARTS_MAX {
            self.damage_derived_files();
            self.equip_disk(attempt);
            if !self.healed && self.random.percent(self.config.cuts_at_start) {
                let operations = self.random.within(&(0..80));
                self.disk.power_off_after(operations);
                self.deaths.armed = true;
            }
            match self.open() {
                Ok(service) => {
                    self.service = Some(service);
                    // The start has removed the remains of everything that was not durable.
                    self.stale.clear();
                }
                Err(_) if self.disk.is_powered_off() => {
                    self.note(format_args!("the power is out during the start"));
                    self.crash_disk();
                    self.deaths.armed = false;
                    continue;
                }
                Err(error) if self.deaths.faulty && attempt + 1 < STARTS_MAX => {
                    self.note(format_args!("the start fails: {}", shown(&error)));
                    if self.random.percent(50) {
                        self.crash_disk();
                    } else {
                        self.disk.restart();
                    }
                    continue;
                }
                Err(error) if self.stale_bytes_excuse(&error) => {
                    // On a file system that shows stale bytes, an old block may be after the end of the journal. The
                    // start
                    // then fails, and nothing is lost. docs/durability.md says which file systems do not show stale bytes.
                    self.note(format_args!("the start is refused: {}", shown(&error)));
                    self.ended = true;
                    return Err(Failure(shown(&error)));
                }
                Err(error) => return Err(cannot_start(&error)),
            }
            let report = *self.service.as_ref().unwrap().engine.recovery();
            self.note(format_args!(
                "the service started: checkpoint {:?}, {} blocks, {} records, torn {}",
                report.checkpoint, report.blocks_replayed, report.entries_replayed, report.torn_tail
            ));
            return self.examine();
        }
        // In the last attempt, the power stays on.
        self.service = Some(self.open().map_err(|error| cannot_start(&error))?);
        self.stale.clear();
        self.examine()
    }

    /// Lets operations of the disk fail by chance, if the configuration says so. After half of the attempts to start, the disk
    /// no longer fails.
    fn equip_disk(&mut self, attempt: usize) {
        if self.config.stale_bytes > 0 {
            self.disk.set_crash_model(CrashModel::STALE);
        }
        let faulty = self.config.disk_faults > 0 && !self.healed && attempt < STARTS_MAX / 2;
        let plan = if faulty {
            FaultPlan::swarm(self.config.seed)
        } else {
            FaultPlan::default()
        };
        self.disk.set_fault_plan(plan);
        self.deaths.faulty |= faulty;
    }

    /// Starts the service. If its clock is too far behind, an operator accepts this at once.
    fn open(&self) -> Result<Service, StartError> {
        let mut config = self.engine_config();
        match self.try_open(&config) {
            Err(StartError::Clock(ClockError::Behind { .. })) if self.clock.was_set() => {
                config.accept_clock_behind = true;
                self.try_open(&config)
            }
            opened => opened,
        }
    }

    fn try_open(&self, config: &EngineConfig) -> Result<Service, StartError> {
        let pace = self.pace.clone();
        let wrap = |journal| -> Box<dyn BlockLog> { Box::new(SlowLog::new(journal, pace)) };
        let opened = TallyEngine::without_threads(
            config,
            self.disk.handle(),
            World::directory(),
            Arc::new(self.clock.clone()),
            &self.affinity,
            wrap,
        );
        let (engine, cores) = opened?;
        Ok(Service::new(engine, cores, self.config.wake_task > 0))
    }

    /// Damages the journal: flips a bit of a durable block that is not the last block, or removes whole segments or the segment note. Then
    /// either the start must fail and name the place, or every later answer must be right, or an error because of the damage.
    fn journal_damage_is_seen(&mut self) -> Result<(), Failure> {
        let blocks = self.pace.durable_blocks();
        if self.healed || blocks.len() < 2 || !self.random.percent(self.config.journal_damage) {
            return Ok(());
        }
        let whole = self.disk.snapshot();
        // Damages early blocks more often, because a start does not read blocks before the checkpoint as a whole.
        let choice = (blocks.len() - 1).div_ceil(if self.random.percent(50) { 2 } else { 1 });
        let block = blocks[self.random.below(choice)];
        let bit = self.random.below(block.bytes * 8);
        let path = PathBuf::from(format!("{DATA}/journal/{:010}.segment", block.segment));
        let mut damaged = whole.clone();
        let Some(file) = damaged.get_mut(&path) else {
            return Err(Failure(format!("{} is missing", path.display())));
        };
        let later = blocks[blocks.len() - 1].segment > block.segment;
        let what = if self.random.percent(20) {
            self.remove_segments(&mut damaged, block.segment)
        } else if later && self.random.percent(20) {
            let length = self.random.below(file.len());
            file.truncate(length);
            format!("is cut to {length} bytes")
        } else if later && self.random.percent(30) {
            let bit = self.random.below(HEADER_BYTES * 8);
            file[bit / 8] ^= 1 << (bit % 8);
            format!("has another bit {bit}")
        } else {
            file[usize::try_from(block.offset).unwrap() + bit / 8] ^= 1 << (bit % 8);
            format!("has another bit {bit} in the block at {}", block.offset)
        };
        self.note(format_args!("{} {what}", path.display()));
        let oracle = self.oracle.clone();
        self.disk = SimDisk::holding(self.random.next(), &damaged);
        match self.open() {
            Err(error) => {
                let error = shown(&error);
                self.note(format_args!("the start is refused: {error}"));
                if !names_a_place(&error) {
                    return Err(Failure(format!(
                        "the damage is refused without its place: {error}"
                    )));
                }
            }
            Ok(service) => {
                self.service = Some(service);
                self.oracle.damage_planted();
                // The undamaged disk shows what was in the journal.
                self.examine_with(&whole)?;
                self.service = None;
                self.pace.reset();
            }
        }
        // Restores the undamaged disk.
        self.oracle = oracle;
        self.pace.keep_blocks(blocks);
        self.disk = SimDisk::holding(self.random.next(), &whole);
        Ok(())
    }

    /// Removes the segment `first` and maybe all later segments, or the segment note. Returns a description of the damage.
    fn remove_segments(&mut self, files: &mut BTreeMap<PathBuf, Vec<u8>>, first: u32) -> String {
        let journal = PathBuf::from(format!("{DATA}/journal"));
        let name_of = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.filter(|_| path.parent() == Some(&journal))
                .map(str::to_owned)
        };
        if self.random.percent(20) {
            files.retain(|path, _| !name_of(path).is_some_and(|name| name.starts_with("SEGMENTS-")));
            return "is whole, but the note of the segments is removed".to_owned();
        }
        let with_later = self.random.percent(50);
        let first = format!("{first:010}.segment");
        files.retain(|path, _| match name_of(path) {
            Some(name) if name.ends_with(".segment") => name < first || (name > first && !with_later),
            Some(_) | None => true,
        });
        if with_later {
            "and all later ones are removed".to_owned()
        } else {
            "is removed".to_owned()
        }
    }

    /// Removes or damages checkpoints and id files, which a start must survive.
    fn damage_derived_files(&mut self) {
        if self.healed || !self.random.percent(self.config.derived_damage) {
            return;
        }
        let mut files: BTreeMap<PathBuf, Vec<u8>> = self.disk.snapshot();
        let derived: Vec<PathBuf> = files
            .keys()
            .filter(|path| {
                ["checkpoint", "index"]
                    .iter()
                    .any(|part| path.starts_with(format!("{DATA}/{part}")))
            })
            .cloned()
            .collect();
        if derived.is_empty() {
            return;
        }
        let path = derived[self.random.below(derived.len())].clone();
        let length = files[&path].len();
        if length == 0 || self.random.percent(40) {
            files.remove(&path);
        } else if self.random.percent(50) {
            let bit = self.random.below(length * 8);
            files.get_mut(&path).unwrap()[bit / 8] ^= 1 << (bit % 8);
        } else {
            let keep = self.random.below(length);
            files.get_mut(&path).unwrap().truncate(keep);
        }
        self.note(format_args!("{} is damaged or removed", path.display()));
        self.disk = SimDisk::holding(self.random.next(), &files);
    }
}
