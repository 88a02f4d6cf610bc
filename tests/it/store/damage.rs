//! Tests with damage to old records. Calls and the scrub must report the damage, and no reply may contain damaged data.

use std::{collections::BTreeMap, time::Duration};

use tally::{
    engine::{EngineConfig, FoundBy, ScrubRate},
    proto::{GetTransactionRequest, ProcessTransactionRequest},
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{CONFIG, Store, data, make_history, name, segment_path};
use crate::support::{
    in_process::{Service, patient, transaction, transfer},
    sim_disk::SimDisk,
};

/// Pause between two checks for the progress of the scrub.
const POLL: Duration = Duration::from_millis(5);
/// Maximum number of polls.
const POLLS_MAX: usize = 12_000;

fn config(scrub: ScrubRate) -> EngineConfig {
    EngineConfig {
        breaker: patient(),
        store: CONFIG,
        scrub,
        ..EngineConfig::default()
    }
}

/// Makes a request with the same content as the transaction that [`Store::pay`] makes.
fn again(id: &str) -> ProcessTransactionRequest {
    ProcessTransactionRequest {
        metadata: [("text".to_owned(), "x".repeat(1000))].into(),
        ..transaction(id, vec![transfer("a", "b", 1)])
    }
}

/// Returns the start and the end of the record of `id` in a segment, as offsets in bytes.
fn record_of(segment: &[u8], id: &str) -> (usize, usize) {
    let at = segment
        .windows(id.len())
        .position(|window| window == id.as_bytes())
        .unwrap();
    let next = name(
        "one",
        id.rsplit('-').next().unwrap().parse::<usize>().unwrap() + 1,
    );
    let next_at = at
        + segment[at..]
            .windows(next.len())
            .position(|window| window == next.as_bytes())
            .unwrap();
    // Before the id, both records have the same fields: the length of the record (2 bytes), its kind (1), the offset
    // back to the header of the block (3), its ordinal in the block (2), the length of the links (1), the links of both accounts (2 each),
    // and the length of the id (1).
    let before_id = 2 + 1 + 3 + 2 + 1 + 2 * 2 + 1;
    (at - before_id, next_at - before_id)
}

fn assert_damaged(status: &Status, position: (u32, usize)) {
    let info = status.get_details_error_info().unwrap();
    let found = (
        status.code(),
        info.reason.as_str(),
        info.metadata["executed"].as_str(),
    );
    assert_eq!(found, (Code::DataLoss, "DATA_DAMAGED", "unknown"), "{status:?}");
    let found = (info.metadata["segment"].clone(), info.metadata["offset"].clone());
    assert_eq!(found, (position.0.to_string(), position.1.to_string()));
}

#[tokio::test]
async fn each_flipped_bit_of_an_old_record_is_reported_as_damage() {
    let (disk, _) = make_history(&BTreeMap::new(), "one");
    let service = Service::start_on(disk, &config(ScrubRate(0))).await;
    let mut client = service.transactions().await;
    let id = name("one", 2500);
    let segment = service.disk.contents(&segment_path(0));
    let (start, end) = record_of(&segment, &id);
    let found = client
        .get_transaction(GetTransactionRequest {
            transaction_id: id.clone(),
            ..GetTransactionRequest::default()
        })
        .await
        .unwrap();
    let before = found.into_inner().transaction.unwrap();
    let mut calls = 0;
    // The loop skips most of the metadata, because it consists of the same byte 1000 times.
    for byte in (start..start + 60).chain(end - 20..end) {
        service.disk.flip_bit(&segment_path(0), byte as u64 * 8 + 1);
        let request = GetTransactionRequest {
            transaction_id: id.clone(),
            ..GetTransactionRequest::default()
        };
        let status = client.get_transaction(request.clone()).await.unwrap_err();
        assert_damaged(&status, (0, start));
        let status = client.process_transaction(again(&id)).await.unwrap_err();
        assert_damaged(&status, (0, start));
        calls += 2;
        service.disk.flip_bit(&segment_path(0), byte as u64 * 8 + 1);
        if byte == start {
            // The undamaged record is still returned.
            let found = client.get_transaction(request).await.unwrap();
            assert_eq!(found.into_inner().transaction.as_ref(), Some(&before));
            let replayed = client.process_transaction(again(&id)).await.unwrap();
            assert!(replayed.into_inner().replayed);
        }
    }
    let found_by_calls = service.engine.journal_condition().damages[0];
    assert_eq!(found_by_calls, (FoundBy::Call, calls));
}

#[tokio::test]
async fn each_flipped_bit_of_an_old_header_is_reported_as_damage() {
    let (disk, _) = make_history(&BTreeMap::new(), "one");
    let service = Service::start_on(disk, &config(ScrubRate(0))).await;
    let mut client = service.transactions().await;
    let id = name("one", 2500);
    // The first block contains the accounts, so block 3 (from 0) is the third block of transactions.
    let segment = service.disk.contents(&segment_path(0));
    let headers: Vec<usize> = (0..segment.len() - 4)
        .step_by(8)
        .filter(|at| segment[*at..].starts_with(b"TLYB"))
        .collect();
    let header = headers[3];
    for byte in header..header + 128 {
        service.disk.flip_bit(&segment_path(0), byte as u64 * 8 + 3);
        let request = GetTransactionRequest {
            transaction_id: id.clone(),
            ..GetTransactionRequest::default()
        };
        let status = client.get_transaction(request).await.unwrap_err();
        assert_damaged(&status, (0, header));
        let status = client.process_transaction(again(&id)).await.unwrap_err();
        assert_damaged(&status, (0, header));
        service.disk.flip_bit(&segment_path(0), byte as u64 * 8 + 3);
    }
    let replayed = client.process_transaction(again(&id)).await.unwrap();
    assert!(replayed.into_inner().replayed);
}

#[tokio::test]
async fn a_segment_that_is_emptied_while_the_service_runs_is_reported_as_damage() {
    let (disk, _) = make_history(&BTreeMap::new(), "one");
    let service = Service::start_on(disk, &config(ScrubRate(0))).await;
    service.disk.change(&segment_path(1), Vec::clear);
    let mut client = service.transactions().await;
    let last = name("one", 11_500);
    let request = GetTransactionRequest {
        transaction_id: last,
        ..GetTransactionRequest::default()
    };
    let status = client.get_transaction(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss, "{status:?}");
    // Transactions in other segments are still found.
    let replayed = client.process_transaction(again(&name("one", 0))).await.unwrap();
    assert!(replayed.into_inner().replayed);
    assert!(client.process_transaction(again("new")).await.is_ok());
}

/// Waits until the scrub has completed a pass. Returns the number of bytes that it has read, and how often it has found
/// damage.
async fn pass_of(service: &Service) -> (u64, u64) {
    for _ in 0..POLLS_MAX {
        let journal = service.engine.journal_condition();
        if journal.scrub_passes > 0 {
            assert!(journal.last_scrub_pass.is_some());
            return (journal.scrubbed_bytes, journal.damages[1].1);
        }
        tokio::time::sleep(POLL).await;
    }
    panic!("the scrub did not reach the end of the journal");
}

#[tokio::test]
async fn the_scrub_finds_damage_and_the_service_continues() {
    let (disk, _) = make_history(&BTreeMap::new(), "one");
    let segments = [0, 1, 2].map(|number| disk.contents(&segment_path(number)));
    let damaged = disk.snapshot();
    let service = Service::start_on(disk, &config(ScrubRate(1 << 30))).await;
    let (bytes, damages) = pass_of(&service).await;
    assert_eq!(damages, 0);
    let dirty: usize = segments
        .iter()
        .map(|segment| segment.len() - segment.iter().rev().take_while(|byte| **byte == 0).count())
        .sum();
    // The two numbers differ slightly, because blocks are padded to 8 bytes and a checksum may end with zeros.
    assert!(bytes.abs_diff(dirty as u64) < 1024, "{bytes} of {dirty}");
    service.stop().await;

    let disk = SimDisk::holding(1, &damaged);
    let (start, _) = record_of(&segments[0], &name("one", 2500));
    disk.flip_bit(&segment_path(0), (start as u64 + 500) * 8);
    let service = Service::start_on(disk, &config(ScrubRate(1 << 30))).await;
    let (_, damages) = pass_of(&service).await;
    assert_eq!(damages, 1);
    let mut client = service.transactions().await;
    assert!(client.process_transaction(again("new")).await.is_ok());
    let status = client
        .process_transaction(again(&name("one", 2500)))
        .await
        .unwrap_err();
    assert_damaged(&status, (0, start));
}

#[tokio::test]
async fn a_clean_stop_leaves_a_marker_and_a_failure_does_not() {
    let marker = data().join("journal").join("CLEAN");
    let service = Service::start_on(SimDisk::new(1), &config(ScrubRate(0))).await;
    service.open_accounts(&["a", "b"]).await;
    assert!(!service.disk.snapshot().contains_key(&marker));
    let disk = service.stop().await;
    assert!(disk.snapshot().contains_key(&marker));
    disk.crash();
    assert!(disk.snapshot().contains_key(&marker), "the marker is not durable");

    let service = Service::start_on(disk, &config(ScrubRate(0))).await;
    let mut client = service.transactions().await;
    client.process_transaction(again("t")).await.unwrap();
    service.disk.fail_syncs_of(&segment_path(0));
    client.process_transaction(again("u")).await.unwrap_err();
    let disk = service.stop().await;
    assert!(!disk.snapshot().contains_key(&marker));
    disk.restart();
    let mut store = Store::open(&disk.handle()).unwrap();
    assert!(matches!(
        store.pay("t").unwrap(),
        tally_ledger::Outcome::Committed { replayed: true, .. }
    ));
}
