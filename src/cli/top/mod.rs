//! `tally top`: a service, live in the terminal.

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
use super::{ClientArgs, block_on, exit, fail, show::connect};
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
    /// How often the service is asked.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// Print one picture as text, after two looks, and end.
    #[arg(long)]
    once: bool,
}

/// Why it ended.
#[derive(Debug, Error)]
enum TopError {
    #[error("the terminal")]
    Terminal(#[from] io::Error),
    #[error("the service: {0}")]
    Service(#[from] Box<Status>),
}

/// Shortest time between two looks.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// How often keys are looked at.
const KEY_POLL: Duration = Duration::from_millis(50);
/// The picture of `--once`.
const ONCE_SIZE: (u16, u16) = (100, 40);

pub(super) fn run(args: &TopArgs) -> ExitCode {
    block_on(async {
        let client = match connect(&args.client).await {
            Ok(client) => client,
            Err(code) => return code,
        };
        let interval = args.interval.max(INTERVAL_MIN);
        let ended = if args.once {
            once(client, interval).await
        } else {
            live(client, interval).await
        };
        match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(error @ TopError::Terminal(_)) => fail(exit::IO, &error),
            Err(error @ TopError::Service(_)) => fail(exit::UNAVAILABLE, &error),
        }
    })
}

async fn live(mut client: EngineServiceClient<Connection>, interval: Duration) -> Result<(), TopError> {
    let mut screen = Screen::default();
    look(&mut client, &mut screen).await?;
    let mut terminal = ratatui::try_init()?;
    let ended = follow(&mut terminal, &mut client, &mut screen, interval).await;
    // Also after an error: a terminal that stays raw can't be used any more.
    ratatui::try_restore()?;
    ended
}

async fn follow(
    terminal: &mut DefaultTerminal,
    client: &mut EngineServiceClient<Connection>,
    screen: &mut Screen,
    interval: Duration,
) -> Result<(), TopError> {
    loop {
        terminal.draw(|frame| draw(frame, screen))?;
        let next = Instant::now() + interval;
        while Instant::now() < next {
            if wants_to_leave()? {
                return Ok(());
            }
            tokio::time::sleep(KEY_POLL).await;
        }
        look(client, screen).await?;
    }
}

/// Whether `q`, Escape or Ctrl-C was pressed.
fn wants_to_leave() -> io::Result<bool> {
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
    look(&mut client, &mut screen).await?;
    tokio::time::sleep(interval).await;
    look(&mut client, &mut screen).await?;
    let (width, height) = ONCE_SIZE;
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| draw(frame, &screen));
    print!("{}", view::text_of(terminal.backend().buffer()));
    Ok(())
}

/// Asks the service, and puts the answers on the screen.
async fn look(client: &mut EngineServiceClient<Connection>, screen: &mut Screen) -> Result<(), TopError> {
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
