//! A format of JSON whose numbers have at most six decimals.

use std::io::{self, Write};

use serde_json::ser::Formatter;

/// Rounds numbers with a fraction to six decimals, and leaves everything else to `F`. A sum of binary fractions otherwise has
/// digits that mean nothing, for example 0.30000000000000004.
#[derive(Debug, Default)]
pub(super) struct Rounded<F>(pub(super) F);

/// Six decimals: times in seconds are exact to the microsecond.
const SCALE: f64 = 1e6;
/// From this number on, a number has fewer than six exact decimals.
const ROUNDED_MAX: f64 = 4e9;

/// Returns the nearest number with at most six decimals.
fn rounded(value: f64) -> f64 {
    if value.abs() < ROUNDED_MAX {
        // The sum with 0 makes a negative zero positive.
        (value * SCALE).round() / SCALE + 0.0
    } else {
        value
    }
}

// ===== impl Formatter for Rounded =====

/// Writes methods that call the same method of the inner formatter.
macro_rules! delegate {
    ($($method:ident($($first:ident: bool)?)),* $(,)?) => {
        $(fn $method<W: ?Sized + Write>(&mut self, writer: &mut W $(, $first: bool)?) -> io::Result<()> {
            self.0.$method(writer $(, $first)?)
        })*
    };
}

impl<F: Formatter> Formatter for Rounded<F> {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        self.0.write_f64(writer, rounded(value))
    }

    delegate!(
        begin_array(),
        end_array(),
        begin_array_value(first: bool),
        end_array_value(),
        begin_object(),
        end_object(),
        begin_object_key(first: bool),
        end_object_key(),
        begin_object_value(),
        end_object_value(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_at_most_six_decimals() {
        for (value, expected) in [
            (0.1 + 0.2, 0.3),
            (1.0 / 3.0, 0.333_333),
            (-1e-9, 0.0),
            (1_764_448_048.123_456_7, 1_764_448_048.123_457),
            (1e300, 1e300),
        ] {
            assert_eq!(rounded(value), expected);
        }
    }
}
