//! The memory of the server, as the kernel counts it.

use std::time::Duration;

use crate::support::server::TestServer;

/// How often it is looked whether memory has come back.
const POLL: Duration = Duration::from_millis(50);
/// How often it must look the same.
const SAME: usize = 6;
/// How long that may take at most.
const PATIENCE: Duration = Duration::from_secs(30);

/// A line of `/proc/PID/status`, in bytes.
fn status(server: &TestServer, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// What it has now.
pub(crate) fn resident(server: &TestServer) -> u64 {
    status(server, "VmRSS:")
}

/// The most that it has had since the last [`forget_peak`].
pub(crate) fn peak(server: &TestServer) -> u64 {
    status(server, "VmHWM:")
}

/// The peak is what it has now.
pub(crate) fn forget_peak(server: &TestServer) {
    std::fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").expect("a process that is ours");
}

/// Waits until it has done what it was asked to: it holds the same for a while.
pub(crate) async fn settles(server: &TestServer) {
    let (mut before, mut same) = (0, 0);
    for _ in 0..PATIENCE.as_millis() / POLL.as_millis() {
        let now = peak(server);
        same = if now == before { same + 1 } else { 0 };
        before = now;
        if same == SAME {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until it has no more than `bytes`. What it has in the end.
pub(crate) async fn shrinks_to(server: &TestServer, bytes: u64) -> u64 {
    for _ in 0..PATIENCE.as_millis() / POLL.as_millis() {
        if resident(server) <= bytes {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    resident(server)
}
