//! Tests of the data directory: one process at a time has it open for writing, and its sizes never change.

use tally_journal::{Disk, FormatDefect, Journal, JournalConfig, JournalError, Operation};

use super::{CONFIG, Running, data, note_path, segment_path};
use crate::support::sim_disk::SimDisk;

#[test]
fn a_second_open_fails_until_the_first_is_dropped() {
    let disk = SimDisk::new(1);
    let running = Running::open(&disk.handle()).unwrap();
    let error = Running::open(&disk.handle()).map(|_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the data directory /data is in use by another process, which holds the lock on it: stop that process, or name another \
         directory (--data); one process at a time may serve a directory, or any number may verify it"
    );
    drop(running);
    assert!(Running::open(&disk.handle()).is_ok());
}

#[test]
fn a_directory_keeps_its_id_its_seed_and_its_sizes() {
    let disk = SimDisk::new(2);
    let described = |config: &JournalConfig| {
        let journal = Journal::open(disk.handle(), &data(), config).unwrap();
        let directory = journal.directory();
        (
            directory.created(),
            directory.data_id(),
            directory.hash_seed(),
            directory.geometry(),
        )
    };
    let (created, data_id, hash_seed, geometry) = described(&CONFIG);
    assert!(created);
    assert_eq!(
        (geometry.segment_bytes(), geometry.block_bytes_max()),
        (8192, 1024)
    );
    assert_eq!(
        described(&JournalConfig::default()),
        (false, data_id, hash_seed, geometry)
    );
}

#[test]
fn sizes_out_of_bounds_are_rejected_before_anything_is_made() {
    let disk = SimDisk::new(3);
    let config = JournalConfig {
        segment_bytes: 8192,
        block_bytes_max: 4096,
    };
    let error = Journal::open(disk.handle(), &data(), &config)
        .map(|_| ())
        .unwrap_err();
    assert!(
        matches!(
            error,
            JournalError::Config {
                field: "block_bytes_max",
                value: 4096,
                ..
            }
        ),
        "{error}"
    );
    assert!(disk.trace().is_empty());
}

#[test]
fn a_journal_without_its_format_file_is_an_error_and_stays_unchanged() {
    let disk = SimDisk::new(4);
    Running::open(&disk.handle()).unwrap().append(b"one").unwrap();
    disk.restart();
    disk.handle().remove(&data().join("FORMAT")).unwrap();
    let before = disk.snapshot();
    let error = Running::open(&disk.handle()).map(|_| ()).unwrap_err();
    assert!(
        matches!(
            error,
            JournalError::Format {
                defect: FormatDefect::Missing,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(disk.snapshot(), before);
}

#[test]
fn only_an_empty_directory_becomes_a_data_directory() {
    let disk = SimDisk::new(6);
    for name in [
        "lost+found",
        "FORMAT.tmp",
        ".snapshot",
        ".snapshots",
        ".zfs",
        ".nfs000000000000a1b200000001",
        ".Trash-1000",
    ] {
        disk.create_dir_all(&data()).unwrap();
        disk.create_new(&data().join(name)).unwrap();
    }
    drop(Running::open(&disk.handle()).unwrap());

    let disk = SimDisk::new(7);
    disk.create_dir_all(&data()).unwrap();
    for name in ["thesis.odt", ".snapshot.txt", "b", "c"] {
        disk.create_new(&data().join(name)).unwrap();
    }
    let before = disk.snapshot();
    let error = Running::open(&disk.handle()).map(|_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/data is not a Tally data directory (no FORMAT), and it is not empty: it has .snapshot.txt, b, c and 1 more. Name an empty \
         directory or one that does not exist yet"
    );
    assert_eq!(disk.snapshot(), before, "the directory was changed");
}

#[test]
fn a_damaged_format_file_is_an_error() {
    let disk = SimDisk::new(5);
    drop(Running::open(&disk.handle()).unwrap());
    disk.flip_bit(&data().join("FORMAT"), 8 * 60);
    let error = Running::open(&disk.handle()).map(|_| ()).unwrap_err();
    assert!(
        matches!(
            error,
            JournalError::Format {
                defect: FormatDefect::Malformed,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn after_a_crash_at_any_operation_of_the_first_start_the_journal_opens() {
    for operations in 0..24 {
        for seed in 0..20 {
            let disk = SimDisk::new(seed);
            disk.power_off_after(operations);
            let first = Running::open(&disk.handle()).map(|_| ());
            if seed % 2 == 0 {
                disk.crash();
            } else {
                disk.restart();
            }
            let mut running = Running::open(&disk.handle()).unwrap();
            running.append(b"one").unwrap();
            drop(running);
            disk.crash();
            assert_eq!(
                Running::open(&disk.handle()).unwrap().bodies(),
                [b"one"],
                "{operations} {first:?}"
            );
        }
    }
}

/// Found by the simulation, seed 1681.
#[test]
fn a_format_file_whose_name_was_not_synced_is_made_durable_by_the_next_start() {
    let disk = SimDisk::new(9);
    disk.fail_for_ever(Operation::SyncDir, &data());
    assert!(Running::open(&disk.handle()).is_err());
    disk.restart();
    let mut running = Running::open(&disk.handle()).unwrap();
    running.append(b"a record").unwrap();
    drop(running);
    for _ in 0..20 {
        disk.crash();
        assert!(Running::open(&disk.handle()).is_ok());
    }
}

#[test]
fn a_directory_without_a_journal_is_described() {
    let disk = SimDisk::new(8);
    drop(Running::open(&disk.handle()).unwrap());
    let mut files = disk.snapshot();
    files.retain(|path, _| path.ends_with("FORMAT"));
    for has_directory in [false, true] {
        let disk = SimDisk::holding(1, &files);
        if has_directory {
            disk.handle().create_dir_all(&data().join("journal")).unwrap();
        }
        let read_only = Journal::open_read_only(disk.handle(), &data()).map(|_| ());
        for error in [
            read_only.unwrap_err(),
            Running::open(&disk.handle()).map(|_| ()).unwrap_err(),
        ] {
            assert_eq!(
                error.to_string(),
                "/data is a data directory without a journal: it has FORMAT, but no directory named journal, or an empty one. Its \
                 transactions are lost: keep this directory for analysis, and restore a backup (docs/operations.md)"
            );
        }
    }
}

/// `FORMAT` is made last. So a directory without `FORMAT` never had a block, if its journal has none.
#[test]
fn what_an_interrupted_first_start_leaves_becomes_a_data_directory_and_a_journal_with_a_block_does_not() {
    let disk = SimDisk::new(10);
    let mut running = Running::open(&disk.handle()).unwrap();
    let mut interrupted = disk.snapshot();
    running.append(b"one").unwrap();
    drop(running);
    let mut used = disk.snapshot();
    for files in [&mut interrupted, &mut used] {
        files.remove(&data().join("FORMAT")).unwrap();
    }
    for lost in [None, Some(segment_path(0)), Some(note_path(0))] {
        let mut files = interrupted.clone();
        if let Some(path) = &lost {
            files.remove(path).unwrap();
        }
        files.insert(segment_path(0).with_extension("segment.tmp"), vec![0; 100]);
        files.insert(data().join("FORMAT.tmp"), b"tally".to_vec());
        let disk = SimDisk::holding(1, &files);
        let read_only = Journal::open_read_only(disk.handle(), &data()).map(|_| ());
        assert!(matches!(read_only, Err(JournalError::NotADataDirectory { .. })));
        assert!(
            Journal::open(disk.handle(), &data(), &CONFIG)
                .unwrap()
                .directory()
                .created()
        );
        disk.restart();
        Running::open(&disk.handle()).unwrap().append(b"one").unwrap();
    }

    for path in [segment_path(1), note_path(1)] {
        let mut files = interrupted.clone();
        files.insert(path, Vec::new());
        let error = Running::open(&SimDisk::holding(1, &files).handle())
            .map(|_| ())
            .unwrap_err();
        assert!(error.to_string().contains("/data/FORMAT: missing"), "{error}");
    }
    let error = Running::open(&SimDisk::holding(1, &used).handle())
        .map(|_| ())
        .unwrap_err();
    assert!(error.to_string().contains("/data/FORMAT: missing"), "{error}");
    // A directory of the same name that another program has made.
    interrupted.clear();
    interrupted.insert(data().join("journal").join("2026.txt"), Vec::new());
    let error = Running::open(&SimDisk::holding(1, &interrupted).handle())
        .map(|_| ())
        .unwrap_err();
    assert!(error.to_string().contains("it has journal."), "{error}");
}

#[test]
fn an_empty_path_is_an_error() {
    let disk = SimDisk::new(9);
    let empty = std::path::Path::new("");
    for error in [
        Journal::open(disk.handle(), empty, &CONFIG)
            .map(|_| ())
            .unwrap_err(),
        Journal::open_read_only(disk.handle(), empty)
            .map(|_| ())
            .unwrap_err(),
    ] {
        assert!(matches!(error, JournalError::EmptyPath), "{error}");
    }
}
