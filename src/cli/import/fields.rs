//! Splits one line of CSV into fields.
//!
//! A field may be quoted. A quote inside a quoted field is written as two quotes. Blanks around a field are ignored. Unlike a
//! general CSV reader, this module never searches for the end of a row. Only [`Lines`](super::lines::Lines) decides where a row ends,
//! so that two parsers can't disagree about the end and lose a row.

use super::row::Flaw;

/// Characters that are ignored around a field.
const BLANKS: [char; 2] = [' ', '\t'];
/// Characters that some programs treat as the end of a line, besides control characters.
const LINE_SEPARATORS: [char; 2] = ['\u{2028}', '\u{2029}'];

/// The fields of one line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Record {
    text: String,
    /// The end of each field, as an offset in `text`.
    ends: Vec<usize>,
}

// ===== impl Record =====

impl Record {
    /// Returns the number of fields.
    pub(super) const fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns field number `place`, from 0.
    pub(super) fn get(&self, place: usize) -> Option<&str> {
        let end = *self.ends.get(place)?;
        let begin = match place.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        self.text.get(begin..end)
    }

    /// Returns all fields in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|place| self.get(place))
    }

    /// Replaces the fields with those of `line`.
    ///
    /// # Errors
    /// [`Flaw`] if a quote is not closed, is in the middle of a field or has text after it, or if a field contains a
    /// character that some programs treat as the end of a line.
    pub(super) fn split(&mut self, line: &str) -> Result<(), Flaw> {
        self.text.clear();
        self.ends.clear();
        let mut rest = line;
        loop {
            let behind = self.take(rest.trim_start_matches(BLANKS))?;
            let behind = behind.trim_start_matches(BLANKS);
            match behind.strip_prefix(',') {
                Some(next) => rest = next,
                None if behind.is_empty() => return Ok(()),
                None => return Err(self.flaw(behind, "a comma after a closing quote")),
            }
        }
    }

    /// Takes one field from the start of `rest`, and returns the text after it.
    fn take<'a>(&mut self, rest: &'a str) -> Result<&'a str, Flaw> {
        let begin = self.text.len();
        let behind = if let Some(quoted) = rest.strip_prefix('"') {
            self.take_quoted(rest, quoted)?
        } else {
            let (field, behind) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
            if field.contains('"') {
                return Err(self.flaw(field, "no quote in the middle of a field"));
            }
            self.text.push_str(field);
            behind
        };
        let field = self.text.get(begin..).unwrap_or_default();
        if field.contains(|c: char| c.is_control() && c != '\t' || LINE_SEPARATORS.contains(&c)) {
            return Err(self.flaw(field, "no control character and no line separator"));
        }
        let trimmed = field.trim_matches(BLANKS).len();
        let blanks_before = field.len() - field.trim_start_matches(BLANKS).len();
        self.text.drain(begin..begin + blanks_before);
        self.text.truncate(begin + trimmed);
        self.ends.push(self.text.len());
        Ok(behind)
    }

    /// Takes a field up to its closing quote. `quoted` is the text after the opening quote; `whole` starts with that quote.
    fn take_quoted<'a>(&mut self, whole: &str, mut quoted: &'a str) -> Result<&'a str, Flaw> {
        loop {
            let Some((field, behind)) = quoted.split_once('"') else {
                return Err(self.flaw(whole, "a closing quote in the same line"));
            };
            self.text.push_str(field);
            let Some(more) = behind.strip_prefix('"') else {
                return Ok(behind);
            };
            self.text.push('"');
            quoted = more;
        }
    }

    /// Returns the error for `value` in the current field.
    fn flaw(&self, value: &str, expected: &str) -> Flaw {
        Flaw::new(format!("field {}", self.len() + 1), value, expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Result<Vec<String>, String> {
        let mut record = Record::default();
        record.split(line).map_err(|flaw| flaw.to_string())?;
        assert_eq!(record.get(record.len()), None);
        Ok(record.iter().map(str::to_owned).collect())
    }

    #[test]
    fn fields_are_trimmed_and_unquoted() {
        for (line, expected) in [
            ("", &[""][..]),
            ("a", &["a"]),
            (",", &["", ""]),
            ("a,b,", &["a", "b", ""]),
            (" a\t, b b ,\tc", &["a", "b b", "c"]),
            ("\"a\",\"b,c\",\"d\"\"e\"", &["a", "b,c", "d\"e"]),
            (" \" a \" , \"\" ,\"\"\"\"", &["a", "", "\""]),
            ("č,\u{a0}b", &["č", "\u{a0}b"]),
        ] {
            assert_eq!(split(line).unwrap(), expected, "{line:?}");
        }
    }

    #[test]
    fn a_character_that_could_hide_the_end_of_a_row_is_an_error() {
        for (line, expected) in [
            (
                "a,\"b",
                "field 2 is \"\\\"b\", expected a closing quote in the same line",
            ),
            ("a,\"", "field 2 is \"\\\"\", expected a closing quote"),
            (
                "\"a\"\",b",
                "field 1 is \"\\\"a\\\"\\\",b\", expected a closing quote",
            ),
            (
                "\"a\"b,c",
                "field 2 is \"b,c\", expected a comma after a closing quote",
            ),
            (
                "a\"b\",c",
                "field 1 is \"a\\\"b\\\"\", expected no quote in the middle",
            ),
            (
                "a,b\u{2028}",
                "field 2 is \"b\\u{2028}\", expected no control character and no line separator",
            ),
            (
                "a,\"\u{85}\"",
                "field 2 is \"\\u{85}\", expected no control character",
            ),
            ("a\r,b", "field 1 is \"a\\r\", expected no control character"),
        ] {
            let error = split(line).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
