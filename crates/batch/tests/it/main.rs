//! Tests that use only the public interface. The tests of the guarantees that the crate's documentation lists are in
//! `src/tests`.
#![cfg(test)]

mod allocations;
