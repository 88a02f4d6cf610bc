//! Tests of the directories of a replicated ledger.

use tally_journal::{
    BlockHash, BlockKind, BlockStamp, DataDirectory, Disk, Genesis, GenesisDefect, Halt, Journal,
    JournalError, RawBlockDefect, StoreKind, parse_block,
};

use super::{CONFIG, Running, data, scan, verify};
use crate::support::sim_disk::SimDisk;

/// Makes a directory of the embedded store with one block, and returns its genesis.
fn origin(disk: &SimDisk) -> Genesis {
    let mut running = Running::open(&disk.handle()).unwrap();
    running.append(b"one").unwrap();
    let genesis = running.directory.genesis();
    drop(running);
    disk.restart();
    genesis
}

fn make_replicated(disk: &SimDisk) -> Result<(), JournalError> {
    Journal::open(disk.handle(), &data(), &CONFIG)?.make_replicated()
}

#[test]
fn a_genesis_decodes_from_its_bytes_and_every_change_of_a_byte_is_found() {
    let genesis = origin(&SimDisk::new(1));
    let bytes = genesis.encode();
    assert_eq!(Genesis::decode(&bytes), Ok(genesis));
    assert!(bytes.len() <= 128 + 256, "longer than the smallest block");
    let (header, _) = parse_block(&bytes, genesis.data_id(), genesis.geometry()).unwrap();
    assert_eq!((header.block_sequence, header.kind), (0, BlockKind::Genesis));
    assert_eq!(header.previous_hash, genesis.start().previous_hash);
    for index in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[index] ^= 1;
        assert!(Genesis::decode(&damaged).is_err(), "byte {index}");
        assert!(Genesis::decode(&bytes[..index]).is_err(), "length {index}");
    }
    // The longest sizes fit, too.
    let longest = bytes.len() + "1073741824".len() - "8192".len() + "268435456".len() - "1024".len();
    assert!(longest <= 128 + 256, "{longest}");
}

#[test]
fn a_genesis_of_another_version_or_kind_is_refused_with_its_own_error() {
    let genesis = origin(&SimDisk::new(3));
    let mut bytes = genesis.encode();
    let at = bytes[128..].windows(2).position(|pair| pair == b"7\n").unwrap();
    bytes[128 + at] = b'8';
    let body_crc = crc32c::crc32c(&bytes[128..]);
    bytes[104..108].copy_from_slice(&body_crc.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..124]);
    bytes[124..128].copy_from_slice(&checksum.to_le_bytes());
    let version = GenesisDefect::Version {
        found: 8,
        supported: 7,
    };
    assert_eq!(Genesis::decode(&bytes), Err(version));

    let halt = Halt {
        term: 3,
        writer: 4,
        last_block: 17,
        last_hash: BlockHash([5; 32]),
        body: b"replica b".to_vec(),
    };
    let bytes = halt.encode(genesis.data_id());
    assert_eq!(Genesis::decode(&bytes), Err(GenesisDefect::Kind(BlockKind::Halt)));
    let decoded = Halt::decode(&bytes, genesis.data_id(), genesis.geometry());
    assert_eq!(decoded, Ok(Some(halt)));
    let other = Halt::decode(&genesis.encode(), genesis.data_id(), genesis.geometry());
    assert_eq!(other, Ok(None));
    assert_eq!(
        Halt::decode(&bytes[..9], genesis.data_id(), genesis.geometry()),
        Err(RawBlockDefect::Short(9))
    );
}

#[test]
fn a_replica_has_the_same_format_file_and_the_same_chain_as_its_origin() {
    let disk = SimDisk::new(4);
    let genesis = origin(&disk);
    make_replicated(&disk).unwrap();
    disk.crash();
    let journal = Journal::open_replica(disk.handle(), &data()).unwrap();
    assert_eq!(journal.directory().store(), StoreKind::Replicated);
    assert_eq!(journal.directory().genesis(), genesis);
    let (seen, _) = scan(&journal, journal.start(), 0).unwrap();

    let copy = SimDisk::new(5);
    for created in [true, false] {
        let replica = Journal::create_replica(copy.handle(), &data(), &genesis).unwrap();
        assert_eq!(replica.directory().created(), created);
        assert_eq!(replica.start(), journal.start());
        drop(replica);
        copy.restart();
    }
    let format = data().join("FORMAT");
    assert_eq!(copy.contents(&format), disk.contents(&format));
    let replica = Journal::open_replica(copy.handle(), &data()).unwrap();
    let (_, tail) = scan(&replica, replica.start(), 0).unwrap();
    let mut opened = replica.resume(tail).unwrap();
    let mut block = tally_journal::BlockBuffer::default();
    block.fill_sealed(&seen[0].header, &seen[0].body);
    opened.writer.append_sealed(block.sealed_bytes()).unwrap();
    let segment = super::segment_path(0);
    assert_eq!(copy.contents(&segment), disk.contents(&segment));
}

#[test]
fn each_store_refuses_the_directory_of_the_other() {
    let disk = SimDisk::new(6);
    let genesis = origin(&disk);
    let error = Journal::open_replica(disk.handle(), &data()).unwrap_err();
    assert!(matches!(error, JournalError::NotReplicated { .. }), "{error}");
    let error = Journal::create_replica(disk.handle(), &data(), &genesis).unwrap_err();
    assert!(matches!(error, JournalError::NotReplicated { .. }), "{error}");
    assert!(DataDirectory::check(&disk, &data(), StoreKind::Embedded).is_ok());
    make_replicated(&disk).unwrap();

    let before = disk.snapshot();
    let error = Journal::open(disk.handle(), &data(), &CONFIG).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/data is a directory of a replicated ledger (FORMAT: store = replicated). The embedded store would make it differ from the \
         other replicas: set store.kind to replicated, or detach the directory first (tally replica detach)"
    );
    let error = DataDirectory::check(&disk, &data(), StoreKind::Embedded).unwrap_err();
    assert!(matches!(error, JournalError::Replicated { .. }), "{error}");
    assert!(DataDirectory::check(&disk, &data(), StoreKind::Replicated).is_ok());
    assert_eq!(verify(&disk.handle(), &data()).unwrap().blocks, 1);
    assert_eq!(disk.snapshot(), before);

    let other = origin(&SimDisk::new(7));
    let error = Journal::create_replica(disk.handle(), &data(), &other).unwrap_err();
    assert!(matches!(error, JournalError::OtherLedger { .. }), "{error}");

    Journal::open_replica(disk.handle(), &data())
        .unwrap()
        .make_embedded()
        .unwrap();
    disk.crash();
    let running = Running::open(&disk.handle()).unwrap();
    assert_eq!(running.seen.len(), 1);
    assert_eq!(running.seen[0].header.stamp(), BlockStamp::default());
}

#[test]
fn a_missing_replica_is_not_made_without_a_genesis() {
    let disk = SimDisk::new(8);
    disk.create_dir_all(&data()).unwrap();
    let error = Journal::open_replica(disk.handle(), &data()).unwrap_err();
    assert!(matches!(error, JournalError::NotADataDirectory { .. }), "{error}");
    assert!(disk.handle().list(&data()).unwrap().is_empty());
}

#[test]
fn a_crash_during_the_change_of_the_store_leaves_the_old_or_the_new_one() {
    let mut outcomes = [0, 0];
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        origin(&disk);
        disk.crash();
        let mut journal = Journal::open(disk.handle(), &data(), &CONFIG).unwrap();
        // The whole change needs 6 operations or fewer, so the power also goes off after it.
        disk.power_off_after(seed % 8);
        let changed = journal.make_replicated();
        drop(journal);
        disk.crash();
        match Journal::open(disk.handle(), &data(), &CONFIG) {
            Ok(_) => {
                assert!(changed.is_err(), "the change was durable");
                outcomes[0] += 1;
            }
            Err(JournalError::Replicated { .. }) => outcomes[1] += 1,
            Err(error) => panic!("seed {seed}: {error}"),
        }
        let journal = Journal::open_read_only(disk.handle(), &data()).unwrap();
        assert_eq!(scan(&journal, journal.start(), 0).unwrap().0.len(), 1);
    }
    assert!(outcomes.iter().all(|count| *count > 10), "{outcomes:?}");
}

#[test]
fn a_directory_that_is_open_for_reading_does_not_change_its_store() {
    let disk = SimDisk::new(9);
    origin(&disk);
    let mut journal = Journal::open_read_only(disk.handle(), &data()).unwrap();
    assert!(journal.make_replicated().is_err());
    drop(journal);
    assert!(Journal::open(disk.handle(), &data(), &CONFIG).is_ok());
}
