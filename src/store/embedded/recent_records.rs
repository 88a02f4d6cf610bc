//! Records of holds that were written recently. A hold is often posted soon after it was made. Its record is then found in memory and need
//! not be read from the journal. In particular, the posting need not wait until the record is durable.

/// Maximum number of bytes of records in a generation. There are two generations. The simulation makes few records, and needs a
/// small maximum so that some are forgotten.
const GENERATION_BYTES_MAX: usize = if cfg!(feature = "simulation") {
    2 << 10
} else {
    4 << 20
};

/// The records that were added last.
#[derive(Debug, Default)]
pub(super) struct RecentRecords {
    /// Takes new records. When it is full, it replaces the older generation.
    newer: Generation,
    older: Generation,
}

/// Where the bytes of a record are in [`RecentRecords`], until the next record is added.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecentPlace {
    is_older: bool,
    start: usize,
    end: usize,
}

/// Records in the order of their places.
#[derive(Debug, Default)]
struct Generation {
    bytes: Vec<u8>,
    /// The place of each record, and the end of its bytes.
    ends: Vec<(u64, usize)>,
}

// ===== impl RecentRecords =====

impl RecentRecords {
    /// Adds the record at `place`, which is after the places of all earlier records.
    pub(super) fn push(&mut self, place: u64, bytes: &[u8]) {
        if self.newer.bytes.len() + bytes.len() > GENERATION_BYTES_MAX {
            std::mem::swap(&mut self.newer, &mut self.older);
            self.newer.bytes.clear();
            self.newer.ends.clear();
        }
        self.newer.bytes.extend_from_slice(bytes);
        self.newer.ends.push((place, self.newer.bytes.len()));
    }

    /// Finds the record at `place`, if it is here.
    pub(super) fn find(&self, place: u64) -> Option<RecentPlace> {
        let is_older = self.newer.ends.first().is_none_or(|(first, _)| place < *first);
        let (start, end) = self.generation(is_older).find(place)?;
        Some(RecentPlace { is_older, start, end })
    }

    /// Returns the bytes of a record that was found.
    ///
    /// # Panics
    /// If records were added since the search, and the found record was replaced.
    pub(super) fn bytes(&self, found: RecentPlace) -> &[u8] {
        let bytes = self.generation(found.is_older).bytes.get(found.start..found.end);
        let Some(bytes) = bytes else {
            panic!("a recent record was found at {found:?}, but is not there");
        };
        bytes
    }

    const fn generation(&self, is_older: bool) -> &Generation {
        if is_older { &self.older } else { &self.newer }
    }
}

// ===== impl Generation =====

impl Generation {
    /// Returns the start and the end of the bytes of the record at `place`.
    fn find(&self, place: u64) -> Option<(usize, usize)> {
        let found = self.ends.binary_search_by_key(&place, |(place, _)| *place).ok()?;
        let start = match found.checked_sub(1) {
            Some(before) => self.ends.get(before)?.1,
            None => 0,
        };
        Some((start, self.ends.get(found)?.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_records_are_found_and_the_oldest_are_forgotten() {
        let mut recent = RecentRecords::default();
        let record = |place: u64| place.to_le_bytes().repeat(16);
        let count = 3 * GENERATION_BYTES_MAX as u64 / 128;
        for place in 1..=count {
            recent.push(place * 5, &record(place));
        }
        for place in [count, count - 1, count - GENERATION_BYTES_MAX as u64 / 128] {
            let found = recent.find(place * 5).unwrap();
            assert_eq!(recent.bytes(found), record(place));
        }
        assert!(recent.find(5).is_none());
        assert!(recent.find(count * 5 - 1).is_none());
        assert!(recent.newer.bytes.len() + recent.older.bytes.len() <= 2 * GENERATION_BYTES_MAX);
    }
}
