//! Reads the lines of a file. Lines are counted and have a maximum length.

use std::io::{self, BufRead, Read};

use super::{encoding::Encoding, row::Flaw};

/// Longest accepted line, in bytes. A transaction with 256 transfers and the longest ids takes 80 KiB of JSON.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// The byte order mark of UTF-8. Some spreadsheet programs write it at the start of a file.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Why the next row could not be read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// A line does not follow the format.
    Flaw {
        /// The line, from 1.
        line: u64,
        /// The error.
        flaw: Flaw,
    },
    /// The file is compressed, or has another encoding of text.
    Encoded(Encoding),
    /// The file can't be read.
    Io(io::Error),
}

/// Reads the lines that are not blank.
///
/// A line ends with a line feed, with a carriage return and a line feed, or at the end of the file. A byte order mark at the
/// start of the file is skipped. Every other control character except a tab is an error: some programs treat such characters
/// as the end of a line, so a row could be hidden inside another row.
#[derive(Debug)]
pub(super) struct Lines<R> {
    source: R,
    number: u64,
    blank: u64,
    buffer: Vec<u8>,
}

// ===== impl Lines =====

impl<R: BufRead> Lines<R> {
    pub(super) const fn new(source: R) -> Self {
        Lines {
            source,
            number: 0,
            blank: 0,
            buffer: Vec::new(),
        }
    }

    /// Returns the number of blank lines read so far.
    pub(super) const fn blank(&self) -> u64 {
        self.blank
    }

    /// Reads the next line and its number, from 1; `None` at the end of the file.
    ///
    /// # Errors
    /// [`ReadError`].
    pub(super) fn next(&mut self) -> Result<Option<(u64, &str)>, ReadError> {
        loop {
            self.buffer.clear();
            let limited = self
                .source
                .by_ref()
                .take(LINE_BYTES_MAX + 1)
                .read_until(b'\n', &mut self.buffer);
            if limited.map_err(ReadError::Io)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if self.number == 1
                && let Some(encoding) = Encoding::of(&self.buffer)
            {
                return Err(ReadError::Encoded(encoding));
            }
            if self.number == 1 && self.buffer.starts_with(BYTE_ORDER_MARK) {
                self.buffer.drain(..BYTE_ORDER_MARK.len());
            }
            if let Some(line) = self.buffer.strip_suffix(b"\n") {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                self.buffer.truncate(line.len());
            }
            if !self.buffer.iter().all(|byte| matches!(byte, b' ' | b'\t')) {
                break;
            }
            self.blank += 1;
        }
        let line = self.number;
        match text(&self.buffer) {
            Ok(text) => Ok(Some((line, text))),
            Err(flaw) => Err(ReadError::Flaw { line, flaw }),
        }
    }
}

/// Checks that a line is valid text.
fn text(bytes: &[u8]) -> Result<&str, Flaw> {
    let flaw = |place: usize, expected| {
        let rest = bytes.get(place..).unwrap_or_default();
        Flaw::new(
            format!("byte {}", place + 1),
            &String::from_utf8_lossy(rest),
            expected,
        )
    };
    if bytes.len() as u64 > LINE_BYTES_MAX {
        let shown = String::from_utf8_lossy(bytes);
        return Err(Flaw::new(
            "the line",
            &shown,
            format!("at most {LINE_BYTES_MAX} bytes"),
        ));
    }
    // U+007F is allowed, because metadata can contain it, and JSON has no escape for it that an export would use.
    if let Some(place) = bytes.iter().position(|byte| *byte < b' ' && *byte != b'\t') {
        let expected = if bytes.get(place) == Some(&b'\r') {
            "a line feed after the carriage return"
        } else {
            "no control character except a tab"
        };
        return Err(flaw(place, expected));
    }
    std::str::from_utf8(bytes).map_err(|error| flaw(error.valid_up_to(), "UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flaw(bytes: &[u8]) -> (u64, String) {
        let mut lines = Lines::new(bytes);
        loop {
            match lines.next() {
                Ok(Some(_)) => {}
                Err(ReadError::Flaw { line, flaw }) => return (line, flaw.to_string()),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn blank_lines_count_and_lines_end_with_lf_or_crlf() {
        let mut lines = Lines::new("\u{feff}a\n\n \t\r\nb \r\n\nc".as_bytes());
        let mut seen = Vec::new();
        while let Some((number, text)) = lines.next().unwrap() {
            seen.push((number, text.to_owned()));
        }
        assert_eq!(
            seen,
            [(1, "a".to_owned()), (4, "b ".to_owned()), (6, "c".to_owned())]
        );
        assert_eq!(lines.blank(), 3);
    }

    #[test]
    fn a_line_beyond_the_maximum_is_not_read_to_its_end() {
        let (line, flaw) = flaw(format!("a\n{}", "x".repeat(3 << 20)).as_bytes());
        assert_eq!(line, 2);
        assert!(flaw.starts_with("the line is \"xxx"), "{flaw}");
        assert!(
            flaw.ends_with("expected at most 1048576 bytes") && flaw.len() < 200,
            "{flaw}"
        );
    }

    #[test]
    fn text_that_is_not_utf8_is_an_error() {
        assert_eq!(
            flaw(b"ok\nt1,\xff,b\n"),
            (2, "byte 4 is \"\u{fffd},b\", expected UTF-8 text".to_owned())
        );
    }

    #[test]
    fn a_character_that_may_end_a_line_elsewhere_is_an_error() {
        for (bytes, expected) in [
            (
                &b"a\rb\n"[..],
                "byte 2 is \"\\rb\", expected a line feed after the carriage return",
            ),
            (b"a\r\r\n", "byte 2 is \"\\r\", expected a line feed"),
            (b"\r\r\n", "byte 1 is \"\\r\", expected a line feed"),
            (b"a\r", "byte 2 is \"\\r\", expected a line feed"),
            (b"\r", "byte 1 is \"\\r\", expected a line feed"),
            (b"a\0\n", "byte 2 is \"\\0\", expected no control character"),
            (b"\x0c\n", "byte 1 is \"\\u{c}\", expected no control character"),
            (b"a\x0bb", "byte 2 is \"\\u{b}b\", expected no control character"),
            (b"a\n\x1a", "byte 1 is \"\\u{1a}\", expected no control character"),
        ] {
            let (_, flaw) = flaw(bytes);
            assert!(flaw.starts_with(expected), "{flaw}");
        }
    }

    #[test]
    fn a_line_of_the_maximum_length_is_read() {
        let longest = "x".repeat(1 << 20);
        for end in ["", "\n"] {
            let text = format!("{longest}{end}");
            let mut lines = Lines::new(text.as_bytes());
            assert_eq!(lines.next().unwrap(), Some((1, &*longest)));
            assert_eq!(lines.next().unwrap(), None);
        }
    }
}
