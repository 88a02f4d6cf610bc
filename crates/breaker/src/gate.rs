//! The gate decides which calls are admitted. One atomic word holds mode, state, generation and deadline. A second word counts
//! the probes of a half-open generation. A third word spaces out the calls of a ramp.
//!
//! Imports nothing but `super::sync`, so that `tests/loom` can model-check this very file.

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

/// Whether the state machine decides which calls are admitted. Independent of [`CircuitState`]: changing the mode keeps the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakerMode {
    /// The state machine decides.
    Auto,
    /// The state machine runs, but every call is admitted. Calls that it would have rejected are counted.
    MetricsOnly,
    /// No call is admitted, in any state.
    ForcedOpen,
    /// Every call is admitted and nothing is recorded.
    Disabled,
}

/// `mode:3 | state:3 | generation:22 | deadline_ms:36`. A generation is what lies between two transitions; a result
/// counts only in the generation that admitted its call. 36 bits of milliseconds last 2.1 years from the clock's origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StateWord(u64);

/// The probes of one half-open generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Probes {
    /// Permits given out and not withdrawn.
    pub(super) issued: u32,
    /// Probes that were fast and successful.
    pub(super) ok: u32,
    /// Probes that were slow, failed, or are still running after their time.
    pub(super) bad: u32,
}

/// A probe in flight: its slot, and the value written there, which holds the time of its beginning. The thread that removes the
/// value from the slot (the call at its end, or the ticker at the time limit) reports the outcome.
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
    /// No verdict: the permit goes back.
    Withdrawn,
}

/// The answer to a request for a probe's permit, or for a place in the ramp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant<T> {
    /// Granted.
    Granted(T),
    /// Refused.
    Rejected,
    /// The state has moved on; look at the state word again.
    Stale,
}

/// The atomic words of one breaker.
#[derive(Debug)]
pub(super) struct Gate {
    /// A [`StateWord`]. Read by every call (Acquire), written by transitions and mode changes (compare-exchange, AcqRel).
    word: AtomicU64,
    /// `generation:22 | issued:14 | ok:14 | bad:14`; written by probes only.
    probes: AtomicU64,
    /// `busy:1 | generation:22 | began_us:41` for each probe under way, or zero; as many as there are permits.
    slots: Box<[AtomicU64]>,
    /// `generation:22 | credit:42`, the credit being a binary fraction with [`CREDIT_BITS`] places.
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
/// Places of the ramp's binary fraction: a weight of 1 is `1 << CREDIT_BITS`.
pub(super) const CREDIT_BITS: u32 = 20;

// ===== impl CircuitState =====

impl CircuitState {
    /// The name in the notation of metrics and events: `closed`, `open`, `half_open`, `ramp`.
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
            // Only `bits()` ever writes the field; zero is the one value left.
            _ => Self::Closed,
        }
    }
}

// ===== impl BreakerMode =====

impl BreakerMode {
    /// The name in the notation of metrics and events: `auto`, `metrics_only`, `forced_open`, `disabled`.
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
            // Only `bits()` ever writes the field; zero is the one value left.
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

    /// Milliseconds of the clock: the end of OPEN, of the wait in HALF_OPEN, of the RAMP. Meaningless in CLOSED.
    #[inline]
    pub(super) const fn deadline_ms(self) -> u64 {
        self.0 & DEADLINE_MASK
    }

    /// The word after a transition: same mode, next generation. A deadline beyond the field's end stays at its end.
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
    /// A closed gate that gives out at most `permits` probes (at most `2^14 − 1`) in a half-open generation.
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

    /// Makes a transition from the word `observed`. Fails with the current word if it has changed.
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

    /// Changes the mode and nothing else; returns the mode before.
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

    /// The probes of `generation`; none if the word still belongs to another one.
    pub(super) fn probes(&self, generation: u32) -> Probes {
        let word = self.probes.load(Ordering::Acquire);
        if word >> PROBES_GENERATION_SHIFT == u64::from(generation) {
            Probes::unpack(word)
        } else {
            Probes::default()
        }
    }

    /// Asks for a permit in `generation`, for a probe that begins at `now_us`.
    pub(super) fn issue_probe(&self, generation: u32, now_us: u64) -> Grant<ProbeTicket> {
        let mut word = self.probes.load(Ordering::Acquire);
        loop {
            let base = if word >> PROBES_GENERATION_SHIFT == u64::from(generation) {
                word
            } else if self.load().generation() == generation {
                // The first probe of its generation: what the word holds belongs to an earlier one.
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
        // Every slot looked busy because others came and went during the scan. Giving the permit back is always safe.
        self.count(generation, ProbeOutcome::Withdrawn);
        Grant::Rejected
    }

    /// Ends a probe. Returns the new counts if the report was accepted: not if the ticker has counted the probe as
    /// bad already, nor if its generation is over.
    pub(super) fn settle_probe(
        &self,
        generation: u32,
        ticket: ProbeTicket,
        outcome: ProbeOutcome,
    ) -> Option<Probes> {
        let slot = self.slots.get(ticket.slot)?;
        // The slot is freed before the permit: never more slots in use than permits given out.
        slot.compare_exchange(ticket.value, 0, Ordering::AcqRel, Ordering::Acquire)
            .ok()?;
        self.count(generation, outcome)
    }

    /// Counts as bad every probe of `generation` that has been under way for `timeout_us` or longer; a probe that began
    /// before `not_before_us` is taken to have begun then. Returns the new counts if there was one.
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

    /// Lets the share `weight / 2^CREDIT_BITS` of the calls pass: each call adds its weight to the credit, and passes if
    /// that reaches the next whole number. Of `n` calls at a constant weight `w`, at most `n·w + 1` pass, evenly spaced;
    /// the first one does.
    pub(super) fn admit_to_ramp(&self, generation: u32, weight: u32) -> Grant<()> {
        let mut word = self.ramp.load(Ordering::Acquire);
        loop {
            let credit = if word >> CREDIT_WORD_BITS == u64::from(generation) {
                word & CREDIT_WORD_MASK
            } else if self.load().generation() == generation {
                // Just below one, so that the first call of a ramp passes.
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

    /// Writes the beginning of a probe into a free slot, or one that an earlier generation left behind. A slot of another
    /// generation is earlier only if ours is still in force: a thread that slept through a transition must not evict a
    /// probe of the present generation.
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

/// Whether a slot holds a probe of `generation`.
fn is_probe_of(value: u64, generation: u32) -> bool {
    value & SLOT_BUSY != 0 && (value >> SLOT_TIME_BITS) & GENERATION_MASK == u64::from(generation)
}
