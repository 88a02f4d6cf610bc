//! Loom models: every interleaving of the lock-free pieces, within a bound on preemptions. Each module below includes
//! the very sources it checks, with loom's primitives in place of the real ones, so no `--cfg loom` is needed.

// Always true here; it tells clippy that helpers are test code, too.
#[cfg(test)]
mod batch;
#[cfg(test)]
mod breaker;
#[cfg(test)]
mod explore;
#[cfg(test)]
mod sweep;
#[cfg(test)]
mod words;
