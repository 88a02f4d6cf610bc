//! Tests of how the client finds the leader.

use tally_kafka::{Error, TopicId};

use crate::{
    broker::{API_VERSIONS, Broker, METADATA, Reply, TOPIC_ID, metadata},
    partition, settings,
};

#[tokio::test]
async fn a_silent_broker_does_not_keep_the_next_one_from_answering() {
    let silent = Broker::start(|_| Reply::Nothing).await;
    let closing = Broker::start(|call| {
        if call.key == METADATA {
            Reply::Close
        } else {
            Reply::Usual
        }
    })
    .await;
    let good = Broker::start(|_| Reply::Usual).await;
    let partition = partition(&[&silent, &closing, &good]);
    let location = partition.locate().await.unwrap();
    assert_eq!(location.leader.endpoint, good.endpoint());
    assert_eq!((location.topic_id, location.partitions), (TopicId(TOPIC_ID), 1));
    // The broker that has answered is asked first from now on.
    let asked = silent.count(API_VERSIONS);
    partition.locate().await.unwrap();
    assert_eq!(silent.count(API_VERSIONS), asked);
}

#[tokio::test]
async fn a_topic_that_was_created_again_is_noticed() {
    let broker = Broker::start(|call| match (call.key, call.index) {
        (METADATA, 1) => Reply::Body(metadata(call.version, 1, 0, [8; 16], 1)),
        _ => Reply::Usual,
    })
    .await;
    let partition = partition(&[&broker]);
    partition.locate().await.unwrap();
    assert_eq!(partition.topic_id(), Some(TopicId(TOPIC_ID)));
    let error = partition.locate().await.unwrap_err();
    assert!(
        matches!(error, Error::TopicReplaced { .. }) && error.is_fatal(),
        "{error}"
    );
}

#[tokio::test]
async fn a_topic_with_another_id_than_the_settings_is_refused() {
    let broker = Broker::start(|_| Reply::Usual).await;
    let mut settings = settings(&[&broker]);
    settings.topic_id = Some(TopicId([9; 16]));
    let partition = tally_kafka::Partition::new(settings).unwrap();
    let error = partition.appender().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "topic blocks has id 07070707-0707-0707-0707-070707070707 instead of 09090909-0909-0909-0909-090909090909: \
         the topic was deleted and created again"
    );
}

#[tokio::test]
async fn a_topic_without_a_leader_and_an_unknown_topic_are_errors() {
    let broker = Broker::start(|call| match (call.key, call.index) {
        (METADATA, 0) => Reply::Body(metadata(call.version, 1, 0, TOPIC_ID, -1)),
        (METADATA, 1) => Reply::Body(metadata(call.version, 1, 3, [0; 16], 1)),
        (METADATA, 2) => Reply::Body(metadata(call.version, 1, 29, [0; 16], 1)),
        _ => Reply::Usual,
    })
    .await;
    let partition = partition(&[&broker]);
    assert!(matches!(partition.locate().await, Err(Error::NoLeader { .. })));
    assert!(matches!(
        partition.locate().await,
        Err(Error::UnknownTopic { .. })
    ));
    let error = partition.locate().await.unwrap_err();
    assert!(
        matches!(error, Error::Broker { .. }) && error.is_fatal(),
        "{error}"
    );
}

#[tokio::test]
async fn the_answer_about_the_topic_is_preferred_to_an_error_of_the_network() {
    let unknown = Broker::start(|call| match call.key {
        METADATA => Reply::Body(metadata(call.version, 1, 3, [0; 16], 1)),
        _ => Reply::Usual,
    })
    .await;
    let closing = Broker::start(|_| Reply::Close).await;
    for brokers in [[&unknown, &closing], [&closing, &unknown]] {
        let error = partition(&brokers).locate().await.unwrap_err();
        assert!(matches!(error, Error::UnknownTopic { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_broker_that_is_too_old_is_named() {
    let broker = Broker::with(vec![(METADATA, 6)], None, |_| Reply::Usual).await;
    let error = partition(&[&broker]).locate().await.unwrap_err();
    assert!(
        matches!(error, Error::Unsupported { call: "Metadata", .. }),
        "{error}"
    );
}
