//! A run with replicas from its beginning to its end.

use std::{path::Path, time::Duration};

use tally::store::replicated::ReplicaRole;
use tally_journal::BlockKind;
use tokio::time::Instant;

use super::{
    chain::Chain,
    client::{ACCOUNTS, Answer, Client, Flight, What, account_id},
    cluster::{Cluster, FOR_EVER},
    node::Node,
    plan::{REPLICAS, address},
};
use crate::world::{DATA, Failure};

/// How long the replicas are watched after the end of the log.
const END_MAX: Duration = Duration::from_secs(5);
/// How long everything may take to come to an end after the last fault. Two processes may claim several times, each time later.
const RECOVERY_MAX: Duration = Duration::from_secs(90);

// ===== impl Cluster: the run =====

impl Cluster {
    pub(crate) async fn run(&mut self) -> Result<(), Failure> {
        self.found().await?;
        let faults_end = self.begun + self.plan.faulty;
        self.faults.next = Instant::now() + self.random.up_to(self.plan.fault_pause);
        self.go_on(faults_end, |_| false).await?;
        self.heal();
        let mut least = 0;
        if self.faults.lost {
            self.go_on(Instant::now() + Duration::from_secs(5), |_| false)
                .await?;
        } else {
            least = self.recover().await?;
            self.examine().await?;
            if self.plan.ends_log {
                self.end_log().await?;
            }
        }
        self.check(least)
    }

    /// Ends all faults.
    fn heal(&mut self) {
        self.note(format_args!("no more faults"));
        self.faults.healed = true;
        self.faults.cuts.clear();
        self.faults.deaths.clear();
        self.log.heal();
        self.net.heal();
        for index in 0..REPLICAS {
            self.nodes[index].pause(None);
            if self.nodes[index].disk_faulty {
                self.kill(index, true);
            }
            if self.nodes[index].process.is_none() {
                self.nodes[index].starts_at = Instant::now();
            }
        }
        self.plan.stalls = 0;
    }

    /// After the last fault, a replica leads, and all others follow it. Returns the number of the last block that all have.
    async fn recover(&mut self) -> Result<u64, Failure> {
        let limit = Instant::now() + RECOVERY_MAX;
        let before = self.history.answers;
        let progress = |cluster: &mut Cluster| cluster.history.answers >= before + 5;
        if !self.go_on(limit, progress).await? {
            return Err(Failure(format!(
                "{RECOVERY_MAX:?} after the last fault, the clients get no answers"
            )));
        }
        self.quiet = true;
        let settled = |cluster: &mut Cluster| {
            let is_idle = |client: &Client| client.flight.is_none() && client.unsettled.is_none();
            cluster.clients.iter().all(is_idle) && cluster.is_settled()
        };
        if !self.go_on(limit, settled).await? {
            for index in 0..REPLICAS {
                let brief = self.nodes[index].brief();
                self.note(format_args!("replica {index}: {brief}"));
            }
            return Err(Failure(format!(
                "{RECOVERY_MAX:?} after the last fault, the replicas do not agree"
            )));
        }
        // A replica whose read is still on its way does not know yet that there are more blocks.
        let views = self.nodes.iter().filter_map(Node::view);
        let least = views.map(|view| view.accepted_block).max().unwrap_or(0);
        let have_all = |cluster: &mut Cluster| {
            let mut views = cluster.nodes.iter().map(Node::view);
            views.all(|view| view.is_some_and(|view| view.accepted_block >= least))
        };
        if !self.go_on(limit, have_all).await? {
            return Err(Failure(format!(
                "{RECOVERY_MAX:?} after the last fault, a replica does not have block {least}"
            )));
        }
        // What is accepted is in the journals soon.
        self.go_on(Instant::now() + Duration::from_millis(500), |_| false)
            .await?;
        Ok(least)
    }

    /// The balances of the accepted chain add up, and every replica shows them. A replica that steps down meanwhile shows only some of them.
    async fn examine(&mut self) -> Result<(), Failure> {
        let postings = self.history.check(&Chain::read(&self.log.records())?, false)?;
        let newest = |account: &String| {
            let last = postings.get(account).and_then(|postings| postings.last());
            last.map_or((0, 0), |(_, debits, credits)| (*debits, *credits))
        };
        let accounts: Vec<String> = (0..ACCOUNTS).map(account_id).collect();
        let sum = |(debits, credits): (u128, u128), (debit, credit)| (debits + debit, credits + credit);
        let (debits, credits) = accounts.iter().map(newest).fold((0, 0), sum);
        if debits != credits {
            return Err(Failure(format!(
                "the debits are {debits}, and the credits {credits}"
            )));
        }
        for index in 0..REPLICAS {
            for account in &accounts {
                let expected = newest(account);
                let shown = self.read_account(index, account).await?;
                if shown.is_some_and(|shown| shown != expected) {
                    return Err(Failure(format!(
                        "replica {index} shows {shown:?} for {account}, but it is {expected:?}"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Reads an account from a replica: nothing is posted to an account that does not exist. The result is `None` if the replica does not
    /// run now, or leads no longer.
    async fn read_account(&mut self, index: usize, account: &str) -> Result<Option<(u128, u128)>, Failure> {
        let what = What::Read {
            account: account.to_owned(),
            floor: self.history.read_begins(false),
        };
        let (life, bell) = (self.nodes[index].life, self.bell.clone());
        let Some(running) = self.nodes[index].running() else {
            return Ok(None);
        };
        let limit = Instant::now() + Duration::from_secs(10);
        let mut flight = Flight::begin(&running.service.engine, index, what, limit, &bell);
        let mut shown = None;
        let answered = |cluster: &mut Cluster| {
            if cluster.nodes[index].life != life || cluster.nodes[index].process.is_none() {
                return true;
            }
            if !flight.is_woken() {
                return false;
            }
            let polled = flight.poll();
            if let Some(running) = cluster.nodes[index].running() {
                running.service.wake();
            }
            let std::task::Poll::Ready(answer) = polled else {
                return false;
            };
            if let Answer::Read(Ok(found)) = answer {
                shown = Some(found.map_or((0, 0), |snapshot| {
                    let balances = snapshot.balances;
                    (
                        balances.debits_posted.minor_units(),
                        balances.credits_posted.minor_units(),
                    )
                }));
            }
            true
        };
        if self.go_on(limit, answered).await? {
            return Ok(shown);
        }
        Err(Failure(format!(
            "replica {index} does not answer a read of {account}"
        )))
    }

    /// The leader ends the log. A claim behind the end must not count, and no replica may lead again, whenever it starts.
    async fn end_log(&mut self) -> Result<(), Failure> {
        let Some(leader) = (0..REPLICAS).find(|index| self.nodes[*index].leads()) else {
            return Ok(());
        };
        self.ends_log = true;
        self.note(format_args!("replica {leader} is asked to end the log"));
        if let Some(running) = self.nodes[leader].running() {
            running.ask_to_end_log();
        }
        let is_stopped = |cluster: &mut Cluster| {
            let mut roles = cluster.nodes.iter().map(Node::role);
            roles.all(|role| role.is_some_and(|(role, _)| role == ReplicaRole::Stopped))
        };
        if !self.go_on(Instant::now() + END_MAX, is_stopped).await? {
            return Err(Failure(format!(
                "{END_MAX:?} after the end of the log, a replica has not stopped"
            )));
        }
        let chain = Chain::read(&self.log.records())?;
        self.log.inject(chain.claim_next(&address(0))?);
        let leads = |cluster: &mut Cluster| cluster.nodes.iter().any(Node::leads);
        if self.go_on(Instant::now() + END_MAX, leads).await? {
            return Err(Failure("a replica leads after the end of the log".to_owned()));
        }
        let after = Chain::read(&self.log.records())?;
        let last = after.blocks.last().map(|block| block.header.kind);
        if after.blocks.len() != chain.blocks.len() || last != Some(BlockKind::End) {
            return Err(Failure(format!(
                "the last block of the log is {last:?}, and not its end"
            )));
        }
        Ok(())
    }

    /// Checks the journals and the history. All journals have the blocks up to the number `least`.
    fn check(&mut self, least: u64) -> Result<(), Failure> {
        let chain = Chain::read(&self.log.records())?;
        for client in 0..self.clients.len() {
            self.clients[client].rests_until = Instant::now() + FOR_EVER;
        }
        let mut formats = Vec::new();
        for index in 0..REPLICAS {
            // A replica that has read a lost record keeps it, and stops. As long as it has not found that out, it has not caught up.
            let is_sure = !self.faults.lost || self.nodes[index].has_caught_up();
            self.forget_calls(index);
            self.nodes[index].die(false);
            let files = self.nodes[index].disk.snapshot();
            formats.extend(files.get(Path::new(&format!("{DATA}/FORMAT"))).cloned());
            if is_sure {
                let count = chain.contains(&format!("the journal of replica {index}"), &files)?;
                if count < least {
                    return Err(Failure(format!(
                        "the journal of replica {index} has {count} blocks, but must have {least}"
                    )));
                }
            }
        }
        if formats.iter().any(|format| *format != formats[0]) {
            return Err(Failure(
                "the files FORMAT of the replicas are different".to_owned(),
            ));
        }
        self.history.check(&chain, self.faults.lost)?;
        let (blocks, answers, faults) = (chain.blocks.len(), self.history.answers, self.faults.count);
        self.note(format_args!(
            "{blocks} blocks, {answers} answers, {faults} faults of replicas"
        ));
        Ok(())
    }
}
