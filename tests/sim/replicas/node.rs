//! A replica under the scheduler: its disk, its clock, and its process while it lives.

use std::{
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tally::{
    engine::{EngineConfig, ExecStep, PipelineStep, TallyEngine},
    replica::{Driver, DriverConfig, DriverParts, End, Peers, check_resume, prepare, watch_peers},
    store::replicated::{
        DirectoryName, Exchange, Replica, ReplicaFault, ReplicaIdentity, ReplicaRole, ReplicaView, TopicFacts,
    },
    wall_clock::WallClock,
};
use tally_breaker::Clock;
use tally_ledger::Timestamp;
use tally_topology::CpuAffinityManager;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    alarm::{Alarm, Bell},
    peers::PeerNet,
    plan::{Plan, REPLICAS, address},
    sim_link::Link,
    sim_log::SimLog,
};
use crate::{oracle::WALL_BASE, random::Random, service::Service, sim_disk::SimDisk, world::DATA};

/// The directory that the end of the log names. No replica of a run continues as an embedded store.
const DIRECTORY: DirectoryName = DirectoryName([7; 16]);

/// The clocks of a replica: the monotonic clock is that of the simulation, and the wall clock may step.
#[derive(Debug, Clone)]
pub(crate) struct NodeClock {
    origin: Instant,
    stepped: Arc<AtomicI64>,
}

/// A replica, also while its process does not run.
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) disk: SimDisk,
    pub(crate) clock: NodeClock,
    pub(crate) log: SimLog,
    net: PeerNet,
    pub(crate) process: Option<Process>,
    /// The number of processes so far.
    pub(crate) life: u64,
    /// When the next process starts, if none runs.
    pub(crate) starts_at: Instant,
    pub(crate) paused_until: Option<Instant>,
    /// Why the replica has stopped for good.
    pub(crate) halted: Option<String>,
    /// Whether an operation of the disk may fail in this life.
    pub(crate) disk_faulty: bool,
    bell: Arc<Bell>,
}

/// The process of a replica.
pub(crate) struct Process {
    stage: Stage,
    /// The alarm of the start, and then of the driver.
    alarm: Arc<Alarm>,
    /// The random number with which the process marks its blocks.
    pub(crate) writer: u32,
    /// Threads that stand still, each until a time.
    stalls: [Option<Instant>; TURNS],
}

enum Stage {
    Starting(Starting),
    Running(Box<Running>),
}

type Starting = Pin<Box<dyn Future<Output = Result<TopicFacts, String>>>>;

/// A process after its start.
pub(crate) struct Running {
    pub(crate) service: Service,
    pub(crate) replica: Replica,
    stop: CancellationToken,
    driver: Pin<Box<dyn Future<Output = End>>>,
    /// Asks the other replicas.
    watching: Pin<Box<dyn Future<Output = ()>>>,
    watch_alarm: Arc<Alarm>,
    _unhook: Unhook,
}

/// The commit pipeline of a process owns its exchange, which keeps a waker of the pipeline. The end of a real process frees both. Here, this
/// guard removes the waker, because otherwise every process of a run would stay in memory.
struct Unhook(Exchange);

impl Drop for Unhook {
    fn drop(&mut self) {
        self.0.fail(ReplicaFault::Ended);
    }
}

/// A piece of work of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeTurn {
    Exec,
    Wal,
    Maintenance,
    Tick,
    /// The task that asks the other replicas.
    Watch,
    /// The start, or the driver.
    Main,
}

const TURNS: usize = 6;
const ALL_TURNS: [NodeTurn; TURNS] = [
    NodeTurn::Exec,
    NodeTurn::Wal,
    NodeTurn::Maintenance,
    NodeTurn::Tick,
    NodeTurn::Watch,
    NodeTurn::Main,
];

/// What a piece of work led to.
#[derive(Debug)]
pub(crate) enum Happened {
    Nothing,
    Started,
    StartFailed(String),
    Ended(End),
}

/// The longest stall of a thread.
const STALL_MAX: Duration = Duration::from_millis(400);
/// The maintenance may come this much later than it wants to.
const MAINTENANCE_REST: Duration = Duration::from_millis(50);

// ===== impl NodeClock =====

impl NodeClock {
    pub(crate) fn new() -> Self {
        NodeClock {
            origin: Instant::now(),
            stepped: Arc::default(),
        }
    }

    pub(crate) fn step(&self, nanos: i64) {
        self.stepped.fetch_add(nanos, Ordering::Relaxed);
    }

    fn elapsed(&self) -> u64 {
        u64::try_from((Instant::now() - self.origin).as_nanos()).unwrap()
    }
}

impl WallClock for NodeClock {
    fn now(&self) -> Timestamp {
        let nanos = WALL_BASE.as_nanos() + self.elapsed();
        Timestamp::from_nanos(nanos.saturating_add_signed(self.stepped.load(Ordering::Relaxed)))
    }
}

impl Clock for NodeClock {
    fn now_ns(&self) -> u64 {
        self.elapsed()
    }

    fn wall_time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.now().as_nanos())
    }
}

/// The settings of the engine of every replica.
fn engine_config(plan: &Plan, clock: &NodeClock) -> EngineConfig {
    let mut config = EngineConfig::default();
    config.checkpoint.0 = plan.checkpoint_bytes;
    config.circuits.clock = Some(Arc::new(clock.clone()));
    config.circuits.untimed = true;
    config.breaker.self_probe = false;
    config.accept_clock_behind = true;
    config
}

// ===== impl Node =====

impl Node {
    pub(crate) fn new(
        index: usize,
        (log, net): (&SimLog, &PeerNet),
        bell: &Arc<Bell>,
        random: &mut Random,
    ) -> Self {
        Node {
            index,
            disk: SimDisk::new(random.next()),
            clock: NodeClock::new(),
            log: log.clone(),
            net: net.clone(),
            process: None,
            life: 0,
            starts_at: Instant::now(),
            paused_until: None,
            halted: None,
            disk_faulty: false,
            bell: Arc::clone(bell),
        }
    }

    /// Starts a process.
    pub(crate) fn start(&mut self, random: &mut Random) {
        self.life += 1;
        let mut link = Link::new(&self.log, self.index);
        let disk = self.disk.handle();
        let starting = async move {
            let prepared = prepare(&mut link, disk, Path::new(DATA), false).await;
            prepared.map_err(|error| error.to_string())
        };
        self.process = Some(Process {
            stage: Stage::Starting(Box::pin(starting)),
            alarm: Alarm::raised(&self.bell),
            writer: u32::try_from(random.within(&(1..1 << 32))).unwrap(),
            stalls: [None; TURNS],
        });
    }

    /// Opens the data directory, and makes the driver.
    fn open(
        &self,
        facts: &TopicFacts,
        plan: &Plan,
        affinity: &CpuAffinityManager,
        jitter: Duration,
        writer: u32,
    ) -> Result<Running, String> {
        let exchange = Exchange::default();
        let unhook = Unhook(exchange.clone());
        let opened = TallyEngine::replica_without_threads(
            &engine_config(plan, &self.clock),
            self.disk.handle(),
            Path::new(DATA),
            Arc::new(self.clock.clone()),
            affinity,
            &exchange,
        );
        let (engine, cores, origin) = opened.map_err(|error| error.to_string())?;
        let view = ReplicaView {
            own_address: address(self.index),
            ..ReplicaView::default()
        };
        let (replica, side) = Replica::new(view);
        engine.set_replica(replica.clone());
        let resume = check_resume(origin.resume, facts).map_err(|error| error.to_string())?;
        let identity = ReplicaIdentity {
            data_id: origin.data_id,
            topic_id: resume.topic_id,
        };
        let (stop, peers) = (CancellationToken::new(), Peers::new(identity));
        let others = (0..REPLICAS).filter(|other| *other != self.index);
        let others: Vec<String> = others.map(address).collect();
        let driver = Driver::new(DriverParts {
            config: DriverConfig {
                own_address: address(self.index),
                peers: others.clone(),
                version: "simulation".to_owned(),
                heartbeat: plan.heartbeat,
                timing: plan.timing,
                jitter,
                writer,
                requests_max: plan.requests_max,
            },
            log: Link::new(&self.log, self.index),
            engine: engine.clone(),
            exchange,
            replica: side,
            peers: peers.clone(),
            data_id: origin.data_id,
            geometry: origin.geometry,
            resume,
            has_ended: origin.has_ended,
            stop: stop.clone(),
        });
        let driver = driver.map_err(|error| error.to_string())?;
        let asks = Arc::new(self.net.clone());
        Ok(Running {
            service: Service::new(engine, cores, false),
            watching: Box::pin(watch_peers(others, peers, replica.clone(), asks)),
            watch_alarm: Alarm::raised(&self.bell),
            replica,
            stop,
            driver: Box::pin(driver.run()),
            _unhook: unhook,
        })
    }

    /// The process, if it runs and has started.
    pub(crate) fn running(&mut self) -> Option<&mut Running> {
        match &mut self.process.as_mut()?.stage {
            Stage::Running(running) => Some(running),
            Stage::Starting(_) => None,
        }
    }

    /// What the replica says about itself.
    pub(crate) fn view(&self) -> Option<ReplicaView> {
        match &self.process.as_ref()?.stage {
            Stage::Running(running) => Some(running.replica.view()),
            Stage::Starting(_) => None,
        }
    }

    /// What a person needs to know who looks for the reason of a failure.
    pub(crate) fn brief(&mut self) -> String {
        let Some(view) = self.view() else {
            return format!("no process, stopped: {:?}", self.halted);
        };
        let steps = self.running().map(|running| {
            let exec = running.service.step_exec();
            (exec, running.service.step_wal())
        });
        let ReplicaView {
            role,
            term,
            leader,
            accepted_block,
            next_offset,
            end_offset,
            ..
        } = view;
        format!(
            "{role:?}, term {term}, leader {leader:?}, block {accepted_block}, offset {next_offset} of {end_offset:?}, {steps:?}"
        )
    }

    /// What the replica does, and its term.
    pub(crate) fn role(&self) -> Option<(ReplicaRole, u64)> {
        match &self.process.as_ref()?.stage {
            Stage::Running(running) => Some(running.replica.read(|view| (view.role, view.term))),
            Stage::Starting(_) => None,
        }
    }

    pub(crate) fn leads(&self) -> bool {
        self.role().is_some_and(|(role, _)| role == ReplicaRole::Leader)
    }

    /// Whether the replica says that it has everything that is in the log.
    pub(crate) fn has_caught_up(&self) -> bool {
        let works = |role| matches!(role, ReplicaRole::Standby | ReplicaRole::Leader);
        self.view().is_some_and(|view| view.caught_up && works(view.role))
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused_until.is_some()
    }

    /// Adds the work that the process has now.
    pub(crate) fn add_turns(&self, now: Instant, turns: &mut Vec<(usize, NodeTurn)>) {
        let Some(process) = self.process.as_ref().filter(|_| !self.is_paused()) else {
            return;
        };
        for (turn, stall) in ALL_TURNS.into_iter().zip(&process.stalls) {
            if stall.is_none_or(|until| until <= now) && process.has_work(turn, now) {
                turns.push((self.index, turn));
            }
        }
    }

    /// When the process has work although nothing happens.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        let Some(process) = &self.process else {
            return self.halted.is_none().then_some(self.starts_at);
        };
        if let Some(until) = self.paused_until {
            return Some(until);
        }
        let mut due = process
            .stalls
            .iter()
            .flatten()
            .copied()
            .filter(|until| *until > now)
            .min();
        let mut add = |time: Option<Instant>| {
            if let Some(time) = time {
                due = Some(due.map_or(time, |due| due.min(time)));
            }
        };
        if let Stage::Running(running) = &process.stage {
            add(Some(running.service.maintenance_due));
            add(Some(running.service.tick_due));
            add(running.service.exec_due);
        }
        due
    }

    /// Does one piece of work.
    pub(crate) fn take(
        &mut self,
        turn: NodeTurn,
        plan: &Plan,
        affinity: &CpuAffinityManager,
        random: &mut Random,
    ) -> Happened {
        let Some(process) = &mut self.process else {
            return Happened::Nothing;
        };
        if random.percent(plan.stalls) && turn != NodeTurn::Tick {
            process.stalls[turn as usize] = Some(Instant::now() + random.up_to(STALL_MAX));
        }
        let running = match &mut process.stage {
            Stage::Running(running) => running,
            Stage::Starting(starting) => {
                let waker = process.alarm.lower();
                let started = starting.as_mut().poll(&mut Context::from_waker(&waker));
                return match started {
                    Poll::Pending => Happened::Nothing,
                    Poll::Ready(Err(error)) => Happened::StartFailed(error),
                    Poll::Ready(Ok(facts)) => self.started(&facts, plan, affinity, random),
                };
            }
        };
        match turn {
            NodeTurn::Exec => {
                running.service.step_exec();
            }
            NodeTurn::Wal => {
                running.service.step_wal();
            }
            NodeTurn::Maintenance => {
                running.service.step_maintenance();
                running.service.maintenance_due += MAINTENANCE_REST;
            }
            NodeTurn::Tick => running.service.tick(),
            NodeTurn::Watch => {
                let waker = running.watch_alarm.lower();
                let polled = running.watching.as_mut().poll(&mut Context::from_waker(&waker));
                assert!(polled.is_pending(), "the others are asked for ever");
            }
            NodeTurn::Main => {
                let waker = process.alarm.lower();
                let polled = running.driver.as_mut().poll(&mut Context::from_waker(&waker));
                running.service.wake();
                if let Poll::Ready(end) = polled {
                    return Happened::Ended(end);
                }
            }
        }
        Happened::Nothing
    }

    fn started(
        &mut self,
        facts: &TopicFacts,
        plan: &Plan,
        affinity: &CpuAffinityManager,
        random: &mut Random,
    ) -> Happened {
        let jitter = random
            .up_to(plan.timing.claim_jitter_max)
            .min(plan.timing.claim_jitter_max);
        let writer = self.process.as_ref().map_or(1, |process| process.writer);
        match self.open(facts, plan, affinity, jitter, writer) {
            Err(error) => Happened::StartFailed(error),
            Ok(running) => {
                self.net.set(self.index, Some(running.replica.clone()));
                if let Some(process) = &mut self.process {
                    process.stage = Stage::Running(Box::new(running));
                    process.alarm = Alarm::raised(&self.bell);
                }
                Happened::Started
            }
        }
    }

    /// Ends the process without any last step. If the power fails, unsynced data may be lost.
    pub(crate) fn die(&mut self, power_fails: bool) {
        if power_fails {
            // The disk loses power before the process ends, so that nothing the process does then reaches it.
            self.disk.crash();
            self.process = None;
        } else {
            self.process = None;
            self.disk.restart();
        }
        self.ended();
    }

    /// Nothing of the process is left.
    fn ended(&mut self) {
        self.log.disconnect(self.index);
        self.net.set(self.index, None);
        self.pause(None);
        self.disk_faulty = false;
    }

    /// Lets the process stand still until this time, or go on.
    pub(crate) fn pause(&mut self, until: Option<Instant>) {
        self.paused_until = until;
        self.net.set_paused(self.index, until.is_some());
    }

    /// Stops a process that does not lead in good order. Returns whether the stop was clean.
    pub(crate) fn stop(&mut self) -> bool {
        let Some(process) = self.process.take() else {
            return false;
        };
        let mut clean = false;
        if let Stage::Running(mut running) = process.stage {
            running.stop.cancel();
            let waker = process.alarm.lower();
            let ended = running.driver.as_mut().poll(&mut Context::from_waker(&waker));
            clean = matches!(ended, Poll::Ready(End::Stopped));
            running.service.engine.drain();
            clean &= (0..1000).any(|_| {
                let exec = running.service.step_exec();
                let wal = running.service.step_wal();
                exec == ExecStep::Ended && wal != PipelineStep::Worked
            });
            if clean {
                let Service { engine, cores, .. } = running.service;
                cores.end();
                drop(engine);
            }
        }
        self.process = None;
        self.disk.restart();
        self.ended();
        clean
    }

    /// The driver has ended, but the process stays.
    pub(crate) fn driver_has_ended(&mut self) {
        if let Some(running) = self.running() {
            running.driver = Box::pin(std::future::pending());
        }
    }
}

// ===== impl Running =====

impl Running {
    /// Asks the replica to give up leadership. Nobody waits for the answer.
    pub(crate) fn ask_to_resign(&self, successor: Option<String>) {
        ask(self.replica.resign(successor));
    }

    /// Asks the replica to end the log. Nobody waits for the answer.
    pub(crate) fn ask_to_end_log(&self) {
        ask(self.replica.end_log(DIRECTORY));
    }
}

/// Sends a command whose answer nobody needs.
fn ask(command: impl Future) {
    let mut asked = std::pin::pin!(command);
    let polled = asked.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending(), "the driver has not seen the command yet");
}

// ===== impl Process =====

impl Process {
    fn has_work(&self, turn: NodeTurn, now: Instant) -> bool {
        let running = match &self.stage {
            Stage::Running(running) => running,
            Stage::Starting(_) => return turn == NodeTurn::Main && self.alarm.is_raised(),
        };
        match turn {
            NodeTurn::Exec => running.service.exec_is_due(now),
            NodeTurn::Wal => running.service.wal_ready,
            NodeTurn::Maintenance => running.service.maintenance_is_due(now),
            NodeTurn::Tick => running.service.tick_due <= now,
            NodeTurn::Watch => running.watch_alarm.is_raised(),
            NodeTurn::Main => self.alarm.is_raised(),
        }
    }
}
