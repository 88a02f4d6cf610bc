//! `tally config`: shows the settings that `tally serve` would use with the same options, and where each value comes from.

use std::process::ExitCode;

use clap::Args;

use super::{
    effective,
    exit::{self, fail},
    output::{OutputFormat, print_or_fail},
    settings_args::SettingsArgs,
};

/// Options of `tally config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// How to print the settings.
    #[arg(short, long, env = "TALLY_OUTPUT", value_enum, default_value_t)]
    output: OutputFormat,
}

pub(super) fn run(args: &ConfigArgs) -> ExitCode {
    let loaded = match args.settings.load() {
        Ok(loaded) => loaded,
        Err(error) => return fail(exit::CONFIG, &error),
    };
    let settings = loaded.settings();
    let code = if args.output == OutputFormat::Json {
        print_or_fail(serde_json::to_string_pretty(&settings))
    } else {
        effective::print(&settings)
    };
    // The settings are shown even if one of them is out of bounds, so that the operator sees them all.
    match loaded.check() {
        Ok(_) => code,
        Err(error) => fail(exit::CONFIG, &error),
    }
}
