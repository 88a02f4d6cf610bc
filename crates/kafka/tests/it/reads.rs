//! Tests of reads. The batches come from `Produce` requests, so the encoder of this crate makes them.

use std::{sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes};
use tally_kafka::{Edge, Error, ErrorCode, Fetched};

use crate::{
    broker::{Broker, Call, FETCH, LIST_OFFSETS, PRODUCE, Reply, fetched, offset, produced},
    partition, values,
};

/// Returns the batch that is in a request of version 7.
fn batch_of(call: &Call, base_offset: i64) -> Vec<u8> {
    let mut body = call.body.clone();
    // Skip the fields before the records: transactional id (null), acks, time limit, number of topics (1), topic name,
    // number of partitions (1), partition, length of the records.
    body.advance(2 + 2 + 4 + 4 + 2 + 6 + 4 + 4 + 4);
    let mut batch = body.to_vec();
    batch[..8].copy_from_slice(&base_offset.to_be_bytes());
    batch
}

/// A broker that answers a fetch with the batch of the last append, changed by `change`.
async fn echo(change: impl Fn(&mut Vec<u8>) + Send + Sync + 'static) -> Broker {
    let stored = Arc::new(parking_lot::Mutex::new(Vec::new()));
    Broker::old(move |call| match call.key {
        PRODUCE => {
            *stored.lock() = batch_of(call, 40);
            Reply::Body(produced(call, 0, 40))
        }
        FETCH => {
            let mut batch = stored.lock().clone();
            change(&mut batch);
            Reply::Body(fetched(call, 0, &batch))
        }
        _ => Reply::Usual,
    })
    .await
}

async fn fetch(broker: &Broker, offset: i64) -> Result<Fetched, Error> {
    let partition = partition(&[broker]);
    let mut appender = partition.appender().await.unwrap();
    appender.append(&values(&["a", "b", "c"]), 77).await.unwrap();
    let reader = partition.reader().await.unwrap();
    reader.fetch(offset, Duration::from_millis(1), 1 << 20).await
}

#[tokio::test]
async fn what_was_appended_is_fetched_from_the_offset_on() {
    let broker = echo(|_| {}).await;
    let fetched = fetch(&broker, 41).await.unwrap();
    let records: Vec<(i64, i64, &[u8])> = fetched
        .records
        .iter()
        .map(|record| (record.offset, record.timestamp_ms, &record.value[..]))
        .collect();
    assert_eq!(records, [(41, 77, &b"b"[..]), (42, 77, b"c")]);
    assert_eq!(
        (
            fetched.next_offset,
            fetched.high_watermark,
            fetched.log_start_offset
        ),
        (43, 99, 3)
    );
}

#[tokio::test]
async fn a_damaged_batch_is_an_error_and_is_not_skipped() {
    let broker = echo(|batch| *batch.last_mut().unwrap() ^= 1).await;
    let error = fetch(&broker, 40).await.unwrap_err();
    let what = "the CRC of a batch is wrong";
    assert_eq!(error, Error::Corrupt { offset: 40, what });
}

#[tokio::test]
async fn no_records_leave_the_offset() {
    for modern in [true, false] {
        let script = |call: &Call| match call.key {
            FETCH => Reply::Body(fetched(call, 0, &[])),
            _ => Reply::Usual,
        };
        let broker = if modern {
            Broker::start(script).await
        } else {
            Broker::old(script).await
        };
        let reader = partition(&[&broker]).reader().await.unwrap();
        let fetched = reader.fetch(40, Duration::ZERO, 1000).await.unwrap();
        assert_eq!((fetched.records.len(), fetched.next_offset), (0, 40));
    }
}

#[tokio::test]
async fn an_offset_outside_the_log_is_an_error_of_its_own() {
    let broker = Broker::start(|call| match call.key {
        FETCH => Reply::Body(fetched(call, 1, &[])),
        // The first call asks for the first offset.
        LIST_OFFSETS => Reply::Body(offset(0, if call.index == 0 { 10 } else { 20 })),
        _ => Reply::Usual,
    })
    .await;
    let reader = partition(&[&broker]).reader().await.unwrap();
    let expected = Error::OffsetOutOfRange {
        offset: 40,
        log_start: 10,
        log_end: 20,
        leader_epoch: 5,
    };
    assert_eq!(reader.fetch(40, Duration::ZERO, 1000).await, Err(expected));
}

#[tokio::test]
async fn the_fetch_names_epoch_offset_and_bounds() {
    let broker = Broker::start(|call| match call.key {
        FETCH => {
            let mut body = call.body.clone();
            assert_eq!(
                (body.get_i32(), body.get_i32(), body.get_i32(), body.get_i32()),
                (-1, 250, 1, 1000)
            );
            body.advance(1 + 4 + 4 + 1 + 16 + 1);
            assert_eq!((body.get_i32(), body.get_i32(), body.get_i64()), (0, 5, 40));
            Reply::Body(fetched(call, 0, &[]))
        }
        _ => Reply::Usual,
    })
    .await;
    let reader = partition(&[&broker]).reader().await.unwrap();
    reader.fetch(40, Duration::from_millis(250), 1000).await.unwrap();
}

#[tokio::test]
async fn a_broker_that_lost_its_leadership_is_an_error() {
    for code in [6, 74, 75, 100] {
        let broker = Broker::start(move |call| match call.key {
            FETCH => Reply::Body(fetched(call, code, &[])),
            LIST_OFFSETS => Reply::Body(offset(code, -1)),
            _ => Reply::Usual,
        })
        .await;
        let mut reader = partition(&[&broker]).reader().await.unwrap();
        let error = reader.fetch(40, Duration::ZERO, 1000).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode(code)));
        let error = reader.offset(Edge::End).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode(code)));
        reader.reconnect().await.unwrap();
    }
}

#[tokio::test]
async fn the_values_share_the_memory_of_the_answer() {
    let broker = echo(|_| {}).await;
    let fetched = fetch(&broker, 40).await.unwrap();
    let address = |value: &Bytes| value.as_ptr() as usize;
    let (first, second) = (&fetched.records[0].value, &fetched.records[1].value);
    assert!(address(second) - address(first) < 20);
}
