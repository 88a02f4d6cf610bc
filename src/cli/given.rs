//! Finds the options that are on the command line of the process. Other options have the value of their environment variable, or their
//! default.

use std::ffi::OsString;

/// Returns the names of the long options in `words`, without their values.
pub(super) fn options_in(words: impl Iterator<Item = OsString>) -> Vec<String> {
    words
        .take_while(|word| word != "--")
        .filter_map(|word| {
            let option = word.to_str()?.strip_prefix("--")?;
            let name = option.split_once('=').map_or(option, |(name, _)| name);
            Some(name.to_owned())
        })
        .collect()
}

/// Returns whether the command line of the process has the long option `option`, which is written with its dashes.
pub(super) fn is_given(option: &str) -> bool {
    let given = options_in(std::env::args_os().skip(1));
    given.iter().any(|given| option.strip_prefix("--") == Some(given))
}
