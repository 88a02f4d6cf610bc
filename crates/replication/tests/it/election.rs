//! The timers of the election.

use std::time::Duration;

use proptest::prelude::*;
use tally_replication::{Election, Heartbeat, News, Timing, is_clock_wrong};

const NO_LAG: Duration = Duration::ZERO;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A standby whose reads succeed every 50 ms.
struct Standby {
    election: Election,
    now: u64,
}

impl Standby {
    fn new(jitter: u64) -> Self {
        Self {
            election: Election::new(Timing::default(), ms(jitter), ms(0)),
            now: 0,
        }
    }

    /// Returns the time of the claim, or `None` if there is none up to `until`.
    fn claims_until(&mut self, until: u64, clock_behind: Duration) -> Option<u64> {
        while self.now < until {
            self.now += 10;
            if self.now.is_multiple_of(50) {
                self.election.read(ms(self.now));
            }
            if self.election.should_claim(ms(self.now), clock_behind) {
                return Some(self.now);
            }
        }
        None
    }

    fn claims(&mut self) -> u64 {
        self.claims_until(self.now + 60_000, NO_LAG).expect("a claim")
    }

    /// The leader appends every 100 ms until `until`.
    fn hears_until(&mut self, until: u64) {
        while self.now < until {
            assert_eq!(self.claims_until(self.now + 100, NO_LAG), None);
            self.election.news(ms(self.now), News::Block);
        }
    }
}

#[test]
fn a_standby_claims_after_silence_and_its_random_addition() {
    for jitter in [0, 80, 200] {
        let mut standby = Standby::new(jitter);
        standby.hears_until(5_000);
        assert_eq!(standby.claims(), 5_700 + jitter);
    }
}

#[test]
fn silence_counts_only_while_reads_succeed() {
    let mut election = Election::new(Timing::default(), ms(0), ms(0));
    assert_eq!(election.next_wake(NO_LAG), None);
    assert!(!election.should_claim(ms(10_000), NO_LAG));
    // The first read after a gap begins the time without a block anew.
    election.read(ms(10_000));
    assert!(!election.should_claim(ms(10_000), NO_LAG));
    assert_eq!(election.next_wake(NO_LAG), Some(ms(10_700)));
    election.read(ms(10_300));
    election.read(ms(10_600));
    assert!(election.should_claim(ms(10_700), NO_LAG));
    assert!(
        !election.should_claim(ms(11_000), NO_LAG),
        "the last read is too old"
    );
    election.read(ms(11_000));
    assert!(!election.should_claim(ms(11_000), NO_LAG), "the count began anew");
    election.read_failed();
    assert_eq!(election.next_wake(NO_LAG), None);
}

#[test]
fn a_closed_connection_shortens_the_silence_unless_the_leader_appends() {
    let mut standby = Standby::new(200);
    standby.hears_until(1_000);
    standby.election.closed(ms(1_000));
    assert_eq!(standby.claims(), 1_250);
    let mut standby = Standby::new(200);
    standby.hears_until(1_000);
    standby.election.closed(ms(1_000));
    standby.hears_until(2_000);
    assert_eq!(standby.claims(), 2_900);
}

#[test]
fn a_leader_that_cannot_be_reached_is_replaced_although_it_appends() {
    let mut standby = Standby::new(0);
    standby.hears_until(1_000);
    standby.election.forward_failed(ms(1_000));
    standby.hears_until(2_000);
    standby.election.forward_failed(ms(2_000));
    standby.hears_until(2_900);
    assert_eq!(standby.claims_until(3_000, NO_LAG), Some(3_000));
    let mut standby = Standby::new(0);
    standby.hears_until(1_000);
    standby.election.forward_failed(ms(1_000));
    standby.hears_until(2_000);
    standby.election.forwarded();
    standby.hears_until(9_000);
}

#[test]
fn each_claim_without_a_following_block_doubles_the_delay_of_the_next_one() {
    let mut standby = Standby::new(0);
    let mut delays = Vec::new();
    for _ in 0..8 {
        let before = standby.now;
        let claimed = standby.claims();
        delays.push(claimed - before);
        standby.election.claimed();
        assert_eq!(
            standby.claims_until(claimed + 5_000, NO_LAG),
            None,
            "one claim at a time"
        );
        standby.election.claim_ended(ms(standby.now));
    }
    assert_eq!(delays[1..], [700, 1_000, 2_000, 4_000, 8_000, 16_000, 16_000]);
    standby.election.news(ms(standby.now), News::Block);
    let now = standby.now;
    assert_eq!(standby.claims(), now + 700);
    // The claims of others count, too.
    for _ in 0..3 {
        standby.election.news(ms(standby.now), News::Claim);
    }
    let now = standby.now;
    assert_eq!(standby.claims(), now + 2_000);
}

#[test]
fn after_a_resignation_the_successor_claims_at_once_and_the_others_wait() {
    let mut standby = Standby::new(100);
    standby.hears_until(1_000);
    standby.election.news(ms(1_000), News::ResignToThis);
    assert!(standby.election.should_claim(ms(1_000), NO_LAG));
    let mut standby = Standby::new(100);
    standby.hears_until(1_000);
    standby.election.news(ms(1_000), News::ResignToAnother);
    standby.election.closed(ms(1_010));
    assert_eq!(standby.claims(), 1_800);
}

#[test]
fn a_clock_that_is_behind_delays_a_claim_but_not_for_ever() {
    for (behind, claimed) in [(0, 700), (120, 820), (500, 1_200), (86_400_000, 1_200)] {
        let mut standby = Standby::new(0);
        standby.election.read(ms(0));
        assert_eq!(standby.claims_until(5_000, ms(behind)), Some(claimed));
    }
}

#[test]
fn heartbeats_stop_when_the_tail_cannot_be_read() {
    let heartbeat = Heartbeat::default();
    assert_eq!(heartbeat.next(ms(1_050), ms(1_000), ms(900)), Some(ms(1_100)));
    assert_eq!(heartbeat.next(ms(1_400), ms(1_000), ms(900)), Some(ms(1_100)));
    assert_eq!(heartbeat.next(ms(1_401), ms(1_000), ms(900)), None);
}

#[test]
fn a_leader_resigns_if_all_other_clocks_differ_in_the_same_direction() {
    assert!(!is_clock_wrong(&[]));
    assert!(!is_clock_wrong(&[1_000, 900, -20]));
    assert!(!is_clock_wrong(&[1_001, 0]));
    assert!(!is_clock_wrong(&[1_001, -1_001]));
    assert!(is_clock_wrong(&[1_001, 5_000]));
    assert!(is_clock_wrong(&[-1_001]));
}

proptest! {
    /// Whatever happened before, a standby that can read the log and sees no new block claims in the end, and not
    /// before the time of `next_wake`.
    #[test]
    fn silence_always_ends_in_a_claim(
        events in proptest::collection::vec((0_u8..9, 0_u64..900), 0..40),
        jitter in 0_u64..=200,
    ) {
        let mut standby = Standby::new(jitter);
        for (event, wait) in events {
            standby.now += wait;
            let now = ms(standby.now);
            let election = &mut standby.election;
            match event {
                0 => election.news(now, News::Block),
                1 => election.news(now, News::Claim),
                2 => election.news(now, News::ResignToThis),
                3 => election.news(now, News::ResignToAnother),
                4 => election.read_failed(),
                5 => election.closed(now),
                6 => election.forward_failed(now),
                7 => election.claimed(),
                _ => election.read(now),
            }
            if event == 7 {
                election.claim_ended(now);
            }
        }
        standby.now = standby.now.next_multiple_of(10);
        let claimed = standby.claims_until(standby.now + 20_000, NO_LAG);
        prop_assert!(claimed.is_some());
        let wake = standby.election.next_wake(NO_LAG).unwrap();
        prop_assert!(wake <= ms(standby.now));
    }
}
