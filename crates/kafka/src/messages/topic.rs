//! `Metadata`, `DescribeConfigs` and `CreateTopics`.

use bytes::Bytes;

use super::{CREATE_TOPICS, DESCRIBE_CONFIGS, METADATA, only};
use crate::{
    error::{ErrorCode, Malformed},
    settings::Endpoint,
    topic_id::TopicId,
    wire::Decoder,
};

/// The first version of `Metadata` that has topic ids.
const TOPIC_IDS_FROM: i16 = 10;
/// The number with which `DescribeConfigs` names a topic.
const TOPIC_RESOURCE: i8 = 2;

/// A broker of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Its number.
    pub id: i32,
    /// Its address for clients.
    pub endpoint: Endpoint,
    /// Its rack, which is usually the availability zone.
    pub rack: Option<String>,
}

/// The answer to `Metadata`.
#[derive(Debug, Clone)]
pub(crate) struct Metadata {
    pub(crate) brokers: Vec<Broker>,
    pub(crate) cluster_id: Option<String>,
    pub(crate) controller: i32,
    pub(crate) topic: TopicMetadata,
}

#[derive(Debug, Clone)]
pub(crate) struct TopicMetadata {
    pub(crate) code: ErrorCode,
    pub(crate) id: TopicId,
    pub(crate) partitions: Vec<PartitionMetadata>,
}

#[derive(Debug, Clone)]
pub(crate) struct PartitionMetadata {
    pub(crate) code: ErrorCode,
    pub(crate) index: i32,
    pub(crate) leader: i32,
    pub(crate) leader_epoch: i32,
    pub(crate) replicas: Vec<i32>,
    pub(crate) in_sync: Vec<i32>,
}

pub(crate) fn metadata_request(version: i16, topic: &str) -> Bytes {
    let mut encoder = METADATA.encoder(version);
    encoder.array(1);
    if version >= TOPIC_IDS_FROM {
        encoder.uuid(TopicId::UNKNOWN.0);
    }
    encoder.string(topic);
    encoder.tags();
    encoder.bool(false); // A broker must not create the topic.
    if (8..=10).contains(&version) {
        encoder.bool(false);
    }
    if version >= 8 {
        encoder.bool(false);
    }
    encoder.tags();
    encoder.finish()
}

pub(crate) fn metadata_answer(version: i16, answer: Bytes) -> Result<Metadata, Malformed> {
    let mut decoder = METADATA.decoder(version, answer)?;
    decoder.i32()?;
    let brokers = decoder.array(11, broker)?;
    let cluster_id = decoder.nullable_string()?;
    let controller = decoder.i32()?;
    let topics = decoder.array(8, |item| topic(version, item))?;
    decoder.tags()?;
    Ok(Metadata {
        brokers,
        cluster_id,
        controller,
        topic: only(topics)?,
    })
}

fn broker(item: &mut Decoder) -> Result<Broker, Malformed> {
    let id = item.i32()?;
    let host = item.string()?;
    let port = u16::try_from(item.i32()?).map_err(|_| Malformed("a port is larger than 65535"))?;
    let rack = item.nullable_string()?;
    item.tags()?;
    Ok(Broker {
        id,
        endpoint: Endpoint { host, port },
        rack,
    })
}

fn topic(version: i16, item: &mut Decoder) -> Result<TopicMetadata, Malformed> {
    let code = ErrorCode(item.i16()?);
    item.nullable_string()?;
    let id = if version >= TOPIC_IDS_FROM {
        TopicId(item.uuid()?)
    } else {
        TopicId::UNKNOWN
    };
    item.bool()?;
    let partitions = item.array(18, |item| {
        let code = ErrorCode(item.i16()?);
        let index = item.i32()?;
        let leader = item.i32()?;
        let leader_epoch = item.i32()?;
        let replicas = item.array(4, Decoder::i32)?;
        let in_sync = item.array(4, Decoder::i32)?;
        item.array(4, Decoder::i32)?;
        item.tags()?;
        Ok(PartitionMetadata {
            code,
            index,
            leader,
            leader_epoch,
            replicas,
            in_sync,
        })
    })?;
    if version >= 8 {
        item.i32()?;
    }
    item.tags()?;
    Ok(TopicMetadata { code, id, partitions })
}

/// Where the value of a setting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigSource {
    /// Set for this topic.
    Topic,
    /// Set for all topics of a broker, while the broker runs.
    Broker,
    /// Set for all brokers of the cluster, while they run.
    Cluster,
    /// Set in the file of the broker.
    BrokerFile,
    /// Kafka's default.
    Default,
    /// Another source, with its number in the protocol.
    Other(i8),
}

impl ConfigSource {
    const fn from_number(number: i8) -> Self {
        match number {
            1 => Self::Topic,
            2 => Self::Broker,
            3 => Self::Cluster,
            4 => Self::BrokerFile,
            5 => Self::Default,
            other => Self::Other(other),
        }
    }
}

/// A setting of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfig {
    /// The name, for example `min.insync.replicas`.
    pub name: String,
    /// The value that is in force. `None` if the broker hides it.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: ConfigSource,
}

pub(crate) fn describe_configs_request(version: i16, topic: &str) -> Bytes {
    let mut encoder = DESCRIBE_CONFIGS.encoder(version);
    encoder.array(1);
    encoder.i8(TOPIC_RESOURCE);
    encoder.string(topic);
    encoder.null_array(); // All settings.
    encoder.bool(false);
    encoder.finish()
}

/// A call's outcome for one topic.
#[derive(Debug)]
pub(crate) struct Outcome<T> {
    pub(crate) code: ErrorCode,
    pub(crate) message: Option<String>,
    pub(crate) value: T,
}

pub(crate) fn describe_configs_answer(
    version: i16,
    answer: Bytes,
) -> Result<Outcome<Vec<TopicConfig>>, Malformed> {
    let mut decoder = DESCRIBE_CONFIGS.decoder(version, answer)?;
    decoder.i32()?;
    only(decoder.array(11, |item| {
        let code = ErrorCode(item.i16()?);
        let message = item.nullable_string()?;
        item.i8()?;
        item.string()?;
        let value = item.array(11, |item| {
            let name = item.string()?;
            let value = item.nullable_string()?;
            item.bool()?;
            let source = ConfigSource::from_number(item.i8()?);
            item.bool()?;
            item.array(5, |item| {
                item.string()?;
                item.nullable_string()?;
                item.i8()
            })?;
            Ok(TopicConfig { name, value, source })
        })?;
        Ok(Outcome { code, message, value })
    })?)
}

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// The number of partitions.
    pub partitions: i32,
    /// The number of replicas of each partition.
    pub replication_factor: i16,
    /// Settings that differ from the brokers' defaults, as name and value.
    pub configs: Vec<(String, String)>,
}

pub(crate) fn create_topics_request(version: i16, name: &str, topic: &NewTopic, limit_ms: i32) -> Bytes {
    let mut encoder = CREATE_TOPICS.encoder(version);
    encoder.array(1);
    encoder.string(name);
    encoder.i32(topic.partitions);
    encoder.i16(topic.replication_factor);
    encoder.array(0);
    encoder.array(topic.configs.len());
    for (name, value) in &topic.configs {
        encoder.string(name);
        encoder.string(value);
    }
    encoder.i32(limit_ms);
    encoder.bool(false);
    encoder.finish()
}

pub(crate) fn create_topics_answer(version: i16, answer: Bytes) -> Result<Outcome<()>, Malformed> {
    let mut decoder = CREATE_TOPICS.decoder(version, answer)?;
    decoder.i32()?;
    only(decoder.array(6, |item| {
        item.string()?;
        Ok(Outcome {
            code: ErrorCode(item.i16()?),
            message: item.nullable_string()?,
            value: (),
        })
    })?)
}
