//! Properties of reader and appender with random logs.

use std::collections::VecDeque;

use proptest::prelude::*;
use tally_replication::{
    Accepted, Action, Appender, BlockFacts, BlockKind, Limits, LogReader, Outcome, Record, RequestId, Step,
};

use crate::{
    model::reference,
    support::{after, block, genesis},
};

/// A block that often continues one of the blocks before it.
fn any_block(
    before: &[BlockFacts],
    (at, term, writer, kind, distance): (usize, u64, u32, u32, u64),
) -> BlockFacts {
    let previous = before[before.len() - 1 - at % before.len().min(4)];
    let kind = match kind {
        0..=3 => BlockKind::Data,
        4..=6 => BlockKind::Claim,
        7 => BlockKind::Resign,
        8 if term == 3 => BlockKind::End,
        _ => BlockKind::Level,
    };
    let (term, writer) = if kind == BlockKind::Claim {
        (previous.term + term, writer)
    } else if term > 1 {
        (previous.term, previous.writer)
    } else {
        (term, writer)
    };
    block(
        previous.number + distance.max(1),
        previous.hash,
        term,
        writer,
        kind,
    )
}

fn any_log() -> impl Strategy<Value = Vec<BlockFacts>> {
    let distance = prop_oneof![9 => Just(1_u64), 1 => 1_u64..4];
    let choice = (0_usize..4, 0_u64..4, 0_u32..3, 0_u32..10, distance);
    proptest::collection::vec(choice, 1..60).prop_map(|choices| {
        let mut log = vec![genesis()];
        for choice in choices {
            let next = any_block(&log, choice);
            // A second claim of the same term makes a reader halt. Another test covers this case.
            let last = log.last().unwrap();
            let repeats =
                next.kind == BlockKind::Claim && (next.term, next.writer) == (last.term, last.writer);
            if !repeats {
                log.push(next);
            }
        }
        log
    })
}

fn records(log: &[BlockFacts]) -> Vec<Record> {
    let record = |(offset, block): (u64, &BlockFacts)| Record {
        offset,
        epoch: 0,
        block: Some(*block),
    };
    (0..).zip(log).map(record).collect()
}

proptest! {
    /// A reader accepts the same blocks as the reference implementation of the rule, even if the reader restarts at any
    /// record.
    #[test]
    fn every_reader_accepts_the_same_chain(log in any_log(), restarts in proptest::collection::vec(any::<bool>(), 60)) {
        let expected = reference::chain(log.iter());
        let mut accepted = Vec::new();
        let mut reader = LogReader::new(Accepted::from_genesis(&log[0]).unwrap(), 1, None);
        let records = records(&log);
        for (record, restart) in records.iter().skip(1).zip(restarts) {
            if restart {
                let before = records[record.offset as usize - 1];
                reader = LogReader::new(*reader.accepted(), reader.next_offset(), reader.last());
                if reader.restart() < record.offset {
                    prop_assert_eq!(reader.next(&before, |_| Ok(())), Ok(Step::Again));
                }
            }
            match reader.next(record, |_| Ok(())) {
                Ok(Step::Accepted) => accepted.push(record.offset as usize),
                Ok(_) => {}
                // In these logs, only a second claim of the same term makes a reader halt.
                Err(_) => break,
            }
        }
        prop_assert!(expected.starts_with(&accepted));
        prop_assert!(reader.halted().is_some() || accepted == expected);
    }

    /// Whatever the broker does, the requests contain the blocks in order and without gaps, each request is within its
    /// limits, and each block is answered once, in order.
    #[test]
    fn an_appender_frames_and_answers_every_block_once(
        sizes in proptest::collection::vec(1_usize..120, 1..40),
        outcomes in proptest::collection::vec((0_u8..6, 0_u64..3, any::<bool>()), 1..200),
        request_blocks_max in 1_usize..5,
        requests_max in 1_usize..4,
        page in 1_usize..4,
    ) {
        let limits = Limits { requests_max, request_blocks_max, request_bytes_max: 100, blocks_max: 40 };
        let mut broker = Broker::new(limits, page);
        for (at, size) in sizes.iter().enumerate() {
            broker.submit(*size);
            broker.serve(outcomes[at % outcomes.len()]);
        }
        for outcome in outcomes {
            broker.serve(outcome);
        }
        while broker.serve((5, 0, false)) {}
        prop_assert_eq!(broker.durable, sizes.len() as u64 + 1);
        prop_assert_eq!(broker.appender.accepted().number, broker.durable);
    }
}

/// A log in memory. One leader appends its blocks, and records without a block lie between these blocks.
struct Broker {
    appender: Appender,
    limits: Limits,
    page: usize,
    log: Vec<Option<BlockFacts>>,
    blocks: Vec<BlockFacts>,
    sizes: Vec<usize>,
    last: Accepted,
    queue: VecDeque<(RequestId, u64, u64)>,
    reads: VecDeque<(tally_replication::ReadId, u64, Option<u64>)>,
    /// The last block of the last request on this connection.
    sent: u64,
    durable: u64,
}

impl Broker {
    fn new(limits: Limits, page: usize) -> Self {
        let mut last = Accepted::from_genesis(&genesis()).unwrap();
        let claim = after(&last, 1, 1, BlockKind::Claim);
        last.accept(&claim, Ok(())).unwrap();
        Self {
            appender: Appender::new(limits, last, 2),
            limits,
            page,
            log: vec![Some(genesis()), Some(claim)],
            blocks: vec![genesis(), claim],
            sizes: vec![0, 0],
            last,
            queue: VecDeque::new(),
            reads: VecDeque::new(),
            sent: 1,
            durable: 1,
        }
    }

    fn submit(&mut self, size: usize) {
        let block = after(&self.last, 1, 1, BlockKind::Data);
        self.last.accept(&block, Ok(())).unwrap();
        self.blocks.push(block);
        self.sizes.push(size);
        self.appender.submit(block, size).unwrap();
        self.act();
    }

    /// Answers the oldest read or request. Returns whether there was one.
    fn serve(&mut self, (kind, foreign, lands): (u8, u64, bool)) -> bool {
        if let Some((id, from, through)) = self.reads.pop_front() {
            let end = through.map_or(self.log.len() as u64, |through| through + 1);
            let end = end.min(from + self.page as u64);
            let record = |offset: u64| Record {
                offset,
                epoch: 0,
                block: self.log[offset as usize],
            };
            let records: Vec<_> = (from..end).map(record).collect();
            self.appender.read(id, &records, end);
        } else if let Some((id, first, last)) = self.queue.pop_front() {
            self.log.extend((0..foreign).map(|_| None));
            let base_offset = self.log.len() as u64;
            if kind > 1 || lands {
                let blocks = &self.blocks[first as usize..=last as usize];
                self.log.extend(blocks.iter().copied().map(Some));
            }
            let outcome = match kind {
                0 if !lands => Outcome::Refused,
                0 | 1 => Outcome::Unresolved,
                _ => Outcome::Appended { base_offset },
            };
            self.appender.result(id, outcome);
        } else {
            return false;
        }
        self.act();
        true
    }

    fn act(&mut self) {
        while let Some(action) = self.appender.action() {
            match action {
                Action::Send { request, first, last } => {
                    assert_eq!(first, self.sent.max(self.durable) + 1);
                    assert!(first <= last);
                    self.sent = last;
                    let sizes = &self.sizes[first as usize..=last as usize];
                    assert!(sizes.len() <= self.limits.request_blocks_max);
                    assert!(sizes.len() == 1 || sizes.iter().sum::<usize>() <= self.limits.request_bytes_max);
                    self.queue.push_back((request, first, last));
                    assert!(self.queue.len() <= self.limits.requests_max);
                }
                Action::Reconnect => {
                    self.queue.clear();
                    self.sent = 0;
                    self.reads.clear();
                    self.appender.reconnected();
                }
                Action::Read { read, from, through } => self.reads.push_back((read, from, through)),
                Action::Durable { through, .. } => {
                    assert!(through > self.durable);
                    self.durable = through;
                }
                Action::Fenced { .. } | Action::Halted(_) => panic!("{action:?}"),
            }
        }
    }
}
