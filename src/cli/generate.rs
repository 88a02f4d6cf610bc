//! `tally completions` and `tally man`: shell completions and manual pages, generated from the definition of the command line.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Command};
use clap_complete::Shell;

use super::exit::{self, Failure, finish};
use crate::terminal::{outln, write_stdout};

/// Options of `tally completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell. For Bash, add `source <(tally completions bash)` to ~/.bashrc.
    shell: Shell,
}

/// Options of `tally man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write the pages tally.1, tally-serve.1, ... to this directory. A missing directory is created. [default: print tally.1]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Prints the completion script for `command`.
pub(super) fn completions(args: &CompletionsArgs, mut command: Command) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "tally", &mut script);
    write_stdout(format_args!("{}", String::from_utf8_lossy(&script)));
    ExitCode::SUCCESS
}

/// Prints or writes the manual pages of `command`.
pub(super) fn man(args: &ManArgs, command: Command) -> ExitCode {
    let written = match &args.out {
        None => page(command).map(|page| outln!("{}", page.trim_end())),
        Some(directory) => write_pages(directory, command),
    };
    finish(written.map_err(|error| {
        let to = args.out.as_deref().map_or("memory".into(), Path::to_string_lossy);
        Failure::with_message(
            exit::IO,
            format!("the manual pages can't be written to {to}: {error}"),
        )
    }))
}

/// Returns the page of `command`.
fn page(command: Command) -> io::Result<String> {
    let source = source(&command);
    let mut page = Vec::new();
    clap_mangen::Man::new(command.disable_help_subcommand(true))
        .source(source)
        .render(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// Returns the footer of the pages: the program and its version.
fn source(command: &Command) -> String {
    format!(
        "{} {}",
        command.get_name(),
        command.get_version().unwrap_or_default()
    )
}

/// Writes a page for `command` and for each subcommand.
fn write_pages(directory: &Path, command: Command) -> io::Result<()> {
    fn write(directory: &Path, source: &str, command: &Command) -> io::Result<()> {
        for subcommand in command
            .get_subcommands()
            .filter(|subcommand| !subcommand.is_hide_set())
        {
            write(directory, source, subcommand)?;
        }
        let page = clap_mangen::Man::new(command.clone()).source(source);
        page.generate_to(directory).map(|_path| ())
    }
    std::fs::create_dir_all(directory)?;
    let source = source(&command);
    let mut command = command.disable_help_subcommand(true);
    command.build();
    write(directory, &source, &command)
}
