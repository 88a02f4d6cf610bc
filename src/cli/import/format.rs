//! The formats of files, and the command that imports a file in another encoding.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::encoding::Encoding;

/// The format of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Chosen by the file name: .csv, .ndjson, .jsonl.
    #[default]
    Auto,
    /// Comma-separated values with a header: posted transactions only.
    Csv,
    /// One message of the API per line, as JSON: a transaction, an account, or an update of an account.
    Ndjson,
}

/// The name of standard input in messages.
pub(super) const STDIN_NAME: &str = "standard input";

// ===== impl Format =====

impl Format {
    /// Returns the chosen format, or else the format that the name of the file shows; `None` if the name shows no format.
    pub(super) fn resolve(self, file: &Path) -> Option<Self> {
        match self {
            Format::Csv | Format::Ndjson => Some(self),
            Format::Auto => match file.extension()?.to_str()?.to_ascii_lowercase().as_str() {
                "csv" => Some(Format::Csv),
                "ndjson" | "jsonl" => Some(Format::Ndjson),
                _ => None,
            },
        }
    }
}

/// Returns a command that converts a file and imports it. `options` are the options that the user gave ([`given_options`]).
pub(super) fn converting(file: &Path, format: Format, encoding: Encoding, options: &str) -> String {
    let format = match format {
        Format::Auto => "FORMAT",
        Format::Csv => "csv",
        Format::Ndjson => "ndjson",
    };
    let name = (file != Path::new(STDIN_NAME)).then(|| quoted(&file.display().to_string()));
    let command = encoding.command(name.as_deref());
    format!("{command} | tally import --format {format}{options} -")
}

/// Returns the options among `arguments`, which are the command line after `import`. The options are quoted for a shell, and each begins with
/// a blank. Leaves out the files and `--format`, and the value of `--token`, which is a secret.
pub(super) fn given_options(arguments: impl IntoIterator<Item = String>, files: &[PathBuf]) -> String {
    let mut options = String::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if argument == "--format" {
            arguments.next();
        } else if argument == "--token" {
            arguments.next();
            options.push_str(" --token TOKEN");
        } else if argument.starts_with("--token=") {
            options.push_str(" --token TOKEN");
        } else if argument != "--"
            && !argument.starts_with("--format=")
            && !files.iter().any(|file| *file == Path::new(&argument))
        {
            options.push(' ');
            options.push_str(&quoted(&argument));
        }
    }
    options
}

/// Returns a word, quoted for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |character: char| character.is_alphanumeric() || "-_./:,=@%+".contains(character);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_convert_names_the_file_the_format_and_the_given_options() {
        let (gzip, utf16) = (Encoding::Gzip, Encoding::Utf16);
        for (file, format, encoding, options, expected) in [
            (
                "a.csv.gz",
                Format::Csv,
                gzip,
                " --asset EUR",
                "gzip -dc a.csv.gz | tally import --format csv --asset EUR -",
            ),
            (
                "a",
                Format::Auto,
                gzip,
                "",
                "gzip -dc a | tally import --format FORMAT -",
            ),
            (
                "my file.csv",
                Format::Csv,
                utf16,
                "",
                "iconv -f UTF-16 -t UTF-8 'my file.csv' | tally import --format csv -",
            ),
            (
                STDIN_NAME,
                Format::Ndjson,
                gzip,
                "",
                "gzip -dc | tally import --format ndjson -",
            ),
        ] {
            assert_eq!(converting(Path::new(file), format, encoding, options), expected);
        }
    }

    #[test]
    fn the_options_of_the_user_are_repeated_without_files_and_secrets() {
        let arguments = [
            "--asset",
            "EUR",
            "a.csv.gz",
            "--format",
            "csv",
            "--token",
            "s3cret",
            "--columns",
            "minor_units=Betrag in Cent",
            "--",
            "b.csv",
            "--format=csv",
            "--token=s3cret",
        ];
        let files = ["a.csv.gz", "b.csv"].map(PathBuf::from);
        assert_eq!(
            given_options(arguments.map(str::to_owned), &files),
            " --asset EUR --token TOKEN --columns 'minor_units=Betrag in Cent' --token TOKEN"
        );
        assert_eq!(given_options([], &files), "");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
