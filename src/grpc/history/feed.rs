//! Reads each new block of the journal once for all watchers.
//!
//! A task, the *reader*, starts when the first watcher arrives, and ends when the last watcher has left. The reader keeps the newest
//! batches in a *window*. A watcher whose next sequence is in the window takes the batch from the window. A watcher that is behind the
//! window reads from the journal itself, until it has caught up. So a slow watcher delays nobody, and loses nothing.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tally_journal::Position;
use tokio::sync::{Notify, futures::Notified};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::{
    batch::{Batch, accounts_of, encode, take_events},
    id_cache::IdCache,
};
use crate::{
    engine::TallyEngine,
    grpc::{
        status,
        transport::clients::{Client, ClientPlace, Clients},
    },
    store::embedded::DurablePoint,
};

/// Maximum number of open calls of `WatchTransactions`.
const WATCHERS_MAX: usize = 2048;
/// Maximum number of open calls of `WatchTransactions` that one client may have.
const WATCHERS_OF_CLIENT_MAX: usize = 1024;
/// Maximum memory of the batches in the window, in bytes. The memory does not depend on the number of watchers.
const WINDOW_BYTES_MAX: usize = 16 << 20;
/// The reader reads blocks with about this many bytes at a time, or one larger block.
const READ_BYTES: u64 = 256 << 10;
/// The reader encodes transactions of at most about this many bytes at a time.
const ENCODE_BYTES_MAX: usize = 1 << 20;
/// Pause of the reader after it has read everything that was durable, and the part of the pause for each watcher. Under load, one read
/// then gets many blocks, and the watchers wake up once for all of them. So watchers that wait for new transactions wake up at most
/// 50,000 times a second together.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_OF_WATCHER: Duration = Duration::from_micros(20);
/// Maximum number of watchers that hold a large page. The memory of the page counts for the client. With this limit, the pages leave the
/// client enough memory for its other calls.
const LARGE_PAGES_MAX: usize = 32;
/// Maximum number of watchers of one client that hold a large page, so that one client can't take all large pages.
const LARGE_PAGES_OF_CLIENT_MAX: usize = 16;

/// Feeds all watchers of the service.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(super) engine: TallyEngine,
    pub(super) ids: IdCache,
    places: Clients,
    large_pages: Clients,
    state: Mutex<State>,
    /// Signalled when the window has changed.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    watchers: usize,
    window: Window,
    /// The number of the reader. Only this reader changes the window.
    generation: u64,
    reader: Option<AbortOnDropHandle<()>>,
}

/// The newest batches.
#[derive(Debug, Default)]
struct Window {
    /// In the order of their sequences, without gaps.
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    /// The first sequence in the window.
    start: u64,
    /// The sequence after the window.
    next: u64,
    /// Why the reader has ended.
    fault: Option<Status>,
}

/// What the window has for a watcher.
#[derive(Debug)]
pub(super) enum Step {
    /// The batch with the next sequence of the watcher.
    Batch(Arc<Batch>),
    /// Nothing yet.
    Current,
    /// The next sequence of the watcher is no longer in the window, or was never there.
    Behind,
    /// The reader has ended with this error.
    Failed(Status),
}

/// The place of a watcher.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) feed: Arc<Feed>,
    client: Client,
    _place: ClientPlace,
}

/// How far the reader has read.
#[derive(Debug, Clone, Copy)]
struct ReadUpTo {
    /// The next block.
    at: Position,
    /// The next sequence.
    next: u64,
    /// The end of the blocks that were durable when the read began.
    end: Position,
}

// ===== impl Feed =====

impl Feed {
    pub(crate) fn new(engine: TallyEngine) -> Self {
        Feed {
            engine,
            ids: IdCache::default(),
            places: Clients::new(WATCHERS_OF_CLIENT_MAX, WATCHERS_MAX),
            large_pages: Clients::new(LARGE_PAGES_OF_CLIENT_MAX, LARGE_PAGES_MAX),
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Adds a watcher of this client. Call this function in a runtime, because the first watcher starts the reader.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED with too many watchers.
    pub(super) fn subscribe(self: &Arc<Self>, client: Client) -> Result<Subscription, Status> {
        let Some(place) = self.places.admit(client.clone()) else {
            return Err(status::too_many_transaction_watchers(
                WATCHERS_OF_CLIENT_MAX,
                WATCHERS_MAX,
            ));
        };
        let mut state = self.state.lock();
        state.watchers += 1;
        // The reader has also ended if the thread on which it ran has ended.
        let is_reading =
            state.window.fault.is_none() && state.reader.as_ref().is_some_and(|reader| !reader.is_finished());
        if !is_reading {
            let start = self.engine.durable();
            state.generation += 1;
            state.window = Window::new(start.order().next_sequence);
            let reading = read(Arc::clone(self), start, state.generation);
            state.reader = Some(AbortOnDropHandle::new(tokio::spawn(reading)));
        }
        Ok(Subscription {
            feed: Arc::clone(self),
            client,
            _place: place,
        })
    }

    /// Adds batches to the window, unless another reader has begun.
    fn push(&self, batches: Vec<Batch>, generation: u64) {
        let mut state = self.state.lock();
        if state.generation == generation {
            for batch in batches {
                state.window.push(batch);
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    fn fail(&self, why: Status, generation: u64) {
        let mut state = self.state.lock();
        if state.generation == generation {
            state.window.fault = Some(why);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Reads the next blocks, and adds their records to the window. Waits if there are none.
    async fn read_on(&self, at: Position, next: u64, generation: u64) -> Result<ReadUpTo, Status> {
        let end = self.engine.durable_from(next).await?.chain().position;
        let read = self
            .engine
            .follow_history(move |reader| reader.blocks_from(at, end, READ_BYTES));
        let (records, after) = read.await?;
        let mut next = next;
        let mut records = records.into_iter().peekable();
        while records.peek().is_some() {
            let (events, _, _) = take_events(&mut records, ENCODE_BYTES_MAX)?;
            let Some(last) = events.last() else { break };
            let (first, upper) = (next, last.record().place().sequence + 1);
            let ids = self.ids.ids(&self.engine, accounts_of(&events)?).await?;
            self.push(encode(events, ids, first, upper).await?, generation);
            next = upper;
        }
        Ok(ReadUpTo { at: after, next, end })
    }
}

/// Reads the journal from `start` on, until this task is aborted or fails.
async fn read(feed: Arc<Feed>, start: DurablePoint, generation: u64) {
    // Without the reader, the watchers would wait for ever.
    let _guard = feed.engine.panic_guard();
    let (mut at, mut next) = (start.chain().position, start.order().next_sequence);
    loop {
        match feed.read_on(at, next, generation).await {
            Ok(read) => {
                (at, next) = (read.at, read.next);
                let watchers = feed.state.lock().watchers;
                if let Some(pause) = read.pause(watchers) {
                    tokio::time::sleep(pause).await;
                }
            }
            Err(why) => return feed.fail(why, generation),
        }
    }
}

// ===== impl ReadUpTo =====

impl ReadUpTo {
    /// How long the reader pauses after this read. It does not pause if the read has left durable blocks unread. A read takes a bounded
    /// number of bytes, so with pauses the reader, and all watchers with it, would fall further and further behind a fast writer.
    fn pause(&self, watchers: usize) -> Option<Duration> {
        if self.at < self.end {
            return None;
        }
        let watchers = u32::try_from(watchers).unwrap_or(u32::MAX);
        Some(PAUSE.saturating_add(PAUSE_OF_WATCHER.saturating_mul(watchers)))
    }
}

// ===== impl Subscription =====

impl Subscription {
    /// Returns a future that is ready after the next change of the window. Make it before you look into the window.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.feed.changed.notified()
    }

    /// Takes a place for a large page of the journal, if one is free for this client.
    pub(super) fn large_page(&self) -> Option<ClientPlace> {
        self.feed.large_pages.admit(self.client.clone())
    }

    /// Looks for the sequence `next` in the window.
    pub(super) fn step(&self, next: u64) -> Step {
        self.feed.state.lock().window.step(next)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.feed.state.lock();
        state.watchers -= 1;
        if state.watchers == 0 {
            let ended = (state.reader.take(), std::mem::take(&mut state.window));
            state.generation += 1;
            drop(state);
            drop(ended);
        }
    }
}

// ===== impl Window =====

impl Window {
    fn new(start: u64) -> Self {
        Window {
            start,
            next: start,
            ..Window::default()
        }
    }

    fn push(&mut self, batch: Batch) {
        assert_eq!(batch.first, self.next, "the feed has a gap");
        self.next = batch.next;
        self.bytes += batch.memory_bytes();
        self.batches.push_back(Arc::new(batch));
        while self.bytes > WINDOW_BYTES_MAX
            && self.batches.len() > 1
            && let Some(oldest) = self.batches.pop_front()
        {
            self.bytes -= oldest.memory_bytes();
            self.start = oldest.next;
        }
    }

    fn step(&self, next: u64) -> Step {
        if let Some(fault) = &self.fault {
            return Step::Failed(fault.clone());
        }
        if next < self.start {
            return Step::Behind;
        }
        let at = self.batches.partition_point(|batch| batch.next <= next);
        self.batches
            .get(at)
            .map_or(Step::Current, |batch| Step::Batch(Arc::clone(batch)))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::batch::FRAME_BYTES, *};

    #[test]
    fn the_window_is_bounded_and_knows_what_it_has() {
        let mut window = Window::new(5);
        assert!(matches!(window.step(4), Step::Behind));
        assert!(matches!(window.step(5), Step::Current));
        let mut next = 5;
        for _ in 0..3 * WINDOW_BYTES_MAX / FRAME_BYTES {
            window.push(Batch::of_bytes(next, next + 3, vec![0; FRAME_BYTES]));
            next += 3;
            assert!(window.bytes <= WINDOW_BYTES_MAX, "{} bytes", window.bytes);
        }
        assert!(window.batches.len() > WINDOW_BYTES_MAX / FRAME_BYTES / 2);
        assert!(matches!(window.step(window.start - 1), Step::Behind));
        assert!(matches!(window.step(next), Step::Current));
        for sequence in window.start..next {
            let Step::Batch(batch) = window.step(sequence) else {
                panic!("{sequence} is in the window")
            };
            assert!((batch.first..batch.next).contains(&sequence));
        }
        window.fault = Some(status::shutting_down());
        assert!(matches!(window.step(next), Step::Failed(_)));
    }

    #[test]
    fn the_reader_pauses_only_if_it_has_read_everything_that_was_durable() {
        let read = |at, end| ReadUpTo {
            at: Position::new(0, at),
            next: 1,
            end: Position::new(0, end),
        };
        assert_eq!(read(4096, 4096).pause(0), Some(PAUSE));
        assert_eq!(read(4096, 4096).pause(10), Some(PAUSE + 10 * PAUSE_OF_WATCHER));
        // Durable blocks are left, however many watchers there are.
        for watchers in [0, 1, WATCHERS_MAX] {
            assert_eq!(read(4096, 4224).pause(watchers), None);
        }
    }

    #[test]
    fn one_batch_can_be_larger_than_the_window() {
        let mut window = Window::new(1);
        for first in 1..4 {
            window.push(Batch::of_bytes(first, first + 1, vec![0; WINDOW_BYTES_MAX + 1]));
            assert_eq!((window.batches.len(), window.start), (1, first));
        }
    }

    #[test]
    #[should_panic(expected = "the feed has a gap")]
    fn a_gap_is_a_bug() {
        Window::new(1).push(Batch::of_bytes(2, 3, Vec::new()));
    }
}
