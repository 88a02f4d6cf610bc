//! Tests that use only the public interface. The tests of the guarantees are in `src/tests`.
#![cfg(test)]

mod allocations;
