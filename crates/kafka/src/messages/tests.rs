use bytes::Bytes;

use super::{
    connect::{Versions, api_versions_answer},
    fetch::{Edge, Fetch, fetch_answer, fetch_request, list_offsets_answer, list_offsets_request},
    produce,
    target::Target,
    topic::{
        ConfigSource, NewTopic, create_topics_request, describe_configs_answer, describe_configs_request,
        metadata_answer, metadata_request,
    },
    *,
};
use crate::{batch::Encoded, error::ErrorCode, topic_id::TopicId};

const ID: TopicId = TopicId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
const TARGET: Target<'static> = Target {
    topic: "blocks",
    topic_id: ID,
    partition: 3,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Bytes {
    let digits: Vec<char> = hex.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// The expected bytes come from the encoder of the crate `kafka-protocol` 0.18.
#[test]
fn requests_have_the_bytes_that_another_encoder_makes() {
    let produce = |version| {
        let records = Encoded {
            pieces: vec![Bytes::from("RECO"), Bytes::from("RDS")],
            length: 7,
        };
        hex(&produce::request(version, TARGET, records, 5000).concat())
    };
    let fetch = |version| {
        let fetch = Fetch {
            offset: 77,
            leader_epoch: 4,
            max_wait_ms: 250,
            bytes_max: 1000,
        };
        hex(&fetch_request(version, TARGET, fetch))
    };
    let new = NewTopic {
        partitions: 1,
        replication_factor: 3,
        configs: vec![("a".to_owned(), "b".to_owned())],
    };
    for (actual, expected) in [
        (
            produce(7),
            "ffffffff00001388000000010006626c6f636b730000000100000003000000075245434f524453",
        ),
        (
            produce(9),
            "00ffff000013880207626c6f636b730200000003085245434f524453000000",
        ),
        (
            produce(13),
            "00ffff00001388020102030405060708090a0b0c0d0e0f100200000003085245434f524453000000",
        ),
        (
            fetch(11),
            "ffffffff000000fa00000001000003e80000000000ffffffff000000010006626c6f636b73000000010000000300000004000000000000004dffffffffffffffff000003e8000000000000",
        ),
        (
            fetch(13),
            "ffffffff000000fa00000001000003e80000000000ffffffff020102030405060708090a0b0c0d0e0f10020000000300000004000000000000004dffffffffffffffffffffffff000003e80000010100",
        ),
        (hex(&metadata_request(7, "blocks")), "000000010006626c6f636b7300"),
        (
            hex(&metadata_request(12, "blocks")),
            "020000000000000000000000000000000007626c6f636b7300000000",
        ),
        (
            hex(&list_offsets_request(4, TARGET, 4, Edge::Start)),
            "ffffffff00000000010006626c6f636b73000000010000000300000004fffffffffffffffe",
        ),
        (
            hex(&list_offsets_request(4, TARGET, 4, Edge::End)),
            "ffffffff00000000010006626c6f636b73000000010000000300000004ffffffffffffffff",
        ),
        (
            hex(&describe_configs_request(1, "blocks")),
            "00000001020006626c6f636b73ffffffff00",
        ),
        (
            hex(&create_topics_request(4, "blocks", &new, 5000)),
            "000000010006626c6f636b7300000001000300000000000000010001610001620000138800",
        ),
    ] {
        assert_eq!(actual, expected);
    }
}

/// Each answer below, cut at every byte, is an error and never a panic.
fn cut(answer: &str, decode: impl Fn(Bytes) -> bool) {
    let answer = bytes(answer);
    assert!(decode(answer.clone()), "the whole answer");
    for length in 0..answer.len() {
        assert!(!decode(answer.slice(..length)), "{length} bytes");
    }
}

#[test]
fn an_answer_to_produce_is_read() {
    // Topic "blocks" or its id, partition 3, no error, offset 500, no time of the log, log start 2.
    let plain = "00000001 0006626c6f636b73 00000001 00000003 0000 00000000000001f4 ffffffffffffffff 0000000000000002 00000000";
    cut(&plain[..plain.len() - 9], |answer| {
        produce::answer(7, 3, answer).is_ok()
    });
    // A header without tags, then no record errors, no message, tags.
    let flexible = "00 02 0102030405060708090a0b0c0d0e0f10 02 00000003 0000 00000000000001f4 ffffffffffffffff 0000000000000002 01 00 00 00";
    cut(flexible, |answer| produce::answer(13, 3, answer).is_ok());
    let answer = produce::answer(13, 3, bytes(flexible)).unwrap();
    assert_eq!(
        (answer.code, answer.base_offset, answer.log_start),
        (ErrorCode::NONE, 500, 2)
    );
    assert!(
        produce::answer(13, 0, bytes(flexible)).is_err(),
        "another partition"
    );
    let refused = "00 02 07626c6f636b73 02 00000003 0013 ffffffffffffffff ffffffffffffffff ffffffffffffffff 01 036e6f 00 00";
    let answer = produce::answer(9, 3, bytes(refused)).unwrap();
    assert_eq!(
        (answer.code, answer.message.as_deref()),
        (ErrorCode::NOT_ENOUGH_REPLICAS, Some("no"))
    );
    let no_offset = flexible.replace("00000000000001f4", "ffffffffffffffff");
    assert!(
        produce::answer(13, 3, bytes(&no_offset)).is_err(),
        "success without an offset"
    );
    assert!(produce::answer(13, 3, bytes("00 01")).is_err(), "no topic");
}

#[test]
fn an_answer_to_fetch_is_read() {
    let by_id = "00 00000000 0000 00000000 02 0102030405060708090a0b0c0d0e0f10 02 00000003 0000 0000000000000009 0000000000000009 \
        0000000000000002 00 ffffffff 04 aabbcc 00 00";
    cut(by_id, |answer| fetch_answer(13, TARGET, answer).is_ok());
    let answer = fetch_answer(13, TARGET, bytes(by_id)).unwrap();
    assert_eq!(
        (answer.high_watermark, answer.log_start, &answer.records[..]),
        (9, 2, &[0xaa, 0xbb, 0xcc][..])
    );
    let other = Target {
        topic_id: TopicId::UNKNOWN,
        ..TARGET
    };
    assert!(fetch_answer(13, other, bytes(by_id)).is_err(), "another topic");
    let by_name = "00000000 0000 00000000 00000001 0006626c6f636b73 00000001 00000003 0000 0000000000000009 0000000000000009 \
        0000000000000002 ffffffff ffffffff ffffffff";
    cut(by_name, |answer| fetch_answer(11, TARGET, answer).is_ok());
    let of_all = "00 00000000 0047 00000000 01 00";
    assert_eq!(
        fetch_answer(13, TARGET, bytes(of_all)).unwrap().code,
        ErrorCode(0x47)
    );
}

#[test]
fn an_answer_to_list_offsets_is_read() {
    let answer = "00000000 00000001 0006626c6f636b73 00000001 00000003 0000 ffffffffffffffff 000000000000002a 00000001";
    cut(answer, |answer| {
        list_offsets_answer(4, TARGET, answer) == Ok((ErrorCode::NONE, 42))
    });
}

#[test]
fn an_answer_to_metadata_is_read() {
    let new = "00 00000000 02 00000001 0268 00002384 027a 00 0263 00000001 \
        02 0000 07626c6f636b73 0102030405060708090a0b0c0d0e0f10 00 02 0000 00000000 00000001 00000005 02 00000001 02 00000001 01 00 80000000 00 00";
    cut(new, |answer| metadata_answer(12, answer).is_ok());
    let old = "00000000 00000001 00000001 000168 00002384 ffff ffff 00000001 \
        00000001 0000 0006626c6f636b73 00 00000001 0000 00000000 00000001 00000005 00000001 00000001 00000001 00000001 00000000";
    cut(old, |answer| metadata_answer(7, answer).is_ok());
    for (version, answer, id) in [(12, new, ID), (7, old, TopicId::UNKNOWN)] {
        let metadata = metadata_answer(version, bytes(answer)).unwrap();
        assert_eq!(metadata.brokers[0].endpoint.to_string(), "h:9092");
        let partition = &metadata.topic.partitions[0];
        assert_eq!(
            (metadata.topic.id, partition.leader, partition.leader_epoch),
            (id, 1, 5)
        );
        assert_eq!(
            (&partition.replicas[..], &partition.in_sync[..]),
            (&[1][..], &[1][..])
        );
    }
}

#[test]
fn an_answer_to_describe_configs_is_read() {
    // Setting "a" = "b" of the topic, and "c" without a value from an unknown source, with a synonym.
    let answer = "00000000 00000001 0000 ffff 02 0006626c6f636b73 00000002 \
        000161 000162 00 01 00 00000000 \
        000163 ffff 00 07 01 00000001 000164 ffff 05";
    cut(answer, |answer| describe_configs_answer(1, answer).is_ok());
    let configs = describe_configs_answer(1, bytes(answer)).unwrap().value;
    assert_eq!(
        (configs[0].value.as_deref(), configs[0].source),
        (Some("b"), ConfigSource::Topic)
    );
    assert_eq!(
        (configs[1].value.as_deref(), configs[1].source),
        (None, ConfigSource::Other(7))
    );
}

#[test]
fn the_best_version_that_both_speak_is_chosen() {
    // No error; Produce 3 to 12, Fetch 4 to 17, Metadata 0 to 6.
    let answer = "0000 04 0000 0003 000c 00 0001 0004 0011 00 0003 0000 0006 00 00000000 00";
    cut(answer, |answer| api_versions_answer(3, answer).is_ok());
    let (_, versions) = api_versions_answer(3, bytes(answer)).unwrap();
    assert_eq!(versions.best(&PRODUCE), Some(9));
    assert_eq!(versions.best(&FETCH), Some(13));
    assert_eq!(versions.best(&METADATA), None);
    assert_eq!(versions.best(&LIST_OFFSETS), None);
    assert_eq!(Versions::before_the_answer().best(&API_VERSIONS), Some(3));
    // A broker that does not speak version 3 answers in version 0.
    let (code, _) = api_versions_answer(3, bytes("0023 00000001 0012 0000 0002")).unwrap();
    assert_eq!(code, ErrorCode::UNSUPPORTED_VERSION);
}
