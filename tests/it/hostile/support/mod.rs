//! What attacks are made of: HTTP/2 by hand, a client that means well, and the memory of the server.

pub(super) mod good;
pub(super) mod memory;
pub(super) mod raw;
