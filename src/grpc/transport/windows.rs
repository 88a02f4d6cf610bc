//! HTTP/2's flow-control windows.

/// The flow-control window of a stream: a usual batch fits, without a round trip in between.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 512 << 10;
/// The flow-control window of a connection.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 2 << 20;
