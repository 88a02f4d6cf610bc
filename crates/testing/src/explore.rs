//! Runs models.

use std::sync::atomic::{AtomicUsize, Ordering};

use loom::{model::Builder, thread};

/// Steps in one execution; reading a whole ring takes 512 for each shard.
const BRANCHES_MAX: usize = 20_000;

/// Runs `model` in every order with at most so many preemptions. A model of which there is one order only shows nothing,
/// so that is an error.
pub fn explore(preemptions_max: usize, model: impl Fn() + Send + Sync + 'static) {
    let executions = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&executions);
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions_max);
    builder.max_branches = BRANCHES_MAX;
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let executions = executions.load(Ordering::Relaxed);
    if std::env::var_os("LOOM_TELL").is_some() {
        println!("{executions} executions");
    }
    assert!(executions > 1, "only one order was tried");
}

/// Runs both at once, on two threads.
pub fn race<A, B>(a: impl FnOnce() -> A + Send + 'static, b: impl FnOnce() -> B) -> (A, B)
where
    A: Send + 'static,
{
    let thread = thread::spawn(a);
    let b = b();
    (thread.join().unwrap(), b)
}
