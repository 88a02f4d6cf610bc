//! Sequences: if a request is not executed, no later request of its sequence is executed.

use proptest::prelude::*;

use super::*;

fn submit_next(
    processor: &BatchProcessor<Counted, usize>,
    sequence: &mut Sequence,
    number: usize,
    deadline: Option<Duration>,
) -> TestFuture {
    let deadline = deadline.map(|after| Instant::now() + after);
    let submission = sequence.next(Counted::new(number), deadline);
    task::spawn(processor.submit(submission.expect("the sequence is open")))
}

/// Acts as a correct executor. Returns the executed requests.
fn execute(intake: &mut Intake<Counted, usize>) -> Vec<usize> {
    let mut executed = Vec::new();
    let mut answers = Vec::new();
    for Claimed { item, reply, turn } in take(intake) {
        if turn.as_ref().is_some_and(|turn| !turn.is_open()) {
            reply.interrupted();
            continue;
        }
        executed.push(item.number);
        answers.push((reply, item.number));
        if let Some(turn) = turn {
            turn.executed();
        }
    }
    intake.answerer().answer_all(answers);
    executed
}

#[test]
fn executed_requests_of_a_sequence_have_no_gap() {
    let mut both = sides(64);
    let mut sequence = both.0.sequence();
    for round in 0..3 {
        let futures = [0, 1].map(|place| submit_next(&both.0, &mut sequence, 2 * round + place, None));
        assert_eq!(execute(&mut both.1), [2 * round, 2 * round + 1]);
        drop(futures);
    }
}

#[test]
fn after_a_caller_leaves_only_other_sequences_are_executed() {
    let mut both = sides(64);
    let (mut sequence, mut other) = (both.0.sequence(), both.0.sequence());
    let before = submit_next(&both.0, &mut sequence, 0, None);
    let leaves = submit_next(&both.0, &mut sequence, 1, None);
    let mut behind = submit_next(&both.0, &mut sequence, 2, None);
    let others = [submit_next(&both.0, &mut other, 3, None), submit_number(&both, 4)];
    drop(leaves);
    assert_eq!(execute(&mut both.1), [0, 3, 4]);
    assert_ready_eq!(behind.poll(), Err(BatchError::Interrupted));
    assert!(BatchError::Interrupted.is_not_executed());
    assert!(sequence.next(Counted::new(5), None).is_none());
    assert!(other.next(Counted::new(6), None).is_some());
    drop((before, others));
}

/// After a commit of one second, requests with shorter deadlines are rejected.
#[tokio::test(start_paused = true)]
async fn after_a_request_that_would_be_too_late_none_is_executed() {
    let (processor, mut intake) = sides::<usize>(1024);
    commit_of(&processor, &mut intake, 1000 * MS).await;
    let mut sequence = processor.sequence();
    let mut futures: Vec<_> = (0..512)
        .map(|number| submit_next(&processor, &mut sequence, number, Some(20 * MS)))
        .collect();
    assert!(execute(&mut intake).is_empty());
    assert_ready_eq!(futures[0].poll(), Err(BatchError::ExpiredInQueue));
    for future in &mut futures[1..] {
        assert_ready_eq!(future.poll(), Err(BatchError::Interrupted));
    }
    // A request without a deadline is rejected as well.
    assert!(sequence.next(Counted::new(512), None).is_none());
}

/// The requests that were queued before the rejected request are executed.
#[test]
fn after_a_rejected_request_none_is_submitted() {
    let mut both = sides(2);
    let mut sequence = both.0.sequence();
    let waiting = [0, 1].map(|number| submit_next(&both.0, &mut sequence, number, None));
    let mut rejected = submit_next(&both.0, &mut sequence, 2, None);
    assert!(matches!(
        assert_ready!(rejected.poll()),
        Err(BatchError::Full { .. })
    ));
    assert!(sequence.next(Counted::new(3), None).is_none());
    assert_eq!(execute(&mut both.1), [0, 1]);
    assert!(sequence.next(Counted::new(3), None).is_none());
    drop(waiting);
}

/// A circuit breaker in front of the queue drops the submission when its circuit is open.
#[test]
fn after_a_dropped_submission_none_is_submitted() {
    let mut both = sides(8);
    let mut sequence = both.0.sequence();
    let before = submit_next(&both.0, &mut sequence, 0, None);
    drop(sequence.next(Counted::new(1), None));
    assert!(sequence.next(Counted::new(2), None).is_none());
    assert_eq!(execute(&mut both.1), [0]);
    drop(before);
}

#[test]
fn after_a_request_that_could_not_be_executed_no_claimed_one_is() {
    let mut both = sides(8);
    let mut sequence = both.0.sequence();
    let futures = [0, 1, 2].map(|number| submit_next(&both.0, &mut sequence, number, None));
    let claimed = take(&mut both.1);
    let mut turns = claimed
        .into_iter()
        .map(|one| one.turn.expect("the request belongs to the sequence"));
    turns.next().expect("a request was claimed").executed();
    let (second, third) = (turns.next(), turns.next());
    assert!(second.as_ref().is_some_and(Turn::is_open));
    assert!(third.as_ref().is_some_and(Turn::is_open));
    drop(second);
    assert!(third.is_some_and(|turn| !turn.is_open()));
    drop(futures);
}

/// The events of two sequences of two clients.
#[derive(Debug, Clone, Copy)]
enum Event {
    Submit { sequence: usize, time: Option<u32> },
    Alone,
    Leave(usize),
    Wait(u32),
    Execute,
    Commit(u32),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let time = prop_oneof![Just(None), (1..40_u32).prop_map(Some)];
    let event = prop_oneof![
        6 => (0..2_usize, time).prop_map(|(sequence, time)| Event::Submit { sequence, time }),
        1 => Just(Event::Alone),
        1 => (0..64_usize).prop_map(Event::Leave),
        1 => (1..20_u32).prop_map(Event::Wait),
        2 => Just(Event::Execute),
        1 => (1..30_u32).prop_map(Event::Commit),
    ];
    proptest::collection::vec(event, 0..80)
}

/// Checks that the executed requests of each sequence are the sequence's first requests, in their order.
async fn check_prefixes(events: Vec<Event>) {
    let (processor, mut intake) = sides::<usize>(16);
    let mut sequences = [processor.sequence(), processor.sequence()];
    let mut submitted = [0, 0];
    let mut futures: Vec<Option<TestFuture>> = Vec::new();
    let mut executed = Vec::new();
    for event in events.into_iter().chain([Event::Execute]) {
        match event {
            Event::Submit { sequence, time } => {
                let deadline = time.map(|millis| Instant::now() + millis * MS);
                let number = 1000 * sequence + submitted[sequence];
                submitted[sequence] += 1;
                if let Some(submission) = sequences[sequence].next(Counted::new(number), deadline) {
                    let mut future = task::spawn(processor.submit(submission));
                    let ended = future.poll().is_ready();
                    futures.push((!ended).then_some(future));
                }
            }
            Event::Alone => futures.push(Some(submit(&processor, Counted::new(9000), None))),
            Event::Leave(place) => {
                let count = futures.len().max(1);
                if let Some(future) = futures.get_mut(place % count) {
                    *future = None;
                }
            }
            Event::Wait(millis) => advance(millis * MS).await,
            Event::Execute => executed.extend(execute(&mut intake)),
            Event::Commit(millis) => {
                let future = submit(&processor, Counted::new(9000), None);
                let claimed = intake.take(usize::MAX, &mut Vec::new());
                advance(millis * MS).await;
                drop((future, claimed));
            }
        }
        // Polling withdraws requests whose deadline has passed.
        for future in futures.iter_mut().flatten() {
            let _pending = future.poll();
        }
    }
    for sequence in 0..2 {
        let of_it: Vec<_> = executed
            .iter()
            .filter(|number| **number / 1000 == sequence)
            .collect();
        let expected: Vec<_> = (1000 * sequence..).take(of_it.len()).collect();
        assert!(of_it.iter().copied().eq(&expected), "{of_it:?}");
    }
}

proptest! {
    #[test]
    fn the_executed_requests_of_a_sequence_are_its_first_ones(events in events()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(check_prefixes(events));
    }
}
