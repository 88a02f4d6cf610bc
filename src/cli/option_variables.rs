//! The environment variables of command-line options: their names, and the errors of their values.

use std::{env, ffi::OsString, io, process::ExitCode};

use clap::{
    builder::Resettable,
    error::{ContextKind, ErrorKind},
};
use thiserror::Error;

use super::{
    exit::{self, fail},
    usage_error,
};

/// Why the command line can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CommandLineError {
    /// The command line asks for help or the version.
    #[error("the command line asks for a text")]
    Requested(clap::Error),
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// An environment variable has a value that its option does not accept.
    #[error("{0}")]
    Variable(String),
}

// ===== impl CommandLineError =====

impl CommandLineError {
    /// Prints the error on standard error, or the requested text on standard output. Returns the exit code.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        let requested = match self {
            CommandLineError::Variable(_) => return fail(exit::CONFIG, self),
            CommandLineError::Usage(_) => return fail(exit::USAGE, self),
            CommandLineError::Requested(text) => text,
        };
        match requested.print() {
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

/// Finds out whether an environment variable is the cause of `error`, an error of the command line `words`. The error of clap
/// names only the option. `command` is the definition with which the words were parsed.
pub(super) fn explain(error: clap::Error, command: &clap::Command, words: &[OsString]) -> CommandLineError {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return CommandLineError::Requested(error);
    }
    // Compares only a part of the text: the usage in the text names the options that are set, so it differs even for the same error.
    let is_same = |other: clap::Error| {
        let argument = ContextKind::InvalidArg;
        other.kind() == error.kind() && other.get(argument) == error.get(argument)
    };
    let without = |name: &str| with_variables(command.clone(), &|variable| variable != name);
    let is_cause =
        |name: &String| env::var_os(name).is_some() && !error_of(without(name), words).is_some_and(is_same);
    let causes: Vec<String> = names(command).into_iter().filter(is_cause).collect();
    match &*causes {
        [] => CommandLineError::Usage(usage_error::described(&error, command, words)),
        [name, others @ ..] => CommandLineError::Variable(described(&error, name, others)),
    }
}

/// Checks the value of every variable of the options of a subcommand, also if an option of the command line overrides the
/// variable. `path` is the name of the program and the names of the subcommands.
///
/// # Errors
/// [`CommandLineError::Variable`] for the first variable in the order of their names whose option does not accept the value.
pub(super) fn check_values(command: &clap::Command, path: &[OsString]) -> Result<(), CommandLineError> {
    for name in names(command).iter().filter(|name| env::var_os(name).is_some()) {
        let only = with_variables(command.clone(), &|variable| variable == name.as_str());
        // Other errors concern the words in `path`, which lack the required arguments.
        let is_of_value = |error: &clap::Error| {
            matches!(
                error.kind(),
                ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::InvalidUtf8
            )
        };
        if let Some(error) = error_of(only, path).filter(is_of_value) {
            return Err(CommandLineError::Variable(described(&error, name, &[])));
        }
    }
    Ok(())
}

/// Parses `words` with the definition `command`. Returns the error.
fn error_of(mut command: clap::Command, words: &[OsString]) -> Option<clap::Error> {
    command.try_get_matches_from_mut(words).err()
}

/// Removes the variables that are not `kept` from all options.
fn with_variables(command: clap::Command, kept: &dyn Fn(&str) -> bool) -> clap::Command {
    command
        .mut_args(|argument| match argument.get_env() {
            Some(name) if !kept(&name.to_string_lossy()) => argument.env(Resettable::Reset),
            Some(_) | None => argument,
        })
        .mut_subcommands(|subcommand| with_variables(subcommand, kept))
}

/// Describes `error`, which the variables `name` and `others` cause.
fn described(error: &clap::Error, name: &str, others: &[String]) -> String {
    let value = env::var_os(name).unwrap_or_default();
    let kind = error.kind();
    if kind == ErrorKind::ArgumentConflict && !others.is_empty() {
        let names = others.join(" and ");
        format!("{name} and {names} are set, but exclude each other: set only one of them")
    } else if kind == ErrorKind::MissingRequiredArgument {
        let missing = usage_error::options(error).unwrap_or_else(|| "another option".to_owned());
        format!("{name} is set, so {missing} must be set, too")
    } else {
        usage_error::wrong_value(error, name, &value)
    }
}
