//! The form of a setting: which kind of value it takes, for errors and for the values of environment variables.

use figment::{Error, Figment, error::Kind, providers::Serialized, value::Value};

use super::{keys::general_key, settings::Config};

/// The kind of value that a setting takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// Any text: a path, a list of CPUs, a filter.
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Whole,
    /// A number that may have a fraction.
    Number,
    /// A time with a unit.
    Time,
    /// A time with a unit, or `auto`.
    TimeOrAuto,
    /// A number of bytes.
    Size,
    /// An IP address with a port.
    Address,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A table of settings.
    Table,
}

// ===== impl Form =====

impl Form {
    /// Returns the form of the setting `key`. The form comes from the type of the setting: this function tries values
    /// of each form, one after the other.
    pub(super) fn of(key: &str) -> Self {
        let key = general_key(key);
        let try_value = |value: Value| -> Result<(), Kind> {
            let extracted: Result<Config, Error> = Figment::from(Serialized::global(&key, value)).extract();
            extracted.map(drop).map_err(|error| error.kind)
        };
        let accepts = |value: Value| try_value(value).is_ok();
        // No word of a setting is a question mark, so only a setting that takes any text accepts it.
        let words = match try_value("?".into()) {
            Ok(()) => return Form::Text,
            Err(Kind::UnknownVariant(_, words)) => Some(words),
            Err(_) => None,
        };
        if let Some(words) = words {
            Form::OneOf(words)
        } else if accepts(true.into()) {
            Form::Flag
        } else if accepts("1s".into()) {
            if accepts("auto".into()) {
                Form::TimeOrAuto
            } else {
                Form::Time
            }
        } else if accepts("1MiB".into()) {
            Form::Size
        } else if accepts("127.0.0.1:1".into()) {
            Form::Address
        } else if accepts(0.5.into()) {
            Form::Number
        } else if accepts(1_u8.into()) {
            Form::Whole
        } else {
            Form::Table
        }
    }

    /// Describes the form in words, as the end of the sentence "must be".
    pub(super) fn words(&self) -> String {
        match self {
            Form::Text => "a text in quotes".to_owned(),
            Form::Flag => "true or false".to_owned(),
            Form::Whole => "a whole number".to_owned(),
            Form::Number => "a number".to_owned(),
            Form::Time => "a time with a unit, such as 20ms".to_owned(),
            Form::TimeOrAuto => "\"auto\", or a time with a unit, such as 20ms".to_owned(),
            Form::Size => "a size with a unit, such as 64MiB".to_owned(),
            Form::Address => "an IP address with a port, for example 127.0.0.1:50051".to_owned(),
            Form::OneOf(words) => format!("one of {}", words.join(", ")),
            Form::Table => "a table of settings".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::known_keys;

    #[test]
    fn the_form_of_a_setting_comes_from_its_type() {
        for (key, expected) in [
            ("store.data", Form::Text),
            ("security.tokens_file", Form::Text),
            ("affinity.cpus.exec", Form::Text),
            ("telemetry.log", Form::Text),
            ("admin.enabled", Form::Flag),
            ("breaker.strict", Form::Flag),
            ("batch.siblings", Form::Whole),
            ("affinity.fifo.priority", Form::Whole),
            ("telemetry.trace_ratio", Form::Number),
            ("server.drain", Form::Time),
            ("batch.latency_budget", Form::Time),
            ("breaker.slow_threshold", Form::TimeOrAuto),
            ("breaker.methods.CreateAccounts.slow_threshold", Form::TimeOrAuto),
            ("store.segment_bytes", Form::Size),
            ("admin.listen", Form::Address),
            ("telemetry.format", Form::OneOf(&["auto", "text", "json"])),
            ("server", Form::Table),
            ("breaker.methods", Form::Table),
        ] {
            assert_eq!(Form::of(key), expected, "{key}");
        }
        let tables = known_keys()
            .into_iter()
            .filter(|key| Form::of(key) == Form::Table);
        assert_eq!(tables.collect::<Vec<_>>(), ["breaker.methods"]);
    }
}
