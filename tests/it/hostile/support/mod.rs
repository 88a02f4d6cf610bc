//! Helpers of the attacks: an HTTP/2 client that can send any frames, an honest client, and measurements of the
//! server's memory.

pub(super) mod honest;
pub(super) mod memory;
pub(super) mod raw;
