//! Tools of the attacks: HTTP/2 frames, an honest client, and the memory of the server.

pub(super) mod good;
pub(super) mod memory;
pub(super) mod raw;
