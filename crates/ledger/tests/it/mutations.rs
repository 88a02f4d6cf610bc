//! Each planted bug must make a random history fail.

use tally_ledger::mutation::plant;

use super::history;

/// The bugs that histories find. `ignore_record_crc` needs a damaged record, which a history does not have.
const FOUND: [&str; 13] = [
    "apply_twice_on_replay",
    "replay_skips_second_leg",
    "lose_take_back",
    "balance_of_one_side_only",
    "idempotency_ignores_content",
    "rejection_not_recorded",
    "overdraw_by_one",
    "post_when_due",
    "expire_early",
    "post_twice",
    "lose_remainder",
    "reverse_twice",
    "forget_velocity_slice",
];
/// Number of histories after which a bug counts as not found.
const HISTORIES_MAX: u64 = 200;

#[test]
fn histories_find_every_planted_bug() {
    for name in FOUND {
        assert!(history(1).is_ok());
        plant(Some(name));
        let found = (1..=HISTORIES_MAX).find(|seed| history(*seed).is_err());
        plant(None);
        assert!(found.is_some(), "no history finds {name}");
    }
}
