//! Lines of a file, counted and bounded.

use std::io::{self, BufRead, Read};

use super::row::Flaw;

/// Longest line: 256 transfers with the longest ids take 80 KiB of JSON.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Why the next row could not be read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// It is not what its format says.
    Flaw {
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        flaw: Flaw,
    },
    /// The file can't be read.
    Io(io::Error),
}

/// The lines that have something in them.
#[derive(Debug)]
pub(super) struct Lines<R> {
    source: R,
    number: u64,
    buffer: Vec<u8>,
}

// ===== impl Lines =====

impl<R: BufRead> Lines<R> {
    pub(super) const fn new(source: R) -> Self {
        Lines {
            source,
            number: 0,
            buffer: Vec::new(),
        }
    }

    /// The next line and its number, from 1; `None` at the end.
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
            if !self.buffer.trim_ascii().is_empty() {
                break;
            }
        }
        let (line, bytes) = (self.number, self.buffer.trim_ascii_end());
        if bytes.len() as u64 > LINE_BYTES_MAX {
            let shown = String::from_utf8_lossy(bytes);
            let flaw = Flaw::new("the line", &shown, format!("at most {LINE_BYTES_MAX} bytes"));
            return Err(ReadError::Flaw { line, flaw });
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some((line, text))),
            Err(error) => {
                let place = format!("byte {}", error.valid_up_to() + 1);
                let bad = bytes.get(error.valid_up_to()..).unwrap_or_default();
                let flaw = Flaw::new(place, &String::from_utf8_lossy(bad), "UTF-8 text");
                Err(ReadError::Flaw { line, flaw })
            }
        }
    }
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
    fn lines_keep_their_numbers_over_empty_ones_and_either_ending() {
        let mut lines = Lines::new("a\n\n  \r\nb \r\n\nc".as_bytes());
        let mut seen = Vec::new();
        while let Some((number, text)) = lines.next().unwrap() {
            seen.push((number, text.to_owned()));
        }
        assert_eq!(
            seen,
            [(1, "a".to_owned()), (4, "b".to_owned()), (6, "c".to_owned())]
        );
    }

    #[test]
    fn a_line_without_an_end_is_not_read_to_its_end() {
        let (line, flaw) = flaw(format!("a\n{}", "x".repeat(3 << 20)).as_bytes());
        assert_eq!(line, 2);
        assert!(flaw.starts_with("the line is \"xxx"), "{flaw}");
        assert!(
            flaw.ends_with("expected at most 1048576 bytes") && flaw.len() < 200,
            "{flaw}"
        );
    }

    #[test]
    fn what_is_not_utf8_is_named() {
        assert_eq!(
            flaw(b"ok\nt1,\xff,b\n"),
            (2, "byte 4 is \"\u{fffd},b\", expected UTF-8 text".to_owned())
        );
    }
}
