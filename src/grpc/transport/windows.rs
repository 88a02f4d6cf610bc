//! The flow-control windows of HTTP/2: how many bytes a client may send before the client must wait for the service.

/// The window of one stream, in bytes. A usual batch fits into the window, so the client sends the batch without
/// waiting.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 512 << 10;
/// The window of all streams of a connection together, in bytes.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 2 << 20;
