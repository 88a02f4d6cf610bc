//! Gives places to reads of the history: up to a number of places in total, and for each client.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tally_batch::BatchError;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::fault::{EngineError, StoreFault};
use crate::security::Client;

/// The places for reads. Clones share them.
///
/// A read first waits for one of the places that its client may have, behind the other reads of the client. Then it waits for one of all
/// places. So in this second queue, no client has more reads than it may have places: whoever comes next waits for at most that many
/// reads of each other client, and not for all that a client has begun.
#[derive(Debug, Clone)]
pub(super) struct ReadPlaces {
    all: Arc<Semaphore>,
    each_max: usize,
    clients: Arc<Mutex<HashMap<Client, OwnPlaces>>>,
}

/// The places that a client may have.
#[derive(Debug)]
struct OwnPlaces {
    places: Arc<Semaphore>,
    /// The number of reads of the client that have a place or wait. At 0 the client is forgotten.
    reads: usize,
}

/// One place. Dropping this value frees the place.
#[derive(Debug)]
pub(super) struct ReadPlace {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
    _counted: CountedRead,
}

/// Counts a read in [`OwnPlaces::reads`].
#[derive(Debug)]
struct CountedRead {
    places: ReadPlaces,
    client: Client,
}

// ===== impl ReadPlaces =====

impl ReadPlaces {
    /// Makes `all_max` places. One client may have `each_max` of them at a time.
    pub(super) fn new(all_max: usize, each_max: usize) -> Self {
        ReadPlaces {
            all: Arc::new(Semaphore::new(all_max)),
            each_max,
            clients: Arc::default(),
        }
    }

    /// Waits for a place, but not longer than until `deadline`.
    ///
    /// # Errors
    /// [`BatchError::ExpiredInQueue`] after the deadline.
    pub(super) async fn take(
        &self,
        client: &Client,
        deadline: Option<Instant>,
    ) -> Result<ReadPlace, EngineError> {
        let (counted, own) = self.count(client);
        // Without a timer, because most reads need not wait.
        let free_own = Arc::clone(&own).try_acquire_owned().ok();
        let free = free_own.and_then(|own| Some((own, Arc::clone(&self.all).try_acquire_owned().ok()?)));
        let places = match (free, deadline) {
            (Some(free), _) => Ok(free),
            (None, None) => self.wait(own).await,
            (None, Some(deadline)) => match timeout_at(deadline, self.wait(own)).await {
                Ok(places) => places,
                Err(_elapsed) => return Err(BatchError::ExpiredInQueue.into()),
            },
        };
        let (own, all) = places?;
        Ok(ReadPlace {
            _all: all,
            _own: own,
            _counted: counted,
        })
    }

    async fn wait(
        &self,
        own: Arc<Semaphore>,
    ) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), EngineError> {
        // The semaphores are never closed.
        let closed = |_| StoreFault::ReadFailed;
        let own = own.acquire_owned().await.map_err(closed)?;
        let all = Arc::clone(&self.all).acquire_owned().await.map_err(closed)?;
        Ok((own, all))
    }

    fn count(&self, client: &Client) -> (CountedRead, Arc<Semaphore>) {
        let mut clients = self.clients.lock();
        let own = clients.entry(client.clone()).or_insert_with(|| OwnPlaces {
            places: Arc::new(Semaphore::new(self.each_max)),
            reads: 0,
        });
        own.reads += 1;
        let counted = CountedRead {
            places: self.clone(),
            client: client.clone(),
        };
        (counted, Arc::clone(&own.places))
    }
}

impl Drop for CountedRead {
    fn drop(&mut self) {
        let mut clients = self.places.clients.lock();
        if let Some(own) = clients.get_mut(&self.client) {
            own.reads -= 1;
            if own.reads == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        future::Future,
        net::IpAddr,
        pin::Pin,
        task::{Context, Poll, Waker},
        time::Duration,
    };

    use super::*;

    /// A read of a client that waits for its place.
    type Waiting = Pin<Box<dyn Future<Output = Result<ReadPlace, EngineError>>>>;

    fn client(number: u8) -> Client {
        IpAddr::from([127, 0, 0, number]).into()
    }

    /// Begins a read of this client. Returns it if it waits, and else adds its place to `reading`.
    fn begin(places: &ReadPlaces, number: u8, reading: &mut VecDeque<(u8, ReadPlace)>) -> Option<Waiting> {
        let (places, client) = (places.clone(), client(number));
        let mut read: Waiting = Box::pin(async move { places.take(&client, None).await });
        match poll(&mut read) {
            Poll::Ready(place) => {
                reading.push_back((number, place.unwrap()));
                None
            }
            Poll::Pending => Some(read),
        }
    }

    fn poll(read: &mut Waiting) -> Poll<Result<ReadPlace, EngineError>> {
        read.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_client_never_has_all_places_and_the_others_need_not_wait() {
        let places = ReadPlaces::new(4, 3);
        let mut reading = VecDeque::new();
        let waiting: Vec<_> = (0..100).filter_map(|_| begin(&places, 1, &mut reading)).collect();
        assert_eq!((reading.len(), waiting.len()), (3, 97));
        assert!(begin(&places, 2, &mut reading).is_none());
        assert_eq!(reading.len(), 4);
        drop((reading, waiting));
        assert!(places.clients.lock().is_empty());
    }

    #[test]
    fn the_reads_of_a_client_come_in_their_order_and_clients_take_turns() {
        let places = ReadPlaces::new(1, 1);
        let mut reading = VecDeque::new();
        let mut waiting: Vec<(u8, usize, Waiting)> = Vec::new();
        // The first client has many reads before the others come.
        let reads = std::iter::repeat_n(1, 50).chain([2, 2, 3, 3, 2]);
        for (number, read) in reads.enumerate() {
            let began = begin(&places, read, &mut reading);
            waiting.extend(began.map(|waiting| (read, number, waiting)));
        }
        let mut order = Vec::new();
        while reading.pop_front().is_some() {
            // All that wait are woken. At most one of them gets the place.
            waiting.retain_mut(|(client, number, read)| match poll(read) {
                Poll::Ready(place) => {
                    reading.push_back((*client, place.unwrap()));
                    order.push((*client, *number));
                    false
                }
                Poll::Pending => true,
            });
            assert!(reading.len() <= 1);
        }
        assert!(waiting.is_empty());
        let turns: Vec<u8> = order.iter().map(|(client, _)| *client).take(8).collect();
        assert_eq!(turns, [2, 3, 1, 2, 3, 1, 2, 1]);
        for client in 1..=3 {
            let own = order.iter().filter(|(other, _)| *other == client);
            assert!(own.map(|(_, number)| number).is_sorted(), "{order:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_waits_gives_up_at_its_deadline_and_leaves_nothing_behind() {
        let places = ReadPlaces::new(2, 1);
        let held = places.take(&client(1), None).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(1);
        for _ in 0..3 {
            let late = places.take(&client(1), Some(deadline)).await.unwrap_err();
            assert!(
                matches!(late, EngineError::Batch(BatchError::ExpiredInQueue)),
                "{late:?}"
            );
        }
        let other = places.take(&client(2), Some(deadline)).await.unwrap();
        let third = places.take(&client(3), Some(deadline)).await;
        assert!(third.is_err(), "all places are taken");
        drop((held, other));
        assert!(places.clients.lock().is_empty());
        assert_eq!(places.all.available_permits(), 2);
    }
}
