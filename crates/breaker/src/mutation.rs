//! Deliberate bugs for tests. A test that plants one of them must fail; otherwise the test has a gap.
//!
//! At the place of each bug, the code asks [`planted`]. Without the feature `mutations`, the answer is the constant
//! `false`, so the compiler removes the bug. A released program never has this feature.

#[cfg(feature = "mutations")]
use std::cell::Cell;

#[cfg(feature = "mutations")]
thread_local! {
    /// The name of the planted bug. Each thread has its own planted bug, because several simulations run in one
    /// process, each on its own thread.
    static PLANTED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Plants the bug `name` in this crate, for the calling thread, in place of the bug that was planted before. `None`
/// plants no bug. A name that this crate does not know has no effect.
#[cfg(feature = "mutations")]
pub fn plant(name: Option<&'static str>) {
    PLANTED.set(name);
}

/// Whether the bug `name` is planted.
#[cfg(feature = "mutations")]
pub(crate) fn planted(name: &str) -> bool {
    PLANTED.get() == Some(name)
}

/// Whether the bug `name` is planted: never, without the feature `mutations`.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub(crate) const fn planted(_name: &str) -> bool {
    false
}
