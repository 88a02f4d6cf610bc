//! `tally serve`: start, wait for a reason to stop, stop in order.
//!
//! The order of stopping: tell the health checks, take no new connections and calls, let the calls under way finish, let
//! the engine commit and answer everything that is in its queue, end the threads, exit.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use thiserror::Error;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tonic_health::server::HealthReporter;

use super::exit::{self, fail};
use crate::{
    admin::{self, Admin, AdminError, AdminHandle, Readiness},
    config::{self, Config},
    engine::{Condition, EngineConfig, Guard, StartError, TallyEngine},
    grpc::{self, NetHandle},
    security::{Look, Refresher, Security, SecurityError},
    store::journal::RealDisk,
    sys::limits,
    telemetry::{self, LogLevel, MetricSource, PanicFigures, SpanFigures},
    time::SystemWallClock,
    topology::{AffinityError, CpuAffinityManager, Role},
};

/// How often the CPU quota is looked at, if there is one: once in the kernel's usual period.
const THROTTLE_INTERVAL: Duration = Duration::from_millis(100);
/// How often certificates and tokens are looked at for changes. A change takes two looks.
const REFRESH_INTERVAL: Duration = Duration::from_millis(2500);

/// Open files besides connections: segments, id files, checkpoints, sockets of the runtime.
const FILES_BESIDES: u64 = 256;

/// Options of `tally serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The data directory; it is made if there is none. [default: ./tally-data]
    #[arg(long, value_name = "DIR", env = "TALLY_DATA")]
    data: Option<PathBuf>,
    /// Where to listen; port 0 takes a free one. [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDR", env = "TALLY_LISTEN")]
    listen: Option<SocketAddr>,
    /// Where operators look: metrics, health, a page; port 0 takes a free one. [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR", env = "TALLY_ADMIN")]
    admin: Option<SocketAddr>,
    /// Listen beyond this machine even without TLS and tokens.
    #[arg(long)]
    allow_insecure: bool,
    /// A TOML file with more settings.
    #[arg(long, value_name = "FILE", env = "TALLY_CONFIG")]
    config: Option<PathBuf>,
    /// Check the configuration and exit.
    #[arg(long)]
    check: bool,
}

/// Why the service could not be started.
#[derive(Debug, Error)]
enum ServeError {
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    #[error(transparent)]
    Telemetry(#[from] telemetry::TelemetryError),
    #[error(transparent)]
    Affinity(#[from] AffinityError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Net(#[from] grpc::NetError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Security(#[from] SecurityError),
    #[error("the API's descriptors: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the machine's clock is before 1970: set it; HTTP can't be answered by it")]
    Clock,
    #[error("signals: {0}")]
    Signals(#[source] std::io::Error),
}

pub(super) fn run(args: &ServeArgs) -> ExitCode {
    match serve(args) {
        Ok(code) => code,
        Err(error) => {
            let code = match &error {
                ServeError::Config(_)
                | ServeError::Telemetry(_)
                | ServeError::Affinity(_)
                | ServeError::Start(StartError::Affinity(_))
                | ServeError::Net(grpc::NetError::Affinity(_))
                | ServeError::Security(_) => exit::CONFIG,
                ServeError::Start(StartError::Open(_)) => exit::IO,
                ServeError::Net(_) | ServeError::Admin(_) | ServeError::Clock => exit::UNAVAILABLE,
                ServeError::Start(_) | ServeError::Reflection(_) | ServeError::Signals(_) => exit::SOFTWARE,
            };
            fail(code, &error)
        }
    }
}

fn serve(args: &ServeArgs) -> Result<ExitCode, ServeError> {
    let config = load(args)?;
    let (engine_config, net_config) = (config.engine()?, config.net()?);
    let telemetry_config = config.telemetry()?;
    let security = Arc::new(Security::load(&config.security()?)?);
    // Before any thread is started: what a thread inherits, and what the machine seems to have, depends on it.
    let affinity = CpuAffinityManager::detect(config.affinity()?)?;
    if args.check {
        return Ok(ExitCode::SUCCESS);
    }
    if is_before_epoch(SystemTime::now()) {
        return Err(ServeError::Clock);
    }
    let _place = affinity.enter(Role::Aux, 2, "tally")?;
    let runtime = affinity.current_thread_runtime()?;
    runtime.block_on(async {
        let (telemetry, log_level) = telemetry::init(&telemetry_config)?;
        log_placement(&affinity);
        warn_of_openness(&config);
        security.warn_of_faults();
        raise_open_files(&net_config, &affinity);
        let served = Service {
            config: &config,
            engine_config: &engine_config,
            net_config,
            security: &security,
            affinity: &affinity,
        };
        let ended = served.run(log_level).await;
        telemetry.shutdown().await;
        ended
    })
}

/// What a service is made of.
struct Service<'a> {
    config: &'a Config,
    engine_config: &'a EngineConfig,
    net_config: grpc::NetConfig,
    security: &'a Arc<Security>,
    affinity: &'a CpuAffinityManager,
}

// ===== impl Service =====

impl Service<'_> {
    /// From the first port that is opened to the last thread that ends.
    async fn run(self, log_level: LogLevel) -> Result<ExitCode, ServeError> {
        let Service { config, security, .. } = self;
        let mut stop = Stop::listen()?;
        // Before the store is opened: a wrong address must not leave a new ledger behind.
        let listener = grpc::Listener::bind(config.server.listen)?;
        let admin_listener = admin_listener(config)?;
        let engine = TallyEngine::start(
            self.engine_config,
            Arc::new(RealDisk),
            &config.store.data,
            Arc::new(SystemWallClock),
            self.affinity,
        )?;
        tracing::info!(data = %config.store.data.display(), recovery = ?engine.recovery(), "store opened");
        let guard = engine.panic_guard();
        let refresher = Refresher::start(Arc::clone(security), |run| {
            let run = move || {
                let _guard = guard;
                run();
            };
            let thread = self.affinity.spawn(Role::Aux, 4, "tally-refresh", run)?;
            Ok::<_, AffinityError>(thread.thread().clone())
        })
        .inspect_err(|_| engine.drain())?;
        let started = Running::start(
            config,
            listener,
            self.net_config,
            admin_listener,
            &engine,
            security,
            log_level,
        );
        let running = match started.await {
            Ok(running) => running,
            Err(error) => {
                engine.drain();
                return Err(error);
            }
        };
        let why = stop.wait(&engine, &refresher).await;
        tracing::info!(?why, "stopping");
        // NET keeps to its own limit; what comes after it is one group commit.
        running.stop(config.server.drain.saturating_mul(2)).await;
        tracing::info!("stopped");
        Ok(why.exit_code())
    }
}

/// A service that takes calls.
struct Running {
    engine: TallyEngine,
    reporter: HealthReporter,
    readiness: Readiness,
    draining: CancellationToken,
    net: NetHandle,
    admin: Option<AdminHandle>,
}

// ===== impl Running =====

impl Running {
    async fn start(
        config: &Config,
        listener: grpc::Listener,
        net_config: grpc::NetConfig,
        admin_listener: Option<grpc::Listener>,
        engine: &TallyEngine,
        security: &Arc<Security>,
        log_level: LogLevel,
    ) -> Result<Self, ServeError> {
        let draining = CancellationToken::new();
        let exporter = match &config.telemetry.otlp_endpoint {
            None => None,
            Some(endpoint) => {
                let sources: Vec<Arc<dyn MetricSource>> = vec![
                    Arc::new(engine.clone()),
                    Arc::<Security>::clone(security),
                    Arc::new(SpanFigures),
                    Arc::new(PanicFigures),
                ];
                let period = config.telemetry.metrics_interval;
                Some(telemetry::metrics_exporter(endpoint, period, sources)?)
            }
        };
        let (services, reporter) = grpc::services(engine, security, &draining).await?;
        let readiness = Readiness::default();
        let admin = admin_listener
            .map(|listener| {
                let shown = Admin {
                    engine: engine.clone(),
                    security: Arc::clone(security),
                    readiness: readiness.clone(),
                    log_level,
                };
                announce("operators on", listener.address());
                admin::serve(listener, shown)
            })
            .transpose()?;
        let net = grpc::serve(listener, net_config, &services, security, engine, &draining)?;
        if let Some(exporter) = exporter {
            tokio::spawn(exporter);
        }
        readiness.set(true);
        announce("listening on", net.address());
        tracing::info!(address = %net.address(), version = super::version::LONG_VERSION, "serving");
        Ok(Running {
            engine: engine.clone(),
            reporter,
            readiness,
            draining,
            net,
            admin,
        })
    }

    /// Stops in order, within `limit`. A disk that hangs ends the process here.
    async fn stop(self, limit: Duration) {
        let Running {
            engine,
            reporter,
            readiness,
            draining,
            net,
            admin,
        } = self;
        readiness.set(false);
        grpc::not_serving(&reporter).await;
        draining.cancel();
        let finished = tokio::task::spawn_blocking(move || {
            net.join();
            engine.drain();
            if let Some(admin) = admin {
                admin.stop();
            }
        });
        if tokio::time::timeout(limit, finished).await.is_err() {
            tracing::error!(
                ?limit,
                "the journal did not finish in time; calls under way have an unknown outcome"
            );
            // Waiting for a hung disk would keep the process for ever.
            std::process::exit(exit::IO.into());
        }
    }
}

fn load(args: &ServeArgs) -> Result<Config, config::ConfigError> {
    let mut overrides = Vec::new();
    if let Some(data) = &args.data {
        overrides.push(("store.data", data.display().to_string()));
    }
    if let Some(listen) = args.listen {
        overrides.push(("server.listen", listen.to_string()));
    }
    if let Some(admin) = args.admin {
        overrides.push(("admin.listen", admin.to_string()));
    }
    let mut config = config::load(args.config.as_deref(), &overrides)?;
    config.security.allow_insecure |= args.allow_insecure;
    Ok(config)
}

/// Whether a clock shows a time that hyper's HTTP/1.1 can't write as a date, which it does for every answer of the
/// operators' port, also where no date is sent: it panics. HTTP/2 does so only where a date is sent, so calls are answered.
fn is_before_epoch(now: SystemTime) -> bool {
    now < UNIX_EPOCH
}

fn log_placement(affinity: &CpuAffinityManager) {
    let plan = affinity.plan();
    tracing::info!(allowed = %plan.allowed, plan = %plan.summary(), why = %plan.why, "placement");
    for warning in &plan.warnings {
        tracing::warn!("{warning}");
    }
}

/// On standard output, for scripts that start the service with port 0.
#[expect(clippy::print_stdout, reason = "the one line that others read")]
fn announce(what: &str, address: SocketAddr) {
    println!("{what} {address}");
}

fn admin_listener(config: &Config) -> Result<Option<grpc::Listener>, AdminError> {
    let section = &config.admin;
    section.enabled.then(|| admin::bind(section.listen)).transpose()
}

/// A file for each connection, and some for the journal.
fn raise_open_files(net: &grpc::NetConfig, affinity: &CpuAffinityManager) {
    let connections = net.connections_max(affinity.net_threads());
    let wanted = (connections as u64).saturating_add(FILES_BESIDES);
    match limits::raise_open_files(wanted) {
        Ok(files) if files < wanted => {
            tracing::warn!(
                files,
                wanted,
                "fewer open files are allowed than connections might need"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files"),
    }
}

/// Whoever opens the service to others hears of it, every time.
fn warn_of_openness(config: &Config) {
    let (server, security) = (&config.server, &config.security);
    let secured = security.tls_certificate.is_some() && security.tokens_file.is_some();
    if !server.listen.ip().is_loopback() && !secured {
        tracing::warn!(
            listen = %server.listen,
            tls = security.tls_certificate.is_some(),
            tokens = security.tokens_file.is_some(),
            "whoever reaches this address can move money: security.allow_insecure is set"
        );
    }
    if config.admin.enabled && !config.admin.listen.ip().is_loopback() {
        tracing::warn!(listen = %config.admin.listen, "metrics and state can be read by whoever reaches this address");
    }
}

/// Why the service stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Signal,
    StoreFailed,
    Panicked,
}

impl Why {
    fn exit_code(self) -> ExitCode {
        match self {
            Why::Signal => ExitCode::SUCCESS,
            Why::StoreFailed => ExitCode::from(exit::IO),
            Why::Panicked => ExitCode::from(exit::SOFTWARE),
        }
    }
}

/// The reasons to stop, and the work of the thread that waits for them.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    /// Certificates and tokens are to be read again, now.
    hangup: tokio::signal::unix::Signal,
}

impl Stop {
    fn listen() -> Result<Self, ServeError> {
        let listen = |kind| signal(kind).map_err(ServeError::Signals);
        Ok(Stop {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Ticks the breaker and checks the placement until there is a reason to stop.
    async fn wait(&mut self, engine: &TallyEngine, refresher: &Refresher) -> Why {
        let mut tick = interval(engine.breaker(Guard::Unary).config().tick_interval);
        let mut verify = interval(engine.affinity().verify_interval());
        let mut throttle = interval(THROTTLE_INTERVAL);
        let mut refresh = interval(REFRESH_INTERVAL);
        let mut looked = Instant::now();
        // After a pause of the whole process, one tick tells the breaker all that it has to know.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        verify.set_missed_tick_behavior(MissedTickBehavior::Delay);
        throttle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Why::Signal,
                _ = self.interrupt.recv() => return Why::Signal,
                condition = engine.health().failed() => return match condition {
                    Condition::Panicked => Why::Panicked,
                    Condition::StoreFailed | Condition::Running => Why::StoreFailed,
                },
                _ = tick.tick() => engine.tick(),
                _ = refresh.tick() => {
                    refresher.look(Look::Settled);
                    if is_before_epoch(SystemTime::now()) {
                        tracing::error!("the machine's clock was set to before 1970; the operators' port can't answer");
                    }
                }
                _ = self.hangup.recv() => refresher.look(Look::Now),
                _ = throttle.tick() => {
                    let now = Instant::now();
                    engine.note_throttling(now.duration_since(looked));
                    looked = now;
                }
                _ = verify.tick() => {
                    let report = engine.affinity().verify_now();
                    tracing::debug!(?report, "placement checked");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_before_1970_by_as_little_as_a_nanosecond() {
        let nanosecond = Duration::from_nanos(1);
        assert!(is_before_epoch(UNIX_EPOCH - nanosecond));
        assert!(!is_before_epoch(UNIX_EPOCH));
    }
}
