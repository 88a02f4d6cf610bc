//! Draws the view of `tally top`: a body that scrolls if it is higher than the terminal, and a line with the keys.

use std::collections::VecDeque;

use ratatui::{
    Frame,
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Paragraph, Row, Sparkline, Table, Widget},
};
use tokio::time::Instant;

use crate::{
    cli::{
        circuit::text::state_text,
        output::{percentiles, rejected_calls, state_name},
        replica::{lag_text, role_text},
    },
    proto::{
        CircuitState, CircuitStats, GetBatchStatsResponse, GetTopologyResponse, LatencySummary, ReplicaState,
        TopologyThread,
    },
    terminal::units::{number, percent, proto_time},
};

/// Maximum number of rates in the curve.
const RATES_MAX: usize = 200;
/// Heights of the first two parts of the body, in lines: the rates and the latencies.
const RATES_HEIGHT: u16 = 7;
const LATENCY_HEIGHT: u16 = 6;
/// Lines of a part for its border and its header.
const FRAME_HEIGHT: u16 = 3;

/// The answers of the service for one view.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// `None` if the store is embedded.
    pub(super) replica: Option<ReplicaState>,
    pub(super) circuits: Vec<CircuitStats>,
    pub(super) batches: GetBatchStatsResponse,
    pub(super) topology: GetTopologyResponse,
}

/// The newest answers of the service, the rates computed from successive answers, and the scrolled position.
#[derive(Debug, Default)]
pub(super) struct Screen {
    answers: Answers,
    /// Transactions per second, oldest first.
    rates: VecDeque<u64>,
    /// The time at which the newest answers arrived, and the number of committed transactions in them.
    last: Option<(Instant, i64)>,
    /// Why there is no connection; `None` with a connection.
    lost: Option<String>,
    /// The first line of the body on the terminal.
    offset: u16,
    /// Lines of the body that the terminal showed in the last drawing.
    visible: u16,
}

/// How far a key scrolls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scroll {
    LineUp,
    LineDown,
    PageUp,
    PageDown,
    Start,
    End,
}

// ===== impl Screen =====

impl Screen {
    /// Stores the answers that arrived at `now`.
    pub(super) fn update(&mut self, now: Instant, answers: Answers) {
        let committed = answers.batches.ledger.map_or(0, |ledger| ledger.committed);
        if let Some((then, before)) = self.last {
            let elapsed_ms = u64::try_from((now - then).as_millis()).unwrap_or(u64::MAX).max(1);
            // A restart of the service resets the count, so the difference can be negative.
            let more = u64::try_from(committed - before).unwrap_or_default();
            if self.rates.len() == RATES_MAX {
                self.rates.pop_front();
            }
            self.rates.push_back(more.saturating_mul(1000) / elapsed_ms);
        }
        self.last = Some((now, committed));
        self.lost = None;
        self.answers = answers;
    }

    /// Records that the connection was lost. The view keeps the last answers.
    pub(super) fn lose(&mut self, why: String) {
        self.lost = Some(why);
        // The next rate would cover the time without a connection.
        self.last = None;
    }

    /// Scrolls the body. The next drawing limits the position to the height of the body.
    pub(super) fn scroll(&mut self, scroll: Scroll) {
        let page = self.visible.max(1);
        self.offset = match scroll {
            Scroll::LineUp => self.offset.saturating_sub(1),
            Scroll::LineDown => self.offset.saturating_add(1),
            Scroll::PageUp => self.offset.saturating_sub(page),
            Scroll::PageDown => self.offset.saturating_add(page),
            Scroll::Start => 0,
            Scroll::End => u16::MAX,
        };
    }

    /// Returns the heights of the parts of the body.
    fn heights(&self) -> [u16; 5] {
        let rows = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
        [
            u16::from(self.answers.replica.is_some()),
            RATES_HEIGHT,
            LATENCY_HEIGHT,
            rows(circuit_lines(&self.answers.circuits).len()).saturating_add(FRAME_HEIGHT),
            rows(self.answers.topology.threads.len()).saturating_add(FRAME_HEIGHT),
        ]
    }
}

pub(super) fn draw(frame: &mut Frame<'_>, screen: &mut Screen) {
    let area = frame.area();
    let foot_height = if screen.lost.is_some() { 2 } else { 1 };
    let [body_area, foot] =
        Layout::vertical([Constraint::Min(0), Constraint::Length(foot_height)]).areas(area);
    let body = body(screen, area.width, body_area.height);
    let height = body.area.height;
    screen.visible = body_area.height;
    screen.offset = screen.offset.min(height.saturating_sub(body_area.height));
    let shown = body_area.height.min(height);
    for y in 0..shown {
        for x in 0..area.width {
            if let (Some(from), Some(to)) = (
                body.cell((x, screen.offset + y)),
                frame.buffer_mut().cell_mut((body_area.x + x, body_area.y + y)),
            ) {
                *to = from.clone();
            }
        }
    }
    let mut lines: Vec<Line<'_>> = screen
        .lost
        .iter()
        .map(|why| Line::from(&**why).red().bold())
        .collect();
    let mut keys = "q quits".to_owned();
    if height > body_area.height {
        let (from, to) = (screen.offset + 1, screen.offset + shown);
        keys.push_str(&format!(
            "   \u{2191} \u{2193} PgUp PgDn Home End scroll   lines {from}-{to} of {height}"
        ));
    }
    lines.push(Line::from(keys).dim());
    frame.render_widget(Paragraph::new(lines), foot);
}

/// Returns the whole body as lines of text.
pub(super) fn text(screen: &Screen, width: u16) -> String {
    buffer_text(&body(screen, width, 0))
}

/// Draws the whole body, at least `height_min` lines high.
fn body(screen: &Screen, width: u16, height_min: u16) -> Buffer {
    let heights = screen.heights();
    let height = heights
        .into_iter()
        .fold(0_u16, u16::saturating_add)
        .max(height_min);
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    let [replica, rates, latency, circuits, _] = heights.map(Constraint::Length);
    // The last part shows the threads, and gets all remaining lines.
    let [first, top, middle, lower, bottom] =
        Layout::vertical([replica, rates, latency, circuits, Constraint::Min(0)]).areas(area);
    if let Some(replica) = &screen.answers.replica {
        Paragraph::new(replica_line(replica).bold()).render(first, &mut buffer);
    }
    draw_rates(&mut buffer, top, screen);
    draw_latency(&mut buffer, middle, &screen.answers.batches);
    draw_circuits(&mut buffer, lower, &screen.answers.circuits);
    draw_threads(&mut buffer, bottom, &screen.answers.topology);
    buffer
}

/// Returns the line about the replica of a replicated store.
fn replica_line(replica: &ReplicaState) -> String {
    let leader = match replica.leader.as_str() {
        "" => "no leader is known".to_owned(),
        leader if leader == replica.address => "this replica leads".to_owned(),
        leader => format!("{leader} leads"),
    };
    let mut line = format!(
        " {}, term {}: {leader}; lag {}",
        role_text(replica),
        replica.term,
        lag_text(replica)
    );
    if !replica.fault.is_empty() {
        line.push_str("; ");
        line.push_str(&replica.fault);
    }
    line
}

fn draw_rates(buffer: &mut Buffer, area: Rect, screen: &Screen) {
    let batches = &screen.answers.batches;
    let ledger = batches.ledger.unwrap_or_default();
    let rate = screen.rates.back().copied().unwrap_or_default();
    let title = format!(
        " {} transactions/s   queue {} of {} ",
        number(i64::try_from(rate).unwrap_or(i64::MAX)),
        number(batches.queue_depth),
        number(batches.queue_capacity)
    );
    let totals = format!(
        " since the start: {} committed, {} rejected, {} replayed ",
        number(ledger.committed),
        number(ledger.rejected),
        number(ledger.replayed)
    );
    let rates: Vec<u64> = screen.rates.iter().copied().collect();
    let width = usize::from(area.width.saturating_sub(2));
    let shown = rates.get(rates.len().saturating_sub(width)..).unwrap_or_default();
    Sparkline::default()
        .data(shown)
        .style(Style::new().fg(Color::Cyan))
        .block(Block::bordered().title(title.bold()).title_bottom(totals))
        .render(area, buffer);
}

fn draw_latency(buffer: &mut Buffer, area: Rect, batches: &GetBatchStatsResponse) {
    let row = |name: &str, summary: Option<LatencySummary>| {
        let cells = percentiles(summary.as_ref());
        Row::new([vec![name.to_owned()], cells.to_vec()].concat())
    };
    let rows = [
        row("queue wait", batches.queue_wait),
        row("commit", batches.commit),
        row("write + sync", batches.sync),
    ];
    let table = Table::new(rows, [14, 11, 11, 11, 11, 11].map(Constraint::Length))
        .header(Row::new(["", "p50", "p90", "p99", "p99.9", "max"]).dim())
        .block(Block::bordered().title(" latency since the service started "));
    Widget::render(table, area, buffer);
}

fn draw_circuits(buffer: &mut Buffer, area: Rect, circuits: &[CircuitStats]) {
    let window = circuits.first().and_then(|circuit| circuit.window);
    let length = proto_time(window.and_then(|window| window.length));
    let title = format!(" circuits: calls in the last {length}; calls overdue of those in flight ");
    let header = circuit_row([
        "circuit", "state", "calls", "slow", "failed", "overdue", "rejected",
    ]);
    let mut lines = vec![Line::from(header.concat()).dim()];
    lines.extend(circuit_lines(circuits));
    Paragraph::new(lines)
        .block(Block::bordered().title(title))
        .render(area, buffer);
}

/// Returns the cells of a circuit with the widths of their columns: 77 characters together, so that they fit into a terminal of 80
/// columns.
fn circuit_row(cells: [&str; 7]) -> [String; 7] {
    let [circuit, state, calls, slow, failed, overdue, rejected] = cells;
    [
        format!("{circuit:<20}"),
        format!("{state:<10}"),
        format!("{calls:>9}"),
        format!("{slow:>9}"),
        format!("{failed:>9}"),
        format!("{overdue:>10}"),
        format!("{rejected:>10}"),
    ]
}

/// Returns one line for each circuit, and a second line with the details of a circuit that is not closed.
fn circuit_lines(circuits: &[CircuitStats]) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for circuit in circuits {
        let state = circuit.effective_state();
        let window = circuit.window.unwrap_or_default();
        let totals = circuit.totals.unwrap_or_default();
        let [name, state_cell, rest @ ..] = circuit_row([
            &circuit.key,
            state_name(state),
            &number(window.calls),
            &percent(window.slow_rate),
            &percent(window.failure_rate),
            &format!("{} of {}", circuit.overdue_in_flight, circuit.in_flight),
            &number(rejected_calls(&totals)),
        ]);
        let style = Style::new().fg(color(state)).bold();
        lines.push(Line::from(vec![
            Span::from(name),
            Span::styled(state_cell, style),
            Span::from(rest.concat()),
        ]));
        if state != CircuitState::Closed {
            lines.push(Line::from(format!("    {}", state_text(circuit))));
        }
    }
    lines
}

fn draw_threads(buffer: &mut Buffer, area: Rect, topology: &GetTopologyResponse) {
    let decision = topology.decision.clone().unwrap_or_default();
    let rows = topology.threads.iter().map(|thread| {
        Row::new([
            thread.role.clone(),
            thread.name.clone(),
            thread.last_cpu.to_string(),
            thread.actual_cpus.clone(),
            placement(thread, &decision.effect),
            number(thread.involuntary_switches),
        ])
    });
    let title = format!(
        " threads: affinity.mode = {}, in effect: {} ",
        decision.mode, decision.effect
    );
    let widths = [5, 18, 4, 11, 20, 12].map(Constraint::Length);
    let table = Table::new(rows, widths)
        .header(Row::new(["role", "thread", "CPU", "allowed", "placement", "preempted"]).dim())
        .block(Block::bordered().title(title));
    Widget::render(table, area, buffer);
}

/// Returns a text that says whether a thread has the CPUs of the plan. `effect` is the effect of the plan: `pin`, `fence` or `off`.
fn placement(thread: &TopologyThread, effect: &str) -> String {
    let wanted = &thread.wanted_cpus;
    match (wanted.as_str(), thread.pinned, effect) {
        ("", _, _) => "not pinned".to_owned(),
        (_, false, _) => format!("NOT on {wanted}"),
        (_, true, "pin") => format!("pinned to {wanted}"),
        (_, true, _) => format!("fenced to {wanted}"),
    }
}

const fn color(state: CircuitState) -> Color {
    match state {
        CircuitState::Closed => Color::Green,
        CircuitState::Open => Color::Red,
        CircuitState::HalfOpen | CircuitState::Ramp => Color::Yellow,
        CircuitState::Unspecified => Color::Reset,
    }
}

/// Returns a drawing as lines of text.
fn buffer_text(buffer: &Buffer) -> String {
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
    use crate::proto::{LedgerStats, TopologyDecision};

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

    fn answers(committed: i64, effect: &str, pinned: bool) -> Answers {
        let circuit = CircuitStats {
            key: "ProcessTransactions".to_owned(),
            state: CircuitState::HalfOpen.into(),
            effective_state: CircuitState::HalfOpen.into(),
            reason_opened: "overdue".to_owned(),
            ..CircuitStats::default()
        };
        let thread = |index: usize| TopologyThread {
            role: "NET".to_owned(),
            name: format!("tally-net-{index}"),
            wanted_cpus: "0-1".to_owned(),
            pinned,
            ..TopologyThread::default()
        };
        Answers {
            replica: None,
            circuits: vec![circuit; 4],
            batches: batches(committed),
            topology: GetTopologyResponse {
                threads: (0..9).map(thread).collect(),
                decision: Some(TopologyDecision {
                    effect: effect.to_owned(),
                    ..TopologyDecision::default()
                }),
                ..GetTopologyResponse::default()
            },
        }
    }

    fn screen(effect: &str, pinned: bool) -> Screen {
        let mut screen = Screen::default();
        let begin = Instant::now();
        screen.update(begin, answers(1000, effect, pinned));
        let later = begin + Duration::from_millis(500);
        screen.update(later, answers(3000, effect, pinned));
        screen
    }

    #[test]
    fn the_first_line_shows_the_replica_of_a_replicated_store_only() {
        let mut screen = screen("off", true);
        assert!(!text(&screen, 80).contains("term"));
        screen.answers.replica = Some(ReplicaState {
            role: crate::proto::ReplicaRole::Standby.into(),
            term: 3,
            leader: "http://tally-1:50051".to_owned(),
            address: "http://tally-0:50051".to_owned(),
            lag: Some(prost_types::Duration {
                seconds: 0,
                nanos: 5_000_000,
            }),
            caught_up: true,
            ..ReplicaState::default()
        });
        let line = " standby, term 3: http://tally-1:50051 leads; lag 5 ms, caught up";
        assert_eq!(text(&screen, 80).lines().next().unwrap().trim_end(), line);
    }

    /// Draws on a terminal of 80 columns and 24 lines.
    fn drawn(screen: &mut Screen) -> String {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(frame, screen)).unwrap();
        buffer_text(terminal.backend().buffer())
    }

    #[test]
    fn the_view_shows_rate_state_and_threads() {
        let text = text(&screen("pin", true), 80);
        for words in [
            "4,000 transactions/s",
            "3,000 committed",
            "ProcessTransactions HALF_OPEN",
            "HALF_OPEN for 0 s, opened by overdue",
            "tally-net-8",
            "pinned to 0-1",
        ] {
            assert!(text.contains(words), "{words:?} is not in\n{text}");
        }
    }

    #[test]
    fn threads_are_pinned_only_if_the_plan_is_to_pin() {
        let fenced = text(&screen("fence", true), 80);
        assert!(fenced.contains("fenced to 0-1"), "{fenced}");
        assert!(!fenced.contains("pinned"), "{fenced}");
        let lost = text(&screen("pin", false), 80);
        assert!(lost.contains("NOT on 0-1"), "{lost}");
    }

    #[test]
    fn a_small_terminal_scrolls_to_every_line() {
        let mut screen = screen("fence", true);
        let whole = text(&screen, 80);
        let start = drawn(&mut screen);
        let foot = "PgDn Home End scroll   lines 1-23 of 36";
        assert!(start.contains(foot) && start.contains("q quits"), "{start}");
        assert!(!start.contains("tally-net-8"), "{start}");
        screen.scroll(Scroll::LineDown);
        assert!(drawn(&mut screen).contains("lines 2-24 of 36"));
        screen.scroll(Scroll::End);
        let end = drawn(&mut screen);
        assert!(
            end.contains("lines 14-36 of 36") && end.contains("tally-net-8"),
            "{end}"
        );
        screen.scroll(Scroll::LineUp);
        assert!(drawn(&mut screen).contains("lines 13-35 of 36"));
        screen.scroll(Scroll::Start);
        let mut seen = drawn(&mut screen);
        screen.scroll(Scroll::PageDown);
        seen.push_str(&drawn(&mut screen));
        for line in whole.lines() {
            assert!(seen.contains(line), "{line:?} was never visible:\n{seen}");
        }
    }

    #[test]
    fn a_high_terminal_has_nothing_to_scroll() {
        let mut screen = screen("fence", true);
        screen.scroll(Scroll::End);
        let mut terminal = Terminal::new(TestBackend::new(80, 50)).unwrap();
        terminal.draw(|frame| draw(frame, &mut screen)).unwrap();
        let text = buffer_text(terminal.backend().buffer());
        assert!(
            text.contains("transactions/s") && text.contains("tally-net-8"),
            "{text}"
        );
        assert!(text.contains("q quits") && !text.contains("scroll"), "{text}");
    }

    #[test]
    fn a_lost_connection_is_shown_until_the_service_answers() {
        let mut screen = screen("fence", true);
        screen.lose("no connection to http://h:1: nothing listens".to_owned());
        let text = drawn(&mut screen);
        assert!(
            text.contains("no connection to http://h:1") && text.contains("q quits"),
            "{text}"
        );
        screen.update(Instant::now(), answers(1, "fence", true));
        assert!(!drawn(&mut screen).contains("no connection"));
    }
}
