//! The scrub finds all damage in the durable part of the journal, continues after the damage, and never reads bytes
//! that are not durable yet.

use tally_journal::{ChainPoint, JournalReader, Position, Scrub, ScrubStep};

use super::{Running, segment_path};
use crate::support::sim_disk::SimDisk;

/// Makes a running journal of `count` blocks with bodies of 200 bytes. A block takes 328 bytes on disk, and 22 blocks
/// fill a segment. Returns the positions of the blocks.
fn journal_of(count: u64) -> (SimDisk, Running, Vec<Position>) {
    let disk = SimDisk::new(count);
    let mut running = Running::open(&disk.handle()).unwrap();
    let positions = running.append_many(count, 200);
    (disk, running, positions)
}

/// Runs one pass. Returns the number of undamaged blocks and the positions of damage.
fn pass(scrub: &mut Scrub, durable: &ChainPoint) -> (u64, Vec<Position>) {
    let (mut whole, mut damaged) = (0, Vec::new());
    loop {
        match scrub.step(durable) {
            ScrubStep::Whole { bytes } => {
                assert_eq!(bytes, 328);
                whole += 1;
            }
            ScrubStep::Damaged { position, .. } => damaged.push(position),
            ScrubStep::Postponed { error } => panic!("file descriptors are available: {error}"),
            ScrubStep::Complete => return (whole, damaged),
        }
    }
}

/// Runs two passes, checks that both return the same, and returns the result of [`pass`].
fn scrubbed(reader: &JournalReader, durable: &ChainPoint) -> (u64, Vec<Position>) {
    let mut scrub = Scrub::new(reader);
    let first = pass(&mut scrub, durable);
    assert_eq!(
        pass(&mut scrub, durable),
        first,
        "the next pass must find the same"
    );
    first
}

#[test]
fn a_journal_without_damage_is_read_completely() {
    let (_disk, mut running, _) = journal_of(50);
    let mut scrub = Scrub::new(&running.reader);
    assert_eq!(pass(&mut scrub, &running.writer.end()), (50, Vec::new()));
    running.append_many(1, 200);
    assert_eq!(pass(&mut scrub, &running.writer.end()), (51, Vec::new()));
}

#[test]
fn nothing_after_the_durable_point_is_read() {
    let (disk, mut running, _) = journal_of(10);
    let durable = running.writer.end();
    let positions = running.append_many(1, 200);
    disk.flip_bit(&segment_path(0), u64::from(positions[0].offset() + 200) * 8);
    assert_eq!(scrubbed(&running.reader, &durable), (10, Vec::new()));
}

#[test]
fn every_damaged_body_is_found_and_the_blocks_after_it_are_checked() {
    let (disk, running, positions) = journal_of(50);
    let victims = [0, 7, 8, 30, 49].map(|index: usize| positions[index]);
    for victim in victims {
        disk.flip_bit(
            &segment_path(victim.segment()),
            u64::from(victim.offset() + 150) * 8,
        );
    }
    assert_eq!(
        scrubbed(&running.reader, &running.writer.end()),
        (45, victims.to_vec())
    );
}

#[test]
fn after_a_damaged_header_the_pass_continues_with_the_next_segment() {
    let (disk, running, positions) = journal_of(50);
    disk.flip_bit(&segment_path(0), u64::from(positions[3].offset() + 20) * 8);
    assert_eq!(
        scrubbed(&running.reader, &running.writer.end()),
        (3 + 28, vec![positions[3]])
    );
}

#[test]
fn a_missing_an_empty_and_a_truncated_segment_are_found() {
    let (disk, running, positions) = journal_of(100);
    drop(running.reader);
    disk.handle().remove(&segment_path(0)).unwrap();
    disk.restart();
    disk.change(&segment_path(1), |bytes| bytes.clear());
    disk.change(&segment_path(2), |bytes| bytes.truncate(10 * 328 + 100));
    let journal = tally_journal::Journal::open_read_only(disk.handle(), &super::data()).unwrap();
    let (whole, damaged) = scrubbed(&journal.reader(), &running.writer.end());
    assert_eq!(damaged, [positions[0], positions[22], positions[44 + 10]]);
    assert_eq!(whole, 10 + (100 - 66));
}

#[test]
fn a_forged_block_with_correct_checksums_is_found() {
    let (disk, running, positions) = journal_of(10);
    let forged = SimDisk::new(10);
    let mut other = Running::open(&forged.handle()).unwrap();
    other.append_many(4, 200);
    other.append(&[9; 200]).unwrap();
    let bytes = forged.contents(&segment_path(0));
    disk.change(&segment_path(0), |contents| {
        contents[4 * 328..5 * 328].copy_from_slice(&bytes[4 * 328..5 * 328]);
    });
    // The checksums of the forged block are correct, but the block after it contains the hash of the original block.
    assert_eq!(
        scrubbed(&running.reader, &running.writer.end()),
        (9, vec![positions[5]])
    );
}

#[test]
fn the_end_is_compared_with_the_end_of_the_writer() {
    let (_disk, running, _) = journal_of(10);
    let end = running.writer.end();
    let elsewhere = ChainPoint {
        previous_hash: tally_journal::BlockHash([7; 32]),
        ..end
    };
    assert_eq!(scrubbed(&running.reader, &elsewhere).1, [end.position]);
}

#[test]
fn the_removal_of_a_segment_is_found_while_readers_have_it_open() {
    let (disk, running, positions) = journal_of(50);
    let (reader, durable) = (&running.reader, running.writer.end());
    // The scrub opens the segment in its first pass. It must find the removal in its second pass.
    let mut scrub = Scrub::new(reader);
    assert_eq!(pass(&mut scrub, &durable), (50, Vec::new()));
    reader.read_block(positions[0], &mut Vec::new()).unwrap();
    disk.handle().remove(&segment_path(0)).unwrap();
    assert_eq!(pass(&mut scrub, &durable), (28, vec![positions[0]]));
    assert_eq!(scrubbed(reader, &durable), (28, vec![positions[0]]));
}

#[test]
fn a_segment_that_cannot_be_opened_because_no_file_descriptor_is_left_is_not_damage() {
    let (disk, running, _) = journal_of(50);
    let durable = running.writer.end();
    let mut scrub = Scrub::new(&running.reader);
    for _ in 0..22 {
        assert!(matches!(scrub.step(&durable), ScrubStep::Whole { .. }));
    }
    disk.set_out_of_descriptors(true);
    for _ in 0..3 {
        let step = scrub.step(&durable);
        assert!(
            matches!(&step, ScrubStep::Postponed { error } if error.is_out_of_descriptors()),
            "{step:?}"
        );
    }
    disk.set_out_of_descriptors(false);
    assert_eq!(
        pass(&mut scrub, &durable),
        (28, Vec::new()),
        "the pass must continue with the block at which it stopped"
    );
}
