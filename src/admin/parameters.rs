//! The parameters in the query of a request's address.

use axum::http::StatusCode;

use super::access::Refusal;

/// The parameters of a request.
#[derive(Debug, Default)]
pub(super) struct Parameters(Vec<(String, String)>);

/// Number of characters of a parameter that an error shows.
const SHOWN_CHARS_MAX: usize = 100;

// ===== impl Parameters =====

impl Parameters {
    /// Reads a query such as `account_id=a%2Fb&page_token=e1`. Each parameter must be one of `known`, and must not be repeated.
    ///
    /// # Errors
    /// Status 400.
    pub(super) fn read(query: &str, known: &[&str]) -> Result<Self, Refusal> {
        let mut read = Parameters::default();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (Some(name), Some(value)) = (decoded(name), decoded(value)) else {
                return Err(refused("the query has a wrong percent-encoding".to_owned()));
            };
            if !known.contains(&name.as_str()) {
                let name: String = name.chars().take(SHOWN_CHARS_MAX).collect();
                let known = known.join(" and ");
                return Err(refused(format!(
                    "{name:?} is not a parameter of this path; it has {known}"
                )));
            }
            if read.find(&name).is_some() {
                return Err(refused(format!("{name} is repeated")));
            }
            read.0.push((name, value));
        }
        Ok(read)
    }

    /// Returns the value of a parameter; an empty text if the request does not have it.
    pub(super) fn text(&self, name: &str) -> String {
        self.find(name).unwrap_or_default().to_owned()
    }

    /// Returns the value of a parameter that is a sequence; 0 if the request does not have it.
    ///
    /// # Errors
    /// Status 400.
    pub(super) fn sequence(&self, name: &str) -> Result<i64, Refusal> {
        let Some(text) = self.find(name) else {
            return Ok(0);
        };
        let parsed = text.parse().ok().filter(|sequence| *sequence >= 0);
        parsed.ok_or_else(|| {
            let text: String = text.chars().take(SHOWN_CHARS_MAX).collect();
            let bound = i64::MAX;
            refused(format!(
                "{name}: is {text:?}, must be a whole number from 0 to {bound}"
            ))
        })
    }

    fn find(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }
}

fn refused(what: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, what + "\n")
}

/// Decodes percent-encoded text, with `+` for a space. `None` if a `%` is not followed by two digits, or the bytes are not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_unknown_repeated_and_malformed_ones_are_refused() {
        let known = ["account_id", "page_token"];
        let read = Parameters::read("account_id=acme%2Fwallet%3a1+x&page_token", &known).unwrap();
        assert_eq!(read.text("account_id"), "acme/wallet:1 x");
        assert_eq!(
            (read.text("page_token"), read.text("other")),
            (String::new(), String::new())
        );
        for (query, expected) in [
            (
                "id=1",
                "\"id\" is not a parameter of this path; it has account_id and page_token\n",
            ),
            ("account_id=1&account_id=2", "account_id is repeated\n"),
            ("account_id=%", "the query has a wrong percent-encoding\n"),
            ("account_id=%f", "the query has a wrong percent-encoding\n"),
            ("account_id=%zz", "the query has a wrong percent-encoding\n"),
            ("account_id=%ff", "the query has a wrong percent-encoding\n"),
        ] {
            let refusal = Parameters::read(query, &known).unwrap_err();
            assert_eq!(
                (refusal.status, &*refusal.text),
                (StatusCode::BAD_REQUEST, expected),
                "{query}"
            );
        }
    }

    #[test]
    fn a_sequence_is_a_number_within_its_bounds() {
        let sequence = |query: &str| Parameters::read(query, &["from"]).unwrap().sequence("from");
        assert_eq!(sequence(""), Ok(0));
        assert_eq!(sequence("from=7"), Ok(7));
        assert_eq!(sequence("from=9223372036854775807"), Ok(i64::MAX));
        for wrong in ["-1", "9223372036854775808", "1.5", "x", ""] {
            let refusal = sequence(&format!("from={wrong}")).unwrap_err();
            let expected =
                format!("from: is {wrong:?}, must be a whole number from 0 to 9223372036854775807\n");
            assert_eq!(refusal.text, expected);
        }
    }
}
