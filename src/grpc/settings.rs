//! The section `server`: where the gRPC server listens, and the limits of its connections.

use std::{net::SocketAddr, time::Duration};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::settings::{DAY, HOUR, SECOND, SettingError, bytes_text, check, check_time, serialize_bytes};

/// The settings of the gRPC server.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetConfig {
    /// The address to listen on. With port 0 the service takes a free port, and prints its number.
    pub listen: SocketAddr,
    /// The time that calls have to finish when the service stops, 0 to 1 hour.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// Maximum number of calls in flight on one connection, 1 to 2^20. An HTTP/2 client waits before it begins a further call.
    pub streams_per_connection_max: u32,
    /// Maximum number of connections for each NET thread, 1 to 2^20. The service answers a further connection with GOAWAY and
    /// ENHANCE_YOUR_CALM, and closes the connection. [`NetConfig::connections_max`] bounds the sum of all threads.
    pub connections_per_thread_max: usize,
    /// Maximum number of connections of one client (an IPv4 address or an IPv6 network), 1 to 2^20. The service answers a further
    /// connection with GOAWAY and ENHANCE_YOUR_CALM, and closes the connection.
    pub connections_per_client_max: usize,
    /// The service sends GOAWAY on a connection if no call begins for this time, 1 s to 1 day.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// The service sends GOAWAY on a connection of this age, 1 s to 1 year. The client then opens a new connection,
    /// which a load balancer can give to a new instance.
    #[serde(with = "humantime_serde")]
    pub connection_age_max: Duration,
    /// The time that a connection has to finish its calls after GOAWAY, 1 s to 1 day. Then the service closes the
    /// connection.
    #[serde(with = "humantime_serde")]
    pub connection_grace: Duration,
    /// The longest time in which the message of a call must arrive, 1 s to 1 hour. Otherwise the call fails with
    /// REQUEST_TOO_SLOW. A watch ends with WATCH_TOO_SLOW if its client reads nothing of it for this time.
    #[serde(with = "humantime_serde")]
    pub message_time_max: Duration,
    /// Maximum memory that the requests and answers of calls in flight may hold, 64 MiB to 1 TiB. One client (an IPv4
    /// address or an IPv6 network) may hold at most as much as stays free: half of the limit if no other client holds
    /// memory.
    #[serde(serialize_with = "serialize_bytes")]
    pub memory_max: ByteSize,
}

/// The approximate memory of a connection without calls: the buffers and tables of the HTTP/2 library, and its tasks.
const CONNECTION_BYTES: usize = 40 << 10;
/// Maximum number of connections, and most calls on one connection.
const COUNT_MAX: usize = 1 << 20;
/// Bounds of `memory_max`. Below the lower bound a client could not send the largest message.
const MEMORY_MIN: ByteSize = ByteSize(64 << 20);
const MEMORY_MAX: ByteSize = ByteSize(1 << 40);

// ===== impl NetConfig =====

impl NetConfig {
    /// Checks the bounds of every key.
    ///
    /// # Errors
    /// [`SettingError`] for the first key that is out of bounds.
    pub fn check(&self) -> Result<(), SettingError> {
        #[rustfmt::skip] // One line for each key.
        let counts = [
            ("server.streams_per_connection_max", self.streams_per_connection_max as usize),
            ("server.connections_per_thread_max", self.connections_per_thread_max),
            ("server.connections_per_client_max", self.connections_per_client_max),
        ];
        for (key, count) in counts {
            check(key, count, &(1..=COUNT_MAX), "1 to 1048576")?;
        }
        #[rustfmt::skip] // One line for each key.
        let times = [
            ("server.idle_timeout", self.idle_timeout, DAY, "1s to 1 day"),
            ("server.connection_age_max", self.connection_age_max, 365 * DAY, "1s to 1 year"),
            ("server.connection_grace", self.connection_grace, DAY, "1s to 1 day"),
            ("server.message_time_max", self.message_time_max, HOUR, "1s to 1 hour"),
        ];
        for (key, time, longest, bound) in times {
            check_time(key, time, &(SECOND..=longest), bound)?;
        }
        check_time(
            "server.drain",
            self.drain,
            &(Duration::ZERO..=HOUR),
            "0s to 1 hour",
        )?;
        if !(MEMORY_MIN..=MEMORY_MAX).contains(&self.memory_max) {
            let memory = bytes_text(self.memory_max.0);
            return Err(SettingError::new("server.memory_max", memory, "64MiB to 1TiB"));
        }
        Ok(())
    }

    /// Returns the most connections of all clients on `threads` NET threads. Without their calls, this many connections
    /// take at most half as much memory as [`NetConfig::memory_max`], in addition to `memory_max`.
    #[must_use]
    pub fn connections_max(&self, threads: usize) -> usize {
        let by_threads = self.connections_per_thread_max.saturating_mul(threads.max(1));
        by_threads.min((self.memory_bytes_max() / 2 / CONNECTION_BYTES).max(1))
    }

    /// Lowers the limit of connections so that `threads` NET threads need at most `files` open files for connections.
    /// At least one connection per thread stays allowed.
    pub fn limit_connections(&mut self, threads: usize, files: u64) {
        let of_thread = usize::try_from(files).unwrap_or(usize::MAX) / threads.max(1);
        self.connections_per_thread_max = self.connections_per_thread_max.min(of_thread).max(1);
    }

    /// Returns [`NetConfig::memory_max`] in bytes.
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
