//! A value that is loaded from files, and that is loaded again when the files change.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{
    error::SecurityError,
    tokens::{TokenFileError, TokenTable},
};
use crate::settings::read_bounded;

/// The files of a value, and the rules for parsing and replacing the value.
pub(super) trait Source {
    /// The type of the value.
    type Value;

    /// The files, in the order in which [`Source::parse`] expects their contents.
    fn paths(&self) -> Vec<&Path>;

    /// Parses the contents of the files.
    ///
    /// # Errors
    /// If the contents can't be used.
    fn parse(&self, contents: &[Vec<u8>]) -> Result<Self::Value, SecurityError>;

    /// Decides whether the parsed value `new` may replace `old`, the value in force.
    ///
    /// # Errors
    /// The reason why `old` must stay in force.
    fn check_replacement(&self, _old: &Self::Value, _new: &Self::Value) -> Result<(), SecurityError> {
        Ok(())
    }
}

/// The value in force, and the files from which it was loaded.
#[derive(Debug)]
pub(super) struct Watched<S: Source> {
    source: S,
    /// The value in force.
    value: ArcSwap<S::Value>,
    last_read: Mutex<LastRead>,
    /// Whether the files could not be used at the last refresh.
    is_stale: AtomicBool,
}

/// The findings of the last refresh.
#[derive(Debug)]
struct LastRead {
    /// The hash of the contents in force.
    in_force: blake3::Hash,
    /// The hash of the contents that the last refresh found, if these contents are not in force. Another process may
    /// still be writing the files.
    unsettled: Option<blake3::Hash>,
    /// Number of consecutive refreshes, each of which found other contents than the previous refresh.
    unsettled_count: u32,
    /// The text of the error, if the files could not be used at the last refresh.
    failure: Option<String>,
}

/// Which contents of the files a refresh puts into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshKind {
    /// Only contents that two consecutive refreshes find. While another process writes a file, the file is empty or
    /// incomplete for a moment. An empty tokens file would make the service reject every caller.
    Settled,
    /// The contents that this refresh finds. The operator has sent SIGHUP, and so has declared that the files are
    /// complete.
    Immediate,
}

/// The result of a refresh.
#[derive(Debug)]
pub(super) enum Refreshed<M> {
    /// The files have the contents in force, or they can't be used for the same reason as at the last refresh.
    Unchanged,
    /// The files have changed since the last refresh. If the next refresh finds the same contents, it puts them into
    /// force.
    Unsettled,
    /// The files could not be used at the last refresh. Now they have the contents in force again.
    Recovered,
    /// New contents came into force.
    Renewed {
        /// The value that was in force before.
        old: Arc<M>,
        /// The value in force now.
        new: Arc<M>,
    },
}

/// Maximum number of consecutive refreshes that find different contents each time. After that, the next refresh puts the
/// contents into force, even if they are different again. Writing a file does not take that long, so a process must be
/// rewriting the file all the time. Without this bound, revoked tokens would stay valid while that process runs.
const UNSETTLED_COUNT_MAX: u32 = 3;

// ===== impl Watched =====

impl<S: Source> Watched<S> {
    /// Loads the value for the first time.
    ///
    /// # Errors
    /// [`SecurityError`] if the files can't be read or used.
    pub(super) fn load(source: S) -> Result<Self, SecurityError> {
        let contents = read(&source)?;
        let value = source.parse(&contents)?;
        Ok(Watched {
            value: ArcSwap::from_pointee(value),
            last_read: Mutex::new(LastRead {
                in_force: hash(&contents),
                unsettled: None,
                unsettled_count: 0,
                failure: None,
            }),
            is_stale: AtomicBool::new(false),
            source,
        })
    }

    /// Reads the files, and loads the value again if the files have changed. If the files can't be used, every later
    /// refresh tries them again, because some faults are temporary: for example, a certificate becomes valid later, or
    /// only one of two files has been written so far.
    ///
    /// # Errors
    /// [`SecurityError`] if the files can't be used. The old value stays in force. If later refreshes fail with the
    /// same text, they return [`Refreshed::Unchanged`], so that the error is logged once.
    pub(super) fn refresh(&self, kind: RefreshKind) -> Result<Refreshed<S::Value>, SecurityError> {
        let mut last_read = self.last_read.lock();
        match self.try_refresh(&mut last_read, kind) {
            Ok(Refreshed::Unsettled) => Ok(Refreshed::Unsettled),
            Ok(refreshed) => {
                self.is_stale.store(false, Ordering::Relaxed);
                Ok(match (refreshed, last_read.failure.take()) {
                    (Refreshed::Unchanged, Some(_)) => Refreshed::Recovered,
                    (refreshed, _) => refreshed,
                })
            }
            Err(error) => {
                self.is_stale.store(true, Ordering::Relaxed);
                let text = error.to_string();
                if last_read.failure.as_ref() == Some(&text) {
                    return Ok(Refreshed::Unchanged);
                }
                last_read.failure = Some(text);
                Err(error)
            }
        }
    }

    fn try_refresh(
        &self,
        last_read: &mut LastRead,
        kind: RefreshKind,
    ) -> Result<Refreshed<S::Value>, SecurityError> {
        let before = last_read.unsettled.take();
        let contents = read(&self.source)?;
        let now = hash(&contents);
        let unsettled_before = std::mem::take(&mut last_read.unsettled_count);
        if last_read.in_force == now {
            return Ok(Refreshed::Unchanged);
        }
        last_read.unsettled = Some(now);
        if kind == RefreshKind::Settled && before != Some(now) && unsettled_before < UNSETTLED_COUNT_MAX {
            last_read.unsettled_count = unsettled_before + 1;
            return Ok(Refreshed::Unsettled);
        }
        let (old, new) = (self.get(), Arc::new(self.source.parse(&contents)?));
        self.source.check_replacement(&old, &new)?;
        self.value.store(Arc::clone(&new));
        last_read.in_force = now;
        last_read.unsettled = None;
        Ok(Refreshed::Renewed { old, new })
    }

    /// Returns the value in force.
    pub(super) fn get(&self) -> Arc<S::Value> {
        self.value.load_full()
    }

    /// Returns whether the files could not be used at the last refresh. If so, older contents are in force.
    pub(super) fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Relaxed)
    }
}

fn read<S: Source>(source: &S) -> Result<Vec<Vec<u8>>, SecurityError> {
    source.paths().into_iter().map(read_file).collect()
}

fn read_file(path: &Path) -> Result<Vec<u8>, SecurityError> {
    // The service reads the file again and again. Opening a named pipe would wait for its writer.
    let content = match fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            Err(io::Error::other("it is not a regular file; name a regular file"))
        }
        Ok(_) => read_bounded(path),
        Err(error) => Err(error),
    };
    content.map_err(|source| SecurityError::Read {
        path: path.to_owned(),
        source,
    })
}

fn hash(contents: &[Vec<u8>]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for content in contents {
        // The hash includes the length of each file, so that moving bytes from one file to the next changes the hash.
        hasher.update(&(content.len() as u64).to_le_bytes());
        hasher.update(content);
    }
    hasher.finalize()
}

/// The tokens file.
impl Source for PathBuf {
    type Value = TokenTable;

    fn paths(&self) -> Vec<&Path> {
        vec![self]
    }

    fn parse(&self, contents: &[Vec<u8>]) -> Result<TokenTable, SecurityError> {
        let failed = |source| SecurityError::Tokens {
            path: self.clone(),
            source,
        };
        let text = contents.first().map(|bytes| std::str::from_utf8(bytes));
        match text {
            Some(Ok(text)) => TokenTable::parse(text).map_err(failed),
            Some(Err(_)) | None => Err(failed(TokenFileError::NotText)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(watched: &Watched<PathBuf>) -> usize {
        watched.get().len()
    }

    fn line(name: &str, digit: &str) -> String {
        format!("read {name} {}\n", digit.repeat(64))
    }

    #[test]
    fn only_a_regular_file_is_read() {
        let home = tempfile::tempdir().unwrap();
        for path in [home.path(), Path::new("/dev/null")] {
            let error = Watched::load(path.to_owned()).map(|_| ()).unwrap_err();
            assert!(
                error
                    .to_string()
                    .ends_with("it is not a regular file; name a regular file"),
                "{error}"
            );
        }
    }

    #[test]
    fn contents_come_into_force_after_two_equal_reads() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tokens");
        let write = |content: String| std::fs::write(&path, content).unwrap();
        write(line("old", "1"));
        let watched = Watched::load(path.clone()).unwrap();
        let refresh = || watched.refresh(RefreshKind::Settled);
        let two_lines = || line("one", "2") + &line("two", "3");

        // The file is empty, then has one of two lines, then both lines. Each of these refreshes finds different
        // contents.
        for content in [String::new(), line("one", "2"), two_lines()] {
            write(content);
            assert!(matches!(refresh(), Ok(Refreshed::Unsettled)));
            assert_eq!(tokens(&watched), 1);
        }
        assert!(matches!(refresh(), Ok(Refreshed::Renewed { .. })));
        assert_eq!(tokens(&watched), 2);

        // The file changes before every refresh.
        for number in 0..UNSETTLED_COUNT_MAX {
            write(format!("# {number}\n") + &line("one", "4"));
            assert!(matches!(refresh(), Ok(Refreshed::Unsettled)));
        }
        write(two_lines() + "\n");
        assert!(matches!(refresh(), Ok(Refreshed::Renewed { .. })));
        assert_eq!(tokens(&watched), 2);

        // The file is missing between two refreshes.
        write(line("one", "2"));
        assert!(matches!(refresh(), Ok(Refreshed::Unsettled)));
        std::fs::remove_file(&path).unwrap();
        assert!(refresh().is_err());
        write(line("one", "2"));
        assert!(matches!(refresh(), Ok(Refreshed::Unsettled)));
        write(two_lines() + "\n");
        assert!(matches!(refresh(), Ok(Refreshed::Recovered)));

        // The file is empty at one refresh, and has the contents in force at the next.
        write(String::new());
        assert!(matches!(refresh(), Ok(Refreshed::Unsettled)));
        write(two_lines() + "\n");
        assert!(matches!(refresh(), Ok(Refreshed::Unchanged)));

        // SIGHUP puts the contents into force at once.
        write(String::new());
        let refreshed = watched.refresh(RefreshKind::Immediate);
        assert!(matches!(refreshed, Ok(Refreshed::Renewed { .. })));
        assert_eq!(tokens(&watched), 0);
    }
}
