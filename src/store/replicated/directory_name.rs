//! The name of a data directory: which of several equal directories goes on as an embedded store after the end of the log.
//!
//! The directories of all replicas have the same bytes, and an address can belong to several of them, one after the other. So the
//! directory that goes on is named when it is chosen: the file `detach/<0>.name` gets a random name, durably, before the *end* of the log
//! is sent, which contains this name. A copy that was made before does not have the file, and `tally replica clone` does not copy it.

use tally_journal::{ChunkedFiles, DataDirectory, FileFamily, JournalError};

/// The files of this kind in a data directory.
pub const FAMILY: FileFamily = FileFamily {
    subdirectory: "detach",
    prefix: "",
    suffix: ".name",
};

/// A directory has one name, in the file with this number.
const NUMBER: u64 = 0;

/// The random name of a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryName(pub [u8; 16]);

// ===== impl DirectoryName =====

impl DirectoryName {
    /// Returns the name of a directory. Gives it a random one, durably, if it has none.
    ///
    /// # Errors
    /// [`JournalError`] if the disk fails, or another version of the program wrote the name.
    pub fn make(directory: &DataDirectory) -> Result<Self, JournalError> {
        let FileFamily {
            subdirectory,
            prefix,
            suffix,
        } = FAMILY;
        let files = ChunkedFiles::open(directory, subdirectory, prefix, suffix)?;
        if let Some(name) = Self::read(&files)? {
            return Ok(name);
        }
        let mut name = [0; 16];
        directory.disk().fill_random(&mut name)?;
        let mut file = files.create(NUMBER)?;
        file.write_chunk(&name)?;
        file.finish()?;
        Ok(DirectoryName(name))
    }

    /// Returns the name of a directory; `None` if it has none.
    ///
    /// # Errors
    /// [`JournalError`] if the disk fails, or another version of the program wrote the name.
    pub fn of(directory: &DataDirectory) -> Result<Option<Self>, JournalError> {
        let FileFamily {
            subdirectory,
            prefix,
            suffix,
        } = FAMILY;
        Self::read(&ChunkedFiles::open_read_only(
            directory,
            subdirectory,
            prefix,
            suffix,
        ))
    }

    fn read(files: &ChunkedFiles) -> Result<Option<Self>, JournalError> {
        files.newest(|_, reader| {
            let mut bytes = Vec::new();
            reader.read_chunk(0, &mut bytes)?;
            let name = bytes
                .try_into()
                .map_err(|_| reader.malformed("the name of a directory"))?;
            Ok(DirectoryName(name))
        })
    }
}
