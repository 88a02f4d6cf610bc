//! How connections are served.

use std::time::Duration;

/// A stream's flow-control window: enough for a usual batch without a round trip in the middle.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 512 << 10;
/// A connection's flow-control window.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 2 << 20;
/// What a connection takes by itself, about: the library's buffers, tables and tasks.
const CONNECTION_BYTES: usize = 40 << 10;

/// How connections are served.
#[derive(Debug, Clone, Copy)]
pub struct NetConfig {
    /// Most calls under way on one connection; HTTP/2 makes the client hold the others back.
    pub streams_per_connection_max: u32,
    /// Most connections for each NET thread; one more is told to calm down and closed. All of them together are also bounded
    /// by [`NetConfig::connections_max`].
    pub connections_per_thread_max: usize,
    /// Most connections of one client (an address of IPv4, a network of IPv6); one more is told to calm down and closed.
    pub connections_per_client_max: usize,
    /// A connection on which no call begins for so long is told to go.
    pub idle_timeout: Duration,
    /// A connection is told to go at this age, so that clients come to know new instances.
    pub connection_age_max: Duration,
    /// How long a connection that was told to go may take to finish its calls; then it is cut.
    pub connection_grace: Duration,
    /// How long the message of a call may take to arrive, 1 s to 1 hour.
    pub message_time_max: Duration,
    /// Most memory that calls under way may hold, of requests and of answers, in bytes. No client may hold more of it than is
    /// left.
    pub memory_max: usize,
    /// How long connections may take to finish their calls when the service goes down.
    pub drain: Duration,
}

// ===== impl NetConfig =====

impl NetConfig {
    /// Most connections of all clients on so many NET threads: by themselves they take at most half of what
    /// [`NetConfig::memory_max`] is, besides it.
    #[must_use]
    pub fn connections_max(&self, threads: usize) -> usize {
        let by_threads = self.connections_per_thread_max.saturating_mul(threads.max(1));
        by_threads.min((self.memory_max / 2 / CONNECTION_BYTES).max(1))
    }
}

impl Default for NetConfig {
    fn default() -> Self {
        NetConfig {
            streams_per_connection_max: 4096,
            connections_per_thread_max: 4096,
            connections_per_client_max: 512,
            idle_timeout: Duration::from_secs(300),
            connection_age_max: Duration::from_secs(1800),
            connection_grace: Duration::from_secs(3600),
            message_time_max: Duration::from_secs(30),
            memory_max: 256 << 20,
            drain: Duration::from_secs(10),
        }
    }
}
