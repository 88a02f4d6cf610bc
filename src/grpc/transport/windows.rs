//! HTTP/2's flow-control windows.

/// A stream's flow-control window: enough for a usual batch without a round trip in the middle.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 512 << 10;
/// A connection's flow-control window.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 2 << 20;
