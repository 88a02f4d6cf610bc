//! Environment variables that begin with `TALLY_`.
//!
//! - A variable of a setting (`TALLY__SECTION__KEY`) or of a command-line option (`TALLY_LISTEN`) is used.
//! - A variable that Kubernetes sets for a Service whose name begins with `tally` is ignored: see
//!   [`is_kubernetes_variable`].
//! - A variable that is similar to a used variable is probably a mistake, so the service refuses to start.
//! - Any other variable belongs to another program, so it is ignored with a warning.

use std::ffi::OsString;

use super::{
    error::{ConfigError, UnknownVariable},
    keys::{ENV_PREFIX, ENV_SEPARATOR, known_keys, variable},
};
use crate::settings::{SettingError, nearest};

/// The beginning of the names of all variables of this program.
const PREFIX: &str = "TALLY_";

/// Maximum number of parts in the name of a variable of a setting: `TALLY__BREAKER__METHODS__...` has the most.
const NAME_PARTS_MAX: usize = 8;
/// Maximum number of opening brackets in the value of a variable of a setting.
const BRACKETS_MAX: usize = 64;

/// Checks the variables of settings before their values are parsed. The parser and the table of keys are recursive, so a
/// deep name or a deep value would overflow the stack.
///
/// # Errors
/// [`ConfigError::Setting`] for the first variable that is too deep.
pub(super) fn check_shapes(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(), ConfigError> {
    for (name, value) in variables {
        let name = name.to_string_lossy();
        if !name.to_uppercase().starts_with(ENV_PREFIX) {
            continue;
        }
        let parts = name.split(ENV_SEPARATOR).count();
        if parts > NAME_PARTS_MAX {
            let short: String = name.chars().take(64).collect();
            let bound = format!("at most {NAME_PARTS_MAX} parts, separated by {ENV_SEPARATOR}");
            return Err(SettingError::new(short, format!("a name of {parts} parts"), bound).into());
        }
        let is_bracket = |byte: &&u8| matches!(byte, b'[' | b'{');
        let brackets = value.as_encoded_bytes().iter().filter(is_bracket).count();
        if brackets > BRACKETS_MAX {
            let bound = format!("a value with at most {BRACKETS_MAX}");
            return Err(SettingError::new(name, format!("{brackets} opening brackets"), bound).into());
        }
    }
    Ok(())
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

/// Checks the names of environment variables. `options` are the names of the variables that command-line options and the
/// chart use. The variables of settings (`TALLY__SECTION__KEY`) are not checked here, because loading the configuration
/// checks them. Returns the unknown variables that are ignored.
///
/// # Errors
/// [`ConfigError::UnknownVariables`] with the unknown variables that are similar to a used variable.
pub fn check_variables(
    names: impl IntoIterator<Item = String>,
    options: &[String],
) -> Result<Vec<String>, ConfigError> {
    let settings: Vec<String> = known_keys().iter().map(|key| variable(key)).collect();
    let (mut refused, mut ignored) = (Vec::new(), Vec::new());
    for name in names {
        let is_checked = name.starts_with(PREFIX) && !name.starts_with(ENV_PREFIX);
        if !is_checked || options.contains(&name) || is_kubernetes_variable(&name) {
            continue;
        }
        match meant_variable(&name, options, &settings) {
            Some(meant) => refused.push(UnknownVariable {
                name,
                meant: Some(meant),
            }),
            None => ignored.push(name),
        }
    }
    if refused.is_empty() {
        Ok(ignored)
    } else {
        Err(ConfigError::UnknownVariables(refused))
    }
}

/// Returns the variable that the operator probably meant. Compares without the beginning that all names have, and without
/// underscores: `TALLY_SERVER_LISTEN` is similar to `TALLY__SERVER__LISTEN`.
fn meant_variable(name: &str, options: &[String], settings: &[String]) -> Option<String> {
    let short = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).replace('_', "");
    let known: Vec<(String, &String)> = options
        .iter()
        .chain(settings)
        .map(|name| (short(name), name))
        .collect();
    let nearest = nearest(&short(name), known.iter().map(|(short, _)| &**short))?;
    known
        .into_iter()
        .find(|(short, _)| *short == nearest)
        .map(|(_, name)| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_would_overflow_the_stack_is_an_error() {
        let check = |name: &str, value: &str| check_shapes([(name.into(), value.into())]);
        assert!(
            check(
                "TALLY__BREAKER__METHODS",
                "{ ProcessTransaction = { mode = \"auto\" } }"
            )
            .is_ok()
        );
        assert!(check("OTHER", &"[".repeat(100_000)).is_ok());
        let error = check("TALLY__BREAKER__METHODS", &"{a=".repeat(2000)).unwrap_err();
        assert!(error.to_string().contains("2000 opening brackets"), "{error}");
        let error = check(&format!("TALLY{}", "__A".repeat(30_000)), "1").unwrap_err();
        assert!(error.to_string().contains("30001 parts"), "{error}");
    }

    const OPTIONS: [&str; 4] = ["TALLY_DATA", "TALLY_LISTEN", "TALLY_CONFIG", "TALLY_POD_NAME"];

    fn check(names: &[&str]) -> Result<Vec<String>, String> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        check_variables(owned(names), &owned(&OPTIONS)).map_err(|error| error.to_string())
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
            assert_eq!(check(&[name]), Ok(vec![]), "{name}");
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
        ] {
            let error = format!("the environment variable {name} is not known; did you mean {meant}?");
            assert_eq!(check(&[name, "TALLY_DATA", "HOME"]), Err(error));
        }
    }

    #[test]
    fn variables_of_other_programs_are_reported_but_not_refused() {
        let others = ["TALLY_TEST_SEED", "TALLY_BINARY", "TALLY_PROFILE", "TALLY_PID"];
        assert_eq!(check(&others), Ok(others.map(str::to_owned).to_vec()));
    }
}
