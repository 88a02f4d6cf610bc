//! The rule of acceptance, case by case.

use tally_replication::{Accepted, BlockFacts, BlockKind, HaltReason, SkipReason, Verdict, WrongField};

use crate::support::{after, block, genesis};

/// The state after a claim of writer 7 in term 2.
fn accepted() -> Accepted {
    let mut accepted = Accepted::from_genesis(&genesis()).unwrap();
    let claim = after(&accepted, 2, 7, BlockKind::Claim);
    accepted.accept(&claim, Ok(())).unwrap();
    accepted
}

#[test]
fn only_the_writer_of_the_term_and_a_claim_of_a_higher_term_continue_the_chain() {
    use BlockKind::{Claim, Data, End, Level, Resign};
    let accepted = accepted();
    for kind in [Data, Resign, End, Level] {
        assert_eq!(accepted.judge(&after(&accepted, 2, 7, kind)), Verdict::Accept);
    }
    for (term, writer) in [(3, 7), (3, 8), (9, 1), (u64::MAX, 0)] {
        assert_eq!(
            accepted.judge(&after(&accepted, term, writer, Claim)),
            Verdict::Accept
        );
        let verdict = accepted.judge(&after(&accepted, term, writer, Data));
        assert_eq!(verdict, Verdict::Skip(SkipReason::NoClaim));
    }
    for kind in [Claim, Data] {
        let verdict = accepted.judge(&after(&accepted, 2, 8, kind));
        assert_eq!(verdict, Verdict::Skip(SkipReason::OtherWriter));
        let verdict = accepted.judge(&after(&accepted, 1, 7, kind));
        assert_eq!(verdict, Verdict::Skip(SkipReason::OldTerm));
    }
}

#[test]
fn a_block_must_have_the_next_number_and_the_hash_of_the_block_before() {
    let accepted = accepted();
    for kind in [BlockKind::Data, BlockKind::Claim] {
        let facts = |number, previous| block(number, previous, 3, 7, kind);
        assert_eq!(accepted.judge(&facts(1, accepted.hash)), Verdict::Known);
        assert_eq!(accepted.judge(&facts(0, accepted.hash)), Verdict::Known);
        let gap = Verdict::Skip(SkipReason::Gap);
        assert_eq!(accepted.judge(&facts(3, accepted.hash)), gap);
        assert_eq!(accepted.judge(&facts(u64::MAX, accepted.hash)), gap);
        let other = Verdict::Skip(SkipReason::OtherPrevious);
        assert_eq!(accepted.judge(&facts(2, [9; 32])), other);
    }
}

#[test]
fn nothing_is_accepted_after_the_end() {
    let mut accepted = accepted();
    let end = after(&accepted, 2, 7, BlockKind::End);
    accepted.accept(&end, Ok(())).unwrap();
    assert!(accepted.ended);
    for (term, kind) in [(2, BlockKind::Data), (3, BlockKind::Claim)] {
        let verdict = accepted.judge(&after(&accepted, term, 7, kind));
        assert_eq!(verdict, Verdict::Skip(SkipReason::AfterEnd));
    }
    assert_eq!(accepted.judge(&end), Verdict::Known);
}

#[test]
fn a_halt_record_and_an_unknown_kind_halt_wherever_they_stand() {
    let mut ended = accepted();
    let end = after(&ended, 2, 7, BlockKind::End);
    ended.accept(&end, Ok(())).unwrap();
    for accepted in [accepted(), ended] {
        for (number, previous) in [(0, [0; 32]), (2, accepted.hash), (99, [1; 32])] {
            let facts = |kind| block(number, previous, 0, 0, kind);
            let halt = accepted.judge(&facts(BlockKind::Halt));
            assert_eq!(halt, Verdict::Halt(HaltReason::HaltRecord));
            let unknown = accepted.judge(&facts(BlockKind::Unknown(12)));
            assert_eq!(unknown, Verdict::Halt(HaltReason::UnknownKind(12)));
        }
    }
}

#[test]
fn a_block_that_continues_the_chain_with_a_wrong_field_halts() {
    let before = accepted();
    let mut accepted = before;
    let facts = after(&accepted, 2, 7, BlockKind::Data);
    let halt = accepted.accept(&facts, Err(WrongField("first_sequence")));
    let reason = HaltReason::WrongField {
        number: 2,
        field: "first_sequence",
    };
    assert_eq!(halt, Err(reason));
    assert_eq!(accepted, before);
}

#[test]
fn a_second_claim_of_the_same_term_halts() {
    let accepted = accepted();
    let verdict = accepted.judge(&after(&accepted, 2, 7, BlockKind::Claim));
    assert_eq!(
        verdict,
        Verdict::Halt(HaltReason::RepeatedClaim { number: 2, term: 2 })
    );
}

#[test]
fn the_log_begins_with_a_genesis_block_and_has_no_second_one() {
    let genesis = genesis();
    for wrong in [
        BlockFacts { number: 1, ..genesis },
        BlockFacts { term: 1, ..genesis },
        BlockFacts { writer: 1, ..genesis },
        BlockFacts {
            kind: BlockKind::Data,
            ..genesis
        },
    ] {
        assert_eq!(Accepted::from_genesis(&wrong), Err(HaltReason::NoGenesis));
    }
    let verdict = accepted().judge(&genesis);
    assert_eq!(verdict, Verdict::Skip(SkipReason::Genesis));
}

#[test]
fn blocks_from_before_the_replication_have_term_0() {
    let mut accepted = Accepted::from_genesis(&genesis()).unwrap();
    for _ in 0..3 {
        let facts = after(&accepted, 0, 0, BlockKind::Data);
        accepted.accept(&facts, Ok(())).unwrap();
    }
    assert_eq!(
        accepted.judge(&after(&accepted, 1, 5, BlockKind::Claim)),
        Verdict::Accept
    );
}
