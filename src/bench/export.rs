//! Writes the results to files: a chart, and the latencies in the text format of `HdrHistogram`.

use std::{fmt::Write, fs, io, path::Path};

use hdrhistogram::Histogram;
use plotters::{
    chart::{ChartBuilder, LabelAreaPosition},
    coord::Shift,
    drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea},
    element::PathElement,
    prelude::{IntoLogRange, SVGBackend},
    series::LineSeries,
    style::{BLACK, BLUE, Color, RED, RGBColor, WHITE},
};

use super::{
    error::BenchError,
    settings::BenchSettings,
    stats::{Round, all_latencies},
};

/// Width and height of the chart, in pixels.
const SIZE: (u32, u32) = (960, 840);
/// Height of the upper half, which shows the latencies.
const UPPER: u32 = 440;
/// The highest percentile that is drawn, as a number of nines: 5 nines are 99.999 %.
const NINES_MAX: f64 = 5.0;
/// Number of points of a curve between two whole numbers of nines, for example between 99 % and 99.9 %.
const POINTS_PER_NINE: u32 = 20;
/// Resolution of the written latencies: steps per halving of the distance to 100 %. The tools of `HdrHistogram` have
/// the same default.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type PlotError = DrawingAreaErrorKind<std::io::Error>;

/// Checks before the measurement that the files of `--hdr` and `--plot` can be written, because a measurement may take hours.
///
/// # Errors
/// [`BenchError::Write`] if the directory of a file does not exist, or the file is a directory.
pub(super) fn check(settings: &BenchSettings) -> Result<(), BenchError> {
    for path in settings.hdr.iter().chain(&settings.plot) {
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            Some(_) | None => Path::new("."),
        };
        let found = match fs::metadata(directory) {
            Ok(_) if path.is_dir() => Err(io::Error::from(io::ErrorKind::IsADirectory)),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        found.map_err(|source| BenchError::Write {
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}

/// Writes the files that `--hdr` and `--plot` name.
pub(super) fn write(
    settings: &BenchSettings,
    rounds: &[Round],
    baseline: &[Round],
) -> Result<(), BenchError> {
    if let Some(path) = &settings.hdr {
        write_file(path, &percentile_distribution(&all_latencies(rounds)))?;
    }
    if let Some(path) = &settings.plot {
        let mut series = vec![("tally", BLUE, rounds)];
        if !baseline.is_empty() {
            series.push(("echo", RED, baseline));
        }
        let text = draw(&title(settings), &series).map_err(|error| BenchError::Write {
            path: path.clone(),
            source: std::io::Error::other(error.to_string()),
        })?;
        write_file(path, &text)?;
    }
    Ok(())
}

fn write_file(path: &Path, text: &str) -> Result<(), BenchError> {
    fs::write(path, text).map_err(|source| BenchError::Write {
        path: path.to_path_buf(),
        source,
    })
}

fn title(settings: &BenchSettings) -> String {
    let mut title = format!(
        "tally bench: {}, {} in flight",
        settings.mode.name(),
        settings.in_flight()
    );
    if let Some(rate) = settings.rate {
        // Writing to a string can't fail.
        let _written = write!(title, ", {rate} transactions/s scheduled");
    }
    title
}

/// Returns the text that `HdrHistogram`'s plotter reads, with latencies in microseconds.
fn percentile_distribution(latency: &Histogram<u64>) -> String {
    let micros = |nanos: u64| nanos as f64 / 1e3;
    let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    let mut count = 0;
    for step in latency.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        count += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let _written = write!(
            text,
            "{:12.3} {quantile:2.12} {count:10}",
            micros(step.value_iterated_to())
        );
        let _written = if quantile < 1.0 {
            writeln!(text, " {:14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(text)
        };
    }
    let _written = writeln!(
        text,
        "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n#[Max     = {:12.3}, Total count    = {:12}]",
        latency.mean() / 1e3,
        latency.stdev() / 1e3,
        micros(latency.max()),
        latency.len()
    );
    text
}

type Series<'a> = (&'static str, RGBColor, &'a [Round]);

fn draw(title: &str, series: &[Series<'_>]) -> Result<String, PlotError> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (upper, lower) = root.split_vertically(UPPER);
        draw_latencies(&upper, title, series)?;
        draw_throughput(&lower, series)?;
        root.present()?;
    }
    Ok(text)
}

/// Draws latency by percentile. The steps from 0 to 90 %, 99 %, 99.9 % and so on have the same width.
fn draw_latencies(area: &Area<'_>, title: &str, series: &[Series<'_>]) -> Result<(), PlotError> {
    let curves: Vec<_> = series
        .iter()
        .map(|(name, color, rounds)| (*name, *color, latency_curve(&all_latencies(rounds))))
        .collect();
    let points = || curves.iter().flat_map(|(_, _, curve)| curve);
    let low = points().map(|(_, micros)| *micros).fold(f64::INFINITY, f64::min);
    let high = points().map(|(_, micros)| *micros).fold(1.0, f64::max);
    let low = if low.is_finite() { low.min(high) } else { 1.0 };
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .set_label_area_size(LabelAreaPosition::Left, 90)
        .set_label_area_size(LabelAreaPosition::Bottom, 45)
        .build_cartesian_2d(0.0..NINES_MAX, (low * 0.9..high * 1.1).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("latency, µs")
        .x_label_formatter(&|nines| percentile(*nines))
        .y_label_formatter(&|micros| format!("{micros:.0}"))
        .draw()?;
    for (name, color, curve) in curves {
        chart
            .draw_series(LineSeries::new(curve, color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()
}

/// Draws the number of transactions answered in each second, one round after the other.
fn draw_throughput(area: &Area<'_>, series: &[Series<'_>]) -> Result<(), PlotError> {
    let curves: Vec<_> = series
        .iter()
        .map(|(_, color, rounds)| (*color, throughput_curve(rounds)))
        .collect();
    let points = || curves.iter().flat_map(|(_, curve)| curve);
    let last = points().map(|(second, _)| *second).fold(1.0, f64::max);
    let high = points().map(|(_, rate)| *rate).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .set_label_area_size(LabelAreaPosition::Left, 90)
        .set_label_area_size(LabelAreaPosition::Bottom, 45)
        .build_cartesian_2d(0.0..last, 0.0..high * 1.1)?;
    chart
        .configure_mesh()
        .x_desc("second of load")
        .y_desc("transactions/s")
        .x_label_formatter(&|second| format!("{second:.0}"))
        .y_label_formatter(&|rate| format!("{rate:.0}"))
        .draw()?;
    for (color, curve) in curves {
        chart.draw_series(LineSeries::new(curve, color.stroke_width(2)))?;
    }
    Ok(())
}

/// Returns points (nines, µs): 0 nines is the minimum, 1 is 90 %, 2 is 99 %, and so on.
fn latency_curve(latency: &Histogram<u64>) -> Vec<(f64, f64)> {
    if latency.is_empty() {
        return Vec::new();
    }
    let steps = f64::from(POINTS_PER_NINE);
    (0..)
        .map(|step| f64::from(step) / steps)
        .take_while(|nines| *nines <= NINES_MAX)
        .map(|nines| {
            let quantile = 1.0 - 10_f64.powf(-nines);
            (nines, latency.value_at_quantile(quantile) as f64 / 1e3)
        })
        .collect()
}

/// Returns points (second, transactions). The unfinished last second of a round is left out. A round of less than one second
/// is drawn as one second with the mean rate.
fn throughput_curve(rounds: &[Round]) -> Vec<(f64, f64)> {
    let mut rates = Vec::new();
    for round in rounds {
        let whole = usize::try_from(round.elapsed.as_secs()).unwrap_or(usize::MAX);
        let before = rates.len();
        rates.extend(round.load.seconds.iter().take(whole).map(|count| *count as f64));
        if rates.len() == before {
            rates.push(round.rate());
        }
    }
    // Each second has two points, at its start and at its end. So the chart shows a horizontal line for each second.
    (0_u32..)
        .zip(rates)
        .flat_map(|(second, rate)| [(f64::from(second), rate), (f64::from(second) + 1.0, rate)])
        .collect()
}

fn percentile(nines: f64) -> String {
    let share = 100.0 * (1.0 - 10_f64.powf(-nines));
    // Removes trailing zeros: 90 %, 99.9 %.
    let text = format!("{share:.4}");
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}
