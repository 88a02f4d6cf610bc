//! Options that name a place in the order of the ledger: a sequence or a time.

use std::fmt;

use prost_types::Timestamp;
use thiserror::Error;

use crate::json::{TimeError, parse_time};

/// A place in the order of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// A sequence.
    Sequence(i64),
    /// A time.
    Time(Timestamp),
}

/// The ends of a range: `from` belongs to it, `to` does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ends {
    /// The first sequence, if the range begins at a sequence; otherwise 0.
    pub(super) from_sequence: i64,
    /// The sequence after the last one, if the range ends at a sequence; otherwise 0.
    pub(super) to_sequence: i64,
    /// The time at which the range begins, if it begins at a time.
    pub(super) from_time: Option<Timestamp>,
    /// The time at which the range ends, if it ends at a time.
    pub(super) to_time: Option<Timestamp>,
}

/// Why two ends are not those of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum EndsError {
    /// One end is a sequence and the other one a time.
    #[error("--from and --to must both be sequences, or both be times")]
    Mixed,
    /// The range ends before it begins.
    #[error("--from = {from}: must be at most {to}, the value of --to")]
    Inverted {
        /// Where the range begins.
        from: Moment,
        /// Where the range ends.
        to: Moment,
    },
}

/// Parses a sequence, which has only digits, or a time. A date means its midnight in UTC.
pub(super) fn moment(text: &str) -> Result<Moment, &'static str> {
    const EXPECTED: &str = "must be a sequence, or a time like 2026-01-31T12:00:00Z or 2026-01-31";
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let sequence = text.parse().map_err(|_| "must be at most 2^63 - 1")?;
        return Ok(Moment::Sequence(sequence));
    }
    parse_time(text).map(Moment::Time).map_err(|error| match error {
        TimeError::Format => EXPECTED,
        TimeError::LeapSecond => {
            "must be a time with seconds from 0 to 59: the times of the ledger have no leap seconds"
        }
    })
}

/// Does the same as [`moment`], but refuses the sequence 0, which no transaction has.
pub(super) fn bound(text: &str) -> Result<Moment, &'static str> {
    match moment(text)? {
        Moment::Sequence(0) => Err("must be at least 1: the first transaction has the sequence 1"),
        other @ (Moment::Sequence(_) | Moment::Time(_)) => Ok(other),
    }
}

// ===== impl Moment =====

impl Moment {
    /// Whether this moment is after `other`; `None` if one is a sequence and the other one a time.
    fn is_after(self, other: Self) -> Option<bool> {
        match (self, other) {
            (Moment::Sequence(own), Moment::Sequence(other)) => Some(own > other),
            (Moment::Time(own), Moment::Time(other)) => {
                Some((own.seconds, own.nanos) > (other.seconds, other.nanos))
            }
            (Moment::Sequence(_), Moment::Time(_)) | (Moment::Time(_), Moment::Sequence(_)) => None,
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Moment::Sequence(sequence) => sequence.fmt(f),
            Moment::Time(time) => time.fmt(f),
        }
    }
}

// ===== impl Ends =====

impl Ends {
    /// Returns the ends of a range. A range from a moment to the same moment is empty.
    ///
    /// # Errors
    /// [`EndsError`].
    pub(super) fn of(from: Option<Moment>, to: Option<Moment>) -> Result<Self, EndsError> {
        if let (Some(from), Some(to)) = (from, to)
            && from.is_after(to).ok_or(EndsError::Mixed)?
        {
            return Err(EndsError::Inverted { from, to });
        }
        let mut ends = Ends {
            from_sequence: 0,
            to_sequence: 0,
            from_time: None,
            to_time: None,
        };
        match from {
            Some(Moment::Sequence(sequence)) => ends.from_sequence = sequence,
            Some(Moment::Time(time)) => ends.from_time = Some(time),
            None => {}
        }
        match to {
            Some(Moment::Sequence(sequence)) => ends.to_sequence = sequence,
            Some(Moment::Time(time)) => ends.to_time = Some(time),
            None => {}
        }
        Ok(ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_a_sequence_and_everything_else_is_a_time() {
        assert_eq!(moment("17"), Ok(Moment::Sequence(17)));
        assert_eq!(moment("0"), Ok(Moment::Sequence(0)));
        let midnight = Timestamp {
            seconds: 86_400,
            nanos: 0,
        };
        assert_eq!(moment("1970-01-02"), Ok(Moment::Time(midnight)));
        assert_eq!(moment("1970-01-02T01:00:00+01:00"), Ok(Moment::Time(midnight)));
        assert_eq!(moment("9223372036854775808"), Err("must be at most 2^63 - 1"));
        assert!(
            moment("2016-12-31T23:59:60Z")
                .is_err_and(|error| error.starts_with("must be a time with seconds from 0 to 59"))
        );
        for text in ["", "-1", "soon", "1.5"] {
            assert!(
                moment(text).is_err_and(|error| error.starts_with("must be a sequence")),
                "{text}"
            );
        }
        assert!(bound("0").is_err_and(|error| error.starts_with("must be at least 1")));
    }

    #[test]
    fn the_ends_of_a_range_are_both_sequences_or_both_times() {
        let (sequence, time) = (Moment::Sequence(3), moment("1970-01-02").unwrap());
        let ends = Ends::of(Some(sequence), Some(sequence)).unwrap();
        assert_eq!((ends.from_sequence, ends.to_sequence), (3, 3));
        assert!(Ends::of(None, Some(time)).unwrap().to_time.is_some());
        for (from, to) in [(sequence, time), (time, sequence)] {
            assert_eq!(Ends::of(Some(from), Some(to)), Err(EndsError::Mixed));
        }
        assert_eq!(Ends::of(None, None), Ok(Ends::default()));
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_refused() {
        for (from, to) in [
            ("5", "3"),
            ("1970-01-02", "1970-01-01"),
            ("1970-01-02T00:00:00.000000001Z", "1970-01-02"),
        ] {
            let (from, to) = (moment(from).unwrap(), moment(to).unwrap());
            let error = Ends::of(Some(from), Some(to)).unwrap_err();
            assert_eq!(error, EndsError::Inverted { from, to });
            assert!(Ends::of(Some(to), Some(from)).is_ok());
            assert!(Ends::of(Some(to), Some(to)).is_ok());
        }
    }
}
