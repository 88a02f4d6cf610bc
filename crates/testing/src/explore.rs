//! Runs loom models. loom is a tool that runs a model (a small test with several threads) once for each order in which
//! the threads' accesses can happen.

use std::sync::atomic::{AtomicUsize, Ordering};

use loom::{model::Builder, thread};

/// Maximum number of steps of one execution of a model. loom's default of 1,000 steps is too small: a model that reads
/// all slots of the breaker's in-flight calls takes 512 steps for each shard.
const BRANCHES_MAX: usize = 20_000;

/// Runs `model` in every order of its threads' accesses that needs at most `preemptions_max` preemptions.
///
/// # Panics
/// If `model` panics in any order, or if there is only one order, because such a model proves nothing.
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
    if std::env::var_os("LOOM_COUNT").is_some() {
        println!("{executions} executions");
    }
    assert!(
        executions > 1,
        "loom found only one order of the threads' accesses, so the model proves nothing"
    );
}

/// Runs `a` and `b` at the same time on two threads, and returns both results.
pub fn race<A, B>(a: impl FnOnce() -> A + Send + 'static, b: impl FnOnce() -> B) -> (A, B)
where
    A: Send + 'static,
{
    let thread = thread::spawn(a);
    let b = b();
    (thread.join().unwrap(), b)
}
