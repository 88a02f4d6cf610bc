//! Draws the view of `tally top`.

use std::collections::VecDeque;

use ratatui::{
    Frame,
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Paragraph, Row, Sparkline, Table},
};
use tokio::time::Instant;

use crate::{
    cli::output::{percentiles, rejected_calls, state_name},
    proto::{CircuitState, CircuitStats, GetBatchStatsResponse, GetTopologyResponse, LatencySummary},
};

/// Maximum number of rates in the curve.
const RATES_MAX: usize = 200;

/// The newest answers of the service, and the rates computed from successive answers.
#[derive(Debug, Default)]
pub(super) struct Screen {
    circuits: Vec<CircuitStats>,
    batches: GetBatchStatsResponse,
    topology: GetTopologyResponse,
    /// Transactions per second, oldest first.
    rates: VecDeque<u64>,
    /// The time at which the newest answers arrived, and the number of committed transactions in them.
    last: Option<(Instant, i64)>,
}

// ===== impl Screen =====

impl Screen {
    /// Stores the answers that arrived at `now`.
    pub(super) fn update(
        &mut self,
        now: Instant,
        circuits: Vec<CircuitStats>,
        batches: GetBatchStatsResponse,
        topology: GetTopologyResponse,
    ) {
        let committed = batches.ledger.map_or(0, |ledger| ledger.committed);
        if let Some((then, before)) = self.last {
            let elapsed_ms = u64::try_from((now - then).as_millis()).unwrap_or(u64::MAX).max(1);
            // A restart of the service resets the count.
            let more = u64::try_from(committed - before).unwrap_or_default();
            if self.rates.len() == RATES_MAX {
                self.rates.pop_front();
            }
            self.rates.push_back(more.saturating_mul(1000) / elapsed_ms);
        }
        self.last = Some((now, committed));
        self.circuits = circuits;
        self.batches = batches;
        self.topology = topology;
    }
}

pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let circuits = u16::try_from(screen.circuits.len()).unwrap_or(u16::MAX);
    let areas = Layout::vertical([
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(circuits.saturating_add(3)),
        Constraint::Min(5),
        Constraint::Length(1),
    ])
    .split(frame.area());
    let [top, latency, middle, bottom, foot] = areas.as_ref() else {
        return;
    };
    draw_rates(frame, *top, screen);
    draw_latency(frame, *latency, screen);
    draw_circuits(frame, *middle, screen);
    draw_threads(frame, *bottom, screen);
    frame.render_widget(Paragraph::new("q to quit").dim(), *foot);
}

fn draw_rates(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let ledger = screen.batches.ledger.unwrap_or_default();
    let rate = screen.rates.back().copied().unwrap_or_default();
    let title = format!(
        " {rate} transactions/s   {} committed, {} rejected, {} replayed   queue {}/{} ",
        ledger.committed,
        ledger.rejected,
        ledger.replayed,
        screen.batches.queue_depth,
        screen.batches.queue_capacity
    );
    let rates: Vec<u64> = screen.rates.iter().copied().collect();
    let width = usize::from(area.width.saturating_sub(2));
    let shown = rates.get(rates.len().saturating_sub(width)..).unwrap_or_default();
    let curve = Sparkline::default()
        .data(shown)
        .style(Style::new().fg(Color::Cyan))
        .block(Block::bordered().title(title.bold()));
    frame.render_widget(curve, area);
}

fn draw_latency(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let row = |name: &str, summary: Option<LatencySummary>| {
        let cells = percentiles(summary.as_ref());
        Row::new([vec![name.to_owned()], cells.to_vec()].concat())
    };
    let batches = &screen.batches;
    let rows = [
        row("queue wait", batches.queue_wait),
        row("commit", batches.commit),
        row("write + sync", batches.sync),
    ];
    let table = Table::new(rows, [Constraint::Length(14); 6])
        .header(Row::new(["", "p50", "p90", "p99", "p99.9", "max"]).dim())
        .block(Block::bordered().title(" latency since the service started "));
    frame.render_widget(table, area);
}

fn draw_circuits(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let rows = screen.circuits.iter().map(|circuit| {
        let state = circuit.effective_state();
        let window = circuit.window.unwrap_or_default();
        let totals = circuit.totals.unwrap_or_default();
        Row::new([
            Line::from(circuit.key.clone()),
            Line::from(Span::styled(
                state_name(state),
                Style::new().fg(color(state)).bold(),
            )),
            Line::from(window.calls.to_string()),
            Line::from(format!("{:.1} %", window.slow_rate * 100.0)),
            Line::from(format!("{:.1} %", window.failure_rate * 100.0)),
            Line::from(format!("{}/{}", circuit.overdue_in_flight, circuit.in_flight)),
            Line::from(rejected_calls(&totals).to_string()),
            Line::from(circuit.reason_opened.clone()),
        ])
    });
    let widths = [
        Constraint::Length(20),
        Constraint::Length(10),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(18),
        Constraint::Length(9),
        Constraint::Fill(1),
    ];
    let header = [
        "circuit",
        "state",
        "calls",
        "slow",
        "failed",
        "overdue/in flight",
        "rejected",
        "last opened by",
    ];
    let table = Table::new(rows, widths)
        .header(Row::new(header).dim())
        .block(Block::bordered().title(" circuits (calls in the window) "));
    frame.render_widget(table, area);
}

fn draw_threads(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let rows = screen.topology.threads.iter().map(|thread| {
        let pinning = match (thread.wanted_cpus.as_str(), thread.pinned) {
            ("", _) => "not pinned".into(),
            (wanted, true) => format!("pinned to {wanted}"),
            (wanted, false) => format!("NOT on {wanted}"),
        };
        Row::new([
            thread.role.clone(),
            thread.name.clone(),
            thread.last_cpu.to_string(),
            thread.actual_cpus.clone(),
            pinning,
            thread.involuntary_switches.to_string(),
        ])
    });
    let decision = screen.topology.decision.clone().unwrap_or_default();
    let title = format!(" threads: {} → {} ", decision.mode, decision.effect);
    let widths = [6, 18, 6, 12, 20, 12].map(Constraint::Length);
    let table = Table::new(rows, widths)
        .header(Row::new(["role", "thread", "CPU", "allowed", "pinning", "preempted"]).dim())
        .block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

const fn color(state: CircuitState) -> Color {
    match state {
        CircuitState::Closed => Color::Green,
        CircuitState::Open => Color::Red,
        CircuitState::HalfOpen | CircuitState::Ramp => Color::Yellow,
        CircuitState::Unspecified => Color::Reset,
    }
}

/// Returns the view as lines of text.
pub(super) fn buffer_text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let mut text = String::new();
    for line in buffer.content.chunks(width) {
        let line: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::proto::{LedgerStats, TopologyThread};

    fn batches(committed: i64) -> GetBatchStatsResponse {
        let ledger = LedgerStats {
            committed,
            ..LedgerStats::default()
        };
        GetBatchStatsResponse {
            ledger: Some(ledger),
            queue_capacity: 16384,
            ..GetBatchStatsResponse::default()
        }
    }

    #[test]
    fn the_view_shows_rate_state_and_threads() {
        let mut screen = Screen::default();
        let circuit = CircuitStats {
            key: "ProcessTransaction".to_owned(),
            effective_state: CircuitState::HalfOpen.into(),
            reason_opened: "overdue".to_owned(),
            ..CircuitStats::default()
        };
        let thread = TopologyThread {
            role: "EXEC".to_owned(),
            name: "tally-exec".to_owned(),
            wanted_cpus: "1".to_owned(),
            pinned: false,
            ..TopologyThread::default()
        };
        let topology = GetTopologyResponse {
            threads: vec![thread],
            ..GetTopologyResponse::default()
        };
        let begin = Instant::now();
        screen.update(begin, vec![circuit.clone()], batches(1000), topology.clone());
        screen.update(
            begin + Duration::from_millis(500),
            vec![circuit],
            batches(3000),
            topology,
        );
        let mut terminal = Terminal::new(TestBackend::new(110, 30)).unwrap();
        terminal.draw(|frame| draw(frame, &screen)).unwrap();
        let text = buffer_text(terminal.backend().buffer());
        for words in [
            "4000 transactions/s",
            "HALF_OPEN",
            "overdue",
            "tally-exec",
            "NOT on 1",
        ] {
            assert!(text.contains(words), "{words:?} is not in\n{text}");
        }
    }
}
