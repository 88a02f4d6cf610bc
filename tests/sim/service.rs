//! The service under the scheduler: the engine, its cores, and whether they have work.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Waker},
};

use tally::engine::{Cores, ExecStep, PipelineStep, TallyEngine};
use tokio::time::Instant;

use crate::clients::Flag;

/// The running service.
pub(crate) struct Service {
    pub(crate) engine: TallyEngine,
    pub(crate) cores: Cores,
    pub(crate) exec_ready: bool,
    /// The time at which EXEC wakes by itself, because a hold may expire.
    pub(crate) exec_due: Option<Instant>,
    pub(crate) wal_ready: bool,
    pub(crate) maintenance_due: Instant,
    maintenance_woken: Arc<Flag>,
    pub(crate) tick_due: Instant,
    /// The wake task of the clients' runtime, and whether it was woken.
    wake_task: Option<(Task, Arc<Flag>)>,
}

/// A task of the clients' runtime.
type Task = Pin<Box<dyn Future<Output = ()>>>;

// ===== impl Service =====

impl Service {
    pub(crate) fn new(engine: TallyEngine, cores: Cores, with_wake_task: bool) -> Self {
        let now = Instant::now();
        let wake_task = with_wake_task.then(|| {
            let task: Task = Box::pin(engine.wake_task(0));
            (task, Flag::raised())
        });
        Service {
            wake_task,
            engine,
            cores,
            exec_ready: true,
            exec_due: None,
            wal_ready: true,
            maintenance_due: now,
            maintenance_woken: Flag::raised(),
            tick_due: now,
        }
    }

    pub(crate) const fn wake(&mut self) {
        self.exec_ready = true;
        self.wal_ready = true;
    }

    /// Whether EXEC may have work.
    pub(crate) fn exec_is_due(&self, now: Instant) -> bool {
        self.exec_ready || self.exec_due.is_some_and(|due| due <= now)
    }

    pub(crate) fn maintenance_is_due(&self, now: Instant) -> bool {
        self.maintenance_due <= now || self.maintenance_woken.is_raised()
    }

    /// Lets the pipeline do one piece of work.
    pub(crate) fn step_wal(&mut self) -> PipelineStep {
        let step = self.cores.step_wal();
        self.wal_ready = step == PipelineStep::Worked;
        self.exec_ready |= self.wal_ready;
        step
    }

    /// Lets EXEC do one piece of work.
    pub(crate) fn step_exec(&mut self) -> ExecStep {
        let step = self.cores.step_exec();
        self.exec_ready = step == ExecStep::Worked;
        self.exec_due = match step {
            ExecStep::Idle { until, .. } => until.map(|time| Instant::now() + time),
            ExecStep::Worked | ExecStep::Blocked(_) | ExecStep::Ended => None,
        };
        self.wal_ready = true;
        step
    }

    pub(crate) fn step_maintenance(&mut self) {
        self.maintenance_woken.lower();
        let waker = Waker::from(Arc::clone(&self.maintenance_woken));
        let rest = self.cores.step_maintenance(&waker);
        self.maintenance_due = Instant::now() + rest;
        self.exec_ready = true;
    }

    pub(crate) fn wake_task_is_woken(&self) -> bool {
        self.wake_task
            .as_ref()
            .is_some_and(|(_, woken)| woken.is_raised())
    }

    /// Lets the wake task wake the clients and EXEC.
    pub(crate) fn run_wake_task(&mut self) {
        if let Some((task, woken)) = &mut self.wake_task {
            woken.lower();
            let waker = Waker::from(Arc::clone(woken));
            assert!(
                task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending(),
                "the wake task ended"
            );
            self.exec_ready = true;
        }
    }

    pub(crate) fn tick(&mut self) {
        self.engine.tick();
        self.tick_due = Instant::now() + self.engine.circuits()[0].config().tick_interval;
        self.exec_ready = true;
    }
}
