//! Reads the memory of the server from the kernel.

use std::time::Duration;

use crate::support::server::TestServer;

/// The interval between two checks of the memory.
const POLL: Duration = Duration::from_millis(50);
/// The number of checks with equal results after which the memory counts as settled.
const EQUAL_CHECKS: usize = 6;
/// Maximum time to wait for the memory.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Returns the value of a line of `/proc/PID/status`, in bytes.
fn status(server: &TestServer, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Returns the resident memory of the server, in bytes.
pub(crate) fn resident(server: &TestServer) -> u64 {
    status(server, "VmRSS:")
}

/// Returns the largest resident memory since the last [`forget_peak`], in bytes.
pub(crate) fn peak(server: &TestServer) -> u64 {
    status(server, "VmHWM:")
}

/// Resets the peak to the present memory.
pub(crate) fn forget_peak(server: &TestServer) {
    std::fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").expect("a process that is ours");
}

/// Waits until the peak memory no longer grows, which means that the server has finished its work. Gives up after
/// [`WAIT_MAX`].
pub(crate) async fn wait_until_settled(server: &TestServer) {
    let (mut before, mut same) = (0, 0);
    for _ in 0..WAIT_MAX.as_millis() / POLL.as_millis() {
        let now = peak(server);
        same = if now == before { same + 1 } else { 0 };
        before = now;
        if same == EQUAL_CHECKS {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until the resident memory is at most `bytes`, but at most [`WAIT_MAX`]. Returns the resident memory in bytes.
pub(crate) async fn wait_until_below(server: &TestServer, bytes: u64) -> u64 {
    for _ in 0..WAIT_MAX.as_millis() / POLL.as_millis() {
        if resident(server) <= bytes {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    resident(server)
}
