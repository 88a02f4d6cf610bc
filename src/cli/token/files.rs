//! Writes files with secrets, which only their owner can read.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Mode of files with secrets: only the owner can read them.
pub(super) const SECRET_MODE: u32 = 0o600;

/// Writes `text` and a line feed to a new file that only its owner can read, and makes the file durable. Removes a file that it can't
/// complete.
pub(super) fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(SECRET_MODE)
        .open(path)?;
    let written = writeln!(file, "{text}")
        .and_then(|()| file.sync_all())
        .and_then(|()| directory_of(path)?.sync_all());
    if written.is_err() {
        let _removed = fs::remove_file(path);
    }
    written
}

/// Opens the directory of a file.
pub(super) fn directory_of(path: &Path) -> io::Result<File> {
    match path.parent() {
        Some(parent) if parent != Path::new("") => File::open(parent),
        Some(_) | None => File::open("."),
    }
}
