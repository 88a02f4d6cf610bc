//! Tests that the requests of a client stay in their order if a batch does not take them, whatever the reason. A naive
//! model gives the expected batches.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const KIB: usize = 1 << 10;
/// Maximum number of bytes of a batch: half of the bytes that the queue may hold.
const BATCH_BYTES: usize = MIB / 2;

fn send(processor: &BatchProcessor<Counted, usize>, client: u64, item: Counted) -> TestFuture {
    task::spawn(processor.submit(Submission::new(item, None).of_client(client)))
}

/// A lone client uses up its share, and then a request has too many bytes for the batch.
#[test]
fn a_request_that_does_not_fit_stays_before_later_ones() {
    let mut both = sides(64);
    let futures: Vec<_> = (0..16)
        .map(|number| {
            let item = Counted {
                bytes: if number == 11 { 500 * KIB } else { 10 * KIB },
                ..Counted::new(number)
            };
            send(&both.0, 1, item)
        })
        .collect();
    let batches: Vec<_> = (0..3)
        .map(|_| {
            let mut claimed = Vec::new();
            both.1.take(14, &mut claimed);
            numbers(&claimed)
        })
        .collect();
    assert_eq!(batches.concat(), (0..16).collect::<Vec<_>>(), "{batches:?}");
    drop(futures);
}

// ===== the model =====

/// A queued request.
#[derive(Debug)]
struct Waiting {
    number: usize,
    client: u64,
    items: usize,
    bytes: usize,
    /// `None` if its caller has left.
    future: Option<TestFuture>,
}

#[derive(Debug, Default)]
struct Batch {
    numbers: Vec<usize>,
    items: usize,
    bytes: usize,
    by_client: BTreeMap<u64, usize>,
    /// Futures of callers who stay until the end.
    futures: Vec<TestFuture>,
}

/// The bounds of all batches.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    share_percent: usize,
    passed_max: usize,
}

impl Batch {
    /// Returns `None` if the batch has no room for the request's bytes. In that case, the batch is closed.
    fn add(&mut self, waiting: &mut Vec<Waiting>, place: usize) -> Option<()> {
        let request = &waiting[place];
        if self.bytes > 0 && self.bytes + request.bytes > BATCH_BYTES {
            return None;
        }
        let request = waiting.remove(place);
        if let Some(future) = request.future {
            self.numbers.push(request.number);
            self.items += request.items;
            self.bytes += request.bytes;
            *self.by_client.entry(request.client).or_default() += request.items;
            self.futures.push(future);
        }
        Some(())
    }
}

/// The rule for one batch: requests are taken from the oldest on. Once a client has used its share, its other requests
/// stay. If no other client waits, shares are ignored.
fn naive(waiting: &mut Vec<Waiting>, items_max: usize, bounds: Bounds) -> Batch {
    let share = match bounds.share_percent {
        100 => usize::MAX,
        percent => (items_max * percent / 100).max(1),
    };
    let mut batch = Batch::default();
    let (mut seen, mut stay) = (BTreeSet::new(), BTreeSet::new());
    let mut place = 0;
    while batch.items < items_max && place < waiting.len() && place < bounds.passed_max {
        let request = &waiting[place];
        seen.insert(request.client);
        let had = batch.by_client.get(&request.client).copied().unwrap_or_default();
        if request.client != 0 && had > 0 && had.saturating_add(request.items) > share {
            stay.insert(request.client);
        }
        if stay.contains(&request.client) {
            place += 1;
        } else if batch.add(waiting, place).is_none() {
            break;
        }
    }
    if seen.len() < 2 {
        while batch.items < items_max && !waiting.is_empty() && batch.add(waiting, 0).is_some() {}
    }
    batch
}

// ===== processor and model compared =====

#[derive(Debug, Clone, Copy)]
enum Event {
    Submit { client: u64, items: usize, bytes: usize },
    Leave(usize),
    Take(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let bytes = prop_oneof![
        Just(1),
        1..200 * KIB,
        Just(BATCH_BYTES - 1),
        Just(BATCH_BYTES + 1)
    ];
    let client = prop_oneof![4 => Just(1), 2 => Just(2), 1 => Just(3), 1 => Just(0)];
    let items = prop_oneof![Just(1_usize), 1..6_usize, Just(20)];
    let submit = (client, items, bytes)
        .prop_map(|(client, items, bytes): (u64, usize, usize)| Event::Submit { client, items, bytes });
    let event = prop_oneof![
        12 => submit,
        1 => (0..64_usize).prop_map(Event::Leave),
        2 => (1..20_usize).prop_map(Event::Take),
    ];
    proptest::collection::vec(event, 0..160)
}

fn check(events: Vec<Event>, bounds: Bounds) {
    let config = BatchConfig {
        queue_requests_max: 64,
        queue_bytes_max: MIB,
        client_share_percent: u8::try_from(bounds.share_percent).unwrap(),
        ..BatchConfig::default()
    };
    let mut both: TestSides = batch(&config).unwrap();
    both.1.passed_max = bounds.passed_max;
    let mut waiting: Vec<Waiting> = Vec::new();
    let mut taken: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    let mut clients = BTreeMap::new();
    let drain = std::iter::repeat_n(Event::Take(1 << 20), 200);
    for (number, event) in events.into_iter().chain(drain).enumerate() {
        match event {
            Event::Submit { client, items, bytes } => {
                let item = Counted {
                    items,
                    bytes,
                    ..Counted::new(number)
                };
                let mut future = send(&both.0, client, item);
                if future.poll().is_pending() {
                    clients.insert(number, client);
                    waiting.push(Waiting {
                        number,
                        client,
                        items,
                        bytes,
                        future: Some(future),
                    });
                }
            }
            Event::Leave(place) => {
                let count = waiting.len().max(1);
                if let Some(request) = waiting.get_mut(place % count) {
                    request.future = None;
                }
            }
            Event::Take(items_max) => {
                let mut claimed = Vec::new();
                let items = both.1.take(items_max, &mut claimed);
                let expected = naive(&mut waiting, items_max, bounds);
                assert_eq!((numbers(&claimed), items), (expected.numbers, expected.items));
                for number in numbers(&claimed) {
                    taken.entry(clients[&number]).or_default().push(number);
                }
                let bytes: usize = waiting.iter().map(|request| request.bytes).sum();
                let stats = both.0.stats();
                assert_eq!((stats.queue_depth, stats.queue_bytes), (waiting.len(), bytes));
                assert!(both.1.waiting() - both.0.queue.ring.len() <= bounds.passed_max + 1);
            }
        }
    }
    assert!(waiting.is_empty(), "these requests were never taken: {waiting:?}");
    for (client, numbers) in taken {
        assert!(numbers.is_sorted(), "client {client}: {numbers:?}");
    }
}

proptest! {
    #[test]
    fn batches_are_those_of_a_naive_model(
        events in events(),
        share_percent in prop_oneof![Just(50_usize), 1..=100_usize],
        passed_max in prop_oneof![Just(4096_usize), 1..6_usize],
    ) {
        check(events, Bounds { share_percent, passed_max });
    }
}
