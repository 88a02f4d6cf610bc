//! Tests that this build opens a data directory that an earlier build wrote in the current format, and changes none of
//! its bytes.
//!
//! A build with format version 6 wrote `tests/fixtures/journal-v7`, whose `FORMAT` was then changed: version 7 differs only in
//! `FORMAT` and in the records of the ledger, which the journal does not know. A change of the format needs a new version number
//! and a new fixture, which replaces this fixture. No version has been released yet, so no older version must stay
//! readable.

use std::{fs, path::Path, sync::Arc};

use tally_journal::{ChunkedFiles, Disk, Journal, RealDisk};
use tempfile::TempDir;

use super::{CONFIG, Running, body, scan, verify};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/journal-v7");
const FILES: [&str; 5] = [
    "FORMAT",
    "journal/0000000000.segment",
    "journal/CLEAN",
    "journal/SEGMENTS-0000000000",
    "checkpoints/at-00000000000000000003.checkpoint",
];

/// Copies the fixture, because the test appends to it.
fn copied() -> TempDir {
    let copy = TempDir::new().unwrap();
    for file in FILES {
        let to = copy.path().join(file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(Path::new(FIXTURE).join(file), to).unwrap();
    }
    copy
}

#[test]
fn a_directory_of_version_7_opens_and_accepts_appends() {
    let copy = copied();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let journal = Journal::open(Arc::clone(&disk), copy.path(), &CONFIG).unwrap();
    assert!(!journal.directory().created());
    assert_eq!(
        journal.directory().data_id().to_string(),
        "aa3ea605e45f2276bfb521a6af7041d6"
    );
    assert_eq!(journal.directory().hash_seed(), 0x97bc_30f4_1e8a_efc1);
    let checkpoints = ChunkedFiles::open(journal.directory(), "checkpoints", "at-", "checkpoint").unwrap();
    let number = checkpoints.newest(|number, _| Ok(number)).unwrap().unwrap();
    let mut checkpoint = checkpoints.open_number(number).unwrap();
    let mut chunk = Vec::new();
    assert!(checkpoint.next_chunk(&mut chunk).unwrap());
    assert_eq!((number, chunk), (3, body(3, 40)));
    let (seen, tail) = scan(&journal, journal.start(), 4).unwrap();
    assert_eq!((tail.torn, tail.clean), (None, true));
    for (index, block) in (0..4).zip(&seen) {
        assert_eq!(block.body, body(index, 30));
        assert_eq!(
            (block.header.first_entry, block.header.first_sequence),
            ((index + 1) * 10, (index + 1) * 100)
        );
        assert_eq!(
            (block.header.base_time_ns, block.header.record_count),
            ((index + 1) * 1000, 1)
        );
    }
    assert_eq!(
        tail.end.previous_hash.to_string(),
        "e51b38fc5c4b15c769b75042b5ef94db9fef37456cb9db8c2d01dd45a2f26dc3"
    );
    drop(journal);

    Running::open_at(&disk, copy.path())
        .unwrap()
        .append(b"goes on")
        .unwrap();
    assert_eq!(verify(&disk, copy.path()).unwrap().blocks, 5);
}

#[test]
fn opening_a_directory_of_version_7_changes_none_of_its_bytes() {
    let copy = copied();
    Running::open_at(&(Arc::new(RealDisk) as Arc<dyn Disk>), copy.path()).unwrap();
    for file in FILES {
        let before = fs::read(Path::new(FIXTURE).join(file)).unwrap();
        assert_eq!(fs::read(copy.path().join(file)).unwrap(), before, "{file}");
    }
}

#[test]
fn a_directory_of_another_version_is_an_error_and_stays_unchanged() {
    for version in [6, 8] {
        let copy = copied();
        let format = copy.path().join("FORMAT");
        let text = fs::read_to_string(&format).unwrap();
        let other = text.replace("format_version = 7", &format!("format_version = {version}"));
        fs::write(&format, &other).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let expected = format!("has format version {version}, this program reads version 7 only");
        let refused = [
            Running::open_at(&disk, copy.path()).map(|_| ()).unwrap_err(),
            verify(&disk, copy.path()).map(|_| ()).unwrap_err(),
        ];
        for error in refused {
            assert!(error.to_string().contains(&expected), "{error}");
        }
        assert_eq!(fs::read_to_string(&format).unwrap(), other);
    }
}
