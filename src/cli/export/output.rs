//! The file of an export, and the note with which an interrupted export is resumed.
//!
//! The note `FILE.progress` says how many bytes of the file are complete, and where the source continues after them. These bytes are durable
//! before the note says so. The next run removes the bytes after them, and continues: the file gets the same bytes as without
//! the interruption. The note is removed at the end, so a file without a note is complete.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{counts::Counts, io_failure::io_failure};
use crate::{
    cli::exit::{self, Failure},
    terminal::{stdout_failure, write_stdout},
};

/// The note is written again after this number of bytes.
const NOTED_BYTES: u64 = 1 << 20;
/// Number of bytes that are written to standard output at a time.
const STDOUT_BYTES: usize = 64 << 10;

/// How far an export has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    /// The options that decide about the content of the file.
    request: String,
    /// Number of complete bytes.
    bytes: u64,
    /// Where the source continues: a page token of a service, or the place of the last record of a directory. Empty at the beginning.
    pub(super) place: String,
    /// What the complete bytes contain.
    pub(super) counts: Counts,
}

/// Where an export is written.
#[derive(Debug)]
pub(super) enum Output {
    /// Standard output.
    Stdout(String),
    /// A file.
    File(NotedFile),
}

/// A file and its note.
#[derive(Debug)]
pub(super) struct NotedFile {
    path: PathBuf,
    file: BufWriter<File>,
    /// Number of bytes written.
    bytes: u64,
    /// The last note.
    note: Note,
}

// ===== impl Output =====

impl Output {
    /// Opens standard output, or the file of a new or interrupted export.
    ///
    /// # Errors
    /// [`Failure`] if the file is that of a complete export, or of an export with another request, or can't be written.
    pub(super) fn open(path: Option<&Path>, request: &str) -> Result<Self, Failure> {
        Ok(match path {
            None => Output::Stdout(String::new()),
            Some(path) => Output::File(NotedFile::open(path, request)?),
        })
    }

    /// Returns the note of the resumed export. The note of a new export is empty.
    pub(super) fn note(&self) -> Note {
        match self {
            Output::Stdout(_) => Note::default(),
            Output::File(file) => file.note.clone(),
        }
    }

    /// Returns whether nobody reads standard output any more.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Output::Stdout(_)) && stdout_failure().is_some()
    }

    /// Writes a part of the export.
    ///
    /// # Errors
    /// [`Failure`] if the file can't be written.
    pub(super) fn write(&mut self, text: &str) -> Result<(), Failure> {
        match self {
            Output::Stdout(pending) => {
                pending.push_str(text);
                if pending.len() >= STDOUT_BYTES {
                    write_stdout(format_args!("{pending}"));
                    pending.clear();
                }
                Ok(())
            }
            Output::File(file) => file.write(text),
        }
    }

    /// Writes the note if at least [`NOTED_BYTES`] were written since the last note. `place` returns where the source continues after the
    /// written bytes.
    ///
    /// # Errors
    /// [`Failure`] if the file or the note can't be written.
    pub(super) fn settle(&mut self, counts: Counts, place: impl FnOnce() -> String) -> Result<(), Failure> {
        match self {
            Output::File(file) if file.bytes - file.note.bytes >= NOTED_BYTES => {
                file.take_note(counts, place())
            }
            Output::File(_) | Output::Stdout(_) => Ok(()),
        }
    }

    /// Makes the file durable, and removes the note.
    ///
    /// # Errors
    /// [`Failure`] if that is not possible.
    pub(super) fn finish(self) -> Result<(), Failure> {
        match self {
            Output::Stdout(pending) => write_stdout(format_args!("{pending}")),
            Output::File(mut file) => {
                file.sync()?;
                let note = note_path(&file.path);
                fs::remove_file(&note).map_err(|error| io_failure("remove", &note, &error))?;
            }
        }
        Ok(())
    }
}

// ===== impl NotedFile =====

impl NotedFile {
    fn open(path: &Path, request: &str) -> Result<Self, Failure> {
        let note_path = note_path(path);
        let note = match fs::read(&note_path) {
            Ok(bytes) => read_note(&bytes, path, &note_path, request)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if path.exists() {
                    let message = format!(
                        "{} exists, and is not an interrupted export; name another file, or remove this one",
                        path.display()
                    );
                    return Err(Failure::with_message(exit::USAGE, message));
                }
                let note = Note {
                    request: request.to_owned(),
                    ..Note::default()
                };
                // The note comes first, so that a file without a note is always complete.
                write_note(&note_path, &note)?;
                note
            }
            Err(error) => return Err(io_failure("read", &note_path, &error)),
        };
        let failure = |error| io_failure("write", path, &error);
        let mut options = File::options();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failure)?;
        let found = file.metadata().map_err(failure)?.len();
        if found < note.bytes {
            let message = format!(
                "{} has {found} bytes, but {} says that {} were written: remove both files, and export again",
                path.display(),
                note_path.display(),
                note.bytes
            );
            return Err(Failure::with_message(exit::IO, message));
        }
        file.set_len(note.bytes).map_err(failure)?;
        file.seek(SeekFrom::Start(note.bytes)).map_err(failure)?;
        Ok(NotedFile {
            path: path.to_owned(),
            file: BufWriter::new(file),
            bytes: note.bytes,
            note,
        })
    }

    fn write(&mut self, text: &str) -> Result<(), Failure> {
        self.bytes += text.len() as u64;
        let written = self.file.write_all(text.as_bytes());
        written.map_err(|error| io_failure("write", &self.path, &error))
    }

    fn sync(&mut self) -> Result<(), Failure> {
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_data());
        synced.map_err(|error| io_failure("write", &self.path, &error))
    }

    fn take_note(&mut self, counts: Counts, place: String) -> Result<(), Failure> {
        self.sync()?;
        self.note.bytes = self.bytes;
        self.note.counts = counts;
        self.note.place = place;
        write_note(&note_path(&self.path), &self.note)
    }
}

fn read_note(bytes: &[u8], path: &Path, note_path: &Path, request: &str) -> Result<Note, Failure> {
    let note: Note = serde_json::from_slice(bytes).map_err(|_| {
        let message = format!(
            "{} is not the note of an interrupted export: name another file, or remove this one and {}",
            note_path.display(),
            path.display()
        );
        Failure::with_message(exit::DATA, message)
    })?;
    if note.request != request {
        let message = format!(
            "{} is the export of `{}`, which was interrupted. Use the same options to go on, or remove {} and {}",
            path.display(),
            note.request,
            path.display(),
            note_path.display()
        );
        return Err(Failure::with_message(exit::USAGE, message));
    }
    Ok(note)
}

/// Replaces the note in one step.
fn write_note(path: &Path, note: &Note) -> Result<(), Failure> {
    let failure = |error| io_failure("write", path, &error);
    let text = serde_json::to_string(note).map_err(|error| failure(error.into()))?;
    let new = with_ending(path, ".new");
    let written = File::create(&new).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_data()
    });
    written.and_then(|()| fs::rename(&new, path)).map_err(failure)
}

fn note_path(path: &Path) -> PathBuf {
    with_ending(path, ".progress")
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes `lines` lines of 1 KiB from the line that the note names, and finishes if `is_whole`.
    fn write_lines(path: &Path, lines: u64, is_whole: bool) {
        let mut output = Output::open(Some(path), "request").unwrap();
        let first: u64 = output.note().place.parse().unwrap_or(0);
        for line in first..lines {
            output.write(&format!("{line:>1023}\n")).unwrap();
            let counts = Counts {
                transactions: line + 1,
                ..Counts::default()
            };
            output.settle(counts, || (line + 1).to_string()).unwrap();
        }
        if is_whole {
            output.finish().unwrap();
        }
    }

    #[test]
    fn an_interrupted_file_gets_the_same_bytes() {
        let home = tempfile::tempdir().unwrap();
        let (whole, cut) = (home.path().join("whole"), home.path().join("cut"));
        write_lines(&whole, 5000, true);
        assert!(!note_path(&whole).exists());
        for lines in [0, 10, 1500, 3000] {
            write_lines(&cut, lines, false);
            // Bytes that the note does not count, as an interruption leaves them.
            let mut file = File::options().append(true).open(&cut).unwrap();
            file.write_all(b"torn").unwrap();
        }
        let note = Output::open(Some(&cut), "request").unwrap().note();
        assert!(note.counts.transactions >= 2048, "{note:?}");
        write_lines(&cut, 5000, true);
        assert!(fs::read(&whole).unwrap() == fs::read(&cut).unwrap());
    }

    #[test]
    fn a_file_that_is_not_an_interrupted_export_is_never_changed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        fs::write(&path, "mine").unwrap();
        let message = |request: &str| {
            Output::open(Some(&path), request)
                .unwrap_err()
                .message()
                .to_owned()
        };
        assert!(message("request").contains("is not an interrupted export"));
        fs::write(note_path(&path), "{}").unwrap();
        assert!(message("request").contains("is not the note"));
        let note = Note {
            request: "other".to_owned(),
            bytes: 2,
            ..Note::default()
        };
        write_note(&note_path(&path), &note).unwrap();
        assert!(message("request").contains("Use the same options"));
        write_note(&note_path(&path), &Note { bytes: 5, ..note }).unwrap();
        assert!(message("other").contains("has 4 bytes"));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}
