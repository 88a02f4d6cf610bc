//! Checks that a topic keeps what it has acknowledged.

use std::fmt;

use super::port::TopicFacts;

/// A property of a topic with which the log could lose blocks that it has acknowledged, or with which a replica could not read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsafeTopic {
    /// What is wrong: the setting or the property.
    pub setting: &'static str,
    /// Its value; `None` if the brokers do not tell.
    pub value: Option<String>,
    /// What it must be.
    pub bound: String,
    /// What could happen.
    pub why: &'static str,
}

impl fmt::Display for UnsafeTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.as_deref().unwrap_or("unknown");
        write!(
            f,
            "{} = {value}: must be {}, because {}",
            self.setting, self.bound, self.why
        )
    }
}

/// Smallest number of brokers with a copy. With three, two are in sync when one has failed.
const REPLICATION_FACTOR_MIN: usize = 3;
/// Smallest number of brokers that must have a block before it is acknowledged.
const IN_SYNC_MIN: u64 = 2;

/// Returns everything for which the topic is not safe. `message_bytes` is the size of the largest request.
#[must_use]
pub fn unsafe_properties(facts: &TopicFacts, message_bytes: u64) -> Vec<UnsafeTopic> {
    let mut found = Vec::new();
    if facts.partitions != 1 {
        found.push(UnsafeTopic {
            setting: "partitions",
            value: Some(facts.partitions.to_string()),
            bound: "1".to_owned(),
            why: "the order of blocks is the order in one partition",
        });
    }
    if facts.replication_factor < REPLICATION_FACTOR_MIN {
        found.push(UnsafeTopic {
            setting: "replication factor",
            value: Some(facts.replication_factor.to_string()),
            bound: format!("{REPLICATION_FACTOR_MIN} or more"),
            why: "the loss of one broker must lose nothing, and must not stop the log",
        });
    }
    let mut check =
        |setting: &'static str, bound: String, why: &'static str, is_safe: &dyn Fn(&str) -> bool| {
            let value = facts.setting(setting);
            if !value.is_some_and(is_safe) {
                found.push(UnsafeTopic {
                    setting,
                    value: value.map(str::to_owned),
                    bound,
                    why,
                });
            }
        };
    let at_least = |minimum: u64| move |value: &str| value.parse::<u64>().is_ok_and(|value| value >= minimum);
    let equals = |wanted: &'static str| move |value: &str| value == wanted;
    check(
        "min.insync.replicas",
        format!("{IN_SYNC_MIN} or more"),
        "a block must be on two disks before it is acknowledged",
        &at_least(IN_SYNC_MIN),
    );
    check(
        "unclean.leader.election.enable",
        "false".to_owned(),
        "a broker without the newest blocks must not lead",
        &equals("false"),
    );
    check(
        "cleanup.policy",
        "delete".to_owned(),
        "compaction would remove blocks",
        &equals("delete"),
    );
    check(
        "retention.ms",
        "-1".to_owned(),
        "blocks must not be removed by their age",
        &equals("-1"),
    );
    check(
        "retention.bytes",
        "-1".to_owned(),
        "blocks must not be removed by their number",
        &equals("-1"),
    );
    check(
        "flush.messages",
        "1".to_owned(),
        "a block must be on the disk, and not only in the memory of a broker, before it is acknowledged",
        &equals("1"),
    );
    check(
        "max.message.bytes",
        format!("{message_bytes} or more"),
        "the largest block must fit",
        &at_least(message_bytes),
    );
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn safe() -> TopicFacts {
        let settings = [
            ("min.insync.replicas", "2"),
            ("unclean.leader.election.enable", "false"),
            ("cleanup.policy", "delete"),
            ("retention.ms", "-1"),
            ("retention.bytes", "-1"),
            ("flush.messages", "1"),
            ("max.message.bytes", "8388608"),
        ];
        TopicFacts {
            partitions: 1,
            replication_factor: 3,
            settings: settings
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            ..TopicFacts::default()
        }
    }

    #[test]
    fn each_property_of_a_topic_is_checked_and_named() {
        assert_eq!(unsafe_properties(&safe(), 8 << 20), []);
        for (index, other) in [
            "1",
            "true",
            "compact",
            "604800000",
            "1000",
            "9223372036854775807",
            "1048588",
        ]
        .into_iter()
        .enumerate()
        {
            let mut facts = safe();
            other.clone_into(&mut facts.settings[index].1);
            let found = unsafe_properties(&facts, 8 << 20);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].setting, facts.settings[index].0);
            let text = found[0].to_string();
            assert!(text.contains(other) && text.contains("must be"), "{text}");
            facts.settings.remove(index);
            let found = unsafe_properties(&facts, 8 << 20);
            assert!(found[0].to_string().contains("unknown"), "{found:?}");
        }
        let mut facts = safe();
        facts.partitions = 2;
        facts.replication_factor = 2;
        let found: Vec<_> = unsafe_properties(&facts, 8 << 20)
            .iter()
            .map(|found| found.setting)
            .collect();
        assert_eq!(found, ["partitions", "replication factor"]);
    }
}
