//! Adds an entry to a tokens file, and removes it. A crash or an error leaves the old file or the new one, never a part.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use rustix::io::Errno;
use thiserror::Error;

use super::files::{SECRET_MODE, directory_of};
use crate::{
    cli::exit,
    security::{TokenFileError, TokenTable},
    terminal::file_advice,
};

/// Why an entry was not added or not removed. The file is unchanged.
#[derive(Debug, Error)]
pub(super) enum AppendError {
    /// The file can't be read or written.
    #[error("can't change the tokens file {}: {source}{}", path.display(), file_advice(path, source))]
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
    /// Another file can't take the place of the tokens file.
    #[error(
        "the tokens file {} is a mount point, so a new file can't replace it; mount its directory instead of the file, or leave out \
         --tokens-file, write the token with --out, and add the printed entry to the file yourself",
        path.display()
    )]
    MountPoint {
        /// The file.
        path: PathBuf,
    },
    /// The symbolic links from the path lead nowhere.
    #[error("can't change the tokens file {}: its symbolic links form a circle or are more than {LINKS_MAX}; correct the links, or name the file itself", path.display())]
    Links {
        /// The file.
        path: PathBuf,
    },
    /// The file has no token of this name that a second one could replace.
    #[error(
        "{} has no token of {name:?}, so --rotate can't add a second one: {}; correct --name, or leave out --rotate to add a first token",
        path.display(), known(names)
    )]
    NameUnknown {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
        /// The names in the file.
        names: Vec<String>,
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
/// Maximum number of symbolic links from the path to the file, the limit of Linux.
const LINKS_MAX: usize = 40;
/// Maximum number of names that an error lists.
const NAMES_SHOWN_MAX: usize = 8;

/// A lock on a tokens file. Dropping this value removes the lock file and unlocks it.
struct Lock {
    _file: File,
    path: PathBuf,
}

/// The access of other users than the owner to a tokens file. Each variant causes a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exposure {
    /// The group or everybody may write the file, and so add tokens.
    Writable,
    /// Everybody may read the file.
    Readable,
}

// ===== impl Exposure =====

impl Exposure {
    /// Returns the access of other users to a tokens file with these bits of its mode; `None` if only the owner may use the file, and its
    /// group may at most read it.
    const fn of(mode: u32) -> Option<Self> {
        if mode & 0o022 != 0 {
            Some(Exposure::Writable)
        } else if mode & 0o004 != 0 {
            Some(Exposure::Readable)
        } else {
            None
        }
    }

    /// Returns the warning for the tokens file `path`.
    pub(super) fn warning(self, path: &Path) -> String {
        let path = path.display();
        match self {
            Exposure::Writable => format!(
                "warning: other users of this machine may write {path}, and so add tokens of their own; make it private to the \
                 service: chmod 600 {path}, or 640 if the service reads it as its group"
            ),
            Exposure::Readable => format!(
                "warning: every user of this machine may read the names, roles and hashes in {path}; make it private to the service: \
                 chmod 600 {path}, or 640 if the service reads it as its group"
            ),
        }
    }
}

// ===== impl AppendError =====

impl AppendError {
    /// Returns the exit code.
    pub(super) const fn exit_code(&self) -> u8 {
        match self {
            AppendError::Io { .. } | AppendError::MountPoint { .. } | AppendError::Links { .. } => exit::IO,
            AppendError::Malformed { .. } => exit::CONFIG,
            AppendError::NameTaken { .. } | AppendError::NameUnknown { .. } => exit::USAGE,
        }
    }
}

/// Adds `entry`, the line of a token of `name`, to the tokens file `path`. Replaces the file by a new one that has the same owner and
/// mode, or the mode 0600 if the file did not exist. An existing mode stays, because the service may run as another user than the
/// owner, and would lose its access. Returns who else may use the file. Holds a lock on the directory, so that two calls at the same time both add their
/// entries. With `rotate`, the file must have a token of the same name, otherwise it must have none.
///
/// # Errors
/// [`AppendError`].
pub(super) fn append(
    path: &Path,
    entry: &str,
    name: &str,
    rotate: bool,
) -> Result<Option<Exposure>, AppendError> {
    change(path, |text| {
        check(path, text, |table| {
            let (path, new) = (path.to_owned(), name.to_owned());
            let is_known = table.principals().any(|principal| &*principal.name == name);
            match (rotate, is_known) {
                (false, true) => Err(AppendError::NameTaken { path, name: new }),
                (true, false) => {
                    let mut names: Vec<_> = table.principals().map(|other| other.name.to_string()).collect();
                    names.sort_unstable();
                    names.dedup();
                    Err(AppendError::NameUnknown {
                        path,
                        name: new,
                        names,
                    })
                }
                (false, false) | (true, true) => Ok(()),
            }
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
    let changed = change(path, |text| {
        let others = text.split_inclusive('\n').filter(|line| line.trim_end() != entry);
        Ok(others.collect())
    });
    changed.map(|_exposure| ())
}

/// Replaces the content of a tokens file by the result of `changed`, and holds a lock on a separate file meanwhile. A lock on the
/// directory does not work, because the directory may be a data directory, which a running service locks. Returns the access of other users
/// to the file.
fn change(
    path: &Path,
    changed: impl FnOnce(&str) -> Result<String, AppendError>,
) -> Result<Option<Exposure>, AppendError> {
    let failed = |source| AppendError::Io {
        path: path.to_owned(),
        source,
    };
    let target = target(path)?;
    let directory = directory_of(&target).map_err(failed)?;
    let _locked = lock(&target).map_err(failed)?;
    let (text, metadata) = read(&target).map_err(failed)?;
    let text = changed(&text)?;
    replace(&target, &text, metadata.as_ref()).map_err(|error| not_replaced(path, error))?;
    directory.sync_all().map_err(failed)?;
    Ok(metadata.and_then(|metadata| Exposure::of(metadata.mode())))
}

/// Returns the file to replace. If the path is a symbolic link, this is the file to which the link leads, even if that file
/// does not exist yet: the link itself must stay.
fn target(path: &Path) -> Result<PathBuf, AppendError> {
    let failed = |source| AppendError::Io {
        path: path.to_owned(),
        source,
    };
    let mut target = path.to_owned();
    for _ in 0..=LINKS_MAX {
        match fs::canonicalize(&target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => break,
            found => return found.map_err(failed),
        }
        match fs::read_link(&target) {
            // A relative link starts at the directory of the link.
            Ok(next) => target = target.with_file_name("").join(next),
            // Neither a file nor a link.
            Err(_) => return Ok(target),
        }
    }
    Err(AppendError::Links {
        path: path.to_owned(),
    })
}

/// Returns the error of a failed replacement. The system does not rename a file onto a mount point, such as a file that was
/// mounted into a container by itself.
fn not_replaced(path: &Path, source: io::Error) -> AppendError {
    let path = path.to_owned();
    if source.kind() == io::ErrorKind::ResourceBusy {
        AppendError::MountPoint { path }
    } else {
        AppendError::Io { path, source }
    }
}

/// Returns the names as text.
fn known(names: &[String]) -> String {
    let shown = names
        .iter()
        .take(NAMES_SHOWN_MAX)
        .map(|name| format!("{name:?}"))
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(NAMES_SHOWN_MAX) {
        _ if names.is_empty() => "it has no tokens".to_owned(),
        0 => format!("it has tokens of {shown}"),
        more => format!("it has tokens of {shown} and {more} more"),
    }
}

/// Locks the file `.NAME.lock` beside the tokens file.
///
/// The holder removes the lock file before it unlocks it. So a process that has waited for the lock may hold a lock on a removed
/// file, while a third process locks a new file of this name. Therefore a process compares the locked file with the file of this name, and
/// begins again if they differ. A process that is killed leaves the file behind, which does no harm.
fn lock(path: &Path) -> io::Result<Lock> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".lock");
    let path = path.with_file_name(name);
    // Each repetition means that another process has finished its change.
    loop {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(SECRET_MODE)
            .open(&path)?;
        file.lock()?;
        let locked = file.metadata()?;
        match fs::metadata(&path) {
            Ok(named) if (named.dev(), named.ino()) == (locked.dev(), locked.ino()) => {
                return Ok(Lock { _file: file, path });
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
}

// ===== impl Lock =====

impl Drop for Lock {
    fn drop(&mut self) {
        // The lock is still held: the file is closed after this function. If the removal fails, the file does no harm.
        let _removed = fs::remove_file(&self.path);
    }
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
    // This process holds the lock, so an existing file of this name was left behind by a process that was killed.
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
        assert_eq!(names(dir.path()).len(), 2, "an unfinished file or a lock is left");
    }

    #[test]
    fn a_file_that_others_may_use_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens");
        assert_eq!(append(&file, &entry("a", "1"), "a", false).unwrap(), None);
        for (number, (mode, exposure)) in [
            (0o600, None),
            (0o640, None),
            (0o644, Some(Exposure::Readable)),
            (0o660, Some(Exposure::Writable)),
            (0o666, Some(Exposure::Writable)),
        ]
        .into_iter()
        .enumerate()
        {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let name = format!("b{number}");
            let found = append(&file, &entry(&name, &name), &name, false).unwrap();
            assert_eq!(found, exposure, "{mode:o}");
            assert_eq!(self::mode(&file), mode);
        }
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
                "line 2: must be: role name sha256 [prefix=TEXT]",
            ),
        ] {
            fs::write(&file, text).unwrap();
            let error = append(&file, &new, name, false).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        append(&file, &entry("a", "2"), "a", true).unwrap();
        let error = append(&file, &entry("b", "2"), "b", true)
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with(
                "has no token of \"b\", so --rotate can't add a second one: it has tokens of \"a\"; correct --name, or leave out \
                 --rotate to add a first token"
            ),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 2);
        remove(&file, &entry("a", "2")).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), good);
        assert!(append(dir.path(), &entry("b", "1"), "b", false).is_err());
    }

    #[test]
    fn a_link_to_a_missing_file_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let link = |name: &str, to: &str| {
            let link = dir.path().join(name);
            std::os::unix::fs::symlink(to, &link).unwrap();
            link
        };
        fs::create_dir(dir.path().join("real")).unwrap();
        link("second", "real/tokens");
        let first = link("first", "second");
        append(&first, &entry("a", "1"), "a", false).unwrap();
        assert!(fs::symlink_metadata(&first).unwrap().is_symlink());
        assert!(
            fs::symlink_metadata(dir.path().join("second"))
                .unwrap()
                .is_symlink()
        );
        let text = fs::read_to_string(dir.path().join("real/tokens")).unwrap();
        assert_eq!(text, format!("{}\n", entry("a", "1")));

        link("one", "other");
        let circle = link("other", "one");
        let error = append(&circle, &entry("a", "1"), "a", false).unwrap_err();
        assert!(matches!(error, AppendError::Links { .. }), "{error}");
    }

    #[test]
    fn a_file_that_is_a_mount_point_is_described() {
        let file = Path::new("tokens");
        let busy = not_replaced(file, io::ErrorKind::ResourceBusy.into());
        assert!(
            busy.to_string().starts_with(
                "the tokens file tokens is a mount point, so a new file can't replace it; mount its directory"
            ),
            "{busy}"
        );
        let full = not_replaced(file, io::ErrorKind::StorageFull.into());
        assert!(matches!(full, AppendError::Io { .. }));
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
        assert_eq!(names(dir.path()), ["tokens"], "a lock is left");
    }
}
