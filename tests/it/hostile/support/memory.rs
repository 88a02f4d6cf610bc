//! The memory of the server, as the kernel counts it.

use std::time::Duration;

use crate::support::server::TestServer;

/// The interval between two checks of the memory.
const POLL: Duration = Duration::from_millis(50);
/// The number of equal checks after which the memory counts as settled.
const SAME: usize = 6;
/// The longest time until the memory is settled.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// Waits until the memory stops changing, because the server has then finished its work.
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

/// Waits until the memory is at most `bytes`. Returns the last value.
pub(crate) async fn shrinks_to(server: &TestServer, bytes: u64) -> u64 {
    for _ in 0..PATIENCE.as_millis() / POLL.as_millis() {
        if resident(server) <= bytes {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    resident(server)
}
