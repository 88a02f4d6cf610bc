//! The range of a list, by sequence or by time.

use tally_ledger::Timestamp;
use tonic::Status;

use crate::{
    grpc::{
        fields::{Violations, nanos_of},
        status,
    },
    store::embedded::history::{Bound, Order},
};

/// A range of the order: after `from`, up to `to`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: Option<Bound>,
    pub(super) to: Option<Bound>,
}

/// The fields of a request that state the range.
#[derive(Debug, Clone, Copy)]
pub(super) struct RangeFields<'a> {
    pub(super) from_sequence: i64,
    pub(super) to_sequence: i64,
    pub(super) from_time: Option<&'a prost_types::Timestamp>,
    pub(super) to_time: Option<&'a prost_types::Timestamp>,
}

// ===== impl Range =====

impl Range {
    /// Reads the range of a request. `from` is inclusive and `to` is exclusive, so both become a [`Bound`] directly before the sequence or
    /// time that the request names. A range that ends where it begins is empty.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if a field is invalid, if sequences and times are combined, or if the range ends before it begins.
    pub(super) fn of(fields: RangeFields<'_>) -> Result<Self, Status> {
        let mut violations = Violations::default();
        let mut sequence = |field: &str, value: i64| match u64::try_from(value) {
            Ok(0) => None,
            Ok(value) => Some(Bound::Sequence(value - 1)),
            Err(_) => {
                violations.add(field, format_args!("is {value}, must be at least 0"));
                None
            }
        };
        let from = sequence("from_sequence", fields.from_sequence);
        let to = sequence("to_sequence", fields.to_sequence);
        let has_sequence = fields.from_sequence != 0 || fields.to_sequence != 0;
        let mut time = |field: &str, value: Option<&prost_types::Timestamp>| {
            let value = value?;
            if has_sequence {
                violations.add(field, "can't be combined with from_sequence or to_sequence");
                return None;
            }
            let time = time_of(value);
            if time.is_none() {
                violations.add(field, TIME_BOUNDS);
            }
            Some(just_before(time?))
        };
        let from_time = time("from_time", fields.from_time);
        let to_time = time("to_time", fields.to_time);
        let range = Range {
            from: from.or(from_time),
            to: to.or(to_time),
        };
        match (range.from, range.to) {
            (Some(Bound::Sequence(from)), Some(Bound::Sequence(to))) if to < from => {
                let text = format_args!("is {}, must be at least from_sequence, {}", to + 1, from + 1);
                violations.add("to_sequence", text);
            }
            (Some(Bound::Time(from)), Some(Bound::Time(to))) if to < from => {
                violations.add("to_time", "must not be before from_time");
            }
            _ => {}
        }
        violations.finish().map_err(status::invalid)?;
        Ok(range)
    }
}

/// The text of the error for a time that [`time_of`] does not accept.
pub(super) const TIME_BOUNDS: &str =
    "must be 1970-01-01T00:00:00Z to 2554-07-21T23:34:33Z, with 0 to 999999999 nanos";

/// Reads a time. `None` if it is before 1970, after 2554, or has invalid nanoseconds.
pub(super) fn time_of(value: &prost_types::Timestamp) -> Option<Timestamp> {
    nanos_of(value.seconds, value.nanos).map(Timestamp::from_nanos)
}

/// The order of a list.
pub(super) const fn order_of(newest_first: bool) -> Order {
    if newest_first {
        Order::NewestFirst
    } else {
        Order::OldestFirst
    }
}

fn just_before(time: Timestamp) -> Bound {
    match time.as_nanos().checked_sub(1) {
        Some(nanos) => Bound::Time(Timestamp::from_nanos(nanos)),
        None => Bound::Sequence(0),
    }
}

/// The bytes of a bound, for the fingerprint of a page token.
pub(super) fn bound_bytes(bound: Option<Bound>) -> [u8; 9] {
    let (kind, value) = match bound {
        None => (0, 0),
        Some(Bound::Sequence(sequence)) => (1, sequence),
        Some(Bound::Time(time)) => (2, time.as_nanos()),
    };
    let mut bytes = [kind; 9];
    for (byte, value) in bytes.iter_mut().skip(1).zip(value.to_le_bytes()) {
        *byte = value;
    }
    bytes
}

/// Reads numbers that are written in hexadecimal digits, with dots between them.
pub(super) fn hex_numbers<const N: usize>(text: &str) -> Option<[u64; N]> {
    let mut numbers = [0; N];
    let mut parts = text.split('.');
    for number in &mut numbers {
        *number = u64::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_ends_before_it_begins_is_refused() {
        let at = |seconds| prost_types::Timestamp { seconds, nanos: 0 };
        let (early, late) = (at(4), at(5));
        let range = |from_sequence, to_sequence, from_time, to_time| {
            Range::of(RangeFields {
                from_sequence,
                to_sequence,
                from_time,
                to_time,
            })
        };
        let error = range(5, 4, None, None).unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        assert!(
            error
                .message()
                .contains("to_sequence: is 4, must be at least from_sequence, 5"),
            "{error}"
        );
        let error = range(0, 0, Some(&late), Some(&early)).unwrap_err();
        assert!(
            error.message().contains("to_time: must not be before from_time"),
            "{error}"
        );
        // A range that ends where it begins is empty.
        range(5, 5, None, None).unwrap();
        range(0, 0, Some(&early), Some(&early)).unwrap();
    }
}
