//! The rule for environment variables whose names begin with `TALLY_`. All subcommands follow this rule; only those that
//! print completions and manual pages do not, because they use no variables.
//!
//! - A variable of a setting (`TALLY__SECTION__KEY`), of a command-line option (`TALLY_LISTEN`), or of the chart is used.
//! - A variable that Kubernetes sets for a Service whose name begins with `tally` is ignored (see
//!   [`is_kubernetes_variable`]), and so are the variables of this project's build and tests.
//! - Any other variable that begins with `TALLY__` is refused, because these names belong to settings.
//! - Any other variable whose name is similar to a used one is probably a mistake, and is refused, too.
//! - Any other variable belongs to another program, so it is ignored with a warning.

use std::collections::BTreeSet;

use super::{
    error::{ConfigError, UNKNOWN_LISTED_MAX, UnknownVariable},
    keys::{ENV_PREFIX, is_table, known_keys, meant_key, setting_key, variable},
};
use crate::settings::{in_one_line, nearest};

/// The beginning of the names of all variables of this program.
const PREFIX: &str = "TALLY_";

/// Maximum number of variables of other programs that are compared with the names of the used variables. A comparison
/// needs all names, and an environment may have thousands of variables.
const COMPARED_MAX: usize = 100;

/// The variables that the chart sets. The topology reads the resources of the pod from them.
const CHART_VARIABLES: [&str; 6] = [
    "TALLY_NODE_NAME",
    "TALLY_POD_CPU_LIMIT_MILLI",
    "TALLY_POD_CPU_REQUEST_MILLI",
    "TALLY_POD_NAME",
    "TALLY_POD_NAMESPACE",
    "TALLY_POD_QOS_CLASS",
];

/// The variables of this project's build, scripts and tests.
const OWN_VARIABLES: [&str; 15] = [
    "TALLY_BINARY",
    "TALLY_COMMIT",
    "TALLY_PID",
    "TALLY_PROFILE",
    "TALLY_TEST_DATA",
    "TALLY_TEST_FAKETIME",
    "TALLY_TEST_FIFO",
    "TALLY_TEST_KAFKA",
    "TALLY_TEST_KILLS",
    "TALLY_TEST_LEDGER_STEPS",
    "TALLY_TEST_SEED",
    "TALLY_TEST_WATCHER_ENDPOINT",
    "TALLY_TEST_WATCHER_FILE",
    "TALLY_TEST_WATCHER_PREFIX",
    "TALLY_TEST_WATCH_KILLS",
];

/// The variables that are ignored with a warning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IgnoredVariables {
    listed: Vec<String>,
    more: usize,
}

// ===== impl IgnoredVariables =====

impl IgnoredVariables {
    /// Returns the warning; `None` if no variable is ignored.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let names: Vec<String> = self.listed.iter().map(|name| in_one_line(name)).collect();
        if names.is_empty() {
            return None;
        }
        let (names_text, total) = (names.join(", "), names.len() + self.more);
        Some(match (total, self.more) {
            (1, _) => format!("the environment variable {names_text} is not known, so it is ignored"),
            (_, 0) => format!("the environment variables {names_text} are not known, so they are ignored"),
            (_, more) => {
                format!(
                    "the environment variables {names_text} and {more} more are not known, so they are ignored"
                )
            }
        })
    }
}

/// Returns whether Kubernetes sets a variable of this name in the containers of a namespace, for a Service whose name
/// begins with `tally`: `TALLY_SERVICE_HOST`, `TALLY_SERVICE_PORT`, `TALLY_SERVICE_PORT_GRPC`, `TALLY_PORT`,
/// `TALLY_PORT_50051_TCP`, `TALLY_PORT_50051_TCP_ADDR` and so on. For a Service `tally-a`, the names begin with `TALLY_A_`.
/// No setting and no option has such a name.
#[must_use]
pub fn is_kubernetes_variable(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("TALLY_") else {
        return false;
    };
    let has = |word: &str| rest == word || rest.ends_with(&format!("_{word}"));
    if has("SERVICE_HOST") || has("SERVICE_PORT") || has("PORT") {
        return true;
    }
    if rest.starts_with("SERVICE_PORT_") || rest.contains("_SERVICE_PORT_") {
        return true;
    }
    // `PORT_<number>_<protocol>`, alone or followed by one more word.
    let words: Vec<&str> = rest.split('_').collect();
    let is_port = |words: &[&str]| match words {
        ["PORT", number, "TCP" | "UDP" | "SCTP", detail @ ..] => {
            !number.is_empty()
                && number.bytes().all(|byte| byte.is_ascii_digit())
                && matches!(detail, [] | ["PROTO" | "PORT" | "ADDR"])
        }
        _ => false,
    };
    (0..words.len()).any(|start| words.get(start..).is_some_and(is_port))
}

/// Checks the names of environment variables by the rule of this module. `options` are the names of the variables of
/// command-line options. Returns the variables that are ignored with a warning.
///
/// # Errors
/// [`ConfigError::UnknownVariables`] with the variables that are refused.
pub fn check_variables(
    names: impl IntoIterator<Item = String>,
    options: &[String],
) -> Result<IgnoredVariables, ConfigError> {
    let known = known_keys();
    let settings: Vec<String> = known.iter().map(|key| variable(key)).collect();
    // In the order of their names, so that the same environment always gives the same text.
    let unknown: BTreeSet<String> = names
        .into_iter()
        .filter(|name| is_unknown(name, options, &known))
        .collect();
    let (mut refused, mut ignored) = (Vec::new(), IgnoredVariables::default());
    let (mut more, mut compared) = (0, 0);
    for name in unknown {
        let is_of_setting = name.to_uppercase().starts_with(ENV_PREFIX);
        let meant = if is_of_setting && refused.len() >= UNKNOWN_LISTED_MAX {
            None
        } else if is_of_setting {
            meant_setting(&name, &known)
        } else if compared < COMPARED_MAX {
            compared += 1;
            meant_variable(&name, options, &settings)
        } else {
            None
        };
        match (
            is_of_setting || meant.is_some(),
            refused.len(),
            ignored.listed.len(),
        ) {
            (true, 0..UNKNOWN_LISTED_MAX, _) => refused.push(UnknownVariable {
                name: in_one_line(&name),
                meant,
            }),
            (true, ..) => more += 1,
            (false, _, 0..UNKNOWN_LISTED_MAX) => ignored.listed.push(name),
            (false, ..) => ignored.more += 1,
        }
    }
    if refused.is_empty() {
        Ok(ignored)
    } else {
        Err(ConfigError::UnknownVariables {
            listed: refused,
            more,
        })
    }
}

/// Returns whether a variable begins like those of this program, but is not known.
fn is_unknown(name: &str, options: &[String], known: &BTreeSet<String>) -> bool {
    let upper = name.to_uppercase();
    if upper.starts_with(ENV_PREFIX) {
        return setting_key(name, known).is_none() && !is_kubernetes_variable(&upper);
    }
    let is_used = || {
        options.iter().any(|option| option == name)
            || CHART_VARIABLES.contains(&name)
            || OWN_VARIABLES.contains(&name)
    };
    name.starts_with(PREFIX) && !is_used() && !is_kubernetes_variable(name)
}

/// Returns the variable of the setting that the operator probably meant with a variable that begins like one of a setting.
fn meant_setting(name: &str, known: &BTreeSet<String>) -> Option<String> {
    let name = in_one_line(name);
    let key = name.get(ENV_PREFIX.len()..)?.to_lowercase().replace("__", ".");
    let key = key.trim_matches('.');
    let similar = meant_key(key, known).filter(|meant| !is_table(meant, known));
    // The name may have one part too many: `TALLY__STORE__DATA__X`.
    let shorter = || {
        let dots = key.match_indices('.').map(|(dot, _)| dot);
        let parents = dots.map(|dot| key.get(..dot).unwrap_or_default().to_owned());
        parents.into_iter().find(|parent| known.contains(parent))
    };
    similar.or_else(shorter).map(|key| variable(&key))
}

/// Returns the variable that the operator probably meant: a variable with a similar name, or the variable of the setting
/// whose key ends with the name (`TALLY_ALLOW_INSECURE`). Compares without the beginning that all names have, and without
/// underscores: `TALLY_SERVER_LISTEN` is similar to `TALLY__SERVER__LISTEN`.
fn meant_variable(name: &str, options: &[String], settings: &[String]) -> Option<String> {
    let rest = name.strip_prefix(PREFIX).unwrap_or(name);
    let short = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).replace('_', "");
    let known: Vec<(String, &String)> = options
        .iter()
        .chain(settings)
        .map(|name| (short(name), name))
        .collect();
    let nearest = nearest(&short(name), known.iter().map(|(short, _)| &**short));
    let similar = known.iter().find(|(short, _)| Some(short) == nearest.as_ref());
    similar.map(|(_, name)| (*name).clone()).or_else(|| {
        let ending = format!("__{rest}");
        settings
            .iter()
            .find(|setting| setting.ends_with(&ending))
            .cloned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: [&str; 4] = ["TALLY_DATA", "TALLY_LISTEN", "TALLY_CONFIG", "TALLY_ENDPOINT"];

    /// Returns the warning or the error.
    fn check(names: &[&str]) -> Result<Option<String>, String> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let checked = check_variables(owned(names), &owned(&OPTIONS));
        checked
            .map(|ignored| ignored.warning())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn variables_that_kubernetes_sets_for_a_service_are_ignored() {
        for name in [
            "TALLY_SERVICE_HOST",
            "TALLY_SERVICE_PORT",
            "TALLY_SERVICE_PORT_GRPC",
            "TALLY_PORT",
            "TALLY_PORT_50051_TCP",
            "TALLY_PORT_50051_TCP_PROTO",
            "TALLY_PORT_50051_TCP_PORT",
            "TALLY_PORT_50051_TCP_ADDR",
            "TALLY_ADMIN_SERVICE_HOST",
            "TALLY_ADMIN_SERVICE_PORT_HTTP",
            "TALLY_ADMIN_PORT_9090_TCP_ADDR",
            "TALLY_B_2_PORT_53_UDP",
        ] {
            assert!(is_kubernetes_variable(name), "{name}");
            assert_eq!(check(&[name]), Ok(None), "{name}");
        }
        for name in [
            "TALLY_LISTEN",
            "TALLY_PORTS",
            "TALLY_PORT_X_TCP",
            "TALLY__SERVER__LISTEN",
            "OTHER_PORT",
        ] {
            assert!(!is_kubernetes_variable(name), "{name}");
        }
        for key in known_keys() {
            assert!(!is_kubernetes_variable(&variable(&key)), "{key}");
        }
    }

    #[test]
    fn variables_that_are_similar_to_used_variables_are_refused() {
        for (name, meant) in [
            ("TALLY_LISTN", "TALLY_LISTEN"),
            ("TALLY_DATE", "TALLY_DATA"),
            ("TALLY_SERVER_LISTEN", "TALLY__SERVER__LISTEN"),
            ("TALLY_BREAKER_SLOW_THRESHOLD", "TALLY__BREAKER__SLOW_THRESHOLD"),
            ("TALLY_ENDPONT", "TALLY_ENDPOINT"),
            ("TALLY_ALLOW_INSECURE", "TALLY__SECURITY__ALLOW_INSECURE"),
            ("TALLY_LOG", "TALLY__TELEMETRY__LOG"),
            ("TALLY__SERVER__LISTN", "TALLY__SERVER__LISTEN"),
            ("TALLY__STORE__DATA__X", "TALLY__STORE__DATA"),
            ("TALLY__SERVR__LISTEN", "TALLY__SERVER__LISTEN"),
            (
                "TALLY__BREAKER__METHODS__CREATEACCOUNTS__RAPM",
                "TALLY__BREAKER__METHODS__CREATEACCOUNTS__RAMP",
            ),
        ] {
            let error = format!("the environment variable {name} is not known; did you mean {meant}?");
            assert_eq!(check(&[name, "TALLY_DATA", "HOME"]), Err(error));
        }
    }

    #[test]
    fn every_other_variable_of_the_form_of_a_setting_is_refused() {
        for name in [
            "TALLY__",
            "TALLY__SERVER__",
            "TALLY__NONSENSE",
            "TALLY__SERVER__NONSENSE__DEEPER",
            "tally__nonsense",
        ] {
            let expected = format!("the environment variable {name} is not known");
            assert_eq!(check(&[name]), Err(expected));
        }
    }

    #[test]
    fn variables_of_other_programs_cause_a_warning_and_own_ones_do_not() {
        assert_eq!(check(&OWN_VARIABLES), Ok(None));
        assert_eq!(check(&CHART_VARIABLES), Ok(None));
        let warning = "the environment variable TALLY_FOO is not known, so it is ignored";
        assert_eq!(check(&["TALLY_FOO", "HOME"]), Ok(Some(warning.to_owned())));
        let warning = "the environment variables TALLY_BAR, TALLY_FOO are not known, so they are ignored";
        assert_eq!(check(&["TALLY_FOO", "TALLY_BAR"]), Ok(Some(warning.to_owned())));
    }

    #[test]
    fn long_lists_are_cut() {
        let names = |prefix: &str| {
            (0..9000)
                .map(|index| format!("{prefix}{index:04}"))
                .collect::<Vec<_>>()
        };
        let error = check_variables(names("TALLY__X"), &[]).unwrap_err().to_string();
        assert!(
            error.contains("TALLY__X0009 is not known; and 8990 more"),
            "{error}"
        );
        let warning = check_variables(names("TALLY_QQQQ"), &[])
            .unwrap()
            .warning()
            .unwrap();
        assert!(
            warning.ends_with("TALLY_QQQQ0009 and 8990 more are not known, so they are ignored"),
            "{warning}"
        );
    }
}
