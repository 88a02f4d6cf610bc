//! Texts of errors of the operating system, as people read them, and what to do about them.

use std::{fs, io, path::Path};

use rustix::io::Errno;

/// The words with which the standard library ends the text of such an error, before its number.
const NUMBER: &str = " (os error ";

/// Returns `text` without the numbers of errors: `No such file or directory (os error 2)` becomes `No such file or
/// directory`. The number says nothing that the words do not say.
#[must_use]
pub fn without_error_numbers(text: String) -> String {
    if !text.contains(NUMBER) {
        return text;
    }
    let mut words = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once(NUMBER) {
        words.push_str(before);
        rest = match after.split_once(')') {
            Some((number, behind))
                if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                behind
            }
            _ => {
                words.push_str(NUMBER);
                after
            }
        };
    }
    words.push_str(rest);
    words
}

/// Returns what to do about the `error` of an operation on the file `path`, as the end of its text: it begins with a semicolon, or it is
/// empty if the words of the error say enough.
#[must_use]
pub fn file_advice(path: &Path, error: &io::Error) -> String {
    let Some(number) = error.raw_os_error() else {
        return String::new();
    };
    if number == Errno::LOOP.raw_os_error() {
        return "; its symbolic links form a circle: correct them".to_owned();
    }
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "most errors need no other advice than their words"
    )]
    let advice = match error.kind() {
        io::ErrorKind::NotFound => return advice_if_missing(path),
        io::ErrorKind::PermissionDenied => {
            "run tally as a user who may use this path, or change its owner or mode (chown, chmod)"
        }
        io::ErrorKind::IsADirectory => "name a file in it",
        io::ErrorKind::NotADirectory => "a part of the path is a file: correct the path",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free space on its file system, or name a file on another one"
        }
        io::ErrorKind::FileTooLarge => "raise the limit of file sizes (ulimit -f)",
        io::ErrorKind::ReadOnlyFilesystem => "name a file on another file system",
        _ => return String::new(),
    };
    format!("; {advice}")
}

/// Returns what to do about a missing file: correct a link or the path.
fn advice_if_missing(path: &Path) -> String {
    if let Ok(target) = fs::read_link(path) {
        let target = target.display();
        return format!("; it is a symbolic link to {target}, which does not exist: correct the link");
    }
    match path.parent() {
        Some(parent) if parent != Path::new("") && !parent.exists() => {
            format!(
                "; the directory {} does not exist: create it, or correct the path",
                parent.display()
            )
        }
        Some(_) | None => "; correct the path".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_names_the_link_or_the_directory() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();
        std::os::unix::fs::symlink("circle", path("circle")).unwrap();
        fs::write(path("file"), "").unwrap();
        let open = |name: &str| fs::File::options().append(true).open(path(name)).unwrap_err();
        for (name, expected) in [
            ("absent", "; correct the path".to_owned()),
            (
                "no/absent",
                format!(
                    "; the directory {} does not exist: create it, or correct the path",
                    path("no").display()
                ),
            ),
            (
                "dangling",
                "; it is a symbolic link to nowhere, which does not exist: correct the link".to_owned(),
            ),
            (
                "circle",
                "; its symbolic links form a circle: correct them".to_owned(),
            ),
            ("", "; name a file in it".to_owned()),
            (
                "file/x",
                "; a part of the path is a file: correct the path".to_owned(),
            ),
        ] {
            assert_eq!(file_advice(&path(name), &open(name)), expected, "{name}");
        }
        assert_eq!(file_advice(&path("file"), &io::Error::other("own words")), "");
    }

    #[test]
    fn only_numbers_of_errors_are_removed() {
        let missing = std::io::Error::from_raw_os_error(2);
        let text = format!("can't read a.csv: {missing}; can't read b.csv: {missing}");
        assert_eq!(
            without_error_numbers(text),
            "can't read a.csv: No such file or directory; can't read b.csv: No such file or directory"
        );
        for unchanged in [
            "",
            "closed (by peer)",
            "a file (os error none)",
            "cut (os error 2",
        ] {
            assert_eq!(without_error_numbers(unchanged.to_owned()), unchanged);
        }
    }
}
