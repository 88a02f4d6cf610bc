//! [`Caller`]: announces calls before they submit their requests, and identifies the client of each request.
//!
//! A connection wraps each of its calls in [`Caller::calling`]. From then on, the call is *on its way*, until it
//! submits its request. A batch may wait for calls that are on their way. The request also carries the number of its
//! client, by which batches are shared fairly. Both facts are in thread-local storage while the call is polled. So the
//! layers between the connection and the queue need not pass these facts on.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

thread_local! {
    /// The call that this thread is polling.
    static CALL: Cell<Option<Current>> = const { Cell::new(None) };
}

/// The client number of requests from an unknown client.
pub(super) const UNKNOWN: u64 = 0;

/// The call that a thread is polling.
#[derive(Debug, Clone, Copy)]
struct Current {
    /// The batch processor to which the caller belongs, see [`Callers::id`].
    processor: usize,
    client: u64,
    on_its_way: bool,
}

/// Counts the clients of one batch processor, and their calls that are on their way.
#[derive(Debug, Default)]
pub(super) struct Callers {
    on_their_way: AtomicUsize,
    /// Number of clients registered so far. It is also the number of the newest client.
    clients: AtomicU64,
}

/// One client of a batch processor, such as a connection.
#[derive(Debug, Clone)]
pub struct Caller {
    callers: Arc<Callers>,
    client: u64,
}

pin_project! {
    /// The future of a call that is on its way until it submits its request, ends or is dropped. See
    /// [`Caller::calling`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct Calling<F> {
        #[pin]
        call: F,
        way: Way,
    }
}

/// Counts one call as on its way, until the call submits its request or is dropped.
#[derive(Debug)]
struct Way {
    caller: Caller,
    on_its_way: bool,
}

/// Restores the thread's previous call when dropped.
struct Polling<'a> {
    way: &'a mut Way,
    outer: Option<Current>,
}

// ===== impl Callers =====

impl Callers {
    /// Registers a client under a new number.
    pub(super) fn caller(self: &Arc<Self>) -> Caller {
        Caller {
            callers: Arc::clone(self),
            client: self.clients.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }

    /// Number of calls that have begun and have not yet submitted their request.
    #[inline]
    pub(super) fn on_their_way(&self) -> usize {
        self.on_their_way.load(Ordering::Relaxed)
    }

    /// The client whose call this thread polls; [`UNKNOWN`] outside of a call.
    #[inline]
    pub(super) fn current_client(&self) -> u64 {
        CALL.get()
            .filter(|current| current.processor == self.id())
            .map_or(UNKNOWN, |current| current.client)
    }

    /// Records that the call that this thread polls now submits its request and is no longer on its way. Returns the
    /// call's client; [`UNKNOWN`] outside of a call.
    #[inline]
    pub(super) fn arrived(&self) -> u64 {
        let Some(current) = CALL.get().filter(|current| current.processor == self.id()) else {
            return UNKNOWN;
        };
        if current.on_its_way {
            self.on_their_way.fetch_sub(1, Ordering::Relaxed);
            CALL.set(Some(Current {
                on_its_way: false,
                ..current
            }));
        }
        current.client
    }

    /// Identifies the batch processor by the address of this struct.
    #[inline]
    fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

// ===== impl Caller =====

impl Caller {
    /// The client's number. The first client of a batch processor has the number 1.
    #[must_use]
    #[inline]
    pub const fn client(&self) -> u64 {
        self.client
    }

    /// Announces that `call` will submit a request soon: a batch may wait for this request. Requests that `call`
    /// submits while it is polled belong to this client.
    pub fn calling<F>(&self, call: F) -> Calling<F> {
        self.callers.on_their_way.fetch_add(1, Ordering::Relaxed);
        Calling {
            call,
            way: Way {
                caller: self.clone(),
                on_its_way: true,
            },
        }
    }
}

// ===== impl Calling =====

impl<F: Future> Future for Calling<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let _polling = this.way.polling();
        this.call.poll(context)
    }
}

// ===== impl Way =====

impl Way {
    /// Records that the thread polls this call, until the returned value is dropped.
    #[inline]
    fn polling(&mut self) -> Polling<'_> {
        let outer = CALL.replace(Some(Current {
            processor: self.caller.callers.id(),
            client: self.caller.client,
            on_its_way: self.on_its_way,
        }));
        Polling { way: self, outer }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if self.on_its_way {
            self.caller.callers.on_their_way.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        let current = CALL.replace(self.outer);
        self.way.on_its_way = current.is_some_and(|current| current.on_its_way);
    }
}
