//! Identifiers: which characters and lengths they may have.
//!
//! An id is plain text with a charset that is safe in URLs, log lines, file names and CSV without quoting, so that one
//! rule serves accounts, transactions and assets.

use thiserror::Error;

/// Longest account or transaction id, in bytes (every allowed character is one byte).
pub const ID_BYTES_MAX: usize = 64;

/// Longest asset name, in bytes.
pub const ASSET_BYTES_MAX: usize = 16;

/// What is wrong with an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IdError {
    /// It has no characters.
    #[error("must not be empty")]
    Empty,
    /// It has too many characters.
    #[error("has {length} bytes, at most {length_max} are allowed")]
    TooLong {
        /// Bytes it has.
        length: usize,
        /// Bytes it may have.
        length_max: usize,
    },
    /// It has a character outside the charset.
    #[error("has the character {character:?} at byte {offset}, allowed are A-Z a-z 0-9 _ - . : / @")]
    Character {
        /// The first offending character.
        character: char,
        /// Where it stands.
        offset: usize,
    },
}

/// Checks an account or transaction id.
///
/// # Errors
/// The first rule that `id` breaks.
pub fn check_id(id: &str) -> Result<(), IdError> {
    check(id, ID_BYTES_MAX)
}

/// Checks an asset name.
///
/// # Errors
/// The first rule that `asset` breaks.
pub fn check_asset(asset: &str) -> Result<(), IdError> {
    check(asset, ASSET_BYTES_MAX)
}

/// Whether `bytes` are an account or transaction id. They are ASCII then.
#[must_use]
pub fn is_id(bytes: &[u8]) -> bool {
    // No early exit, so that the compiler can check many bytes at once.
    (1..=ID_BYTES_MAX).contains(&bytes.len())
        && bytes.iter().fold(true, |so_far, byte| so_far & is_allowed(*byte))
}

fn check(text: &str, length_max: usize) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > length_max {
        return Err(IdError::TooLong {
            length: text.len(),
            length_max,
        });
    }
    let not_allowed = |character: char| !u8::try_from(character).is_ok_and(is_allowed);
    match text.char_indices().find(|(_, character)| not_allowed(*character)) {
        None => Ok(()),
        Some((offset, character)) => Err(IdError::Character { character, offset }),
    }
}

/// By ranges: `-` to `:` are `-./0123456789:`, and `@` to `Z` are `@` and the capitals.
const fn is_allowed(byte: u8) -> bool {
    (byte.wrapping_sub(b'-') <= b':' - b'-')
        | (byte.wrapping_sub(b'@') <= b'Z' - b'@')
        | (byte.wrapping_sub(b'a') <= b'z' - b'a')
        | (byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_every_allowed_character_and_the_longest_id() {
        assert_eq!(check_id("AZaz09_-.:/@"), Ok(()));
        assert_eq!(check_id(&"x".repeat(ID_BYTES_MAX)), Ok(()));
        assert_eq!(check_asset("ETH-wei"), Ok(()));
    }

    #[test]
    fn the_ranges_are_the_charset_and_both_checks_agree() {
        for character in ('\0'..='\u{2ff}').chain(['é', '€', '😀']) {
            let allowed = character.is_ascii_alphanumeric() || "_-.:/@".contains(character);
            let text = format!("a{character}");
            assert_eq!(check_id(&text).is_ok(), allowed, "{character:?}");
            assert_eq!(is_id(text.as_bytes()), allowed, "{character:?}");
        }
        for length in [0, 1, ID_BYTES_MAX, ID_BYTES_MAX + 1] {
            let text = "x".repeat(length);
            assert_eq!(is_id(text.as_bytes()), check_id(&text).is_ok(), "{length}");
        }
    }

    #[test]
    fn names_what_is_wrong() {
        assert_eq!(check_id(""), Err(IdError::Empty));
        assert_eq!(
            check_id(&"x".repeat(65)),
            Err(IdError::TooLong {
                length: 65,
                length_max: 64
            })
        );
        assert_eq!(
            check_asset(&"x".repeat(17)),
            Err(IdError::TooLong {
                length: 17,
                length_max: 16
            })
        );
        assert_eq!(
            check_id("a b"),
            Err(IdError::Character {
                character: ' ',
                offset: 1
            })
        );
        assert_eq!(
            check_id("né"),
            Err(IdError::Character {
                character: 'é',
                offset: 1
            })
        );
    }
}
