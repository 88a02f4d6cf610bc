//! Finds the leader of the partition, and describes and creates its topic.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;

use crate::{
    connection::Connection,
    error::{Error, ErrorCode, Malformed},
    handshake::{Ready, connect},
    messages::{
        CREATE_TOPICS, DESCRIBE_CONFIGS, METADATA,
        topic::{self, Broker, Metadata, NewTopic, Outcome, TopicConfig},
    },
    settings::{Endpoint, Settings},
    topic_id::TopicId,
};

/// How long a broker may take to answer before the next broker is asked, too.
const NEXT_BROKER_AFTER: Duration = Duration::from_millis(100);

/// A partition of a topic. A clone is the same partition.
///
/// Each call of this type makes its own connections. Nothing is tried again: if no broker gives the answer, the call
/// fails, and the caller decides when to try again.
#[derive(Debug, Clone)]
pub struct Partition {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    /// The id of the topic, once it is known.
    topic_id: OnceLock<TopicId>,
    /// The index of the endpoint that answered last.
    preferred: AtomicUsize,
}

/// Where a partition is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The topic's id; [`TopicId::UNKNOWN`] if the brokers do not know topic ids.
    pub topic_id: TopicId,
    /// The number of partitions of the topic.
    pub partitions: usize,
    /// The broker that leads the partition.
    pub leader: Broker,
    /// Increases with each election of a leader. -1: unknown.
    pub leader_epoch: i32,
    /// The numbers of the brokers that hold a replica.
    pub replicas: Vec<i32>,
    /// The numbers of the brokers whose replica is in sync.
    pub in_sync: Vec<i32>,
}

/// A topic with its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Where the partition is.
    pub location: Location,
    /// The brokers of the cluster that are alive.
    pub brokers: Vec<Broker>,
    /// The id of the cluster.
    pub cluster_id: Option<String>,
    /// All settings of the topic that the broker knows.
    pub configs: Vec<TopicConfig>,
}

impl Description {
    /// Returns the setting `name`.
    #[must_use]
    pub fn config(&self, name: &str) -> Option<&TopicConfig> {
        self.configs.iter().find(|config| config.name == name)
    }
}

impl Partition {
    /// Makes the value for a partition. Connects to no broker.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`]: a setting is outside its bounds.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        settings.check()?;
        let topic_id = settings.topic_id.map_or_else(OnceLock::new, OnceLock::from);
        let shared = Shared {
            settings,
            topic_id,
            preferred: AtomicUsize::new(0),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Returns the settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Returns the id that the topic must have. `None`: no broker has been asked yet.
    #[must_use]
    pub fn topic_id(&self) -> Option<TopicId> {
        self.shared.topic_id.get().copied()
    }

    /// Asks for the leader of the partition. The brokers of [`Settings::bootstrap`] are asked one after the other. The next broker is asked
    /// when a broker fails, or has not answered within 100 ms. The first answer that names a leader is used.
    ///
    /// # Errors
    ///
    /// [`Error::TopicReplaced`]: the topic was deleted and created again. [`Error::UnknownTopic`] and [`Error::NoLeader`] can be transient.
    /// Other errors: no broker answered.
    pub async fn locate(&self) -> Result<Location, Error> {
        let (_, _, location) = self.ask(|metadata| self.location(metadata)).await?;
        Ok(location)
    }

    /// Describes the topic: leader, replicas, brokers and settings.
    ///
    /// # Errors
    ///
    /// Those of [`Partition::locate`], and [`Error::Broker`] if the user may not read the settings.
    pub async fn describe(&self) -> Result<Description, Error> {
        let (ready, metadata, location) = self.ask(|metadata| self.location(metadata)).await?;
        let connection = &ready.connection;
        let version = connection.version(&DESCRIBE_CONFIGS)?;
        let body = topic::describe_configs_request(version, &self.settings().topic);
        let answer = connection
            .call(&DESCRIBE_CONFIGS, version, body, Duration::ZERO)
            .await?;
        let outcome = topic::describe_configs_answer(version, answer)
            .map_err(|Malformed(what)| connection.ending().malformed(DESCRIBE_CONFIGS.name, what))?;
        Ok(Description {
            location,
            brokers: metadata.brokers,
            cluster_id: metadata.cluster_id,
            configs: successful(connection, DESCRIBE_CONFIGS.name, outcome)?,
        })
    }

    /// Creates the topic. The new topic has a leader only after some time: repeat [`Partition::locate`] until it has.
    ///
    /// # Errors
    ///
    /// [`Error::Broker`] with [`ErrorCode::TOPIC_ALREADY_EXISTS`]: the topic exists. Also the errors of [`Partition::locate`].
    pub async fn create_topic(&self, new: &NewTopic) -> Result<(), Error> {
        let (ready, _, controller) = self.ask(|metadata| Ok(controller(metadata))).await?;
        let ready = match controller {
            Some(endpoint) => connect(self.settings(), &endpoint).await?,
            None => ready,
        };
        let connection = &ready.connection;
        let version = connection.version(&CREATE_TOPICS)?;
        let limit = milliseconds(self.settings().request_timeout);
        let body = topic::create_topics_request(version, &self.settings().topic, new, limit);
        let answer = connection
            .call(&CREATE_TOPICS, version, body, Duration::ZERO)
            .await?;
        let outcome = topic::create_topics_answer(version, answer)
            .map_err(|Malformed(what)| connection.ending().malformed(CREATE_TOPICS.name, what))?;
        successful(connection, CREATE_TOPICS.name, outcome)
    }

    /// Finds the leader and connects to it.
    pub(crate) async fn connect_to_leader(&self) -> Result<(Ready, Location), Error> {
        let location = self.locate_newest().await?;
        let ready = connect(self.settings(), &location.leader.endpoint).await?;
        Ok((ready, location))
    }

    /// Asks all brokers of [`Settings::bootstrap`] at the same time for the leader of the partition, and uses the answer with the newest
    /// election. A broker that is cut off from the others does not know that it no longer leads; with the first answer, the client could
    /// find this broker again and again. The method waits for slow brokers at most 100 ms after the first answer.
    async fn locate_newest(&self) -> Result<Location, Error> {
        let mut tasks = JoinSet::new();
        for index in 0..self.settings().bootstrap.len() {
            let partition = self.clone();
            tasks.spawn(async move {
                let (_, metadata) = partition.ask_one(index).await?;
                partition.location(&metadata)
            });
        }
        let mut newest: Option<Location> = None;
        let mut failure: Option<Error> = None;
        loop {
            let finished = if newest.is_none() {
                tasks.join_next().await
            } else {
                tokio::time::timeout(NEXT_BROKER_AFTER, tasks.join_next())
                    .await
                    .unwrap_or_default()
            };
            match finished {
                Some(Ok(Ok(location))) => {
                    if newest
                        .as_ref()
                        .is_none_or(|newest| newest.leader_epoch < location.leader_epoch)
                    {
                        newest = Some(location);
                    }
                }
                Some(Ok(Err(error))) => {
                    if failure.as_ref().is_none_or(is_about_the_network) {
                        failure = Some(error);
                    }
                }
                Some(Err(_)) => {}
                None => break,
            }
        }
        match newest {
            Some(location) => Ok(location),
            None => Err(failure.unwrap_or_else(|| self.unknown_topic())),
        }
    }

    /// Asks the brokers for metadata until `judge` accepts an answer.
    async fn ask<T>(
        &self,
        judge: impl Fn(&Metadata) -> Result<T, Error>,
    ) -> Result<(Ready, Metadata, T), Error> {
        let count = self.settings().bootstrap.len();
        let preferred = self.shared.preferred.load(Ordering::Relaxed);
        let mut left = (0..count).map(|index| (preferred + index) % count);
        let mut tasks = JoinSet::new();
        let mut failure: Option<Error> = None;
        loop {
            let next = left.next();
            let is_last = next.is_none();
            if let Some(index) = next {
                let partition = self.clone();
                tasks.spawn(async move { (index, partition.ask_one(index).await) });
            }
            let finished = if is_last {
                tasks.join_next().await
            } else {
                // When the time limit passes, the next broker is asked, too.
                match tokio::time::timeout(NEXT_BROKER_AFTER, tasks.join_next()).await {
                    Ok(finished) => finished,
                    Err(_) => continue,
                }
            };
            let error = match finished {
                Some(Ok((index, Ok((ready, metadata))))) => match judge(&metadata) {
                    Ok(value) => {
                        self.shared.preferred.store(index, Ordering::Relaxed);
                        return Ok((ready, metadata, value));
                    }
                    Err(error) => error,
                },
                Some(Ok((_, Err(error)))) => error,
                Some(Err(_)) => continue,
                None if is_last => return Err(failure.unwrap_or_else(|| self.unknown_topic())),
                None => continue,
            };
            if failure.as_ref().is_none_or(is_about_the_network) {
                failure = Some(error);
            }
        }
    }

    async fn ask_one(&self, index: usize) -> Result<(Ready, Metadata), Error> {
        let endpoint = self.settings().bootstrap.get(index);
        let ready = connect(self.settings(), endpoint.ok_or_else(|| self.unknown_topic())?).await?;
        let connection = &ready.connection;
        let version = connection.version(&METADATA)?;
        let body = topic::metadata_request(version, &self.settings().topic);
        let answer = connection.call(&METADATA, version, body, Duration::ZERO).await?;
        let metadata = topic::metadata_answer(version, answer)
            .map_err(|Malformed(what)| connection.ending().malformed(METADATA.name, what))?;
        let code = metadata.topic.code;
        if code != ErrorCode::NONE && code != ErrorCode::UNKNOWN_TOPIC_OR_PARTITION {
            return Err(Error::Broker {
                endpoint: connection.ending().endpoint().to_owned(),
                call: METADATA.name,
                code,
                message: None,
            });
        }
        Ok((ready, metadata))
    }

    /// Finds the partition in the answer of a broker.
    fn location(&self, metadata: &Metadata) -> Result<Location, Error> {
        let settings = self.settings();
        let found = &metadata.topic;
        if found.code != ErrorCode::NONE {
            return Err(self.unknown_topic());
        }
        if found.id.is_known() {
            let expected = *self.shared.topic_id.get_or_init(|| found.id);
            if expected != found.id {
                return Err(Error::TopicReplaced {
                    topic: settings.topic.clone(),
                    expected,
                    found: found.id,
                });
            }
        }
        let partition = found
            .partitions
            .iter()
            .find(|one| one.index == settings.partition);
        let partition = partition.ok_or_else(|| self.unknown_topic())?;
        let leader = metadata
            .brokers
            .iter()
            .find(|broker| broker.id == partition.leader);
        match leader {
            // An answer can name a leader and have an error code, such as for a missing listener. The client then asks the leader.
            Some(leader) if partition.leader >= 0 && partition.code != ErrorCode::LEADER_NOT_AVAILABLE => {
                Ok(Location {
                    topic_id: found.id,
                    partitions: found.partitions.len(),
                    leader: leader.clone(),
                    leader_epoch: partition.leader_epoch,
                    replicas: partition.replicas.clone(),
                    in_sync: partition.in_sync.clone(),
                })
            }
            _ => Err(Error::NoLeader {
                topic: settings.topic.clone(),
                partition: settings.partition,
            }),
        }
    }

    fn unknown_topic(&self) -> Error {
        Error::UnknownTopic {
            topic: self.settings().topic.clone(),
            partition: self.settings().partition,
        }
    }
}

/// Returns whether an error says nothing about the topic. If so, the answer of another broker is more useful.
fn is_about_the_network(error: &Error) -> bool {
    matches!(
        error,
        Error::Connect { .. } | Error::Timeout { .. } | Error::Closed { .. }
    )
}

/// Returns the address of the broker that creates topics, if the answer names it.
fn controller(metadata: &Metadata) -> Option<Endpoint> {
    let mut brokers = metadata.brokers.iter();
    let controller = brokers.find(|broker| broker.id == metadata.controller)?;
    Some(controller.endpoint.clone())
}

fn successful<T>(connection: &Connection, call: &'static str, outcome: Outcome<T>) -> Result<T, Error> {
    if outcome.code == ErrorCode::NONE {
        return Ok(outcome.value);
    }
    Err(Error::Broker {
        endpoint: connection.ending().endpoint().to_owned(),
        call,
        code: outcome.code,
        message: outcome.message,
    })
}

/// Returns `time` in milliseconds, for a field of 31 bits. Every time limit fits into the field.
pub(crate) fn milliseconds(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}
