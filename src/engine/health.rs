//! Whether the engine can go on.

use std::sync::Arc;

use tokio::sync::watch;

/// Whether the engine can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It can.
    Running,
    /// A write or sync of the journal failed. What is in memory is ahead of what is on the disk, so nothing more may be
    /// read or written until the next start.
    StoreFailed,
    /// A thread that the service needs panicked or ended. The state may be torn, so it must not be used again.
    Panicked,
}

/// Where the engine's threads say that they can't go on, and the service listens.
#[derive(Debug)]
pub struct Health(watch::Sender<Condition>);

/// Held by what must not end before the service does, on a thread of its own or in a task. A panic there would leave a
/// process that looks well and does not serve.
#[derive(Debug)]
pub struct PanicGuard(Arc<Health>);

// ===== impl PanicGuard =====

impl PanicGuard {
    pub(super) const fn new(health: Arc<Health>) -> Self {
        PanicGuard(health)
    }

    /// Says that the service can't go on, without a panic.
    pub fn fail(&self) {
        self.0.fail(Condition::Panicked);
    }
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fail();
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_a_thread_or_of_a_task_is_told_and_an_end_is_not() {
        let guard = |health: &Arc<Health>| PanicGuard::new(Arc::clone(health));
        let health = Arc::new(Health::new());
        drop(guard(&health));
        assert_eq!(health.condition(), Condition::Running);
        let held = guard(&health);
        let ended = std::thread::spawn(move || {
            let _held = held;
            panic!("on purpose");
        });
        assert!(ended.join().is_err());
        assert_eq!(health.condition(), Condition::Panicked);

        // tokio catches the panic of a task; the thread goes on.
        let health = Arc::new(Health::new());
        let held = guard(&health);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let ended = runtime.block_on(async {
            let task = tokio::spawn(async move {
                let _held = held;
                tokio::task::yield_now().await;
                panic!("on purpose");
            });
            task.await
        });
        assert!(ended.is_err());
        assert_eq!(health.condition(), Condition::Panicked);
    }
}
