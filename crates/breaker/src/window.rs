//! [`Window`]: the counts of the completed calls in a sliding window. Each shard (a set of counters for one or several
//! threads) has a ring of time slices. Recording a call changes counters of one slice of one shard. Reading the window
//! sums up the slices that are recent enough and belong to the given generation (the time between two transitions). A
//! *lap* is the time in which the ring uses each slice once. No counter is reset when a slice ends: instead, readers
//! ignore the counts of an older lap or generation.
//!
//! This file imports only `super::sync`, `super::histogram` and `super::writer`, so that `tests/loom` can model-check
//! it unchanged.

use super::{
    histogram::{CELLS, LogHistogram, Tag, TaggedPair},
    sync::CachePadded,
    writer::{ShardAccess, Writer},
};

/// What one completed call adds to the window.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    /// The call failed.
    pub(super) failed: bool,
    /// The call counts neither as a success nor as a failure.
    pub(super) neutral: bool,
    /// The latency counts.
    pub(super) sampled: bool,
    /// The call was slow. True only if `sampled` is true.
    pub(super) slow: bool,
    /// The call reached the threshold of the optional p99 rule. True only if `sampled` is true.
    pub(super) over_p99: bool,
    /// The call is the first counted call of its commit batch.
    pub(super) first_of_batch: bool,
    /// The call is the first failed call of its commit batch.
    pub(super) first_failed_of_batch: bool,
    /// The call is the first bad call of its commit batch. A call is bad if `failed`, `slow` or `over_p99` is true.
    pub(super) first_bad_of_batch: bool,
    /// Microseconds from admission to the answer.
    pub(super) total_us: u64,
    /// Microseconds from admission until the call was taken into a batch.
    pub(super) queue_wait_us: Option<u64>,
    /// Microseconds from taking the call into a batch until the batch was durable.
    pub(super) commit_us: Option<u64>,
}

/// The sums of the counts in the window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct WindowCounts {
    /// Number of successes and failures.
    pub(super) calls: u64,
    pub(super) failed: u64,
    /// Number of calls whose latency counts, including neutral calls.
    pub(super) samples: u64,
    pub(super) slow: u64,
    pub(super) slow_failed: u64,
    pub(super) over_p99: u64,
    pub(super) neutral: u64,
    /// Number of distinct commit batches.
    pub(super) batches: u64,
    /// Number of distinct commit batches with a bad call, see [`Sample::first_bad_of_batch`].
    pub(super) bad_batches: u64,
}

/// Histogram cells, summed over the window.
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

/// The slice and lap of a point in time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// The number of slices between the clock's origin and this slice.
    pub(super) epoch: u64,
    lap: u64,
}

/// A divisor that is known only at run time, stored as its reciprocal, because a multiplication is several times faster
/// than a division (Granlund, Montgomery 1994).
#[derive(Debug, Clone, Copy)]
pub(super) struct Divisor {
    /// `2^64 / divisor`, rounded up.
    reciprocal: u64,
}

#[derive(Debug)]
struct Shard {
    slices: Box<[CachePadded<Slice>]>,
}

/// One time slice. A fast, successful call without reported durations changes only `alone` or `calls` and one cell of
/// `total`. The comment of each field below names the field's two counts, separated by a semicolon.
#[derive(Debug)]
struct Slice {
    /// Calls that are the first call of their batch and that are neither neutral nor failed nor the first bad call of
    /// the batch. Such a call counts once as a call and once as a batch. Most calls without a batch are counted here.
    /// The second count is unused.
    alone: TaggedPair,
    /// Calls that are neither neutral nor counted in `alone`; failed calls.
    calls: TaggedPair,
    /// Slow calls; slow calls that failed.
    slow: TaggedPair,
    /// Neutral calls; neutral calls whose latency counts.
    neutral: TaggedPair,
    /// Calls that are not neutral and whose latency does not count; calls that reached the p99 threshold.
    odd: TaggedPair,
    /// Batches that are not counted in `alone`; batches with a bad call.
    batches: TaggedPair,
    total: LogHistogram,
    queue_wait: LogHistogram,
    commit: LogHistogram,
}

const NANOS_PER_MILLI: u64 = 1_000_000;

// ===== impl Sample =====

impl Sample {
    /// Makes the sample of a fast success that is a batch by itself.
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
    /// Makes a window for `shards` shards. Each shard has `slices` slices of `slice_ms` milliseconds. `slices` and
    /// `slice_ms` must be at least 2.
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

    /// Counts a call of `generation` that ended at `moment`. Returns false, without counting, if the generation is
    /// over. `live` returns whether the generation is current.
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

    /// Sums up the counts of the current slice and of the earlier slices in the window.
    pub(super) fn counts(&self, generation: u32, now_ns: u64) -> WindowCounts {
        let mut sums = WindowCounts::default();
        self.for_each_slice(generation, now_ns, |tag, slice| slice.add_counts(tag, &mut sums));
        sums
    }

    /// Sums up the histograms of the current slice and of the earlier slices in the window.
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

    /// Resets the counts of earlier laps in the current slice of every shard. If a shard is not used, its old counts
    /// would be mistaken for new counts when the lap numbers repeat. One sweep per slice prevents this.
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
    /// Stores the reciprocal of `divisor`, which must be at least 2.
    pub(super) const fn new(divisor: u64) -> Self {
        Self {
            reciprocal: u64::MAX / divisor + 1,
        }
    }

    /// Returns `number / divisor`, rounded down. The result is exact if `number * divisor` is below `2^64`: the stored
    /// reciprocal is too large by less than one, so the product is too large by less than the distance to the next
    /// whole number. The condition holds here: the number of milliseconds is below 2^42 (139 years), and the divisor is
    /// at most 2^22 ms (70 minutes, more than the longest window of one hour).
    #[inline]
    pub(super) fn divide(self, number: u64) -> u64 {
        let product = u128::from(number) * u128::from(self.reciprocal);
        // The quotient is at most `number`, so it fits into 64 bits.
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
        // The words are read one after the other, so a call may already be counted in one word and not yet in another.
        // For this reason, the subtraction stops at zero.
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
