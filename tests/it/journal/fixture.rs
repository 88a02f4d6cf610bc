//! Data directories of released versions are opened for ever.
//!
//! `tests/fixtures/journal-v1` was written by version 1 of the format and is never made anew: a change of the format
//! gets a new version and a fixture of its own.

use std::{fs, path::Path, sync::Arc};

use tally::store::journal::{ChunkedFiles, Disk, Journal, RealDisk, verify};
use tempfile::TempDir;

use super::{CONFIG, Running, body, scan};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/journal-v1");
const FILES: [&str; 3] = [
    "FORMAT",
    "journal/0000000000.segment",
    "checkpoints/at-00000000000000000003.checkpoint",
];

/// A copy, because opening takes a lock and writes the last block once more.
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
fn a_directory_of_version_1_opens_and_goes_on() {
    let copy = copied();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let journal = Journal::open(Arc::clone(&disk), copy.path(), &CONFIG).unwrap();
    assert!(!journal.directory().created());
    assert_eq!(
        journal.directory().data_id().to_string(),
        "8d630f4a91098c4099975c2389fa4fcd"
    );
    assert_eq!(journal.directory().hash_seed(), 0xa14f_7336_e547_ad2f);
    let checkpoints = ChunkedFiles::open(journal.directory(), "checkpoints", "at-", "checkpoint").unwrap();
    let number = checkpoints.newest_valid().unwrap().unwrap();
    let mut checkpoint = checkpoints.open_number(number).unwrap();
    let mut chunk = Vec::new();
    assert!(checkpoint.next_chunk(&mut chunk).unwrap());
    assert_eq!((number, chunk), (3, body(3, 40)));
    let (seen, tail) = scan(&journal, journal.start(), 4).unwrap();
    assert_eq!(tail.torn, None);
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
        "b657a65ee0a999baab5267e1a88aafc1662fd7469fe74f81da11b194bde10784"
    );
    drop(journal);

    Running::open_at(&disk, copy.path())
        .unwrap()
        .append(b"goes on")
        .unwrap();
    assert_eq!(verify(&disk, copy.path()).unwrap().blocks, 5);
}

#[test]
fn opening_a_directory_of_version_1_changes_none_of_its_bytes() {
    let copy = copied();
    Running::open_at(&(Arc::new(RealDisk) as Arc<dyn Disk>), copy.path()).unwrap();
    for file in FILES {
        let before = fs::read(Path::new(FIXTURE).join(file)).unwrap();
        assert_eq!(fs::read(copy.path().join(file)).unwrap(), before, "{file}");
    }
}
