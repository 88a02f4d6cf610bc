//! The errors of the command line, each as one line: what is wrong, the value, and what is accepted. The texts of clap have
//! several lines.

use std::{
    error::Error,
    ffi::{OsStr, OsString},
    num::ParseIntError,
};

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::settings::{SettingError, in_one_line, nearest, without_user};

/// The options whose values no error shows.
const SECRETS: [&str; 2] = ["--token", "TALLY_TOKEN"];
/// The options whose values are addresses. An error shows them without a user name and a password.
const ADDRESSES: [&str; 2] = ["--endpoint", "TALLY_ENDPOINT"];

/// Describes `error` in one line. `words` is the command line, whose first word is the name of the program, and `command` the
/// definition of the command line. The end of the text names the help text of the subcommand.
pub(super) fn described(error: &clap::Error, command: &clap::Command, words: &[OsString]) -> String {
    let (subcommand, path) = selected(command, words);
    let problem = if error.kind() == ErrorKind::MissingSubcommand {
        let is_shown = |subcommand: &&clap::Command| !subcommand.is_hide_set();
        let shown = subcommand.get_subcommands().filter(is_shown);
        let names: Vec<&str> = shown.map(clap::Command::get_name).collect();
        format!(
            "the subcommand is missing; it must be one of {}",
            names.join(", ")
        )
    } else {
        problem(error)
    };
    format!("{problem}; see `{} --help`", path.join(" "))
}

/// Returns the text of an error: the option or the variable `name` has the wrong value `value`. `error` is clap's error
/// about it.
pub(super) fn wrong_value(error: &clap::Error, name: &str, value: &OsStr) -> String {
    let mut bound = bound(error, value);
    let value = &*value.to_string_lossy();
    if let Some(words) = accepted_words(error)
        && let Some(meant) = nearest(value, words.iter().map(String::as_str))
    {
        bound.push_str(&format!("; did you mean {meant}?"));
    }
    if SECRETS.contains(&name) {
        format!("{name}: must be {bound}")
    } else if ADDRESSES.contains(&name) {
        SettingError::new(name, without_user(value), bound).to_string()
    } else {
        SettingError::new(name, value, bound).to_string()
    }
}

/// Returns the values that the option accepts, in words. `value` is the wrong value.
fn bound(error: &clap::Error, value: &OsStr) -> String {
    if let Some(words) = accepted_words(error) {
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

/// Returns the names of the options in `error`, such as `--client-key <FILE>`, or `None` if the error names no option.
pub(super) fn options(error: &clap::Error) -> Option<String> {
    let options = texts(error, ContextKind::InvalidArg);
    (!options.is_empty()).then(|| options.join(" and "))
}

/// Returns the subcommand that `words` select, and the name of the program with the names of the subcommands. The first word is the
/// name of the program. A value of an option is no subcommand, even if it has the name of one.
fn selected<'a>(command: &'a clap::Command, words: &[OsString]) -> (&'a clap::Command, Vec<String>) {
    let (mut current, mut path) = (command, vec!["tally".to_owned()]);
    let mut options: Vec<&clap::Arg> = command.get_arguments().collect();
    let mut words = words.iter().skip(1).map(|word| word.to_string_lossy());
    while let Some(word) = words.next().filter(|word| word != "--") {
        if let Some(subcommand) = current.find_subcommand(&*word) {
            path.push(subcommand.get_name().to_owned());
            options.extend(subcommand.get_arguments());
            current = subcommand;
            continue;
        }
        let is_named = |option: &&clap::Arg| {
            let long = word.strip_prefix("--");
            let short = word.strip_prefix('-').and_then(|word| word.parse().ok());
            (long.is_some() && option.get_long() == long) || (short.is_some() && option.get_short() == short)
        };
        let option = options.iter().copied().find(|option| is_named(option));
        if option.is_some_and(|option| option.get_action().takes_values()) {
            words.next();
        }
    }
    (current, path)
}

/// Describes what is wrong.
fn problem(error: &clap::Error) -> String {
    let option = texts(error, ContextKind::InvalidArg).join(" and ");
    let value = texts(error, ContextKind::InvalidValue).join(" ");
    let shown = in_one_line(&option);
    match error.kind() {
        ErrorKind::InvalidValue if value.is_empty() && accepted_words(error).is_none() => {
            format!("{shown} needs a value")
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            wrong_value(error, name(&option), OsStr::new(&value))
        }
        ErrorKind::UnknownArgument if option.starts_with('-') => {
            let meant = meant(error, ContextKind::SuggestedArg);
            format!("there is no option {shown}{meant}")
        }
        ErrorKind::UnknownArgument => format!("the argument {shown} is one too many"),
        ErrorKind::InvalidSubcommand => {
            let subcommand = texts(error, ContextKind::InvalidSubcommand).join(" ");
            let meant = meant(error, ContextKind::SuggestedSubcommand);
            format!("there is no subcommand {}{meant}", in_one_line(&subcommand))
        }
        ErrorKind::MissingRequiredArgument if option.contains(" and ") => format!("{shown} are missing"),
        ErrorKind::MissingRequiredArgument => format!("{shown} is missing"),
        ErrorKind::ArgumentConflict => {
            let others = texts(error, ContextKind::PriorArg).join(" and ");
            if others == option {
                format!("{shown} is given twice")
            } else if others.is_empty() {
                format!("{shown} can't be used with the other options")
            } else {
                format!("{shown} can't be used with {}", in_one_line(&others))
            }
        }
        ErrorKind::TooManyValues => format!(
            "{shown} accepts no further value, such as {}",
            in_one_line(&value)
        ),
        ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues | ErrorKind::NoEquals => {
            format!("{shown} needs another number of values")
        }
        ErrorKind::InvalidUtf8 => "a word of the command line is not UTF-8 text".to_owned(),
        // The caller describes a missing subcommand, and prints help texts and the version.
        ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelp
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | ErrorKind::DisplayVersion
        | ErrorKind::Io
        | ErrorKind::Format
        | _ => "the command line can't be used".to_owned(),
    }
}

/// Returns the name of an option without the name of its value: `--listen` for `--listen <ADDR>`.
fn name(option: &str) -> &str {
    option.split(' ').next().unwrap_or(option)
}

/// Returns the question whether the user meant another word, as the end of a sentence.
fn meant(error: &clap::Error, kind: ContextKind) -> String {
    // clap lists the most similar word last.
    match texts(error, kind).last() {
        None => String::new(),
        Some(word) => format!("; did you mean {}?", name(word)),
    }
}

/// Returns the words that the option accepts, if it does not accept all words.
fn accepted_words(error: &clap::Error) -> Option<Vec<String>> {
    let words = texts(error, ContextKind::ValidValue);
    (!words.is_empty()).then_some(words)
}

/// Returns the texts of a part of the error.
fn texts(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command;

    fn line(words: &str) -> String {
        let words: Vec<OsString> = words.split(' ').map(OsString::from).collect();
        let error = command().try_get_matches_from(&words).unwrap_err();
        described(&error, &command(), &words)
    }

    fn check(lines: &[(&str, &str)]) {
        for (words, expected) in lines {
            assert_eq!(line(words), *expected, "{words}");
        }
    }

    #[test]
    fn an_error_of_the_subcommand_is_one_line_that_names_the_help_text() {
        check(&[
            (
                "tally nonsense",
                "there is no subcommand nonsense; see `tally --help`",
            ),
            (
                "tally impot a.csv",
                "there is no subcommand impot; did you mean import?; see `tally --help`",
            ),
            (
                "tally circuit mode sometimes",
                "<MODE> = sometimes: must be one of auto, metrics_only, forced_open, disabled; see `tally circuit mode --help`",
            ),
            (
                "tally circuit mode forced_opne",
                "<MODE> = forced_opne: must be one of auto, metrics_only, forced_open, disabled; did you mean forced_open?; \
                 see `tally circuit mode --help`",
            ),
            (
                "tally circuit mode -o json",
                "<MODE> is missing; see `tally circuit mode --help`",
            ),
            (
                "tally circuit --key show mode -o json",
                "<MODE> is missing; see `tally circuit mode --help`",
            ),
            (
                "tally circuit mode auto disabled",
                "the argument disabled is one too many; see `tally circuit mode --help`",
            ),
            (
                "tally circuit",
                "the subcommand is missing; it must be one of show, watch, mode, reset, open-for; see `tally circuit \
                 --help`",
            ),
        ]);
    }

    #[test]
    fn an_error_of_an_option_is_one_line_that_names_the_help_text() {
        check(&[
            (
                "tally config --listn 1",
                "there is no option --listn; did you mean --listen?; see `tally config --help`",
            ),
            (
                "tally config --listen",
                "--listen <ADDR> needs a value; see `tally config --help`",
            ),
            (
                "tally config --listen a --listen b",
                "--listen = a: must be an IP address with a port, for example 127.0.0.1:50051 or [::1]:50051; see `tally \
                 config --help`",
            ),
            (
                "tally bench --json --json",
                "--json is given twice; see `tally bench --help`",
            ),
            (
                "tally bench --json=x",
                "--json accepts no further value, such as x; see `tally bench --help`",
            ),
            (
                "tally bench --batch 0",
                "--batch = 0: must be 1 to 8192; see `tally bench --help`",
            ),
            (
                "tally bench --duration 1",
                "--duration = 1: must be a time with a unit, for example 500ms, 2s or 1h; see `tally bench --help`",
            ),
            (
                "tally bench --duration 99999999999999999999999s",
                "--duration = 99999999999999999999999s: must be 1ms to 1day; see `tally bench --help`",
            ),
            (
                "tally stats --token a --token-file b",
                "--token <TOKEN> can't be used with --token-file <FILE>; see `tally stats --help`",
            ),
            ("tally import", "<FILE>... is missing; see `tally import --help`"),
            (
                "tally stats --token \u{7}",
                "--token: must be printable ASCII; see `tally stats --help`",
            ),
        ]);
    }
}
