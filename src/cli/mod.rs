//! The command line: one binary with subcommands. [`exit`] lists the exit codes.

mod account;
mod bench;
mod circuit;
mod client_args;
mod clock;
mod config;
mod effective;
pub mod exit;
mod export;
mod generate;
mod given;
mod head;
mod health;
mod import;
mod ledger_client;
mod ledger_text;
mod moment;
mod option_variables;
mod output;
mod peer_client;
mod reconnect;
mod replica;
mod replica_directory;
mod serve;
mod serve_error;
mod serve_replica;
mod serve_store;
mod settings_args;
mod signals;
mod statement;
mod stats;
mod token;
mod top;
mod topology;
mod transaction;
mod usage_error;
mod values;
mod verify;

use std::{ffi::OsString, io, process::ExitCode};

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, builder::Resettable};

use self::{exit::fail, given::options_in};
use crate::{
    config::{ConfigError, IgnoredVariables, check_variables},
    sys::limits::ignore_file_size_signal,
    terminal::{errln, stdout_failure},
    version::LONG_VERSION,
};

#[doc(hidden)]
pub use self::import::fuzzing;
pub use self::{
    client_args::{ClientArgs, Credentials},
    option_variables::CommandLineError,
    output::OutputFormat,
};

/// A durable double-entry ledger behind gRPC, with bounded latency.
#[derive(Debug, Parser)]
#[command(
    name = "tally",
    version,
    long_version = LONG_VERSION,
    propagate_version = true,
    after_help = exit::codes_help()
)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the service. Without options it listens on 127.0.0.1:50051 and keeps its data in ./tally-data.
    Serve(serve::ServeArgs),
    /// Show the settings that `serve` would use with the same options, and where each value comes from.
    Config(config::ConfigArgs),
    /// Check whether a service is serving. The exit code is 0 if the service is serving, and 1 if not.
    Health(health::HealthArgs),
    /// Import transactions from files, in the order of the files. Importing a file again does not apply its transactions again.
    Import(import::ImportArgs),
    /// Export accounts and transactions from a service, or from the directory of a stopped one.
    Export(export::ExportArgs),
    /// Show an account of a service, now or as of an earlier moment.
    Account(account::AccountArgs),
    /// Show a transaction of a service, and its outcome.
    Transaction(transaction::TransactionArgs),
    /// Show the statement of an account of a service: a row for each transfer, with the balances after it.
    Statement(statement::StatementArgs),
    /// Show the CPU pinning plan for this machine or, with --endpoint, the pinning of a running service.
    Topology(topology::TopologyArgs),
    /// Show statistics of a service: circuits, batches, ledger.
    Stats(stats::StatsArgs),
    /// Show a live view of a service in the terminal.
    Top(top::TopArgs),
    /// Show, watch or change the circuits of a service.
    Circuit(circuit::CircuitArgs),
    /// Show the clock of a service, or confirm a large step of its system clock.
    Clock(clock::ClockArgs),
    /// Show the replica behind a service, or let a leader resign. Only for a replicated store.
    Replica(replica::ReplicaArgs),
    /// Create a bearer token, and its line for the tokens file.
    Token(token::TokenArgs),
    /// Show the end of the journal of a service: the number and the hash of the last block, for `tally verify --expect`.
    Head(head::HeadArgs),
    /// Check every block of a data directory. No service may have the directory open.
    Verify(verify::VerifyArgs),
    /// Load a service and measure its throughput and latency.
    Bench(bench::BenchArgs),
    /// Print a script that completes the command line of tally in a shell.
    Completions(generate::CompletionsArgs),
    /// Print the manual page of tally, or write the manual pages of all subcommands to a directory.
    Man(generate::ManArgs),
    /// Run the echo server, the baseline of `tally bench`.
    #[command(hide = true)]
    Echo(bench::EchoArgs),
}

// ===== impl Command =====

impl Command {
    /// Checks the names of the environment variables. Prints a warning about the ignored ones, except for a service, which
    /// writes the warning to its log.
    fn check_variables(&self) -> Result<IgnoredVariables, ConfigError> {
        let uses_variables = !matches!(self, Command::Completions(_) | Command::Man(_) | Command::Echo(_));
        if !uses_variables {
            return Ok(IgnoredVariables::default());
        }
        // A name that is not UTF-8 is not the name of any used variable, so it is treated as an unknown name.
        let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
        let ignored = check_variables(names, &option_variables::names(&Cli::command()))?;
        let has_log = matches!(self, Command::Serve(args) if args.starts_service());
        if let Some(warning) = ignored.warning()
            && !has_log
        {
            errln!("tally: warning: {warning}");
        }
        Ok(ignored)
    }
}

/// Returns the definition of the command line, for parsing, help texts, completions and manual pages.
#[must_use]
pub fn command() -> clap::Command {
    with_exit_codes(without_env_values(without_help_as_error(Cli::command())))
}

/// Makes a missing subcommand an error of one line, like every other error. Clap would print the whole help text, but only if no
/// variable sets an option.
fn without_help_as_error(command: clap::Command) -> clap::Command {
    command
        .arg_required_else_help(false)
        .mut_subcommands(without_help_as_error)
}

/// Adds a reference to the exit codes to the help text of every subcommand. The help text of tally itself lists the codes.
fn with_exit_codes(command: clap::Command) -> clap::Command {
    command.mut_subcommands(|subcommand| {
        with_exit_codes(subcommand).after_help("Exit codes: see `tally --help`.")
    })
}

/// Removes the values of environment variables from the help texts, so that the texts are the same in every environment.
fn without_env_values(command: clap::Command) -> clap::Command {
    command
        .mut_args(|argument| argument.hide_env_values(true))
        .mut_subcommands(without_env_values)
}

/// Removes the environment variable of every option in `given`, and of every option that conflicts with one of them, because
/// an option overrides a variable. Clap reports the conflict of a variable with an option as an error, and it also checks
/// the variable of an option of `circuit` if the option follows `circuit show`.
fn without_overruled_variables(command: clap::Command, given: &[String]) -> clap::Command {
    let is_given = |argument: &clap::Arg| {
        argument
            .get_long()
            .is_some_and(|name| given.iter().any(|given| given == name))
    };
    let mut overruled = Vec::new();
    for argument in command.get_arguments() {
        for other in command.get_arg_conflicts_with(argument) {
            for (one, another) in [(argument, other), (other, argument)] {
                if is_given(one) && !is_given(another) {
                    overruled.push(another.get_id().clone());
                }
            }
        }
    }
    command
        .mut_args(|argument| {
            if is_given(&argument) || overruled.contains(argument.get_id()) {
                argument.env(Resettable::Reset)
            } else {
                argument
            }
        })
        .mut_subcommands(|subcommand| without_overruled_variables(subcommand, given))
}

/// Returns the name of the program and the names of the subcommands that were parsed.
fn path(matches: &ArgMatches) -> Vec<OsString> {
    let (mut path, mut matches) = (vec![OsString::from("tally")], Some(matches));
    while let Some((name, inner)) = matches.and_then(ArgMatches::subcommand) {
        path.push(name.into());
        matches = Some(inner);
    }
    path
}

// ===== impl Cli =====

impl Cli {
    /// Parses the arguments of the process.
    ///
    /// # Errors
    /// [`CommandLineError`].
    pub fn from_command_line() -> Result<Self, CommandLineError> {
        let words: Vec<OsString> = std::env::args_os().collect();
        let given = options_in(words.iter().skip(1).cloned());
        let mut command = without_overruled_variables(command(), &given);
        let definition = command.clone();
        let wrong = |error| option_variables::explain(error, &definition, &words);
        let matches = command.try_get_matches_from_mut(&words).map_err(wrong)?;
        option_variables::check_values(&self::command(), &path(&matches))?;
        Cli::from_arg_matches(&matches).map_err(|error| wrong(error.format(&mut command)))
    }

    /// Runs the subcommand.
    #[must_use]
    pub fn run(self) -> ExitCode {
        if let Err(error) = ignore_file_size_signal() {
            return fail(exit::SOFTWARE, &error);
        }
        let ignored = match self.command.check_variables() {
            Ok(ignored) => ignored,
            Err(error) => return fail(exit::CONFIG, &error),
        };
        let is_service = matches!(&self.command, Command::Serve(args) if args.starts_service());
        let code = match self.command {
            Command::Serve(args) => serve::run(&args, &ignored),
            Command::Config(args) => config::run(&args),
            Command::Health(args) => health::run(&args),
            Command::Import(args) => import::run(&args),
            Command::Export(args) => export::run(&args),
            Command::Account(args) => account::run(&args),
            Command::Transaction(args) => transaction::run(&args),
            Command::Statement(args) => statement::run(&args),
            Command::Head(args) => head::run(&args),
            Command::Topology(args) => topology::run(&args),
            Command::Stats(args) => stats::run(&args),
            Command::Top(args) => top::run(&args),
            Command::Circuit(args) => circuit::run(&args),
            Command::Clock(args) => clock::run(&args),
            Command::Replica(args) => replica::run(&args),
            Command::Token(args) => token::run(&args),
            Command::Verify(args) => verify::run(&args),
            Command::Bench(args) => bench::run(&args),
            Command::Completions(args) => generate::completions(&args, command()),
            Command::Man(args) => generate::man(&args, command()),
            Command::Echo(args) => bench::run_echo(&args),
        };
        // The service does not need standard output, so it does not report a failed write to standard output.
        if is_service {
            return code;
        }
        match stdout_failure() {
            // A reader such as `head` has closed the pipe, because it needs no more output. This is not an error.
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => code,
            Some(error) if code == ExitCode::SUCCESS => exit::unwritten(error),
            Some(_) | None => code,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_overrides_the_variable_of_a_conflicting_option() {
        let variable = |words: &[&str], subcommand: &str, option: &str| {
            let given = options_in(words.iter().map(OsString::from));
            let command = without_overruled_variables(command(), &given);
            let subcommand = command.find_subcommand(subcommand).unwrap();
            let mut options = subcommand.get_arguments();
            let option = options.find(|argument| argument.get_id() == option).unwrap();
            option.get_env().map(|name| name.to_str().unwrap().to_owned())
        };
        let token = Some("TALLY_TOKEN".to_owned());
        assert_eq!(variable(&["stats", "--token-file", "f"], "stats", "token"), None);
        assert_eq!(variable(&["stats", "--token-file=f"], "stats", "token"), None);
        assert_eq!(variable(&["stats"], "stats", "token"), token);
        assert_eq!(
            variable(&["import", "--", "--token-file"], "import", "token"),
            token
        );
        assert_eq!(variable(&["stats", "--token", "t"], "stats", "token_file"), None);
        assert_eq!(
            variable(&["topology", "--config", "f"], "topology", "endpoint"),
            None
        );
        assert_eq!(variable(&["bench"], "bench", "endpoint"), None);
    }
}
