//! The state of the model, and which events can happen in it.

use std::{cell::RefCell, collections::HashMap};

use tally_replication::{
    Accepted, Appender, BlockFacts, BlockHash, BlockKind, Claim, LogReader, ReadId, Record, RequestId, Step,
    Verdict,
};

use super::reference;
use crate::support::{after, genesis};

/// The limits of an exploration: how many events of each kind may happen, and which parts of the model are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) nodes: u8,
    /// Claims of all nodes together.
    pub(crate) claims: u8,
    /// Blocks of all leaders together, without claims.
    pub(crate) blocks: u8,
    /// Requests that are refused or get no answer.
    pub(crate) failures: u8,
    /// Losses of records: each time, the last broker that holds a visible, unacknowledged record is lost.
    pub(crate) losses: u8,
    /// Crashes of nodes.
    pub(crate) restarts: u8,
    /// Whether a leader may end the log.
    pub(crate) has_end: bool,
    /// Whether a standby applies blocks to its memory later than it accepts them.
    pub(crate) applies_late: bool,
    /// Whether only the answers to clients are checked (the invariants I1 to I3 of `docs/replication.md`), and not what
    /// the nodes know.
    pub(crate) checks_answers_only: bool,
    /// Whether candidates compare themselves with all other nodes.
    pub(crate) has_peers: bool,
}

impl Bounds {
    pub(crate) const NONE: Self = Self {
        nodes: 2,
        claims: 0,
        blocks: 0,
        failures: 0,
        losses: 0,
        restarts: 0,
        has_end: false,
        applies_late: false,
        checks_answers_only: false,
        has_peers: false,
    };

    /// Whether a standby reads record by record, at any time. Otherwise it reads only when it claims: if no record is
    /// lost, the time of a read does not change what the standby finds.
    fn reads_stepwise(&self) -> bool {
        self.losses > 0 || self.applies_late
    }
}

/// Index of a block in [`Blocks`].
pub(crate) type Id = u16;

/// All blocks of an exploration. A block never changes, so states contain only indexes.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    facts: RefCell<Vec<BlockFacts>>,
    by_hash: RefCell<HashMap<BlockHash, Id>>,
}

impl Blocks {
    pub(crate) fn id(&self, block: &BlockFacts) -> Id {
        *self.by_hash.borrow_mut().entry(block.hash).or_insert_with(|| {
            let mut facts = self.facts.borrow_mut();
            facts.push(*block);
            Id::try_from(facts.len() - 1).expect("few blocks")
        })
    }

    pub(crate) fn get(&self, id: Id) -> BlockFacts {
        self.facts.borrow()[usize::from(id)]
    }

    /// The offsets and ids of the accepted blocks of a log.
    pub(crate) fn chain(&self, log: &[Entry]) -> (Vec<usize>, Vec<Id>) {
        let facts = self.facts.borrow();
        let blocks = log.iter().map(|entry| &facts[usize::from(entry.block)]);
        let offsets = reference::chain(blocks);
        let ids = offsets.iter().map(|at| log[*at].block).collect();
        (offsets, ids)
    }
}

/// A record of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) block: Id,
    pub(crate) epoch: u8,
}

/// The blocks of a request.
pub(crate) type Batch = Vec<Id>;

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Progress {
    Sent,
    Landed {
        base: u8,
    },
    /// The log has appended the request, but the records were lost.
    Lost,
    Refused,
}

/// A request on a connection that still exists.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Wire {
    pub(crate) node: u8,
    pub(crate) request: RequestId,
    pub(crate) batch: Batch,
    pub(crate) progress: Progress,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    Standby(LogReader),
    Candidate(LogReader, Claim),
    Leader {
        appender: Appender,
        reads: Vec<(ReadId, u64, Option<u64>)>,
        /// The number of the block for which a stale read waits. A read is stale if an answer at its arrival would have
        /// missed an acknowledged block. A stale read must never be answered.
        stale_read: Option<u64>,
        ended: bool,
    },
    Halted,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) mode: Mode,
    /// Grows with each restart. The writer number is computed from it.
    pub(crate) life: u8,
    /// The highest term that this node has claimed.
    pub(crate) term: u64,
    /// The blocks that the node has accepted or, as the leader, submitted.
    pub(crate) chain: Vec<Id>,
    /// The number of blocks that the memory of a standby contains.
    pub(crate) applied: u64,
    /// The blocks with numbers above `.0` up to `.1` are missing in the memory of the leader. Only a planted bug causes
    /// this.
    pub(crate) hole: (u64, u64),
}

/// The number of events that have happened, of each kind that [`Bounds`] limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Used {
    pub(crate) claims: u8,
    pub(crate) blocks: u8,
    pub(crate) failures: u8,
    pub(crate) losses: u8,
    pub(crate) restarts: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) log: Vec<Entry>,
    /// Records before this offset cannot be lost.
    pub(crate) safe: u8,
    pub(crate) epoch: u8,
    pub(crate) nodes: Vec<Node>,
    pub(crate) wires: Vec<Wire>,
    /// Requests whose sender no longer waits. The log may append them at any time, or never.
    pub(crate) zombies: Vec<Batch>,
    /// The acknowledged blocks, by number.
    pub(crate) acknowledged: Vec<Id>,
    pub(crate) used: Used,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A standby or candidate reads the next record.
    Read(u8),
    /// A standby or candidate applies everything that it has accepted.
    Apply(u8),
    /// A standby reads up to an offset, and claims.
    Claim(u8, u8),
    /// A leader submits a block.
    Submit(u8),
    /// A leader submits the end of the log.
    SubmitEnd(u8),
    /// The log appends a request.
    Land(u8),
    /// The sender receives the acknowledgement.
    Answer(u8),
    /// The broker refuses a request.
    Refuse(u8),
    /// The sender learns of the refusal.
    AnswerRefused(u8),
    /// The sender no longer waits for an answer.
    Timeout(u8),
    /// The log appends a request whose sender no longer waits.
    LandZombie(u8),
    /// A leader receives the answer to one of its reads.
    Reply(u8, u8),
    /// All records from this offset on are lost.
    Lose(u8),
    /// A node crashes and starts again.
    Restart(u8),
}

impl State {
    pub(crate) fn new(bounds: &Bounds, blocks: &Blocks) -> Self {
        let genesis = genesis();
        let log = vec![Entry {
            block: blocks.id(&genesis),
            epoch: 0,
        }];
        let accepted = Accepted::from_genesis(&genesis).expect("a genesis block");
        let node = Node {
            mode: Mode::Standby(LogReader::new(accepted, 1, None)),
            life: 0,
            term: 0,
            chain: Vec::new(),
            applied: 0,
            hole: (0, 0),
        };
        Self {
            log,
            safe: 1,
            epoch: 0,
            nodes: vec![node; usize::from(bounds.nodes)],
            wires: Vec::new(),
            zombies: Vec::new(),
            acknowledged: Vec::new(),
            used: Used::default(),
        }
    }

    pub(crate) fn end(&self) -> u64 {
        self.log.len() as u64
    }

    pub(crate) fn record(&self, offset: u64, blocks: &Blocks) -> Record {
        let entry = self.log[offset as usize];
        Record {
            offset,
            epoch: i32::from(entry.epoch),
            block: Some(blocks.get(entry.block)),
        }
    }

    /// Everything that can happen next.
    pub(crate) fn events(&self, bounds: &Bounds, blocks: &Blocks) -> Vec<Event> {
        let mut events = Vec::new();
        for at in 0..self.nodes.len() {
            self.node_events(at, bounds, blocks, &mut events);
        }
        let may_fail = self.used.failures < bounds.failures;
        for (at, wire) in self.wires.iter().enumerate() {
            let index = at as u8;
            match wire.progress {
                Progress::Sent => {
                    // A broker handles the requests of a connection in order.
                    let is_next = |other: &Wire| other.node != wire.node || other.progress != Progress::Sent;
                    if self.wires[..at].iter().all(is_next) {
                        events.push(Event::Land(index));
                        if may_fail {
                            events.push(Event::Refuse(index));
                        }
                    }
                }
                Progress::Landed { .. } => events.push(Event::Answer(index)),
                Progress::Refused => events.push(Event::AnswerRefused(index)),
                Progress::Lost => {}
            }
            // A request whose records were lost can get no answer, so its timeout does not count as another failure.
            if (may_fail && wire.progress != Progress::Refused) || wire.progress == Progress::Lost {
                events.push(Event::Timeout(index));
            }
        }
        for (at, zombie) in self.zombies.iter().enumerate() {
            if at == 0 || self.zombies[at - 1] != *zombie {
                events.push(Event::LandZombie(at as u8));
            }
        }
        if self.used.losses < bounds.losses {
            events.extend((self.safe..self.log.len() as u8).map(Event::Lose));
        }
        events
    }

    fn node_events(&self, at: usize, bounds: &Bounds, blocks: &Blocks, events: &mut Vec<Event>) {
        let (node, index) = (&self.nodes[at], at as u8);
        match &node.mode {
            Mode::Halted => return,
            Mode::Standby(reader) | Mode::Candidate(reader, _) => {
                let is_standby = matches!(node.mode, Mode::Standby(_));
                let has_more = reader.next_offset() < self.end() || !reader.is_verified();
                if has_more && (!is_standby || bounds.reads_stepwise()) {
                    events.push(Event::Read(index));
                }
                if node.applied < reader.accepted().number {
                    events.push(Event::Apply(index));
                }
                // Nodes in the same state are interchangeable, so only the first of them claims.
                let is_first = !self.nodes[..at].contains(node);
                if is_standby && is_first && self.used.claims < bounds.claims {
                    self.claims(index, *reader, bounds, blocks, events);
                }
            }
            Mode::Leader {
                appender,
                reads,
                ended,
                ..
            } => {
                if self.used.blocks < bounds.blocks && !ended && appender.room() > 0 {
                    events.push(Event::Submit(index));
                    if bounds.has_end {
                        events.push(Event::SubmitEnd(index));
                    }
                }
                events.extend((0..reads.len()).map(|read| Event::Reply(index, read as u8)));
            }
        }
        if self.used.restarts < bounds.restarts {
            events.push(Event::Restart(index));
        }
    }

    /// Adds the claims that a standby can make: one that continues its last accepted block, and one for each later
    /// block that it would accept if it read on. The number of skipped records that it reads after this block makes no
    /// difference.
    fn claims(
        &self,
        index: u8,
        mut reader: LogReader,
        bounds: &Bounds,
        blocks: &Blocks,
        events: &mut Vec<Event>,
    ) {
        // Without a planted bug, nothing is accepted after the end.
        let may_claim = |accepted: &Accepted| {
            let claim = after(accepted, accepted.term + 1, 0, BlockKind::Claim);
            accepted.judge(&claim) == Verdict::Accept
        };
        if may_claim(reader.accepted()) {
            events.push(Event::Claim(index, reader.next_offset() as u8));
        }
        if bounds.reads_stepwise() {
            return;
        }
        let mut offset = reader.restart();
        while offset < self.end() {
            let step = reader.next(&self.record(offset, blocks), |_| Ok(()));
            offset += 1;
            if step == Ok(Step::Accepted) && may_claim(reader.accepted()) {
                events.push(Event::Claim(index, offset as u8));
            }
        }
    }
}
