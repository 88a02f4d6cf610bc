//! The environment variables of command-line options: their names, and the errors of their values.

use std::{env, error::Error, ffi::OsStr, io, num::ParseIntError, process::ExitCode};

use clap::{
    builder::Resettable,
    error::{ContextKind, ContextValue, ErrorKind},
};
use thiserror::Error;

use super::exit::{self, fail};
use crate::settings::SettingError;

/// The variables whose values no error shows.
const SECRETS: [&str; 1] = ["TALLY_TOKEN"];

/// Why the command line can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CommandLineError {
    /// The command line is wrong, or asks for help or the version.
    #[error(transparent)]
    Usage(clap::Error),
    /// An environment variable has a value that its option does not accept.
    #[error("{0}")]
    Variable(String),
}

// ===== impl CommandLineError =====

impl CommandLineError {
    /// Prints the error on standard error, or the requested text on standard output. Returns the exit code.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        let error = match self {
            CommandLineError::Variable(_) => return fail(exit::CONFIG, self),
            CommandLineError::Usage(error) => error,
        };
        let requested = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        match error.print() {
            // There is no place to report that a text on standard error can't be written.
            _ if !requested => ExitCode::from(exit::USAGE),
            // A reader such as `head` has closed the pipe, because it needs no more output. This is not an error.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => exit::unwritten(&error),
            Ok(()) | Err(_) => ExitCode::SUCCESS,
        }
    }
}

/// Returns the names of the environment variables of all options of `command` and its subcommands.
pub(super) fn names(command: &clap::Command) -> Vec<String> {
    let mut found = Vec::new();
    add_names(command, &mut found);
    found.sort();
    found.dedup();
    found
}

fn add_names(command: &clap::Command, found: &mut Vec<String>) {
    let names = command.get_arguments().filter_map(clap::Arg::get_env);
    found.extend(names.map(|name| name.to_string_lossy().into_owned()));
    command
        .get_subcommands()
        .for_each(|command| add_names(command, found));
}

/// Finds out whether an environment variable is the cause of `error`, an error of the command line. The error of clap names
/// only the option. `command` is the definition with which the words were parsed, and `parse` parses the words with
/// another definition.
pub(super) fn explain(
    error: clap::Error,
    command: &clap::Command,
    parse: &dyn Fn(clap::Command) -> Option<clap::Error>,
) -> CommandLineError {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return CommandLineError::Usage(error);
    }
    if error.kind() == ErrorKind::MissingSubcommand {
        // Clap prints the help for a missing subcommand only if no variable sets an option.
        let without_variables = names(command)
            .iter()
            .fold(command.clone(), |command, name| without_variable(command, name));
        return CommandLineError::Usage(parse(without_variables).unwrap_or(error));
    }
    // The whole text would differ even without another error, because the usage names the options that are set.
    let is_same = |other: clap::Error| {
        let argument = ContextKind::InvalidArg;
        other.kind() == error.kind() && other.get(argument) == error.get(argument)
    };
    let is_cause = |name: &String| {
        env::var_os(name).is_some() && !parse(without_variable(command.clone(), name)).is_some_and(is_same)
    };
    let causes: Vec<String> = names(command).into_iter().filter(is_cause).collect();
    match &*causes {
        [] => CommandLineError::Usage(error),
        [name, others @ ..] => CommandLineError::Variable(described(&error, name, others)),
    }
}

/// Removes the variable `name` from all options.
fn without_variable(command: clap::Command, name: &str) -> clap::Command {
    command
        .mut_args(|argument| {
            if argument.get_env() == Some(OsStr::new(name)) {
                argument.env(Resettable::Reset)
            } else {
                argument
            }
        })
        .mut_subcommands(|subcommand| without_variable(subcommand, name))
}

/// Describes `error`, which the variables `name` and `others` cause.
fn described(error: &clap::Error, name: &str, others: &[String]) -> String {
    let value = env::var_os(name).unwrap_or_default();
    let kind = error.kind();
    if kind == ErrorKind::ArgumentConflict && !others.is_empty() {
        let names = others.join(" and ");
        format!("{name} and {names} are set, but exclude each other: set only one of them")
    } else if kind == ErrorKind::MissingRequiredArgument {
        let missing = if let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg) {
            missing.join(" and ")
        } else {
            "another option".to_owned()
        };
        format!("{name} is set, so {missing} must be set, too")
    } else if SECRETS.contains(&name) {
        format!("{name}: must be {}", bound(error, &value))
    } else {
        SettingError::new(name, value.to_string_lossy(), bound(error, &value)).to_string()
    }
}

/// Returns the values that the option accepts, in words.
fn bound(error: &clap::Error, value: &OsStr) -> String {
    if let Some(ContextValue::Strings(words)) = error.get(ContextKind::ValidValue)
        && !words.is_empty()
    {
        return format!("one of {}", words.join(", "));
    }
    if value.to_str().is_none() {
        return "UTF-8 text".to_owned();
    }
    let Some(source) = error.source() else {
        return "a value that is not empty".to_owned();
    };
    if source.is::<ParseIntError>() {
        return "a whole number".to_owned();
    }
    if source.is::<humantime::DurationError>() {
        return "a time with a unit, for example 500ms, 2s or 1h".to_owned();
    }
    let text = source.to_string();
    let known_beginnings = ["expected ", "must be "];
    let bound = known_beginnings
        .into_iter()
        .find_map(|beginning| text.strip_prefix(beginning));
    match (bound, text.split_once(" is not in ")) {
        (Some(bound), _) => bound.to_owned(),
        (None, Some((_, range))) => range.replace("..=", " to "),
        (None, None) => format!("a valid value: {text}"),
    }
}
