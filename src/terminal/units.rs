//! Numbers with units, as people write them: `1 s`, `116 ms`, `1,234,567`, `1.5 MiB`.

use std::time::Duration;

use bytesize::ByteSize;

/// The units of a time below one minute, with their lengths in nanoseconds.
const TIME_UNITS: [(&str, u128); 4] = [("ns", 1), ("µs", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];
/// Times below this bound are written with three digits and one unit. The bound is the shortest time that rounds to 60.0 s.
const SHORT_TIME_NANOS: u128 = 59_950_000_000;
/// The units of a time of one minute or more, longest first, with their lengths in seconds.
const LONG_TIME_UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];

/// Returns a time with three significant digits (`1 s`, `116 ms`, `2.35 µs`), or from one minute on with its two largest units
/// (`2 min 5 s`, `3 h`).
#[must_use]
pub fn time(time: Duration) -> String {
    let nanos = time.as_nanos();
    if nanos == 0 {
        return "0 s".to_owned();
    }
    let short = || {
        TIME_UNITS
            .iter()
            .find_map(|(unit, length)| Some(format!("{} {unit}", significant(nanos, *length)?)))
    };
    if nanos < SHORT_TIME_NANOS
        && let Some(text) = short()
    {
        return text;
    }
    long_time(Duration::from_secs(
        time.as_secs() + u64::from(time.subsec_millis() >= 500),
    ))
}

/// Returns a delay after which a retry is worthwhile: in whole seconds from one second on, otherwise in milliseconds, at
/// least `1 ms`. Rounds up, because an earlier retry would be rejected again.
#[must_use]
pub fn delay(delay: Duration) -> String {
    let millis = delay.as_nanos().div_ceil(1_000_000).max(1);
    if millis < 1000 {
        format!("{millis} ms")
    } else {
        format!("{} s", millis.div_ceil(1000))
    }
}

/// Formats the time of a protobuf message like [`time`]. A missing or negative time is zero.
#[must_use]
pub fn proto_time(duration: Option<prost_types::Duration>) -> String {
    time(to_std(duration))
}

/// Returns the time of a protobuf message. A missing or negative time is zero.
#[must_use]
pub fn to_std(duration: Option<prost_types::Duration>) -> Duration {
    duration
        .and_then(|duration| Duration::try_from(duration).ok())
        .unwrap_or_default()
}

/// Returns a number with thousands separators, for example `1,234,567`.
#[must_use]
pub fn number(number: i64) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", unsigned_number(number.unsigned_abs().into()))
}

/// Returns a number with thousands separators, for example an amount in minor units.
#[must_use]
pub fn unsigned_number(number: u128) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a number with its noun, for example `1 block` or `1,234 blocks`. The plural of `noun` must end in `s`.
#[must_use]
pub fn counted(number: i64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", self::number(number))
}

/// Returns a number without its fraction, with thousands separators, for example a rate per second.
#[must_use]
pub fn whole_number(number: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a number beyond i64 becomes its bound"
    )]
    let whole = number.round() as i64;
    self::number(whole)
}

/// Returns a number of bytes with a binary unit, for example `1.5 MiB`. A negative number is zero.
#[must_use]
pub fn bytes(bytes: i64) -> String {
    ByteSize::b(u64::try_from(bytes).unwrap_or_default())
        .display()
        .iec()
        .to_string()
}

/// Returns a share, 0 to 1, in percent with one decimal.
#[must_use]
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Returns `nanos / length` with three significant digits and without zeros at the end. `None` if the result is 1000 or more.
fn significant(nanos: u128, length: u128) -> Option<String> {
    for decimals in [2_usize, 1, 0] {
        let factor = [1_u128, 10, 100].get(decimals).copied()?;
        // Rounds half up.
        let scaled = (nanos * factor * 2 + length) / (length * 2);
        let (whole, rest) = (scaled / factor, scaled % factor);
        if scaled < 1000 {
            let text = format!("{whole}.{rest:0decimals$}");
            let text = if decimals == 0 { whole.to_string() } else { text };
            let trimmed = if text.contains('.') {
                text.trim_end_matches('0').trim_end_matches('.')
            } else {
                &text
            };
            return Some(trimmed.to_owned());
        }
    }
    None
}

fn long_time(time: Duration) -> String {
    let mut left = time.as_secs();
    let mut parts = Vec::new();
    for (unit, seconds) in LONG_TIME_UNITS {
        let count = left / seconds;
        left %= seconds;
        if count > 0 {
            parts.push(format!("{count} {unit}"));
        } else if !parts.is_empty() {
            break;
        }
        if parts.len() == 2 {
            break;
        }
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_three_digits_and_the_largest_fitting_unit() {
        for (nanos, expected) in [
            (0, "0 s"),
            (1, "1 ns"),
            (999, "999 ns"),
            (1_000, "1 µs"),
            (2_350, "2.35 µs"),
            (12_340, "12.3 µs"),
            (99_950, "100 µs"),
            (116_000, "116 µs"),
            (999_499, "999 µs"),
            (999_500, "1 ms"),
            (116_000_000, "116 ms"),
            (1_000_000_000, "1 s"),
            (1_500_000_000, "1.5 s"),
            (59_900_000_000, "59.9 s"),
            (59_960_000_000, "1 min"),
            (125_000_000_000, "2 min 5 s"),
            (3_600_000_000_000, "1 h"),
            (3_605_000_000_000, "1 h"),
            (90_061_000_000_000, "1 d 1 h"),
        ] {
            assert_eq!(time(Duration::from_nanos(nanos)), expected, "{nanos} ns");
        }
    }

    #[test]
    fn delays_are_rounded_up() {
        for (micros, expected) in [
            (0, "1 ms"),
            (1, "1 ms"),
            (999_001, "1 s"),
            (8_000_001, "9 s"),
            (90_000_000, "90 s"),
        ] {
            assert_eq!(delay(Duration::from_micros(micros)), expected);
        }
    }

    #[test]
    fn a_negative_protobuf_time_is_zero() {
        let negative = prost_types::Duration {
            seconds: -1,
            nanos: 0,
        };
        assert_eq!(proto_time(Some(negative)), "0 s");
        assert_eq!(proto_time(None), "0 s");
    }

    #[test]
    fn numbers_have_thousands_separators_and_bytes_have_units() {
        for (value, expected) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (-1_234_567, "-1,234,567"),
            (i64::MIN, "-9,223,372,036,854,775,808"),
        ] {
            assert_eq!(number(value), expected);
        }
        assert_eq!((bytes(0), bytes(1536)), ("0 B".to_owned(), "1.5 KiB".to_owned()));
        assert_eq!(
            (counted(1, "block"), counted(0, "block")),
            ("1 block".to_owned(), "0 blocks".to_owned())
        );
        assert_eq!(percent(0.125), "12.5 %");
    }
}
