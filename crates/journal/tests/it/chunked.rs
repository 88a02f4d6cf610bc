//! Tests of chunked files: a file is complete or does not exist, every damage is detected, and `newest` skips a damaged
//! file and uses an older one.

use std::{path::PathBuf, sync::Arc};

use proptest::{collection::vec, prelude::*};
use tally_journal::{
    CHUNK_BYTES_MAX, ChunkDefect, ChunkedFileReader, ChunkedFiles, DataDirectory, Journal, JournalError,
};

use super::{CONFIG, body, data};
use crate::support::sim_disk::SimDisk;

fn files(disk: &SimDisk) -> (Journal, ChunkedFiles) {
    let journal = Journal::open(disk.handle(), &data(), &CONFIG).unwrap();
    let files = family(journal.directory());
    (journal, files)
}

fn family(directory: &DataDirectory) -> ChunkedFiles {
    ChunkedFiles::open(directory, "checkpoints", "at-", "checkpoint").unwrap()
}

fn path(number: u64) -> PathBuf {
    data()
        .join("checkpoints")
        .join(format!("at-{number:020}.checkpoint"))
}

fn write(files: &ChunkedFiles, number: u64, chunks: &[Vec<u8>]) -> Result<u64, JournalError> {
    let mut writer = files.create(number)?;
    for chunk in chunks {
        writer.write_chunk(chunk)?;
    }
    writer.finish()
}

fn read(reader: &mut ChunkedFileReader) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    let mut chunk = Vec::new();
    while reader.next_chunk(&mut chunk).unwrap() {
        chunks.push(chunk.clone());
    }
    chunks
}

fn defect<T: std::fmt::Debug>(result: Result<T, JournalError>) -> ChunkDefect {
    let error = result.unwrap_err();
    let JournalError::ChunkedFile { defect, .. } = error else {
        panic!("{error}")
    };
    defect
}

fn sample(number: u64) -> Vec<Vec<u8>> {
    vec![body(number, 700), Vec::new(), body(number + 1, 5)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn chunks_are_read_back_in_order_and_by_index(chunks in vec(vec(any::<u8>(), 0..2000), 0..20)) {
        let disk = SimDisk::new(1);
        let (_journal, files) = files(&disk);
        let file_bytes = write(&files, 7, &chunks).unwrap();
        prop_assert_eq!(file_bytes, disk.contents(&path(7)).len() as u64);
        let mut reader = files.open_number(7).unwrap();
        reader.verify().unwrap();
        prop_assert_eq!(reader.chunks() as usize, chunks.len());
        prop_assert_eq!(reader.chunk_bytes_total(), chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>());
        let mut chunk = Vec::new();
        for (index, expected) in (0..).zip(&chunks).collect::<Vec<_>>().into_iter().rev() {
            reader.read_chunk(index, &mut chunk).unwrap();
            prop_assert_eq!(&chunk, expected);
        }
        prop_assert_eq!(read(&mut reader), chunks);
    }

    #[test]
    fn a_crash_leaves_the_new_file_or_the_previous_file_complete(seed: u64, operations in 0_u64..14) {
        let disk = SimDisk::new(seed);
        {
            let (_journal, files) = files(&disk);
            write(&files, 1, &sample(1)).unwrap();
            disk.power_off_after(operations);
            let second = write(&files, 2, &sample(2)).is_ok();
            // Eleven operations: remove, create, six writes (header, three chunks, table, trailer), sync, rename, sync
            // of the directory.
            prop_assert_eq!(second, operations >= 11);
        }
        disk.crash();
        let (_journal, files) = files(&disk);
        let number = files.newest(|number, _| Ok(number)).unwrap().unwrap();
        let mut reader = files.open_number(number).unwrap();
        prop_assert!(number == 2 || operations < 11);
        prop_assert!(number == 1 || operations >= 9);
        prop_assert_eq!(read(&mut reader), sample(number));
        prop_assert!(disk.snapshot().keys().all(|path| path.extension().is_none_or(|suffix| suffix != "tmp")));
    }
}

#[test]
fn after_any_flipped_bit_the_older_file_is_used() {
    let disk = SimDisk::new(2);
    let (_journal, files) = files(&disk);
    write(&files, 1, &sample(1)).unwrap();
    write(&files, 2, &sample(2)).unwrap();
    let bits = disk.contents(&path(2)).len() as u64 * 8;
    for bit in 0..bits {
        disk.flip_bit(&path(2), bit);
        let newest = files.newest(|number, _| Ok(number));
        assert!(
            matches!(newest, Ok(Some(1)) | Err(JournalError::UnsupportedVersion { .. })),
            "bit {bit}"
        );
        disk.flip_bit(&path(2), bit);
    }
    assert!(matches!(files.newest(|number, _| Ok(number)), Ok(Some(2))));
}

#[test]
fn after_a_read_error_the_older_file_is_used() {
    let disk = SimDisk::new(11);
    let (_journal, files) = files(&disk);
    write(&files, 1, &sample(1)).unwrap();
    write(&files, 2, &sample(2)).unwrap();
    disk.fail_reads_of(&path(2));
    assert_eq!(files.newest(|number, _| Ok(number)).unwrap(), Some(1));
    // If the closure reports the older file as malformed, too, no file is usable.
    let unusable = files.newest(|_, reader| Err::<(), _>(reader.malformed("a checkpoint")));
    assert_eq!(unusable.unwrap(), None);
    disk.fail_reads_of(&path(1));
    assert_eq!(files.newest(|number, _| Ok(number)).unwrap(), None);
}

#[test]
fn the_error_names_the_damaged_part() {
    let disk = SimDisk::new(3);
    let (_journal, files) = files(&disk);
    write(&files, 1, &sample(1)).unwrap();
    let length = disk.contents(&path(1)).len() as u64;
    let defect_at = |byte: u64| {
        disk.flip_bit(&path(1), byte * 8);
        let defect = defect(files.open_number(1).and_then(|reader| reader.verify()));
        disk.flip_bit(&path(1), byte * 8);
        defect
    };
    assert_eq!(defect_at(20), ChunkDefect::Header);
    assert_eq!(defect_at(64), ChunkDefect::Chunk { index: 0 });
    assert_eq!(defect_at(64 + 700), ChunkDefect::Chunk { index: 2 });
    assert_eq!(defect_at(64 + 705), ChunkDefect::Table);
    assert_eq!(defect_at(length - 1), ChunkDefect::Trailer);
    disk.change(&path(1), |contents| contents.truncate(100));
    assert_eq!(defect(files.open_number(1)), ChunkDefect::Trailer);
}

#[test]
fn a_file_of_another_number_or_directory_is_rejected() {
    let disk = SimDisk::new(4);
    let (_journal, here) = files(&disk);
    write(&here, 1, &sample(1)).unwrap();
    write(&here, 2, &sample(2)).unwrap();
    let other = SimDisk::new(5);
    let (_other_journal, there) = files(&other);
    write(&there, 1, &sample(1)).unwrap();
    let (second, foreign) = (disk.contents(&path(2)), other.contents(&path(1)));
    for contents in [second, foreign] {
        disk.change(&path(1), |bytes| bytes.clone_from(&contents));
        assert_eq!(defect(here.open_number(1)), ChunkDefect::Foreign);
    }
}

#[test]
fn a_file_of_a_newer_version_is_an_error_and_not_skipped() {
    let disk = SimDisk::new(6);
    let (_journal, files) = files(&disk);
    write(&files, 1, &sample(1)).unwrap();
    write(&files, 2, &sample(2)).unwrap();
    disk.change(&path(2), |contents| {
        contents[4] = 2;
        let checksum = crc32c::crc32c(&contents[..60]);
        contents[60..64].copy_from_slice(&checksum.to_le_bytes());
    });
    let error = files.newest(|number, _| Ok(number)).unwrap_err();
    assert!(
        matches!(
            error,
            JournalError::UnsupportedVersion {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_dropped_writer_removes_its_file_and_a_finished_file_replaces_the_older_file() {
    let disk = SimDisk::new(7);
    let (_journal, files) = files(&disk);
    let mut writer = files.create(3).unwrap();
    writer.write_chunk(b"not finished").unwrap();
    drop(writer);
    assert!(files.numbers().unwrap().is_empty());
    assert!(files.newest(|number, _| Ok(number)).unwrap().is_none());
    assert!(
        !disk
            .snapshot()
            .keys()
            .any(|path| path.starts_with("/data/checkpoints"))
    );

    write(&files, 3, &sample(3)).unwrap();
    write(&files, 3, &sample(4)).unwrap();
    assert_eq!(read(&mut files.open_number(3).unwrap()), sample(4));
}

#[test]
fn an_unfinished_file_on_a_full_disk_frees_its_space() {
    let disk = SimDisk::new(8);
    let (_journal, files) = files(&disk);
    disk.set_free_bytes(400);
    let error = write(&files, 1, &sample(1)).unwrap_err();
    assert!(
        matches!(&error, JournalError::Disk(error) if error.is_storage_full()),
        "{error}"
    );
    write(&files, 1, &[body(1, 100)]).unwrap();
}

#[test]
fn families_share_a_directory_and_prune_keeps_the_newest() {
    let disk = SimDisk::new(9);
    let (journal, files) = files(&disk);
    let other = ChunkedFiles::open(journal.directory(), "checkpoints", "", "idx").unwrap();
    write(&other, 1, &sample(1)).unwrap();
    for number in [5, 1, 40, 20] {
        write(&files, number, &sample(number)).unwrap();
    }
    assert_eq!(files.numbers().unwrap(), [1, 5, 20, 40]);
    assert_eq!(files.prune(2).unwrap(), 2);
    assert_eq!(files.prune(2).unwrap(), 0);
    assert_eq!(files.numbers().unwrap(), [20, 40]);
    assert_eq!(other.numbers().unwrap(), [1]);
}

#[test]
fn a_chunk_that_is_too_long_is_rejected_and_the_writer_can_continue() {
    let disk = SimDisk::new(10);
    let (_journal, files) = files(&disk);
    let mut writer = files.create(1).unwrap();
    let error = writer
        .write_chunk(&vec![0; CHUNK_BYTES_MAX as usize + 1])
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("bytes of a chunk would be 16777217, at most 16777216 is allowed"),
        "{error}"
    );
    writer.write_chunk(b"short").unwrap();
    writer.finish().unwrap();
    let reader = Arc::new(files.open_number(1).unwrap());
    assert_eq!(
        defect(reader.read_chunk(1, &mut Vec::new())),
        ChunkDefect::NoChunk { index: 1 }
    );
}
