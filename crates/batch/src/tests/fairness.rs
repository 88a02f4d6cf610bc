//! Fairness: no client can keep requests of other clients out of a batch.

use super::*;

const GREEDY: u64 = 7;
const MODEST: u64 = 8;

fn send(processor: &BatchProcessor<Counted, usize>, client: u64, number: usize, items: usize) -> TestFuture {
    let item = Counted {
        items,
        ..Counted::new(number)
    };
    task::spawn(processor.submit(Submission::new(item, None).of_client(client)))
}

fn take_items(intake: &mut Intake<Counted, usize>, items_max: usize) -> Vec<usize> {
    let mut claimed = Vec::new();
    intake.take(items_max, &mut claimed);
    numbers(&claimed)
}

#[test]
fn a_greedy_client_has_half_of_a_batch_while_another_waits() {
    let mut both = sides(64);
    let greedy: Vec<_> = (0..20).map(|number| send(&both.0, GREEDY, number, 1)).collect();
    let modest: Vec<_> = (20..22).map(|number| send(&both.0, MODEST, number, 1)).collect();
    assert_eq!(take_items(&mut both.1, 8), [0, 1, 2, 3, 20, 21]);
    let stats = both.0.stats();
    assert_eq!((stats.held_back, stats.client_share_percent), (16, 66));
    assert_eq!((stats.queue_depth, both.1.waiting()), (16, 16));
    // `sleep` returns at once, because requests are held back. No other client waits now, so the greedy client gets the
    // whole batch, in the order of its requests.
    both.1.sleep(1, None);
    assert_eq!(take_items(&mut both.1, 8), (4..12).collect::<Vec<_>>());
    let late = send(&both.0, MODEST, 22, 1);
    assert_eq!(take_items(&mut both.1, 8), [12, 13, 14, 15, 22]);
    both.0.close();
    assert!(!both.1.is_drained());
    assert_eq!(take_items(&mut both.1, 8), [16, 17, 18, 19]);
    assert!(both.1.is_drained());
    assert_eq!(both.0.stats().queue_bytes, 0);
    drop((greedy, modest, late));
}

#[test]
fn a_clients_requests_stay_in_their_order() {
    let mut both = sides(64);
    // The second request is larger than the client's share. The third request would fit, but must not overtake the
    // second one.
    let futures = [(1, 2), (2, 5), (3, 1)].map(|(number, items)| send(&both.0, GREEDY, number, items));
    let other = send(&both.0, MODEST, 9, 3);
    assert_eq!(take_items(&mut both.1, 8), [1, 9]);
    assert_eq!(take_items(&mut both.1, 8), [2, 3]);
    drop((futures, other));
}

#[test]
fn a_request_larger_than_a_share_comes_first_in_a_later_batch() {
    let mut both = sides(64);
    let small = send(&both.0, GREEDY, 0, 1);
    let large = send(&both.0, GREEDY, 1, 8);
    let other = send(&both.0, MODEST, 2, 1);
    assert_eq!(take_items(&mut both.1, 8), [0, 2]);
    let more = send(&both.0, MODEST, 3, 1);
    // The first request of a client in a batch always fits, even if it exceeds the share.
    assert_eq!(take_items(&mut both.1, 8), [1]);
    assert_eq!(take_items(&mut both.1, 8), [3]);
    drop((small, large, other, more));
}

#[test]
fn requests_of_an_unknown_client_and_a_share_of_100_percent_have_no_limit() {
    let mut both = sides(64);
    let unknown: Vec<_> = (0..8).map(|number| submit_number(&both, number)).collect();
    let known = send(&both.0, MODEST, 8, 1);
    assert_eq!(take_items(&mut both.1, 8), (0..8).collect::<Vec<_>>());
    drop((unknown, known));

    let config = BatchConfig {
        client_share_percent: 100,
        ..BatchConfig::default()
    };
    let mut both = batch(&config).unwrap();
    let futures: Vec<_> = (0..8).map(|number| send(&both.0, GREEDY, number, 1)).collect();
    let other = send(&both.0, MODEST, 8, 1);
    assert_eq!(take_items(&mut both.1, 8), (0..8).collect::<Vec<_>>());
    assert_eq!(both.0.stats().held_back, 0);
    drop((futures, other));
}

#[test]
fn held_back_requests_are_answered_when_the_executor_is_dropped() {
    let mut both = sides(64);
    let mut greedy: Vec<_> = (0..6).map(|number| send(&both.0, GREEDY, number, 1)).collect();
    let other = send(&both.0, MODEST, 9, 1);
    let withdrawn = greedy.pop();
    assert_eq!(take_items(&mut both.1, 8), [0, 1, 2, 3, 9]);
    drop(withdrawn);
    drop(both.1);
    assert_ready_eq!(greedy[4].poll(), Err(BatchError::Closed));
    assert_eq!((both.0.stats().queue_bytes, both.0.stats().cancelled), (0, 1));
    drop(other);
}

/// If a submission contains a client (here 99), the request belongs to this client. Otherwise the request belongs to
/// the client whose call is being polled. Outside of a call, the request belongs to the unknown client, which has the
/// number 0.
#[test]
fn a_request_belongs_to_the_connection_of_its_call() {
    let (processor, _intake) = sides::<usize>(8);
    let callers = [processor.caller(), processor.caller()];
    assert_ne!(callers[0].client(), callers[1].client());
    let mut calls = callers.clone().map(|caller| {
        let processor = processor.clone();
        task::spawn(caller.calling(async move {
            let first = processor.submit(Submission::new(Counted::new(0), None));
            let second = processor.submit(Submission::new(Counted::new(1), None).of_client(99));
            (first.await, second.await, processor.sequence())
        }))
    });
    for call in &mut calls {
        assert_pending!(call.poll());
    }
    let outside = submit(&processor, Counted::new(2), None);
    let clients: Vec<_> = std::iter::from_fn(|| processor.queue.ring.pop())
        .map(|queued| queued.client)
        .collect();
    assert_eq!(clients, [callers[0].client(), 99, callers[1].client(), 99, 0]);
    drop((calls, outside));
}
