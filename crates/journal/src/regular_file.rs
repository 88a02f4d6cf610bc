//! Opens regular files only. Opening a named pipe waits for its other end, perhaps forever, and a read from a device may
//! never end. So a file is opened without waiting, and its type is checked before anything is read.

use std::{
    fs::{self, File, FileType, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::OFlags;

/// Opens the existing file `path` with `options`.
///
/// # Errors
/// The error of the file system; [`io::ErrorKind::InvalidInput`] with a description if the path leads to something else
/// than a regular file, or is a symbolic link that leads nowhere. Such a link does not count as a missing file, because its
/// target is probably on a file system that is not mounted.
pub(super) fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // On Linux, this flag has no effect on later reads and writes of a regular file.
    options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = options.open(path).map_err(|error| described(error, path))?;
    match other_type(file.metadata()?.file_type()) {
        None => Ok(file),
        Some(found) => Err(refused(found)),
    }
}

/// Returns a clearer error, if the path leads to something else than a regular file. For example, a socket can't be opened,
/// and a directory can't be opened for writing.
fn described(error: io::Error, path: &Path) -> io::Error {
    if let Some(found) = fs::metadata(path)
        .ok()
        .and_then(|found| other_type(found.file_type()))
    {
        return refused(found);
    }
    if error.kind() != io::ErrorKind::NotFound {
        return error;
    }
    match fs::read_link(path) {
        Ok(target) => io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "it is a symbolic link to {}, which does not exist",
                target.display()
            ),
        ),
        Err(_) => error,
    }
}

fn refused(found: &str) -> io::Error {
    let text = format!("it is {found}, not a regular file");
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// Returns the type in words; `None` for a regular file.
fn other_type(found: FileType) -> Option<&'static str> {
    if found.is_file() {
        None
    } else if found.is_dir() {
        Some("a directory")
    } else if found.is_fifo() {
        Some("a named pipe")
    } else if found.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use rustix::fs::{CWD, FileType as NodeType, Mode, mknodat};

    use super::*;

    #[test]
    fn only_a_regular_file_is_opened_and_nothing_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "text").unwrap();
        fs::create_dir(path("directory")).unwrap();
        mknodat(CWD, path("pipe"), NodeType::Fifo, Mode::RWXU, 0).unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        symlink("file", path("link")).unwrap();
        symlink("pipe", path("link-to-pipe")).unwrap();
        symlink("nowhere", path("dangling")).unwrap();
        for write in [false, true] {
            let open = |name: &str| open(OpenOptions::new().read(true).write(write), &path(name));
            for name in ["file", "link"] {
                open(name).unwrap();
            }
            assert_eq!(open("absent").unwrap_err().kind(), io::ErrorKind::NotFound);
            for (name, words) in [
                ("directory", "it is a directory, not a regular file"),
                ("pipe", "it is a named pipe, not a regular file"),
                ("socket", "it is a socket, not a regular file"),
                ("link-to-pipe", "it is a named pipe, not a regular file"),
                ("/dev/null", "it is a device, not a regular file"),
                (
                    "dangling",
                    "it is a symbolic link to nowhere, which does not exist",
                ),
            ] {
                let error = open(name).unwrap_err();
                assert_eq!(
                    (error.kind(), error.to_string().as_str()),
                    (io::ErrorKind::InvalidInput, words),
                    "{name}"
                );
            }
        }
    }
}
