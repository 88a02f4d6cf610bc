//! Claims, step by step.

use tally_replication::{
    Accepted, BlockFacts, BlockKind, Claim, ClaimStep, Decision, HaltReason, LogReader, Outcome, PeerPoint,
    Record, RequestId, Step,
};

use crate::support::{after, genesis};

/// A standby that has read a claim of term 1 at offset 1 and a block at offset 2, and its own claim of term 2.
struct Candidate {
    reader: LogReader,
    block: BlockFacts,
}

impl Candidate {
    fn new() -> Self {
        let mut reader = LogReader::new(Accepted::from_genesis(&genesis()).unwrap(), 1, None);
        for (offset, kind) in [(1, BlockKind::Claim), (2, BlockKind::Data)] {
            let block = after(reader.accepted(), 1, 4, kind);
            assert_eq!(read(&mut reader, offset, block), Ok(Step::Accepted));
        }
        let block = after(reader.accepted(), 2, 5, BlockKind::Claim);
        Self { reader, block }
    }

    fn claim(&self, peers: &[PeerPoint]) -> Claim {
        let (claim, step) = Claim::new(&self.reader, self.block, peers).unwrap();
        assert_eq!(
            step,
            ClaimStep::Send {
                request: RequestId(0)
            }
        );
        claim
    }

    /// Reads the last judged record again.
    fn again(&mut self) -> Result<Step, HaltReason> {
        let last = self.reader.last().unwrap();
        let hash = last.hash.unwrap();
        let block = BlockFacts { hash, ..self.block };
        read(&mut self.reader, last.offset, block)
    }

    fn read(&mut self, offset: u64, block: BlockFacts) {
        assert!(read(&mut self.reader, offset, block).is_ok());
    }

    fn decide(&self, claim: &Claim, applied: u64) -> Decision {
        claim.decide(&self.reader, applied, |_| None)
    }
}

fn read(reader: &mut LogReader, offset: u64, block: BlockFacts) -> Result<Step, HaltReason> {
    let record = Record {
        offset,
        epoch: 0,
        block: Some(block),
    };
    reader.next(&record, |_| Ok(()))
}

const APPENDED_AT_3: Outcome = Outcome::Appended { base_offset: 3 };

#[test]
fn a_candidate_serves_after_it_has_read_and_applied_its_claim() {
    let mut candidate = Candidate::new();
    let mut claim = candidate.claim(&[]);
    assert_eq!(candidate.decide(&claim, 2), Decision::Wait);
    let step = claim.result(&mut candidate.reader, RequestId(0), APPENDED_AT_3);
    assert_eq!(step, ClaimStep::ReadFrom(2));
    assert_eq!(candidate.again(), Ok(Step::Again));
    assert_eq!(candidate.decide(&claim, 2), Decision::Wait);
    candidate.read(3, candidate.block);
    assert_eq!(
        candidate.decide(&claim, 2),
        Decision::Wait,
        "the claim is not applied"
    );
    let serve = Decision::Serve {
        accepted: *candidate.reader.accepted(),
        next_offset: 4,
    };
    assert_eq!(candidate.decide(&claim, 3), serve);
}

#[test]
fn a_visible_claim_without_an_answer_does_not_serve() {
    for outcome in [Outcome::Unresolved, Outcome::Refused] {
        let mut candidate = Candidate::new();
        let mut claim = candidate.claim(&[]);
        let step = claim.result(&mut candidate.reader, RequestId(0), outcome);
        assert_eq!(step, ClaimStep::Reconnect);
        candidate.read(3, candidate.block);
        assert_eq!(candidate.decide(&claim, 3), Decision::Wait);
        assert_eq!(
            claim.reconnected(),
            ClaimStep::Send {
                request: RequestId(1)
            }
        );
        let late = claim.result(&mut candidate.reader, RequestId(0), APPENDED_AT_3);
        assert_eq!(late, ClaimStep::Ignore);
        // The second copy is acknowledged. The first copy counts, after it was compared again.
        let answer = Outcome::Appended { base_offset: 4 };
        let step = claim.result(&mut candidate.reader, RequestId(1), answer);
        assert_eq!(step, ClaimStep::ReadFrom(3));
        assert_eq!(candidate.decide(&claim, 3), Decision::Wait);
        assert_eq!(candidate.again(), Ok(Step::Again));
        candidate.read(4, candidate.block);
        assert!(matches!(
            candidate.decide(&claim, 3),
            Decision::Serve { next_offset: 5, .. }
        ));
    }
}

#[test]
fn a_claim_is_lost_when_the_chain_continues_without_it() {
    let before = Candidate::new();
    let block_of_leader = after(before.reader.accepted(), 1, 4, BlockKind::Data);
    let other_claim = after(before.reader.accepted(), 2, 6, BlockKind::Claim);
    let own_claim = before.block;
    let mut of_own = *before.reader.accepted();
    of_own.accept(&own_claim, Ok(())).unwrap();
    let later_claim = after(&of_own, 3, 6, BlockKind::Claim);
    for records in [
        vec![block_of_leader],
        vec![other_claim],
        vec![own_claim, later_claim],
    ] {
        let mut candidate = Candidate::new();
        let claim = candidate.claim(&[]);
        for (offset, block) in (3..).zip(records) {
            candidate.read(offset, block);
        }
        assert_eq!(candidate.decide(&claim, 3), Decision::Lost);
    }
}

#[test]
fn a_candidate_whose_records_were_lost_halts() {
    let mut candidate = Candidate::new();
    let mut claim = candidate.claim(&[]);
    // Another record took offset 2, and the claim followed it.
    assert!(matches!(
        claim.result(&mut candidate.reader, RequestId(0), APPENDED_AT_3),
        ClaimStep::ReadFrom(2)
    ));
    let other = BlockFacts {
        hash: [9; 32],
        ..candidate.block
    };
    let reason = HaltReason::LogLostData { offset: 2 };
    assert_eq!(read(&mut candidate.reader, 2, other), Err(reason));
    assert_eq!(candidate.decide(&claim, 3), Decision::Halt(reason));
    assert_eq!(
        Claim::new(&candidate.reader, candidate.block, &[]).map(|_| ()),
        Err(reason)
    );
}

#[test]
fn a_replica_that_is_ahead_of_the_log_halts_the_candidate() {
    let accepted = *Candidate::new().reader.accepted();
    let same = PeerPoint {
        number: 2,
        hash: accepted.hash,
        next_offset: 3,
    };
    let has_read_more = PeerPoint {
        next_offset: 4,
        ..same
    };
    let has_accepted_more = PeerPoint { number: 4, ..same };
    let has_another_block = PeerPoint {
        hash: [9; 32],
        ..same
    };
    let has_less = PeerPoint {
        number: 1,
        hash: [8; 32],
        next_offset: 2,
    };
    for (peer, halts) in [
        (same, false),
        (has_read_more, true),
        (has_accepted_more, true),
        (has_another_block, true),
        (has_less, false),
    ] {
        let mut candidate = Candidate::new();
        let mut claim = candidate.claim(&[same, peer]);
        assert!(matches!(
            claim.result(&mut candidate.reader, RequestId(0), APPENDED_AT_3),
            ClaimStep::ReadFrom(2)
        ));
        assert_eq!(candidate.again(), Ok(Step::Again));
        candidate.read(3, candidate.block);
        // The journal reaches back to block 2.
        let hash_of = |number| (number == 2).then_some(accepted.hash);
        let decision = claim.decide(&candidate.reader, 3, hash_of);
        let halt = Decision::Halt(HaltReason::ReplicaAheadOfLog { number: peer.number });
        assert_eq!(decision == halt, halts, "{peer:?}: {decision:?}");
        assert_eq!(matches!(decision, Decision::Serve { .. }), !halts);
    }
}

#[test]
#[should_panic(expected = "a claim continues the chain with a higher term")]
fn a_process_does_not_claim_the_term_that_it_has_seen() {
    let candidate = Candidate::new();
    let same_term = after(candidate.reader.accepted(), 1, 5, BlockKind::Claim);
    drop(Claim::new(&candidate.reader, same_term, &[]));
}
