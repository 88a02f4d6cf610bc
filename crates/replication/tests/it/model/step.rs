//! What an event does, and the invariants that it must keep.

use tally_replication::{
    Accepted, Action, Appender, BlockKind, Claim, ClaimStep, Decision, HaltReason, Limits, LogReader,
    Outcome, PeerPoint, RequestId, Seen, Step,
};

use super::world::{Blocks, Bounds, Entry, Event, Id, Mode, Node, Progress, State, Wire};
use crate::support::block;

/// The bounds of the appenders.
const LIMITS: Limits = Limits {
    requests_max: 2,
    request_blocks_max: 2,
    request_bytes_max: 1000,
    blocks_max: 4,
};

/// What is wrong with a state.
pub(crate) type Broken = String;

impl State {
    /// Lets an event happen, and checks the invariants.
    pub(crate) fn step(&mut self, event: Event, bounds: &Bounds, blocks: &Blocks) -> Result<(), Broken> {
        match event {
            Event::Read(at) => self.read(usize::from(at), bounds, blocks)?,
            Event::Apply(at) => {
                let node = &mut self.nodes[usize::from(at)];
                node.applied = node.chain.len() as u64;
                self.decide(usize::from(at), blocks)?;
            }
            Event::Claim(at, to) => self.claim(usize::from(at), u64::from(to), bounds, blocks),
            Event::Submit(at) => self.submit(usize::from(at), BlockKind::Data, blocks)?,
            Event::SubmitEnd(at) => self.submit(usize::from(at), BlockKind::End, blocks)?,
            Event::Land(at) => {
                let batch = self.wires[usize::from(at)].batch.clone();
                let base = self.append(&batch);
                self.wires[usize::from(at)].progress = Progress::Landed { base };
            }
            Event::Answer(at) => {
                let wire = self.wires.remove(usize::from(at));
                let Progress::Landed { base } = wire.progress else {
                    unreachable!("only what has landed is acknowledged")
                };
                self.safe = self.safe.max(base + wire.batch.len() as u8);
                let base_offset = u64::from(base);
                self.result(wire.node, wire.request, Outcome::Appended { base_offset }, blocks)?;
            }
            Event::Refuse(at) => {
                self.used.failures += 1;
                self.wires[usize::from(at)].progress = Progress::Refused;
            }
            Event::AnswerRefused(at) => {
                let wire = self.wires.remove(usize::from(at));
                self.result(wire.node, wire.request, Outcome::Refused, blocks)?;
            }
            Event::Timeout(at) => {
                let wire = self.wires.remove(usize::from(at));
                self.used.failures += u8::from(wire.progress != Progress::Lost);
                self.abandon(&wire);
                self.result(wire.node, wire.request, Outcome::Unresolved, blocks)?;
            }
            Event::LandZombie(at) => {
                let batch = self.zombies.remove(usize::from(at));
                self.append(&batch);
            }
            Event::Reply(at, read) => self.reply(usize::from(at), usize::from(read), blocks)?,
            Event::Lose(from) => self.lose(from),
            Event::Restart(at) => {
                self.used.restarts += 1;
                self.restart(usize::from(at), blocks);
            }
        }
        match event {
            Event::Land(_) | Event::LandZombie(_) | Event::Lose(_) => self.check_readers(bounds, blocks),
            Event::Read(_) | Event::Claim(..) | Event::Answer(_) | Event::Reply(..) | Event::Restart(_) => {
                self.check_nodes(bounds, blocks)
            }
            // These events change neither the log nor what a node knows about it.
            Event::Apply(_)
            | Event::Submit(_)
            | Event::SubmitEnd(_)
            | Event::Refuse(_)
            | Event::AnswerRefused(_)
            | Event::Timeout(_) => Ok(()),
        }
    }

    /// Appends a request to the log and returns its first offset.
    fn append(&mut self, batch: &[Id]) -> u8 {
        let base = self.log.len() as u8;
        let epoch = self.epoch;
        self.log.extend(batch.iter().map(|&block| Entry { block, epoch }));
        base
    }

    fn lose(&mut self, from: u8) {
        self.used.losses += 1;
        self.epoch += 1;
        self.log.truncate(usize::from(from));
        for wire in &mut self.wires {
            if matches!(wire.progress, Progress::Landed { base } if base + wire.batch.len() as u8 > from) {
                wire.progress = Progress::Lost;
            }
        }
        // Another broker leads the partition now, so all connections begin anew.
        for node in &mut self.nodes {
            if let Mode::Standby(reader) | Mode::Candidate(reader, _) = &mut node.mode {
                reader.restart();
            }
        }
    }

    fn read(&mut self, at: usize, bounds: &Bounds, blocks: &Blocks) -> Result<(), Broken> {
        self.read_one(at, blocks);
        let node = &mut self.nodes[at];
        if !bounds.applies_late {
            node.applied = node.chain.len() as u64;
        }
        self.decide(at, blocks)
    }

    /// The reader of a node judges the next record, or compares the last one.
    fn read_one(&mut self, at: usize, blocks: &Blocks) {
        let (Mode::Standby(reader) | Mode::Candidate(reader, _)) = &self.nodes[at].mode else {
            unreachable!("only a standby reads record by record")
        };
        let mut reader = *reader;
        let offset = match reader.last() {
            Some(last) if !reader.is_verified() => last.offset,
            _ => reader.next_offset(),
        };
        if offset < self.end() {
            let record = self.record(offset, blocks);
            if reader.next(&record, |_| Ok(())) == Ok(Step::Accepted) {
                let id = self.log[offset as usize].block;
                self.nodes[at].chain.push(id);
            }
        } else {
            reader.out_of_range(0, self.end());
        }
        let node = &mut self.nodes[at];
        let (Mode::Standby(slot) | Mode::Candidate(slot, _)) = &mut node.mode else {
            unreachable!("the mode has not changed")
        };
        *slot = reader;
        if reader.halted().is_some() {
            self.halt(at);
        }
    }

    fn halt(&mut self, at: usize) {
        self.nodes[at].mode = Mode::Halted;
        self.disconnect(at);
    }

    /// All requests of a node lose their sender.
    fn disconnect(&mut self, at: usize) {
        let wires = std::mem::take(&mut self.wires);
        let (own, others) = wires
            .into_iter()
            .partition(|wire: &Wire| usize::from(wire.node) == at);
        self.wires = others;
        for wire in own {
            self.abandon(&wire);
        }
    }

    /// Ends the wait for the answer to a request. If the request has not reached the log yet, it may still reach the
    /// log later.
    fn abandon(&mut self, wire: &Wire) {
        if wire.progress == Progress::Sent {
            self.zombies.push(wire.batch.clone());
            self.zombies.sort_unstable();
        }
    }

    fn claim(&mut self, at: usize, to: u64, bounds: &Bounds, blocks: &Blocks) {
        self.used.claims += 1;
        while matches!(&self.nodes[at].mode, Mode::Standby(reader) if reader.next_offset() < to) {
            self.read_one(at, blocks);
        }
        self.nodes[at].applied = match bounds.applies_late {
            true => self.nodes[at].applied,
            false => self.nodes[at].chain.len() as u64,
        };
        let peers = if bounds.has_peers {
            self.peers(at)
        } else {
            Vec::new()
        };
        let node = &mut self.nodes[at];
        let Mode::Standby(reader) = &node.mode else {
            unreachable!("only a standby claims")
        };
        let accepted = *reader.accepted();
        node.term = accepted.term.max(node.term) + 1;
        let writer = writer(at, node.life);
        let facts = block(
            accepted.number + 1,
            accepted.hash,
            node.term,
            writer,
            BlockKind::Claim,
        );
        let (claim, first) = Claim::new(reader, facts, &peers).expect("a reader that has not halted");
        let ClaimStep::Send { request } = first else {
            unreachable!("a claim begins with a request")
        };
        node.mode = Mode::Candidate(*reader, claim);
        self.send(at, request, vec![blocks.id(&facts)]);
    }

    /// The points of all nodes but one.
    fn peers(&self, at: usize) -> Vec<PeerPoint> {
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != at);
        let point = |(_, node): (usize, &Node)| match &node.mode {
            Mode::Standby(reader) | Mode::Candidate(reader, _) => Some(PeerPoint {
                number: reader.accepted().number,
                hash: reader.accepted().hash,
                next_offset: reader.next_offset(),
            }),
            Mode::Leader { appender, .. } => Some(PeerPoint {
                number: appender.accepted().number,
                hash: appender.accepted().hash,
                next_offset: appender.next_offset(),
            }),
            Mode::Halted => None,
        };
        others.filter_map(point).collect()
    }

    fn send(&mut self, at: usize, request: RequestId, batch: Vec<Id>) {
        self.wires.push(Wire {
            node: at as u8,
            request,
            batch,
            progress: Progress::Sent,
        });
    }

    fn submit(&mut self, at: usize, kind: BlockKind, blocks: &Blocks) -> Result<(), Broken> {
        self.used.blocks += 1;
        let node = &mut self.nodes[at];
        let Mode::Leader { appender, ended, .. } = &mut node.mode else {
            unreachable!("only a leader submits")
        };
        let before = blocks.get(*node.chain.last().expect("the own claim"));
        let facts = block(before.number + 1, before.hash, before.term, before.writer, kind);
        *ended = kind == BlockKind::End;
        node.chain.push(blocks.id(&facts));
        appender.submit(facts, 1).expect("a leader that has not stopped");
        self.act(at, blocks)
    }

    /// A sender receives the result of its request.
    fn result(
        &mut self,
        node: u8,
        request: RequestId,
        outcome: Outcome,
        blocks: &Blocks,
    ) -> Result<(), Broken> {
        let at = usize::from(node);
        match &mut self.nodes[at].mode {
            Mode::Leader { appender, .. } => {
                appender.result(request, outcome);
                self.act(at, blocks)
            }
            Mode::Candidate(reader, claim) => {
                match claim.result(reader, request, outcome) {
                    ClaimStep::Reconnect => {
                        let id = blocks.id(claim.block());
                        if let ClaimStep::Send { request } = claim.reconnected() {
                            self.send(at, request, vec![id]);
                        }
                    }
                    // Nothing before the append can be lost any more, so it does not matter when the comparison follows.
                    ClaimStep::ReadFrom(_) if !reader.is_verified() => self.read_one(at, blocks),
                    ClaimStep::ReadFrom(_) | ClaimStep::Ignore | ClaimStep::Send { .. } => {}
                }
                self.decide(at, blocks)
            }
            Mode::Standby(_) | Mode::Halted => Ok(()),
        }
    }

    /// A candidate finds out whether it leads.
    fn decide(&mut self, at: usize, blocks: &Blocks) -> Result<(), Broken> {
        let node = &mut self.nodes[at];
        let Mode::Candidate(reader, claim) = &node.mode else {
            return Ok(());
        };
        let chain = &node.chain;
        let hash_of = |number: u64| {
            number
                .checked_sub(1)
                .map(|index| blocks.get(chain[index as usize]).hash)
        };
        match claim.decide(reader, node.applied, hash_of) {
            Decision::Wait => Ok(()),
            Decision::Lost => {
                node.mode = Mode::Standby(*reader);
                self.disconnect(at);
                Ok(())
            }
            Decision::Halt(reason) => {
                let is_loss = matches!(
                    reason,
                    HaltReason::LogLostData { .. } | HaltReason::ReplicaAheadOfLog { .. }
                );
                self.halt(at);
                if is_loss && self.used.losses == 0 {
                    return Err(format!("a candidate halts although nothing was lost: {reason}"));
                }
                Ok(())
            }
            Decision::Serve {
                accepted,
                next_offset,
            } => {
                node.hole = (node.applied, accepted.number);
                if accepted.number == node.applied {
                    node.hole = (0, 0);
                }
                node.mode = Mode::Leader {
                    appender: Appender::new(LIMITS, accepted, next_offset),
                    reads: Vec::new(),
                    stale_read: None,
                    ended: false,
                };
                self.disconnect(at);
                self.begin_stale_read(at)
            }
        }
    }

    /// The answer to a read of a leader: everything from its first offset up to its last one or the end of the log.
    fn reply(&mut self, at: usize, read: usize, blocks: &Blocks) -> Result<(), Broken> {
        let Mode::Leader { reads, .. } = &mut self.nodes[at].mode else {
            unreachable!("only a leader has reads")
        };
        let (id, from, through) = reads.remove(read);
        let to = through.map_or(self.end(), |through| self.end().min(through + 1));
        let records: Vec<_> = (from..to.max(from))
            .map(|offset| self.record(offset, blocks))
            .collect();
        let end = self.end();
        if let Mode::Leader { appender, .. } = &mut self.nodes[at].mode {
            if from > end {
                appender.out_of_range();
            } else {
                appender.read(id, &records, to);
            }
        }
        self.act(at, blocks)
    }

    /// Does what an appender asks for.
    fn act(&mut self, at: usize, blocks: &Blocks) -> Result<(), Broken> {
        loop {
            let Mode::Leader { appender, reads, .. } = &mut self.nodes[at].mode else {
                return Ok(());
            };
            let Some(action) = appender.action() else {
                return Ok(());
            };
            match action {
                Action::Send { request, first, last } => {
                    let batch = self.nodes[at].chain[first as usize - 1..last as usize].to_vec();
                    self.send(at, request, batch);
                }
                Action::Reconnect => {
                    reads.clear();
                    appender.reconnected();
                    self.disconnect(at);
                }
                Action::Read { read, from, through } => reads.push((read, from, through)),
                Action::Durable { through, .. } => self.acknowledge(at, through as usize, blocks)?,
                Action::Fenced { .. } => self.restart(at, blocks),
                Action::Halted(reason) => {
                    self.halt(at);
                    if self.used.losses == 0 {
                        return Err(format!("a leader halts although nothing was lost: {reason}"));
                    }
                }
            }
        }
    }

    /// A leader answers the calls of all blocks up to a number.
    fn acknowledge(&mut self, at: usize, through: usize, blocks: &Blocks) -> Result<(), Broken> {
        let node = &self.nodes[at];
        for number in 0..through {
            match self.acknowledged.get(number) {
                Some(known) if *known != node.chain[number] => {
                    return Err(format!(
                        "two nodes acknowledged different blocks with number {}",
                        number + 1
                    ));
                }
                Some(_) => {}
                None => self.acknowledged.push(node.chain[number]),
            }
        }
        if let Mode::Leader {
            stale_read: Some(barrier),
            ..
        } = node.mode
            && barrier <= through as u64
        {
            return Err(
                "a read was answered that does not show everything acknowledged before it".to_owned(),
            );
        }
        if !blocks.chain(&self.log).1.starts_with(&self.acknowledged) {
            return Err(format!(
                "block {through} was acknowledged, but the log does not contain it"
            ));
        }
        for other in (0..self.nodes.len()).filter(|other| *other != at) {
            self.begin_stale_read(other)?;
        }
        Ok(())
    }

    /// If the memory of a leader lacks an acknowledged block, a read arrives. The earliest such read is the one that
    /// is answered first.
    fn begin_stale_read(&mut self, at: usize) -> Result<(), Broken> {
        let node = &mut self.nodes[at];
        let hole = node.hole.0 as usize..node.hole.1 as usize;
        let shows = |(index, id): (usize, &Id)| node.chain.get(index) == Some(id) && !hole.contains(&index);
        let is_stale = !self.acknowledged.iter().enumerate().all(shows);
        let Mode::Leader {
            appender, stale_read, ..
        } = &mut node.mode
        else {
            return Ok(());
        };
        if is_stale && stale_read.is_none() {
            *stale_read = Some(appender.barrier());
            if appender.barrier() <= appender.accepted().number {
                return Err("a read does not wait for a block, although it does not show everything acknowledged before \
                            it"
                .to_owned());
            }
        }
        Ok(())
    }

    /// A node starts again as a standby. Its journal holds what it had accepted.
    fn restart(&mut self, at: usize, blocks: &Blocks) {
        self.disconnect(at);
        let node = &mut self.nodes[at];
        node.life += 1;
        let reader = match &node.mode {
            Mode::Standby(reader) | Mode::Candidate(reader, _) => {
                LogReader::new(*reader.accepted(), reader.next_offset(), reader.last())
            }
            Mode::Leader { appender, .. } => {
                let next_offset = appender.next_offset();
                let last = self.log.get(next_offset as usize - 1).map(|entry| Seen {
                    offset: next_offset - 1,
                    epoch: None,
                    hash: Some(blocks.get(entry.block).hash),
                });
                LogReader::new(*appender.accepted(), next_offset, last)
            }
            Mode::Halted => unreachable!("a halted node does not start again"),
        };
        node.chain.truncate(reader.accepted().number as usize);
        node.applied = node.chain.len() as u64;
        node.hole = (0, 0);
        node.mode = Mode::Standby(reader);
    }

    /// Checks after a change of the log that it contains what was acknowledged, and that readers accept its chain.
    fn check_readers(&self, bounds: &Bounds, blocks: &Blocks) -> Result<(), Broken> {
        let (_, chain) = blocks.chain(&self.log);
        if !chain.starts_with(&self.acknowledged) {
            return Err("an acknowledged block is not in the log's chain any more".to_owned());
        }
        let observed = self.observe(blocks);
        if observed != chain && !bounds.checks_answers_only {
            return Err(format!(
                "a reader accepted {observed:?}, but should have accepted {chain:?}"
            ));
        }
        self.check_nodes(bounds, blocks)
    }

    /// Checks that each node has accepted a prefix of the log's chain, or will halt.
    fn check_nodes(&self, bounds: &Bounds, blocks: &Blocks) -> Result<(), Broken> {
        if bounds.checks_answers_only {
            return Ok(());
        }
        let (offsets, chain) = blocks.chain(&self.log);
        for (at, node) in self.nodes.iter().enumerate() {
            let (next_offset, accepted, is_lost) = match &node.mode {
                Mode::Halted => continue,
                Mode::Standby(reader) | Mode::Candidate(reader, _) => (
                    reader.next_offset(),
                    *reader.accepted(),
                    self.will_halt(reader, blocks),
                ),
                Mode::Leader { appender, .. } => (appender.next_offset(), *appender.accepted(), false),
            };
            if is_lost {
                continue;
            }
            if next_offset > self.end() {
                return Err(format!(
                    "node {at} knows records up to {next_offset}, but the log is shorter"
                ));
            }
            let count = offsets
                .iter()
                .filter(|offset| (**offset as u64) < next_offset)
                .count();
            let seen = &chain[..count];
            if !node.chain.starts_with(seen) || accepted.number as usize != seen.len() {
                return Err(format!(
                    "node {at} accepted {:?}, but should have accepted {seen:?}",
                    node.chain
                ));
            }
        }
        Ok(())
    }

    /// What a reader of the whole log accepts.
    fn observe(&self, blocks: &Blocks) -> Vec<Id> {
        let mut chain = Vec::new();
        let genesis = Accepted::from_genesis(&blocks.get(self.log[0].block)).expect("a genesis block");
        let mut reader = LogReader::new(genesis, 1, None);
        for offset in 1..self.end() {
            if reader.next(&self.record(offset, blocks), |_| Ok(())) == Ok(Step::Accepted) {
                chain.push(self.log[offset as usize].block);
            }
        }
        chain
    }

    /// Whether a reader will find out that it has read records that were lost.
    fn will_halt(&self, reader: &LogReader, blocks: &Blocks) -> bool {
        let Some(last) = reader.last() else { return false };
        if reader.is_verified() && self.used.losses == 0 {
            return false;
        }
        self.log.get(last.offset as usize).is_none_or(|entry| {
            Some(blocks.get(entry.block).hash) != last.hash
                || last.epoch.is_some_and(|epoch| epoch != i32::from(entry.epoch))
        })
    }
}

/// The writer number of a life of a node.
fn writer(at: usize, life: u8) -> u32 {
    (at as u32 + 1) * 16 + u32::from(life)
}
