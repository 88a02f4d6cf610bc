//! Recognizes files that are compressed, or whose text is not UTF-8, and says how to convert them.

use std::{fs::File, io::Read, path::Path};

/// How the content of a file is encoded, if it is not plain UTF-8 text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Zstandard,
    Bzip2,
    Xz,
    Zip,
    Utf16,
}

/// Number of bytes that [`Encoding::of`] needs.
const START_BYTES: usize = 10;

// ===== impl Encoding =====

impl Encoding {
    /// Returns the encoding of a file that begins with `start`; `None` for other files.
    pub(super) fn of(start: &[u8]) -> Option<Self> {
        match start {
            // RFC 1952, 2.3.1.
            [0x1f, 0x8b, ..] => Some(Encoding::Gzip),
            // RFC 8878, 3.1.1.
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Encoding::Zstandard),
            [
                b'B',
                b'Z',
                b'h',
                b'1'..=b'9',
                b'1',
                b'A',
                b'Y',
                b'&',
                b'S',
                b'Y',
                ..,
            ] => Some(Encoding::Bzip2),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Encoding::Xz),
            [b'P', b'K', 3, 4, ..] => Some(Encoding::Zip),
            // A byte order mark, or an ASCII character in two bytes, in either order of the bytes.
            [0xff, 0xfe, ..]
            | [0xfe, 0xff, ..]
            | [0x20..0x7f, 0, 0x20..0x7f, 0, ..]
            | [0, 0x20..0x7f, 0, 0x20..0x7f, ..] => Some(Encoding::Utf16),
            _ => None,
        }
    }

    /// Returns the encoding of a regular file. A pipe is not read, because its content can't be read again.
    pub(super) fn of_file(file: &Path) -> Option<Self> {
        if !file.is_file() {
            return None;
        }
        let mut start = Vec::with_capacity(START_BYTES);
        let mut start_of = File::open(file).ok()?.take(START_BYTES as u64);
        start_of.read_to_end(&mut start).ok()?;
        Encoding::of(&start)
    }

    /// Returns what the file is, in words.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Encoding::Gzip => "is compressed with gzip: unpack it first",
            Encoding::Zstandard => "is compressed with zstd: unpack it first",
            Encoding::Bzip2 => "is compressed with bzip2: unpack it first",
            Encoding::Xz => "is compressed with xz: unpack it first",
            Encoding::Zip => {
                "is a zip archive: unpack it first (a spreadsheet such as .xlsx must be exported as CSV)"
            }
            Encoding::Utf16 => "is not UTF-8 text, but UTF-16: convert it first",
        }
    }

    /// Returns the command that writes the plain text of `file` to standard output. `file` is `None` for standard input.
    pub(super) fn command(self, file: Option<&str>) -> String {
        let program = match self {
            Encoding::Gzip => "gzip -dc",
            Encoding::Zstandard => "zstd -dc",
            Encoding::Bzip2 => "bzip2 -dc",
            Encoding::Xz => "xz -dc",
            // unzip can't read an archive from standard input.
            Encoding::Zip => "unzip -p",
            Encoding::Utf16 => "iconv -f UTF-16 -t UTF-8",
        };
        match (file, self) {
            (Some(file), _) => format!("{program} {file}"),
            (None, Encoding::Zip) => format!("{program} ARCHIVE"),
            (None, _) => program.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_recognized_by_the_first_bytes() {
        for (start, encoding) in [
            (&b"\x1f\x8b\x08"[..], Some(Encoding::Gzip)),
            (b"\x28\xb5\x2f\xfd\x04", Some(Encoding::Zstandard)),
            (b"BZh91AY&SY", Some(Encoding::Bzip2)),
            (b"\xfd7zXZ\0", Some(Encoding::Xz)),
            (b"PK\x03\x04", Some(Encoding::Zip)),
            (b"\xff\xfet\0", Some(Encoding::Utf16)),
            (b"\xfe\xff\0t", Some(Encoding::Utf16)),
            (b"t\0r\0", Some(Encoding::Utf16)),
            (b"\0t\0r", Some(Encoding::Utf16)),
            (b"", None),
            (b"t", None),
            (b"\xef\xbb\xbftransaction_id", None),
            (b"PK,id", None),
            (b"BZh9,id", None),
        ] {
            assert_eq!(Encoding::of(start), encoding, "{start:?}");
        }
    }
}
