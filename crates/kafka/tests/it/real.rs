//! Tests with a real cluster. Set `TALLY_TEST_KAFKA` to the `host:port` of its brokers, separated by commas; without
//! it, these tests say on standard error that they did not run. They create a topic for each run.

use std::{env, process, time::Duration};

use bytes::Bytes;
use tally_kafka::{AppendError, ConfigSource, Edge, Error, ErrorCode, NewTopic, Partition, Settings};

const BROKERS: &str = "TALLY_TEST_KAFKA";
const WAIT: Duration = Duration::from_secs(5);

/// Creates a topic and waits until it has a leader.
async fn created(name: &str) -> Option<Partition> {
    let Ok(brokers) = env::var(BROKERS) else {
        eprintln!("{name} did not run: {BROKERS} names no cluster");
        return None;
    };
    let endpoints: Vec<_> = brokers
        .split(',')
        .map(|endpoint| endpoint.parse().unwrap())
        .collect();
    let replicas = i16::try_from(endpoints.len().min(3)).unwrap();
    let topic = format!("tally-kafka-{name}-{}", process::id());
    let partition = Partition::new(Settings::new(endpoints, topic)).unwrap();
    let new = NewTopic {
        partitions: 1,
        replication_factor: replicas,
        configs: vec![
            ("max.message.bytes".to_owned(), "1000000".to_owned()),
            ("retention.ms".to_owned(), "-1".to_owned()),
        ],
    };
    partition.create_topic(&new).await.unwrap();
    let again = partition.create_topic(&new).await.unwrap_err();
    assert_eq!(again.code(), Some(ErrorCode::TOPIC_ALREADY_EXISTS));
    for _ in 0..600 {
        if partition.locate().await.is_ok() {
            return Some(partition);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{name} has no leader");
}

#[tokio::test]
async fn what_is_appended_is_read() {
    let Some(partition) = created("append").await else {
        return;
    };
    let description = partition.describe().await.unwrap();
    assert!(description.location.topic_id.is_known());
    assert_eq!(description.location.partitions, 1);
    let retention = description.config("retention.ms").unwrap();
    assert_eq!(
        (retention.value.as_deref(), retention.source),
        (Some("-1"), ConfigSource::Topic)
    );
    assert!(description.config("min.insync.replicas").is_some());

    let mut appender = partition.appender().await.unwrap();
    let reader = partition.reader().await.unwrap();
    // Small and large values, so that some are copied and some are not.
    let values: Vec<Bytes> = [0, 1, 5000, 9000, 200_000]
        .into_iter()
        .map(|size| Bytes::from(vec![7; size]))
        .collect();
    let appends: Vec<_> = (0..8).map(|_| appender.submit(&values, 123).unwrap()).collect();
    for (append, expected) in appends.into_iter().zip((0..).step_by(values.len())) {
        assert_eq!(append.await.unwrap().base_offset, expected);
    }
    assert_eq!(reader.offset(Edge::Start).await, Ok(0));
    assert_eq!(reader.offset(Edge::End).await, Ok(40));
    let mut records = Vec::new();
    let mut next = 3;
    while next < 40 {
        let fetched = reader.fetch(next, WAIT, 300_000).await.unwrap();
        records.extend(fetched.records);
        next = fetched.next_offset;
    }
    for (record, expected) in records.iter().zip(3..) {
        let value = &values[usize::try_from(expected).unwrap() % values.len()];
        assert_eq!(
            (record.offset, &record.value, record.timestamp_ms),
            (expected, value, 123)
        );
    }
    assert_eq!(records.len(), 37);

    let out = reader.fetch(41, Duration::ZERO, 1000).await;
    let expected = Error::OffsetOutOfRange {
        offset: 41,
        log_start: 0,
        log_end: 40,
        leader_epoch: reader.location().leader_epoch,
    };
    assert_eq!(out, Err(expected));
    // At the end of the log, the leader waits for a record.
    let fetched = reader.fetch(40, Duration::from_millis(50), 1000).await.unwrap();
    assert_eq!(
        (fetched.records.len(), fetched.next_offset, fetched.high_watermark),
        (0, 40, 40)
    );
}

#[tokio::test]
async fn a_batch_larger_than_the_topic_allows_is_refused() {
    let Some(partition) = created("large").await else {
        return;
    };
    let mut appender = partition.appender().await.unwrap();
    let large = Bytes::from(vec![0; 1_000_001]);
    let error = appender.append(&[large], 0).await.unwrap_err();
    assert!(matches!(error, AppendError::Refused(_)), "{error}");
    assert_eq!(error.error().code(), Some(ErrorCode::MESSAGE_TOO_LARGE));
    appender.reconnect().await.unwrap();
    let receipt = appender.append(&[Bytes::from("small")], 0).await.unwrap();
    assert_eq!(receipt.base_offset, 0);
}
