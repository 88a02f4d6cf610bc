//! The health of the engine: threads report failures, and the service learns of the first failure.

use std::sync::Arc;

use tokio::sync::watch;

/// Whether the engine works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The engine works.
    Running,
    /// A write or a sync of the journal failed. The state in memory shows changes that are not on the disk, so nothing
    /// may be read or written until the next start.
    StoreFailed,
    /// Another replica has become the leader while this one led. The state in memory is ahead of the log, so the process must start
    /// again, as a replica that follows.
    SteppedDown,
    /// A thread or task that the service needs panicked or ended. The state in memory may be inconsistent and must not be used.
    Panicked,
}

/// The engine's condition. Threads report failures here, and the service waits for a failure.
#[derive(Debug)]
pub struct Health(watch::Sender<Condition>);

/// Reports a panic of the thread or task that holds the guard. Without the guard, the process could continue after a
/// panic, but answer no calls.
#[derive(Debug)]
pub struct PanicGuard(Arc<Health>);

// ===== impl PanicGuard =====

impl PanicGuard {
    pub(super) const fn new(health: Arc<Health>) -> Self {
        PanicGuard(health)
    }

    /// Reports that the service can't work, although the thread or task has not panicked.
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

    /// Reports a failure. Only the first failure is kept.
    pub(super) fn fail(&self, condition: Condition) {
        self.0.send_if_modified(|current| {
            let first = *current == Condition::Running;
            if first {
                *current = condition;
            }
            first
        });
    }

    /// Returns the present condition.
    #[must_use]
    pub fn condition(&self) -> Condition {
        *self.0.borrow()
    }

    /// Waits until the engine has failed. Returns the reason.
    pub async fn failed(&self) -> Condition {
        let mut receiver = self.0.subscribe();
        match receiver
            .wait_for(|condition| *condition != Condition::Running)
            .await
        {
            Ok(condition) => *condition,
            // Unreachable: the sender lives in `self`.
            Err(_) => self.condition(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_a_thread_or_a_task_is_reported_and_an_ordinary_end_is_not() {
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

        // tokio catches the panic of a task, and the thread continues.
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
