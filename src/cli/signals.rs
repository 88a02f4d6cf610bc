//! Ends a subcommand early and in order when SIGINT (Ctrl-C) or SIGTERM arrives.

use std::{io, process::ExitCode};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::{self, fail};

/// A signal that stops a subcommand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopSignal {
    /// SIGINT: the user pressed Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGHUP: the terminal was closed. Only a subcommand that shows a view in the terminal handles this signal, because
    /// `nohup` lets the others ignore it.
    HangUp,
}

/// The signals that stop a view in the terminal.
#[derive(Debug)]
pub(super) struct ViewSignals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

/// Why a future did not complete.
#[derive(Debug)]
pub(super) enum Stopped {
    /// A signal arrived.
    Signal(StopSignal),
    /// The runtime or the signal handlers can't be set up.
    Setup(io::Error),
}

// ===== impl StopSignal =====

impl StopSignal {
    /// Returns the exit code of a program that the signal ended: 128 plus the number of the signal, as in a shell.
    pub(super) const fn exit_code(self) -> u8 {
        match self {
            StopSignal::Interrupt => exit::INTERRUPTED,
            StopSignal::Terminate => exit::TERMINATED,
            StopSignal::HangUp => exit::HUNG_UP,
        }
    }

    /// Returns the word for messages: what the signal did to the subcommand.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            StopSignal::Interrupt => "interrupted",
            StopSignal::Terminate => "terminated",
            StopSignal::HangUp => "hung up",
        }
    }
}

// ===== impl ViewSignals =====

impl ViewSignals {
    /// Handles the signals from now on. Must be called in a runtime.
    ///
    /// # Errors
    /// If the handlers can't be set up.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(ViewSignals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the first signal.
    pub(super) async fn recv(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.interrupt.recv() => StopSignal::Interrupt,
            _ = self.terminate.recv() => StopSignal::Terminate,
            _ = self.hang_up.recv() => StopSignal::HangUp,
        }
    }
}

// ===== impl Stopped =====

impl Stopped {
    /// Prints one line on standard error, for a subcommand that does not report its progress. Returns the exit code.
    pub(super) fn report(&self) -> ExitCode {
        match self {
            Stopped::Signal(signal) => {
                crate::terminal::errln!("tally: {}", signal.as_str());
                ExitCode::from(signal.exit_code())
            }
            Stopped::Setup(error) => fail(exit::SOFTWARE, error),
        }
    }
}

/// Runs a future on a single-threaded runtime until it completes, or until SIGINT or SIGTERM arrives. In both cases
/// drops the future, so its values can clean up. Does not wait for blocking threads of the future, such as a thread
/// that waits for standard input.
///
/// # Errors
/// [`Stopped`] if the future did not complete.
pub(super) fn until_signal<F: Future>(future: F) -> Result<F::Output, Stopped> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Stopped::Setup)?;
    let result = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Stopped::Setup)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(Stopped::Setup)?;
        tokio::select! {
            output = future => Ok(output),
            _ = interrupt.recv() => Err(Stopped::Signal(StopSignal::Interrupt)),
            _ = terminate.recv() => Err(Stopped::Signal(StopSignal::Terminate)),
        }
    });
    runtime.shutdown_background();
    result
}
