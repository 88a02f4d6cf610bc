//! Limits the memory that clients hold: requests that have arrived, the data decoded from them, and answers that are
//! not sent yet.
//!
//! All clients share one budget. A client may hold as much as stays free: a single client gets half of the budget, two
//! clients get a third each, and a part is always free for one more client. In addition, a reserve guarantees every
//! client a small minimum (the floor), even when the other clients have used up the budget.
//!
//! Each connection has a [`ConnectionMemory`], which takes memory from the budget in larger steps. So a small call
//! usually does not change the counters that all threads share.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::security::client_of;

/// The bytes that are reserved for every call: its stream in the HTTP/2 library, its task, a short message and a short
/// answer.
pub(crate) const CALL_BYTES: usize = 4 << 10;
/// The part of [`CALL_BYTES`] for the message of the call, in bytes.
pub(crate) const SHORT_BYTES: usize = 1 << 10;
/// The floor, in bytes. A client that holds no more than this gets the memory from the reserve if the budget is used
/// up.
const FLOOR_BYTES: usize = 64 << 10;
/// The reserve, in bytes, in addition to the budget: enough for the floors of 512 clients.
const RESERVE_BYTES: usize = 512 * FLOOR_BYTES;
/// Maximum number of health checks that are served at the same time although the memory limit is reached. Each
/// connection has at most one of them.
const PROBES_MAX: usize = 512;
/// The bytes that are reserved for the answer to a refused call until it is sent.
pub(crate) const REFUSAL_BYTES: usize = 2 << 10;
/// A connection takes at least this many bytes from the budget at a time, if this many bytes are free.
const STEP_BYTES: usize = 32 << 10;
/// The memory of a call's entry in the table of the HTTP/2 library (measured: 4.4 MiB for 4000 entries, in a build
/// without optimisation). The library frees the entries of a connection only when the connection ends.
const ENTRY_BYTES: usize = 1 << 10;
/// The entries of this many calls are part of the fixed cost of a connection, and are not reserved.
const FREE_ENTRIES: usize = 64;
/// Maximum number of messages of one connection that the HTTP/2 library holds and has not sent yet, for calls that
/// tonic serves. The length of a message is known only after tonic has made the message, so the service can't reserve
/// memory for the message before. Instead, tonic makes the next message only when one of these permits is free.
const SENDING_MAX: usize = 16;

/// The memory of all clients.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Arc<All>);

#[derive(Debug)]
struct All {
    bytes_max: usize,
    held: AtomicUsize,
    /// The part of `held` that is within the floors of the clients.
    floors: AtomicUsize,
    /// [`PROBES_MAX`] permits.
    probes: Arc<Semaphore>,
    /// The shares of the clients that have a connection or hold memory. An entry is removed when its share is dropped.
    shares: Mutex<HashMap<IpAddr, Weak<ClientShare>>>,
}

/// The memory that one client holds, on all of its connections.
#[derive(Debug)]
pub(crate) struct ClientShare {
    all: Arc<All>,
    client: IpAddr,
    held: AtomicUsize,
}

/// The memory that one connection holds.
#[derive(Debug)]
pub(crate) struct ConnectionMemory {
    share: Arc<ClientShare>,
    state: Mutex<State>,
    /// [`SENDING_MAX`] permits.
    pub(super) sending: Arc<Semaphore>,
    /// The permit for one health check beyond the memory limit.
    probe: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct State {
    held: usize,
    /// Bytes taken from the budget, at least `held`.
    taken: usize,
    /// The number of calls that are open now.
    calls: usize,
    /// The highest number of calls that were open at the same time.
    calls_max: usize,
}

/// Reserved memory. Dropping it returns the memory to the budget.
#[derive(Debug)]
pub(crate) struct Reservation {
    /// The memory of the connection, to which the reservation belongs.
    pub(super) memory: Arc<ConnectionMemory>,
    bytes: usize,
    /// Whether the reservation belongs to an open call.
    is_call: bool,
    /// The permit of the connection and the permit of the service, for a health check that was admitted although the
    /// memory limit was reached.
    probe: Option<Box<[OwnedSemaphorePermit; 2]>>,
}

/// A reservation that several threads share and can increase. It needs no lock, so that EXEC never waits for another thread.
#[derive(Debug)]
pub(crate) struct GrowingReservation {
    reservation: Reservation,
    /// The bytes by which the reservation has grown.
    grown: AtomicUsize,
}

/// Bytes that are being sent to the client. `_held` is dropped when the HTTP/2 library drops the bytes.
struct Sent<T, H> {
    bytes: T,
    _held: H,
}

/// Returns `bytes` for sending. `held` is dropped when they are sent.
pub(crate) fn until_sent<T, H>(bytes: T, held: H) -> Bytes
where
    T: AsRef<[u8]> + Send + 'static,
    H: Send + 'static,
{
    Bytes::from_owner(Sent { bytes, _held: held })
}

// ===== impl Budget =====

impl Budget {
    /// Returns a budget of `bytes_max` bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Budget(Arc::new(All {
            bytes_max,
            held: AtomicUsize::new(0),
            floors: AtomicUsize::new(0),
            probes: Arc::new(Semaphore::new(PROBES_MAX)),
            shares: Mutex::default(),
        }))
    }

    /// Returns the share of the client with this `address`.
    pub(crate) fn share(&self, address: IpAddr) -> Arc<ClientShare> {
        let client = client_of(address);
        let mut shares = self.0.shares.lock();
        if let Some(share) = shares.get(&client).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(ClientShare {
            all: Arc::clone(&self.0),
            client,
            held: AtomicUsize::new(0),
        });
        shares.insert(client, Arc::downgrade(&share));
        share
    }

    /// Returns the bytes that all clients hold together.
    pub(crate) fn held(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }
}

// ===== impl ClientShare =====

impl ClientShare {
    /// Takes `bytes` more, and returns true. Takes nothing and returns false if the client would hold more than its
    /// floor, and more than would stay free.
    fn take(&self, bytes: usize) -> bool {
        let (own, all, floors) = self.add(bytes);
        let fits = own.saturating_add(all) <= self.all.bytes_max
            // A client within its floor needs only space in the reserve, which covers the floors of all clients.
            || (own <= FLOOR_BYTES && floors <= RESERVE_BYTES);
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    /// Takes `bytes` more without a check. Returns the new sums in bytes: of the client, of all clients, and of all
    /// clients within their floors.
    fn add(&self, bytes: usize) -> (usize, usize, usize) {
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        let own = before.saturating_add(bytes);
        let all = self.all.held.fetch_add(bytes, Ordering::Relaxed);
        let more = own.min(FLOOR_BYTES) - before.min(FLOOR_BYTES);
        let floors = self.all.floors.fetch_add(more, Ordering::Relaxed);
        (own, all.saturating_add(bytes), floors + more)
    }

    fn give_back(&self, bytes: usize) {
        let before = self.held.fetch_sub(bytes, Ordering::Relaxed);
        let less = before.min(FLOOR_BYTES) - (before - bytes).min(FLOOR_BYTES);
        self.all.floors.fetch_sub(less, Ordering::Relaxed);
        self.all.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for ClientShare {
    fn drop(&mut self) {
        let mut shares = self.all.shares.lock();
        // Another thread may already have made a new share for the client. The entry of a new share must stay.
        if shares
            .get(&self.client)
            .is_some_and(|share| share.strong_count() == 0)
        {
            shares.remove(&self.client);
        }
    }
}

// ===== impl ConnectionMemory =====

impl ConnectionMemory {
    /// Returns the memory of a new connection of the client with this `share`.
    pub(crate) fn new(share: Arc<ClientShare>) -> Arc<Self> {
        Arc::new(ConnectionMemory {
            share,
            state: Mutex::default(),
            sending: Arc::new(Semaphore::new(SENDING_MAX)),
            probe: Arc::new(Semaphore::new(1)),
        })
    }

    /// Reserves `bytes` if the budget allows it.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        self.hold(bytes).then(|| self.reservation(bytes))
    }

    /// Reserves [`CALL_BYTES`] for an open call if the budget allows it. If the connection has more open calls than
    /// ever before, also reserves [`ENTRY_BYTES`], which stay reserved until the connection ends.
    pub(crate) fn reserve_call(self: &Arc<Self>) -> Option<Reservation> {
        let mut state = self.state.lock();
        let calls = state.calls + 1;
        let is_most = calls > state.calls_max.max(FREE_ENTRIES);
        let entry = if is_most { ENTRY_BYTES } else { 0 };
        if !self.hold_in(&mut state, CALL_BYTES + entry) {
            return None;
        }
        state.calls = calls;
        state.calls_max = state.calls_max.max(calls);
        drop(state);
        let mut reservation = self.reservation(CALL_BYTES);
        reservation.is_call = true;
        Some(reservation)
    }

    /// Reserves `bytes` without a check, for data that the service must hold in any case, such as the answer to an
    /// executed transaction.
    pub(crate) fn reserve_beyond_limit(self: &Arc<Self>, bytes: usize) -> Reservation {
        self.hold_beyond_limit(bytes);
        self.reservation(bytes)
    }

    /// Reserves `bytes` for a health check. One health check of each connection is served even beyond the memory limit.
    /// Otherwise a health check could not distinguish a busy service from a dead service.
    pub(crate) fn reserve_probe(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        self.reserve(bytes).or_else(|| {
            let own = Arc::clone(&self.probe).try_acquire_owned().ok()?;
            let one_of_all = Arc::clone(&self.share.all.probes).try_acquire_owned().ok()?;
            let mut reservation = self.reserve_beyond_limit(bytes);
            reservation.probe = Some(Box::new([own, one_of_all]));
            Some(reservation)
        })
    }

    /// Returns whether the client holds no more than its floor.
    pub(crate) fn holds_little(&self) -> bool {
        self.share.held.load(Ordering::Relaxed) <= FLOOR_BYTES
    }

    fn reservation(self: &Arc<Self>, bytes: usize) -> Reservation {
        Reservation {
            memory: Arc::clone(self),
            bytes,
            is_call: false,
            probe: None,
        }
    }

    fn hold(&self, bytes: usize) -> bool {
        self.hold_in(&mut self.state.lock(), bytes)
    }

    fn hold_in(&self, state: &mut State, bytes: usize) -> bool {
        let missing = state.held.saturating_add(bytes).saturating_sub(state.taken);
        if missing > 0 {
            let step = missing.max(STEP_BYTES);
            if self.share.take(step) {
                state.taken += step;
            } else if step > missing && self.share.take(missing) {
                state.taken += missing;
            } else {
                return false;
            }
        }
        state.held += bytes;
        true
    }

    fn hold_beyond_limit(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.held += bytes;
        let missing = state.held.saturating_sub(state.taken);
        self.share.add(missing);
        state.taken += missing;
    }

    fn release(&self, bytes: usize, is_call: bool) {
        let mut state = self.state.lock();
        state.calls -= usize::from(is_call);
        state.held -= bytes;
        // Keeps one step for the next call, but nothing if the connection holds nothing.
        let kept = if state.held == 0 {
            0
        } else {
            state.held + STEP_BYTES
        };
        if state.taken >= kept + STEP_BYTES || state.held == 0 {
            let spare = state.taken - kept;
            state.taken = kept;
            self.share.give_back(spare);
        }
    }
}

impl Drop for ConnectionMemory {
    /// The connection has ended, and the HTTP/2 library has freed the table entries of its calls.
    fn drop(&mut self) {
        self.share.give_back(self.state.get_mut().taken);
    }
}

// ===== impl Reservation =====

impl Reservation {
    /// Grows the reservation to at least `bytes`, and returns true. Changes nothing and returns false if the budget
    /// does not allow it.
    #[must_use]
    pub(crate) fn grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let held = more == 0 || self.memory.hold(more);
        if held {
            self.bytes += more;
        }
        held
    }

    /// Sets the reservation to exactly `bytes` without a check.
    pub(crate) fn resize(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.memory.hold_beyond_limit(bytes - self.bytes);
        } else {
            self.memory.release(self.bytes - bytes, false);
        }
        self.bytes = bytes;
    }

    /// Splits off everything beyond `bytes` as a separate reservation.
    pub(crate) fn split_off_beyond(&mut self, bytes: usize) -> Reservation {
        let beyond = self.bytes.saturating_sub(bytes);
        self.bytes -= beyond;
        self.memory.reservation(beyond)
    }

    /// Returns `bytes` for sending. The reservation is held until they are sent.
    pub(crate) fn until_sent<T>(self, bytes: T, place: Option<OwnedSemaphorePermit>) -> Bytes
    where
        T: AsRef<[u8]> + Send + 'static,
    {
        until_sent(bytes, (self, place))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.memory.release(self.bytes, self.is_call);
    }
}

// ===== impl GrowingReservation =====

impl GrowingReservation {
    pub(crate) const fn new(reservation: Reservation) -> Self {
        GrowingReservation {
            reservation,
            grown: AtomicUsize::new(0),
        }
    }

    /// Grows by `bytes`, and returns true. Changes nothing and returns false if the budget does not allow it.
    #[must_use]
    pub(crate) fn grow_by(&self, bytes: usize) -> bool {
        let held = self.reservation.memory.share.take(bytes);
        if held {
            self.grown.fetch_add(bytes, Ordering::Relaxed);
        }
        held
    }
}

impl Drop for GrowingReservation {
    fn drop(&mut self) {
        self.reservation.memory.share.give_back(*self.grown.get_mut());
    }
}

impl<T: AsRef<[u8]>, H> AsRef<[u8]> for Sent<T, H> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    #[test]
    fn a_client_holds_at_most_as_much_as_stays_free_for_others() {
        let budget = Budget::new(12 << 20);
        let [first, second, third] = [1, 2, 3].map(|last| ConnectionMemory::new(budget.share(address(last))));
        let all_that_fits = |memory: &Arc<ConnectionMemory>| {
            let pieces = std::iter::from_fn(|| memory.reserve(64 << 10)).fuse();
            pieces.collect::<Vec<_>>()
        };
        let held = |reservations: &[Reservation]| {
            reservations
                .iter()
                .map(|reservation| reservation.bytes)
                .sum::<usize>()
        };
        // The only client gets half of the budget.
        let of_first = all_that_fits(&first);
        assert_eq!(held(&of_first), 6 << 20);
        // The second client gets half of the rest, and then the third client gets half of the rest.
        let of_second = all_that_fits(&second);
        assert_eq!(held(&of_second), 3 << 20);
        let of_third = all_that_fits(&third);
        assert!((1_u32 << 20..=3 << 19).contains(&u32::try_from(held(&of_third)).unwrap()));
        // The first client holds more than is free now, and gets no more.
        assert!(first.reserve(1).is_none());
        drop((of_first, of_second, of_third));
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn the_connections_of_a_client_share_its_limit() {
        let budget = Budget::new(2 << 20);
        let [one, other] = [1, 1].map(|last| ConnectionMemory::new(budget.share(address(last))));
        let held = one.reserve(1 << 20).unwrap();
        assert!(other.reserve(1).is_none());
        drop(held);
        assert!(other.reserve(1 << 20).is_some());
        assert_eq!(budget.held(), 0);
        drop((one, other));
        assert!(budget.0.shares.lock().is_empty());
    }

    #[test]
    fn a_resize_ignores_the_limit_and_the_memory_is_free_after_the_last_part_is_sent() {
        let budget = Budget::new(1 << 20);
        let memory = ConnectionMemory::new(budget.share(address(1)));
        let mut reservation = memory.reserve(CALL_BYTES).unwrap();
        assert_eq!(budget.held(), STEP_BYTES);
        assert!(!reservation.grow_to(1 << 20));
        assert!(reservation.grow_to(100 << 10));
        reservation.resize(3 << 20);
        assert_eq!(budget.held(), 3 << 20);
        assert!(memory.reserve(1).is_none());
        let sent = reservation.until_sent(vec![7; 10], None);
        let part = sent.slice(3..4);
        drop(sent);
        assert_eq!(budget.held(), 3 << 20, "a part of the bytes is not sent yet");
        drop(part);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_client_gets_its_floor_even_if_others_hold_more_than_the_budget() {
        let budget = Budget::new(1 << 20);
        let greedy = ConnectionMemory::new(budget.share(address(1)));
        let excess = greedy.reserve_beyond_limit(8 << 20);
        assert!(greedy.reserve(1).is_none());
        let honest = [2, 2].map(|last| ConnectionMemory::new(budget.share(address(last))));
        let held: Vec<_> = (0..FLOOR_BYTES / CALL_BYTES)
            .map(|call| {
                honest[call % 2]
                    .reserve(CALL_BYTES)
                    .expect("the client is within its floor")
            })
            .collect();
        assert!(honest[0].holds_little() && !greedy.holds_little());
        assert!(
            honest[0].reserve(1).is_none(),
            "two connections of a client share one floor"
        );
        drop(held);
        // The reserve is limited, so only some of the 1024 further clients get their floor.
        let addresses = (0..1024_u32).map(|number| IpAddr::from((0x0a00_0000 + number).to_be_bytes()));
        let memories: Vec<_> = addresses
            .map(|address| ConnectionMemory::new(budget.share(address)))
            .collect();
        let floors: Vec<_> = memories
            .iter()
            .map_while(|memory| memory.reserve(FLOOR_BYTES))
            .collect();
        assert_eq!(
            floors.len(),
            RESERVE_BYTES / FLOOR_BYTES - 1,
            "the greedy client has one of the floors"
        );
        drop((floors, excess));
        assert_eq!(budget.held(), 0);
        assert_eq!(budget.0.floors.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn one_health_check_of_each_connection_is_served_beyond_the_memory_limit() {
        let budget = Budget::new(1 << 20);
        let share = budget.share(address(1));
        let [one, other] = [(); 2].map(|()| ConnectionMemory::new(Arc::clone(&share)));
        let _excess = one.reserve_beyond_limit(8 << 20);
        let first = one.reserve_probe(CALL_BYTES).unwrap();
        assert!(one.reserve_probe(CALL_BYTES).is_none());
        let _second = other.reserve_probe(CALL_BYTES).unwrap();
        drop(first);
        assert!(one.reserve_probe(CALL_BYTES).is_some());
    }

    #[test]
    fn a_shared_reservation_grows_within_the_limit_and_returns_all_memory() {
        let budget = Budget::new(1 << 20);
        let memory = ConnectionMemory::new(budget.share(address(1)));
        let growing = GrowingReservation::new(memory.reserve(CALL_BYTES).unwrap());
        assert!(growing.grow_by(100 << 10));
        assert_eq!(budget.held(), STEP_BYTES + (100 << 10));
        assert!(!growing.grow_by(1 << 20));
        assert_eq!(budget.held(), STEP_BYTES + (100 << 10));
        drop(growing);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn after_a_few_small_calls_the_connection_returns_all_memory() {
        let budget = Budget::new(1 << 20);
        let memory = ConnectionMemory::new(budget.share(address(1)));
        for _ in 0..3 {
            let first = memory.reserve(CALL_BYTES).unwrap();
            let second = memory.reserve(CALL_BYTES).unwrap();
            assert_eq!(budget.held(), STEP_BYTES);
            drop((first, second));
            assert_eq!(budget.held(), 0);
        }
    }

    #[test]
    fn the_table_entries_of_many_calls_are_reserved_until_the_connection_ends() {
        let budget = Budget::new(64 << 20);
        let memory = ConnectionMemory::new(budget.share(IpAddr::from([127, 0, 0, 1])));
        let open = |count: usize| -> Vec<Reservation> {
            (0..count).map(|_| memory.reserve_call().unwrap()).collect()
        };
        drop(open(FREE_ENTRIES));
        assert_eq!(budget.held(), 0);
        for _ in 0..3 {
            // The entries of the earlier calls are used again, and are not reserved a second time.
            drop(open(FREE_ENTRIES + 1000));
            let kept = 1000 * ENTRY_BYTES;
            assert!((kept..=kept + 2 * STEP_BYTES).contains(&budget.held()));
        }
        drop(memory);
        assert_eq!(budget.held(), 0);
    }
}
