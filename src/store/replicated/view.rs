//! What the service knows about its replica, and what it asks of the replica's driver.
//!
//! The driver takes part in the replication protocol. It publishes a [`ReplicaView`] after each change, and receives
//! [`ReplicaCommand`]s. The other parts of the service have a [`Replica`]. They never wait for the driver, except in
//! [`Replica::resign`].

use tally_ledger::Timestamp;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

/// Maximum number of commands that wait for the driver. Reports that find no room are dropped, because the next report
/// says the same.
const COMMANDS_MAX: usize = 64;

/// What a replica does at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReplicaRole {
    /// The replica reads its data directory, or connects to the log for the first time.
    #[default]
    Starting,
    /// The replica applies the blocks of the leader, and forwards calls to the leader.
    Standby,
    /// The replica has sent a claim to the log and does not know yet whether the claim was accepted.
    Candidate,
    /// The replica executes calls. Only one replica has an accepted claim at a time.
    Leader,
    /// The replica has stopped because of a fault, which [`ReplicaView::fault`] names.
    Stopped,
}

/// The state of a replica at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplicaView {
    /// What the replica does.
    pub role: ReplicaRole,
    /// The term of the last accepted block. 0 before the first claim was accepted.
    pub term: u64,
    /// The advertised address of the leader of the term. `None` if the leader is unknown, has resigned or is silent.
    pub leader: Option<String>,
    /// The advertised address of this replica.
    pub own_address: String,
    /// The number of the last accepted block.
    pub accepted_block: u64,
    /// The hash of the last accepted block.
    pub accepted_hash: [u8; 32],
    /// The sequence that the next transaction gets, as of the last accepted block.
    pub next_sequence: u64,
    /// The offset in the log from which the replica reads next.
    pub next_offset: i64,
    /// The end of the log, as of the replica's last successful read.
    pub end_offset: Option<i64>,
    /// The age of the last accepted block in milliseconds, if the replica has not applied all blocks of the log. 0 if it has
    /// applied all of them, and `None` if the end of the log is unknown.
    pub lag_ms: Option<u64>,
    /// Whether the replica has applied everything that was in the log when it last read successfully.
    pub caught_up: bool,
    /// The number of records of the log that the replica did not accept, since the process started.
    pub skipped_records: u64,
    /// The number of claims that this replica has sent since the process started.
    pub claims: u64,
    /// The number of changes of the term that the replica has seen since the process started.
    pub term_changes: u64,
    /// The time since which the replica has its role.
    pub since: Timestamp,
    /// Why the replica has stopped, or why it can't take part at the moment.
    pub fault: Option<String>,
}

/// A handle to the replica of this process. All clones belong to the same replica.
#[derive(Debug, Clone)]
pub struct Replica {
    view: watch::Receiver<ReplicaView>,
    commands: mpsc::Sender<ReplicaCommand>,
}

/// The other side of a [`Replica`]: publishes the view and receives the commands. The driver of the replica owns it; in
/// tests, the test itself.
#[derive(Debug)]
pub struct ReplicaDriver {
    /// Publishes the view.
    pub view: watch::Sender<ReplicaView>,
    /// Receives the commands.
    pub commands: mpsc::Receiver<ReplicaCommand>,
}

/// What the service asks of the driver of its replica.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReplicaCommand {
    /// Give up leadership.
    Resign {
        /// The advertised address of the replica that should lead next. `None`: any replica.
        successor: Option<String>,
        /// Receives the result.
        answer: oneshot::Sender<Result<Resigned, ResignError>>,
    },
    /// End the log: write its last block, after which only the directory of this replica continues the ledger, as an
    /// embedded store.
    EndLog {
        /// Receives the result.
        answer: oneshot::Sender<Result<Resigned, ResignError>>,
    },
    /// A call could not be forwarded to the leader.
    ForwardFailed {
        /// The address of the leader.
        leader: String,
    },
    /// A call was forwarded to the leader for the first time after [`ReplicaCommand::ForwardFailed`].
    ForwardSucceeded {
        /// The address of the leader.
        leader: String,
    },
    /// The leader has closed a connection of this replica.
    LeaderClosed {
        /// The address of the leader.
        leader: String,
    },
}

/// A replica has given up leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resigned {
    /// The term that has ended.
    pub term: u64,
}

/// Why a replica did not give up leadership.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ResignError {
    /// The replica does not lead.
    #[error("this replica is not the leader; call the leader")]
    NotLeader,
    /// No peer has the address of the successor.
    #[error(
        "successor = {address}: must be the address of another replica in store.replicated.peers, or be left out"
    )]
    UnknownSuccessor {
        /// The address.
        address: String,
    },
    /// The log did not accept the resignation in time. It may still accept the resignation later.
    #[error(
        "the log did not accept the resignation in time; look at GetReplicaState before you repeat the call"
    )]
    Unresolved,
    /// The driver of the replica has ended.
    #[error("the replica is stopping")]
    Stopping,
}

// ===== impl ReplicaRole =====

impl ReplicaRole {
    /// All roles.
    pub const ALL: [ReplicaRole; 5] = [
        ReplicaRole::Starting,
        ReplicaRole::Standby,
        ReplicaRole::Candidate,
        ReplicaRole::Leader,
        ReplicaRole::Stopped,
    ];

    /// Returns the name of the role in metrics, logs and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ReplicaRole::Starting => "starting",
            ReplicaRole::Standby => "standby",
            ReplicaRole::Candidate => "candidate",
            ReplicaRole::Leader => "leader",
            ReplicaRole::Stopped => "stopped",
        }
    }
}

// ===== impl ReplicaView =====

impl ReplicaView {
    /// Returns whether this replica executes calls.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.role == ReplicaRole::Leader
    }

    /// Returns the address of the leader if it is known and is another replica.
    #[must_use]
    pub fn other_leader(&self) -> Option<&str> {
        self.leader
            .as_deref()
            .filter(|leader| *leader != self.own_address)
    }
}

// ===== impl Replica =====

impl Replica {
    /// Makes a replica with its first view, and the driver's side of the replica.
    #[must_use]
    pub fn new(view: ReplicaView) -> (Self, ReplicaDriver) {
        let (publisher, receiver) = watch::channel(view);
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let replica = Replica {
            view: receiver,
            commands: sender,
        };
        let driver = ReplicaDriver {
            view: publisher,
            commands,
        };
        (replica, driver)
    }

    /// Returns the newest view.
    #[must_use]
    pub fn view(&self) -> ReplicaView {
        self.view.borrow().clone()
    }

    /// Returns what `read` finds in the newest view, without a copy of the view. `read` must not wait.
    pub fn read<T>(&self, read: impl FnOnce(&ReplicaView) -> T) -> T {
        read(&self.view.borrow())
    }

    /// Returns a receiver of all later views.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<ReplicaView> {
        self.view.clone()
    }

    /// Waits until the view differs from the view that the caller saw last. Returns `false` if the driver has ended, so that
    /// the view never changes again.
    pub async fn changed(&mut self) -> bool {
        self.view.changed().await.is_ok()
    }

    /// Gives up leadership, in favour of the replica with the address `successor` if a successor is given.
    ///
    /// # Errors
    /// [`ResignError`].
    pub async fn resign(&self, successor: Option<String>) -> Result<Resigned, ResignError> {
        let (answer, answered) = oneshot::channel();
        let sent = self
            .commands
            .send(ReplicaCommand::Resign { successor, answer })
            .await;
        sent.map_err(|_| ResignError::Stopping)?;
        answered.await.map_err(|_| ResignError::Stopping)?
    }

    /// Ends the log, so that the directory of this replica can continue the ledger as an embedded store.
    ///
    /// # Errors
    /// [`ResignError`].
    pub async fn end_log(&self) -> Result<Resigned, ResignError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.commands.send(ReplicaCommand::EndLog { answer }).await;
        sent.map_err(|_| ResignError::Stopping)?;
        answered.await.map_err(|_| ResignError::Stopping)?
    }

    /// Reports that a call could not be forwarded to the leader with this address.
    pub fn forward_failed(&self, leader: &str) {
        self.report(ReplicaCommand::ForwardFailed {
            leader: leader.to_owned(),
        });
    }

    /// Reports that a call was forwarded to the leader with this address, after a report that this was not possible.
    pub fn forward_succeeded(&self, leader: &str) {
        self.report(ReplicaCommand::ForwardSucceeded {
            leader: leader.to_owned(),
        });
    }

    /// Reports that the leader with this address has closed a connection.
    pub fn leader_closed(&self, leader: &str) {
        self.report(ReplicaCommand::LeaderClosed {
            leader: leader.to_owned(),
        });
    }

    /// Sends a report to the driver. If too many commands wait, or the driver has ended, the report is dropped: the driver
    /// does not need it to be safe, only to react faster.
    fn report(&self, report: ReplicaCommand) {
        drop(self.commands.try_send(report));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_driver_publishes_views_and_receives_commands() {
        let (mut replica, mut driver) = Replica::new(ReplicaView::default());
        assert_eq!(replica.view().role, ReplicaRole::Starting);
        driver.view.send_modify(|view| {
            view.role = ReplicaRole::Standby;
            view.own_address = "http://a:1".to_owned();
            view.leader = Some("http://b:1".to_owned());
        });
        assert!(replica.changed().await);
        assert_eq!(replica.view().other_leader(), Some("http://b:1"));
        driver
            .view
            .send_modify(|view| view.leader = Some("http://a:1".to_owned()));
        assert_eq!(replica.view().other_leader(), None);
        // More reports than the channel has room for are dropped, and nothing waits.
        for _ in 0..2 * COMMANDS_MAX {
            replica.forward_failed("http://b:1");
        }
        let command = driver.commands.recv().await.unwrap();
        assert!(
            matches!(&command, ReplicaCommand::ForwardFailed { leader } if leader == "http://b:1"),
            "{command:?}"
        );
    }

    #[tokio::test]
    async fn a_resignation_gets_the_answer_of_the_driver_or_learns_that_the_driver_has_ended() {
        let (replica, mut driver) = Replica::new(ReplicaView::default());
        let answering = async {
            let command = driver.commands.recv().await.unwrap();
            let ReplicaCommand::Resign { successor, answer } = command else {
                panic!("{command:?}")
            };
            assert_eq!(successor.as_deref(), Some("http://b:1"));
            answer.send(Ok(Resigned { term: 7 })).unwrap();
        };
        let resigned = replica.resign(Some("http://b:1".to_owned()));
        let (resigned, ()) = tokio::join!(resigned, answering);
        assert_eq!(resigned, Ok(Resigned { term: 7 }));
        drop(driver);
        assert_eq!(replica.resign(None).await, Err(ResignError::Stopping));
    }
}
