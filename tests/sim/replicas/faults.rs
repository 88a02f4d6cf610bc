//! The faults of a run with replicas.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    chain::Chain,
    cluster::{Cluster, Death},
    plan::{Fault, REPLICAS, address},
    sim_log::Cut,
};

/// The longest pause of a process.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// The longest time in which a replica does not reach the log.
const CUT_MAX: Duration = Duration::from_secs(8);

// ===== impl Cluster: faults =====

impl Cluster {
    /// Lets faults happen that are due.
    pub(super) fn disturb(&mut self, now: Instant) {
        while let Some(at) = self.faults.cuts.iter().position(|(_, until)| *until <= now) {
            let (node, _) = self.faults.cuts.swap_remove(at);
            self.log.set_cut(node, Cut::default());
            self.note(format_args!("replica {node} is connected again"));
        }
        let mut due = Vec::new();
        for death in &mut self.faults.deaths {
            death.turns = death.turns.saturating_sub(1);
            if death.turns == 0 {
                due.push(*death);
            }
        }
        for death in due {
            self.kill(death.node, death.power_fails);
        }
        if self.faults.healed || self.faults.next > now {
            return;
        }
        self.faults.next = now + self.random.evenly_to(self.plan.fault_pause);
        if self.plan.loses_visible && self.random.percent(40) && self.log.lose_unacknowledged() {
            self.note(format_args!("the log loses records that were visible"));
            self.faults.lost = true;
        }
        if let Some(fault) = self.plan.fault(&mut self.random) {
            self.faults.count += 1;
            self.happen(now, fault);
        }
    }

    /// Mostly the leader, because it has the most to lose.
    fn choose_victim(&mut self) -> usize {
        let leader = (0..REPLICAS).find(|index| self.nodes[*index].leads());
        match leader {
            Some(leader) if self.random.percent(65) => leader,
            Some(_) | None => self.random.below(REPLICAS),
        }
    }

    fn happen(&mut self, now: Instant, fault: Fault) {
        let victim = self.choose_victim();
        let runs = self.nodes[victim].process.is_some();
        match fault {
            Fault::Kill if runs && !self.nodes[victim].leads() && self.random.percent(30) => {
                self.forget_calls(victim);
                let clean = self.nodes[victim].stop();
                self.note(format_args!("replica {victim} stops, clean: {clean}"));
                self.restart_later(victim);
            }
            Fault::Kill | Fault::PowerLoss if runs => {
                let turns = self.random.within(&(1..40));
                self.faults.deaths.push(Death {
                    node: victim,
                    turns,
                    power_fails: fault == Fault::PowerLoss,
                });
            }
            Fault::PowerLossLater if runs => {
                let operations = self.random.within(&(0..30));
                self.nodes[victim].disk.power_off_after(operations);
                self.nodes[victim].disk_faulty = true;
            }
            Fault::SyncFails if runs => {
                let syncs = self.random.within(&(0..10));
                self.nodes[victim].disk.fail_sync_after(syncs);
                self.nodes[victim].disk_faulty = true;
            }
            Fault::Pause if runs => {
                let time = self.some_time(PAUSE_MAX);
                self.note(format_args!("replica {victim} stands still for {time:?}"));
                self.nodes[victim].pause(Some(now + time));
            }
            Fault::Cut => self.cut(now, victim),
            Fault::ClockStep => {
                let millis = if self.random.percent(80) {
                    i64::try_from(self.random.below(8000)).unwrap() - 4000
                } else {
                    i64::try_from(self.random.below(400_000)).unwrap() - 200_000
                };
                self.note(format_args!("the clock of replica {victim} steps by {millis} ms"));
                self.nodes[victim].clock.step(millis * 1_000_000);
            }
            Fault::Resign => self.resign(now, victim),
            Fault::BrokerChange => {
                let time = self.random.up_to(Duration::from_secs(3));
                self.note(format_args!("another broker takes the lead after {time:?}"));
                self.log.change_broker(time);
            }
            Fault::ForwardsFail => self.fail_forwards(),
            Fault::ForeignRecords => {
                for _ in 0..1 + self.random.below(3) {
                    let record = self.foreign_record();
                    self.log.inject(record);
                }
            }
            Fault::Kill | Fault::PowerLoss | Fault::PowerLossLater | Fault::SyncFails | Fault::Pause => {}
        }
    }

    /// How long a fault lasts: often about as long as it takes until another replica leads.
    fn some_time(&mut self, longest: Duration) -> Duration {
        if self.random.percent(50) {
            self.random.evenly_to(self.plan.timing.claim_after * 3)
        } else {
            self.random.up_to(longest)
        }
    }

    fn cut(&mut self, now: Instant, victim: usize) {
        let (requests, answers) = [(true, false), (false, true), (true, true)][self.random.below(3)];
        self.cut_off(now, victim, Cut { requests, answers });
    }

    fn cut_off(&mut self, now: Instant, victim: usize, cut: Cut) {
        let time = self.some_time(CUT_MAX);
        self.note(format_args!("replica {victim} is cut off for {time:?}: {cut:?}"));
        self.faults.cuts.retain(|(node, _)| *node != victim);
        self.faults.cuts.push((victim, now + time));
        self.log.set_cut(victim, cut);
    }

    /// The leader is asked to resign. Nobody waits for the answer. Sometimes the leader does not learn what becomes of its last block.
    fn resign(&mut self, now: Instant, victim: usize) {
        if self.random.percent(30) {
            let cut = Cut {
                requests: false,
                answers: true,
            };
            self.cut_off(now, victim, cut);
        }
        let successor = self.random.percent(50).then(|| {
            let other = (victim + 1 + self.random.below(REPLICAS - 1)) % REPLICAS;
            address(other)
        });
        self.note(format_args!("replica {victim} is asked to resign: {successor:?}"));
        if let Some(running) = self.nodes[victim].running() {
            running.ask_to_resign(successor);
        }
    }

    /// A replica that follows can't forward a call.
    fn fail_forwards(&mut self) {
        let index = self.random.below(REPLICAS);
        let leader = self.nodes[index].view().and_then(|view| view.leader);
        if let (Some(leader), Some(running)) = (leader, self.nodes[index].running()) {
            running.replica.forward_failed(&leader);
            self.note(format_args!("replica {index} does not reach {leader}"));
        }
    }

    /// Bytes of others, an old block, a damaged one, or one that does not continue the chain.
    fn foreign_record(&mut self) -> Bytes {
        let count = usize::try_from(self.log.len()).unwrap();
        if self.random.percent(15)
            && let Ok(chain) = Chain::read(&self.log.records())
            && let Some(forged) = chain.forge_next()
        {
            return forged;
        }
        let mut bytes = match self.random.below(3) {
            0 => return Bytes::from_static(b"not a block"),
            _ if count < 2 => return Bytes::new(),
            _ => self.log.record(1 + self.random.below(count - 1)).to_vec(),
        };
        if self.random.percent(50) && !bytes.is_empty() {
            let bit = self.random.below(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        Bytes::from(bytes)
    }
}
