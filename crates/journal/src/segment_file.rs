//! The names of segment files.

use std::path::Path;

use crate::disk::{Disk, DiskError};

const SEGMENT_SUFFIX: &str = ".segment";
const SEGMENT_DIGITS: usize = 10;

/// The file name of a segment.
pub(super) fn segment_name(number: u32) -> String {
    format!("{number:0SEGMENT_DIGITS$}{SEGMENT_SUFFIX}")
}

/// The number of the segment with that file name, if it is one.
pub(super) fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(SEGMENT_SUFFIX)?;
    let number = digits.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}

/// The numbers of the segments in a journal's directory, ascending.
pub(super) fn list_segments(disk: &dyn Disk, journal: &Path) -> Result<Vec<u32>, DiskError> {
    let mut numbers: Vec<u32> = disk
        .list(journal)?
        .iter()
        .filter_map(|name| segment_number(name))
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_names_sort_as_their_numbers_and_come_back() {
        assert_eq!(segment_name(7), "0000000007.segment");
        assert_eq!(segment_number("0000000007.segment"), Some(7));
        assert_eq!(segment_number(&segment_name(u32::MAX)), Some(u32::MAX));
        for foreign in [
            "7.segment",
            "0000000007.segment.tmp",
            "+000000007.segment",
            "9999999999.segment",
        ] {
            assert_eq!(segment_number(foreign), None, "{foreign}");
        }
    }
}
