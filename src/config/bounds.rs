//! The bounds of a setting, for error texts and for the reference of the settings.

use figment::{Figment, providers::Serialized, value::Value};

use super::{forms::Form, settings::Config};

/// Returns the form and the bounds of the setting `key` in words, as the end of the sentence "must be".
pub(super) fn accepted(key: &str) -> String {
    let mut words = Form::of(key).words();
    if let Some(limits) = bounds(key) {
        words.push_str(&format!(", {limits}"));
    }
    words
}

/// Returns the accepted values of a setting in words, such as `1s to 1 hour`. `None` if every value of the right form is
/// accepted. The words come from the checks themselves: this function sets the key to values that no check accepts, one
/// after the other, and reads the error.
#[must_use]
pub fn bounds(key: &str) -> Option<String> {
    let texts = ["0s", "1ns", "100000days", "1B", "1000PiB", "?"].map(Value::from);
    let numbers = [
        Value::from(0_u64),
        Value::from(255_u64),
        Value::from(4_000_000_000_u64),
    ];
    let fractions = [Value::from(-1.0), Value::from(1e9)];
    let defaults = Figment::from(Serialized::defaults(Config::default()));
    let refusal = |value: Value| {
        let config: Config = defaults
            .clone()
            .merge(Serialized::global(key, value))
            .extract()
            .ok()?;
        config.check().err().filter(|error| error.key == key)
    };
    let error = texts
        .into_iter()
        .chain(numbers)
        .chain(fractions)
        .find_map(refusal)?;
    // After a colon, the words say what is wrong with this value.
    let bound = error.bound.split(": ").next().unwrap_or_default();
    Some(bound.to_owned())
}
