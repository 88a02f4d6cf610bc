//! The latency budget: every batch over the budget is counted, and warnings are rate-limited.

use parking_lot::Mutex;

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use super::*;

/// Collects the `over_budget` of each warning.
#[derive(Debug, Clone, Default)]
struct Warnings(Arc<Mutex<Vec<u64>>>);

impl Subscriber for Warnings {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl Visit for Warnings {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "over_budget" {
            self.0.lock().push(value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

#[tokio::test(start_paused = true)]
async fn batches_over_budget_are_counted_and_warnings_are_rate_limited() {
    let warnings = Warnings::default();
    let _default = tracing::subscriber::set_default(warnings.clone());
    let config = BatchConfig {
        latency_budget: Some(MS),
        ..BatchConfig::default()
    };
    let (processor, mut intake) = batch::<Counted, usize>(&config).unwrap();
    let mut answerer = intake.answerer();
    let mut one_batch = async |takes: Duration| {
        let future = processor.submit(Submission::new(Counted::new(1), None));
        let mut claimed = Vec::new();
        intake.take(10, &mut claimed);
        advance(takes).await;
        answerer.answer_all(claimed.into_iter().map(|claimed| (claimed.reply, 0)));
        future.await.unwrap();
    };
    one_batch(MS).await;
    assert_eq!(
        processor.stats().over_budget,
        0,
        "a batch that takes exactly the budget is within the budget"
    );
    assert_eq!(*warnings.0.lock(), []);
    for _ in 0..4 {
        one_batch(2 * MS).await;
    }
    assert_eq!(processor.stats().over_budget, 4);
    assert_eq!(
        *warnings.0.lock(),
        [1],
        "the other warnings were suppressed, because 10 s have not passed"
    );
    advance(Duration::from_secs(10)).await;
    one_batch(2 * MS).await;
    one_batch(2 * MS).await;
    assert_eq!(processor.stats().over_budget, 6);
    assert_eq!(*warnings.0.lock(), [1, 5]);
}

#[tokio::test(start_paused = true)]
async fn without_a_budget_no_batch_is_over_budget() {
    let (processor, mut intake) = batch::<Counted, usize>(&BatchConfig::default()).unwrap();
    let future = processor.submit(Submission::new(Counted::new(1), None));
    let mut claimed = Vec::new();
    intake.take(10, &mut claimed);
    advance(Duration::from_secs(60)).await;
    let answers = claimed.into_iter().map(|claimed| (claimed.reply, 0));
    intake.answerer().answer_all(answers);
    future.await.unwrap();
    assert_eq!(processor.stats().over_budget, 0);
}
