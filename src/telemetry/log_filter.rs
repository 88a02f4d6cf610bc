//! The filter of the log, as an operator writes it: checks its words, and makes the filter of `tracing` from it.

use tracing_subscriber::EnvFilter;

use super::{
    error::FilterError,
    targets::{AUDIT_TARGET, RPC_TARGET},
};
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

/// The level of targets for which the filter has no rule. Without this default, `tracing` would log only their errors, and a
/// filter such as `payments=debug` would hide the events of the service.
const DEFAULT_LEVEL: &str = "info";
/// The targets of Tally's events: the modules that log, and two targets that are not the names of modules.
const TARGETS: [&str; 49] = [
    "tally::admin::ledger",
    "tally::admin::routes",
    "tally::admin::server",
    AUDIT_TARGET,
    "tally::cli::serve",
    "tally::cli::serve_replica",
    "tally::cli::serve_store",
    "tally::engine::circuits",
    "tally::engine::clock_watch",
    "tally::engine::exec",
    "tally::engine::exec::following",
    "tally::engine::fault",
    "tally::engine::maintenance",
    "tally::engine::pipeline",
    "tally::engine::reads",
    "tally::engine::scrubbing",
    "tally::engine::start",
    "tally::grpc::forwarding",
    "tally::grpc::forwarding::leader",
    "tally::grpc::transport::connection",
    "tally::grpc::transport::lifetime",
    "tally::grpc::transport::net",
    "tally::replica::driver",
    "tally::replica::follow",
    "tally::replica::lead",
    "tally::replica::peers",
    "tally::replica::prepare",
    "tally::replica::publish",
    "tally::replica::reports",
    RPC_TARGET,
    "tally::security::state",
    "tally::store::embedded::id_files",
    "tally::telemetry::export",
    "tally::telemetry::metrics",
    "tally::telemetry::otlp_metrics",
    "tally::telemetry::propagation",
    "tally_batch::stats",
    "tally_breaker::machine::transitions",
    "tally_breaker::throttle",
    "tally_journal::chunked_file",
    "tally_journal::clean_stop",
    "tally_journal::directory",
    "tally_journal::prepare",
    "tally_journal::repair",
    "tally_journal::scan",
    "tally_topology::manager",
    "tally_topology::plan",
    "tally_topology::runtime",
    "tally_topology::watch",
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
    EnvFilter::try_new(rules(text)?).map_err(|_| FilterError::Syntax)
}

/// Checks the rules, and returns them with the rules that [`filter`] adds.
fn rules(text: &str) -> Result<String, FilterError> {
    let (mut rules, mut has_default) = (Vec::new(), false);
    for rule in text.split(',').map(str::trim) {
        if rule.is_empty() {
            return Err(FilterError::Empty);
        }
        has_default |= check(rule)?;
        rules.push(rule);
    }
    if !has_default {
        rules.insert(0, DEFAULT_LEVEL);
    }
    let rules = rules.join(",");
    Ok(format!("{HTTP_LIBRARIES},{rules},{RPC_TARGET}=off"))
}

/// Checks a rule. Returns whether the rule is a level for all targets that no rule names.
fn check(rule: &str) -> Result<bool, FilterError> {
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
    let target = target.split('[').next().unwrap_or_default().trim();
    let name = target.split(':').next().unwrap_or_default();
    match nearest(name, CRATES) {
        Some(meant) if meant != name => Err(FilterError::Target {
            word: name.to_owned(),
            meant,
        }),
        Some(_) => check_module(target, name),
        None => Ok(()),
    }?;
    Ok(rule
        .split('[')
        .next()
        .is_some_and(|beginning| !beginning.is_empty())
        && target.is_empty())
}

/// Checks that events have a target that is `target`, or within it. `krate` is the first part of the target.
fn check_module(target: &str, krate: &str) -> Result<(), FilterError> {
    let within = |module: &str| {
        TARGETS.iter().filter_map({
            let module = format!("{module}::");
            move |known| known.strip_prefix(&module).map(str::to_owned)
        })
    };
    if target == krate || TARGETS.contains(&target) || within(target).next().is_some() {
        return Ok(());
    }
    // The innermost module that exists: the error names the targets in it.
    let mut module = target;
    while let Some((parent, _)) = module.rsplit_once("::") {
        module = parent;
        if module == krate || within(module).next().is_some() {
            break;
        }
    }
    let first_part = |path: String| path.split("::").next().unwrap_or_default().to_owned();
    let mut known: Vec<String> = within(module).map(first_part).collect();
    known.dedup();
    Err(FilterError::Module {
        target: target.to_owned(),
        module: module.to_owned(),
        known: known.join(", "),
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

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
            " tally::grpc=trace , info ",
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
        ] {
            assert_eq!(refusal(text), expected);
        }
        for text in ["", " ", " , ", "info,,warn", "info,", ",info"] {
            assert_eq!(
                refusal(text),
                format!("a rule is empty; remove the comma that is too many, or write a level: {LEVELS}"),
                "{text}"
            );
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
    fn without_a_rule_for_all_targets_the_others_stay_at_info() {
        let added = |text: &str| rules(text).unwrap().split(',').any(|rule| rule == "info");
        for text in [
            "payments=debug",
            "tally=debug",
            "tally[call{key=1}]",
            "[call]=debug",
        ] {
            assert!(added(text), "{text}");
        }
        for text in ["warn", "OFF", "payments=debug,error", "tally[call{key=1}],warn"] {
            assert!(!added(text), "{text}");
        }
    }

    #[test]
    fn a_target_in_tally_must_exist() {
        for text in [
            "tally::grpc::transport=debug",
            "tally::audit=info",
            "tally_ledger=debug",
        ] {
            filter(text).unwrap();
        }
        assert_eq!(
            refusal("tally::nonexistent=debug"),
            "unknown target \"tally::nonexistent\"; the targets in tally are admin, audit, cli, engine, grpc, replica, \
             rpc, security, store, telemetry"
        );
        assert_eq!(
            refusal("info,tally::grpc::transport::nte=debug"),
            "unknown target \"tally::grpc::transport::nte\"; the targets in tally::grpc::transport are connection, \
             lifetime, net"
        );
    }

    /// Adds the modules below `directory` in which an event is logged.
    fn add_targets(directory: &Path, module: &str, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let inner = if ["mod", "lib"].contains(&stem) {
                module.to_owned()
            } else {
                format!("{module}::{stem}")
            };
            if path.is_dir() {
                add_targets(&path, &inner, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
                let calls = ["error", "warn", "info", "debug", "trace"].map(|level| {
                    code.split(&format!("tracing::{level}!("))
                        .skip(1)
                        .collect::<Vec<_>>()
                });
                // An event that sets a target does not have its module as the target.
                let has_own = |call: &str| call.split(';').next().unwrap().contains("target: ");
                if calls.concat().into_iter().any(|call| !has_own(call)) {
                    found.insert(inner);
                }
            }
        }
    }

    #[test]
    fn every_module_that_logs_is_a_target() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut found = BTreeSet::from([AUDIT_TARGET, RPC_TARGET].map(str::to_owned));
        add_targets(&root.join("src"), "tally", &mut found);
        for krate in CRATES.iter().filter_map(|name| name.strip_prefix("tally_")) {
            add_targets(
                &root.join("crates").join(krate).join("src"),
                &format!("tally_{krate}"),
                &mut found,
            );
        }
        assert_eq!(found.into_iter().collect::<Vec<_>>(), TARGETS);
    }

    #[test]
    fn a_malformed_condition_is_refused() {
        assert!(filter("tally[call{key=[}]=debug").is_err());
    }
}
