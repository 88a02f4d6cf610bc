//! Sets of CPU ids, and the kernel's text form of such sets, `0-3,7` (cpuset(7), "List format").

use std::{fmt, str::FromStr};

/// Every CPU id is below this bound: Linux supports at most 8192 CPUs (`NR_CPUS`) on any architecture.
pub const CPU_ID_LIMIT: u32 = 8192;

/// Maximum length of a text that is parsed, in bytes. A list of all 8192 ids takes 40 KiB.
pub const LIST_BYTES_MAX: usize = 48 * 1024;

/// A set of CPU ids (or of NUMA node ids), each below [`CPU_ID_LIMIT`].
///
/// Two sets with the same ids are equal, because a set never keeps trailing zero words.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct CpuSet {
    /// 64 ids per word, id 0 in the lowest bit of the first word.
    words: Vec<u64>,
}

/// Why a text is not a CPU list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CpuSetError {
    /// A part between commas is neither `N` nor `N-M`.
    #[error("`{token}` is neither a CPU id nor a range of CPU ids")]
    NotANumber {
        /// The part as it was written.
        token: String,
    },
    /// The first id of a range is higher than the last id.
    #[error("the range {first}-{last} is not in ascending order")]
    Descending {
        /// The id before the `-`.
        first: u32,
        /// The id after the `-`.
        last: u32,
    },
    /// An id is not below [`CPU_ID_LIMIT`].
    #[error("CPU id {id} is not below {CPU_ID_LIMIT}")]
    IdTooLarge {
        /// The id as it was written.
        id: u32,
    },
    /// The text is longer than [`LIST_BYTES_MAX`].
    #[error("a CPU list of {bytes} bytes is too long: at most {LIST_BYTES_MAX} bytes are allowed")]
    TooLong {
        /// Length of the text, bytes.
        bytes: usize,
    },
}

// ===== impl CpuSet =====

impl CpuSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { words: Vec::new() }
    }

    /// Returns the set of one id. Returns an empty set if the id is not below [`CPU_ID_LIMIT`].
    #[must_use]
    pub fn single(id: u32) -> Self {
        std::iter::once(id).collect()
    }

    /// Returns the set whose bits are set in `words`. Ignores bits from [`CPU_ID_LIMIT`] on.
    #[must_use]
    pub fn from_words(mut words: Vec<u64>) -> Self {
        words.truncate(word_of(CPU_ID_LIMIT));
        Self { words }.trimmed()
    }

    /// The bits, 64 ids per word, without trailing zero words.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Adds `id`. Returns `false` if `id` is not below [`CPU_ID_LIMIT`].
    pub fn insert(&mut self, id: u32) -> bool {
        if id >= CPU_ID_LIMIT {
            return false;
        }
        let index = word_of(id);
        if self.words.len() <= index {
            self.words.resize(index.saturating_add(1), 0);
        }
        if let Some(word) = self.words.get_mut(index) {
            *word |= bit_of(id);
        }
        true
    }

    /// Whether `id` is in the set.
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        self.words
            .get(word_of(id))
            .is_some_and(|word| word & bit_of(id) != 0)
    }

    /// Number of ids.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether the set has no id.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The ids in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        (0..self.capacity()).filter(|id| self.contains(*id))
    }

    /// The lowest id, or `None` if the set is empty.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.iter().next()
    }

    /// The ids that are in at least one of the two sets.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a | b)
    }

    /// The ids that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a & b)
    }

    /// The ids of this set that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a & !b)
    }

    /// Whether every id of this set is in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.difference(other).is_empty()
    }

    /// Whether at least one id is in both sets.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        !self.intersection(other).is_empty()
    }

    /// The number of ids for which the words have room, at most [`CPU_ID_LIMIT`].
    fn capacity(&self) -> u32 {
        u32::try_from(self.words.len())
            .map_or(CPU_ID_LIMIT, |words| words.saturating_mul(64))
            .min(CPU_ID_LIMIT)
    }

    fn combine(&self, other: &Self, operation: impl Fn(u64, u64) -> u64) -> Self {
        let length = self.words.len().max(other.words.len());
        let word = |set: &Self, index: usize| set.words.get(index).copied().unwrap_or(0);
        let words = (0..length)
            .map(|index| operation(word(self, index), word(other, index)))
            .collect();
        Self { words }.trimmed()
    }

    /// Removes trailing zero words. Equality and hashing use the words, so equal sets must have equal words.
    fn trimmed(mut self) -> Self {
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
        self
    }

    /// The longest possible ranges of consecutive ids, in ascending order, as (first id, last id).
    fn runs(&self) -> Vec<(u32, u32)> {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for id in self.iter() {
            match runs.last_mut() {
                Some((_, last)) if last.saturating_add(1) == id => *last = id,
                _ => runs.push((id, id)),
            }
        }
        runs
    }
}

impl FromIterator<u32> for CpuSet {
    /// Collects ids. Ignores ids that are not below [`CPU_ID_LIMIT`].
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        let mut set = Self::new();
        for id in ids {
            set.insert(id);
        }
        set
    }
}

impl FromStr for CpuSet {
    type Err = CpuSetError;

    /// Parses a list such as `0-3,7`. Ignores blanks around numbers. An empty text is the empty set.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > LIST_BYTES_MAX {
            return Err(CpuSetError::TooLong { bytes: text.len() });
        }
        let mut set = Self::new();
        if text.trim().is_empty() {
            return Ok(set);
        }
        for token in text.split(',') {
            let (first, last) = parse_range(token)?;
            for id in first..=last {
                set.insert(id);
            }
        }
        Ok(set)
    }
}

impl fmt::Display for CpuSet {
    /// Writes the shortest list: two or more consecutive ids are written `first-last`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.runs().into_iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuSet({self})")
    }
}

// ===== helpers =====

const fn word_of(id: u32) -> usize {
    (id / 64) as usize
}

const fn bit_of(id: u32) -> u64 {
    1 << (id % 64)
}

fn parse_range(token: &str) -> Result<(u32, u32), CpuSetError> {
    let number = |text: &str| -> Result<u32, CpuSetError> {
        let text = text.trim();
        // `parse` would accept a plus sign.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let id: u32 = digits
            .then(|| text.parse().ok())
            .flatten()
            .ok_or_else(|| CpuSetError::NotANumber {
                token: token.trim().to_owned(),
            })?;
        if id >= CPU_ID_LIMIT {
            return Err(CpuSetError::IdTooLarge { id });
        }
        Ok(id)
    };
    let (first, last) = match token.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(token)?, number(token)?),
    };
    if first > last {
        return Err(CpuSetError::Descending { first, last });
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_of_the_kernel_are_parsed_and_written() {
        for (text, ids) in [
            ("", &[][..]),
            ("0", &[0]),
            ("0-3,7", &[0, 1, 2, 3, 7]),
            ("2,5,9-11,40", &[2, 5, 9, 10, 11, 40]),
            ("63-65,8191", &[63, 64, 65, 8191]),
        ] {
            let set: CpuSet = text.parse().unwrap();
            assert_eq!(set.iter().collect::<Vec<_>>(), ids);
            assert_eq!(set.to_string(), text);
        }
    }

    #[test]
    fn blanks_overlaps_and_order_do_not_matter() {
        let set: CpuSet = " 7 , 1-3,2 - 4,7\n".parse().unwrap();
        assert_eq!(set.to_string(), "1-4,7");
        assert_eq!("\n".parse::<CpuSet>().unwrap(), CpuSet::new());
    }

    #[test]
    fn an_error_names_the_part_that_is_wrong() {
        let refused = |text: &str| text.parse::<CpuSet>().unwrap_err().to_string();
        assert_eq!(refused("1,,2"), "`` is neither a CPU id nor a range of CPU ids");
        assert_eq!(
            refused("0-3x"),
            "`0-3x` is neither a CPU id nor a range of CPU ids"
        );
        assert_eq!(refused("+1"), "`+1` is neither a CPU id nor a range of CPU ids");
        assert_eq!(
            refused("1-2-3"),
            "`1-2-3` is neither a CPU id nor a range of CPU ids"
        );
        assert_eq!(refused("7-3"), "the range 7-3 is not in ascending order");
        assert_eq!(refused("8192"), "CPU id 8192 is not below 8192");
        assert_eq!(refused("0-4294967295"), "CPU id 4294967295 is not below 8192");
        assert_eq!(
            refused(&"1,".repeat(LIST_BYTES_MAX)),
            "a CPU list of 98304 bytes is too long: at most 49152 bytes are allowed"
        );
    }

    #[test]
    fn ids_from_the_limit_on_are_not_added() {
        let mut set = CpuSet::new();
        assert!(set.insert(CPU_ID_LIMIT - 1));
        assert!(!set.insert(CPU_ID_LIMIT));
        assert_eq!(set.len(), 1);
        assert!(CpuSet::single(CPU_ID_LIMIT).is_empty());
        assert_eq!(CpuSet::from_words(vec![u64::MAX; 200]).len(), 8192);
    }

    fn ids() -> impl Strategy<Value = BTreeSet<u32>> {
        proptest::collection::btree_set(0..CPU_ID_LIMIT, 0..40)
    }

    fn set(ids: &BTreeSet<u32>) -> CpuSet {
        ids.iter().copied().collect()
    }

    proptest! {
        #[test]
        fn a_set_that_is_written_and_parsed_is_equal(ids in ids()) {
            let original = set(&ids);
            let parsed: CpuSet = original.to_string().parse().unwrap();
            prop_assert_eq!(&parsed, &original);
            prop_assert_eq!(parsed.iter().collect::<BTreeSet<_>>(), ids);
        }

        #[test]
        fn operations_agree_with_the_standard_set(a in ids(), b in ids()) {
            let (x, y) = (set(&a), set(&b));
            prop_assert_eq!(x.union(&y), a.union(&b).copied().collect());
            prop_assert_eq!(x.intersection(&y), a.intersection(&b).copied().collect());
            prop_assert_eq!(x.difference(&y), a.difference(&b).copied().collect());
            prop_assert_eq!(x.is_subset(&y), a.is_subset(&b));
            prop_assert_eq!(x.intersects(&y), !a.is_disjoint(&b));
            prop_assert_eq!(x.len(), a.len());
            prop_assert_eq!(x.first(), a.first().copied());
            prop_assert_eq!(CpuSet::from_words(x.words().to_vec()), x);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9,\\- x+]{0,40}") {
            if let Ok(set) = text.parse::<CpuSet>() {
                prop_assert_eq!(set.to_string().parse::<CpuSet>().unwrap(), set);
            }
        }
    }
}
