//! The end of a run: no more faults happen, every call must end, and the service must work again.

use std::time::Duration;

use tally_breaker::CircuitState;
use tokio::time::Instant;

use crate::{
    clients::{Client, Habit},
    config::MAX_TIMEOUT_MS,
    sim_disk::FaultPlan,
    workload::Workload,
    world::{Failure, PATIENT_PAUSE, World},
};

/// For how long all circuits must be closed. A call that was slow before the last fault ended may still open a circuit afterwards.
const QUIET: Duration = Duration::from_secs(1);
/// When everything is healthy, no call takes longer.
const PATIENCE: Duration = Duration::from_secs(300);

// ===== impl World: liveness =====

impl World {
    /// Ends all faults. An earlier fault may still end the service once more.
    pub(crate) fn heal(&mut self) -> Result<(), Failure> {
        self.note(format_args!("no more faults from here on"));
        self.healed = true;
        self.healed_at = Some(Instant::now());
        self.pace.heal();
        self.disk.set_fault_plan(FaultPlan::default());
        self.disk.clear_faults();
        self.deaths.end();
        self.kill_if_faulty()?;
        self.tell_time();
        self.oracle.healed();
        Ok(())
    }

    /// Waits until every call has ended.
    pub(crate) async fn finish_calls(&mut self) -> Result<(), Failure> {
        let begun = self.clock.elapsed();
        while !self.flights.is_empty() {
            self.turn().await?;
            self.kill_if_faulty()?;
            if self.clock.elapsed() > begun + PATIENCE {
                let ids: Vec<_> = self.flights.iter().map(|flight| flight.id).collect();
                return Err(Failure(format!("calls {ids:?} get no answer")));
            }
        }
        Ok(())
    }

    /// Checks that every circuit closes again on a healthy disk. The clients' calls are the probes.
    pub(crate) async fn circuits_close(&mut self) -> Result<(), Failure> {
        let begun = self.clock.elapsed();
        self.calls_left = u64::MAX;
        self.patient = true;
        let mut quiet_since = None;
        loop {
            let engine = &self.service.as_ref().unwrap().engine;
            let open = engine
                .circuits()
                .iter()
                .find(|circuit| circuit.state() != CircuitState::Closed);
            // A block that was submitted before the last fault ended can still hang.
            let old_block = self
                .pace
                .hangs_since()
                .is_some_and(|since| Some(since) <= self.healed_at);
            let Some(circuit) = open else {
                let now = self.clock.elapsed();
                let since = *quiet_since.get_or_insert(now);
                if old_block {
                    quiet_since = None;
                } else if now >= since + QUIET {
                    self.calls_left = 0;
                    self.tell_time();
                    self.oracle.circuits_closed();
                    return Ok(());
                }
                self.turn().await?;
                continue;
            };
            quiet_since = None;
            let (key, state) = (circuit.key().to_owned(), circuit.state());
            if self.clock.elapsed() > begun + PATIENCE {
                return Err(Failure(format!(
                    "the circuit {key} stays {state:?} on a healthy disk"
                )));
            }
            self.turn().await?;
        }
    }

    /// Checks that accounts can be created and a transaction can be committed, while no other call is in flight. The oracle
    /// reports every error that a healthy service never gives.
    pub(crate) async fn writes_succeed(&mut self) -> Result<(), Failure> {
        let begun = self.clock.elapsed();
        let requests = [
            (Habit::Creator, Workload::last_creation()),
            (Habit::Single, self.workload.last_transaction()),
        ];
        for (habit, request) in requests {
            let place = self.client_with(habit);
            loop {
                self.pass_time(Some(PATIENT_PAUSE)).await;
                let id = self.begin_call(place, request.clone(), None);
                self.finish_calls().await?;
                if self.last_write == Some(id) {
                    break;
                }
                if self.clock.elapsed() > begun + PATIENCE {
                    return Err(Failure(format!(
                        "the healthy service does not execute {request:?}, as in call {id}"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Makes no calls until every hold with a timeout is due. Then checks that none of these holds is outstanding.
    pub(crate) async fn holds_expire(&mut self) -> Result<(), Failure> {
        if self.config.holds == 0 || self.config.timeouts == 0 {
            return Ok(());
        }
        let end = self.clock.elapsed() + Duration::from_millis(MAX_TIMEOUT_MS);
        while self.clock.elapsed() <= end {
            self.turn().await?;
        }
        Ok(())
    }

    /// The place of a client with this habit.
    fn client_with(&mut self, habit: Habit) -> usize {
        let place = self.clients.iter().position(|client| client.habit == habit);
        place.unwrap_or_else(|| {
            self.clients.push(Client::new(habit));
            self.clients.len() - 1
        })
    }
}
