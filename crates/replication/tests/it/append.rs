//! The appender, step by step.

use tally_replication::{
    Accepted, Action, Appender, BlockFacts, BlockKind, HaltReason, Limits, Outcome, ReadId, Record,
    RequestId, Stopped,
};

use crate::support::{after, genesis};

/// A leader of term 1, and the blocks that it submits.
struct Leader {
    appender: Appender,
    blocks: Vec<BlockFacts>,
    last: Accepted,
}

const LIMITS: Limits = Limits {
    requests_max: 2,
    request_blocks_max: 3,
    request_bytes_max: 100,
    blocks_max: 8,
};

impl Leader {
    /// The claim has number 1 and offset 1.
    fn new() -> Self {
        let mut last = Accepted::from_genesis(&genesis()).unwrap();
        let claim = after(&last, 1, 4, BlockKind::Claim);
        last.accept(&claim, Ok(())).unwrap();
        Self {
            appender: Appender::new(LIMITS, last, 2),
            blocks: vec![genesis(), claim],
            last,
        }
    }

    fn submit(&mut self, bytes: usize) -> Result<(), Stopped> {
        let block = after(&self.last, 1, 4, BlockKind::Data);
        self.last.accept(&block, Ok(())).unwrap();
        self.blocks.push(block);
        self.appender.submit(block, bytes)
    }

    fn submits(mut self, count: usize) -> Self {
        for _ in 0..count {
            self.submit(1).unwrap();
        }
        self
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.appender.action()).collect()
    }

    fn appended(&mut self, request: u64, base_offset: u64) -> Vec<Action> {
        self.appender
            .result(RequestId(request), Outcome::Appended { base_offset });
        self.actions()
    }

    fn fails(&mut self, request: u64, outcome: Outcome) -> Vec<Action> {
        self.appender.result(RequestId(request), outcome);
        self.actions()
    }

    fn read(&mut self, read: u64, records: &[(u64, Option<BlockFacts>)], next_offset: u64) -> Vec<Action> {
        let record = |&(offset, block)| Record {
            offset,
            epoch: 0,
            block,
        };
        let records: Vec<_> = records.iter().map(record).collect();
        self.appender.read(ReadId(read), &records, next_offset);
        self.actions()
    }

    /// A rival's claim on top of a block of this leader.
    fn rival(&self, number: usize) -> BlockFacts {
        let before = self.blocks[number];
        let accepted = Accepted {
            number: before.number,
            hash: before.hash,
            ..self.last
        };
        after(&accepted, 2, 5, BlockKind::Claim)
    }
}

fn send(request: u64, first: u64, last: u64) -> Action {
    Action::Send {
        request: RequestId(request),
        first,
        last,
    }
}

fn read(read: u64, from: u64, through: Option<u64>) -> Action {
    Action::Read {
        read: ReadId(read),
        from,
        through,
    }
}

fn durable(through: u64, next_offset: u64) -> Action {
    Action::Durable { through, next_offset }
}

#[test]
fn blocks_wait_for_a_free_request_and_go_together() {
    let mut leader = Leader::new().submits(7);
    assert_eq!(leader.actions(), [send(0, 2, 2), send(1, 3, 3)]);
    assert_eq!(leader.appended(0, 2), [durable(2, 3), send(2, 4, 6)]);
    assert_eq!(leader.appended(1, 3), [durable(3, 4), send(3, 7, 8)]);
    assert_eq!(leader.appended(2, 4), [durable(6, 7)]);
    assert_eq!(leader.appended(3, 7), [durable(8, 9)]);
}

#[test]
fn a_request_is_bounded_in_bytes_but_holds_at_least_one_block() {
    let mut leader = Leader::new().submits(2);
    for bytes in [60, 40, 1, 500, 1] {
        leader.submit(bytes).unwrap();
    }
    assert_eq!(leader.actions(), [send(0, 2, 2), send(1, 3, 3)]);
    assert_eq!(leader.appended(0, 2), [durable(2, 3), send(2, 4, 5)]);
    assert_eq!(leader.appended(1, 3), [durable(3, 4), send(3, 6, 6)]);
    assert_eq!(leader.appended(2, 4), [durable(5, 6), send(4, 7, 7)]);
}

#[test]
fn requests_complete_in_order() {
    let mut leader = Leader::new().submits(2);
    leader.actions();
    assert_eq!(leader.appended(1, 3), []);
    assert_eq!(leader.appended(0, 2), [durable(2, 3), durable(3, 4)]);
}

#[test]
fn after_an_unresolved_request_everything_is_sent_again() {
    for outcome in [Outcome::Unresolved, Outcome::Refused] {
        let mut leader = Leader::new().submits(2);
        leader.actions();
        // The second result has no meaning without the first one.
        assert_eq!(leader.appended(1, 2), []);
        assert_eq!(leader.fails(0, outcome), [Action::Reconnect]);
        assert!(leader.appender.is_suspended());
        leader.submit(1).unwrap();
        assert_eq!(leader.actions(), []);
        leader.appender.reconnected();
        assert_eq!(leader.actions(), [send(2, 2, 4), read(0, 2, None)]);
        assert_eq!(leader.appended(0, 2), [], "the first request was given up");
        // The second request's block was appended at 2, without its predecessor. It is not part of the chain.
        let lone = (2, Some(leader.blocks[3]));
        assert_eq!(leader.read(0, &[lone], 3), []);
        assert_eq!(leader.appended(2, 3), [read(1, 2, Some(2))]);
        assert!(leader.appender.is_suspended());
        assert_eq!(leader.read(1, &[lone], 3), [durable(4, 6)]);
        assert!(!leader.appender.is_suspended());
    }
}

#[test]
fn after_a_failure_one_request_is_in_flight_until_one_succeeds() {
    let mut leader = Leader::new().submits(6);
    leader.actions();
    leader.fails(0, Outcome::Unresolved);
    leader.appender.reconnected();
    assert_eq!(leader.actions(), [send(2, 2, 4), read(0, 2, None)]);
    assert_eq!(leader.fails(2, Outcome::Unresolved), [Action::Reconnect]);
    leader.appender.reconnected();
    assert_eq!(leader.actions(), [send(3, 2, 4), read(1, 2, None)]);
    assert_eq!(leader.appended(3, 2), [durable(4, 5), send(4, 5, 7)]);
}

#[test]
fn what_is_visible_is_not_acknowledged() {
    let mut leader = Leader::new().submits(1);
    leader.actions();
    leader.fails(0, Outcome::Unresolved);
    leader.appender.reconnected();
    leader.actions();
    let own = (2, Some(leader.blocks[2]));
    assert_eq!(leader.read(0, &[own], 3), []);
    assert_eq!(leader.appender.accepted().number, 1);
    // The copy is acknowledged. What lies before it cannot be lost any more, and is read.
    assert_eq!(leader.appended(1, 3), [read(1, 2, Some(2))]);
    assert_eq!(leader.read(1, &[own], 3), [durable(2, 3)]);
    assert_eq!(leader.appender.next_offset(), 4);
}

#[test]
fn a_gap_of_foreign_records_costs_a_read_and_no_connection() {
    let mut leader = Leader::new().submits(2);
    leader.actions();
    assert_eq!(leader.appended(0, 5), [read(0, 2, Some(4))]);
    assert_eq!(leader.appended(1, 6), []);
    // The broker answers in parts, and offset 4 has no record.
    assert_eq!(leader.read(0, &[(2, None)], 3), [read(1, 3, Some(4))]);
    assert_eq!(leader.read(1, &[(3, None)], 9), [durable(2, 6), durable(3, 7)]);
}

#[test]
fn a_foreign_claim_before_the_append_fences_for_ever() {
    let mut leader = Leader::new().submits(1);
    let rival = leader.rival(1);
    leader.actions();
    assert_eq!(leader.appended(0, 3), [read(0, 2, Some(2))]);
    let fenced = Action::Fenced { term: 2, offset: 2 };
    assert_eq!(leader.read(0, &[(2, Some(rival))], 3), [fenced]);
    assert_eq!(leader.submit(1), Err(Stopped::Fenced { term: 2 }));
    assert_eq!(leader.appended(0, 3), []);
    leader.appender.reconnected();
    leader.appender.out_of_range();
    assert_eq!(leader.actions(), []);
}

#[test]
fn a_claim_after_the_append_does_not_take_the_block_away() {
    let mut leader = Leader::new().submits(1);
    leader.actions();
    let (own, rival) = (leader.blocks[2], leader.rival(2));
    leader.fails(0, Outcome::Unresolved);
    leader.appender.reconnected();
    leader.actions();
    // The first copy was accepted before the claim. The second copy, after the claim, was acknowledged.
    assert_eq!(leader.appended(1, 4), [read(1, 2, Some(3))]);
    let fenced = Action::Fenced { term: 2, offset: 3 };
    let records = [(2, Some(own)), (3, Some(rival))];
    assert_eq!(leader.read(1, &records, 4), [durable(2, 3), fenced]);
}

#[test]
fn a_claim_behind_an_acknowledged_append_is_seen_with_the_next_one() {
    let mut leader = Leader::new().submits(1);
    let rival = leader.rival(2);
    leader.actions();
    assert_eq!(leader.appended(0, 3), [read(0, 2, Some(2))]);
    assert_eq!(
        leader.read(0, &[(2, None), (3, None), (4, Some(rival))], 5),
        [durable(2, 4)]
    );
}

#[test]
fn a_visible_claim_fences_although_appends_fail() {
    let mut leader = Leader::new().submits(1);
    let rival = leader.rival(1);
    leader.actions();
    leader.fails(0, Outcome::Refused);
    leader.appender.reconnected();
    leader.actions();
    let fenced = Action::Fenced { term: 2, offset: 2 };
    assert_eq!(leader.read(0, &[(2, Some(rival))], 3), [fenced]);
}

#[test]
fn an_offset_below_the_known_ones_means_that_the_log_lost_data() {
    let mut leader = Leader::new().submits(2);
    leader.actions();
    leader.appended(0, 2);
    let reason = HaltReason::LogLostData { offset: 2 };
    assert_eq!(leader.appended(1, 2), [Action::Halted(reason)]);
    assert_eq!(leader.submit(1), Err(Stopped::Halted(reason)));
    let mut leader = Leader::new();
    leader.appender.out_of_range();
    assert_eq!(leader.actions(), [Action::Halted(reason)]);
}

#[test]
fn a_halt_record_and_a_foreign_block_of_the_own_term_halt() {
    let mut leader = Leader::new().submits(1);
    leader.actions();
    leader.appended(0, 3);
    let mut foreign = leader.blocks[2];
    foreign.hash = [9; 32];
    let halt = BlockFacts {
        kind: BlockKind::Halt,
        ..leader.rival(1)
    };
    for (block, reason) in [
        (halt, HaltReason::HaltRecord),
        (foreign, HaltReason::ForeignBlockOfOwnTerm { number: 2 }),
    ] {
        let mut leader = Leader {
            appender: leader.appender.clone(),
            blocks: Vec::new(),
            last: leader.last,
        };
        assert_eq!(leader.read(0, &[(2, Some(block))], 3), [Action::Halted(reason)]);
    }
}

#[test]
fn a_late_copy_of_an_own_block_is_passed_over() {
    let mut leader = Leader::new().submits(2);
    leader.actions();
    leader.appended(0, 2);
    let copy = (3, Some(leader.blocks[2]));
    assert_eq!(leader.appended(1, 4), [read(0, 3, Some(3))]);
    assert_eq!(leader.read(0, &[copy], 4), [durable(3, 5)]);
}

#[test]
fn the_memory_is_bounded() {
    let mut leader = Leader::new().submits(LIMITS.blocks_max);
    assert_eq!(leader.appender.room(), 0);
    assert_eq!(leader.actions().len(), LIMITS.requests_max);
    leader.appended(0, 2);
    assert_eq!(leader.appender.room(), 1);
}

#[test]
fn a_read_waits_for_a_block_that_was_not_submitted_before() {
    let mut leader = Leader::new();
    assert_eq!(leader.appender.barrier(), 2);
    leader.submit(1).unwrap();
    assert_eq!(leader.appender.barrier(), 3);
    leader.actions();
    leader.appended(0, 2);
    assert_eq!(leader.appender.barrier(), 3);
}

#[test]
#[should_panic(expected = "after the end of the log")]
fn nothing_is_submitted_after_the_end() {
    let mut leader = Leader::new();
    let end = after(&leader.last, 1, 4, BlockKind::End);
    leader.appender.submit(end, 1).unwrap();
    let more = Accepted {
        number: end.number,
        hash: end.hash,
        ..leader.last
    };
    let more = after(&more, 1, 4, BlockKind::Data);
    leader.appender.submit(more, 1).unwrap();
}
