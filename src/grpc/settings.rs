//! The section `server`: where the gRPC server listens, and the limits of its connections.

use std::{net::SocketAddr, time::Duration};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::settings::{DAY, HOUR, SECOND, SettingError, check, check_time};

/// How connections are served.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetConfig {
    /// The address to listen on. Port 0 takes a free port, which is printed.
    pub listen: SocketAddr,
    /// How long calls may take to finish when the service stops.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// Most calls in flight on one connection, 1 to 2^20. HTTP/2 makes the client hold back the others.
    pub streams_per_connection_max: u32,
    /// Most connections for each NET thread, 1 to 2^20. A further connection receives GOAWAY with ENHANCE_YOUR_CALM, and is
    /// closed. [`NetConfig::connections_max`] bounds all connections together.
    pub connections_per_thread_max: usize,
    /// Most connections of one client (an IPv4 address or an IPv6 network), 1 to 2^20. A further connection receives GOAWAY
    /// with ENHANCE_YOUR_CALM, and is closed.
    pub connections_per_client_max: usize,
    /// A connection on which no call began for this long receives GOAWAY; 1 s to 1 day.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// A connection of this age receives GOAWAY, so that clients connect to new instances, too; 1 s to 1 year.
    #[serde(with = "humantime_serde")]
    pub connection_age_max: Duration,
    /// How long a connection may take to finish its calls after GOAWAY, 1 s to 1 day. Then it is closed.
    #[serde(with = "humantime_serde")]
    pub connection_grace: Duration,
    /// How long the message of a call may take to arrive, 1 s to 1 hour. A slower call fails with REQUEST_TOO_SLOW.
    #[serde(with = "humantime_serde")]
    pub message_time_max: Duration,
    /// Most memory that the requests and answers of calls in flight may hold, 64 MiB to 1 TiB. One client (an IPv4 address or
    /// an IPv6 network) may hold as much as is still free: half of the limit, if no other client holds any.
    pub memory_max: ByteSize,
}

/// Memory that a connection takes by itself, roughly: the library's buffers, tables and tasks.
const CONNECTION_BYTES: usize = 40 << 10;
/// Most connections, and most calls on one connection.
const COUNT_MAX: usize = 1 << 20;
/// Bounds of `memory_max`. Below the lower one a client could not send the largest message.
const MEMORY_MIN: ByteSize = ByteSize(64 << 20);
const MEMORY_MAX: ByteSize = ByteSize(1 << 40);

// ===== impl NetConfig =====

impl NetConfig {
    /// Checks the bounds of every key.
    ///
    /// # Errors
    /// [`SettingError`] for the first key that is out of bounds.
    pub fn check(&self) -> Result<(), SettingError> {
        for (key, count) in [
            (
                "server.streams_per_connection_max",
                self.streams_per_connection_max as usize,
            ),
            (
                "server.connections_per_thread_max",
                self.connections_per_thread_max,
            ),
            (
                "server.connections_per_client_max",
                self.connections_per_client_max,
            ),
        ] {
            check(key, count, &(1..=COUNT_MAX), "1 to 1048576")?;
        }
        for (key, time, longest, bound) in [
            ("server.idle_timeout", self.idle_timeout, DAY, "1s to 1 day"),
            (
                "server.connection_age_max",
                self.connection_age_max,
                365 * DAY,
                "1s to 1 year",
            ),
            (
                "server.connection_grace",
                self.connection_grace,
                DAY,
                "1s to 1 day",
            ),
            (
                "server.message_time_max",
                self.message_time_max,
                HOUR,
                "1s to 1 hour",
            ),
        ] {
            check_time(key, time, &(SECOND..=longest), bound)?;
        }
        let memory = MEMORY_MIN..=MEMORY_MAX;
        check("server.memory_max", self.memory_max, &memory, "64 MiB to 1 TiB")
    }

    /// Most connections of all clients on `threads` NET threads. By themselves they take at most half of
    /// [`NetConfig::memory_max`], in addition to it.
    #[must_use]
    pub fn connections_max(&self, threads: usize) -> usize {
        let by_threads = self.connections_per_thread_max.saturating_mul(threads.max(1));
        by_threads.min((self.memory_bytes_max() / 2 / CONNECTION_BYTES).max(1))
    }

    /// Lowers the number of connections on `threads` NET threads to the number of `files` that the process may open for them, but
    /// to no less than one per thread.
    pub fn limit_connections(&mut self, threads: usize, files: u64) {
        let of_thread = usize::try_from(files).unwrap_or(usize::MAX) / threads.max(1);
        self.connections_per_thread_max = self.connections_per_thread_max.min(of_thread).max(1);
    }

    /// [`NetConfig::memory_max`] in bytes.
    pub(super) fn memory_bytes_max(&self) -> usize {
        usize::try_from(self.memory_max.0).unwrap_or(usize::MAX)
    }
}

impl Default for NetConfig {
    fn default() -> Self {
        NetConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 50051)),
            drain: Duration::from_secs(10),
            streams_per_connection_max: 4096,
            connections_per_thread_max: 4096,
            connections_per_client_max: 512,
            idle_timeout: Duration::from_secs(300),
            connection_age_max: Duration::from_secs(1800),
            connection_grace: Duration::from_secs(3600),
            message_time_max: Duration::from_secs(30),
            memory_max: ByteSize(256 << 20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_take_no_more_files_than_the_process_may_open_for_them() {
        for (threads, files, expected) in [(2, 768, 768), (3, 768, 768), (2, 0, 2), (1, u64::MAX, 3276)] {
            let mut net = NetConfig::default();
            net.limit_connections(threads, files);
            assert_eq!(
                net.connections_max(threads),
                expected,
                "{threads} threads, {files} files"
            );
        }
    }
}
