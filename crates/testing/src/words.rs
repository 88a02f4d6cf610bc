//! loom's atomics, changed so that loom explores more interleavings.
//!
//! loom tries another order of two accesses only if the later access depends on the earlier access of another thread.
//! For a store, loom considers only the last access to the word. Suppose that one thread reads the word, and then a
//! second thread reads and overwrites the word. The last access before the store is the second thread's own load, so
//! loom does not see the first thread's load, and never tries the order in which this load follows the store. Therefore
//! each access here also stores to a second word. All stores to the second word depend on each other, so loom tries the
//! other order at every access. The stores to the second word are relaxed, so they do not order the accesses of the
//! model's threads.
//!
//! loom also keeps no total order of the changes of a word. loom allows that an exchange reads the value before a
//! store, but takes effect after that store. No memory model allows this. If threads both store to a word and exchange
//! it at the same time, set `IN_ORDER` for this word. With `IN_ORDER`, each store is a swap, and loom orders swaps and
//! exchanges correctly. loom still tries other accesses between a load and the store that follows it.
//!
//! The words are boxed, because loom's threads have small stacks.

use loom::sync::atomic::{AtomicBool, Ordering};

/// An integer that has an atomic type in loom.
pub trait Atomic: Copy + Default {
    /// The atomic type.
    type Of: std::fmt::Debug;

    /// Makes an atomic with this value.
    fn atomic(self) -> Self::Of;
    /// Calls loom's `load`.
    fn load(of: &Self::Of, order: Ordering) -> Self;
    /// Calls loom's `store`.
    fn store(of: &Self::Of, value: Self, order: Ordering);
    /// Calls loom's `swap`.
    fn swap(of: &Self::Of, value: Self, order: Ordering) -> Self;
    /// Calls loom's `compare_exchange`.
    fn exchange(of: &Self::Of, from: Self, to: Self, order: [Ordering; 2]) -> Result<Self, Self>;
    /// Calls loom's `fetch_add`.
    fn fetch_add(of: &Self::Of, value: Self, order: Ordering) -> Self;
    /// Calls loom's `fetch_sub`.
    fn fetch_sub(of: &Self::Of, value: Self, order: Ordering) -> Self;
    /// Calls loom's `fetch_and`.
    fn fetch_and(of: &Self::Of, value: Self, order: Ordering) -> Self;
    /// Calls loom's `fetch_or`.
    fn fetch_or(of: &Self::Of, value: Self, order: Ordering) -> Self;
}

/// An atomic integer. `IN_ORDER` replaces stores by swaps; the module's documentation gives the reason.
#[derive(Debug)]
pub struct Word<T: Atomic, const IN_ORDER: bool = false>(Box<Touched<T>>);

#[derive(Debug)]
struct Touched<T: Atomic> {
    value: T::Of,
    touched: AtomicBool,
}

macro_rules! atomic {
    ($integer:ty, $atomic:ty) => {
        impl Atomic for $integer {
            type Of = $atomic;

            fn atomic(self) -> $atomic {
                <$atomic>::new(self)
            }

            fn load(of: &$atomic, order: Ordering) -> Self {
                of.load(order)
            }

            fn store(of: &$atomic, value: Self, order: Ordering) {
                of.store(value, order);
            }

            fn swap(of: &$atomic, value: Self, order: Ordering) -> Self {
                of.swap(value, order)
            }

            fn exchange(of: &$atomic, from: Self, to: Self, order: [Ordering; 2]) -> Result<Self, Self> {
                of.compare_exchange(from, to, order[0], order[1])
            }

            fn fetch_add(of: &$atomic, value: Self, order: Ordering) -> Self {
                of.fetch_add(value, order)
            }

            fn fetch_sub(of: &$atomic, value: Self, order: Ordering) -> Self {
                of.fetch_sub(value, order)
            }

            fn fetch_and(of: &$atomic, value: Self, order: Ordering) -> Self {
                of.fetch_and(value, order)
            }

            fn fetch_or(of: &$atomic, value: Self, order: Ordering) -> Self {
                of.fetch_or(value, order)
            }
        }
    };
}

atomic!(u8, loom::sync::atomic::AtomicU8);
atomic!(u64, loom::sync::atomic::AtomicU64);
atomic!(usize, loom::sync::atomic::AtomicUsize);

// ===== impl Word =====

impl<T: Atomic, const IN_ORDER: bool> Word<T, IN_ORDER> {
    /// Makes a word that holds `value`.
    pub fn new(value: T) -> Self {
        Self(Box::new(Touched {
            value: value.atomic(),
            touched: AtomicBool::new(false),
        }))
    }

    /// Stores to the second word, and returns the first word.
    fn touch(&self) -> &T::Of {
        self.0.touched.store(true, Ordering::Relaxed);
        &self.0.value
    }

    /// Reads the word.
    pub fn load(&self, order: Ordering) -> T {
        T::load(self.touch(), order)
    }

    /// Overwrites the word.
    pub fn store(&self, value: T, order: Ordering) {
        if IN_ORDER {
            T::swap(self.touch(), value, order);
        } else {
            T::store(self.touch(), value, order);
        }
    }

    /// Replaces the value `from` by `to`, and returns `from`.
    ///
    /// # Errors
    /// The current value, if it is not `from`.
    pub fn compare_exchange(&self, from: T, to: T, success: Ordering, failure: Ordering) -> Result<T, T> {
        T::exchange(self.touch(), from, to, [success, failure])
    }

    /// Does the same as [`Self::compare_exchange`], because loom models no spurious failures.
    ///
    /// # Errors
    /// Those of [`Self::compare_exchange`].
    pub fn compare_exchange_weak(
        &self,
        from: T,
        to: T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<T, T> {
        self.compare_exchange(from, to, success, failure)
    }

    /// Adds `value` and returns the previous value.
    pub fn fetch_add(&self, value: T, order: Ordering) -> T {
        T::fetch_add(self.touch(), value, order)
    }

    /// Subtracts `value` and returns the previous value.
    pub fn fetch_sub(&self, value: T, order: Ordering) -> T {
        T::fetch_sub(self.touch(), value, order)
    }

    /// Replaces the value by its bitwise AND with `value` and returns the previous value.
    pub fn fetch_and(&self, value: T, order: Ordering) -> T {
        T::fetch_and(self.touch(), value, order)
    }

    /// Replaces the value by its bitwise OR with `value` and returns the previous value.
    pub fn fetch_or(&self, value: T, order: Ordering) -> T {
        T::fetch_or(self.touch(), value, order)
    }
}

impl<T: Atomic, const IN_ORDER: bool> Default for Word<T, IN_ORDER> {
    fn default() -> Self {
        Self::new(T::default())
    }
}
