//! `WatchTransactions`: sends the ledger in its order, first what is in the journal, then what is new.
//!
//! A watcher knows only the next sequence that it must send. It takes the batch with this sequence from the window of the feed, or reads
//! a page of the journal. So there is no gap and no duplicate, whichever of the two it reads.

use std::{collections::VecDeque, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::{
    batch::{Batch, FRAME_BYTES, accounts_of, encode, heartbeat, take_events},
    feed::{Feed, Step, Subscription},
    transactions::Filter,
};
use crate::{
    engine::StoreFault,
    grpc::{
        limits::QUERY_BYTES_MAX,
        status,
        transport::{
            budget::{Reservation, until_sent},
            clients::{Client, ClientPlace},
            connection_limits::ConnectionLimits,
            framing::{AdmittedCall, Inbound},
            lifetime::Lifetime,
            outbound::Frames,
        },
    },
    proto::WatchTransactionsRequest,
};

/// A watch that has nothing to send for this time sends a heartbeat. The comment in the proto file states it, too.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// Maximum number of frames of a watcher that are not sent yet.
const FRAMES_MAX: usize = 2;
/// The pages that a watcher reads while it catches up.
const LARGE_PAGE: PageBytes = PageBytes {
    records: 256 << 10,
    encoded: 1 << 20,
};
/// The pages that a watcher reads if there is too little memory for a large page, or too many watchers hold one.
const SMALL_PAGE: PageBytes = PageBytes {
    records: 4 << 10,
    encoded: 16 << 10,
};
/// The memory that a watcher holds all the time, in bytes.
const WATCH_BYTES: usize = FRAMES_MAX * FRAME_BYTES + SMALL_PAGE.records + SMALL_PAGE.encoded;

/// Maximum memory of a page, in bytes: of its records, of their encoded descriptions, and of the last transaction, which may exceed both.
#[derive(Debug, Clone, Copy)]
struct PageBytes {
    records: usize,
    encoded: usize,
}

/// The memory of a page that is not part of [`WATCH_BYTES`], and the place of a large page.
type PageHeld = (Reservation, Option<ClientPlace>);

/// The frames of a watch, and the error that ends it.
type FrameSender = mpsc::Sender<Result<Bytes, Status>>;

/// Sends the ledger to one client. It runs in its own task, because the stream of an answer is not polled while the client does not
/// read, and the watcher of such a client must end, too.
struct Watcher {
    subscription: Subscription,
    filter: Filter,
    limits: Arc<ConnectionLimits>,
    /// [`WATCH_BYTES`]. Each frame shares it until the frame is sent.
    held: Arc<Reservation>,
    /// [`FRAMES_MAX`] permits.
    sending: Arc<Semaphore>,
    /// The stream is complete up to the sequence before this one.
    next: u64,
    /// The rest of the page that was read last, with its memory.
    page: VecDeque<Batch>,
    page_held: Option<PageHeld>,
    /// Whether a frame was sent.
    has_begun: bool,
}

/// Begins a watch of the client with this address.
///
/// # Errors
/// INVALID_ARGUMENT, RESOURCE_EXHAUSTED with too many watchers or too little memory.
pub(crate) async fn watch(
    feed: &Arc<Feed>,
    call: AdmittedCall,
    lifetime: Lifetime,
    client: IpAddr,
) -> Result<Frames, Status> {
    let (request, mut inbound) =
        Inbound::read_request::<WatchTransactionsRequest>(call, QUERY_BYTES_MAX).await?;
    let filter = Filter::of(&request.id_prefix, inbound.scope())?;
    let next = first_sequence(feed, request.from_sequence)?;
    inbound.hold(WATCH_BYTES)?;
    let client = Client::of_call(client, inbound.principal());
    let watcher = Watcher {
        subscription: feed.subscribe(client)?,
        filter,
        limits: Arc::clone(&inbound.limits),
        held: Arc::new(inbound.into_reservation()),
        sending: Arc::new(Semaphore::new(FRAMES_MAX)),
        next,
        page: VecDeque::new(),
        page_held: None,
        has_begun: false,
    };
    // One place more than frames: the error at the end has a place even if the client reads no frame.
    let (sender, receiver) = mpsc::channel(FRAMES_MAX + 1);
    let watching = AbortOnDropHandle::new(tokio::spawn(watcher.run(lifetime, sender)));
    Ok(Box::pin(stream::unfold(
        Some((receiver, watching)),
        |watch| async {
            let (mut receiver, watching) = watch?;
            Some(match receiver.recv().await {
                Some(Ok(frame)) => (Ok(frame), Some((receiver, watching))),
                Some(Err(why)) => (Err(why), None),
                // The task has panicked, which is a bug, or the runtime ends.
                None => (Err(status::engine(&StoreFault::ReadFailed.into())), None),
            })
        },
    )))
}

/// Checks `from_sequence`.
///
/// A later sequence is an error, because the watch would send nothing until the ledger reaches it. A client that asks for such a sequence has
/// followed another ledger, for example this ledger before it was restored from a backup.
fn first_sequence(feed: &Feed, from_sequence: i64) -> Result<u64, Status> {
    let most = feed.engine.durable().order().next_sequence;
    match u64::try_from(from_sequence) {
        Ok(from) if from <= most => Ok(from.max(1)),
        Ok(_) => {
            let description =
                format!("is {from_sequence}, must be at most {most}, the newest durable sequence plus 1");
            Err(status::invalid_field("from_sequence", description))
        }
        Err(_) => {
            let description = format!("is {from_sequence}, must be at least 0");
            Err(status::invalid_field("from_sequence", description))
        }
    }
}

// ===== impl Watcher =====

impl Watcher {
    /// Sends frames until the watch must end. Then the watcher is dropped at once, so that its memory and its place become free even if the
    /// client reads the error late.
    async fn run(mut self, lifetime: Lifetime, sender: FrameSender) {
        let mut over = pin!(lifetime.ended());
        loop {
            let frame = tokio::select! {
                biased;
                why = &mut over => Err(why),
                frame = self.next_frame() => frame,
            };
            let frame = frame.map_err(|why| status::resumable(&why, self.next));
            let is_over = frame.is_err();
            // The channel has room, because a frame in the channel has one of the permits of `sending`. So an error means that the client
            // has ended the call.
            if sender.try_send(frame).is_err() || is_over {
                return;
            }
        }
    }

    /// Waits for the next frame.
    async fn next_frame(&mut self) -> Result<Bytes, Status> {
        // The frame is made only when it can be sent, so that an unread watch takes no more memory.
        // Without a limit, a client that does not read could keep the memory and the place of the watch for ever.
        let stall = self.limits.time_max;
        let permit = timeout(stall, Arc::clone(&self.sending).acquire_owned()).await;
        let Ok(permit) = permit.map_err(|_| status::watch_too_slow(stall))? else {
            // The semaphore is never closed.
            return Err(status::shutting_down());
        };
        let beat = Instant::now() + HEARTBEAT;
        loop {
            if let Some(batch) = self.page.pop_front() {
                let frame = self.frame(&batch)?;
                if self.page.is_empty() {
                    self.page_held = None;
                }
                if let Some(frame) = frame {
                    return Ok(self.send(frame, permit));
                }
                continue;
            }
            if let Some(frame) = self.step(beat).await? {
                return Ok(self.send(frame, permit));
            }
            // The first response shows at once that the watch has begun.
            if self.page.is_empty() && (!self.has_begun || Instant::now() >= beat) {
                return Ok(self.send((heartbeat(self.next), None), permit));
            }
        }
    }

    /// Takes the next batch from the window, or reads a page, or waits for the next change until `beat`.
    async fn step(&mut self, beat: Instant) -> Result<Option<(Bytes, Option<Reservation>)>, Status> {
        let changed = self.subscription.changed();
        match self.subscription.step(self.next) {
            Step::Batch(batch) => {
                drop(changed);
                self.frame(&batch)
            }
            Step::Failed(why) => Err(why),
            Step::Behind => {
                drop(changed);
                self.read_page().await?;
                Ok(None)
            }
            Step::Current if self.has_begun => {
                // After the time has passed, the caller sends a heartbeat.
                let _is_changed = timeout_at(beat, changed).await;
                Ok(None)
            }
            Step::Current => Ok(None),
        }
    }

    /// Returns the part of a batch that the client wants, if any, and the memory that this part takes beyond that of a usual frame. Sets the
    /// next sequence to the first one after the batch.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if there is too little memory. Then the next sequence does not change.
    fn frame(&mut self, batch: &Batch) -> Result<Option<(Bytes, Option<Reservation>)>, Status> {
        let frame = batch.frame_for(&self.filter, self.next);
        let frame = match frame {
            Some(frame) if frame.len() > FRAME_BYTES => {
                let more = self.reserve(frame.len() - FRAME_BYTES)?;
                Some((frame, Some(more)))
            }
            Some(frame) => Some((frame, None)),
            None => None,
        };
        self.next = batch.next;
        Ok(frame)
    }

    fn send(&mut self, (frame, more): (Bytes, Option<Reservation>), permit: OwnedSemaphorePermit) -> Bytes {
        self.has_begun = true;
        until_sent(frame, (Arc::clone(&self.held), more, permit))
    }

    fn reserve(&self, bytes: usize) -> Result<Reservation, Status> {
        let reservation = self.limits.memory.reserve(bytes);
        reservation.ok_or_else(|| self.limits.memory_limit_reached())
    }

    /// Reads the page of the journal that begins with the next sequence. Every byte of the page is reserved before it is kept.
    async fn read_page(&mut self) -> Result<(), Status> {
        let large = self.subscription.large_page().and_then(|place| {
            let bytes = LARGE_PAGE.records + LARGE_PAGE.encoded;
            self.limits.memory.reserve(bytes).map(|memory| (memory, place))
        });
        let (most, (mut memory, place)) = match large {
            Some((memory, place)) => (LARGE_PAGE, (memory, Some(place))),
            // The memory of a small page is part of `WATCH_BYTES`.
            None => (SMALL_PAGE, (self.reserve(0)?, None)),
        };
        let Subscription { feed, .. } = &self.subscription;
        let durable = feed.engine.durable();
        let (first, to, end) = (self.next, durable.order().next_sequence, durable.chain().position);
        let filter = self.filter.clone();
        let read = feed.engine.read_history_for_watch(move |reader, _| {
            reader.transactions_within((first, to), most.records, end, &|record| filter.accepts(record))
        });
        let page = read.await?;
        let mut records = page.records.into_iter().peekable();
        let (events, bytes, rest) = take_events(&mut records, most.encoded)?;
        drop(records);
        let next = rest.or(page.next).unwrap_or(to);
        // The last transaction can exceed the bound of the page.
        let included = if place.is_some() { 0 } else { SMALL_PAGE.encoded };
        if !memory.grow_to(bytes.saturating_sub(included)) {
            return Err(self.limits.memory_limit_reached());
        }
        let ids = feed.ids.ids(&feed.engine, accounts_of(&events)?).await?;
        let batches = encode(events, ids, first, next).await?;
        if batches.is_empty() {
            self.next = next;
            return Ok(());
        }
        let kept: usize = batches.iter().map(Batch::memory_bytes).sum();
        memory.resize(kept.saturating_sub(included));
        self.page_held = Some((memory, place));
        self.page = batches.into();
        Ok(())
    }
}
