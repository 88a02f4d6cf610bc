//! The connection of a replica to the simulated log.

use std::time::Duration;

use bytes::Bytes;
use tally::store::replicated::{
    AppendError, Appended, Doing, LogRecord, LogRecords, PartitionLog, ReadError, TopicFacts,
};
use tokio::{sync::oneshot, time::Instant};

use super::sim_log::{Answer, Event, REQUEST_TIMEOUT, SimLog, Stored, Waiting};

/// The connection of a replica to the log.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    log: SimLog,
    index: usize,
}

/// The settings of a safe topic.
const SETTINGS: [(&str, &str); 8] = [
    ("compression.type", "producer"),
    ("min.insync.replicas", "2"),
    ("unclean.leader.election.enable", "false"),
    ("cleanup.policy", "delete"),
    ("retention.ms", "-1"),
    ("retention.bytes", "-1"),
    ("flush.messages", "1"),
    ("max.message.bytes", "8388608"),
];

// ===== impl Link =====

impl Link {
    /// Connects the replica with this number.
    pub(crate) fn new(log: &SimLog, index: usize) -> Self {
        Link {
            log: log.clone(),
            index,
        }
    }
}

impl PartitionLog for Link {
    fn append(&mut self, blocks: Vec<Bytes>) -> Doing<Result<Appended, AppendError>> {
        let mut state = self.log.0.lock();
        let now = Instant::now();
        if state.instant {
            let first_offset = state.records.len() as u64;
            let epoch = state.epoch;
            state
                .records
                .extend(blocks.into_iter().map(|value| Stored { epoch, value }));
            (state.visible, state.acknowledged) = (state.records.len() as u64, state.records.len() as u64);
            return Box::pin(std::future::ready(Ok(Appended { first_offset })));
        }
        let (sender, receiver) = oneshot::channel();
        let call = state.call(self.index, Waiting::Append(sender), REQUEST_TIMEOUT);
        let latency = state.latency();
        let link = &mut state.links[self.index];
        let at = link.last_arrival.max(now + latency);
        link.last_arrival = at;
        let event = Event::Append {
            call: Some(call),
            link: self.index,
            connection: link.connection,
            blocks,
        };
        state.schedule(at, event);
        Box::pin(async move {
            let dropped = || Err(AppendError::Unresolved("the connection was closed".to_owned()));
            receiver.await.unwrap_or_else(|_| dropped())
        })
    }

    fn read(&mut self, offset: u64, wait: Duration) -> Doing<Result<LogRecords, ReadError>> {
        let mut state = self.log.0.lock();
        let (sender, receiver) = oneshot::channel();
        let call = state.call(self.index, Waiting::Read(sender), REQUEST_TIMEOUT + wait);
        if state.instant {
            state.faults.latency_max = Duration::ZERO;
            let found = LogRecords {
                records: (offset..state.visible)
                    .map(|offset| LogRecord {
                        offset,
                        epoch: state.epoch,
                        value: state.records[usize::try_from(offset).unwrap()].value.clone(),
                    })
                    .collect(),
                next_offset: state.visible,
                end_offset: state.visible,
            };
            state.settle(call, Answer::Read(Ok(found)));
        } else {
            let at = Instant::now() + state.latency();
            state.schedule(at, Event::Read { call, offset, wait });
        }
        Box::pin(async move {
            let dropped = || Err(ReadError::Unavailable("the connection was closed".to_owned()));
            receiver.await.unwrap_or_else(|_| dropped())
        })
    }

    fn reconnect(&mut self) -> Doing<Result<(), ReadError>> {
        let mut state = self.log.0.lock();
        if state.instant {
            return Box::pin(std::future::ready(Ok(())));
        }
        state.disconnect(self.index);
        let (sender, receiver) = oneshot::channel();
        let call = state.call(self.index, Waiting::Connect(sender), REQUEST_TIMEOUT);
        let cut = state.links[self.index].cut;
        if !cut.requests && !cut.answers {
            let result = if state.down {
                Err(ReadError::Unavailable("no broker leads".to_owned()))
            } else {
                state.links[self.index].epoch = state.epoch;
                Ok(())
            };
            let at = Instant::now() + state.latency();
            let answer = Answer::Connect(result);
            state.schedule(at, Event::Answer { call, answer });
        }
        Box::pin(async move {
            let dropped = || Err(ReadError::Unavailable("the connection was closed".to_owned()));
            receiver.await.unwrap_or_else(|_| dropped())
        })
    }

    fn inspect(&mut self) -> Doing<Result<TopicFacts, ReadError>> {
        let state = self.log.0.lock();
        let cut = state.links[self.index].cut;
        let result = if cut.requests || cut.answers {
            Err(ReadError::Unavailable("cut off".to_owned()))
        } else {
            Ok(TopicFacts {
                topic_id: [7; 16],
                partitions: 1,
                replication_factor: 3,
                settings: SETTINGS
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .to_vec(),
                start_offset: 0,
                end_offset: state.visible,
            })
        };
        Box::pin(std::future::ready(result))
    }
}
