//! Waits for the reader of standard output to close the pipe.

use std::{io, os::fd::AsFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Waits until the reader of standard output has closed the pipe. Waits forever if standard output is a file or a terminal. Call
/// it within a tokio runtime.
pub async fn reader_gone() {
    if wait().await.is_err() {
        // Standard output can't be watched, for example because it is a file. A file has no reader that could close it.
        std::future::pending::<()>().await;
    }
}

async fn wait() -> io::Result<()> {
    let stdout = io::stdout().as_fd().try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` owns a valid descriptor and always returns the same number. It moves into the `AsyncFd`, and nothing
    // takes it out, replaces it or closes it before the `AsyncFd` is dropped.
    let watched = unsafe { AsyncFd::register_with_interest(stdout, Interest::ERROR) }?;
    watched.ready(Interest::ERROR).await.map(|_ready| ())
}
