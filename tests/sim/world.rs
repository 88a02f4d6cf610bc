//! The scheduler: one thread that lets EXEC, WAL, AUX, the clients and time take turns, as the seed decides.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tally::engine::{CallKind, EngineConfig, ExecStep, HoldsMax};
use tally_breaker::CircuitState;
use tally_ledger::Outcome;
use tally_topology::CpuAffinityManager;
use tokio::time::Instant;

use crate::{
    brief::{brief, brief_call},
    calls::{Answer, Call, CallId, Reply, Request},
    clients::{Client, Flight, Habit, kind_of},
    clock::SimClock,
    config::Config,
    death::Deaths,
    oracle::{Oracle, Violation},
    random::Random,
    service::Service,
    sim_disk::SimDisk,
    slow_log::LogPace,
    trace::Trace,
    workload::Workload,
};

/// Everything of one simulation.
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) random: Random,
    pub(crate) clock: SimClock,
    pub(crate) disk: SimDisk,
    /// Where crashes put stale bytes since the last start: files, each with a range of bytes.
    pub(crate) stale: Vec<(PathBuf, Range<usize>)>,
    pub(crate) pace: LogPace,
    pub(crate) affinity: CpuAffinityManager,
    pub(crate) service: Option<Service>,
    pub(crate) oracle: Oracle,
    pub(crate) workload: Workload,
    pub(crate) trace: Trace,
    pub(crate) deaths: Deaths,
    pub(crate) clients: Vec<Client>,
    pub(crate) flights: Vec<Flight>,
    pub(crate) calls: CallId,
    /// Calls that the clients still make.
    pub(crate) calls_left: u64,
    /// Whether the clients pause longer than the configuration says.
    pub(crate) patient: bool,
    /// The last call whose answer says that it has created accounts or committed a transaction.
    pub(crate) last_write: Option<CallId>,
    streams: u64,
    /// When the process froze, and for how long, since the block in flight was submitted.
    freezes: Vec<(Instant, Duration)>,
    /// Whether no more faults happen, so that everything must come to an end.
    pub(crate) healed: bool,
    /// When the last fault ended.
    pub(crate) healed_at: Option<Instant>,
    /// Whether the simulation ends early, because a start failed as it should.
    pub(crate) ended: bool,
    /// Operations of the scheduler so far.
    pub(crate) turns: u64,
}

/// Why a simulation is a failure.
#[derive(Debug, Clone)]
pub(crate) struct Failure(pub(crate) String);

/// A choice of the scheduler.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Exec,
    Wal,
    Maintenance,
    Tick,
    WakeTask,
    Poll,
    Call,
    Leave,
}

/// Where the service keeps its data.
pub(crate) const DATA: &str = "/data";
/// A stall of at least this length opens the circuit of a call that waits for it.
const HANG: Duration = Duration::from_secs(10);
/// The longest time for which the process freezes.
const FREEZE_MAX: Duration = Duration::from_secs(3);
/// The pauses of the clients while circuits close. A circuit may stay open for some seconds.
pub(crate) const PATIENT_PAUSE: Duration = Duration::from_millis(500);

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Failure(violation.to_string())
    }
}

/// Maximum number of bytes for which a disk that becomes full still has space.
const FULL_BYTES_MAX: u64 = 300 << 10;

/// Whether the answer says that its call has created accounts or committed a transaction.
fn has_written(reply: &Reply) -> bool {
    match reply {
        Ok(Answer::Outcomes(outcomes, _)) => outcomes
            .iter()
            .any(|outcome| matches!(outcome, Outcome::Committed { .. })),
        Ok(Answer::Created(accounts)) => !accounts.is_empty(),
        Ok(_) | Err(_) => false,
    }
}

// ===== impl World =====

impl World {
    pub(crate) fn new(config: &Config, affinity: &CpuAffinityManager, verbose: bool) -> Self {
        let mut random = Random::new(config.seed);
        let disk = SimDisk::new(random.next());
        let mut oracle = Oracle::new();
        if config.disk_faults > 0 {
            oracle.faults_planted();
        }
        if config.queue > 0 {
            oracle.queue_is_small();
        }
        if config.holds_max > 0 {
            oracle.holds_max_is(usize::try_from(config.holds_max).unwrap());
        }
        World {
            clock: SimClock::new(),
            disk,
            stale: Vec::new(),
            pace: LogPace::new(config, random.fork()),
            affinity: affinity.clone(),
            service: None,
            oracle,
            workload: Workload::default(),
            trace: Trace::new(verbose),
            deaths: Deaths::plan(config, &mut random.fork()),
            clients: Client::all(config),
            flights: Vec::new(),
            calls: 0,
            calls_left: config.calls,
            patient: false,
            last_write: None,
            streams: 0,
            freezes: Vec::new(),
            healed: false,
            healed_at: None,
            ended: false,
            turns: 0,
            random,
            config: config.clone(),
        }
    }

    /// Runs the simulation from the first start to the last examination.
    pub(crate) async fn run(&mut self) -> Result<(), Failure> {
        match self.run_to_the_end().await {
            Err(_) if self.ended => Ok(()),
            result => result,
        }
    }

    async fn run_to_the_end(&mut self) -> Result<(), Failure> {
        self.start()?;
        while self.calls_left > 0 {
            self.turn().await?;
            self.die_if_due()?;
        }
        self.heal()?;
        self.finish_calls().await?;
        self.circuits_close().await?;
        self.finish_calls().await?;
        self.writes_succeed().await?;
        self.holds_expire().await?;
        self.examine()?;
        self.stop()?;
        self.start()?;
        Ok(())
    }

    pub(crate) fn note(&mut self, event: fmt::Arguments<'_>) {
        self.trace.note(self.clock.elapsed(), event);
    }

    /// Makes one step of a part that has work. If no part has work, moves the time forward.
    pub(crate) async fn turn(&mut self) -> Result<(), Failure> {
        self.turns += 1;
        if self.random.one_in(self.config.clock_jumps_one_in) && !self.healed {
            self.step_clock()?;
        }
        if self.random.one_in(self.config.full_one_in) && !self.healed {
            let bytes = if self.random.percent(50) {
                self.random.within(&(0..FULL_BYTES_MAX))
            } else {
                u64::MAX / 2
            };
            self.note(format_args!("the disk has space for {bytes} more bytes"));
            self.disk.set_free_bytes(bytes);
            self.tell_time();
            if bytes < FULL_BYTES_MAX {
                self.oracle.disk_fills();
            } else {
                self.oracle.disk_has_space();
            }
        }
        if self.random.one_in(self.config.freeze_one_in) && !self.healed {
            let time = self.random.up_to(FREEZE_MAX);
            self.note(format_args!("the process freezes for {time:?}"));
            self.freezes.push((Instant::now(), time));
            self.pass_time(Some(time)).await;
        }
        self.wake_log()?;
        match self.choose() {
            Some(turn) => self.take(turn)?,
            None => self.pass_time(None).await,
        }
        if self.random.percent(5) {
            let time = self.random.up_to(Duration::from_millis(2));
            self.pass_time(Some(time)).await;
        }
        Ok(())
    }

    /// Wakes the pipeline when the block in flight is due. Before that, checks that the circuits have opened if the block hung.
    fn wake_log(&mut self) -> Result<(), Failure> {
        match self.pace.hangs_since() {
            None => self.freezes.clear(),
            Some(since) if self.awake_since(since) >= HANG => self.circuits_saw_the_hang(since)?,
            Some(_) => {}
        }
        if self.pace.wake_if_due() {
            self.service.as_mut().unwrap().wal_ready = true;
        }
        Ok(())
    }

    /// The time since `since` in which the process was not frozen. The circuits do not count the time in which the process
    /// could not run, because the disk did not cause it. Freezes are remembered only while a block is in flight.
    fn awake_since(&self, since: Instant) -> Duration {
        let frozen = self.freezes.iter().filter(|(at, _)| *at >= since);
        let frozen: Duration = frozen.map(|(_, time)| *time).sum();
        Instant::now().duration_since(since).saturating_sub(frozen)
    }

    /// Checks that calls which wait for a hanging disk have opened their circuit. The disk has been hanging since `since`.
    fn circuits_saw_the_hang(&self, since: Instant) -> Result<(), Failure> {
        let engine = &self.service.as_ref().unwrap().engine;
        for kind in CallKind::ALL {
            let waited = self.flights.iter().filter(|flight| {
                // Freezes before the hang are not remembered.
                flight.kind == Some(kind) && self.awake_since(flight.begun.max(since)) >= HANG
            });
            let circuit = engine.breaker(kind);
            if waited.count() >= 1 && circuit.state() == CircuitState::Closed {
                let time = self.awake_since(since);
                return Err(Failure(format!(
                    "the disk hung for {time:?} while calls waited, but the circuit {} is closed",
                    circuit.key()
                )));
            }
        }
        Ok(())
    }

    /// Chooses the part that makes the next step, among those that have work.
    fn choose(&mut self) -> Option<Turn> {
        let now = Instant::now();
        let service = self.service.as_ref().unwrap();
        let engine = [
            (service.exec_is_due(now), Turn::Exec),
            (service.wal_ready, Turn::Wal),
            (service.maintenance_is_due(now), Turn::Maintenance),
            (service.tick_due <= now, Turn::Tick),
        ];
        let outside = [
            (service.wake_task_is_woken(), Turn::WakeTask),
            (self.flights.iter().any(Flight::is_woken), Turn::Poll),
            (
                self.calls_left > 0
                    && self
                        .clients
                        .iter()
                        .any(|client| client.is_ready(&self.config, now)),
                Turn::Call,
            ),
            (
                self.flights
                    .iter()
                    .any(|flight| flight.leaves.is_some_and(|at| at <= now)),
                Turn::Leave,
            ),
        ];
        let engine_first = self.random.percent(self.config.engine_share);
        let mut pick = |group: &[(bool, Turn)]| {
            let ready = group.iter().filter(|(ready, _)| *ready);
            let count = ready.clone().count();
            (count > 0).then(|| {
                ready
                    .map(|(_, turn)| *turn)
                    .nth(self.random.below(count))
                    .unwrap()
            })
        };
        if engine_first {
            pick(&engine).or_else(|| pick(&outside))
        } else {
            pick(&outside).or_else(|| pick(&engine))
        }
    }

    fn take(&mut self, turn: Turn) -> Result<(), Failure> {
        let service = self.service.as_mut().unwrap();
        match turn {
            Turn::Exec => {
                let step = service.step_exec();
                let now = self.clock.wall();
                if let ExecStep::Blocked(_) = step {
                    self.oracle.exec_was_blocked(now);
                } else {
                    self.oracle.exec_resumed(now);
                }
            }
            Turn::Wal => {
                service.step_wal();
            }
            Turn::Maintenance => service.step_maintenance(),
            Turn::Tick => service.tick(),
            Turn::WakeTask => service.run_wake_task(),
            Turn::Poll => self.poll()?,
            Turn::Call => self.call(),
            Turn::Leave => self.leave()?,
        }
        Ok(())
    }

    /// Moves the time by `time`, or to the next event.
    pub(crate) async fn pass_time(&mut self, time: Option<Duration>) {
        let now = Instant::now();
        let service = self.service.as_mut().unwrap();
        service.wake();
        let next = match time {
            Some(time) => now + time,
            None => self.next_event(now),
        };
        tokio::time::advance(next - now).await;
    }

    fn next_event(&self, now: Instant) -> Instant {
        let service = self.service.as_ref().unwrap();
        let mut next = service.tick_due.min(service.maintenance_due);
        next = next
            .min(self.pace.due().unwrap_or(next))
            .min(service.exec_due.unwrap_or(next));
        for flight in &self.flights {
            // The granularity of tokio's timers is 1 ms.
            let deadline = flight.deadline.map(|at| at + Duration::from_millis(1));
            next = next
                .min(flight.leaves.unwrap_or(next))
                .min(deadline.unwrap_or(next));
        }
        if self.calls_left > 0 {
            for client in &self.clients {
                if client.in_flight == 0 {
                    next = next.min(client.rests_until);
                }
            }
        }
        next.max(now + Duration::from_micros(1))
    }

    /// Polls one of the woken clients for its answer.
    fn poll(&mut self) -> Result<(), Failure> {
        let woken: Vec<usize> = (0..self.flights.len())
            .filter(|place| self.flights[*place].is_woken())
            .collect();
        let place = woken[self.random.below(woken.len())];
        let poll = self.flights[place].poll();
        self.service.as_mut().unwrap().wake();
        if let Poll::Ready(reply) = poll {
            let flight = self.flights.swap_remove(place);
            self.rest(flight.client);
            self.answered(&flight, &reply)?;
            self.probes_are_settled(flight.kind)?;
        }
        Ok(())
    }

    fn answered(&mut self, flight: &Flight, reply: &Reply) -> Result<(), Failure> {
        self.note(format_args!("call {} is answered: {}", flight.id, brief(reply)));
        if reply.is_err() {
            self.clients[flight.client].end_stream();
        }
        if let Ok(answer) = reply {
            self.workload.learn(&flight.ids, answer);
        }
        if has_written(reply) {
            self.last_write = Some(flight.id);
        }
        self.tell_time();
        self.oracle.answered(flight.id, reply)?;
        Ok(())
    }

    /// Lets the client pause before its next call.
    fn rest(&mut self, client: usize) {
        let pause = if self.patient {
            PATIENT_PAUSE
        } else {
            self.random.up_to(Duration::from_micros(self.config.pause_us))
        };
        let client = &mut self.clients[client];
        client.in_flight -= 1;
        client.rests_until = Instant::now() + pause;
    }

    /// Lets one of the clients make a call.
    fn call(&mut self) {
        let now = Instant::now();
        let ready: Vec<usize> = (0..self.clients.len())
            .filter(|place| self.clients[*place].is_ready(&self.config, now))
            .collect();
        let place = ready[self.random.below(ready.len())];
        let client = &self.clients[place];
        let request = client.request(&mut self.workload, &self.config, &mut self.random);
        let deadline = Client::deadline(&self.config, &mut self.random, self.clock.elapsed());
        self.calls_left -= 1;
        self.begin_call(place, request, deadline);
        let flight = self.flights.last_mut().unwrap();
        flight.leaves = self
            .random
            .percent(self.config.impatient)
            .then(|| now + self.random.up_to(Duration::from_secs(1)));
    }

    /// Lets the client at `place` begin a call. Returns the number of the call.
    pub(crate) fn begin_call(
        &mut self,
        place: usize,
        request: Request,
        deadline: Option<Duration>,
    ) -> CallId {
        self.tell_time();
        let client = &mut self.clients[place];
        let service = self.service.as_mut().unwrap();
        let call = Call {
            kind: kind_of(client.habit, &request),
            request,
            message: client.message(&service.engine, &mut self.streams),
            deadline,
        };
        let id = self.calls;
        self.calls += 1;
        client.in_flight += 1;
        if client.habit == Habit::Stream {
            let pause = Duration::from_micros(self.config.pause_us);
            client.rests_until = Instant::now() + self.random.up_to(pause);
        }
        self.oracle.invoked(id, &call);
        let at = deadline.map(|elapsed| self.clock.at(elapsed));
        let future = client.call(&service.engine, &call, at);
        self.flights.push(Flight::new(id, place, &call, at, future));
        service.wake();
        self.note(format_args!("call {id} of client {place}: {}", brief_call(&call)));
        id
    }

    /// Reports to the oracle when the service has read the wall clock, and the current time.
    pub(crate) fn tell_time(&mut self) {
        for (elapsed, wall) in self.clock.take_readings() {
            self.oracle.wall_clock_read(elapsed, wall);
        }
        self.oracle.time_is(self.clock.elapsed());
    }

    /// Checks that a half-open circuit has no probe in flight while no call of its kind is in flight.
    fn probes_are_settled(&self, kind: Option<CallKind>) -> Result<(), Failure> {
        let Some(kind) = kind.filter(|_| self.config.self_probe == 0) else {
            return Ok(());
        };
        let circuit = self.service.as_ref().unwrap().engine.breaker(kind);
        if circuit.state() != CircuitState::HalfOpen
            || self.flights.iter().any(|flight| flight.kind == Some(kind))
        {
            return Ok(());
        }
        let probes = circuit.stats().half_open;
        if probes.issued == probes.ok + probes.bad {
            return Ok(());
        }
        Err(Failure(format!(
            "no call is in flight, but of {} probes of the circuit {} only {} have a result",
            probes.issued,
            circuit.key(),
            probes.ok + probes.bad
        )))
    }

    /// Lets a client leave without its answer.
    fn leave(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        let place = self
            .flights
            .iter()
            .position(|flight| flight.leaves.is_some_and(|at| at <= now))
            .unwrap();
        let flight = self.flights.swap_remove(place);
        self.note(format_args!("client {} leaves call {}", flight.client, flight.id));
        self.oracle.abandoned(flight.id);
        self.rest(flight.client);
        let (kind, client) = (flight.kind, flight.client);
        drop(flight);
        if self.random.percent(self.config.disconnects) {
            self.disconnect(client);
        }
        self.service.as_mut().unwrap().wake();
        self.probes_are_settled(kind)
    }

    /// Lets a client lose its connection, with all its calls.
    fn disconnect(&mut self, client: usize) {
        self.note(format_args!("client {client} loses its connection"));
        let (lost, kept) = std::mem::take(&mut self.flights)
            .into_iter()
            .partition(|flight| flight.client == client);
        self.flights = kept;
        let lost: Vec<Flight> = lost;
        for flight in &lost {
            self.oracle.abandoned(flight.id);
        }
        self.clients[client].disconnect();
    }

    /// Drops all calls in flight of the dead service; they get no answer.
    pub(crate) fn forget_calls(&mut self) {
        self.tell_time();
        self.flights.clear();
        for client in &mut self.clients {
            client.disconnect();
        }
        self.oracle.died();
    }

    /// The settings of the engine.
    pub(crate) fn engine_config(&self) -> EngineConfig {
        let mut config = EngineConfig::default();
        let block = u32::try_from(self.config.block_kib << 10).unwrap();
        config.store.block_bytes_max = block;
        config.store.segment_bytes = (block * u32::try_from(self.config.segment_blocks).unwrap())
            .next_multiple_of(tally_journal::SEGMENT_GRANULE_BYTES);
        config.checkpoint.0 = self.config.checkpoint_kib << 10;
        if self.config.queue > 0 {
            config.batch.queue_requests_max = usize::try_from(self.config.queue).unwrap().max(2);
        }
        if self.config.holds_max > 0 {
            config.holds_max = HoldsMax(usize::try_from(self.config.holds_max).unwrap());
        }
        config.circuits.clock = Some(Arc::new(self.clock.clone()));
        config.circuits.untimed = true;
        config.breaker.self_probe = self.config.self_probe > 0;
        config
    }

    pub(crate) fn directory() -> &'static Path {
        Path::new(DATA)
    }
}
