//! Adds an entry to a tokens file, and removes it. A crash or an error leaves the old file or the new one, never a part.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::files::{SECRET_MODE, directory_of};
use crate::{
    cli::exit,
    security::{TokenFileError, TokenTable},
};

/// Why an entry was not added or not removed. The file is unchanged.
#[derive(Debug, Error)]
pub(super) enum AppendError {
    /// The file can't be read or written.
    #[error("can't change the tokens file {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is malformed, or would be malformed with the new entry.
    #[error("{}: {source}; the file was not changed", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The error in the file.
        source: TokenFileError,
    },
    /// The file has a token of this name.
    #[error(
        "{} already has a token of {name:?}; choose another --name, or add a second token of this name with --rotate",
        path.display()
    )]
    NameTaken {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
}

/// Maximum length of a tokens file, in bytes. A file with the maximum number of tokens is much shorter.
const FILE_BYTES_MAX: u64 = 1 << 20;

// ===== impl AppendError =====

impl AppendError {
    /// Returns the exit code.
    pub(super) const fn exit_code(&self) -> u8 {
        match self {
            AppendError::Io { .. } => exit::IO,
            AppendError::Malformed { .. } => exit::CONFIG,
            AppendError::NameTaken { .. } => exit::USAGE,
        }
    }
}

/// Adds `entry`, the line of a token of `name`, to the tokens file `path`. Replaces the file by a new one that has the same owner and
/// mode, or the mode 0600 if the file did not exist. Holds a lock on the directory, so that two calls at the same time both add their
/// entries. `rotate` allows a second token of the same name.
///
/// # Errors
/// [`AppendError`].
pub(super) fn append(path: &Path, entry: &str, name: &str, rotate: bool) -> Result<(), AppendError> {
    change(path, |text| {
        check(path, text, |table| {
            if !rotate && table.principals().any(|principal| &*principal.name == name) {
                return Err(AppendError::NameTaken {
                    path: path.to_owned(),
                    name: name.to_owned(),
                });
            }
            Ok(())
        })?;
        let separator = if text.is_empty() || text.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        let added = format!("{text}{separator}{entry}\n");
        check(path, &added, |_| Ok(()))?;
        Ok(added)
    })
}

/// Removes the line `entry` from the tokens file `path`, as [`append`] adds it. The other lines stay.
///
/// # Errors
/// [`AppendError::Io`].
pub(super) fn remove(path: &Path, entry: &str) -> Result<(), AppendError> {
    change(path, |text| {
        let others = text.split_inclusive('\n').filter(|line| line.trim_end() != entry);
        Ok(others.collect())
    })
}

/// Replaces the content of a tokens file by the result of `changed`. Holds a lock on a file beside it meanwhile. A lock on the
/// directory would not do: a service locks its data directory for as long as it runs.
fn change(path: &Path, changed: impl FnOnce(&str) -> Result<String, AppendError>) -> Result<(), AppendError> {
    let failed = |source| AppendError::Io {
        path: path.to_owned(),
        source,
    };
    // If the path is a symbolic link, replace the file and not the link.
    let target = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        found => found.map_err(failed)?,
    };
    let directory = directory_of(&target).map_err(failed)?;
    let _locked = lock(&target).map_err(failed)?;
    let (text, metadata) = read(&target).map_err(failed)?;
    let text = changed(&text)?;
    replace(&target, &text, metadata.as_ref()).map_err(failed)?;
    directory.sync_all().map_err(failed)
}

/// Locks the file `.NAME.lock` beside the tokens file. The file stays, because its removal would let two processes hold a
/// lock. The lock ends when the returned file is closed.
fn lock(path: &Path) -> io::Result<File> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(SECRET_MODE)
        .open(path.with_file_name(name))?;
    file.lock()?;
    Ok(file)
}

/// Parses a tokens file and checks the table.
fn check(
    path: &Path,
    text: &str,
    check: impl FnOnce(&TokenTable) -> Result<(), AppendError>,
) -> Result<(), AppendError> {
    match TokenTable::parse(text) {
        Ok(table) => check(&table),
        Err(source) => Err(AppendError::Malformed {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Reads a file and its metadata. A missing file is empty.
fn read(path: &Path) -> io::Result<(String, Option<Metadata>)> {
    // Check before the file is opened: opening a named pipe would wait for its writer.
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((String::new(), None)),
        metadata => metadata?,
    };
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "longer than 1 MiB"));
    }
    let file = File::open(path)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok((text, Some(metadata)))
}

/// Replaces a file by a new one with `text`. The new file gets the owner and the mode in `metadata`.
fn replace(path: &Path, text: &str, metadata: Option<&Metadata>) -> io::Result<()> {
    let mut unfinished = OsString::from(path);
    unfinished.push(".tmp");
    let unfinished = PathBuf::from(unfinished);
    // The lock is held, so a file of this name is left from a process that was killed.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let replaced = write(&unfinished, text, metadata).and_then(|()| fs::rename(&unfinished, path));
    if replaced.is_err() {
        let _removed = fs::remove_file(&unfinished);
    }
    replaced
}

fn write(path: &Path, text: &str, metadata: Option<&Metadata>) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(SECRET_MODE)
        .open(path)?;
    if let Some(metadata) = metadata {
        let own = file.metadata()?;
        // A service that runs as another user must still be able to read the file.
        if (own.uid(), own.gid()) != (metadata.uid(), metadata.gid()) {
            fchown(&file, Some(metadata.uid()), Some(metadata.gid()))?;
        }
        file.set_permissions(fs::Permissions::from_mode(metadata.mode() & 0o777))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::hash_hex;

    fn entry(name: &str, token: &str) -> String {
        format!("write {name} {}", hash_hex(token.as_bytes()))
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn entries_are_added_to_a_file_that_keeps_its_content_and_mode() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens");
        append(&file, &entry("a", "1"), "a", false).unwrap();
        assert_eq!(mode(&file), 0o600);
        // A comment, and a last line without a line feed.
        fs::write(&file, format!("# ours\n{}", entry("a", "1"))).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        append(&link, &entry("b", "2"), "b", false).unwrap();
        let expected = format!("# ours\n{}\n{}\n", entry("a", "1"), entry("b", "2"));
        assert_eq!(fs::read_to_string(&file).unwrap(), expected);
        assert_eq!(mode(&file), 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        // Two files and the lock file.
        assert_eq!(names(dir.path()).len(), 3, "an unfinished file is left");
    }

    #[test]
    fn a_malformed_file_and_a_duplicate_are_errors_that_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens");
        let good = format!("{}\n", entry("a", "1"));
        for (text, new, name, expected) in [
            (
                "error: invalid value\n",
                entry("b", "2"),
                "b",
                "line 1: role \"error:\": must be read, write or admin; the file was not changed",
            ),
            (&good, entry("a", "2"), "a", "already has a token of \"a\""),
            (
                &good,
                entry("b", "1"),
                "b",
                "line 2: sha256: is also in an earlier line",
            ),
            (
                &good,
                "write b".to_owned(),
                "b",
                "line 2: must be: role name sha256",
            ),
        ] {
            fs::write(&file, text).unwrap();
            let error = append(&file, &new, name, false).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        append(&file, &entry("a", "2"), "a", true).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 2);
        remove(&file, &entry("a", "2")).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), good);
        assert!(append(dir.path(), &entry("b", "1"), "b", false).is_err());
    }

    #[test]
    fn entries_that_are_added_at_the_same_time_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens");
        std::thread::scope(|scope| {
            for number in 0..16 {
                let (file, name) = (&file, format!("name{number}"));
                scope.spawn(move || append(file, &entry(&name, &name), &name, false).unwrap());
            }
        });
        let table = TokenTable::parse(&fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(table.len(), 16);
    }
}
