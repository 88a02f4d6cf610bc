//! A range of moments in which the moment of an answer must be.

/// The moments `from..=to`. The moment `n` is after the record `n`, and before the record `n + 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) from: u64,
    pub(super) to: u64,
}

// ===== impl Window =====

impl Window {
    pub(super) const fn is_empty(self) -> bool {
        self.from > self.to
    }

    pub(super) const fn up_to(self, to: u64) -> Window {
        Window {
            from: self.from,
            to: if to < self.to { to } else { self.to },
        }
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}..={}", self.from, self.to)
    }
}
