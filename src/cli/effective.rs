//! The settings that are in force: how they are printed, and which environment variables belong to them.

use std::{convert::Infallible, process::ExitCode};

use super::output::print_or_fail;
use crate::{config::Setting, terminal::table};

/// The environment variables that the chart sets. The topology reads the resources of the pod from them.
const CHART_VARIABLES: [&str; 6] = [
    "TALLY_NODE_NAME",
    "TALLY_POD_CPU_LIMIT_MILLI",
    "TALLY_POD_CPU_REQUEST_MILLI",
    "TALLY_POD_NAME",
    "TALLY_POD_NAMESPACE",
    "TALLY_POD_QOS_CLASS",
];

/// Returns the names of the environment variables of all options of `command` and its subcommands, and of the chart.
pub(super) fn variables(command: &clap::Command) -> Vec<String> {
    fn add(command: &clap::Command, found: &mut Vec<String>) {
        let names = command.get_arguments().filter_map(clap::Arg::get_env);
        found.extend(names.map(|name| name.to_string_lossy().into_owned()));
        command.get_subcommands().for_each(|command| add(command, found));
    }
    let mut found = CHART_VARIABLES.map(str::to_owned).to_vec();
    add(command, &mut found);
    found.sort();
    found.dedup();
    found
}

/// Prints a table of settings on standard output. Returns the exit code.
pub(super) fn print(settings: &[Setting]) -> ExitCode {
    let mut rows = table(&["setting", "value", "origin"]);
    for Setting { key, value, origin } in settings {
        let value = value.as_deref().unwrap_or("not set");
        rows.add_row([key.as_str(), value, &origin.to_string()]);
    }
    print_or_fail(Ok::<_, Infallible>(rows.to_string()))
}
