//! Which names a token may have. An operator must see a name as it is in the tokens file and in the audit events: two names that
//! look equal must be equal.

use std::ops::RangeInclusive;

use crate::security::TOKEN_NAME_BYTES_MAX;

/// Characters that are invisible, or that change the direction of the text around them: the format characters (Cf) and the
/// default ignorable code points of Unicode 16, and the letters that are blank.
const INVISIBLE: [RangeInclusive<char>; 29] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{600}'..='\u{605}',
    '\u{61c}'..='\u{61c}',
    '\u{6dd}'..='\u{6dd}',
    '\u{70f}'..='\u{70f}',
    '\u{890}'..='\u{891}',
    '\u{8e2}'..='\u{8e2}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200f}',
    '\u{202a}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{2800}'..='\u{2800}',
    '\u{3164}'..='\u{3164}',
    '\u{e000}'..='\u{f8ff}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{ffff}',
    '\u{110bd}'..='\u{110bd}',
    '\u{110cd}'..='\u{110cd}',
    '\u{13430}'..='\u{1343f}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
    '\u{f0000}'..='\u{ffffd}',
    '\u{100000}'..='\u{10ffff}',
];

/// Checks the name of a new token.
///
/// # Errors
/// What is wrong with the name, and the bound.
pub(super) fn name(text: &str) -> Result<String, String> {
    if !(1..=TOKEN_NAME_BYTES_MAX).contains(&text.len()) {
        return Err(format!(
            "must be 1 to {TOKEN_NAME_BYTES_MAX} bytes, but has {}",
            text.len()
        ));
    }
    if text.starts_with('#') {
        return Err(
            "must be a name that does not begin with #, which begins a comment in the tokens file".to_owned(),
        );
    }
    match text
        .chars()
        .find_map(|character| Some((character, refused(character)?)))
    {
        None => Ok(text.to_owned()),
        Some((character, kind)) => Err(format!(
            "must be a name without the character U+{:04X}, {kind}",
            u32::from(character)
        )),
    }
}

/// Returns why a name must not have this character; `None` if it may.
fn refused(character: char) -> Option<&'static str> {
    if character.is_whitespace() {
        Some("which is a blank")
    } else if character.is_control() {
        Some("which is a control character")
    } else if INVISIBLE.iter().any(|range| range.contains(&character)) {
        Some("which is invisible or changes the direction of the text")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_can_not_be_seen_as_it_is_is_refused() {
        for good in ["a", "payments/eu-1", "Jiří", "J\u{30c}", "支払い", "a#b", "भुगतान"] {
            assert_eq!(name(good).as_deref(), Ok(good));
        }
        for (bad, expected) in [
            ("", "must be 1 to 64 bytes, but has 0"),
            (
                "a b",
                "must be a name without the character U+0020, which is a blank",
            ),
            (
                "a\u{a0}b",
                "must be a name without the character U+00A0, which is a blank",
            ),
            (
                "a\u{1b}[31m",
                "must be a name without the character U+001B, which is a control character",
            ),
            (
                "a\u{200b}",
                "must be a name without the character U+200B, which is invisible or",
            ),
            (
                "\u{202e}a",
                "must be a name without the character U+202E, which is invisible or",
            ),
            (
                "a\u{2066}b",
                "must be a name without the character U+2066, which is invisible or",
            ),
            (
                "\u{feff}a",
                "must be a name without the character U+FEFF, which is invisible or",
            ),
            (
                "a\u{3164}",
                "must be a name without the character U+3164, which is invisible or",
            ),
            (
                "a\u{e0041}",
                "must be a name without the character U+E0041, which is invisible or",
            ),
            ("#a", "must be a name that does not begin with #"),
        ] {
            let error = name(bad).unwrap_err();
            assert!(error.starts_with(expected), "{bad:?}: {error}");
        }
        assert!(
            name(&"x".repeat(65))
                .unwrap_err()
                .starts_with("must be 1 to 64 bytes, but has 65")
        );
    }
}
