//! [`Gate`]: the atomic words that decide which calls are admitted. The first word holds mode, state, generation and
//! deadline. The second word counts the probes (trial calls) of a half-open circuit. The third word spaces out the
//! calls that a ramp admits. In addition, each probe in flight has a word with its start time.
//!
//! This file imports only `super::sync`, so that `tests/loom` can model-check it unchanged.

use super::sync::{AtomicU64, Ordering};

/// The state of a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CircuitState {
    /// Every call is admitted.
    Closed,
    /// No call is admitted until the deadline.
    Open,
    /// A bounded number of calls is admitted, as probes.
    HalfOpen,
    /// A growing share of the calls is admitted.
    Ramp,
}

/// Whether the state machine decides which calls are admitted. The mode is independent of the [`CircuitState`]:
/// changing the mode does not change the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakerMode {
    /// The state machine decides.
    Auto,
    /// The state machine runs, but every call is admitted. The breaker counts the calls that `Auto` would have
    /// rejected.
    MetricsOnly,
    /// No call is admitted, in any state.
    ForcedOpen,
    /// Every call is admitted and nothing is recorded.
    Disabled,
}

/// Mode, state, generation and deadline in one word: `mode:3 | state:3 | generation:22 | deadline_ms:36`. A generation
/// is the time between two transitions. A result counts only in the generation that admitted its call. 36 bits of
/// milliseconds last 2.1 years from the clock's origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StateWord(u64);

/// The probes of one half-open generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Probes {
    /// Number of permits issued, minus the permits of withdrawn probes.
    pub(super) issued: u32,
    /// Number of probes that were fast and successful.
    pub(super) ok: u32,
    /// Number of probes that were slow, failed, or did not end within the time limit.
    pub(super) bad: u32,
}

/// A probe in flight: the index of its slot, and the value that is stored in this slot and contains the probe's start
/// time. Two threads may try to remove the value from the slot: the thread that ends the call, and the thread that
/// ticks the breaker when the probe's time limit has passed. The thread that succeeds reports the probe's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProbeTicket {
    slot: usize,
    value: u64,
}

/// The outcome of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeOutcome {
    /// Fast and successful.
    Ok,
    /// Slow or failed.
    Bad,
    /// The call showed nothing about the service. The permit becomes available for another probe.
    Withdrawn,
}

/// The answer to a request for a probe permit or for admission to the ramp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant<T> {
    /// The request is granted.
    Granted(T),
    /// The request is rejected.
    Rejected,
    /// The state has changed: load the state word again.
    Stale,
}

/// The atomic words of one breaker.
#[derive(Debug)]
pub(super) struct Gate {
    /// A [`StateWord`]. Every call reads it (Acquire). Transitions and mode changes write it (compare-exchange,
    /// AcqRel).
    word: AtomicU64,
    /// The counts of the probes: `generation:22 | issued:14 | ok:14 | bad:14`. Written when a probe begins, ends or
    /// reaches its time limit.
    probes: AtomicU64,
    /// One word per permit: `busy:1 | generation:22 | began_us:41` for a probe in flight, otherwise zero.
    slots: Box<[AtomicU64]>,
    /// The credit of the ramp, see [`Gate::admit_to_ramp`]: `generation:22 | credit:42`. The credit is a fixed-point
    /// number with [`CREDIT_BITS`] binary places.
    ramp: AtomicU64,
}

const GENERATION_BITS: u32 = 22;
const GENERATION_MASK: u64 = (1 << GENERATION_BITS) - 1;
const DEADLINE_BITS: u32 = 36;
const DEADLINE_MASK: u64 = (1 << DEADLINE_BITS) - 1;
const STATE_SHIFT: u32 = DEADLINE_BITS + GENERATION_BITS;
const MODE_SHIFT: u32 = STATE_SHIFT + 3;
const FIELD_MASK: u64 = 0b111;

const COUNT_BITS: u32 = 14;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const PROBES_GENERATION_SHIFT: u32 = 3 * COUNT_BITS;
const ISSUED_ONE: u64 = 1 << (2 * COUNT_BITS);
const OK_ONE: u64 = 1 << COUNT_BITS;
const BAD_ONE: u64 = 1;

const SLOT_BUSY: u64 = 1 << 63;
const SLOT_TIME_BITS: u32 = 41;
const SLOT_TIME_MASK: u64 = (1 << SLOT_TIME_BITS) - 1;

const CREDIT_WORD_BITS: u32 = 42;
const CREDIT_WORD_MASK: u64 = (1 << CREDIT_WORD_BITS) - 1;
/// Binary places of the ramp's credit: a weight of 1 is `1 << CREDIT_BITS`.
pub(super) const CREDIT_BITS: u32 = 20;

// ===== impl CircuitState =====

impl CircuitState {
    /// Returns the name used in metrics and events: `closed`, `open`, `half_open`, `ramp`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Ramp => "ramp",
        }
    }

    const fn bits(self) -> u64 {
        match self {
            Self::Closed => 0,
            Self::Open => 1,
            Self::HalfOpen => 2,
            Self::Ramp => 3,
        }
    }

    #[inline]
    const fn from_bits(bits: u64) -> Self {
        match bits {
            1 => Self::Open,
            2 => Self::HalfOpen,
            3 => Self::Ramp,
            // Only `bits()` writes the field, so the remaining value is 0.
            _ => Self::Closed,
        }
    }
}

// ===== impl BreakerMode =====

impl BreakerMode {
    /// Returns the name used in metrics and events: `auto`, `metrics_only`, `forced_open`, `disabled`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::MetricsOnly => "metrics_only",
            Self::ForcedOpen => "forced_open",
            Self::Disabled => "disabled",
        }
    }

    const fn bits(self) -> u64 {
        match self {
            Self::Auto => 0,
            Self::MetricsOnly => 1,
            Self::ForcedOpen => 2,
            Self::Disabled => 3,
        }
    }

    #[inline]
    const fn from_bits(bits: u64) -> Self {
        match bits {
            1 => Self::MetricsOnly,
            2 => Self::ForcedOpen,
            3 => Self::Disabled,
            // Only `bits()` writes the field, so the remaining value is 0.
            _ => Self::Auto,
        }
    }
}

// ===== impl StateWord =====

impl StateWord {
    pub(super) const fn new(mode: BreakerMode) -> Self {
        Self(mode.bits() << MODE_SHIFT)
    }

    #[inline]
    pub(super) const fn mode(self) -> BreakerMode {
        BreakerMode::from_bits((self.0 >> MODE_SHIFT) & FIELD_MASK)
    }

    #[inline]
    pub(super) const fn state(self) -> CircuitState {
        CircuitState::from_bits((self.0 >> STATE_SHIFT) & FIELD_MASK)
    }

    #[inline]
    pub(super) const fn generation(self) -> u32 {
        ((self.0 >> DEADLINE_BITS) & GENERATION_MASK) as u32
    }

    /// Returns the time at which the open time, the half-open wait or the ramp ends, in milliseconds of the clock.
    /// Meaningless while the circuit is closed.
    #[inline]
    pub(super) const fn deadline_ms(self) -> u64 {
        self.0 & DEADLINE_MASK
    }

    /// Returns the word after a transition: the same mode, the next generation. A deadline that does not fit into the
    /// field is set to the field's maximum.
    pub(super) const fn next(self, state: CircuitState, deadline_ms: u64) -> Self {
        let generation = (self.generation() as u64 + 1) & GENERATION_MASK;
        let deadline = if deadline_ms > DEADLINE_MASK {
            DEADLINE_MASK
        } else {
            deadline_ms
        };
        Self(
            (self.mode().bits() << MODE_SHIFT)
                | (state.bits() << STATE_SHIFT)
                | (generation << DEADLINE_BITS)
                | deadline,
        )
    }

    const fn with_mode(self, mode: BreakerMode) -> Self {
        Self((self.0 & !(FIELD_MASK << MODE_SHIFT)) | (mode.bits() << MODE_SHIFT))
    }
}

// ===== impl Probes =====

impl Probes {
    const fn unpack(word: u64) -> Self {
        Self {
            issued: ((word >> (2 * COUNT_BITS)) & COUNT_MASK) as u32,
            ok: ((word >> COUNT_BITS) & COUNT_MASK) as u32,
            bad: (word & COUNT_MASK) as u32,
        }
    }
}

// ===== impl Gate =====

impl Gate {
    /// Makes a closed gate that admits at most `permits` probes in a half-open generation. `permits` must be at most
    /// `2^14 − 1`.
    pub(super) fn new(mode: BreakerMode, permits: u32) -> Self {
        Self {
            word: AtomicU64::new(StateWord::new(mode).0),
            probes: AtomicU64::new(0),
            slots: (0..permits).map(|_| AtomicU64::new(0)).collect(),
            ramp: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(super) fn load(&self) -> StateWord {
        StateWord(self.word.load(Ordering::Acquire))
    }

    /// Makes a transition from the word `observed`. If the word has changed, fails with the current word.
    pub(super) fn transition(
        &self,
        observed: StateWord,
        to: CircuitState,
        deadline_ms: u64,
    ) -> Result<StateWord, StateWord> {
        let next = observed.next(to, deadline_ms);
        match self
            .word
            .compare_exchange(observed.0, next.0, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => Ok(next),
            Err(seen) => Err(StateWord(seen)),
        }
    }

    /// Changes the mode and keeps the state. Returns the previous mode.
    pub(super) fn set_mode(&self, mode: BreakerMode) -> BreakerMode {
        let mut observed = self.load();
        loop {
            let next = observed.with_mode(mode);
            match self
                .word
                .compare_exchange(observed.0, next.0, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return observed.mode(),
                Err(seen) => observed = StateWord(seen),
            }
        }
    }

    /// Returns the counts of the probes of `generation`. Returns zeroes if the counts still belong to another
    /// generation.
    pub(super) fn probes(&self, generation: u32) -> Probes {
        let word = self.probes.load(Ordering::Acquire);
        if word >> PROBES_GENERATION_SHIFT == u64::from(generation) {
            Probes::unpack(word)
        } else {
            Probes::default()
        }
    }

    /// Requests a permit in `generation` for a probe that begins at `now_us`.
    pub(super) fn issue_probe(&self, generation: u32, now_us: u64) -> Grant<ProbeTicket> {
        let mut word = self.probes.load(Ordering::Acquire);
        loop {
            let base = if word >> PROBES_GENERATION_SHIFT == u64::from(generation) {
                word
            } else if self.load().generation() == generation {
                // This is the first probe of its generation. The counts in the word belong to an earlier generation.
                u64::from(generation) << PROBES_GENERATION_SHIFT
            } else {
                return Grant::Stale;
            };
            if Probes::unpack(base).issued as usize >= self.slots.len() {
                return Grant::Rejected;
            }
            match self
                .probes
                .compare_exchange(word, base + ISSUED_ONE, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => break,
                Err(seen) => word = seen,
            }
        }
        if let Some(ticket) = self.occupy_slot(generation, now_us) {
            return Grant::Granted(ticket);
        }
        // While `occupy_slot` searched for a free slot, other probes began and ended, so the search found no
        // free slot. The permit is returned.
        self.count(generation, ProbeOutcome::Withdrawn);
        Grant::Rejected
    }

    /// Reports the outcome of a probe that has ended. Returns the new counts. Returns None, without counting the probe,
    /// if a tick has already counted the probe as bad or if the generation is over.
    pub(super) fn settle_probe(
        &self,
        generation: u32,
        ticket: ProbeTicket,
        outcome: ProbeOutcome,
    ) -> Option<Probes> {
        let slot = self.slots.get(ticket.slot)?;
        // The slot is freed before the permit is returned, so that the number of used slots never exceeds the number of
        // issued permits.
        slot.compare_exchange(ticket.value, 0, Ordering::AcqRel, Ordering::Acquire)
            .ok()?;
        self.count(generation, outcome)
    }

    /// Counts every probe of `generation` that has been in flight for `timeout_us` or longer as bad. If a probe began
    /// before `not_before_us`, its time is measured from `not_before_us`. Returns the new counts if any probe was
    /// counted.
    pub(super) fn expire_probes(
        &self,
        generation: u32,
        now_us: u64,
        timeout_us: u64,
        not_before_us: u64,
    ) -> Option<Probes> {
        let mut counts = None;
        for slot in &self.slots {
            let value = slot.load(Ordering::Acquire);
            if !is_probe_of(value, generation) {
                continue;
            }
            let age_us =
                (now_us.wrapping_sub(value) & SLOT_TIME_MASK).min(now_us.saturating_sub(not_before_us));
            if age_us >= timeout_us
                && slot
                    .compare_exchange(value, 0, Ordering::AcqRel, Ordering::Acquire)
                    .is_ok()
            {
                counts = self.count(generation, ProbeOutcome::Bad).or(counts);
            }
        }
        counts
    }

    /// Decides whether the ramp admits a call. The share of admitted calls is `w = weight / 2^CREDIT_BITS`. Each call
    /// adds `w` to the credit, and the call is admitted if the credit thereby reaches the next whole number. Of `n`
    /// calls with a constant `w`, at most `n·w + 1` calls are admitted, evenly spaced. The first call is admitted.
    pub(super) fn admit_to_ramp(&self, generation: u32, weight: u32) -> Grant<()> {
        let mut word = self.ramp.load(Ordering::Acquire);
        loop {
            let credit = if word >> CREDIT_WORD_BITS == u64::from(generation) {
                word & CREDIT_WORD_MASK
            } else if self.load().generation() == generation {
                // The credit starts just below 1, so that the first call of a ramp is admitted.
                (1 << CREDIT_BITS) - 1
            } else {
                return Grant::Stale;
            };
            let raised = (credit + u64::from(weight)) & CREDIT_WORD_MASK;
            let next = (u64::from(generation) << CREDIT_WORD_BITS) | raised;
            match self
                .ramp
                .compare_exchange(word, next, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) if raised >> CREDIT_BITS != credit >> CREDIT_BITS => return Grant::Granted(()),
                Ok(_) => return Grant::Rejected,
                Err(seen) => word = seen,
            }
        }
    }

    /// Writes the start time of a probe into a slot that is free or that still holds a probe of an earlier generation.
    /// Before the probe of another generation is overwritten, the method checks that `generation` is current. Without
    /// this check, a thread that slept through a transition could overwrite a probe of the current generation.
    fn occupy_slot(&self, generation: u32, now_us: u64) -> Option<ProbeTicket> {
        let value = SLOT_BUSY | (u64::from(generation) << SLOT_TIME_BITS) | (now_us & SLOT_TIME_MASK);
        for (index, slot) in self.slots.iter().enumerate() {
            let mut seen = slot.load(Ordering::Acquire);
            while seen == 0 || (!is_probe_of(seen, generation) && self.load().generation() == generation) {
                match slot.compare_exchange(seen, value, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => return Some(ProbeTicket { slot: index, value }),
                    Err(changed) => seen = changed,
                }
            }
        }
        None
    }

    fn count(&self, generation: u32, outcome: ProbeOutcome) -> Option<Probes> {
        let mut word = self.probes.load(Ordering::Acquire);
        loop {
            if word >> PROBES_GENERATION_SHIFT != u64::from(generation) {
                return None;
            }
            let next = match outcome {
                ProbeOutcome::Ok => word + OK_ONE,
                ProbeOutcome::Bad => word + BAD_ONE,
                ProbeOutcome::Withdrawn => word - ISSUED_ONE,
            };
            match self
                .probes
                .compare_exchange(word, next, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Some(Probes::unpack(next)),
                Err(seen) => word = seen,
            }
        }
    }
}

/// Returns whether a slot holds a probe of `generation`.
fn is_probe_of(value: u64, generation: u32) -> bool {
    value & SLOT_BUSY != 0 && (value >> SLOT_TIME_BITS) & GENERATION_MASK == u64::from(generation)
}
