//! Bearer tokens. The tokens file has one line for each token: `role name sha256`, or `role name sha256 prefix=TEXT` if the token may use only
//! accounts and transactions whose ids begin with the text. The file contains hashes of the tokens, and not the tokens.

use std::{fmt, str::FromStr, sync::Arc};

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use tally_ledger::id::ID_BYTES_MAX;
use thiserror::Error;

/// The rights of a caller. Each role includes the rights of the roles before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Read accounts, transactions, statistics.
    Read,
    /// Process transactions, create accounts.
    Write,
    /// Change circuits and log levels.
    Admin,
}

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The name of the token.
    pub name: Arc<str>,
    /// The role of the token.
    pub role: Role,
    /// The accounts and transactions that the token may use.
    pub scope: Scope,
}

/// The accounts and transactions that a token may use: all, or those whose ids begin with a prefix. The prefix ends with a separator, so
/// `acme/` does not include `acme2/`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope(Option<Arc<str>>);

/// The table's entry of a valid token. With this entry, the service can check later whether the token is still valid,
/// although the service does not keep the token.
#[derive(Clone, PartialEq, Eq)]
pub struct Grant {
    /// The caller to whom the token belongs.
    pub principal: Principal,
    hash: [u8; HASH_BYTES],
}

/// The valid tokens. If the table is empty, every call is rejected.
#[derive(Clone, Default)]
pub struct TokenTable(Vec<Grant>);

/// An error in a tokens file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TokenFileError {
    /// The file is not UTF-8.
    #[error("is not UTF-8 text")]
    NotText,
    /// A line is malformed.
    #[error("line {line}: {what}")]
    Line {
        /// The number of the line, from 1.
        line: usize,
        /// The error in the line.
        what: String,
    },
    /// The file has more than [`TOKENS_MAX`] tokens.
    #[error("has more than {TOKENS_MAX} tokens")]
    TooMany,
}

/// Maximum number of tokens in a file. Every call compares its token with all of them.
pub const TOKENS_MAX: usize = 256;
/// Maximum length of the name of a token, in bytes.
pub const TOKEN_NAME_BYTES_MAX: usize = 64;
/// The characters of ids that separate their parts. A prefix ends with one of them.
const SEPARATORS: &str = "_-.:/@";
/// Length of a SHA-256 hash, in bytes. Passwords need a slow hash, but tokens do not: tokens are long and random, so
/// nobody can guess a token from its hash.
const HASH_BYTES: usize = 32;

// ===== impl Role =====

impl Role {
    /// Returns the name in the tokens file: `read`, `write` or `admin`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Write => "write",
            Role::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "read" => Ok(Role::Read),
            "write" => Ok(Role::Write),
            "admin" => Ok(Role::Admin),
            _ => Err(()),
        }
    }
}

// ===== impl Scope =====

impl Scope {
    /// All accounts and transactions.
    pub const ALL: Scope = Scope(None);

    /// The accounts and transactions whose ids begin with `prefix`.
    ///
    /// # Errors
    /// What is wrong with the prefix.
    pub fn with_prefix(prefix: &str) -> Result<Self, String> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || SEPARATORS.as_bytes().contains(&byte);
        if prefix.is_empty() || prefix.len() > ID_BYTES_MAX {
            let length = prefix.len();
            return Err(format!(
                "must be a prefix of 1 to {ID_BYTES_MAX} bytes, but has {length}"
            ));
        }
        if !prefix.bytes().all(allowed) {
            return Err(format!(
                "must be a prefix of A-Z a-z 0-9 and {SEPARATORS}, as ids are, but is {prefix:?}"
            ));
        }
        if prefix.ends_with(|last: char| last.is_ascii_alphanumeric()) {
            return Err(format!(
                "must be a prefix that ends with a separator, one of {SEPARATORS}, but is {prefix:?}"
            ));
        }
        Ok(Scope(Some(prefix.into())))
    }

    /// Whether an account or a transaction with this id belongs to the scope.
    #[inline]
    #[must_use]
    pub fn contains(&self, id: &[u8]) -> bool {
        self.0
            .as_ref()
            .is_none_or(|prefix| id.starts_with(prefix.as_bytes()))
    }

    /// The prefix of all ids of the scope; `None` if the scope is not restricted.
    #[must_use]
    pub fn prefix(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

// ===== impl TokenTable =====

impl TokenTable {
    /// Parses a tokens file: one token in a line, as `role name sha256-in-hex`. Ignores blank lines and lines that
    /// begin with `#`. A file without tokens gives an empty table.
    ///
    /// # Errors
    /// [`TokenFileError`] if the file is malformed. The text of the error never contains a hash.
    pub fn parse(text: &str) -> Result<Self, TokenFileError> {
        let mut entries = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if entries.len() == TOKENS_MAX {
                return Err(TokenFileError::TooMany);
            }
            let wrong = |what| TokenFileError::Line {
                line: index + 1,
                what,
            };
            let entry = Grant::parse(line).map_err(wrong)?;
            // If a token were in two lines, its role would depend on the order of the lines.
            if entries.iter().any(|other: &Grant| other.hash == entry.hash) {
                return Err(wrong("sha256: is also in an earlier line".to_owned()));
            }
            entries.push(entry);
        }
        Ok(TokenTable(entries))
    }

    /// Returns the entry of `token`, or `None` if the token is not valid. The duration of the search does not depend on
    /// the contents of the table or on the position of the entry, so a caller learns nothing from the duration.
    #[must_use]
    pub fn find(&self, token: &[u8]) -> Option<Grant> {
        self.find_hash(&Sha256::digest(token).into())
    }

    /// Looks up the token of `grant` in this table, and returns the entry, or `None` if the token is not valid. The
    /// role of the entry may differ from the role of `grant`.
    #[must_use]
    pub fn renewed(&self, grant: &Grant) -> Option<Grant> {
        self.find_hash(&grant.hash)
    }

    /// Returns the owners of the valid tokens, in the order of the file.
    pub fn principals(&self) -> impl Iterator<Item = &Principal> {
        self.0.iter().map(|grant| &grant.principal)
    }

    /// Returns the number of valid tokens.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there is no valid token.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find_hash(&self, hash: &[u8; HASH_BYTES]) -> Option<Grant> {
        let mut found = u32::MAX;
        for (index, entry) in (0_u32..).zip(&self.0) {
            let same: Choice = entry.hash.ct_eq(hash);
            found.conditional_assign(&index, same);
        }
        self.0.get(found as usize).cloned()
    }
}

impl fmt::Debug for TokenTable {
    /// Formats the table without the hashes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|entry| &entry.principal))
            .finish()
    }
}

// ===== impl Grant =====

impl fmt::Debug for Grant {
    /// Formats the entry without the hash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Grant").field(&self.principal).finish()
    }
}

impl Grant {
    fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let (Some(role), Some(name), Some(hash), prefix, None) = (
            words.next(),
            words.next(),
            words.next(),
            words.next(),
            words.next(),
        ) else {
            return Err("must be: role name sha256 [prefix=TEXT]".to_owned());
        };
        let scope = match prefix.map(|word| word.strip_prefix("prefix=").ok_or(word)) {
            None => Scope::ALL,
            Some(Ok(prefix)) => Scope::with_prefix(prefix)?,
            Some(Err(word)) => return Err(format!("{word:?}: must be prefix=TEXT")),
        };
        let role = role
            .parse()
            .map_err(|()| format!("role {role:?}: must be read, write or admin"))?;
        if name.len() > TOKEN_NAME_BYTES_MAX {
            let length = name.len();
            return Err(format!(
                "name of {length} bytes: must be at most {TOKEN_NAME_BYTES_MAX}"
            ));
        }
        let hash = parse_hex(hash).ok_or("sha256: must be 64 hexadecimal digits")?;
        // An operator who hashes an unset shell variable with `sha256sum` gets the hash of an empty token. Every caller
        // could send an empty token.
        if hash == <[u8; HASH_BYTES]>::from(Sha256::digest(b"")) {
            return Err("sha256: is the hash of an empty token".to_owned());
        }
        Ok(Grant {
            principal: Principal {
                name: name.into(),
                role,
                scope,
            },
            hash,
        })
    }
}

/// Returns the SHA-256 hash of a token in hexadecimal digits, in the form of the tokens file.
#[must_use]
pub fn hash_hex(token: &[u8]) -> String {
    let hash: [u8; HASH_BYTES] = Sha256::digest(token).into();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_hex(text: &str) -> Option<[u8; HASH_BYTES]> {
    let mut bytes = [0; HASH_BYTES];
    let digits = text.as_bytes();
    if digits.len() != 2 * HASH_BYTES {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    // `from_str_radix` accepts a plus sign, so the digits are checked separately.
    digits.iter().all(u8::is_ascii_hexdigit).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_entry_of_a_token() {
        let text = format!(
            "# tokens of the test\n\nread  ana {}\nadmin root {}\n",
            hash_hex(b"secret-a"),
            hash_hex(b"secret-r")
        );
        let table = TokenTable::parse(&text).unwrap();
        let found = |token: &str| {
            let Grant { principal, .. } = table.find(token.as_bytes())?;
            Some((principal.name.to_string(), principal.role))
        };
        assert_eq!(found("secret-a"), Some(("ana".to_owned(), Role::Read)));
        assert_eq!(found("secret-r"), Some(("root".to_owned(), Role::Admin)));
        assert_eq!(found("secret-"), None);
        assert_eq!(found(""), None);
        let grant = table.find(b"secret-a").unwrap();
        let shown = format!("{table:?} {grant:?}");
        assert!(
            shown.contains("ana") && !shown.contains(&hash_hex(b"secret-a")[..4]),
            "{shown}"
        );
    }

    #[test]
    fn each_role_is_higher_than_the_roles_before_it() {
        assert!(Role::Admin > Role::Write && Role::Write > Role::Read);
    }

    #[test]
    fn a_scope_ends_at_a_separator() {
        let hash = hash_hex(b"x");
        let tokens = TokenTable::parse(&format!("write shop {hash} prefix=acme/")).unwrap();
        let scope = tokens.find(b"x").unwrap().principal.scope;
        assert_eq!(scope.prefix(), Some("acme/"));
        assert!(scope.contains(b"acme/1") && scope.contains(b"acme/"));
        assert!(!scope.contains(b"acme2/1") && !scope.contains(b"acme") && !scope.contains(b""));
        assert!(Scope::ALL.contains(b"anything") && Scope::ALL.prefix().is_none());
    }

    #[test]
    fn an_error_names_the_line() {
        let hash = hash_hex(b"x");
        for (text, expected) in [
            (
                "read ana".to_owned(),
                "line 1: must be: role name sha256 [prefix=TEXT]",
            ),
            (
                format!("read ana {hash} acme/"),
                "line 1: \"acme/\": must be prefix=TEXT",
            ),
            (
                format!("read ana {hash} prefix=acme"),
                "line 1: must be a prefix that ends with a separator, one of _-.:/@, but is \"acme\"",
            ),
            (
                format!("read ana {hash} prefix=a+/"),
                "line 1: must be a prefix of A-Z a-z 0-9 and _-.:/@, as ids are, but is \"a+/\"",
            ),
            (
                format!("read ana {hash} prefix={}/", "n".repeat(64)),
                "line 1: must be a prefix of 1 to 64 bytes, but has 65",
            ),
            (
                format!("\nowner ana {hash}"),
                "line 2: role \"owner\": must be read, write or admin",
            ),
            (
                "read ana 12".to_owned(),
                "line 1: sha256: must be 64 hexadecimal digits",
            ),
            (
                format!("read ana +{}", &hash[1..]),
                "line 1: sha256: must be 64 hexadecimal digits",
            ),
            (
                format!("read {} {hash}", "n".repeat(65)),
                "line 1: name of 65 bytes: must be at most 64",
            ),
            (
                format!("read ana {}", hash_hex(b"")),
                "line 1: sha256: is the hash of an empty token",
            ),
            (
                format!("read ana {hash}\nadmin ana {hash}\n"),
                "line 2: sha256: is also in an earlier line",
            ),
            (
                (0..=TOKENS_MAX)
                    .map(|number| format!("read ana {}\n", hash_hex(number.to_string().as_bytes())))
                    .collect(),
                "has more than 256 tokens",
            ),
        ] {
            assert_eq!(TokenTable::parse(&text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_file_without_tokens_refuses_every_token() {
        for text in ["", "\n", "# nobody\n"] {
            let table = TokenTable::parse(text).unwrap();
            assert!(table.is_empty(), "{text:?}");
            for token in ["", "x"] {
                assert_eq!(table.find(token.as_bytes()), None, "{text:?}");
            }
        }
    }

    #[test]
    fn a_grant_finds_the_current_entry_of_its_token() {
        let line = |role: &str| TokenTable::parse(&format!("{role} ana {}", hash_hex(b"secret"))).unwrap();
        let grant = line("write").find(b"secret").unwrap();
        assert_eq!(line("read").renewed(&grant).unwrap().principal.role, Role::Read);
        assert_eq!(TokenTable::default().renewed(&grant), None);
    }
}
