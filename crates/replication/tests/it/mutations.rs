//! The exploration must find each planted bug.

use tally_replication::mutation::plant;

use super::model::{Bounds, explore};

/// A planted bug, the bounds that suffice to find it, and a part of what the exploration says.
struct Planted {
    name: &'static str,
    bounds: Bounds,
    finds: &'static str,
}

const TWO_LEADERS: Bounds = Bounds {
    claims: 2,
    blocks: 2,
    failures: 1,
    ..Bounds::NONE
};

const WITH_LOSS: Bounds = Bounds {
    losses: 1,
    ..TWO_LEADERS
};

/// The bug must have a consequence for clients.
const ANSWERS_WITH_LOSS: Bounds = Bounds {
    checks_answers_only: true,
    ..WITH_LOSS
};

const PLANTED: [Planted; 10] = [
    Planted {
        name: "acknowledge_at_any_offset",
        bounds: TWO_LEADERS,
        finds: "acknowledged",
    },
    Planted {
        name: "complete_out_of_order",
        bounds: TWO_LEADERS,
        finds: "acknowledged",
    },
    Planted {
        name: "no_hash_check",
        bounds: Bounds {
            nodes: 3,
            claims: 3,
            losses: 1,
            ..Bounds::NONE
        },
        finds: "should have accepted",
    },
    Planted {
        name: "accept_after_end",
        bounds: Bounds {
            has_end: true,
            ..TWO_LEADERS
        },
        finds: "should have accepted",
    },
    Planted {
        name: "answer_read_by_earlier_block",
        bounds: TWO_LEADERS,
        finds: "a read",
    },
    Planted {
        name: "claim_before_applying",
        bounds: Bounds {
            applies_late: true,
            ..TWO_LEADERS
        },
        finds: "a read",
    },
    Planted {
        name: "acknowledge_what_is_visible",
        bounds: WITH_LOSS,
        finds: "not in the log's chain any more",
    },
    Planted {
        name: "visible_records_are_known",
        bounds: ANSWERS_WITH_LOSS,
        finds: "acknowledged",
    },
    Planted {
        name: "serve_a_visible_claim",
        bounds: ANSWERS_WITH_LOSS,
        finds: "acknowledged",
    },
    Planted {
        name: "keep_lost_records",
        bounds: ANSWERS_WITH_LOSS,
        finds: "acknowledged",
    },
];

#[test]
fn the_exploration_finds_every_planted_bug() {
    let mut missed = Vec::new();
    for planted in PLANTED {
        plant(Some(planted.name));
        let result = explore(planted.bounds);
        plant(None);
        match result {
            Err(violation) if violation.what.contains(planted.finds) => {
                eprintln!("{}: {violation}", planted.name)
            }
            other => missed.push(format!("{}: {other:?}", planted.name)),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:#?}");
}
