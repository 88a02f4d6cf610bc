//! The examination: reads everything that the service knows, after a start or at the end, and lets the oracle check it.

use std::{pin::Pin, task::Poll};

use tally::engine::{Condition, EngineError, ExecStep, OwnedKey, PipelineStep, TallyEngine};
use tally_ledger::{AccountIndex, AccountSnapshot, Hold};

use crate::{
    calls::{Logged, Recorded, State},
    clients::{examine, examine_holds, examine_key, examine_transaction},
    journal::{Files, JournalWalk},
    sim_disk::FaultPlan,
    world::{Failure, World},
};

/// Number of reads that the examination makes at the same time.
const READS_AT_A_TIME: usize = 500;
/// Maximum number of steps of the engine in one examination. A correct engine needs fewer.
const STEPS_MAX: usize = 100_000;

/// The results of reads, each with the key that was read.
type Results<K, T> = Vec<(K, Result<T, EngineError>)>;

// ===== impl World: examinations =====

impl World {
    /// Reads everything that the service knows, and lets the oracle check it.
    pub(crate) fn examine(&mut self) -> Result<(), Failure> {
        self.examine_with(&Files::new())
    }

    /// Does the same as [`World::examine`], but on a damaged disk. `whole` are the files of the disk before the damage.
    pub(crate) fn examine_with(&mut self, whole: &Files) -> Result<(), Failure> {
        let Some(state) = self.read_state(whole)? else {
            // The disk failed during the reads.
            return Ok(());
        };
        self.note(format_args!(
            "examined: {} accounts, {} ids, {} records",
            state.accounts.len(),
            state.transactions.len(),
            state.log.len()
        ));
        self.tell_time();
        self.oracle.examine(&state)?;
        Ok(())
    }

    /// Reads everything while no operation of the disk fails by chance.
    fn read_state(&mut self, whole: &Files) -> Result<Option<State>, Failure> {
        self.disk.set_fault_plan(FaultPlan::default());
        let state = self.read_all(whole);
        if self.config.disk_faults > 0 && !self.healed {
            self.disk.set_fault_plan(FaultPlan::swarm(self.config.seed));
        }
        state
    }

    fn read_all(&mut self, whole: &Files) -> Result<Option<State>, Failure> {
        self.settle()?;
        let engine = self.service.as_ref().unwrap().engine.clone();
        let Some(accounts) = self.read_accounts(&engine)? else {
            return Ok(None);
        };
        let ids: Vec<String> = self.workload.ids().cloned().collect();
        let transactions: Results<String, Option<Recorded>> =
            self.read_each(&ids, |id| examine_transaction(engine.clone(), id))?;
        let keys: Vec<OwnedKey> = self.workload.keys().collect();
        let found = self.read_each(&keys, |key| examine_key(engine.clone(), key))?;
        let mut holds: Results<(), Vec<Hold>> = self.read_each(&[()], |()| examine_holds(engine.clone()))?;
        let holds = holds.pop().and_then(|((), holds)| holds.ok());
        let has_failed = holds.is_none()
            || transactions.iter().any(|(_, found)| found.is_err())
            || found.iter().any(|(_, found)| found.is_err());
        if self.disk.is_powered_off() || (self.deaths.faulty && has_failed) {
            return Ok(None);
        }
        Ok(Some(State {
            log: self.read_journal(whole)?,
            accounts,
            holds,
            found,
            transactions,
            figures: Some(engine.stats().ledger),
        }))
    }

    /// Reads the journal from the disk. If the disk is damaged, reads the earlier part from the undamaged files `whole`.
    fn read_journal(&self, whole: &Files) -> Result<Vec<Logged>, Failure> {
        let mut walk = JournalWalk::default();
        walk.read(whole)?;
        walk.read(&self.disk.snapshot())?;
        Ok(walk.into_log())
    }

    /// Reads all accounts. `None` if the disk fails.
    fn read_accounts(&mut self, engine: &TallyEngine) -> Result<Option<Vec<AccountSnapshot>>, Failure> {
        let mut accounts = Vec::new();
        let mut from = Some(AccountIndex(0));
        while let Some(start) = from {
            let engine = engine.clone();
            let page: Pin<Box<dyn Future<Output = _>>> =
                Box::pin(async move { examine(async || engine.accounts(start, 1000, None).await).await });
            match self.complete(vec![page])?.pop() {
                Some(Ok((page, next))) => {
                    accounts.extend(page);
                    from = next;
                }
                Some(Err(_)) if self.deaths.armed || self.deaths.faulty => return Ok(None),
                other => return Err(Failure(format!("the accounts can't be listed: {other:?}"))),
            }
        }
        Ok(Some(accounts))
    }

    /// Makes a read for each of `keys`.
    fn read_each<K: Clone, T, F: Future<Output = Result<T, EngineError>>>(
        &mut self,
        keys: &[K],
        read: impl Fn(K) -> F,
    ) -> Result<Results<K, T>, Failure> {
        let at_a_time = match usize::try_from(self.config.queue).unwrap() {
            0 => READS_AT_A_TIME,
            queue => queue,
        };
        let mut results = Vec::with_capacity(keys.len());
        for keys in keys.chunks(at_a_time) {
            let reads = keys.iter().map(|key| Box::pin(read(key.clone()))).collect();
            results.extend(keys.iter().cloned().zip(self.complete(reads)?));
        }
        Ok(results)
    }

    /// Lets the service finish all work that is due now, such as the expiry of holds. No time passes.
    fn settle(&mut self) -> Result<(), Failure> {
        for _ in 0..STEPS_MAX {
            self.pace.hurry();
            self.pace.wake_if_due();
            let service = self.service.as_mut().unwrap();
            let wal = service.step_wal();
            let exec = service.step_exec();
            let has_failed = service.engine.health().condition() != Condition::Running;
            let is_idle = matches!(exec, ExecStep::Idle { wake_at: 1, .. }) && wal != PipelineStep::Worked;
            if has_failed || self.disk.is_powered_off() || (is_idle && self.pace.due().is_none()) {
                return Ok(());
            }
        }
        Err(Failure("the service does not come to rest".to_owned()))
    }

    /// Lets the engine work until all of `futures` are complete. No time passes.
    fn complete<F: Future + Unpin>(&mut self, mut futures: Vec<F>) -> Result<Vec<F::Output>, Failure> {
        let mut done: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        for _ in 0..STEPS_MAX {
            let mut left = 0;
            for (future, done) in futures.iter_mut().zip(&mut done) {
                if done.is_none() {
                    match Pin::new(future).poll(&mut context) {
                        Poll::Ready(output) => *done = Some(output),
                        Poll::Pending => left += 1,
                    }
                }
            }
            if left == 0 {
                return Ok(done.into_iter().flatten().collect());
            }
            self.pace.hurry();
            self.pace.wake_if_due();
            let service = self.service.as_mut().unwrap();
            for _ in 0..10 {
                service.step_exec();
                service.step_wal();
            }
        }
        Err(Failure(
            "the engine does not answer the reads of the examination".to_owned(),
        ))
    }
}
