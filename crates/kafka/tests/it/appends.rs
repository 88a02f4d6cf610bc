//! Tests of appends.

use std::time::Duration;

use bytes::Bytes;
use tally_kafka::{AppendError, Error, ErrorCode, Partition};

use crate::{
    broker::{Broker, METADATA, PRODUCE, Reply, produced},
    partition, settings, values,
};

#[tokio::test]
async fn appends_are_sent_in_order_and_have_their_own_receipts() {
    for broker in [
        Broker::start(|_| Reply::Usual).await,
        Broker::old(|_| Reply::Usual).await,
    ] {
        let mut appender = partition(&[&broker]).appender().await.unwrap();
        let appends: Vec<_> = (0..5)
            .map(|_| appender.submit(&values(&["a", "b"]), 0).unwrap())
            .collect();
        for (append, expected) in appends.into_iter().zip(100..) {
            let receipt = append.await.unwrap();
            assert_eq!(
                (receipt.base_offset, receipt.log_append_time_ms),
                (expected, None)
            );
        }
        assert_eq!(appender.location().leader_epoch, 5);
    }
}

/// Kafka answers some codes only before it appends. All others may mean that the leader has appended.
#[tokio::test]
async fn an_error_code_says_what_is_known() {
    for (class, codes) in [
        ("refused", &[2, 10, 18, 19, 21, 32, 43, 44, 76, 87, 89, 100][..]),
        ("fatal", &[17, 29, 31, 35]),
        ("unresolved", &[-1, 3, 5, 6, 7, 13, 20, 42, 56, 74, 103, 9999]),
    ] {
        for code in codes.iter().copied() {
            let broker = Broker::start(move |call| match call.key {
                PRODUCE if call.index == 0 => Reply::Body(produced(call, code, -1)),
                PRODUCE => Reply::Nothing,
                _ => Reply::Usual,
            })
            .await;
            let mut appender = partition(&[&broker]).appender().await.unwrap();
            let first = appender.submit(&values(&["a"]), 0).unwrap();
            let second = appender.submit(&values(&["b"]), 0).unwrap();
            let error = first.await.unwrap_err();
            let actual = match &error {
                AppendError::Unresolved(_) => "unresolved",
                AppendError::Refused(_) => "refused",
                AppendError::Fatal(_) => "fatal",
            };
            assert_eq!(actual, class, "{code}");
            assert_eq!(error.error().code(), Some(ErrorCode(code)));
            // The connection closes, so the second append is never answered.
            assert!(second.await.unwrap_err().is_unresolved(), "{code}");
        }
    }
}

#[tokio::test]
async fn a_late_answer_is_never_taken_for_a_later_append() {
    let broker = Broker::start(|call| match call.key {
        PRODUCE if call.index == 0 => Reply::Nothing,
        _ => Reply::Usual,
    })
    .await;
    let mut settings = settings(&[&broker]);
    settings.request_timeout = Duration::from_millis(100);
    let mut appender = Partition::new(settings).unwrap().appender().await.unwrap();
    let first = appender.submit(&values(&["a"]), 0).unwrap();
    let second = appender.submit(&values(&["b"]), 0).unwrap();
    // The broker is silent to the first request, and answers the second one with its own correlation id.
    assert!(first.await.unwrap_err().is_unresolved());
    assert!(second.await.unwrap_err().is_unresolved());
    let refused = appender.append(&values(&["c"]), 0).await;
    assert!(matches!(
        refused,
        Err(AppendError::Refused(_) | AppendError::Unresolved(_))
    ));
    appender.reconnect().await.unwrap();
    assert!(appender.append(&values(&["d"]), 0).await.unwrap().base_offset >= 101);
}

#[tokio::test]
async fn a_silent_leader_reaches_the_time_limit() {
    let broker = Broker::start(|call| match call.key {
        PRODUCE => Reply::Nothing,
        _ => Reply::Usual,
    })
    .await;
    let mut settings = settings(&[&broker]);
    settings.request_timeout = Duration::from_millis(100);
    let mut appender = Partition::new(settings).unwrap().appender().await.unwrap();
    let error = appender.append(&values(&["a"]), 0).await.unwrap_err();
    assert!(
        matches!(error, AppendError::Unresolved(Error::Timeout { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn an_end_of_the_connection_is_unresolved_and_nothing_is_sent_twice() {
    for part in [true, false] {
        let broker = Broker::start(move |call| match (call.key, part) {
            (PRODUCE, true) if call.index == 0 => Reply::Part,
            (PRODUCE, false) if call.index == 0 => Reply::Close,
            _ => Reply::Usual,
        })
        .await;
        let mut appender = partition(&[&broker]).appender().await.unwrap();
        let error = appender.append(&values(&["a"]), 0).await.unwrap_err();
        assert!(
            matches!(error, AppendError::Unresolved(Error::Closed { .. })),
            "{error}"
        );
        assert_eq!((broker.count(PRODUCE), broker.count(METADATA)), (1, 1));
        appender.reconnect().await.unwrap();
        assert_eq!(
            appender.append(&values(&["a"]), 0).await.unwrap().base_offset,
            101
        );
    }
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_unresolved() {
    let broker = Broker::start(|call| match call.key {
        PRODUCE => Reply::Body(vec![0xff; 50]),
        _ => Reply::Usual,
    })
    .await;
    let mut appender = partition(&[&broker]).appender().await.unwrap();
    let error = appender.append(&values(&["a"]), 0).await.unwrap_err();
    assert!(
        matches!(error, AppendError::Unresolved(Error::Malformed { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn what_exceeds_a_bound_is_refused_and_not_sent() {
    let broker = Broker::start(|call| match call.key {
        PRODUCE => Reply::Nothing,
        _ => Reply::Usual,
    })
    .await;
    let mut settings = settings(&[&broker]);
    settings.batch_bytes_max = 1024;
    settings.in_flight_max = 2;
    let mut appender = Partition::new(settings).unwrap().appender().await.unwrap();
    let too_large: [Vec<Bytes>; 4] = [
        vec![],
        vec![Bytes::from(vec![0; 1025])],
        // The values fit, but not the values with their headers.
        vec![Bytes::from(vec![0; 960])],
        vec![Bytes::new(); tally_kafka::RECORDS_MAX + 1],
    ];
    for values in too_large {
        let error = appender.submit(&values, 0).unwrap_err();
        assert!(
            matches!(error, AppendError::Refused(Error::BatchSize { .. })),
            "{error}"
        );
    }
    let _first = appender.submit(&[Bytes::from(vec![0; 950])], 0).unwrap();
    let _second = appender.submit(&values(&["b"]), 0).unwrap();
    let error = appender.submit(&values(&["c"]), 0).unwrap_err();
    assert_eq!(error, AppendError::Refused(Error::TooManyInFlight { bound: 2 }));
}
