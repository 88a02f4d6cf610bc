//! `tally serve`: starts the service, waits for a reason to stop, and stops the service in order.
//!
//! The order of stopping: report NOT_SERVING to health checks, accept no new connections and calls, let the calls in flight
//! finish, let the engine commit and answer everything in its queue, end the threads, exit.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use tally_journal::RealDisk;
use tally_topology::{AffinityError, CpuAffinityManager, Role};
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
    engine::{CallKind, Condition, EngineConfig, StartError, TallyEngine},
    grpc::{self, ErrorMetrics, NetHandle},
    security::{RefreshKind, Refresher, Security, SecurityError},
    settings::SettingError,
    sys::limits,
    telemetry::{self, LogLevel, MetricSources, PanicMetrics, ProcessMetrics, SpanMetrics},
    version::LONG_VERSION,
    wall_clock::SystemWallClock,
};

/// Interval at which throttling by the CPU quota is read: the kernel's default quota period.
const THROTTLE_INTERVAL: Duration = Duration::from_millis(100);
/// Interval at which certificates and tokens are read again. A change comes into force at the second read that finds it.
const REFRESH_INTERVAL: Duration = Duration::from_millis(2500);

/// Number of open files other than connections: segments, id files, checkpoints, sockets of the runtime.
const OTHER_FILES: u64 = 256;

/// Options of `tally serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The data directory. A missing directory is created. [default: ./tally-data]
    #[arg(long, value_name = "DIR", env = "TALLY_DATA")]
    data: Option<PathBuf>,
    /// The address to listen on. Port 0 takes a free port. [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDR", env = "TALLY_LISTEN")]
    listen: Option<SocketAddr>,
    /// The address of the operators' port, which serves metrics, health checks and a status page over HTTP. Port 0 takes a free port.
    /// [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR", env = "TALLY_ADMIN")]
    admin: Option<SocketAddr>,
    /// Allow a --listen address that other machines can reach, even without TLS and tokens.
    #[arg(long)]
    allow_insecure: bool,
    /// A TOML file with settings.
    #[arg(long, value_name = "FILE", env = "TALLY_CONFIG")]
    config: Option<PathBuf>,
    /// Check the configuration and exit, with exit code 78 if it is wrong.
    #[arg(long)]
    check: bool,
}

/// Why the service could not be started.
#[derive(Debug, Error)]
enum ServeError {
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    #[error(transparent)]
    Setting(#[from] SettingError),
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
    #[error("the descriptors of the API can't be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the system clock is before 1970, so HTTP requests can't be answered; set the clock")]
    Clock,
    #[error("signal handlers can't be installed: {0}")]
    Signals(#[source] std::io::Error),
}

pub(super) fn run(args: &ServeArgs) -> ExitCode {
    match serve(args) {
        Ok(code) => code,
        Err(error) => {
            let code = match &error {
                ServeError::Config(_)
                | ServeError::Setting(_)
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
    let process = ProcessMetrics::started_now();
    let mut config = load(args)?;
    let engine_config = config.engine()?;
    config.server.check()?;
    config.telemetry.check()?;
    let security = Arc::new(Security::load(&config.security()?)?);
    // Detect the CPUs before any thread starts: threads inherit the CPU mask, and detection reads the calling thread's mask.
    let affinity = CpuAffinityManager::detect(config.affinity.config()?)?;
    if args.check {
        return Ok(ExitCode::SUCCESS);
    }
    if is_before_epoch(SystemTime::now()) {
        return Err(ServeError::Clock);
    }
    let _registration = affinity.enter(Role::Aux, 2, "tally")?;
    let runtime = affinity.current_thread_runtime()?;
    runtime.block_on(async {
        let (telemetry, log_level) = telemetry::init(&config.telemetry)?;
        log_placement(&affinity);
        warn_if_open(&config);
        security.warn_of_faults();
        limit_connections(&mut config.server, affinity.net_threads());
        let service = Service {
            config: &config,
            engine_config: &engine_config,
            security: &security,
            affinity: &affinity,
            process,
        };
        let result = service.run(log_level).await;
        telemetry.shutdown().await;
        result
    })
}

/// The parts that exist before the service starts.
struct Service<'a> {
    config: &'a Config,
    engine_config: &'a EngineConfig,
    security: &'a Arc<Security>,
    affinity: &'a CpuAffinityManager,
    process: ProcessMetrics,
}

// ===== impl Service =====

impl Service<'_> {
    /// Runs the service: opens the ports, starts the threads, waits for a reason to stop, and stops everything.
    async fn run(self, log_level: LogLevel) -> Result<ExitCode, ServeError> {
        let Service { config, security, .. } = self;
        let mut stop = Stop::listen()?;
        // Bind the ports before the store is opened, so that a wrong address does not create a new data directory.
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
        let started = Running::start(&self, listener, admin_listener, &engine, log_level);
        let running = match started.await {
            Ok(running) => running,
            Err(error) => {
                engine.drain();
                return Err(error);
            }
        };
        let reason = stop.wait(&engine, &refresher).await;
        tracing::info!(?reason, "stopping");
        // NET stops within `drain`. The second `drain` is for the last commits and for the threads to end.
        running.stop(config.server.drain.saturating_mul(2)).await;
        tracing::info!("stopped");
        Ok(reason.exit_code())
    }
}

/// A service that accepts calls.
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
        service: &Service<'_>,
        listener: grpc::Listener,
        admin_listener: Option<grpc::Listener>,
        engine: &TallyEngine,
        log_level: LogLevel,
    ) -> Result<Self, ServeError> {
        let Service { config, security, .. } = service;
        let draining = CancellationToken::new();
        let (services, reporter) = grpc::services(engine, security, &draining).await?;
        let metrics: MetricSources = Arc::new([
            Arc::new(engine.clone()),
            Arc::<Security>::clone(security),
            Arc::new(services.connections().clone()),
            Arc::new(ErrorMetrics),
            Arc::new(service.process),
            Arc::new(SpanMetrics),
            Arc::new(PanicMetrics),
        ]);
        let period = config.telemetry.metrics_interval;
        let exporter = config
            .telemetry
            .otlp_endpoint
            .as_ref()
            .map(|endpoint| telemetry::metrics_exporter(endpoint, period, Arc::clone(&metrics)))
            .transpose()?;
        let readiness = Readiness::default();
        let admin = admin_listener
            .map(|listener| {
                let shown = Admin {
                    engine: engine.clone(),
                    security: Arc::clone(security),
                    readiness: readiness.clone(),
                    log_level,
                    connections: services.connections().clone(),
                    process: service.process,
                    metrics,
                };
                announce("operators on", listener.address());
                admin::serve(listener, shown)
            })
            .transpose()?;
        let net = grpc::serve(listener, config.server, &services, security, engine, &draining)?;
        if let Some(exporter) = exporter {
            tokio::spawn(exporter);
        }
        readiness.set_serving();
        announce("listening on", net.address());
        tracing::info!(address = %net.address(), version = LONG_VERSION, "serving");
        Ok(Running {
            engine: engine.clone(),
            reporter,
            readiness,
            draining,
            net,
            admin,
        })
    }

    /// Stops everything in order, within `limit`. If the disk hangs, ends the process after `limit`.
    async fn stop(self, limit: Duration) {
        let Running {
            engine,
            reporter,
            readiness,
            draining,
            net,
            admin,
        } = self;
        readiness.set_draining();
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
                "the journal did not finish in time; the outcome of calls in flight is unknown"
            );
            // A thread may be waiting for a disk that hangs. Such a thread would prevent a normal end of the process.
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

/// Returns whether `now` is before 1970. At such a time, the operators' port can't answer: hyper's HTTP/1.1 server formats the date
/// for every response, even for a response without a `date` header, and panics on a date before 1970. The gRPC port can answer,
/// because hyper's HTTP/2 server formats only a date that it sends.
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

/// Prints an address on standard output, for scripts that start the service with port 0.
#[expect(clippy::print_stdout, reason = "scripts read these lines")]
fn announce(what: &str, address: SocketAddr) {
    println!("{what} {address}");
}

fn admin_listener(config: &Config) -> Result<Option<grpc::Listener>, AdminError> {
    let section = &config.admin;
    section.enabled.then(|| admin::bind(section.listen)).transpose()
}

/// Raises the limit of open files to one for each connection and some for the journal. If the hard limit is lower, lowers the
/// number of connections, so that clients can't take the files that the journal needs.
fn limit_connections(net: &mut grpc::NetConfig, threads: usize) {
    let connections = net.connections_max(threads);
    let wanted = (connections as u64).saturating_add(OTHER_FILES);
    match limits::raise_open_files(wanted) {
        Ok(files) if files < wanted => {
            net.limit_connections(threads, files.saturating_sub(OTHER_FILES));
            tracing::warn!(
                files,
                wanted,
                connections_max = net.connections_max(threads),
                "the limit of open files is low; fewer connections are accepted"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files could not be raised"),
    }
}

/// Warns at every start if other machines can reach a port that is not secured.
fn warn_if_open(config: &Config) {
    let (server, security) = (&config.server, &config.security);
    if !server.listen.ip().is_loopback() && !security.is_secured() {
        tracing::warn!(
            listen = %server.listen,
            tls = security.tls_certificate.is_some(),
            tokens = security.tokens_file.is_some(),
            "anybody who can reach this address can move money (security.allow_insecure is set)"
        );
    }
    if config.admin.enabled && !config.admin.listen.ip().is_loopback() {
        tracing::warn!(listen = %config.admin.listen, "anybody who can reach this address can read metrics and state");
    }
}

/// Why the service stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StopReason {
    Signal,
    StoreFailed,
    Panicked,
}

impl StopReason {
    fn exit_code(self) -> ExitCode {
        match self {
            StopReason::Signal => ExitCode::SUCCESS,
            StopReason::StoreFailed => ExitCode::from(exit::IO),
            StopReason::Panicked => ExitCode::from(exit::SOFTWARE),
        }
    }
}

/// The signals that the main thread waits for.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    /// SIGHUP: certificates and tokens are read again at once.
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

    /// Waits for a reason to stop. Meanwhile, does the periodic work: ticks the breaker, reads throttling, checks the placement of
    /// the threads, and requests refreshes of certificates and tokens.
    async fn wait(&mut self, engine: &TallyEngine, refresher: &Refresher) -> StopReason {
        let mut tick = interval(engine.breaker(CallKind::Unary).config().tick_interval);
        let mut verify = interval(engine.affinity().verify_interval());
        let mut throttle = interval(THROTTLE_INTERVAL);
        let mut refresh = interval(REFRESH_INTERVAL);
        let mut throttling_read = Instant::now();
        // After a pause of the whole process, one tick of the breaker is enough. Missed ticks are not repeated.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        verify.set_missed_tick_behavior(MissedTickBehavior::Delay);
        throttle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return StopReason::Signal,
                _ = self.interrupt.recv() => return StopReason::Signal,
                condition = engine.health().failed() => return match condition {
                    Condition::Panicked => StopReason::Panicked,
                    Condition::StoreFailed | Condition::Running => StopReason::StoreFailed,
                },
                _ = tick.tick() => engine.tick(),
                _ = refresh.tick() => {
                    refresher.request(RefreshKind::Settled);
                    if is_before_epoch(SystemTime::now()) {
                        tracing::error!("the system clock was set to before 1970; the operators' port can't answer");
                    }
                }
                _ = self.hangup.recv() => refresher.request(RefreshKind::Immediate),
                _ = throttle.tick() => {
                    let now = Instant::now();
                    engine.note_throttling(now.duration_since(throttling_read));
                    throttling_read = now;
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
    fn a_nanosecond_before_1970_is_before_the_epoch() {
        let nanosecond = Duration::from_nanos(1);
        assert!(is_before_epoch(UNIX_EPOCH - nanosecond));
        assert!(!is_before_epoch(UNIX_EPOCH));
    }
}
