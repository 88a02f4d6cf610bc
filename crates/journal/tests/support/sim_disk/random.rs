//! The random numbers of the simulated disk, and the digest of what happened to it.

/// A pseudorandom number generator: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Debug, Clone)]
pub(crate) struct SplitMix64(u64);

/// A hash of a sequence of numbers and bytes. It is fast and not safe against an attacker.
pub(super) struct Digest(u64);

/// One million, the unit of the rates of a [`super::FaultPlan`].
const MILLION: u64 = 1_000_000;
/// An odd number with about as many ones as zeros: 2^64 divided by the golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

// ===== impl SplitMix64 =====

impl SplitMix64 {
    /// Makes the generator `stream` of `seed`. The generators of a seed are independent of each other.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        SplitMix64(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(MULTIPLIER);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `bound`, which must not be 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product, which is cheaper than a remainder.
        let product = u128::from(self.next()) * u128::from(bound);
        u64::try_from(product >> 64).unwrap()
    }

    /// Returns a length below `bound`, which must not be 0.
    pub(super) fn length_below(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }

    /// Returns a number from `least` to `greatest`.
    pub(super) fn between(&mut self, least: u64, greatest: u64) -> u64 {
        least + self.below(greatest.saturating_sub(least) + 1)
    }

    /// Returns `true` in `per_million` of a million cases.
    pub(super) fn happens(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.below(MILLION) < u64::from(per_million)
    }

    /// Returns a number below a million.
    pub(super) fn millionth(&mut self) -> u64 {
        self.below(MILLION)
    }
}

// ===== impl Digest =====

impl Digest {
    pub(super) fn new(seed: u64) -> Self {
        Digest(seed)
    }

    pub(super) fn add(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(29) ^ number).wrapping_mul(MULTIPLIER);
    }

    pub(super) fn add_bytes(&mut self, bytes: &[u8]) {
        self.add(bytes.len() as u64);
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.add(u64::from_le_bytes(word.try_into().unwrap()));
        }
        for byte in words.remainder() {
            self.add(u64::from(*byte));
        }
    }

    /// Returns the hash of everything that was added.
    pub(super) fn value(&self) -> u64 {
        SplitMix64(self.0).next()
    }
}
