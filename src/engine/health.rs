//! Whether the engine can go on.

use tokio::sync::watch;

/// Whether the engine can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It can.
    Running,
    /// A write or sync of the journal failed. What is in memory is ahead of what is on the disk, so nothing more may be
    /// read or written until the next start.
    StoreFailed,
    /// A thread of the engine panicked. The state may be torn, so it must not be used again.
    Panicked,
}

/// Where the engine's threads say that they can't go on, and the service listens.
#[derive(Debug)]
pub struct Health(watch::Sender<Condition>);

// ===== impl Health =====

impl Health {
    pub(super) fn new() -> Self {
        Health(watch::Sender::new(Condition::Running))
    }

    /// The first failure is kept.
    pub(super) fn fail(&self, condition: Condition) {
        self.0.send_if_modified(|current| {
            let first = *current == Condition::Running;
            if first {
                *current = condition;
            }
            first
        });
    }

    /// What holds now.
    #[must_use]
    pub fn condition(&self) -> Condition {
        *self.0.borrow()
    }

    /// Waits until the engine can't go on, and says why.
    pub async fn failed(&self) -> Condition {
        let mut receiver = self.0.subscribe();
        match receiver
            .wait_for(|condition| *condition != Condition::Running)
            .await
        {
            Ok(condition) => *condition,
            // The sender is `self`, so this does not happen while anybody asks.
            Err(_) => self.condition(),
        }
    }
}
