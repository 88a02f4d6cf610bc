//! `tally top`: shows a live view of a service in the terminal. Connects again when the service restarts.

mod view;

use std::{io, pin::pin, process::ExitCode, time::Duration};

use clap::Args;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers},
};
use tokio::time::Instant;

use self::view::{Answers, Screen, Scroll, draw};
use super::{
    client_args::{ClientArgs, Engine, TIMEOUT, within},
    exit::{self, Failure, block_on, finish},
    reconnect::{AttemptError, Backoff, attempt, is_lost},
    signals::ViewSignals,
    values::interval,
};
use crate::{
    client::{ClientConfig, Fault},
    proto::{GetBatchStatsRequest, GetCircuitStatsRequest, GetReplicaStateRequest, GetTopologyRequest},
    terminal::{outln, units::time},
};

/// Options of `tally top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Time between two updates, 100ms to 1h.
    #[arg(long, default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// Print the view once as text and exit. Waits for one interval, because a rate needs two readings.
    #[arg(long)]
    once: bool,
}

/// The service, and the connection if there is one.
struct Source {
    config: ClientConfig,
    engine: Option<Engine>,
    backoff: Backoff,
}

/// Why the service did not answer.
enum FetchError {
    /// The connection was lost, or could not be opened. The text says why.
    Lost(String),
    /// The service rejected a call, or the configuration is wrong.
    Failed(Failure),
}

/// The effect of the pressed keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keys {
    Nothing,
    Redraw,
    Quit,
}

/// Time between two checks for a pressed key.
const KEY_POLL: Duration = Duration::from_millis(50);
/// Width of the view of `--once`, in characters.
const ONCE_WIDTH: u16 = 100;

pub(super) fn run(args: &TopArgs) -> ExitCode {
    let interval = args.interval;
    let config = args.client.config();
    block_on(async {
        finish(if args.once {
            once(config, interval).await
        } else {
            live(config, interval).await
        })
    })
}

fn terminal_failure(error: &io::Error) -> Failure {
    Failure::with_message(
        exit::IO,
        format!("the terminal can't be used: {error}; without a terminal, use --once"),
    )
}

async fn once(config: ClientConfig, interval: Duration) -> Result<(), Failure> {
    let mut engine = Engine::connect(config).await?;
    let mut screen = Screen::default();
    screen.update(Instant::now(), first(&mut engine).await?);
    tokio::time::sleep(interval).await;
    screen.update(Instant::now(), first(&mut engine).await?);
    outln!("{}", view::text(&screen, ONCE_WIDTH).trim_end());
    Ok(())
}

async fn live(config: ClientConfig, interval: Duration) -> Result<(), Failure> {
    let mut engine = Engine::connect(config.clone()).await?;
    let mut screen = Screen::default();
    screen.update(Instant::now(), first(&mut engine).await?);
    let source = Source {
        config,
        engine: Some(engine),
        backoff: Backoff::default(),
    };
    let mut signals = ViewSignals::listen().map_err(|error| Failure::new(exit::SOFTWARE, &error))?;
    let mut terminal = ratatui::try_init().map_err(|error| terminal_failure(&error))?;
    let result = tokio::select! {
        result = update_until_quit(&mut terminal, source, &mut screen, interval) => result,
        signal = signals.recv() => Err(Failure::with_message(signal.exit_code(), signal.as_str().to_owned())),
    };
    // Restore the terminal even after an error or a signal, because a shell can't use a terminal in raw mode. After SIGHUP,
    // there may be no terminal to restore, so an earlier failure is reported instead of the failure to restore.
    let restored = ratatui::try_restore().map_err(|error| terminal_failure(&error));
    result.and(restored)
}

async fn update_until_quit(
    terminal: &mut DefaultTerminal,
    mut source: Source,
    screen: &mut Screen,
    interval: Duration,
) -> Result<(), Failure> {
    let mut pause = interval;
    loop {
        let work = async {
            tokio::time::sleep(pause).await;
            source.fetch().await
        };
        let Some(answers) = with_keys(terminal, screen, work)
            .await
            .map_err(|error| terminal_failure(&error))?
        else {
            return Ok(());
        };
        match answers {
            Ok(answers) => {
                source.backoff = Backoff::default();
                pause = interval;
                screen.update(Instant::now(), answers);
            }
            Err(FetchError::Lost(why)) => {
                pause = source.backoff.next();
                screen.lose(format!("no connection: {why}; next attempt in {}", time(pause)));
            }
            Err(FetchError::Failed(failure)) => return Err(failure),
        }
    }
}

/// Draws the screen, and runs `work` to completion while keys scroll the screen. Returns `None` if a key ends the view.
async fn with_keys<T>(
    terminal: &mut DefaultTerminal,
    screen: &mut Screen,
    work: impl Future<Output = T>,
) -> io::Result<Option<T>> {
    let mut work = pin!(work);
    terminal.draw(|frame| draw(frame, screen))?;
    loop {
        tokio::select! {
            output = &mut work => return Ok(Some(output)),
            () = tokio::time::sleep(KEY_POLL) => match pressed_keys(screen)? {
                Keys::Nothing => {}
                Keys::Redraw => {
                    terminal.draw(|frame| draw(frame, screen))?;
                }
                Keys::Quit => return Ok(None),
            },
        }
    }
}

/// Handles the keys that were pressed since the last call.
fn pressed_keys(screen: &mut Screen) -> io::Result<Keys> {
    let mut keys = Keys::Nothing;
    while event::poll(Duration::ZERO)? {
        match event::read()? {
            Event::Key(key) if is_quit(key) => return Ok(Keys::Quit),
            Event::Key(key) => {
                if let Some(scroll) = scroll_of(key.code) {
                    screen.scroll(scroll);
                    keys = Keys::Redraw;
                }
            }
            Event::Resize(..) => keys = Keys::Redraw,
            Event::FocusGained | Event::FocusLost | Event::Mouse(_) | Event::Paste(_) => {}
        }
    }
    Ok(keys)
}

/// Returns whether the key is `q`, Escape or Ctrl-C.
fn is_quit(key: KeyEvent) -> bool {
    let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
}

fn scroll_of(key: KeyCode) -> Option<Scroll> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "all other keys have no effect")]
    match key {
        KeyCode::Up | KeyCode::Char('k') => Some(Scroll::LineUp),
        KeyCode::Down | KeyCode::Char('j') => Some(Scroll::LineDown),
        KeyCode::PageUp => Some(Scroll::PageUp),
        KeyCode::PageDown | KeyCode::Char(' ') => Some(Scroll::PageDown),
        KeyCode::Home | KeyCode::Char('g') => Some(Scroll::Start),
        KeyCode::End | KeyCode::Char('G') => Some(Scroll::End),
        _ => None,
    }
}

/// Calls the service for the first view. Any error is a failure, because nothing was shown yet.
async fn first(engine: &mut Engine) -> Result<Answers, Failure> {
    answers(engine).await.map_err(|status| engine.failure(&status))
}

/// Calls the service for everything that the view shows.
async fn answers(engine: &mut Engine) -> Result<Answers, tonic::Status> {
    let client = &mut engine.client;
    let circuits = client
        .get_circuit_stats(within(TIMEOUT, GetCircuitStatsRequest {}))
        .await?;
    let batches = client
        .get_batch_stats(within(TIMEOUT, GetBatchStatsRequest {}))
        .await?;
    let topology = client
        .get_topology(within(TIMEOUT, GetTopologyRequest {}))
        .await?;
    let replica = match client
        .get_replica_state(within(TIMEOUT, GetReplicaStateRequest {}))
        .await
    {
        Ok(state) => state.into_inner().replica,
        // A service of an earlier version has no replica.
        Err(status) if status.code() == tonic::Code::Unimplemented => None,
        Err(status) => return Err(status),
    };
    Ok(Answers {
        replica,
        circuits: circuits.into_inner().circuits,
        batches: batches.into_inner(),
        topology: topology.into_inner(),
    })
}

// ===== impl Source =====

impl Source {
    /// Calls the service. Connects first if there is no connection.
    async fn fetch(&mut self) -> Result<Answers, FetchError> {
        let mut engine = match self.engine.take() {
            Some(engine) => engine,
            None => attempt(&self.config).await.map_err(|error| match error {
                AttemptError::Unreachable(fault) => FetchError::Lost(fault.to_string()),
                AttemptError::Final(failure) => FetchError::Failed(failure),
            })?,
        };
        match answers(&mut engine).await {
            Ok(answers) => {
                self.engine = Some(engine);
                Ok(answers)
            }
            Err(status) if is_lost(&status) => {
                let fault = Fault::of_call(&status).within(TIMEOUT);
                Err(FetchError::Lost(fault.to_string()))
            }
            Err(status) => Err(FetchError::Failed(engine.failure(&status))),
        }
    }
}
