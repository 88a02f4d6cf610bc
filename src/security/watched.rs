//! Something made of files, made again when they change.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{SecurityError, TokenFileError, TokenTable};

/// How something is made of files.
pub(super) trait Source {
    /// What is made.
    type Made;

    /// The files, in the order in which [`Source::make`] wants their contents.
    fn paths(&self) -> Vec<&Path>;

    /// Makes it.
    fn make(&self, contents: &[Vec<u8>]) -> Result<Self::Made, SecurityError>;
}

/// What was made last, and of what.
#[derive(Debug)]
pub(super) struct Watched<S: Source> {
    source: S,
    made: ArcSwap<S::Made>,
    /// What the files held when they were last looked at, whether it could be used or not.
    seen: Mutex<blake3::Hash>,
}

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

// ===== impl Watched =====

impl<S: Source> Watched<S> {
    pub(super) fn load(source: S) -> Result<Self, SecurityError> {
        let contents = read(&source)?;
        let made = source.make(&contents)?;
        Ok(Watched {
            made: ArcSwap::from_pointee(made),
            seen: Mutex::new(hash(&contents)),
            source,
        })
    }

    /// Makes it again if the files have changed; tells whether they had.
    pub(super) fn refresh(&self) -> Result<bool, SecurityError> {
        let contents = read(&self.source)?;
        let now = hash(&contents);
        let mut seen = self.seen.lock();
        if *seen == now {
            return Ok(false);
        }
        // Also when it can't be used: once is enough to be told.
        *seen = now;
        self.made.store(Arc::new(self.source.make(&contents)?));
        Ok(true)
    }

    pub(super) fn get(&self) -> Arc<S::Made> {
        self.made.load_full()
    }
}

fn read<S: Source>(source: &S) -> Result<Vec<Vec<u8>>, SecurityError> {
    let one = |path: &Path| {
        let failed = |source| SecurityError::Read {
            path: path.to_owned(),
            source,
        };
        let length = std::fs::metadata(path).map_err(failed)?.len();
        if length > FILE_BYTES_MAX {
            let text = format!("{length} bytes: must be at most {FILE_BYTES_MAX}");
            return Err(failed(std::io::Error::other(text)));
        }
        std::fs::read(path).map_err(failed)
    };
    source.paths().into_iter().map(one).collect()
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
