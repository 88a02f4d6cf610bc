//! Circuits as text: a block of lines for `tally circuit show` and `tally stats`, and a line per change for `tally circuit watch`.

use std::{collections::BTreeMap, time::SystemTime};

use prost_types::Timestamp;

use crate::{
    cli::output::{mode_name, named, rejected_calls, state_name},
    proto::{CircuitMode, CircuitState, CircuitStats, CircuitTransition},
    terminal::units::{counted, number, percent, proto_time},
};

/// The newest change of each circuit that `tally circuit watch` has printed.
#[derive(Debug, Default)]
pub(super) struct Printed(BTreeMap<String, Shown>);

/// What was printed of one circuit.
#[derive(Debug, Clone, Copy)]
struct Shown {
    generation: i64,
    mode: CircuitMode,
}

/// Returns a circuit as lines of text: its state, its window and counts, its history.
pub(crate) fn circuit_text(circuit: &CircuitStats) -> String {
    let mut lines = vec![named("circuit", &circuit.key)];
    let mut line = |name: &str, text: String| lines.push(named(&format!("  {name}"), &text));
    line("state", state_text(circuit));
    line(
        "mode",
        format!("{}: {}", mode_name(circuit.mode()), mode_effect(circuit.mode())),
    );
    let settings = circuit.settings.clone().unwrap_or_default();
    line(
        "slow",
        format!(
            "calls of {} or more ({})",
            proto_time(settings.slow_threshold),
            settings.slow_threshold_source
        ),
    );
    let window = circuit.window.unwrap_or_default();
    line(
        "window",
        format!(
            "last {}: {} in {}, {} slow, {} failed",
            proto_time(window.length),
            counted(window.calls, "call"),
            counted(window.batches, "block"),
            percent(window.slow_rate),
            percent(window.failure_rate)
        ),
    );
    line(
        "now",
        format!(
            "{} in flight, {} overdue",
            number(circuit.in_flight),
            number(circuit.overdue_in_flight)
        ),
    );
    let is_met = window.min_calls_met && window.min_batches_met;
    line(
        "rates apply",
        format!(
            "{}: {} of at least {}, {} of at least {}",
            if is_met { "yes" } else { "not yet" },
            number(window.calls),
            counted(settings.min_calls, "call"),
            number(window.batches),
            counted(settings.min_batches, "block")
        ),
    );
    let totals = circuit.totals.unwrap_or_default();
    line(
        "calls",
        format!(
            "{} admitted, {} rejected; opened {}",
            number(totals.admitted),
            number(rejected_calls(&totals)),
            counted(totals.opens, "time")
        ),
    );
    for change in &circuit.history {
        line(
            "change",
            format!("{}  {}", time_text(change.time), states_text(change)),
        );
        line("", cause_text(change));
    }
    lines.join("\n")
}

/// Returns the effective state: for how long, how much of the open time is left, and why the circuit opened.
pub(crate) fn state_text(circuit: &CircuitStats) -> String {
    let (state, stored) = (circuit.effective_state(), circuit.state());
    let mut text = state_name(state).to_owned();
    if circuit.mode() == CircuitMode::ForcedOpen {
        // The mode overrides the stored state, so the times and the reason of the stored state do not apply.
        text.push_str(&format!(
            ", held by an operator (stored state {})",
            state_name(stored)
        ));
        return text;
    }
    if state == stored {
        text.push_str(&format!(" for {}", proto_time(circuit.in_state)));
    } else {
        text.push_str(&format!(
            " (the {} time is over; the next call changes the stored state {})",
            if stored == CircuitState::Ramp {
                "ramp"
            } else {
                "open"
            },
            state_name(stored)
        ));
    }
    if state == CircuitState::Open {
        text.push_str(&format!(", {} left", proto_time(circuit.open_remaining)));
    }
    if state != CircuitState::Closed && !circuit.reason_opened.is_empty() {
        text.push_str(&format!(", opened by {}", opener(&circuit.reason_opened)));
    }
    text
}

/// Returns who or what opened a circuit. The API calls the command of an operator `forced`.
fn opener(reason: &str) -> &str {
    match reason {
        "forced" => "an operator",
        other => other,
    }
}

const fn mode_effect(mode: CircuitMode) -> &'static str {
    match mode {
        CircuitMode::Auto => "the breaker opens and closes the circuit",
        CircuitMode::MetricsOnly => "the breaker measures calls but rejects none",
        CircuitMode::ForcedOpen => "every call is rejected, whatever the state",
        CircuitMode::Disabled => "the breaker neither measures nor rejects calls",
        CircuitMode::Unspecified => "unknown to this version of tally",
    }
}

/// Returns a change on one line.
fn change_text(change: &CircuitTransition) -> String {
    format!("{}; {}", states_text(change), cause_text(change))
}

/// Returns the states of a change, and for how long the circuit is open.
fn states_text(change: &CircuitTransition) -> String {
    let mut text = format!("{} to {}", state_name(change.from()), state_name(change.to()));
    if change.to() == CircuitState::Open {
        text.push_str(&format!(" for {}", proto_time(change.open_for)));
    }
    text
}

/// Returns the reason of a change, and the calls of the window.
fn cause_text(change: &CircuitTransition) -> String {
    format!(
        "{}: {}, {} slow, {} failed, {} overdue",
        change.reason,
        counted(change.calls, "call"),
        percent(change.slow_rate),
        percent(change.failure_rate),
        number(change.overdue)
    )
}

/// Returns a time in UTC with milliseconds.
fn time_text(time: Option<Timestamp>) -> String {
    let mut time = time.unwrap_or_default();
    time.nanos -= time.nanos % 1_000_000;
    time.to_string()
}

/// Returns the time of this machine's clock in the form of the times of the service.
pub(super) fn now_text() -> String {
    time_text(Some(SystemTime::now().into()))
}

// ===== impl Printed =====

impl Printed {
    /// Returns the lines of a snapshot that was taken at `time`: one for each change that was not printed before. The
    /// first snapshot of a circuit gives one line with its state. If `always` is true, a circuit without a change also
    /// gives a line with its state.
    pub(super) fn lines(
        &mut self,
        circuits: &[CircuitStats],
        time: Option<Timestamp>,
        always: bool,
    ) -> Vec<String> {
        let mut lines = Vec::new();
        for circuit in circuits {
            let now = Shown {
                generation: circuit.generation,
                mode: circuit.mode(),
            };
            let before = self.0.insert(circuit.key.clone(), now);
            let count = lines.len();
            if let Some(before) = before {
                let new = |change: &&CircuitTransition| change.generation > before.generation;
                lines.extend(circuit.history.iter().filter(new).map(|change| {
                    let when = time_text(change.time);
                    format!("{when}  {}  {}", circuit.key, change_text(change))
                }));
                if before.mode != now.mode {
                    let (from, to) = (mode_name(before.mode), mode_name(now.mode));
                    let when = time_text(time);
                    lines.push(format!("{when}  {}  mode {from} to {to}", circuit.key));
                }
            }
            if before.is_none() || (always && lines.len() == count) {
                lines.push(format!(
                    "{}  {}  {}",
                    time_text(time),
                    circuit.key,
                    snapshot_text(circuit)
                ));
            }
        }
        lines
    }
}

/// Returns the state and the window of a circuit on one line.
fn snapshot_text(circuit: &CircuitStats) -> String {
    let window = circuit.window.unwrap_or_default();
    format!(
        "{}, mode {}; {}, {} slow, {} failed, {} in flight",
        state_text(circuit),
        mode_name(circuit.mode()),
        counted(window.calls, "call"),
        percent(window.slow_rate),
        percent(window.failure_rate),
        number(circuit.in_flight)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{CircuitSettings, CircuitWindow};

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp {
            seconds,
            nanos: 123_456_789,
        })
    }

    fn opened() -> CircuitStats {
        CircuitStats {
            key: "ProcessTransaction".to_owned(),
            mode: CircuitMode::Auto.into(),
            state: CircuitState::Open.into(),
            effective_state: CircuitState::Open.into(),
            generation: 2,
            in_state: seconds(2),
            open_remaining: seconds(3),
            reason_opened: "slow_rate".to_owned(),
            window: Some(CircuitWindow {
                length: seconds(10),
                calls: 1234,
                batches: 2,
                slow_rate: 0.6,
                min_calls_met: true,
                ..CircuitWindow::default()
            }),
            settings: Some(CircuitSettings {
                slow_threshold: seconds(1),
                slow_threshold_source: "configured".to_owned(),
                min_calls: 100,
                min_batches: 5,
                ..CircuitSettings::default()
            }),
            history: vec![CircuitTransition {
                time: at(0),
                from: CircuitState::Closed.into(),
                to: CircuitState::Open.into(),
                reason: "slow_rate".to_owned(),
                slow_rate: 0.6,
                generation: 2,
                calls: 1234,
                open_for: seconds(5),
                ..CircuitTransition::default()
            }],
            ..CircuitStats::default()
        }
    }

    #[test]
    fn a_circuit_as_text() {
        assert_eq!(
            circuit_text(&opened()),
            "\
circuit       ProcessTransaction
  state       OPEN for 2 s, 3 s left, opened by slow_rate
  mode        AUTO: the breaker opens and closes the circuit
  slow        calls of 1 s or more (configured)
  window      last 10 s: 1,234 calls in 2 blocks, 60.0 % slow, 0.0 % failed
  now         0 in flight, 0 overdue
  rates apply not yet: 1,234 of at least 100 calls, 2 of at least 5 blocks
  calls       0 admitted, 0 rejected; opened 0 times
  change      1970-01-01T00:00:00.123Z  CLOSED to OPEN for 5 s
              slow_rate: 1,234 calls, 60.0 % slow, 0.0 % failed, 0 overdue"
        );
    }

    #[test]
    fn the_effective_state_is_shown_when_the_open_time_is_over() {
        let circuit = CircuitStats {
            effective_state: CircuitState::HalfOpen.into(),
            ..opened()
        };
        assert_eq!(
            state_text(&circuit),
            "HALF_OPEN (the open time is over; the next call changes the stored state OPEN), opened by slow_rate"
        );
    }

    #[test]
    fn a_circuit_that_an_operator_holds_open_shows_its_stored_state() {
        let circuit = CircuitStats {
            mode: CircuitMode::ForcedOpen.into(),
            state: CircuitState::Closed.into(),
            ..opened()
        };
        assert_eq!(
            state_text(&circuit),
            "OPEN, held by an operator (stored state CLOSED)"
        );
    }

    #[test]
    fn a_watch_prints_every_change_once() {
        let mut printed = Printed::default();
        let closed = CircuitStats {
            state: CircuitState::Closed.into(),
            effective_state: CircuitState::Closed.into(),
            generation: 1,
            history: Vec::new(),
            ..opened()
        };
        let mut lines =
            |circuit: &CircuitStats, always| printed.lines(std::slice::from_ref(circuit), at(1), always);
        assert_eq!(
            lines(&closed, false),
            [
                "1970-01-01T00:00:01.123Z  ProcessTransaction  CLOSED for 2 s, mode AUTO; 1,234 calls, 60.0 % slow, 0.0 % failed, \
              0 in flight"
            ]
        );
        assert_eq!(
            lines(&opened(), false),
            [
                "1970-01-01T00:00:00.123Z  ProcessTransaction  CLOSED to OPEN for 5 s; slow_rate: 1,234 calls, 60.0 % slow, \
              0.0 % failed, 0 overdue"
            ]
        );
        assert_eq!(lines(&opened(), false), [""; 0]);
        assert_eq!(lines(&opened(), true).len(), 1, "an interval without a change");
        let forced = CircuitStats {
            mode: CircuitMode::ForcedOpen.into(),
            ..opened()
        };
        assert_eq!(
            lines(&forced, false),
            ["1970-01-01T00:00:01.123Z  ProcessTransaction  mode AUTO to FORCED_OPEN"]
        );
    }
}
