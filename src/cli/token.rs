//! `tally token`: a new bearer token, and the line for the file of tokens.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::exit::{self, fail};
use crate::{
    security::{Role, hash_hex},
    store::journal::{Disk, RealDisk},
};

/// Options of `tally token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// What it allows; each role includes those before it.
    #[arg(long, value_enum)]
    role: RoleName,
    /// Whose it is, for audit events: up to 64 bytes without blanks.
    #[arg(long, value_parser = name)]
    name: String,
}

/// The roles by their names.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    /// Read accounts, transactions, statistics.
    Read,
    /// Process transactions, create accounts.
    Write,
    /// Change circuits and log levels.
    Admin,
}

/// Random bytes of a token: as many as can't be guessed, ever.
const TOKEN_BYTES: usize = 32;

fn name(text: &str) -> Result<String, String> {
    let is_fit = !text.is_empty() && text.len() <= 64 && !text.contains(char::is_whitespace);
    if is_fit {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 64 bytes without blanks".to_owned())
    }
}

/// The token on standard output, for a secret; the line for the file on standard error, for the eye or a pipe of its own.
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
