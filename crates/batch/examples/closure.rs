//! Runs a closure for each batch of requests, on a thread that belongs to the batch processor.
//!
//! `cargo run -p tally-batch --example closure`

#![expect(clippy::print_stdout, reason = "an example prints what it does")]

use std::time::Duration;

use tally_batch::{BatchThreadBuilder, Single, Submission};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A batch has at most 64 numbers, and never waits for more numbers. A batch that takes longer than 800 µs is
    // counted.
    let builder = BatchThreadBuilder::new(64, Duration::ZERO)?
        .max_latency(Duration::from_micros(800))
        .name("squares")
        .on_start(|| println!("this is the place to pin the batch thread to a CPU"));
    let (squares, thread) = builder.spawn(|batch: Vec<Single<u64>>| {
        println!("a batch of {}", batch.len());
        batch.into_iter().map(|Single(number)| number * number).collect()
    })?;

    // All requests are queued before the first answer is awaited, so they share batches.
    let answers: Vec<_> = (0..200)
        .map(|number| squares.submit(Submission::new(Single(number), None)))
        .collect();
    let mut sum = 0;
    for answer in answers {
        sum += answer.await?.value;
    }
    println!("sum of the squares of 0 to 199: {sum}");
    let stats = squares.stats();
    println!(
        "largest batch: {}, batches over 800 µs: {}",
        stats.items.max, stats.over_budget
    );

    // The thread processes all requests that are still queued, and then ends.
    squares.close();
    thread.join().map_err(|_| "the closure panicked")?;
    Ok(())
}
