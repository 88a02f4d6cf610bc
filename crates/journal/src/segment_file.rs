//! The names and numbers of segment files, and how a new segment file is made.

use std::path::Path;

use crate::{
    disk::{Disk, DiskError},
    unfinished::create_unfinished,
};

const SEGMENT_SUFFIX: &str = ".segment";
const SEGMENT_DIGITS: usize = 10;
/// Length of one write of zeros, in bytes.
const ZERO_STEP_BYTES: usize = 1 << 20;
/// Number of writes of zeros between two syncs. A single sync of the whole segment takes long, and would delay a
/// concurrent sync of a block for this time.
const ZERO_STEPS_PER_SYNC: u32 = 4;

/// Returns the file name of segment `number`.
pub(super) fn segment_name(number: u32) -> String {
    format!("{number:0SEGMENT_DIGITS$}{SEGMENT_SUFFIX}")
}

/// Returns the number of the segment whose file name is `name`. Returns `None` if `name` is not the name of a segment.
pub(super) fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(SEGMENT_SUFFIX)?;
    let number = digits.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}

/// Returns the number of the segment after `number`.
///
/// # Panics
/// If `number` is the last of the 2^32 numbers. A number that wrapped around would let a block overwrite an older
/// block. With segments of 64 MiB, all numbers are used after 256 PiB.
pub(super) fn segment_after(number: u32) -> u32 {
    let Some(next) = number.checked_add(1) else {
        panic!("the journal has used all {number} segment numbers");
    };
    next
}

/// Returns the numbers of the segments in the directory `journal`, in ascending order.
pub(super) fn list_segments(disk: &dyn Disk, journal: &Path) -> Result<Vec<u32>, DiskError> {
    let names = disk.list(journal)?;
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Makes a durable file of `bytes` zeros at a temporary `path`.
pub(super) fn write_zeros(disk: &dyn Disk, path: &Path, bytes: u32) -> Result<(), DiskError> {
    let file = create_unfinished(disk, path)?;
    // Reserve the space before the zeros are written: on a full disk, repeated attempts then fail without load on the
    // disk.
    file.allocate(bytes.into())?;
    let mut unwritten = bytes as usize;
    let zeros = vec![0; unwritten.min(ZERO_STEP_BYTES)];
    let mut offset = 0;
    let mut steps = 0_u32;
    while unwritten > 0 {
        let (step, _) = zeros.split_at(unwritten.min(ZERO_STEP_BYTES));
        file.write_at(offset, step)?;
        offset += step.len() as u64;
        unwritten -= step.len();
        steps += 1;
        if steps.is_multiple_of(ZERO_STEPS_PER_SYNC) {
            file.sync_data()?;
        }
    }
    // `sync_all`, because the length is metadata and must be durable before the file is renamed.
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_names_sort_by_number_and_parse_back() {
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

    #[test]
    #[should_panic(expected = "has used all")]
    fn segment_after_panics_after_the_last_number() {
        segment_after(u32::MAX);
    }
}
