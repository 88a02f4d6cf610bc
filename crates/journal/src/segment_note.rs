//! The segment note: a file in the directory `journal` that states the number of the last segment that was made.
//!
//! The hash chain detects a missing segment if a later segment exists. It can't detect that the last segments are
//! missing: such a journal looks like a shorter journal. With the note, a start knows which segments must exist.
//!
//! The name of the file states the number, for example `SEGMENTS-0000000007`, because a rename is atomic and needs no
//! space: the number can be raised on a full disk, and no bytes of the file can be damaged or torn. The content of the
//! file is only an explanation for people.
//!
//! A segment is noted when it is durable under its own name, and before a block is written to it. So a crash leaves at
//! most one segment that is not noted, and that segment has no block.

use std::path::Path;

use crate::{
    disk::{Disk, DiskError},
    unfinished::{UNFINISHED_SUFFIX, create_unfinished},
};

const PREFIX: &str = "SEGMENTS-";
const DIGITS: usize = 10;
const CONTENT: &[u8] =
    b"The name of this file states the number of the last segment that was made for this journal.\n\
    Do not remove, rename or replace it: a start would refuse the directory.\n";

/// Returns the name of the note that states `number`.
pub(super) fn note_name(number: u32) -> String {
    format!("{PREFIX}{number:0DIGITS$}")
}

/// Returns the number that the note among the files `names` states; `None` if there is no note. There are several notes
/// only if somebody copied files of two points in time into the same directory. Then the greatest number counts.
pub(super) fn noted_in(names: &[String]) -> Option<u32> {
    names.iter().filter_map(|name| stated_by(name)).max()
}

/// Returns whether `name` is the name of a note.
pub(super) fn is_note(name: &str) -> bool {
    stated_by(name).is_some()
}

/// Returns the number that the note with this name states; `None` if it is not the name of a note.
fn stated_by(name: &str) -> Option<u32> {
    let number = name.strip_prefix(PREFIX)?.parse().ok()?;
    (note_name(number) == name).then_some(number)
}

/// Makes the note for the first segment. The name is durable after a sync of the directory.
pub(super) fn create(disk: &dyn Disk, journal: &Path) -> Result<(), DiskError> {
    let path = journal.join(note_name(0));
    let unfinished = journal.join(format!("{}{UNFINISHED_SUFFIX}", note_name(0)));
    let file = create_unfinished(disk, &unfinished)?;
    file.write_at(0, CONTENT)?;
    file.sync_all()?;
    disk.rename(&unfinished, &path)
}

/// Changes the number of the note from `from` to `to`. The change is durable after a sync of the directory.
pub(super) fn raise(disk: &dyn Disk, journal: &Path, from: u32, to: u32) -> Result<(), DiskError> {
    disk.rename(&journal.join(note_name(from)), &journal.join(note_name(to)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_number_counts_and_other_names_do_not() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(note_name(7), "SEGMENTS-0000000007");
        assert_eq!(noted_in(&names(&[])), None);
        assert_eq!(noted_in(&names(&["CLEAN", "0000000009.segment"])), None);
        assert_eq!(
            noted_in(&names(&["SEGMENTS-0000000003", "SEGMENTS-0000000002"])),
            Some(3)
        );
        assert_eq!(noted_in(&[note_name(u32::MAX)]), Some(u32::MAX));
        for foreign in [
            "SEGMENTS-7",
            "SEGMENTS-0000000007.tmp",
            "SEGMENTS-9999999999",
            "SEGMENTS-",
        ] {
            assert_eq!(noted_in(&names(&[foreign])), None, "{foreign}");
        }
    }
}
