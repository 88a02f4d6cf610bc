//! Measures the cost of a call through the breaker, together with the breakers of `failsafe` and `tower-resilience` in
//! one run.
//!
//! ```text
//! cargo bench --bench breaker                 # a table: medians of all rounds, nanoseconds per call
//! cargo bench --bench breaker -- --json       # the same as JSON
//! cargo bench --bench breaker -- --gate       # fails if the budget is exceeded or a peer is faster
//! ```
//!
//! Each round measures every cell of the table once, one after the other, so a disturbance of the machine affects all
//! cells. Each round uses new breakers. Closures are compared with closures, and layers with layers. The guarded
//! operation returns a number that the compiler cannot predict. The futures of the layers are polled with a waker that
//! does nothing.

#![expect(
    clippy::disallowed_types,
    reason = "a benchmark reads the clock of the machine"
)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the table is the result"
)]
#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot be set up has no result"
)]

use std::{
    future::{Future, Ready, ready},
    hint::{black_box, spin_loop},
    pin::pin,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use failsafe::CircuitBreaker as _;
use tally_breaker::{CircuitBreakerConfig, CircuitBreakerLayer, Clock, LatencyCircuitBreaker, SystemClock};
use tower::{Layer, Service, service_fn};
use tower_resilience_circuitbreaker as resilience;

/// Number of times that each cell is measured.
const ROUNDS: usize = 15;
/// Number of calls per measurement.
const CALLS: u32 = 100_000;
/// Number of calls per measurement for a row whose calls are a hundred times slower.
const CALLS_OF_SLOW_ROW: u32 = 1_000;
/// Before a measurement, `calls / WARM_UP_SHARE` calls are made as a warm-up.
const WARM_UP_SHARE: u32 = 10;
/// Number of calls that are in the 60 s window of tower-resilience when it is measured: 167 calls per second.
const WINDOW_FILL: u32 = 10_000;
const HOUR: Duration = Duration::from_secs(3600);
const SLOW_THRESHOLD: Duration = Duration::from_millis(50);

/// The budget of a call through a closed circuit, in nanoseconds in addition to the two clock reads.
const OVER_CLOCK_MAX_NS: f64 = 40.0;
/// The budget of the tower layer, in nanoseconds in addition to the two clock reads. This budget is higher, because the
/// layer's future must own its data, which takes two changes of a reference count and copies.
const LAYER_OVER_CLOCK_MAX_NS: f64 = 80.0;
/// The budget of a rejection in nanoseconds, without the encoding of the response.
const REJECTION_MAX_NS: f64 = 1000.0;

const COLUMNS: [&str; 3] = ["closed, 1 thread", "closed, 2 threads", "rejected while open"];

/// The group of rows with which a row is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Clock,
    /// The service that the layers guard, without a layer.
    Service,
    Closure,
    /// The closure with the exact clock that the peers read. Shown for information only.
    Exact,
    Layer,
}

/// One breaker, used in one way.
struct Row {
    name: &'static str,
    kind: Kind,
    ours: bool,
    /// Measures one column, in nanoseconds per call; None if the row has no such column.
    measure: fn(usize) -> Option<f64>,
}

const ROWS: [Row; 8] = [
    Row {
        name: "two clock reads",
        kind: Kind::Clock,
        ours: false,
        measure: clock_reads,
    },
    Row {
        name: "tower service without a layer",
        kind: Kind::Service,
        ours: false,
        measure: bare_service,
    },
    Row {
        name: "tally, closure",
        kind: Kind::Closure,
        ours: true,
        measure: tally_closure,
    },
    Row {
        name: "tally, closure, exact clock",
        kind: Kind::Exact,
        ours: true,
        measure: tally_exactly,
    },
    Row {
        name: "failsafe, closure",
        kind: Kind::Closure,
        ours: false,
        measure: failsafe_closure,
    },
    Row {
        name: "tally, tower layer",
        kind: Kind::Layer,
        ours: true,
        measure: tally_layer,
    },
    Row {
        name: "tower-resilience, count window",
        kind: Kind::Layer,
        ours: false,
        measure: resilience_count,
    },
    Row {
        name: "tower-resilience, 60 s window, 10,000 calls in it",
        kind: Kind::Layer,
        ours: false,
        measure: resilience_time,
    },
];

/// The system's clock, whose recent time is the exact time.
#[derive(Debug)]
struct ExactClock(SystemClock);

impl Clock for ExactClock {
    fn now_ns(&self) -> u64 {
        self.0.now_ns()
    }
}

/// The samples of a row: for each column, one sample per round.
type Samples = [Vec<f64>; COLUMNS.len()];

fn main() -> ExitCode {
    let (mut gate, mut json) = (false, false);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--gate" => gate = true,
            "--json" => json = true,
            // Cargo adds this argument. It has no effect.
            "--bench" => {}
            other => {
                eprintln!("unknown argument {other:?}: --gate and --json are known");
                return ExitCode::from(2);
            }
        }
    }
    let samples = measure_all();
    if json {
        print_json(&samples);
    } else {
        print_table(&samples);
    }
    if !gate {
        return ExitCode::SUCCESS;
    }
    let failures = judge(&samples);
    for failure in &failures {
        eprintln!("over budget: {failure}");
    }
    if failures.is_empty() {
        eprintln!("within budget, and faster than both peers in every column");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn measure_all() -> Vec<Samples> {
    let mut samples: Vec<Samples> = ROWS.iter().map(|_| Samples::default()).collect();
    for _ in 0..ROUNDS {
        for column in 0..COLUMNS.len() {
            for (row, samples) in ROWS.iter().zip(&mut samples) {
                if let (Some(ns), Some(cell)) = ((row.measure)(column), samples.get_mut(column)) {
                    cell.push(ns);
                }
            }
        }
    }
    samples
}

// ===== the rows =====

fn clock_reads(column: usize) -> Option<f64> {
    let threads = threads_of(column)?;
    Some(time(threads, CALLS, || {
        || {
            black_box(Instant::now());
            black_box(Instant::now());
        }
    }))
}

fn bare_service(column: usize) -> Option<f64> {
    let threads = threads_of(column)?;
    let service = service_fn(echo);
    Some(time(threads, CALLS, || layer_call(service)))
}

fn tally(column: usize) -> (LatencyCircuitBreaker, usize) {
    let breaker = LatencyCircuitBreaker::new(CircuitBreakerConfig::default()).expect("the default settings");
    let threads = threads_of(column).unwrap_or_else(|| {
        breaker.open_for(HOUR);
        1
    });
    (breaker, threads)
}

fn tally_closure(column: usize) -> Option<f64> {
    let (breaker, threads) = tally(column);
    Some(time_closure(&breaker, threads))
}

/// Measures rejections that read the exact clock, as the peers do.
fn tally_exactly(column: usize) -> Option<f64> {
    if threads_of(column).is_some() {
        return None;
    }
    let breaker = LatencyCircuitBreaker::builder(CircuitBreakerConfig::default())
        .clock(Arc::new(ExactClock(SystemClock::new())))
        .build()
        .expect("the default settings");
    breaker.open_for(HOUR);
    Some(time_closure(&breaker, 1))
}

fn time_closure(breaker: &LatencyCircuitBreaker, threads: usize) -> f64 {
    time(threads, CALLS, || {
        let breaker = breaker.clone();
        move || {
            let answer = breaker.execute_with_latency_check(|| Ok::<u32, u32>(black_box(7)));
            let _ = black_box(answer);
        }
    })
}

fn failsafe_closure(column: usize) -> Option<f64> {
    let Some(threads) = threads_of(column) else {
        let backoff = failsafe::backoff::constant(HOUR);
        let policy = failsafe::failure_policy::consecutive_failures(1, backoff);
        let breaker = failsafe::Config::new().failure_policy(policy).build();
        let _ = breaker.call(|| Err::<u32, u32>(7));
        assert!(!breaker.is_call_permitted(), "failsafe is open");
        return Some(time(1, CALLS, || failsafe_call(breaker.clone())));
    };
    let breaker = failsafe::Config::new().build();
    Some(time(threads, CALLS, || failsafe_call(breaker.clone())))
}

fn failsafe_call(breaker: impl failsafe::CircuitBreaker) -> impl FnMut() {
    move || {
        let answer = breaker.call(|| Ok::<u32, u32>(black_box(7)));
        let _ = black_box(answer);
    }
}

fn tally_layer(column: usize) -> Option<f64> {
    let (breaker, threads) = tally(column);
    let service = CircuitBreakerLayer::new(breaker).layer(service_fn(echo));
    Some(time(threads, CALLS, || layer_call(service.clone())))
}

fn resilience_count(column: usize) -> Option<f64> {
    let layer = resilience::CircuitBreakerLayer::builder()
        .slow_call_duration_threshold(SLOW_THRESHOLD)
        .slow_call_rate_threshold(0.5);
    resilience_layer(column, layer, 0, CALLS)
}

fn resilience_time(column: usize) -> Option<f64> {
    let layer = resilience::CircuitBreakerLayer::builder()
        .sliding_window_type(resilience::SlidingWindowType::TimeBased)
        .sliding_window_duration(Duration::from_secs(60))
        .slow_call_duration_threshold(SLOW_THRESHOLD)
        .slow_call_rate_threshold(0.5);
    let calls = if threads_of(column).is_some() {
        CALLS_OF_SLOW_ROW
    } else {
        CALLS
    };
    resilience_layer(column, layer, WINDOW_FILL, calls)
}

fn resilience_layer(
    column: usize,
    builder: resilience::CircuitBreakerConfigBuilder<resilience::DefaultClassifier>,
    fill: u32,
    calls: u32,
) -> Option<f64> {
    let layer = builder.wait_duration_in_open(HOUR).build().expect("settings");
    let service = layer.layer(service_fn(echo));
    let Some(threads) = threads_of(column) else {
        futures_executor::block_on(service.force_open());
        assert!(service.is_open(), "tower-resilience is open");
        return Some(time(1, calls, || layer_call(service.clone())));
    };
    let mut call = layer_call(service.clone());
    (0..fill).for_each(|_| call());
    Some(time(threads, calls, || layer_call(service.clone())))
}

fn echo(number: u32) -> Ready<Result<u32, u32>> {
    ready(Ok(black_box(number)))
}

/// Makes a call through a layer and polls it until it is ready.
fn layer_call<S>(mut service: S) -> impl FnMut()
where
    S: Service<u32>,
{
    move || {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = black_box(until_ready(|| service.poll_ready(&mut cx)));
        let mut future = pin!(service.call(7));
        let _ = black_box(until_ready(|| future.as_mut().poll(&mut cx)));
    }
}

fn until_ready<T>(mut poll: impl FnMut() -> Poll<T>) -> T {
    loop {
        match poll() {
            Poll::Ready(value) => return value,
            Poll::Pending => spin_loop(),
        }
    }
}

// ===== measuring =====

/// Returns the number of threads of a column; None for the column of rejections.
fn threads_of(column: usize) -> Option<usize> {
    [Some(1), Some(2)].get(column).copied().flatten()
}

/// Makes calls on each of `threads` threads that start together. Returns the wall-clock nanoseconds per call of the
/// slowest thread.
fn time<C>(threads: usize, calls: u32, make: impl Fn() -> C) -> f64
where
    C: FnMut() + Send,
{
    let waiting = AtomicUsize::new(threads);
    let run = |mut call: C| {
        (0..calls / WARM_UP_SHARE).for_each(|_| call());
        waiting.fetch_sub(1, Ordering::AcqRel);
        while waiting.load(Ordering::Acquire) > 0 {
            spin_loop();
        }
        let began = Instant::now();
        (0..calls).for_each(|_| call());
        began.elapsed()
    };
    let slowest = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| {
                let call = make();
                scope.spawn(|| run(call))
            })
            .collect();
        let times = running
            .into_iter()
            .map(|thread| thread.join().expect("a call panicked"));
        times.max()
    });
    slowest.unwrap_or_default().as_secs_f64() * 1e9 / f64::from(calls)
}

fn median(samples: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = samples.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// Returns the median of the differences between `row` and `base` in the same round.
fn median_over(row: &Samples, base: &Samples, column: usize) -> Option<f64> {
    let pairs = row.get(column)?.iter().zip(base.get(column)?);
    median(pairs.map(|(row, base)| row - base))
}

// ===== reporting =====

/// Returns a description of every violation of the budget.
fn judge(samples: &[Samples]) -> Vec<String> {
    let mut failures = Vec::new();
    let Some(clock) = samples.first() else {
        return vec!["nothing was measured".to_owned()];
    };
    let rows = || ROWS.iter().zip(samples);
    for (ours, measured) in rows().filter(|(row, _)| row.ours) {
        for (index, column) in COLUMNS.iter().enumerate() {
            let over_max = if ours.kind == Kind::Layer {
                LAYER_OVER_CLOCK_MAX_NS
            } else {
                OVER_CLOCK_MAX_NS
            };
            let over = median_over(measured, clock, index);
            if let Some(over) = over.filter(|over| *over > over_max) {
                failures.push(format!(
                    "{}, {column}: {over:.1} ns over the clock reads, at most {over_max}",
                    ours.name
                ));
            }
            let absolute = measured.get(index).and_then(|cell| median(cell.iter().copied()));
            let is_rejection = threads_of(index).is_none();
            if let Some(ns) = absolute.filter(|ns| is_rejection && *ns > REJECTION_MAX_NS) {
                failures.push(format!(
                    "{}, {column}: {ns:.1} ns, at most {REJECTION_MAX_NS}",
                    ours.name
                ));
            }
            for (peer, theirs) in rows().filter(|(row, _)| !row.ours && row.kind == ours.kind) {
                let behind = median_over(measured, theirs, index);
                if let Some(behind) = behind.filter(|behind| *behind > 0.0) {
                    failures.push(format!(
                        "{}, {column}: {behind:.1} ns slower than {}",
                        ours.name, peer.name
                    ));
                }
            }
        }
    }
    failures
}

fn print_table(samples: &[Samples]) {
    let shown = |cell: Option<f64>| cell.map_or_else(|| "-".to_owned(), |ns| format!("{ns:.1}"));
    println!(
        "nanoseconds per call, medians of {ROUNDS} rounds; in brackets: the difference to the two clock reads"
    );
    print!("{:<52}", "");
    COLUMNS.iter().for_each(|column| print!("{column:>22}"));
    println!();
    for (row, measured) in ROWS.iter().zip(samples) {
        print!("{:<52}", row.name);
        for column in 0..COLUMNS.len() {
            let cell = measured.get(column).and_then(|cell| median(cell.iter().copied()));
            let over = samples
                .first()
                .filter(|_| row.kind != Kind::Clock)
                .and_then(|clock| median_over(measured, clock, column));
            let text = match over {
                Some(over) => format!("{} ({over:+.1})", shown(cell)),
                None => shown(cell),
            };
            print!("{text:>22}");
        }
        println!();
    }
}

fn print_json(samples: &[Samples]) {
    let rows: Vec<_> = ROWS
        .iter()
        .zip(samples)
        .map(|(row, measured)| {
            let cells: serde_json::Map<_, _> = COLUMNS
                .iter()
                .zip(measured)
                .map(|(column, cell)| {
                    let value =
                        serde_json::json!({ "median_ns": median(cell.iter().copied()), "rounds_ns": cell });
                    ((*column).to_owned(), value)
                })
                .collect();
            serde_json::json!({ "row": row.name, "columns": cells })
        })
        .collect();
    println!("{}", serde_json::json!({ "rounds": ROUNDS, "rows": rows }));
}
