//! `tally token`: creates a bearer token and its line for the tokens file.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use tally_journal::{Disk, RealDisk};

use super::exit::{self, fail};
use crate::security::{Role, TOKEN_NAME_BYTES_MAX, hash_hex};

/// Options of `tally token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The role of the token. Each role includes the rights of the roles before it.
    #[arg(long, value_enum)]
    role: RoleName,
    /// The owner's name for audit events, 1 to 64 bytes without blanks.
    #[arg(long, value_parser = name)]
    name: String,
}

/// The roles as command line values.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    /// Read accounts, transactions, statistics.
    Read,
    /// Process transactions, create accounts.
    Write,
    /// Change circuits and log levels.
    Admin,
}

/// Number of random bytes in a token. 256 bits can't be guessed.
const TOKEN_BYTES: usize = 32;

fn name(text: &str) -> Result<String, String> {
    let is_valid =
        !text.is_empty() && text.len() <= TOKEN_NAME_BYTES_MAX && !text.contains(char::is_whitespace);
    if is_valid {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "must be 1 to {TOKEN_NAME_BYTES_MAX} bytes without blanks"
        ))
    }
}

/// Prints the token on standard output, and its line for the tokens file on standard error, so that a shell can redirect each to
/// its own file.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command's result")]
pub(super) fn run(args: &TokenArgs) -> ExitCode {
    let mut bytes = [0; TOKEN_BYTES];
    if let Err(error) = RealDisk.fill_random(&mut bytes) {
        return fail(exit::SOFTWARE, &error);
    }
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let role = match args.role {
        RoleName::Read => Role::Read,
        RoleName::Write => Role::Write,
        RoleName::Admin => Role::Admin,
    };
    println!("{token}");
    eprintln!("{} {} {}", role.as_str(), args.name, hash_hex(token.as_bytes()));
    ExitCode::SUCCESS
}
