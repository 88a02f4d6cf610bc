//! Runs an executor on its own thread. The executor takes batches from the intake, sleeps for 2 ms in place of a
//! commit, and then answers the callers.
//!
//! `cargo run -p tally-batch --example intake`

#![expect(clippy::print_stdout, reason = "an example prints what it does")]

use std::{thread, time::Duration};

use tally_batch::{BatchConfig, BatchItem, Submission, batch};

/// An amount to add to the total.
struct Deposit(u64);

impl BatchItem for Deposit {
    fn items(&self) -> usize {
        1
    }

    fn bytes(&self) -> usize {
        size_of::<Deposit>()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (deposits, mut intake) = batch::<Deposit, u64>(&BatchConfig::default())?;
    let executor = thread::spawn(move || {
        let mut answerer = intake.answerer();
        let (mut claimed, mut total, mut commits) = (Vec::new(), 0, 0);
        while !intake.is_drained() {
            // Sleeps until at least one request is queued, or the queue is closed.
            intake.sleep(1, None);
            if intake.take(1024, &mut claimed) == 0 {
                continue;
            }
            let answers: Vec<_> = claimed
                .drain(..)
                .map(|one| {
                    total += one.item.0;
                    (one.reply, total)
                })
                .collect();
            // One slow commit for the whole batch. During the commit, the next batch forms in the queue.
            thread::sleep(Duration::from_millis(2));
            commits += 1;
            answerer.answer_all(answers);
        }
        commits
    });

    let answers: Vec<_> = (1..=1000)
        .map(|amount| deposits.submit(Submission::new(Deposit(amount), None)))
        .collect();
    let mut total = 0;
    for answer in answers {
        total = answer.await?.value;
    }
    deposits.close();
    let commits = executor.join().map_err(|_| "the executor panicked")?;
    println!("1000 deposits, {total} in total, {commits} commits");
    Ok(())
}
