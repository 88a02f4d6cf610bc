//! The sliding window: a ring of time slices for each shard of threads. Recording changes words of one slice of one shard.
//! Reading adds up the slices that are young enough and belong to the given generation. No counter is reset: a slice of an
//! older lap or generation counts as empty.
//!
//! Imports nothing but `super::sync` and its siblings without a clock, so that `tests/loom` can model-check this very file.

use super::{
    histogram::{CELLS, LogHistogram, Tag, TaggedPair},
    sync::CachePadded,
    writer::{ShardAccess, Writer},
};

/// What one completed call adds to the window.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    /// It failed.
    pub(super) failed: bool,
    /// Its outcome is no evidence of success or failure.
    pub(super) neutral: bool,
    /// Its latency counts.
    pub(super) sampled: bool,
    /// It was slow; only together with `sampled`.
    pub(super) slow: bool,
    /// It reached the threshold of the optional p99 rule; only together with `sampled`.
    pub(super) over_p99: bool,
    /// It is the first of its commit batch to be counted.
    pub(super) first_of_batch: bool,
    /// It is the first failed one of its commit batch.
    pub(super) first_failed_of_batch: bool,
    /// It is the first slow or failed one of its commit batch.
    pub(super) first_bad_of_batch: bool,
    /// From admission to the answer, in microseconds.
    pub(super) total_us: u64,
    /// From admission to being taken into a batch, in microseconds.
    pub(super) queue_wait_us: Option<u64>,
    /// From being taken into a batch to being durable, in microseconds.
    pub(super) commit_us: Option<u64>,
}

/// Sums over the window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct WindowCounts {
    /// Successes and failures.
    pub(super) calls: u64,
    pub(super) failed: u64,
    /// Calls whose latency counts, neutral ones included.
    pub(super) samples: u64,
    pub(super) slow: u64,
    pub(super) slow_failed: u64,
    pub(super) over_p99: u64,
    pub(super) neutral: u64,
    /// Distinct commit batches.
    pub(super) batches: u64,
    /// Distinct commit batches with a slow or failed call.
    pub(super) bad_batches: u64,
}

/// Cells summed over the window.
#[derive(Debug, Clone)]
pub(super) struct WindowHistograms {
    pub(super) total: [u64; CELLS],
    pub(super) queue_wait: [u64; CELLS],
    pub(super) commit: [u64; CELLS],
}

/// The window of one breaker.
#[derive(Debug)]
pub(super) struct Window {
    shards: Box<[Shard]>,
    slice_ms: Divisor,
    lap_ms: Divisor,
    slices: u64,
}

/// A moment as the window sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// The number of its slice, counted from the clock's origin.
    pub(super) epoch: u64,
    lap: u64,
}

/// A number to divide by, known only at run time, with its reciprocal: a multiplication takes a fraction of the time that
/// a division does (Granlund, Montgomery 1994).
#[derive(Debug, Clone, Copy)]
pub(super) struct Divisor {
    /// `2^64 / divisor`, rounded up.
    reciprocal: u64,
}

#[derive(Debug)]
struct Shard {
    slices: Box<[CachePadded<Slice>]>,
}

/// One time slice. The common call is fast and successful: it changes `alone` or `calls` and one cell of `total`.
#[derive(Debug)]
struct Slice {
    /// Calls that did not fail and are the first of their batch, but not its first bad call: one count stands for a call and
    /// a batch. Most calls without a batch are counted here. The second count is not used.
    alone: TaggedPair,
    /// other calls, failed
    calls: TaggedPair,
    /// slow, slow and failed
    slow: TaggedPair,
    /// neutral, neutral ones whose latency counts
    neutral: TaggedPair,
    /// calls whose latency does not count, samples over the p99 threshold
    odd: TaggedPair,
    /// other batches, batches with a slow or failed call
    batches: TaggedPair,
    total: LogHistogram,
    queue_wait: LogHistogram,
    commit: LogHistogram,
}

const NANOS_PER_MILLI: u64 = 1_000_000;

// ===== impl Sample =====

impl Sample {
    /// A fast success that is a batch by itself.
    pub(super) const fn ordinary(total_us: u64) -> Self {
        Self {
            failed: false,
            neutral: false,
            sampled: true,
            slow: false,
            over_p99: false,
            first_of_batch: true,
            first_failed_of_batch: false,
            first_bad_of_batch: false,
            total_us,
            queue_wait_us: None,
            commit_us: None,
        }
    }
}

// ===== impl Window =====

impl Window {
    /// A window of `slices` slices of `slice_ms` milliseconds, both at least 2, for `shards` shards.
    pub(super) fn new(shards: usize, slices: usize, slice_ms: u64) -> Self {
        Self {
            shards: (0..shards).map(|_| Shard::new(slices)).collect(),
            slice_ms: Divisor::new(slice_ms),
            lap_ms: Divisor::new(slice_ms * slices as u64),
            slices: slices as u64,
        }
    }

    /// Returns the slice and lap of `now_ns`.
    #[inline]
    pub(super) fn moment(&self, now_ns: u64) -> Moment {
        let now_ms = now_ns / NANOS_PER_MILLI;
        Moment {
            epoch: self.slice_ms.divide(now_ms),
            lap: self.lap_ms.divide(now_ms),
        }
    }

    /// Counts a call of `generation` that ended at `moment`. Returns false, having counted nothing, if the
    /// generation is over, which `live` tells.
    #[inline(always)]
    pub(super) fn record(
        &self,
        access: ShardAccess,
        generation: u32,
        moment: Moment,
        sample: &Sample,
        live: impl Fn() -> bool,
    ) -> bool {
        let tag = Tag::new(generation, moment.lap);
        match self.slice(access.shard, moment) {
            Some(slice) => slice.record(access.writer, tag, sample, live),
            None => false,
        }
    }

    /// Sums up the present slice and the ones before it that the window covers.
    pub(super) fn counts(&self, generation: u32, now_ns: u64) -> WindowCounts {
        let mut sums = WindowCounts::default();
        self.for_each_slice(generation, now_ns, |tag, slice| slice.add_counts(tag, &mut sums));
        sums
    }

    /// Sums up the histograms of the same slices.
    pub(super) fn histograms(&self, generation: u32, now_ns: u64) -> WindowHistograms {
        let mut sums = WindowHistograms {
            total: [0; CELLS],
            queue_wait: [0; CELLS],
            commit: [0; CELLS],
        };
        self.for_each_slice(generation, now_ns, |tag, slice| {
            slice.total.add_to(tag, &mut sums.total);
            slice.queue_wait.add_to(tag, &mut sums.queue_wait);
            slice.commit.add_to(tag, &mut sums.commit);
        });
        sums
    }

    /// Empties the counts of earlier laps from the current slice of every shard. With one sweep per slice, a shard that no
    /// thread uses does not keep counts until its tags repeat.
    pub(super) fn sweep(&self, generation: u32, now_ns: u64, live: impl Fn() -> bool) {
        let moment = self.moment(now_ns);
        let tag = Tag::new(generation, moment.lap);
        for slice in (0..self.shards.len()).filter_map(|shard| self.slice(shard, moment)) {
            slice.sweep(tag, &live);
        }
    }

    fn for_each_slice(&self, generation: u32, now_ns: u64, mut visit: impl FnMut(Tag, &Slice)) {
        let newest = self.moment(now_ns).epoch;
        let oldest = newest.saturating_sub(self.slices - 1);
        for shard in 0..self.shards.len() {
            for epoch in oldest..=newest {
                let lap = epoch / self.slices;
                if let Some(slice) = self.slice(shard, Moment { epoch, lap }) {
                    visit(Tag::new(generation, lap), slice);
                }
            }
        }
    }

    #[inline]
    fn slice(&self, shard: usize, moment: Moment) -> Option<&Slice> {
        let index = usize::try_from(moment.epoch - moment.lap * self.slices).ok()?;
        self.shards.get(shard)?.slices.get(index).map(|slice| &**slice)
    }
}

// ===== impl Shard =====

impl Shard {
    fn new(slices: usize) -> Self {
        Self {
            slices: (0..slices).map(|_| CachePadded::new(Slice::new())).collect(),
        }
    }
}

// ===== impl Divisor =====

impl Divisor {
    /// For a `divisor` of at least 2.
    pub(super) const fn new(divisor: u64) -> Self {
        Self {
            reciprocal: u64::MAX / divisor + 1,
        }
    }

    /// `number / divisor`, exact if `number * divisor` is below `2^64`: the reciprocal is too large by less than one, and
    /// the product then by less than what it takes to the next whole number. Milliseconds that fit 64 bits as nanoseconds
    /// are below 2^45; below 2^42 (139 years) they may be divided by 2^22 (an hour, the longest window).
    #[inline]
    pub(super) fn divide(self, number: u64) -> u64 {
        let product = u128::from(number) * u128::from(self.reciprocal);
        // The quotient is not above the number.
        u64::try_from(product >> u64::BITS).unwrap_or(u64::MAX)
    }
}

// ===== impl Slice =====

impl Slice {
    fn new() -> Self {
        Self {
            alone: TaggedPair::default(),
            calls: TaggedPair::default(),
            slow: TaggedPair::default(),
            neutral: TaggedPair::default(),
            odd: TaggedPair::default(),
            batches: TaggedPair::default(),
            total: LogHistogram::new(),
            queue_wait: LogHistogram::new(),
            commit: LogHistogram::new(),
        }
    }

    #[inline(always)]
    fn record(&self, writer: Writer, tag: Tag, sample: &Sample, live: impl Fn() -> bool) -> bool {
        let live = &live;
        let bit = u64::from;
        let alone = sample.first_of_batch && !(sample.neutral || sample.failed || sample.first_bad_of_batch);
        let counted = if alone {
            self.alone.add(writer, tag, 1, 0, live)
        } else if sample.neutral {
            self.neutral.add(writer, tag, 1, bit(sample.sampled), live)
        } else {
            self.calls.add(writer, tag, 1, bit(sample.failed), live)
        };
        if !counted {
            return false;
        }
        if sample.slow {
            self.slow.add(writer, tag, 1, bit(sample.failed), live);
        }
        let unsampled_call = !sample.sampled && !sample.neutral;
        if unsampled_call || sample.over_p99 {
            self.odd
                .add(writer, tag, bit(unsampled_call), bit(sample.over_p99), live);
        }
        if !alone && (sample.first_of_batch || sample.first_bad_of_batch) {
            self.batches.add(
                writer,
                tag,
                bit(sample.first_of_batch),
                bit(sample.first_bad_of_batch),
                live,
            );
        }
        if sample.sampled {
            self.total.record(writer, tag, sample.total_us, live);
        }
        if let Some(micros) = sample.queue_wait_us {
            self.queue_wait.record(writer, tag, micros, live);
        }
        if let Some(micros) = sample.commit_us {
            self.commit.record(writer, tag, micros, live);
        }
        true
    }

    fn add_counts(&self, tag: Tag, sums: &mut WindowCounts) {
        let (alone, _) = self.alone.read(tag);
        let (others, failed) = self.calls.read(tag);
        let calls = alone + others;
        let (slow, slow_failed) = self.slow.read(tag);
        let (neutral, neutral_sampled) = self.neutral.read(tag);
        let (unsampled, over_p99) = self.odd.read(tag);
        let (batches, bad_batches) = self.batches.read(tag);
        sums.calls += calls;
        sums.failed += failed;
        sums.slow += slow;
        sums.slow_failed += slow_failed;
        sums.neutral += neutral;
        sums.over_p99 += over_p99;
        sums.batches += alone + batches;
        sums.bad_batches += bad_batches;
        // The words are read one after the other, so a call may be in one and not yet in the other.
        sums.samples += (calls + neutral_sampled).saturating_sub(unsampled);
    }

    fn sweep(&self, tag: Tag, live: impl Fn() -> bool) {
        let live = &live;
        let pairs = [
            &self.alone,
            &self.calls,
            &self.slow,
            &self.neutral,
            &self.odd,
            &self.batches,
        ];
        for pair in pairs {
            pair.sweep(tag, live);
        }
        for histogram in [&self.total, &self.queue_wait, &self.commit] {
            histogram.sweep(tag, live);
        }
    }
}
