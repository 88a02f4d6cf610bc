//! `tally token`: creates a bearer token and its entry for the tokens file.

mod files;
mod tokens_file;

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use tally_journal::{Disk, DiskError, RealDisk};
use thiserror::Error;

use self::{
    files::write_new,
    tokens_file::{AppendError, append},
};
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
    /// Add the entry of the token to this tokens file. A missing file is created, with mode 0600. A service that runs reads the file
    /// again within 5 s. Without this option, the entry is printed on standard error.
    #[arg(long, value_name = "FILE")]
    tokens_file: Option<PathBuf>,
    /// Add a second token of the same name, so that clients can change to it before the entry of the first one is removed.
    #[arg(long, requires = "tokens_file")]
    rotate: bool,
    /// Write the token to this file, which must not exist, with mode 0600. [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
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

/// Why no token was created.
#[derive(Debug, Error)]
enum TokenError {
    /// The system has no random numbers.
    #[error(transparent)]
    Random(#[from] DiskError),
    /// The file of the token can't be created.
    #[error("can't write the token to {}", path.display())]
    Out {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The entry can't be added to the tokens file.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The token can't be printed.
    #[error("can't print the token; if --tokens-file was set, remove the entry of {name:?} from that file")]
    Print {
        /// The owner.
        name: String,
        /// The cause.
        source: io::Error,
    },
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

pub(super) fn run(args: &TokenArgs) -> ExitCode {
    match create(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = match &error {
                TokenError::Random(_) => exit::SOFTWARE,
                TokenError::Append(error) => error.exit_code(),
                TokenError::Out { .. } | TokenError::Print { .. } => exit::IO,
            };
            fail(code, &error)
        }
    }
}

/// Creates the token. Writes the file of the token before the entry, so that an error does not leave an entry without its token.
fn create(args: &TokenArgs) -> Result<(), TokenError> {
    let mut bytes = [0; TOKEN_BYTES];
    RealDisk.fill_random(&mut bytes)?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let role = match args.role {
        RoleName::Read => Role::Read,
        RoleName::Write => Role::Write,
        RoleName::Admin => Role::Admin,
    };
    let entry = format!("{} {} {}", role.as_str(), args.name, hash_hex(token.as_bytes()));
    if let Some(path) = &args.out {
        write_new(path, &token).map_err(|source| TokenError::Out {
            path: path.clone(),
            source,
        })?;
    }
    match &args.tokens_file {
        Some(file) => {
            let appended = append(file, &entry, &args.name, args.rotate);
            if let (Err(_), Some(path)) = (&appended, &args.out) {
                // No tokens file has the entry, so the service does not accept this token. If the removal fails, the
                // remaining file does no harm.
                let _removed = fs::remove_file(path);
            }
            appended?;
        }
        None => crate::terminal::errln!("{entry}"),
    }
    if args.out.is_none() {
        let mut out = io::stdout().lock();
        let printed = writeln!(out, "{token}").and_then(|()| out.flush());
        printed.map_err(|source| TokenError::Print {
            name: args.name.clone(),
            source,
        })?;
    }
    Ok(())
}
