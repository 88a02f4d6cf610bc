//! `tally top`: shows a live view of a service in the terminal.

mod view;

use std::{io, process::ExitCode, time::Duration};

use clap::Args;
use ratatui::{
    DefaultTerminal, Terminal,
    backend::TestBackend,
    crossterm::event::{self, Event, KeyCode, KeyModifiers},
};
use thiserror::Error;
use tokio::time::Instant;
use tonic::Status;

use self::view::{Screen, draw};
use super::{
    client_args::ClientArgs,
    exit::{self, block_on, fail},
};
use crate::{
    client::Connection,
    proto::{
        GetBatchStatsRequest, GetCircuitStatsRequest, GetTopologyRequest,
        engine_service_client::EngineServiceClient,
    },
};

/// Options of `tally top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Time between two updates, at least 100ms.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// Print the view once as text and exit. Waits for one interval, because a rate needs two readings.
    #[arg(long)]
    once: bool,
}

/// Why the view ended early.
#[derive(Debug, Error)]
enum TopError {
    #[error("the terminal can't be used")]
    Terminal(#[from] io::Error),
    #[error("the service does not answer: {0}")]
    Service(#[from] Box<Status>),
}

/// Shortest time between two updates.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Time between two checks for a pressed key.
const KEY_POLL: Duration = Duration::from_millis(50);
/// Width and height of the view of `--once`, in characters.
const ONCE_SIZE: (u16, u16) = (100, 40);

pub(super) fn run(args: &TopArgs) -> ExitCode {
    block_on(async {
        let client = match args.client.connect_to_engine().await {
            Ok(client) => client,
            Err(code) => return code,
        };
        let interval = args.interval.max(INTERVAL_MIN);
        let result = if args.once {
            once(client, interval).await
        } else {
            live(client, interval).await
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error @ TopError::Terminal(_)) => fail(exit::IO, &error),
            Err(error @ TopError::Service(_)) => fail(exit::UNAVAILABLE, &error),
        }
    })
}

async fn live(mut client: EngineServiceClient<Connection>, interval: Duration) -> Result<(), TopError> {
    let mut screen = Screen::default();
    refresh(&mut client, &mut screen).await?;
    let mut terminal = ratatui::try_init()?;
    let result = update_until_quit(&mut terminal, &mut client, &mut screen, interval).await;
    // Restore the terminal even after an error, because a shell can't use a terminal in raw mode.
    ratatui::try_restore()?;
    result
}

async fn update_until_quit(
    terminal: &mut DefaultTerminal,
    client: &mut EngineServiceClient<Connection>,
    screen: &mut Screen,
    interval: Duration,
) -> Result<(), TopError> {
    loop {
        terminal.draw(|frame| draw(frame, screen))?;
        let next = Instant::now() + interval;
        while Instant::now() < next {
            if quit_requested()? {
                return Ok(());
            }
            tokio::time::sleep(KEY_POLL).await;
        }
        refresh(client, screen).await?;
    }
}

/// Returns whether `q`, Escape or Ctrl-C was pressed.
fn quit_requested() -> io::Result<bool> {
    while event::poll(Duration::ZERO)? {
        if let Event::Key(key) = event::read()? {
            let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            if interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[expect(clippy::print_stdout, reason = "the command's result")]
async fn once(mut client: EngineServiceClient<Connection>, interval: Duration) -> Result<(), TopError> {
    let mut screen = Screen::default();
    refresh(&mut client, &mut screen).await?;
    tokio::time::sleep(interval).await;
    refresh(&mut client, &mut screen).await?;
    let (width, height) = ONCE_SIZE;
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| draw(frame, &screen));
    print!("{}", view::buffer_text(terminal.backend().buffer()));
    Ok(())
}

/// Calls the service and updates the screen with its answers.
async fn refresh(client: &mut EngineServiceClient<Connection>, screen: &mut Screen) -> Result<(), TopError> {
    let circuits = client
        .get_circuit_stats(GetCircuitStatsRequest {})
        .await
        .map_err(Box::new)?;
    let batches = client
        .get_batch_stats(GetBatchStatsRequest {})
        .await
        .map_err(Box::new)?;
    let topology = client
        .get_topology(GetTopologyRequest {})
        .await
        .map_err(Box::new)?;
    screen.update(
        Instant::now(),
        circuits.into_inner().circuits,
        batches.into_inner(),
        topology.into_inner(),
    );
    Ok(())
}
