//! Starts threads and async runtimes on their planned CPUs.

use std::{
    any::Any,
    cell::RefCell,
    future::Future,
    io,
    marker::PhantomData,
    sync::{atomic::Ordering, mpsc},
    thread,
};

use tokio::runtime::{Builder, Runtime};

use super::{
    config::Mode,
    error::AffinityError,
    manager::CpuAffinityManager,
    pin::{self, PinOutcome},
    registry::Entry,
    role::Role,
};
use crate::sys::affinity::{self, THIS_THREAD, Tid};

/// Maximum number of blocking-pool threads of one runtime. They are rarely used: for name lookups and for reading certificates.
pub const BLOCKING_THREADS_MAX: usize = 4;

/// Name of blocking-pool threads (15 bytes are visible in `ps` and `top`).
pub const BLOCKING_THREAD_NAME: &str = "tally-blocking";

/// Keeps a thread registered: while the guard exists, the thread is verified and shown. It must stay on its thread.
#[derive(Debug)]
pub struct ThreadGuard {
    manager: CpuAffinityManager,
    /// `None` if there were too many threads to register this one.
    ticket: Option<u64>,
    /// Dropping the guard on another thread would unregister a thread that still runs.
    not_send: PhantomData<*const ()>,
}

/// A started thread of a role. Dropping the handle detaches the thread.
#[derive(Debug)]
pub struct RoleHandle<T> {
    /// The thread's result, or `None` if it was not allowed to begin.
    inner: thread::JoinHandle<Option<T>>,
    tid: Tid,
}

thread_local! {
    /// The guard of a blocking-pool thread, kept from Tokio's start hook to its stop hook.
    static BLOCKING_GUARD: RefCell<Option<ThreadGuard>> = const { RefCell::new(None) };
}

/// What a new thread reports to the thread that started it, before its body runs.
type Started = Result<Tid, AffinityError>;

// ===== impl ThreadGuard =====

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.manager.shared.registry.remove(ticket);
        }
    }
}

// ===== impl RoleHandle =====

impl<T> RoleHandle<T> {
    /// The kernel's id of the thread.
    #[must_use]
    pub const fn tid(&self) -> Tid {
        self.tid
    }

    /// Whether the thread has ended, so that `join` does not wait.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.inner.is_finished()
    }

    /// The standard library's handle of the thread, for `unpark` and the name.
    #[must_use]
    pub fn thread(&self) -> &thread::Thread {
        self.inner.thread()
    }

    /// Waits for the thread and returns its result.
    ///
    /// # Errors
    /// The payload of a panic of the thread.
    pub fn join(self) -> thread::Result<T> {
        let refused = || -> Box<dyn Any + Send> { Box::new("the thread was refused its place") };
        self.inner.join()?.ok_or_else(refused)
    }
}

// ===== impl CpuAffinityManager =====

impl CpuAffinityManager {
    /// Starts thread `index` of `role` on its planned CPUs, and runs `body` there.
    ///
    /// Returns when the thread has its mask and its scheduling class and is registered. The thread is unregistered when `body` returns
    /// or panics.
    ///
    /// # Errors
    /// [`AffinityError::SpawnFailed`]; in mode `strict` [`AffinityError::PinFailed`]; with
    /// `fifo.required` [`AffinityError::FifoFailed`]. In case of an error, `body` does not run.
    pub fn spawn<F, T>(
        &self,
        role: Role,
        index: usize,
        name: &str,
        body: F,
    ) -> Result<RoleHandle<T>, AffinityError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let failed = |source| AffinityError::SpawnFailed {
            name: name.to_owned(),
            source,
        };
        let manager = self.clone();
        let thread_name = name.to_owned();
        let (started, start) = mpsc::sync_channel::<Started>(1);
        let inner = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let entered = manager.enter(role, index, &thread_name);
                let (report, guard) = match entered {
                    Ok(guard) => (Ok(affinity::gettid()), Some(guard)),
                    Err(error) => (Err(error), None),
                };
                // The receiver waits for this one message.
                let _ = started.send(report);
                guard.map(|_registered| body())
            })
            .map_err(failed)?;
        let ended = || failed(io::Error::from(io::ErrorKind::BrokenPipe));
        let tid = start.recv().map_err(|_| ended())??;
        Ok(RoleHandle { inner, tid })
    }

    /// Starts thread `index` of `role` on its planned CPUs with a single-threaded Tokio runtime, and runs the future that `make`
    /// returns. The future need not be `Send`.
    ///
    /// # Errors
    /// Those of [`Self::spawn`]; the thread's result is [`AffinityError::RuntimeFailed`] when the
    /// runtime cannot be built.
    pub fn spawn_async<M, F>(
        &self,
        role: Role,
        index: usize,
        name: &str,
        make: M,
    ) -> Result<RoleHandle<Result<F::Output, AffinityError>>, AffinityError>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future,
        F::Output: Send + 'static,
    {
        let manager = self.clone();
        self.spawn(role, index, name, move || {
            let runtime = manager.current_thread_runtime()?;
            Ok(runtime.block_on(make()))
        })
    }

    /// Builds a single-threaded runtime for the calling thread. Threads of its blocking pool get the mask of AUX and are registered as
    /// AUX threads, instead of inheriting the calling thread's CPU.
    ///
    /// # Errors
    /// [`AffinityError::RuntimeFailed`], for example if no file descriptor is left.
    pub fn current_thread_runtime(&self) -> Result<Runtime, AffinityError> {
        let manager = self.clone();
        // In a current-thread runtime the two hooks run on blocking-pool threads only.
        Builder::new_current_thread()
            .enable_all()
            .thread_name(BLOCKING_THREAD_NAME)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .on_thread_start(move || manager.join_blocking_pool())
            .on_thread_stop(|| drop(BLOCKING_GUARD.take()))
            .build()
            .map_err(|source| AffinityError::RuntimeFailed { source })
    }

    /// Moves the calling thread to the planned CPUs of thread `index` of `role`, and registers it. For threads that were started
    /// otherwise, such as the main thread; start other threads with [`Self::spawn`].
    ///
    /// # Errors
    /// In mode `strict` [`AffinityError::PinFailed`]; with `fifo.required`
    /// [`AffinityError::FifoFailed`].
    pub fn enter(&self, role: Role, index: usize, name: &str) -> Result<ThreadGuard, AffinityError> {
        let (pin, fifo) = (self.place(role, index), self.promote(role));
        let config = &self.shared.config;
        if !pin.is_ok() && config.mode == Mode::Strict {
            return Err(AffinityError::PinFailed {
                role,
                index,
                wanted: pin.wanted.clone().unwrap_or_default(),
                actual: pin.actual.clone().unwrap_or_default(),
                source: pin.error(),
            });
        }
        if !pin.is_ok() {
            tracing::warn!(%role, index, wanted = ?pin.wanted, actual = ?pin.actual, errno = pin.errno, "thread is not placed as planned");
        }
        let fifo_errno = match fifo {
            Ok(()) => None,
            Err(source) if config.fifo.required => {
                let priority = config.fifo.priority;
                return Err(AffinityError::FifoFailed {
                    role,
                    priority,
                    source,
                });
            }
            Err(error) => {
                tracing::warn!(%role, index, %error, "SCHED_FIFO refused, the thread stays under SCHED_OTHER");
                Some(error.raw_os_error().unwrap_or_default())
            }
        };
        let fifo_wanted = config.fifo.enabled && role.may_be_fifo();
        let ticket = self.shared.registry.add(Entry {
            ticket: 0,
            role,
            index,
            name: name.to_owned(),
            tid: affinity::gettid(),
            pin,
            fifo_priority: fifo_wanted.then_some(config.fifo.priority),
            fifo_errno,
        });
        Ok(ThreadGuard {
            manager: self.clone(),
            ticket,
            not_send: PhantomData,
        })
    }

    /// Registers a new blocking-pool thread as an AUX thread. The thread runs even if this fails.
    fn join_blocking_pool(&self) {
        // Relaxed: the counter orders no other memory access.
        let index = self.shared.blocking_started.fetch_add(1, Ordering::Relaxed);
        match self.enter(Role::Aux, index, BLOCKING_THREAD_NAME) {
            Ok(guard) => BLOCKING_GUARD.set(Some(guard)),
            Err(error) => tracing::warn!(%error, "blocking thread is not placed as planned"),
        }
    }

    /// Sets the mask of the calling thread.
    fn place(&self, role: Role, index: usize) -> PinOutcome {
        let layout = self.in_force();
        match layout.plan.mask(role, index) {
            Some(wanted) => pin::pin(THIS_THREAD, &wanted, &layout.plan.allowed),
            None => PinOutcome {
                actual: pin::mask_of(THIS_THREAD).ok(),
                ..PinOutcome::default()
            },
        }
    }

    /// Sets the scheduling class of the calling thread.
    fn promote(&self, role: Role) -> io::Result<()> {
        let fifo = &self.shared.config.fifo;
        if fifo.enabled && role.may_be_fifo() {
            pin::become_fifo(fifo)
        } else {
            Ok(())
        }
    }
}
