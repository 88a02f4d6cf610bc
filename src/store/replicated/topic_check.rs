//! Checks that a topic keeps what it has acknowledged.

use std::fmt;

use super::port::TopicFacts;

/// A property of a topic with which the log could lose blocks that it has acknowledged, or with which a replica could not read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsafeTopic {
    /// What is wrong: the setting or the property.
    pub setting: &'static str,
    /// Its value; `None` if the brokers do not report it.
    pub value: Option<String>,
    /// What it must be.
    pub bound: String,
    /// What could happen.
    pub why: &'static str,
}

impl fmt::Display for UnsafeTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = match &self.value {
            Some(value) => value,
            None => "unknown",
        };
        write!(
            f,
            "{} = {value}: must be {}, because {}",
            self.setting, self.bound, self.why
        )
    }
}

/// Smallest number of brokers with a copy. With three brokers, two are in sync when one has failed.
const REPLICATION_FACTOR_MIN: usize = 3;
/// Smallest number of brokers that must have a block before it is acknowledged.
const IN_SYNC_MIN: u64 = 2;

/// A check of a setting: its name, what it must be, and what could happen otherwise.
struct Check {
    setting: &'static str,
    wanted: Wanted,
    why: &'static str,
}

/// What a setting must be.
#[derive(Clone, Copy)]
enum Wanted {
    /// This value.
    Value(&'static str),
    /// One of these values.
    OneOf([&'static str; 2]),
    /// At least this number.
    AtLeast(u64),
}

/// The checks, except for that of the size of a request.
const CHECKS: [Check; 7] = [
    Check {
        setting: "compression.type",
        wanted: Wanted::OneOf(["producer", "uncompressed"]),
        why: "replicas read only records without compression",
    },
    Check {
        setting: "min.insync.replicas",
        wanted: Wanted::AtLeast(IN_SYNC_MIN),
        why: "a block must be on two disks before it is acknowledged",
    },
    Check {
        setting: "unclean.leader.election.enable",
        wanted: Wanted::Value("false"),
        why: "a broker without the newest blocks must not lead",
    },
    Check {
        setting: "cleanup.policy",
        wanted: Wanted::Value("delete"),
        why: "compaction would remove blocks",
    },
    Check {
        setting: "retention.ms",
        wanted: Wanted::Value("-1"),
        why: "blocks must not be removed by their age",
    },
    Check {
        setting: "retention.bytes",
        wanted: Wanted::Value("-1"),
        why: "blocks must not be removed by their number",
    },
    Check {
        setting: "flush.messages",
        wanted: Wanted::Value("1"),
        why: "a block must be on the disk, and not only in the memory of a broker, before it is acknowledged",
    },
];

// ===== impl Check =====

impl Check {
    /// Returns what is wrong with the setting of a topic; `None` if nothing is wrong.
    fn fault(&self, facts: &TopicFacts) -> Option<UnsafeTopic> {
        let value = facts.setting(self.setting);
        let is_safe = |value: &str| match self.wanted {
            Wanted::Value(wanted) => value == wanted,
            Wanted::OneOf(wanted) => wanted.contains(&value),
            Wanted::AtLeast(least) => value.parse::<u64>().is_ok_and(|value| value >= least),
        };
        if value.is_some_and(is_safe) {
            return None;
        }
        Some(UnsafeTopic {
            setting: self.setting,
            value: value.map(str::to_owned),
            bound: match self.wanted {
                Wanted::Value(wanted) => wanted.to_owned(),
                Wanted::OneOf(wanted) => wanted.join(" or "),
                Wanted::AtLeast(least) => format!("{least} or more"),
            },
            why: self.why,
        })
    }
}

/// Returns all properties that make the topic unsafe. `message_bytes` is the size of the largest request.
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
    let largest = Check {
        setting: "max.message.bytes",
        wanted: Wanted::AtLeast(message_bytes),
        why: "the largest block must fit",
    };
    found.extend(
        CHECKS
            .iter()
            .chain([&largest])
            .filter_map(|check| check.fault(facts)),
    );
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn safe() -> TopicFacts {
        let settings = [
            ("compression.type", "producer"),
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
            "gzip",
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
