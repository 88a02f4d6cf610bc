//! In steady state, neither the caller nor the executor allocates memory for a request, because reply slots are reused.

use std::{
    future::Future,
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
};

use tally_batch::{
    Answerer, BatchConfig, BatchItem, BatchProcessor, Claimed, Intake, Reply, Submission, batch,
};
use tokio::time::Instant;

use tally_testing::sys::allocations_of;

struct Number(u64);

struct Rig {
    processor: BatchProcessor<Number, u64>,
    intake: Intake<Number, u64>,
    answerer: Answerer,
    claimed: Vec<Claimed<Number, u64>>,
    answers: Vec<(Reply<u64>, u64)>,
}

impl BatchItem for Number {
    fn items(&self) -> usize {
        1
    }

    fn bytes(&self) -> usize {
        size_of::<Number>()
    }
}

impl Rig {
    fn new() -> Self {
        let (processor, intake) = batch(&BatchConfig::default()).unwrap();
        Rig {
            processor,
            answerer: intake.answerer(),
            intake,
            claimed: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// Executes two requests of two clients at once, and reads their answers.
    fn round(&mut self, deadline: Option<Instant>) {
        let submit = |number| {
            let submission = Submission::new(Number(number), deadline).of_client(1 + number);
            self.processor.submit(submission)
        };
        let (mut first, mut second) = (pin!(submit(0)), pin!(submit(1)));
        let mut context = Context::from_waker(Waker::noop());
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        // A share is half of the batch: one item. So the second request makes the executor count the shares of the
        // clients.
        assert_eq!(self.intake.take(2, &mut self.claimed), 2);
        assert!(self.intake.due().is_some());
        let answers = self.claimed.drain(..).map(|one| (one.reply, one.item.0));
        self.answers.extend(answers);
        self.answerer.answer_all(self.answers.drain(..));
        for (number, future) in [(0, first), (1, second)] {
            let Poll::Ready(answer) = future.poll(&mut context) else {
                panic!("the request was not answered");
            };
            assert_eq!(black_box(answer).unwrap().value, number);
        }
    }
}

#[test]
fn a_request_allocates_nothing_in_steady_state() {
    let mut rig = Rig::new();
    assert!(
        allocations_of(|| rig.round(None)) >= 2,
        "the first round makes two slots"
    );
    rig.round(None);
    assert_eq!(allocations_of(|| (0..1_000).for_each(|_| rig.round(None))), 0);
}

#[test]
fn a_rejected_request_allocates_nothing() {
    let mut rig = Rig::new();
    rig.round(None);
    rig.processor.close();
    let allocations = allocations_of(|| {
        for number in 0..1_000 {
            let mut future = pin!(rig.processor.submit(Submission::new(Number(number), None)));
            let mut context = Context::from_waker(Waker::noop());
            assert!(future.as_mut().poll(&mut context).is_ready());
        }
    });
    assert_eq!(allocations, 0);
}
