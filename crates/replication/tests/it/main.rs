//! Tests of the protocol.

#![cfg(test)]
