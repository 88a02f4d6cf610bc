//! Tests of the journal on a real file system.

use std::{path::Path, sync::Arc};

use tally_journal::{ChunkedFiles, Disk, FileAccess, JournalError, Operation, RealDisk};
use tempfile::TempDir;

use super::{Running, body, verify};

fn disk() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

#[test]
fn a_new_process_reads_all_blocks_and_appends() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("deep").join("data");
    let mut running = Running::open_at(&disk(), &path).unwrap();
    running.preparer.prepare_next().unwrap();
    let positions = running.append_many(20, 1000);
    let locked = Running::open_at(&disk(), &path).map(|_| ()).unwrap_err();
    let JournalError::Locked { holder, .. } = locked else {
        panic!("{locked}")
    };
    // Some file systems and containers do not show the holder.
    assert!(holder.is_none_or(|id| id == std::process::id()), "{holder:?}");
    drop(running);

    let mut running = Running::open_at(&disk(), &path).unwrap();
    assert_eq!(
        running.bodies(),
        (0..20).map(|index| body(index, 1000)).collect::<Vec<_>>()
    );
    let mut read = Vec::new();
    running.reader.read_block(positions[13], &mut read).unwrap();
    assert_eq!(read, body(13, 1000));
    running.append(b"goes on").unwrap();
    drop(running);
    let report = verify(&disk(), &path).unwrap();
    assert!(report.is_intact());
    assert_eq!(report.blocks, 21);
}

#[test]
fn an_incomplete_write_is_removed() {
    let root = TempDir::new().unwrap();
    let mut running = Running::open_at(&disk(), root.path()).unwrap();
    let positions = running.append_many(3, 600);
    drop(running);
    let segment = root.path().join("journal").join("0000000000.segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[positions[2].offset() as usize + 400..].fill(0);
    std::fs::write(&segment, bytes).unwrap();
    let mut running = Running::open_at(&disk(), root.path()).unwrap();
    assert_eq!((running.seen.len(), running.tail.torn.is_some()), (2, true));
    running.append(b"three").unwrap();
}

#[test]
fn chunked_files_are_found_after_a_restart() {
    let root = TempDir::new().unwrap();
    let journal = tally_journal::Journal::open(disk(), root.path(), &super::CONFIG).unwrap();
    let files = ChunkedFiles::open(journal.directory(), "index", "", "ids").unwrap();
    for number in [1, 2] {
        let mut writer = files.create(number).unwrap();
        writer.write_chunk(&body(number, 5000)).unwrap();
        writer.finish().unwrap();
    }
    let number = files.newest(|number, _| Ok(number)).unwrap().unwrap();
    let mut reader = files.open_number(number).unwrap();
    let mut chunk = Vec::new();
    assert!(reader.next_chunk(&mut chunk).unwrap());
    assert_eq!((number, &chunk), (2, &body(2, 5000)));
    assert!(!reader.next_chunk(&mut chunk).unwrap());
    assert_eq!(files.prune(0).unwrap(), 2);
}

#[test]
fn errors_name_the_operation_and_the_path() {
    let root = TempDir::new().unwrap();
    let missing = root.path().join("missing");
    let error = disk().open(&missing, FileAccess::Read).unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(
        (error.operation, error.path.as_path()),
        (Operation::Open, missing.as_path())
    );
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot open {}: ", missing.display())),
        "{error}"
    );
    assert!(disk().list(&missing).unwrap_err().is_not_found());

    let file = disk().create_new(&missing).unwrap();
    assert_eq!(
        disk().create_new(&missing).unwrap_err().operation,
        Operation::Create
    );
    drop(file);
    let read_only = disk().open(&missing, FileAccess::Read).unwrap();
    assert_eq!(
        read_only.write_at(0, b"x").unwrap_err().operation,
        Operation::Write
    );
}

#[test]
fn a_read_ends_at_the_end_of_the_file_and_random_bytes_differ() {
    let root = TempDir::new().unwrap();
    let file = disk().create_new(&root.path().join("file")).unwrap();
    file.write_at(3, b"abc").unwrap();
    let mut bytes = [9; 8];
    assert_eq!(file.read_at(2, &mut bytes).unwrap(), 4);
    assert_eq!(&bytes, b"\0abc\x09\x09\x09\x09");
    assert_eq!(file.size_bytes().unwrap(), 6);
    let mut random = [[0; 16]; 2];
    random
        .iter_mut()
        .for_each(|bytes| disk().fill_random(bytes).unwrap());
    assert_ne!(random[0], random[1]);
    assert!(disk().create_dir_all(Path::new("")).is_err() || Path::new("").ancestors().count() == 1);
}

#[test]
fn a_file_is_not_a_data_directory() {
    let root = TempDir::new().unwrap();
    let file = root.path().join("s1.out");
    std::fs::write(&file, "text").unwrap();
    for path in [file.clone(), file.join("data")] {
        let error = Running::open_at(&disk(), &path).map(|_| ()).unwrap_err();
        assert!(matches!(error, JournalError::NotADirectory { .. }), "{error}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
}

#[test]
fn the_space_of_a_sparse_file_is_taken_without_a_change_of_its_content() {
    let root = TempDir::new().unwrap();
    let file = disk().create_new(&root.path().join("file")).unwrap();
    file.write_at(0, &body(7, 5000)).unwrap();
    file.write_at((3 << 20) - 1, &[0]).unwrap();
    let read = || {
        let mut bytes = vec![9; 4 << 20];
        let length = file.read_at(0, &mut bytes).unwrap();
        bytes.truncate(length);
        bytes
    };
    let before = read();
    file.own_space(5000, 3 << 20).unwrap();
    assert!(read() == before, "the content changed");
    assert_eq!(file.size_bytes().unwrap(), 3 << 20);
}
