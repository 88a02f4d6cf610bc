//! Identifiers: their allowed characters and lengths.
//!
//! All characters of an id are safe in URLs, log lines, file names and CSV without quoting. So one rule serves
//! accounts, transactions and assets.

use thiserror::Error;

/// Maximum length of an account or transaction id, in bytes. Every allowed character is one byte.
pub const ID_BYTES_MAX: usize = 64;

/// Maximum length of an asset name, in bytes.
pub const ASSET_BYTES_MAX: usize = 16;

/// Why an identifier is invalid. The message continues a sentence that begins with the name of the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IdError {
    /// The identifier is empty.
    #[error("must not be empty")]
    Empty,
    /// The identifier is too long.
    #[error("has {length} bytes, at most {length_max} are allowed")]
    TooLong {
        /// The length of the identifier, in bytes.
        length: usize,
        /// The maximum length, in bytes.
        length_max: usize,
    },
    /// The identifier contains a character that is not allowed.
    #[error("has the character {character:?} at byte {offset}, allowed are A-Z a-z 0-9 _ - . : / @")]
    Character {
        /// The first character that is not allowed.
        character: char,
        /// The offset of this character in the identifier, in bytes.
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

/// Whether `bytes` are a valid account or transaction id. A valid id is ASCII.
#[must_use]
#[expect(clippy::indexing_slicing, reason = "the table has an element for every byte")]
pub fn is_id(bytes: &[u8]) -> bool {
    // The loop has no early exit: nearly every id is valid, so an exit would save no work and cost a branch per byte.
    (1..=ID_BYTES_MAX).contains(&bytes.len())
        && bytes
            .iter()
            .fold(true, |so_far, byte| so_far & ALLOWED[usize::from(*byte)])
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

/// The result of [`is_allowed`] for every byte. Each transaction has at least three ids to check, and a lookup in this
/// table takes a third of the instructions of [`is_allowed`].
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static ALLOWED: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = u8::MAX;
    while byte > 0 {
        allowed[byte as usize] = is_allowed(byte);
        byte -= 1;
    }
    allowed
};

/// Whether an id may contain this character. The range from `-` to `:` is `-./0123456789:`. The range from `@` to `Z`
/// is `@` and the capital letters.
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
    fn every_allowed_character_and_the_longest_id_are_accepted() {
        assert_eq!(check_id("AZaz09_-.:/@"), Ok(()));
        assert_eq!(check_id(&"x".repeat(ID_BYTES_MAX)), Ok(()));
        assert_eq!(check_asset("ETH-wei"), Ok(()));
    }

    #[test]
    fn the_ranges_match_the_allowed_characters_and_both_checks_agree() {
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
    fn the_error_names_the_broken_rule() {
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
