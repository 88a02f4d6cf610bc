//! The filter of the log, as an operator writes it: checks its words, and makes the filter of `tracing` from it.

use tracing_subscriber::EnvFilter;

use super::{error::FilterError, targets::RPC_TARGET};
use crate::settings::nearest;

/// The log levels of the HTTP libraries if the operator's filter does not name these libraries. The libraries log
/// warnings about malformed frames, so with a lower level a client could fill the disk with warnings.
const HTTP_LIBRARIES: &str = "h2=error,hyper=error";
/// The levels, from silent to verbose.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// The crates of Tally, whose names are the first parts of its targets.
const CRATES: [&str; 6] = [
    "tally",
    "tally_batch",
    "tally_breaker",
    "tally_journal",
    "tally_ledger",
    "tally_topology",
];

/// Checks the operator's filter: rules with commas between them. A rule is a level, or `TARGET=LEVEL`, or has a condition
/// on a span in brackets. `tracing` would accept every other word as a target at the level `trace`, and the filter would
/// then hide all events of other targets. Adds two rules. The first rule sets the levels of the HTTP libraries. The second
/// rule excludes the spans of calls, which only the exporter needs. In the log, these spans would be repeated in every
/// log line of a call, and each call would pay for that. All rules are in one filter, because with two filters of this
/// kind, each filter would enable events that the other filter rejects.
///
/// # Errors
/// [`FilterError`] for the first rule that is malformed or has an unknown word.
pub(super) fn filter(text: &str) -> Result<EnvFilter, FilterError> {
    let mut rules = Vec::new();
    for rule in text.split(',').map(str::trim).filter(|rule| !rule.is_empty()) {
        check(rule)?;
        rules.push(rule);
    }
    if rules.is_empty() {
        return Err(FilterError::Level {
            word: String::new(),
            meant: None,
        });
    }
    let rules = rules.join(",");
    EnvFilter::try_new(format!("{HTTP_LIBRARIES},{rules},{RPC_TARGET}=off")).map_err(|_| FilterError::Syntax)
}

fn check(rule: &str) -> Result<(), FilterError> {
    let (target, level) = match rule.rsplit_once('=') {
        // The last `=` may be within the brackets of a condition. Then the rule has no level.
        Some((target, level)) if !level.contains(']') => (target, Some(level)),
        Some(_) | None if rule.contains('[') => (rule, None),
        Some(_) | None => ("", Some(rule)),
    };
    if let Some(level) = level
        && !LEVELS
            .iter()
            .any(|known| known.eq_ignore_ascii_case(level.trim()))
    {
        return Err(FilterError::Level {
            word: level.trim().to_owned(),
            meant: nearest(level.trim(), LEVELS),
        });
    }
    let name = target.split(['[', ':']).next().unwrap_or_default().trim();
    match nearest(name, CRATES) {
        Some(meant) if meant != name => Err(FilterError::Target {
            word: name.to_owned(),
            meant,
        }),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        filter(text).unwrap_err().to_string()
    }

    #[test]
    fn levels_targets_and_conditions_are_accepted() {
        for text in [
            "info",
            "OFF",
            "tally=debug,warn",
            " tally::grpc=trace , info ,",
            "hyper=debug,info",
            "my_program=info",
            "tally::audit[{token}]=off,off",
            "tally[call{key=1}],info",
        ] {
            filter(text).unwrap();
        }
    }

    #[test]
    fn unknown_words_are_refused_with_the_levels_and_the_nearest_word() {
        const LEVELS: &str = "the levels are off, error, warn, info, debug, trace";
        for (text, expected) in [
            (
                "debgu",
                format!("unknown level \"debgu\", {LEVELS}; did you mean debug?"),
            ),
            (
                "tally=inof,warn",
                format!("unknown level \"inof\", {LEVELS}; did you mean info?"),
            ),
            ("tally", format!("unknown level \"tally\", {LEVELS}")),
            ("info,loud", format!("unknown level \"loud\", {LEVELS}")),
            (" , ", format!("unknown level \"\", {LEVELS}")),
        ] {
            assert_eq!(refusal(text), expected);
        }
        assert_eq!(
            refusal("taly=debug,info"),
            "unknown target \"taly\"; did you mean tally?"
        );
        assert_eq!(
            refusal("tally_braker::gate=debug"),
            "unknown target \"tally_braker\"; did you mean tally_breaker?"
        );
    }

    #[test]
    fn a_malformed_condition_is_refused() {
        assert!(filter("tally[call{key=[}]=debug").is_err());
    }
}
