//! Texts of errors of the operating system, as people read them.

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

#[cfg(test)]
mod tests {
    use super::*;

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
