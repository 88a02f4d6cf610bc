//! The requests that this client sends, and their answers.
//!
//! Each call has a few versions that this client speaks. The client uses the best of these versions that the broker
//! also supports. The formats come from the message definitions of Apache Kafka
//! (`clients/src/main/resources/common/message`).

pub(crate) mod connect;
pub(crate) mod fetch;
pub(crate) mod produce;
pub(crate) mod target;
pub(crate) mod topic;

use bytes::Bytes;

use crate::{
    error::Malformed,
    wire::{Decoder, Encoder},
};

/// A call of the protocol.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Api {
    /// The number of the call.
    pub(crate) key: i16,
    /// The name of the call, for errors.
    pub(crate) name: &'static str,
    /// The versions that this client speaks, the best first.
    pub(crate) versions: &'static [i16],
    /// The first flexible version. Flexible versions encode lengths differently, and have tagged fields.
    pub(crate) flexible_from: i16,
}

/// Appends records. Version 13 names the topic by id, version 9 is flexible.
pub(crate) static PRODUCE: Api = Api {
    key: 0,
    name: "Produce",
    versions: &[13, 9, 7],
    flexible_from: 9,
};
/// Reads records. Version 13 names the topic by id.
pub(crate) static FETCH: Api = Api {
    key: 1,
    name: "Fetch",
    versions: &[13, 11],
    flexible_from: 12,
};
/// Asks for the first or the last offset.
pub(crate) static LIST_OFFSETS: Api = Api {
    key: 2,
    name: "ListOffsets",
    versions: &[4],
    flexible_from: 6,
};
/// Asks for brokers, leaders and topic ids. Topic ids exist from version 10 on.
pub(crate) static METADATA: Api = Api {
    key: 3,
    name: "Metadata",
    versions: &[12, 7],
    flexible_from: 9,
};
/// Chooses the SASL mechanism.
pub(crate) static SASL_HANDSHAKE: Api = Api {
    key: 17,
    name: "SaslHandshake",
    versions: &[1],
    flexible_from: i16::MAX,
};
/// Asks which versions the broker supports.
pub(crate) static API_VERSIONS: Api = Api {
    key: 18,
    name: "ApiVersions",
    versions: &[3],
    flexible_from: 3,
};
/// Creates a topic.
pub(crate) static CREATE_TOPICS: Api = Api {
    key: 19,
    name: "CreateTopics",
    versions: &[4],
    flexible_from: 5,
};
/// Asks for the settings of a topic.
pub(crate) static DESCRIBE_CONFIGS: Api = Api {
    key: 32,
    name: "DescribeConfigs",
    versions: &[1],
    flexible_from: 4,
};
/// One step of a SASL mechanism.
pub(crate) static SASL_AUTHENTICATE: Api = Api {
    key: 36,
    name: "SaslAuthenticate",
    versions: &[1],
    flexible_from: 2,
};

impl Api {
    pub(crate) const fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_from
    }

    /// Returns whether the answer's header ends with tagged fields. The answer to `ApiVersions` never does, because the
    /// client cannot know yet which header the broker uses.
    pub(crate) fn has_tagged_answer(&self, version: i16) -> bool {
        self.is_flexible(version) && self.key != API_VERSIONS.key
    }

    /// Returns an encoder for the body of a request.
    pub(crate) fn encoder(&self, version: i16) -> Encoder {
        Encoder::new(self.is_flexible(version))
    }

    /// Returns a decoder for the body of an answer, which begins after the answer's header.
    pub(crate) fn decoder(&self, version: i16, answer: Bytes) -> Result<Decoder, Malformed> {
        let mut decoder = Decoder::new(answer, self.is_flexible(version));
        if self.has_tagged_answer(version) {
            decoder.tags()?;
        }
        Ok(decoder)
    }
}

/// Finds the only element of an answer about one topic or one partition.
pub(crate) fn only<T>(items: Vec<T>) -> Result<T, Malformed> {
    let mut items = items.into_iter();
    match (items.next(), items.next()) {
        (Some(item), None) => Ok(item),
        _ => Err(Malformed(
            "the answer is not about exactly one topic and partition",
        )),
    }
}

#[cfg(test)]
mod tests;
