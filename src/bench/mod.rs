//! The benchmark: loads a service and measures it.
//!
//! Closed loop: a fixed number of callers, and each caller sends its next call as soon as the previous call is answered. Open loop
//! (`--rate`): calls follow a schedule, and the latency of a call counts from its scheduled time.
//!
//! With `--baseline`, the same run also measures a bare echo server with the same message shape and the same runtime layout.
//! Rounds of the service and of the echo server alternate. Machines are noisy, so only ratios within one run are comparable.
//!
//! No module of the service imports this module. The command line ([`crate::cli`]) calls [`run()`] and prints the result.

mod disk;
mod echo;
mod error;
mod expiry;
mod export;
mod generator;
mod growth;
mod listings;
mod load;
mod message;
mod pace;
mod random;
mod report;
mod settings;
mod stats;
mod target;
mod zipf;

use serde::Serialize;

use self::{
    disk::DiskReport,
    expiry::ExpiryReport,
    listings::Listings,
    load::Load,
    report::{Figures, ListingReport, Report},
    target::Target,
};
use crate::client::ClientConfig;

pub use self::{echo::serve as serve_echo, error::BenchError, settings::BenchSettings};

/// The result of a benchmark. `--json` prints it as one object.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum BenchReport {
    /// A service under load.
    Load(Box<Report>),
    /// The disk.
    Disk(DiskReport),
    /// A service in which many holds expire at the same time.
    Expiry(Box<ExpiryReport>),
}

// ===== impl BenchReport =====

impl BenchReport {
    /// Prints the report as tables on standard output.
    pub fn print_table(&self) {
        match self {
            BenchReport::Load(report) => report.print_table(),
            BenchReport::Disk(report) => report.print_table(),
            BenchReport::Expiry(report) => report.print_table(),
        }
    }
}

/// Measures the disk, or the expiry of holds, if `settings` ask for that. Otherwise, measures the service at `remote`. If `remote` is `None`,
/// starts a service, measures it and stops it. If the caller drops the future, a service that this function has started
/// is killed, and its temporary directory is removed.
///
/// # Errors
/// [`BenchError`].
pub async fn run(settings: &BenchSettings, remote: Option<ClientConfig>) -> Result<BenchReport, BenchError> {
    if settings.disk {
        let data = settings.data.clone();
        // On a separate thread, so that the caller can drop the future and end the process.
        let measured = tokio::task::spawn_blocking(move || disk::measure(data.as_deref()));
        return measured
            .await
            .map_err(|_panic| BenchError::Panicked)?
            .map(BenchReport::Disk);
    }
    if let Some(holds) = settings.expiring_holds {
        settings.check()?;
        let service = start(settings, remote)?;
        Load::new(settings).create_accounts(&service).await?;
        let report = expiry::run(settings, &service, holds).await?;
        return Ok(BenchReport::Expiry(Box::new(report)));
    }
    let endpoint = remote.as_ref().map(ClientConfig::endpoints_text);
    let report = measure_load(settings, remote).await?.with_endpoint(endpoint);
    Ok(BenchReport::Load(Box::new(report)))
}

/// Returns the service at `remote`, or starts one.
fn start(settings: &BenchSettings, remote: Option<ClientConfig>) -> Result<Target, BenchError> {
    match remote {
        Some(config) => Ok(Target::remote(config)),
        None => Target::start_service(settings.data.as_deref()),
    }
}

async fn measure_load(settings: &BenchSettings, remote: Option<ClientConfig>) -> Result<Report, BenchError> {
    settings.check()?;
    export::check(settings)?;
    let mut service = start(settings, remote)?;
    let load = Load::new(settings);
    let empty_bytes = service.rss_bytes();
    load.create_accounts(&service).await?;
    if let Some(transactions) = settings.transactions {
        let (growth, rounds) = growth::run(&load, &mut service, transactions, empty_bytes).await?;
        export::write(settings, &rounds, &[])?;
        return Ok(Report::new(settings, Figures::from_rounds(&rounds), None, None).with_growth(growth));
    }
    if let Some(listings) = settings.listings {
        let report = measure_listings(settings, &load, &service, listings).await?;
        return Ok(report);
    }
    let echo = settings.baseline.then(Target::start_echo).transpose()?;

    let mut rounds = Vec::new();
    let mut baseline = Vec::new();
    // Round 0 warms up and is not counted.
    for round in 0..=settings.rounds {
        let tally = load.round(&service, settings.duration).await?;
        let echoed = match &echo {
            Some(echo) => Some(load.round(echo, settings.duration).await?),
            None => None,
        };
        if round > 0 {
            rounds.push(tally);
            baseline.extend(echoed);
        }
    }
    let sync = service.stats().await?.sync;
    let sync = sync.and_then(|sync| sync.p50?.try_into().ok());
    export::write(settings, &rounds, &baseline)?;
    let baseline = (!baseline.is_empty()).then(|| Figures::from_rounds(&baseline));
    Ok(Report::new(
        settings,
        Figures::from_rounds(&rounds),
        baseline,
        sync,
    ))
}

/// Measures rounds of the load without and with listings by turns.
async fn measure_listings(
    settings: &BenchSettings,
    load: &Load,
    service: &Target,
    listings: u32,
) -> Result<Report, BenchError> {
    let (mut without, mut with, mut pages) = (Vec::new(), Vec::new(), 0);
    // Round 0 warms up and is not counted.
    for round in 0..=settings.rounds {
        let alone = load.round(service, settings.duration).await?;
        let readers = Listings::start(service, listings).await?;
        let accompanied = load.round(service, settings.duration).await?;
        let read = readers.stop()?;
        if round > 0 {
            without.push(alone);
            with.push(accompanied);
            pages += read;
        }
    }
    let listed = ListingReport::new(listings, pages, &with);
    Ok(Report::new(settings, Figures::from_rounds(&without), None, None).with_listings(listed))
}
