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

/// Maximum number of blocking-pool threads of one runtime. Programs use these threads to look up host names, to read certificates, and to
/// read files. They start when they are needed, and end when they are idle.
pub const BLOCKING_THREADS_MAX: usize = 16;

/// Name of blocking-pool threads. The programs `ps` and `top` show the first 15 bytes of a name.
pub const BLOCKING_THREAD_NAME: &str = "tally-blocking";

/// Keeps a thread registered. While the guard exists, the thread's mask is verified and the thread is reported. The
/// guard must stay on its thread.
#[derive(Debug)]
pub struct ThreadGuard {
    manager: CpuAffinityManager,
    /// Identifies the thread's entry. `None` if the thread was not registered because of
    /// [`THREADS_MAX`](super::THREADS_MAX).
    ticket: Option<u64>,
    /// Makes the guard stay on its thread. If another thread dropped the guard, a thread that still runs would be
    /// unregistered.
    not_send: PhantomData<*const ()>,
}

/// A started thread of a role. Dropping the handle detaches the thread.
#[derive(Debug)]
pub struct RoleHandle<T> {
    /// The thread's result. `None` if the body did not run, because the thread could not get its planned CPUs or
    /// `SCHED_FIFO`.
    inner: thread::JoinHandle<Option<T>>,
    tid: Tid,
}

thread_local! {
    /// The guard of a blocking-pool thread, kept from Tokio's start hook to its stop hook.
    static BLOCKING_GUARD: RefCell<Option<ThreadGuard>> = const { RefCell::new(None) };
}

/// What a new thread reports to the thread that started it, before the body of the new thread runs.
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

    /// Whether the thread has ended. If so, `join` returns at once.
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
    /// The payload of the panic, if the thread has panicked.
    pub fn join(self) -> thread::Result<T> {
        let not_run = || -> Box<dyn Any + Send> {
            Box::new(
                "the body of the thread did not run, because the thread could not get its planned CPUs or SCHED_FIFO",
            )
        };
        self.inner.join()?.ok_or_else(not_run)
    }
}

// ===== impl CpuAffinityManager =====

impl CpuAffinityManager {
    /// Starts thread `index` of `role` on its planned CPUs, and runs `body` on this thread.
    ///
    /// Returns after the thread has set its mask and its scheduling class and is registered. The thread is unregistered
    /// when `body` returns or panics.
    ///
    /// # Errors
    /// [`AffinityError::SpawnFailed`] if the system can't start a thread. [`AffinityError::PinFailed`] only in mode
    /// `strict`, and [`AffinityError::FifoFailed`] only with `fifo.required`. In case of an error, `body` does not run.
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
                // Sending can't fail, because the receiver waits for this message.
                let _ = started.send(report);
                guard.map(|_registered| body())
            })
            .map_err(failed)?;
        let ended = || failed(io::Error::from(io::ErrorKind::BrokenPipe));
        let tid = start.recv().map_err(|_| ended())??;
        Ok(RoleHandle { inner, tid })
    }

    /// Starts thread `index` of `role` on its planned CPUs with a single-threaded Tokio runtime, and runs the future
    /// that `make` returns. The future need not be `Send`.
    ///
    /// # Errors
    /// Those of [`Self::spawn`]. If the runtime can't be built, this function succeeds, and the thread's result is
    /// [`AffinityError::RuntimeFailed`].
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

    /// Builds a single-threaded runtime for the calling thread. Threads of its blocking pool get the mask of AUX and
    /// are registered as AUX threads, instead of inheriting the calling thread's CPU.
    ///
    /// # Errors
    /// [`AffinityError::RuntimeFailed`], for example if no file descriptor is left.
    pub fn current_thread_runtime(&self) -> Result<Runtime, AffinityError> {
        let manager = self.clone();
        // In a current-thread runtime, only blocking-pool threads call the two hooks.
        Builder::new_current_thread()
            .enable_all()
            .thread_name(BLOCKING_THREAD_NAME)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .on_thread_start(move || manager.join_blocking_pool())
            .on_thread_stop(|| drop(BLOCKING_GUARD.take()))
            .build()
            .map_err(|source| AffinityError::RuntimeFailed { source })
    }

    /// Moves the calling thread to the planned CPUs of thread `index` of `role`, and registers the thread. Call this
    /// method on threads that [`Self::spawn`] did not start, such as the main thread.
    ///
    /// # Errors
    /// [`AffinityError::PinFailed`] only in mode `strict`, and [`AffinityError::FifoFailed`] only with `fifo.required`.
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
            tracing::warn!(
                %role,
                index,
                wanted = pin.wanted.as_ref().map(tracing::field::display),
                actual = pin.actual.as_ref().map(tracing::field::display),
                errno = pin.errno,
                "thread does not have its planned CPU mask"
            );
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
                tracing::warn!(%role, index, %error, "the kernel refused SCHED_FIFO; the thread stays under SCHED_OTHER");
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

    /// Places and registers the calling thread, a new blocking-pool thread, as an AUX thread. If this fails, the thread
    /// runs nevertheless, and a warning is logged.
    fn join_blocking_pool(&self) {
        // Relaxed: the counter orders no other memory access.
        let index = self.shared.blocking_started.fetch_add(1, Ordering::Relaxed);
        match self.enter(Role::Aux, index, BLOCKING_THREAD_NAME) {
            Ok(guard) => BLOCKING_GUARD.set(Some(guard)),
            Err(error) => tracing::warn!(%error, "blocking-pool thread could not be placed and registered"),
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
