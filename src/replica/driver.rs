//! The driver of a replica: its state, and how it ends.

use std::time::Duration;

use tally_batch::BatchError;
use tally_journal::{DataId, Geometry};
use tally_ledger::Timestamp;
use tally_replication::{Election, HaltReason, Outcome};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    config::DriverConfig,
    peers::Peers,
    place::{Codec, Place, PlaceError},
    reports::Reports,
};
use crate::{
    engine::{Condition, EngineError, TallyEngine},
    store::{
        embedded::OrderPoint,
        replicated::{
            AppendError, Appended, Exchange, PartitionLog, ReplicaCommand, ReplicaDriver, ReplicaFault,
            ReplicaRole, ReplicaView, ResumePoint,
        },
    },
};

/// The parts of a driver.
#[derive(Debug)]
pub struct DriverParts<L> {
    /// The settings.
    pub config: DriverConfig,
    /// The log.
    pub log: L,
    /// The engine, which follows at first.
    pub engine: TallyEngine,
    /// The exchange that the engine was started with.
    pub exchange: Exchange,
    /// Publishes the state of the replica, and receives the commands of the service.
    pub replica: ReplicaDriver,
    /// The other replicas.
    pub peers: Peers,
    /// The id of the data directory.
    pub data_id: DataId,
    /// The sizes of the journal.
    pub geometry: Geometry,
    /// Where to continue to read the log.
    pub resume: ResumePoint,
    /// Ends the driver.
    pub stop: CancellationToken,
}

/// The driver of a replica.
#[derive(Debug)]
pub struct Driver<L> {
    pub(super) config: DriverConfig,
    pub(super) log: L,
    pub(super) engine: TallyEngine,
    pub(super) exchange: Exchange,
    pub(super) view: watch::Sender<ReplicaView>,
    pub(super) commands: mpsc::Receiver<ReplicaCommand>,
    pub(super) peers: Peers,
    pub(super) place: Place,
    pub(super) election: Election,
    pub(super) reports: Reports,
    pub(super) stop: CancellationToken,
    /// The point after the last record that the engine has applied.
    pub(super) order: OrderPoint,
    /// The number of the last block that the engine has applied.
    pub(super) applied: u64,
    /// The highest term that this process has claimed.
    pub(super) claimed_term: u64,
    /// Whether the driver has connected to the log.
    pub(super) is_connected: bool,
    /// The moment from which the times of the election are measured.
    started: Instant,
}

/// Why a driver has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The driver was stopped.
    Stopped,
    /// Another replica has become the leader while this one led. The process must start again.
    SteppedDown {
        /// The term of the other replica.
        term: u64,
    },
    /// The log contradicts what this replica knows. An operator must find the cause.
    Halted(String),
    /// The log has ended: one directory continues the ledger as an embedded store.
    LogEnded {
        /// The address of the replica whose directory continues the ledger.
        address: Option<String>,
    },
    /// The engine has failed.
    Failed(Condition),
    /// The engine could not execute a command of the driver, or a block does not fit its ledger.
    Engine(String),
}

// ===== impl Driver =====

impl<L: PartitionLog> Driver<L> {
    /// Makes a driver.
    ///
    /// # Errors
    /// [`PlaceError`] if the journal does not belong to the resume point.
    pub fn new(parts: DriverParts<L>) -> Result<Self, PlaceError> {
        let DriverParts {
            config,
            log,
            engine,
            exchange,
            replica,
            peers,
            data_id,
            geometry,
            resume,
            stop,
        } = parts;
        let durable = engine.durable();
        let place = Place::new(Codec::new(data_id, geometry), &resume, durable.chain())?;
        let started = Instant::now();
        Ok(Driver {
            election: Election::new(config.timing, config.jitter, Duration::ZERO),
            config,
            log,
            engine,
            exchange,
            view: replica.view,
            commands: replica.commands,
            peers,
            place,
            reports: Reports::default(),
            stop,
            order: durable.order(),
            applied: durable.chain().last_block_sequence(),
            claimed_term: 0,
            is_connected: false,
            started,
        })
    }

    /// Takes part in the replication until the end. Reports the end to the engine.
    pub async fn run(mut self) -> End {
        let end = loop {
            let serve = match self.follow().await {
                Ok(serve) => serve,
                Err(end) => break end,
            };
            if let Err(end) = self.lead(serve.accepted, serve.next_offset).await {
                break end;
            }
        };
        self.report(&end);
        // The engine must not wait for blocks that nobody sends any more.
        self.exchange.fail(ReplicaFault::Ended);
        end
    }

    fn report(&self, end: &End) {
        let fault = match end {
            End::Stopped | End::Failed(_) => None,
            End::SteppedDown { term } => {
                self.engine.halt(Condition::SteppedDown);
                Some(format!("another replica leads with term {term}"))
            }
            End::LogEnded { address } => {
                let address = address.as_deref().map_or("another replica", |address| address);
                tracing::warn!(
                    address,
                    "the replicated log has ended, so this replica has stopped"
                );
                Some(format!(
                    "the replicated log has ended; the directory of {address} goes on as an embedded store"
                ))
            }
            End::Halted(reason) => {
                tracing::error!(
                    reason,
                    "this replica has stopped: the log contradicts what it knows"
                );
                Some(reason.clone())
            }
            End::Engine(reason) => {
                tracing::error!(reason, "this replica has stopped: its engine failed");
                self.engine.halt(Condition::StoreFailed);
                Some(reason.clone())
            }
        };
        self.publish(|view| {
            view.role = ReplicaRole::Stopped;
            view.leader = None;
            view.caught_up = false;
            view.fault = fault;
        });
    }

    /// The time for the election.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns the instant at which the election has this time.
    pub(super) fn instant(&self, time: Duration) -> Instant {
        self.started + time
    }

    /// Changes the view and publishes it.
    pub(super) fn publish(&self, change: impl FnOnce(&mut ReplicaView)) {
        self.view.send_modify(|view| {
            let role = view.role;
            change(view);
            if view.role != role {
                view.since = self.engine.clock().wall;
            }
        });
    }

    /// Publishes which block was accepted last, and where the log is read next.
    pub(super) fn publish_accepted(&self, next_offset: u64) {
        let accepted = self.place.reader.accepted();
        let term = accepted.term;
        // A replica that starts in the middle of a term learns from the other replicas who leads.
        let leader = if self.place.has_read_term {
            self.place.leader.clone()
        } else {
            self.peers.leader()
        };
        let block = self.place.chain.last_block_sequence().max(accepted.number);
        let next_sequence = self.engine.durable().order().next_sequence;
        let next_offset = i64::try_from(next_offset).map_or(i64::MAX, |offset| offset);
        self.publish(|view| {
            view.term = view.term.max(term);
            view.leader = leader;
            view.accepted_block = block;
            view.accepted_hash = self.place.chain.previous_hash.0;
            view.next_sequence = next_sequence;
            view.next_offset = next_offset;
            // Everything before the next offset is in the log.
            view.end_offset = view.end_offset.map(|end| end.max(next_offset));
            view.skipped_records = self.place.skipped;
            view.term_changes = self.place.term_changes;
        });
    }

    /// The time that the next block of this replica gets.
    pub(super) fn next_time(&self) -> Timestamp {
        let last = self
            .order
            .last_time
            .max(Timestamp::from_nanos(self.place.base_time_ns));
        self.engine.clock().ledger.max(last.plus_nanos(1))
    }

    /// The time by which the clock of this replica is behind the time of the last accepted block.
    pub(super) fn clock_behind(&self) -> Duration {
        let (last, wall) = (self.place.base_time_ns, self.engine.clock().wall.as_nanos());
        Duration::from_nanos(last.saturating_sub(wall))
    }

    /// Converts the result of an append to the form that the protocol knows.
    pub(super) fn outcome(&mut self, result: &Result<Appended, AppendError>) -> Outcome {
        match result {
            Ok(appended) => Outcome::Appended {
                base_offset: appended.first_offset,
            },
            Err(error) => {
                self.reports.append_failed(error);
                match error {
                    AppendError::Refused(_) => Outcome::Refused,
                    AppendError::Unresolved(_) => Outcome::Unresolved,
                }
            }
        }
    }

    /// Returns the end of a driver whose engine has refused a command that it must execute.
    pub(super) fn refused(error: &EngineError) -> End {
        match error {
            // The service stops, and the engine ends before the driver.
            EngineError::Batch(BatchError::Closed) => End::Stopped,
            EngineError::Batch(_) | EngineError::CircuitOpen(_) | EngineError::Store(_) => {
                End::Engine(error.to_string())
            }
        }
    }

    /// Returns the end of a replica that must stop for good.
    pub(super) fn halt(&self, reason: HaltReason) -> End {
        End::Halted(reason.to_string())
    }
}

/// Waits for a future that may not exist.
pub(super) async fn optional<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
