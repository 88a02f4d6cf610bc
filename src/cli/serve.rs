//! `tally serve`: starts the service, waits for a reason to stop, and stops the service in order.
//!
//! The order of stopping: report NOT_SERVING to health checks, accept no new connections and calls, let the calls in flight
//! finish, let the engine commit and answer everything in its queue, end the threads, exit.

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use tally_journal::RealDisk;
use tally_topology::{AffinityError, CpuAffinityManager, Role};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tonic_health::server::HealthReporter;
use tracing::field;

use super::{
    effective,
    exit::{self, fail},
    serve_error::{SecurityFileError, ServeError},
    serve_replica::restart,
    serve_store::{self, StoreToOpen},
    settings_args::SettingsArgs,
};
use crate::{
    admin::{self, Admin, AdminConnections, AdminError, AdminHandle, Readiness},
    config::{CheckedConfig, Config, IgnoredVariables, Loaded},
    engine::{CallKind, Condition, EngineConfig, StartError, TallyEngine},
    grpc::{self, ErrorMetrics, NetHandle},
    security::{RefreshKind, Refresher, Security},
    store::{embedded, settings::StoreKind},
    sys::limits,
    telemetry::{self, LogLevel, MetricSources, PanicMetrics, ProcessMetrics, SpanMetrics, millis},
    terminal::{outln, without_error_numbers},
    version::LONG_VERSION,
};

/// Interval at which the time throttled by the CPU quota is read. It is the default length of the kernel's quota period.
const THROTTLE_INTERVAL: Duration = Duration::from_millis(100);
/// Interval at which certificates and tokens are read again. Changed contents take effect when two reads in a row have found them.
const REFRESH_INTERVAL: Duration = Duration::from_millis(2500);

/// Number of open files that are reserved for everything except connections: segments, id files, checkpoints, sockets of the
/// runtime.
const OTHER_FILES: u64 = 256;

/// Options of `tally serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Check the settings, the certificates, the tokens and the kind of the data directory, print the settings that would be in
    /// force, and exit. The exit code is 78 if something is wrong, and 74 if the start would refuse the data directory.
    #[arg(long)]
    check: bool,
    /// Start although the system clock is more than 60 s behind the last time in the journal. Commits then get times that are only
    /// nanoseconds apart, until the system clock is later than that time.
    #[arg(long, env = "TALLY_ACCEPT_CLOCK_BEHIND")]
    accept_clock_behind: bool,
}

/// `ignored` are the environment variables that the log warns of.
pub(super) fn run(args: &ServeArgs, ignored: &IgnoredVariables) -> ExitCode {
    match serve(args, ignored) {
        Ok(code) => code,
        Err(error) => fail(error.exit_code(), &error),
    }
}

impl ServeArgs {
    /// Returns whether the subcommand starts a service that writes a log.
    pub(super) const fn starts_service(&self) -> bool {
        !self.check
    }
}

fn serve(args: &ServeArgs, ignored: &IgnoredVariables) -> Result<ExitCode, ServeError> {
    let process = ProcessMetrics::started_now();
    let loaded = args.settings.load()?;
    let CheckedConfig {
        engine: mut engine_config,
        affinity,
        security,
    } = loaded.check()?;
    engine_config.accept_clock_behind = args.accept_clock_behind;
    let security = Security::load(&security).map_err(|source| {
        let setting = loaded.security_file(source.path());
        ServeError::Security(Box::new(SecurityFileError { setting, source }))
    })?;
    let security = Arc::new(security);
    // Detect the CPUs before any thread starts: threads inherit the CPU mask, and detection reads the calling thread's mask.
    let affinity = CpuAffinityManager::detect(affinity).map_err(|error| placement_error(&loaded, error))?;
    let mut config = loaded.config.clone();
    if args.check {
        telemetry::warnings_to_standard_error()?;
        warn(&mut config, &affinity, &security);
        let kind = match config.store.kind {
            StoreKind::Embedded => tally_journal::StoreKind::Embedded,
            StoreKind::Replicated => tally_journal::StoreKind::Replicated,
        };
        embedded::check_directory(&RealDisk, &config.store.data, kind).map_err(StartError::from)?;
        return Ok(effective::print(&loaded.settings()));
    }
    if is_before_epoch(SystemTime::now()) {
        return Err(ServeError::Clock);
    }
    let _registration = affinity.enter(Role::Aux, 2, "tally")?;
    let runtime = affinity.current_thread_runtime()?;
    runtime.block_on(async {
        let (telemetry, log_level) = telemetry::init(&config.telemetry)?;
        if let Some(warning) = ignored.warning() {
            tracing::warn!("{warning}");
        }
        log_placement(&affinity);
        warn(&mut config, &affinity, &security);
        let service = Service {
            config: &config,
            engine_config: &engine_config,
            security: &security,
            affinity: &affinity,
            process,
        };
        let result = service.run(log_level).await;
        telemetry.shutdown().await;
        result.map(StopReason::exit_code).map_err(|error| {
            if let ServeError::Start(StartError::Breaker(error)) = error {
                loaded.strict_error(error).into()
            } else {
                error
            }
        })
    })
}

/// The parts of the service that are made before any port is opened: settings, certificates and tokens, the plan for the CPUs.
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
    async fn run(self, log_level: LogLevel) -> Result<StopReason, ServeError> {
        let Service { config, security, .. } = self;
        let mut stop = Stop::listen()?;
        // Bind the ports before the store is opened, so that a wrong address does not create a new data directory.
        let listener = grpc::Listener::bind(config.server.listen)?;
        let admin_listener = admin_listener(config)?;
        let store = StoreToOpen {
            engine: self.engine_config.clone(),
            data: config.store.data.clone(),
            replicated: config.store.replicated()?,
            identity: config.forwarding()?.identity,
        };
        let started = serve_store::start(store, self.affinity, stop.signal());
        let Some((engine, replica)) = started.await? else {
            tracing::info!("stopped by a signal before the start was complete; no call was accepted");
            return Ok(StopReason::Signal);
        };
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
        let replica = match replica
            .map(|replica| replica.run(&engine, self.affinity))
            .transpose()
        {
            Ok(replica) => replica,
            Err(error) => {
                running
                    .stop(StopReason::Panicked, config.server.drain.saturating_mul(2))
                    .await;
                return Err(error.into());
            }
        };
        let reason = stop.wait(&engine, &refresher).await;
        tracing::info!(reason = reason.as_str(), "stopping");
        // Resigns before the calls in flight have finished, so that another replica can lead at once.
        if let Some(replica) = &replica {
            replica.resign(&engine).await;
        }
        // The calls in flight end within `server.drain`. An equally long time is for the last commits and the end of
        // the threads.
        running.stop(reason, config.server.drain.saturating_mul(2)).await;
        tracing::info!("stopped");
        drop(replica);
        Ok(reason)
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
        let (mut services, reporter) = grpc::services(engine, security, &draining).await?;
        if let Some(replica) = engine.replica() {
            services.forward_calls(replica, config.forwarding()?)?;
        }
        let own_connections = AdminConnections::default();
        let metrics: MetricSources = Arc::new([
            Arc::new(engine.clone()),
            Arc::<Security>::clone(security),
            Arc::new(services.connections().clone()),
            Arc::new(services.forwarding()),
            Arc::new(own_connections.clone()),
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
                    own_connections,
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

    /// Stops everything in order, within `limit`. If the disk hangs, ends the process after `limit`, or starts it again if it has stepped
    /// down.
    async fn stop(self, reason: StopReason, limit: Duration) {
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
                limit_ms = millis(limit),
                "the journal did not finish in time; the outcome of calls in flight is unknown"
            );
            // A thread may be waiting for a disk that hangs. A normal end of the process would wait for this thread, so
            // the process ends here. A replica that has stepped down starts again: the blocks in flight are void, and a start after
            // a crash finds the same journal. The whole process may also have been paused meanwhile.
            if reason == StopReason::SteppedDown {
                // Returns only if the process can't start again.
                let _code = restart();
            }
            std::process::exit(exit::IO.into());
        }
    }
}

/// Returns whether `now` is before 1970. At such a time, the operators' port can't answer: hyper's HTTP/1.1 server formats the date
/// for every response, even for a response without a `date` header, and panics on a date before 1970. The gRPC port can answer,
/// because hyper's HTTP/2 server formats only a date that it sends.
fn is_before_epoch(now: SystemTime) -> bool {
    now < UNIX_EPOCH
}

/// Converts the error of a plan for the CPUs. `loaded` knows the settings that caused the error.
fn placement_error(loaded: &Loaded, error: AffinityError) -> ServeError {
    match loaded.placement_error(error) {
        Ok(setting) => setting.into(),
        Err(error) => error.into(),
    }
}

/// Warns of settings that are valid, but probably not what the operator wants. Lowers the maximum number of connections
/// if the process may not open enough files.
fn warn(config: &mut Config, affinity: &CpuAffinityManager, security: &Security) {
    for warning in &affinity.plan().warnings {
        let (code, figures) = (warning.code, &warning.figures);
        tracing::warn!(
            warning = code.as_str(),
            detail = without_error_numbers(warning.detail.clone()),
            cpus = figures.cpus.as_ref().map(field::display),
            allowed = figures.allowed.as_ref().map(field::display),
            listed = figures.listed,
            limit = figures.limit,
            time_us = figures.time_us,
            period_us = figures.period_us,
            exec_node = figures.exec_node,
            aux_node = figures.aux_node,
            remedy = code.remedy(),
            "the placement of the threads costs speed or predictability"
        );
    }
    warn_if_open(config);
    security.warn_of_faults();
    limit_connections(&mut config.server, affinity.net_threads());
}

fn log_placement(affinity: &CpuAffinityManager) {
    let plan = affinity.plan();
    let [exec, wal, net, aux] = &plan.roles;
    tracing::info!(
        mode = plan.requested.as_str(),
        placement = plan.placement.as_str(),
        why = %plan.why,
        allowed = %plan.allowed,
        exec = %exec.cpus,
        wal = %wal.cpus,
        net = %net.cpus,
        aux = %aux.cpus,
        spare = %plan.spare,
        net_threads = plan.net_threads,
        shared_core = plan.shared_core,
        spin_allowed = plan.spin_allowed,
        "threads placed"
    );
}

/// Prints an address on standard output, for scripts that start the service with port 0. Ignores a failure: the service does not
/// need standard output.
fn announce(what: &str, address: SocketAddr) {
    outln!("{what} {address}");
}

fn admin_listener(config: &Config) -> Result<Option<grpc::Listener>, AdminError> {
    let section = &config.admin;
    section.enabled.then(|| admin::bind(section.listen)).transpose()
}

/// Raises the limit of open files to one file for each connection and [`OTHER_FILES`] for everything else. If the hard
/// limit is lower, lowers the maximum number of connections, so connections can't use up the files that the journal
/// needs.
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
        Err(error) => {
            let error = without_error_numbers(error.to_string());
            tracing::warn!(error, "the limit of open files could not be raised");
        }
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
    /// The process starts again, as a replica that follows.
    SteppedDown,
}

impl StopReason {
    /// Returns the word for the log.
    const fn as_str(self) -> &'static str {
        match self {
            StopReason::Signal => "signal",
            StopReason::StoreFailed => "store_failed",
            StopReason::Panicked => "panicked",
            StopReason::SteppedDown => "stepped_down",
        }
    }

    fn exit_code(self) -> ExitCode {
        match self {
            StopReason::Signal => ExitCode::SUCCESS,
            StopReason::StoreFailed => ExitCode::from(exit::IO),
            StopReason::Panicked => ExitCode::from(exit::SOFTWARE),
            StopReason::SteppedDown => restart(),
        }
    }
}

/// The signals that the main thread handles.
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

    /// Waits for a signal that ends the service.
    async fn signal(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
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
                    Condition::SteppedDown => StopReason::SteppedDown,
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
                    tracing::debug!(
                        checked = report.checked,
                        lost = report.lost,
                        reapplied = report.reapplied,
                        failed = report.failed,
                        replanned = report.replanned,
                        "placement checked"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::StartError;

    #[test]
    fn a_threshold_below_healthy_commits_is_an_error_of_the_configuration() {
        let config = tally_breaker::CircuitBreakerConfig::default();
        let error = config
            .check_latency_floor(Duration::from_secs(60 * 60))
            .unwrap_err();
        assert_eq!(
            ServeError::Start(StartError::Breaker(error)).exit_code(),
            exit::CONFIG
        );
    }

    #[test]
    fn a_nanosecond_before_1970_is_before_the_epoch() {
        let nanosecond = Duration::from_nanos(1);
        assert!(is_before_epoch(UNIX_EPOCH - nanosecond));
        assert!(!is_before_epoch(UNIX_EPOCH));
    }
}
