//! The scheduler of a run with replicas: lets the replicas, the log and the clients take turns in one thread, and meet the faults of the plan.

use std::{fmt, sync::Arc, task::Poll, time::Duration};

use tally::{
    engine::{CreatedAccounts, EngineError},
    replica::{End, publish},
    store::replicated::ReplicaRole,
};
use tally_topology::CpuAffinityManager;
use tokio::time::Instant;

use super::{
    alarm::Bell,
    client::{ACCOUNTS, Answer, Client, Flight, What, account_id, transaction},
    history::History,
    node::{Happened, Node, NodeTurn},
    peers::PeerNet,
    plan::{Plan, REPLICAS, address},
    sim_link::Link,
    sim_log::SimLog,
};
use crate::{
    random::Random,
    trace::Trace,
    world::{DATA, Failure},
};

/// Everything of one run.
pub(crate) struct Cluster {
    pub(super) plan: Plan,
    pub(super) random: Random,
    pub(super) affinity: CpuAffinityManager,
    pub(super) log: SimLog,
    pub(super) nodes: Vec<Node>,
    pub(super) clients: Vec<Client>,
    pub(super) history: History,
    pub(crate) trace: Trace,
    pub(super) bell: Arc<Bell>,
    pub(super) begun: Instant,
    pub(super) faults: Faults,
    pub(super) net: PeerNet,
    pub(super) has_accounts: bool,
    /// Whether the clients begin nothing new.
    pub(super) quiet: bool,
    /// Whether somebody ends the log.
    pub(super) ends_log: bool,
    next_transaction: u64,
    /// Pieces of work so far.
    pub(crate) turns: u64,
}

/// The faults of the run.
#[derive(Debug)]
pub(super) struct Faults {
    pub(super) next: Instant,
    /// Ends of cuts: the replica, and when it is connected again.
    pub(super) cuts: Vec<(usize, Instant)>,
    /// Deaths that are due after some more pieces of work.
    pub(super) deaths: Vec<Death>,
    /// Whether faults have ended.
    pub(super) healed: bool,
    /// Whether the log has lost records that replicas could have seen.
    pub(super) lost: bool,
    pub(super) count: u64,
}

/// A death that comes after some more pieces of work of the replica.
#[derive(Debug, Clone, Copy)]
pub(super) struct Death {
    pub(super) node: usize,
    pub(super) turns: u64,
    pub(super) power_fails: bool,
}

/// Who has work.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Node(usize, NodeTurn),
    /// A client looks for its answer.
    Poll(usize),
    /// A client makes a call.
    Call(usize),
    /// A client waits no longer.
    GiveUp(usize),
}

/// The longest additional pause of a client after an error.
const ERROR_PAUSE_MAX: Duration = Duration::from_millis(200);
/// How long a client waits for an answer.
const PATIENCE_MAX: Duration = Duration::from_secs(4);
/// Longer than any run.
pub(super) const FOR_EVER: Duration = Duration::from_secs(1 << 20);
/// The longest time in which nothing needs to happen.
const REST_MAX: Duration = Duration::from_secs(1);

// ===== impl Cluster =====

impl Cluster {
    pub(crate) fn new(seed: u64, affinity: &CpuAffinityManager, verbose: bool) -> Self {
        let mut random = Random::new(seed ^ 0x7265_706c_6963_6173);
        let plan = Plan::from_seed(&mut random);
        let log = SimLog::new(random.fork(), REPLICAS);
        let net = PeerNet::new(random.fork(), plan.peer_losses);
        let bell = Arc::new(Bell::default());
        let nodes = (0..REPLICAS)
            .map(|index| Node::new(index, (&log, &net), &bell, &mut random))
            .collect();
        let now = Instant::now();
        let clients = (0..plan.clients).map(|_| Client {
            flight: None,
            rests_until: now,
            unsettled: None,
        });
        Cluster {
            clients: clients.collect(),
            affinity: affinity.clone(),
            log,
            nodes,
            history: History::default(),
            trace: Trace::new(verbose),
            bell,
            begun: now,
            faults: Faults {
                next: now,
                cuts: Vec::new(),
                deaths: Vec::new(),
                healed: false,
                lost: false,
                count: 0,
            },
            net,
            has_accounts: false,
            quiet: false,
            ends_log: false,
            next_transaction: 0,
            turns: 0,
            plan,
            random,
        }
    }

    pub(super) fn note(&mut self, event: fmt::Arguments<'_>) {
        self.trace.note(self.begun.elapsed(), event);
    }

    /// Publishes an empty ledger from the directory of the first replica, and starts all.
    pub(super) async fn found(&mut self) -> Result<(), Failure> {
        let mut link = Link::new(&self.log, 0);
        let disk = self.nodes[0].disk.handle();
        let sizes = self.plan.sizes.clone();
        let path = std::path::Path::new(DATA);
        let published = publish(&mut link, disk, path, &sizes, false, &mut |_, _| ()).await;
        published.map_err(|error| Failure(format!("the ledger can't be published: {error}")))?;
        self.nodes[0].disk.restart();
        self.log.begin(self.plan.log.clone());
        self.note(format_args!("{:?}", self.plan.clone()));
        for node in &mut self.nodes {
            node.starts_at = Instant::now() + self.random.up_to(Duration::from_secs(1));
        }
        Ok(())
    }

    /// Lets everything happen until `is_done`, or until this time. Returns whether it was done.
    pub(super) async fn go_on(
        &mut self,
        until: Instant,
        mut is_done: impl FnMut(&mut Self) -> bool,
    ) -> Result<bool, Failure> {
        let mut turns = Vec::new();
        loop {
            let now = Instant::now();
            if is_done(self) {
                return Ok(true);
            }
            if now >= until {
                return Ok(false);
            }
            self.log.process();
            self.disturb(now);
            self.begin_processes(now);
            self.collect(now, &mut turns);
            if turns.is_empty() {
                let next = self.next_event(now).min(until);
                self.bell
                    .clone()
                    .rest(next.max(now + Duration::from_millis(1)))
                    .await;
            } else {
                let turn = turns[self.random.below(turns.len())];
                turns.clear();
                self.turns += 1;
                self.take(turn)?;
            }
        }
    }

    fn begin_processes(&mut self, now: Instant) {
        for node in &mut self.nodes {
            if node.paused_until.is_some_and(|until| until <= now) {
                node.pause(None);
            }
            if node.process.is_none() && node.halted.is_none() && node.starts_at <= now {
                node.start(&mut self.random);
            }
        }
    }

    /// Finds everybody who has work.
    fn collect(&self, now: Instant, turns: &mut Vec<Turn>) {
        let mut of_nodes = Vec::new();
        for node in &self.nodes {
            node.add_turns(now, &mut of_nodes);
        }
        turns.extend(of_nodes.into_iter().map(|(node, turn)| Turn::Node(node, turn)));
        for (place, client) in self.clients.iter().enumerate() {
            match &client.flight {
                // A process that stands still sends no answer.
                Some(flight) if flight.is_woken() && !self.nodes[flight.node].is_paused() => {
                    turns.push(Turn::Poll(place))
                }
                Some(flight) if flight.gives_up_at <= now => turns.push(Turn::GiveUp(place)),
                None if client.rests_until <= now => turns.push(Turn::Call(place)),
                Some(_) | None => {}
            }
        }
    }

    fn next_event(&self, now: Instant) -> Instant {
        let next = if self.faults.healed {
            now + REST_MAX
        } else {
            self.faults.next
        };
        let nodes = self.nodes.iter().filter_map(|node| node.next_due(now));
        let clients = self.clients.iter().map(|client| match &client.flight {
            Some(flight) => flight.gives_up_at,
            None => client.rests_until,
        });
        let cuts = self.faults.cuts.iter().map(|(_, until)| *until);
        let all = nodes.chain(clients).chain(cuts).chain(self.log.next_due());
        all.fold(next, Instant::min)
    }

    fn take(&mut self, turn: Turn) -> Result<(), Failure> {
        match turn {
            Turn::Node(node, turn) => self.work(node, turn),
            Turn::Poll(client) => self.poll(client),
            Turn::Call(client) => {
                self.call(client);
                Ok(())
            }
            Turn::GiveUp(client) => {
                self.lose_call(client);
                Ok(())
            }
        }
    }

    fn work(&mut self, index: usize, turn: NodeTurn) -> Result<(), Failure> {
        let node = &mut self.nodes[index];
        let before = node.role();
        let happened = node.take(turn, &self.plan, &self.affinity, &mut self.random);
        let after = node.role();
        if before != after {
            self.note(format_args!("replica {index}: {after:?}"));
        }
        if self.nodes[index].disk.is_powered_off() {
            self.note(format_args!("replica {index}: the power is out"));
            self.kill(index, true);
            return Ok(());
        }
        match happened {
            Happened::Nothing => Ok(()),
            Happened::Started => {
                self.note(format_args!("replica {index} has started"));
                Ok(())
            }
            Happened::StartFailed(error) if self.nodes[index].disk_faulty => {
                self.note(format_args!("replica {index} does not start: {error}"));
                let power_fails = self.random.percent(50);
                self.kill(index, power_fails);
                Ok(())
            }
            Happened::StartFailed(error) => self.stops_for_good(index, error, "can't start"),
            Happened::Ended(end) => self.ended(index, end),
        }
    }

    fn ended(&mut self, index: usize, end: End) -> Result<(), Failure> {
        self.note(format_args!("replica {index} ends: {end:?}"));
        match end {
            End::Halted(reason) => self.stops_for_good(index, reason, "halts"),
            End::Failed(_) | End::Engine(_)
                if !self.nodes[index].disk_faulty && !self.has_stepped_down(index) =>
            {
                Err(Failure(format!(
                    "replica {index} fails, but nothing is wrong: {end:?}"
                )))
            }
            End::LogEnded { .. } if self.ends_log => {
                // The process stays until somebody stops it, and its engine works on.
                self.nodes[index].driver_has_ended();
                self.faults.deaths.push(Death {
                    node: index,
                    turns: self.random.within(&(1..2000)),
                    power_fails: self.random.percent(50),
                });
                Ok(())
            }
            End::LogEnded { .. } => Err(Failure(format!(
                "replica {index} ends, but nobody has ended the log"
            ))),
            End::SteppedDown { .. } | End::Failed(_) | End::Engine(_) | End::Stopped => {
                self.kill(index, false);
                Ok(())
            }
        }
    }

    fn has_stepped_down(&mut self, index: usize) -> bool {
        let running = self.nodes[index].running();
        running.is_some_and(|running| {
            running.service.engine.health().condition() == tally::engine::Condition::SteppedDown
        })
    }

    fn stops_for_good(&mut self, index: usize, reason: String, how: &str) -> Result<(), Failure> {
        if !self.faults.lost {
            return Err(Failure(format!(
                "replica {index} {how}, but the log has lost nothing: {reason}"
            )));
        }
        self.note(format_args!("replica {index} {how}: {reason}"));
        self.kill(index, false);
        self.nodes[index].halted = Some(reason);
        Ok(())
    }

    /// The process of a replica ends, and another one starts soon.
    pub(super) fn kill(&mut self, index: usize, power_fails: bool) {
        self.note(format_args!(
            "replica {index} {}",
            if power_fails {
                "loses its power"
            } else {
                "is killed"
            }
        ));
        self.forget_calls(index);
        self.nodes[index].die(power_fails);
        self.restart_later(index);
    }

    pub(super) fn restart_later(&mut self, index: usize) {
        let longest = if self.faults.healed { 100 } else { 3000 };
        self.nodes[index].starts_at = Instant::now() + self.random.up_to(Duration::from_millis(longest));
        self.faults.deaths.retain(|death| death.node != index);
    }

    /// The callers of a process that ends get no answers.
    pub(super) fn forget_calls(&mut self, index: usize) {
        for client in 0..self.clients.len() {
            let calls = |flight: &Flight| flight.node == index;
            if self.clients[client].flight.as_ref().is_some_and(calls) {
                self.lose_call(client);
            }
        }
    }

    // ----- clients -----

    /// The replica that a client calls: mostly one that says that it leads.
    fn choose_node(&mut self) -> Option<usize> {
        let leaders: Vec<usize> = (0..REPLICAS).filter(|index| self.nodes[*index].leads()).collect();
        let index = if leaders.is_empty() || self.random.percent(10) {
            self.random.below(REPLICAS)
        } else {
            leaders[self.random.below(leaders.len())]
        };
        self.nodes[index].view().map(|_| index)
    }

    fn call(&mut self, place: usize) {
        let now = Instant::now();
        let pause = self.random.evenly_to(self.plan.client_pause);
        self.clients[place].rests_until = now + pause.max(Duration::from_millis(1));
        if self.quiet && self.clients[place].unsettled.is_none() {
            self.clients[place].rests_until = now + FOR_EVER;
            return;
        }
        let Some(index) = self.choose_node() else {
            return;
        };
        // A process that stands still takes no calls, or only into the buffer of a connection.
        if self.nodes[index].is_paused() && self.random.percent(70) {
            return;
        }
        let what = self.choose_call(place, index);
        if let What::Transaction(transaction) = &what {
            self.history.sends(transaction);
            self.clients[place].unsettled = Some(transaction.clone());
        }
        let gives_up_at = now + PATIENCE_MAX / 4 + self.random.up_to(PATIENCE_MAX);
        let bell = self.bell.clone();
        let Some(running) = self.nodes[index].running() else {
            return;
        };
        let flight = Flight::begin(&running.service.engine, index, what, gives_up_at, &bell);
        running.service.wake();
        self.note(format_args!(
            "client {place} calls replica {index}: {:?}",
            flight.what
        ));
        self.clients[place].flight = Some(flight);
    }

    fn choose_call(&mut self, place: usize, index: usize) -> What {
        if !self.has_accounts {
            return What::Accounts;
        }
        let is_of_leader = self.nodes[index].leads();
        if let Some(transaction) = &self.clients[place].unsettled {
            return What::Transaction(transaction.clone());
        }
        let choice = self.random.below(100);
        if choice < 35 {
            return What::Read {
                account: account_id(self.random.within(&(0..ACCOUNTS))),
                floor: self.history.read_begins(is_of_leader),
            };
        }
        if choice < 45 {
            let nth = self.random.below(1 << 20);
            if let Some(transaction) = self.history.some_answered(nth) {
                return if choice < 40 {
                    What::Transaction(transaction)
                } else {
                    What::Record {
                        id: transaction.id,
                        is_of_leader,
                    }
                };
            }
        }
        self.next_transaction += 1;
        What::Transaction(transaction(self.next_transaction, &mut self.random))
    }

    /// A client looks for its answer.
    fn poll(&mut self, place: usize) -> Result<(), Failure> {
        let Some(flight) = &mut self.clients[place].flight else {
            return Ok(());
        };
        let polled = flight.poll();
        let (index, what) = (flight.node, flight.what.clone());
        if let Some(running) = self.nodes[index].running() {
            running.service.wake();
        }
        if let Poll::Ready(answer) = polled {
            self.clients[place].flight = None;
            self.answered(place, index, what, answer)?;
        }
        Ok(())
    }

    fn answered(&mut self, place: usize, index: usize, what: What, answer: Answer) -> Result<(), Failure> {
        match (what, answer) {
            (What::Accounts, Answer::Accounts(created)) => {
                self.note(format_args!("client {place}: accounts {}", created.is_ok()));
                match created {
                    Ok(CreatedAccounts::All(_)) => self.has_accounts = true,
                    Ok(created) => {
                        return Err(Failure(format!("the accounts were not created: {created:?}")));
                    }
                    Err(_) => self.rest(place),
                }
                Ok(())
            }
            (What::Transaction(transaction), Answer::Transaction(result)) => {
                self.processed(place, index, &transaction.id, result)
            }
            (What::Read { account, floor }, Answer::Read(result)) => {
                match result {
                    Ok(Some(snapshot)) => {
                        let balances = snapshot.balances;
                        self.note(format_args!("client {place}: {account} {balances:?}"));
                        self.history.read_ends(&account, floor, &snapshot);
                    }
                    Ok(None) if floor.is_of_leader => {
                        return Err(Failure(format!(
                            "replica {index} does not know {account}, which was created"
                        )));
                    }
                    Ok(None) => {}
                    Err(error) => self.note(format_args!("client {place}: {error}")),
                }
                Ok(())
            }
            (What::Record { id, is_of_leader }, Answer::Record(found)) => {
                self.note(format_args!("client {place}: {id} {found:?}"));
                if is_of_leader && found == Ok(false) {
                    return Err(Failure(format!(
                        "replica {index} does not know {id}, which was answered before"
                    )));
                }
                Ok(())
            }
            (what, _) => Err(Failure(format!("{what:?} gets an answer of another kind"))),
        }
    }

    fn processed(
        &mut self,
        place: usize,
        index: usize,
        id: &str,
        result: Result<tally::engine::Processed, EngineError>,
    ) -> Result<(), Failure> {
        let writer = self.nodes[index]
            .process
            .as_ref()
            .map_or(0, |process| process.writer);
        match result {
            Ok(processed) => {
                let outcome = &processed.outcomes[0];
                self.note(format_args!("client {place}: {id} {outcome:?}"));
                self.clients[place].unsettled = None;
                self.history.answered(id, outcome, writer)
            }
            Err(error) => {
                self.rest(place);
                let certain = self.history.failed(id, &error);
                self.note(format_args!("client {place}: {id} {error}, certain: {certain}"));
                // A client that knows nothing repeats the call. One that knows that nothing was executed may leave it.
                if self.random.percent(if certain { 20 } else { 5 }) {
                    self.clients[place].unsettled = None;
                }
                Ok(())
            }
        }
    }

    /// A client waits a while before it calls again.
    fn rest(&mut self, place: usize) {
        let until = Instant::now() + self.random.evenly_to(ERROR_PAUSE_MAX);
        let rests_until = &mut self.clients[place].rests_until;
        *rests_until = until.max(*rests_until);
    }

    /// A client gets no answer.
    fn lose_call(&mut self, place: usize) {
        if let Some(Flight {
            what: What::Transaction(transaction),
            ..
        }) = self.clients[place].flight.take()
        {
            self.history.unknown(&transaction.id);
            if self.random.percent(5) {
                self.clients[place].unsettled = None;
            }
        }
    }

    /// Whether a replica leads that all others follow, and the clients know everything.
    pub(super) fn is_settled(&self) -> bool {
        let leading = self.nodes.iter().filter(|node| node.leads());
        let leaders: Vec<String> = leading.map(|node| address(node.index)).collect();
        let views: Vec<_> = self.nodes.iter().filter_map(Node::view).collect();
        let follow = views.iter().all(|view| {
            let has_role = matches!(view.role, ReplicaRole::Leader | ReplicaRole::Standby);
            let knows = view.term == views[0].term && view.leader.as_ref() == leaders.first();
            has_role && view.caught_up && knows
        });
        leaders.len() == 1 && views.len() == REPLICAS && follow
    }
}
