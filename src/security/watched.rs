//! Something made of files, made again when they change.

use std::{
    fs::File,
    io::Read,
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

/// How something is made of files.
pub(super) trait Source {
    /// What is made.
    type Made;

    /// The files, in the order in which [`Source::make`] wants their contents.
    fn paths(&self) -> Vec<&Path>;

    /// Makes it.
    ///
    /// # Errors
    /// If the contents can't be used.
    fn make(&self, contents: &[Vec<u8>]) -> Result<Self::Made, SecurityError>;

    /// Whether `new`, which can be used, may replace `old`, which is in force.
    ///
    /// # Errors
    /// If `old` is the better one of the two.
    fn may_replace(&self, _old: &Self::Made, _new: &Self::Made) -> Result<(), SecurityError> {
        Ok(())
    }
}

/// What was made last, and of what.
#[derive(Debug)]
pub(super) struct Watched<S: Source> {
    source: S,
    made: ArcSwap<S::Made>,
    looked: Mutex<Looked>,
    /// The files could not be used when they were last looked at.
    is_stale: AtomicBool,
}

/// What the last look at the files found.
#[derive(Debug)]
struct Looked {
    /// Of the contents that are in force.
    in_force: blake3::Hash,
    /// Of the contents that the last look found, if they are not in force: they may still be being written.
    unsettled: Option<blake3::Hash>,
    /// Looks in a row that found other contents each time.
    unsettled_looks: u32,
    /// Why the files could not be used, in words.
    failure: Option<String>,
}

/// Which contents of a file may come into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Those that two looks in a row find. A file that is written in place is empty or cut for a moment, and an empty file
    /// of tokens would shut out everybody.
    Settled,
    /// Those that are there: an operator has said that the files are complete (SIGHUP).
    Now,
}

/// What a look at the files brought.
#[derive(Debug)]
pub(super) enum Refreshed<M> {
    /// The files are as they were: in force, or not usable for the same reason as before.
    Unchanged,
    /// The files have changed since the last look. The next look takes them, if it finds the same.
    Unsettled,
    /// What the files hold is in force again; nothing had to be made.
    Recovered,
    /// The files had changed, and what they hold now is in force.
    Renewed {
        /// What was in force before.
        old: Arc<M>,
        /// What is in force now.
        new: Arc<M>,
    },
}

/// So many looks in a row may find other contents each time. The next one takes what it finds: nobody writes one file for so
/// long, so the file is rewritten all the time, and tokens that are taken back must not stay valid for that.
const UNSETTLED_LOOKS_MAX: u32 = 3;
/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

// ===== impl Watched =====

impl<S: Source> Watched<S> {
    pub(super) fn load(source: S) -> Result<Self, SecurityError> {
        let contents = read(&source)?;
        let made = source.make(&contents)?;
        Ok(Watched {
            made: ArcSwap::from_pointee(made),
            looked: Mutex::new(Looked {
                in_force: hash(&contents),
                unsettled: None,
                unsettled_looks: 0,
                failure: None,
            }),
            is_stale: AtomicBool::new(false),
            source,
        })
    }

    /// Makes it again if the files have changed. Files that can't be used are tried at every look, since what is wrong with
    /// them may pass by itself: a certificate that is not valid yet, the second of two files that is still to be written.
    ///
    /// # Errors
    /// Why the files can't be used; what is in force stays. The same error is not returned again at the next look.
    pub(super) fn refresh(&self, look: Look) -> Result<Refreshed<S::Made>, SecurityError> {
        let mut looked = self.looked.lock();
        match self.try_refresh(&mut looked, look) {
            Ok(Refreshed::Unsettled) => Ok(Refreshed::Unsettled),
            Ok(refreshed) => {
                self.is_stale.store(false, Ordering::Relaxed);
                Ok(match (refreshed, looked.failure.take()) {
                    (Refreshed::Unchanged, Some(_)) => Refreshed::Recovered,
                    (refreshed, _) => refreshed,
                })
            }
            Err(error) => {
                self.is_stale.store(true, Ordering::Relaxed);
                let words = error.to_string();
                if looked.failure.as_ref() == Some(&words) {
                    return Ok(Refreshed::Unchanged);
                }
                looked.failure = Some(words);
                Err(error)
            }
        }
    }

    fn try_refresh(&self, looked: &mut Looked, look: Look) -> Result<Refreshed<S::Made>, SecurityError> {
        let before = looked.unsettled.take();
        let contents = read(&self.source)?;
        let now = hash(&contents);
        let looks = std::mem::take(&mut looked.unsettled_looks);
        if looked.in_force == now {
            return Ok(Refreshed::Unchanged);
        }
        looked.unsettled = Some(now);
        if look == Look::Settled && before != Some(now) && looks < UNSETTLED_LOOKS_MAX {
            looked.unsettled_looks = looks + 1;
            return Ok(Refreshed::Unsettled);
        }
        let (old, new) = (self.get(), Arc::new(self.source.make(&contents)?));
        self.source.may_replace(&old, &new)?;
        self.made.store(Arc::clone(&new));
        looked.in_force = now;
        looked.unsettled = None;
        Ok(Refreshed::Renewed { old, new })
    }

    pub(super) fn get(&self) -> Arc<S::Made> {
        self.made.load_full()
    }

    /// Whether the files could not be used at the last look, so that older contents are in force.
    pub(super) fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Relaxed)
    }
}

fn read<S: Source>(source: &S) -> Result<Vec<Vec<u8>>, SecurityError> {
    source.paths().into_iter().map(read_file).collect()
}

fn read_file(path: &Path) -> Result<Vec<u8>, SecurityError> {
    let failed = |source| SecurityError::Read {
        path: path.to_owned(),
        source,
    };
    let mut content = Vec::new();
    // One byte more than is allowed is enough to know.
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content))
        .map_err(failed)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        let text = format!("more than {FILE_BYTES_MAX} bytes");
        return Err(failed(std::io::Error::other(text)));
    }
    Ok(content)
}

fn hash(contents: &[Vec<u8>]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for content in contents {
        // The length keeps the end of one file from passing for the start of the next.
        hasher.update(&(content.len() as u64).to_le_bytes());
        hasher.update(content);
    }
    hasher.finalize()
}

/// A file of tokens.
impl Source for PathBuf {
    type Made = TokenTable;

    fn paths(&self) -> Vec<&Path> {
        vec![self]
    }

    fn make(&self, contents: &[Vec<u8>]) -> Result<TokenTable, SecurityError> {
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

    #[test]
    fn a_file_that_is_being_written_comes_into_force_when_it_is_complete() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tokens");
        let line = |name: &str, digit: &str| format!("read {name} {}\n", digit.repeat(64));
        std::fs::write(&path, line("old", "1")).unwrap();
        let watched = Watched::load(path.clone()).unwrap();

        // Cut, then half of it, then all: each look finds something else.
        for content in [
            String::new(),
            line("one", "2"),
            line("one", "2") + &line("two", "3"),
        ] {
            std::fs::write(&path, content).unwrap();
            assert!(matches!(watched.refresh(Look::Settled), Ok(Refreshed::Unsettled)));
            assert_eq!(tokens(&watched), 1);
        }
        assert!(matches!(
            watched.refresh(Look::Settled),
            Ok(Refreshed::Renewed { .. })
        ));
        assert_eq!(tokens(&watched), 2);

        // It is rewritten all the time.
        for number in 0..UNSETTLED_LOOKS_MAX {
            std::fs::write(&path, format!("# {number}\n") + &line("one", "4")).unwrap();
            assert!(matches!(watched.refresh(Look::Settled), Ok(Refreshed::Unsettled)));
        }
        std::fs::write(&path, line("one", "2") + &line("two", "3") + "\n").unwrap();
        assert!(matches!(
            watched.refresh(Look::Settled),
            Ok(Refreshed::Renewed { .. })
        ));
        assert_eq!(tokens(&watched), 2);

        // It can't be read between two looks.
        std::fs::write(&path, line("one", "2")).unwrap();
        assert!(matches!(watched.refresh(Look::Settled), Ok(Refreshed::Unsettled)));
        std::fs::remove_file(&path).unwrap();
        assert!(watched.refresh(Look::Settled).is_err());
        std::fs::write(&path, line("one", "2")).unwrap();
        assert!(matches!(watched.refresh(Look::Settled), Ok(Refreshed::Unsettled)));
        std::fs::write(&path, line("one", "2") + &line("two", "3") + "\n").unwrap();
        assert!(matches!(watched.refresh(Look::Settled), Ok(Refreshed::Recovered)));

        // It is emptied and written again, between two looks.
        std::fs::write(&path, "").unwrap();
        assert!(matches!(watched.refresh(Look::Settled), Ok(Refreshed::Unsettled)));
        std::fs::write(&path, line("one", "2") + &line("two", "3") + "\n").unwrap();
        assert!(matches!(watched.refresh(Look::Settled), Ok(Refreshed::Unchanged)));

        // Whoever says that it is complete is believed.
        std::fs::write(&path, "").unwrap();
        assert!(matches!(
            watched.refresh(Look::Now),
            Ok(Refreshed::Renewed { .. })
        ));
        assert_eq!(tokens(&watched), 0);
    }
}
