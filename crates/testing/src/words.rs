//! loom's atomics, with every access as a point where it tries the other threads.
//!
//! loom tries another order only at an access that depends on the last one of another thread, and for a store it looks
//! at the very last access to the word alone. So a thread's own load, just before its store, hides from it that another
//! thread has read the word in between, and a reading before such a store is never tried after it. Here each access also
//! touches a second word, whose accesses all depend on each other: then the last one is the only one that counts. That
//! touch is relaxed, so it orders nothing for the threads of the model.
//!
//! loom also keeps no total order of a word's changes: it lets an exchange that read the word from before a store come
//! after that store, which no memory model allows. For a word that is both stored to and exchanged, at the same time,
//! `IN_ORDER` makes the stores swaps, which loom does put in order; what lies between a load and its store stays as open
//! as it is.
//!
//! The words are boxed, for loom's threads have small stacks.

use loom::sync::atomic::{AtomicBool, Ordering};

/// An integer's atomic in loom.
pub trait Atomic: Copy + Default {
    /// The type.
    type Of: std::fmt::Debug;

    /// Makes one.
    fn atomic(self) -> Self::Of;
    /// As loom's.
    fn load(of: &Self::Of, order: Ordering) -> Self;
    /// As loom's.
    fn store(of: &Self::Of, value: Self, order: Ordering);
    /// As loom's.
    fn swap(of: &Self::Of, value: Self, order: Ordering) -> Self;
    /// As loom's, strong.
    fn exchange(of: &Self::Of, from: Self, to: Self, order: [Ordering; 2]) -> Result<Self, Self>;
    /// As loom's.
    fn fetch_add(of: &Self::Of, value: Self, order: Ordering) -> Self;
    /// As loom's.
    fn fetch_sub(of: &Self::Of, value: Self, order: Ordering) -> Self;
    /// As loom's.
    fn fetch_and(of: &Self::Of, value: Self, order: Ordering) -> Self;
    /// As loom's.
    fn fetch_or(of: &Self::Of, value: Self, order: Ordering) -> Self;
}

/// An atomic integer.
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

    /// Replaces `from` by `to`; `Err` holds the value found instead.
    pub fn compare_exchange(&self, from: T, to: T, success: Ordering, failure: Ordering) -> Result<T, T> {
        T::exchange(self.touch(), from, to, [success, failure])
    }

    /// loom's never fail for no reason, either.
    pub fn compare_exchange_weak(
        &self,
        from: T,
        to: T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<T, T> {
        self.compare_exchange(from, to, success, failure)
    }

    /// Adds `value` and returns the value before.
    pub fn fetch_add(&self, value: T, order: Ordering) -> T {
        T::fetch_add(self.touch(), value, order)
    }

    /// Subtracts `value` and returns the value before.
    pub fn fetch_sub(&self, value: T, order: Ordering) -> T {
        T::fetch_sub(self.touch(), value, order)
    }

    /// Ands `value` in and returns the value before.
    pub fn fetch_and(&self, value: T, order: Ordering) -> T {
        T::fetch_and(self.touch(), value, order)
    }

    /// Ors `value` in and returns the value before.
    pub fn fetch_or(&self, value: T, order: Ordering) -> T {
        T::fetch_or(self.touch(), value, order)
    }
}

impl<T: Atomic, const IN_ORDER: bool> Default for Word<T, IN_ORDER> {
    fn default() -> Self {
        Self::new(T::default())
    }
}
