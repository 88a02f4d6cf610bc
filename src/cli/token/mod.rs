//! `tally token`: creates a bearer token and its entry for the tokens file.

mod files;
mod name;
mod tokens_file;

use std::{
    fs::{self, File, Metadata},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use tally_journal::{Disk, DiskError, RealDisk};
use thiserror::Error;

use self::{
    files::write_new,
    name::name,
    tokens_file::{AppendError, append, remove},
};
use super::exit::{self, fail};
use crate::{
    security::{Role, Scope, hash_hex},
    terminal::{errln, file_advice},
};

/// Options of `tally token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The role of the token. Each role includes the rights of the roles before it.
    #[arg(long, value_enum)]
    role: RoleName,
    /// The owner's name for audit events, 1 to 64 bytes without blanks, control characters and invisible characters.
    #[arg(long, value_parser = name)]
    name: String,
    /// Let the token see and touch only accounts and transactions whose ids begin with this text. It ends with a separator, such as in
    /// acme/, so that it does not include acme2/. Such a token can't call EngineService.
    #[arg(long, value_name = "TEXT", value_parser = prefix)]
    prefix: Option<String>,
    /// Add the entry of the token to this tokens file. A missing file is created, with mode 0600; an existing file keeps its owner
    /// and mode. A service that runs reads the file again within 5 s. Without this option, the entry is printed on standard error.
    #[arg(long, value_name = "FILE")]
    tokens_file: Option<PathBuf>,
    /// Add a second token of a name that the tokens file has, so that clients can change to it before the entry of the first one
    /// is removed.
    #[arg(long, requires = "tokens_file")]
    rotate: bool,
    /// Write the token to this file, which must not exist, with mode 0600. - is standard output. [default: -]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Checks the prefix of a token.
///
/// # Errors
/// What is wrong with it.
fn prefix(text: &str) -> Result<String, String> {
    match Scope::with_prefix(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error),
    }
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
    /// The file of the token exists.
    #[error("{} exists, and --out does not replace a file; choose another name", path.display())]
    OutExists {
        /// The file.
        path: PathBuf,
    },
    /// The token and its entry would be in one file.
    #[error(
        "--out and --tokens-file name the same file {}: the tokens file is for the service and has no secrets; write the token to another \
         file",
        path.display()
    )]
    SameFile {
        /// The file.
        path: PathBuf,
    },
    /// The tokens file can't be standard output.
    #[error(
        "--tokens-file must be a file, not standard output (-); without this option, the entry is printed on standard error"
    )]
    TokensFileStdout,
    /// The file of the token can't be created.
    #[error("can't write the token to {}: {source}{}", path.display(), file_advice(path, source))]
    Out {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The entry can't be added to the tokens file.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// Standard output is closed or the null device, which discards the token.
    #[error(
        "standard output is closed or /dev/null, so the token would be lost, and no token was created; write the token to a file with \
         --out"
    )]
    Discarded,
    /// Standard error is closed or the null device, which discards the entry.
    #[error(
        "standard error is closed or /dev/null, so the entry for the tokens file would be lost, and no token was created; add the \
         entry to a tokens file with --tokens-file"
    )]
    EntryDiscarded,
    /// The entry can't be printed.
    #[error(
        "can't print the entry for the tokens file, so no service accepts the token; add the entry of a new token to a tokens file \
         with --tokens-file"
    )]
    Entry(#[source] io::Error),
    /// The token can't be printed.
    #[error("can't print the token, so no token was created")]
    Print(#[source] io::Error),
    /// The token can't be printed, and its entry can't be removed.
    #[error("can't print the token ({print}), so remove the last entry of {name:?} from the tokens file")]
    Remove {
        /// The owner.
        name: String,
        /// Why the token can't be printed.
        print: io::Error,
        /// Why the entry can't be removed.
        source: AppendError,
    },
}

/// Number of random bytes in a token. 256 bits can't be guessed.
const TOKEN_BYTES: usize = 32;

/// The name of standard output on the command line.
const STDOUT: &str = "-";

impl TokenArgs {
    /// Returns the file of the token; `None` for standard output.
    fn out(&self) -> Option<&Path> {
        self.out.as_deref().filter(|path| *path != Path::new(STDOUT))
    }
}

pub(super) fn run(args: &TokenArgs) -> ExitCode {
    match create(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = match &error {
                TokenError::Random(_) => exit::SOFTWARE,
                TokenError::Append(error) => error.exit_code(),
                TokenError::OutExists { .. } | TokenError::SameFile { .. } | TokenError::TokensFileStdout => {
                    exit::USAGE
                }
                TokenError::Out { .. }
                | TokenError::Discarded
                | TokenError::EntryDiscarded
                | TokenError::Entry(_)
                | TokenError::Print(_)
                | TokenError::Remove { .. } => exit::IO,
            };
            fail(code, &error)
        }
    }
}

/// Creates the token. An error does not leave an entry without its token: the service would accept a token that nobody has.
fn create(args: &TokenArgs) -> Result<(), TokenError> {
    check_files(args)?;
    let out = args.out();
    if out.is_none() && is_discarded(&io::stdout()) {
        return Err(TokenError::Discarded);
    }
    if args.tokens_file.is_none() && is_discarded(&io::stderr()) {
        return Err(TokenError::EntryDiscarded);
    }
    let mut bytes = [0; TOKEN_BYTES];
    RealDisk.fill_random(&mut bytes)?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let role = match args.role {
        RoleName::Read => Role::Read,
        RoleName::Write => Role::Write,
        RoleName::Admin => Role::Admin,
    };
    let mut entry = format!("{} {} {}", role.as_str(), args.name, hash_hex(token.as_bytes()));
    if let Some(prefix) = &args.prefix {
        entry.push_str(&format!(" prefix={prefix}"));
    }
    if let Some(path) = out {
        write_out(path, &token)?;
    }
    if let Some(file) = &args.tokens_file {
        let appended = append(file, &entry, &args.name, args.rotate);
        if let (Err(_), Some(path)) = (&appended, out) {
            // No tokens file has the entry, so the service does not accept this token. If the removal fails, the remaining
            // file does no harm.
            let _removed = fs::remove_file(path);
        }
        if let Some(exposure) = appended? {
            errln!("tally: {}", exposure.warning(file));
        }
    }
    if out.is_none() {
        print(&token).map_err(|error| not_printed(args, &entry, error))?;
    }
    if args.tokens_file.is_none()
        && let Err(error) = writeln!(io::stderr().lock(), "{entry}")
    {
        if let Some(path) = out {
            // If the removal fails, the remaining file does no harm, because no tokens file has the entry.
            let _removed = fs::remove_file(path);
        }
        return Err(TokenError::Entry(error));
    }
    Ok(())
}

/// Checks that the options name two different files, before one of them is written.
fn check_files(args: &TokenArgs) -> Result<(), TokenError> {
    let Some(tokens) = &args.tokens_file else {
        return Ok(());
    };
    if tokens == Path::new(STDOUT) {
        return Err(TokenError::TokensFileStdout);
    }
    match args.out() {
        Some(out) if is_same_file(tokens, out) => Err(TokenError::SameFile { path: out.to_owned() }),
        Some(_) | None => Ok(()),
    }
}

/// Returns whether two paths lead to the same file, which need not exist.
fn is_same_file(one: &Path, other: &Path) -> bool {
    if let (Ok(one), Ok(other)) = (fs::metadata(one), fs::metadata(other)) {
        return (one.dev(), one.ino()) == (other.dev(), other.ino());
    }
    let place = |path: &Path| {
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        let directory = fs::canonicalize(parent.unwrap_or(Path::new("."))).ok()?;
        Some(directory.join(path.file_name()?))
    };
    one == other || (place(one).is_some() && place(one) == place(other))
}

fn write_out(path: &Path, token: &str) -> Result<(), TokenError> {
    write_new(path, token).map_err(|source| {
        let path = path.to_owned();
        if source.kind() == io::ErrorKind::AlreadyExists {
            TokenError::OutExists { path }
        } else {
            TokenError::Out { path, source }
        }
    })
}

/// Returns whether standard output or standard error is the null device. If it was closed when the process started, the
/// standard library has opened the null device in its place, so a write succeeds.
fn is_discarded(stream: &impl AsFd) -> bool {
    let device = |metadata: Metadata| metadata.file_type().is_char_device().then(|| metadata.rdev());
    let stream = stream
        .as_fd()
        .try_clone_to_owned()
        .and_then(|descriptor| File::from(descriptor).metadata());
    match (stream, fs::metadata("/dev/null")) {
        (Ok(stream), Ok(null)) => device(stream).is_some_and(|stream| Some(stream) == device(null)),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

fn print(token: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{token}").and_then(|()| out.flush())
}

/// Removes the entry of a token that could not be printed. Returns the error to report. A closed pipe is an error, too, because the
/// token is lost.
fn not_printed(args: &TokenArgs, entry: &str, error: io::Error) -> TokenError {
    match args.tokens_file.as_deref().map(|file| remove(file, entry)) {
        None | Some(Ok(())) => TokenError::Print(error),
        Some(Err(source)) => TokenError::Remove {
            name: args.name.clone(),
            print: error,
            source,
        },
    }
}
