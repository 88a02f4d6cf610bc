//! Zipf's distribution: rank k with a probability proportional to k^-θ.
//!
//! The method is rejection-inversion (W. Hörmann, G. Derflinger: "Rejection-inversion to generate variates from monotone discrete
//! distributions", 1996). It needs no table and no sum over all ranks, so 100 million accounts have no set-up cost.

use super::random::mix;

/// The distribution over 1..=n.
#[derive(Debug, Clone, Copy)]
pub(super) struct Zipf {
    ranks: f64,
    theta: f64,
    /// The integral of the density up to the two ends of the range.
    integral_first: f64,
    integral_last: f64,
    /// A point at most this far from its rank is accepted without evaluating the density.
    squeeze: f64,
}

/// More than three in four points are accepted. After this many rejected points, the last point is accepted.
const POINTS_MAX: u64 = 64;

// ===== impl Zipf =====

impl Zipf {
    /// Creates the distribution over `ranks` ranks, at least 1. `theta` is positive.
    pub(super) fn new(ranks: u64, theta: f64) -> Self {
        let mut zipf = Zipf {
            ranks: ranks as f64,
            theta,
            integral_first: 0.0,
            integral_last: 0.0,
            squeeze: 0.0,
        };
        zipf.integral_first = zipf.integral(1.5) - 1.0;
        zipf.integral_last = zipf.integral(zipf.ranks + 0.5);
        zipf.squeeze = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.density(2.0));
        zipf
    }

    /// Returns the rank for a random number. The same number always gives the same rank.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "1 to the number of ranks"
    )]
    pub(super) fn draw(&self, random: u64) -> u64 {
        let mut rank = 1.0;
        for attempt in 0..POINTS_MAX {
            // A double has 53 significant bits, so 53 random bits give an exact number from 0 to below 1.
            let uniform = (mix(random.wrapping_add(attempt)) >> 11) as f64 / (1_u64 << 53) as f64;
            let point = self.integral_last + uniform * (self.integral_first - self.integral_last);
            let x = self.inverse(point);
            rank = (x + 0.5).floor().clamp(1.0, self.ranks);
            if rank - x <= self.squeeze || point >= self.integral(rank + 0.5) - self.density(rank) {
                break;
            }
        }
        rank as u64
    }

    fn density(&self, x: f64) -> f64 {
        (-self.theta * x.ln()).exp()
    }

    /// Returns (x^(1-θ) - 1) / (1-θ), or ln x if θ is 1.
    fn integral(&self, x: f64) -> f64 {
        let (log, power) = (x.ln(), (1.0 - self.theta) * x.ln());
        let slope = if power.abs() < 1e-8 {
            1.0
        } else {
            power.exp_m1() / power
        };
        slope * log
    }

    fn inverse(&self, y: f64) -> f64 {
        let scaled = (y * (1.0 - self.theta)).max(-1.0);
        let slope = if scaled.abs() < 1e-8 {
            1.0
        } else {
            scaled.ln_1p() / scaled
        };
        (slope * y).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_drawn_with_their_probability() {
        const DRAWS: u64 = 200_000;
        for theta in [0.5, 0.99, 1.0, 1.5] {
            for ranks in [2, 10, 1000] {
                let zipf = Zipf::new(ranks, theta);
                let mut counts = vec![0_u64; usize::try_from(ranks).unwrap()];
                for number in 0..DRAWS {
                    counts[usize::try_from(zipf.draw(mix(number)) - 1).unwrap()] += 1;
                }
                let sum: f64 = (1..=ranks).map(|rank| (rank as f64).powf(-theta)).sum();
                for rank in 1..=ranks.min(5) {
                    let expected = DRAWS as f64 * (rank as f64).powf(-theta) / sum;
                    let drawn = counts[usize::try_from(rank - 1).unwrap()] as f64;
                    // The bound is six standard deviations. The draws are the same in every run.
                    assert!(
                        (drawn - expected).abs() < 6.0 * expected.sqrt(),
                        "θ {theta}, {ranks} ranks: rank {rank} was drawn {drawn} times, expected {expected:.0}"
                    );
                }
            }
        }
    }

    #[test]
    fn draws_reach_all_of_a_hundred_million_ranks() {
        let zipf = Zipf::new(100_000_000, 0.6);
        let highest = (0..10_000).map(|number| zipf.draw(mix(number))).max().unwrap();
        assert!((90_000_000..=100_000_000).contains(&highest), "{highest}");
    }
}
