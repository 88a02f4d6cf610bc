//! Rule 1, for errors: a call fails only if the simulator has caused the error.

use std::time::Duration;

use tally::engine::{EngineError, StoreFault};
use tally_batch::BatchError;

use super::{Violation, calls::State, history::Invocation, times::Now, violation};

/// What the simulator has done that excuses some errors.
#[derive(Debug, Clone, Default)]
pub(super) struct Planted {
    pub(super) damage: bool,
    pub(super) faults: bool,
    /// Whether there were faults at any time. If a fault kept EXEC from reading the record of a hold, this hold does not expire before the next
    /// start.
    pub(super) had_faults: bool,
    /// Whether the queue is so small that it is full at times.
    pub(super) small_queue: bool,
    /// Whether the service stops in good order.
    pub(super) stops: bool,
    /// Whether no more faults happen.
    pub(super) healed: bool,
    /// When all circuits were closed, after the last fault.
    pub(super) circuits_closed: Option<Duration>,
    /// The periods in which the disk was or may have been full. The last period has no end while the disk is full.
    full: Vec<(Duration, Option<Duration>)>,
}

/// Time until the service must have noticed that the disk has space again. The service checks once a second; the rest of the time is
/// for delays of AUX by the simulator.
const SPACE_IS_SEEN_AFTER: Duration = Duration::from_secs(10);

// ===== impl Planted =====

impl Planted {
    /// Notes that the disk is full, or will be soon.
    pub(super) fn disk_fills(&mut self, now: Now) {
        if self.full.last().is_none_or(|(_, until)| until.is_some()) {
            self.full.push((now.elapsed, None));
        }
    }

    pub(super) fn disk_has_space(&mut self, now: Now) {
        if let Some((_, until)) = self.full.last_mut() {
            until.get_or_insert(now.elapsed);
        }
    }

    /// Whether the service may think that the disk is full.
    pub(super) fn may_be_full(&self, now: Now) -> bool {
        self.was_full(now.elapsed, now.elapsed)
    }

    /// Checks that a correct service can give this error to the call.
    pub(super) fn check_error(
        &self,
        invocation: &Invocation,
        error: &EngineError,
        now: Now,
    ) -> Result<(), Violation> {
        let Some(why) = self.objection(invocation, error, now) else {
            return Ok(());
        };
        let call = invocation.id;
        violation(
            "errors",
            format!("call {call} failed with \"{error}\", but {why}"),
        )
    }

    /// Returns why a correct service never gives this error to this call; `None` if it can.
    fn objection(&self, invocation: &Invocation, error: &EngineError, now: Now) -> Option<&'static str> {
        let begun = invocation.begun_at.elapsed;
        let (is_wrong, why) = match error {
            EngineError::CircuitOpen(_) if invocation.call.kind.is_none() => {
                (true, "no circuit guards reads")
            }
            EngineError::CircuitOpen(_) => (
                self.circuits_closed.is_some_and(|closed| closed <= begun),
                "the circuits had closed on a healthy disk",
            ),
            EngineError::Batch(error) => return self.objection_of_queue(invocation, *error),
            EngineError::Store(StoreFault::WriteFailed | StoreFault::Failed) => {
                (self.healed, "the disk had no fault any more")
            }
            EngineError::Store(StoreFault::DiskFull { .. }) => (
                !self.faults && !self.was_full(begun, now.elapsed),
                "the disk was not full",
            ),
            EngineError::Store(fault) => return self.unreadable(*fault),
            _ => (true, "the oracle does not know this error"),
        };
        is_wrong.then_some(why)
    }

    /// Returns why a correct queue never gives this error to this call; `None` if it can.
    fn objection_of_queue(&self, invocation: &Invocation, error: BatchError) -> Option<&'static str> {
        let call = &invocation.call;
        let (is_wrong, why) = match error {
            BatchError::Full { .. } => (!self.small_queue, "the queue has room for all calls"),
            BatchError::Closed => (!self.stops, "the service was not stopping"),
            BatchError::ExpiredInQueue | BatchError::ExpiredInExecution => {
                (call.deadline.is_none(), "the call has no deadline")
            }
            BatchError::Interrupted => (call.message.is_none(), "the call belongs to no stream"),
            BatchError::Lost => (true, "the reply was lost"),
        };
        is_wrong.then_some(why)
    }

    /// Returns why no record can be unreadable with this fault; `None` if one can.
    fn unreadable(&self, fault: StoreFault) -> Option<&'static str> {
        match fault {
            StoreFault::ReadFailed => (!self.faults).then_some("the disk had no fault"),
            StoreFault::Damaged { .. } => (!self.damage).then_some("nothing was damaged"),
            StoreFault::WriteFailed | StoreFault::Failed | StoreFault::DiskFull { .. } | _ => {
                Some("this is not an error of a read")
            }
        }
    }

    /// Whether the disk was or may have been full in this time, as far as the service can know.
    fn was_full(&self, from: Duration, to: Duration) -> bool {
        self.full
            .iter()
            .any(|(begin, end)| *begin <= to && end.is_none_or(|end| end + SPACE_IS_SEEN_AFTER >= from))
    }

    /// Checks that only damaged records can't be read.
    pub(super) fn check_state(&self, state: &State) -> Result<(), Violation> {
        let transactions = state.transactions.iter();
        let errors = transactions.filter_map(|(id, found)| Some((id.clone(), found.as_ref().err()?)));
        let keys = state.found.iter();
        let errors_of_keys =
            keys.filter_map(|(key, found)| Some((format!("{key:?}"), found.as_ref().err()?)));
        for (id, error) in errors.chain(errors_of_keys) {
            let why = if let EngineError::Store(fault) = error {
                self.unreadable(*fault)
            } else {
                Some("this is not an error of a read")
            };
            if let Some(why) = why {
                return violation(
                    "errors",
                    format!("the examination of transaction {id} failed with \"{error}\", but {why}"),
                );
            }
        }
        Ok(())
    }
}
