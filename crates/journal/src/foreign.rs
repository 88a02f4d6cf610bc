//! Finds the files in a data directory that do not belong there. A start neither reads nor removes these files.

use std::path::Path;

use crate::{
    chunked_file::file_number,
    directory::{JOURNAL_DIR, MARKER_FILE, is_of_file_system},
    disk::Disk,
    error::JournalError,
    segment_file::segment_number,
    segment_note::is_note,
    unfinished::UNFINISHED_SUFFIX,
};

/// The names of a family of chunked files ([`ChunkedFiles`](crate::ChunkedFiles)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFamily {
    /// The subdirectory of the data directory.
    pub subdirectory: &'static str,
    /// The beginning of each name, before the number.
    pub prefix: &'static str,
    /// The end of each name, after a dot.
    pub suffix: &'static str,
}

/// Returns the foreign files in the directory of the journal and in the subdirectories of `families`, as paths in the data
/// directory `data`, such as `journal/notes.txt`. Files beside the subdirectories are not listed: an operator may keep the
/// file of tokens there.
///
/// # Errors
/// [`JournalError::Disk`] if a directory exists and can't be listed.
pub fn foreign_files(
    disk: &dyn Disk,
    data: &Path,
    families: &[FileFamily],
) -> Result<Vec<String>, JournalError> {
    let mut foreign = Vec::new();
    let mut list = |subdirectory: &str, is_own: &dyn Fn(&str) -> bool| -> Result<(), JournalError> {
        let names = match disk.list(&data.join(subdirectory)) {
            Err(error) if error.is_not_found() => Vec::new(),
            listed => listed?,
        };
        let names = names.into_iter().filter(|name| {
            let is_unfinished = name.strip_suffix(UNFINISHED_SUFFIX).is_some_and(is_own);
            !is_own(name) && !is_unfinished && !is_of_file_system(name)
        });
        foreign.extend(names.map(|name| format!("{subdirectory}/{name}")));
        Ok(())
    };
    list(JOURNAL_DIR, &|name| {
        segment_number(name).is_some() || is_note(name) || name == MARKER_FILE
    })?;
    for family in families {
        list(family.subdirectory, &|name| {
            file_number(family.prefix, name, family.suffix).is_some()
        })?;
    }
    Ok(foreign)
}
