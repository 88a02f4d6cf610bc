//! The outstanding holds. An entry says where the newest record of a hold is; the record states what the hold still reserves.
//! So a hold takes at most [`HOLD_BYTES_MAX`] bytes of memory, however many transfers it has.

use hashbrown::{HashTable, hash_table::Entry};

use super::{
    account::AccountIndex,
    codec::{Malformed, Reader, put_varint_u64},
    time::Timestamp,
    transaction::{AccountRef, TransactionView},
};

/// Maximum memory of an outstanding hold, in bytes: its entry, and its share of the two indexes (by place and by deadline) just
/// after their memory has doubled.
pub const HOLD_BYTES_MAX: usize = 64;
/// Number of entries that are allocated together. Entries never move in memory.
const PAGE_HOLDS: usize = 4096;
/// Stands for "no entry".
const NOTHING: u32 = u32::MAX;

/// An outstanding hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// The place of the hold's own record in the log. It identifies the hold. Later holds have greater places.
    pub place: u64,
    /// The place of the newest record of the hold: its own, or that of the last transaction that posted a part of it.
    pub newest: u64,
    /// When the hold expires; `None` if it does not expire.
    pub deadline: Option<Timestamp>,
    /// The accounts of the hold's first transfer.
    pub first: (AccountIndex, AccountIndex),
    /// Whether the hold has more than one transfer.
    pub has_more: bool,
}

/// All outstanding holds.
#[derive(Debug)]
pub struct HoldTable {
    pages: Vec<Vec<Slot>>,
    /// The first slot that is free, or [`NOTHING`]. Each free slot contains the number of the next one.
    free: u32,
    len: usize,
    /// The slots by the places of their holds.
    by_place: HashTable<u32>,
    /// The slots of the holds that expire: a binary heap, the earliest deadline first. Among equal deadlines the earliest place
    /// is first.
    by_deadline: Vec<u32>,
}

/// An entry of the table, 40 bytes.
#[derive(Debug, Clone, Copy)]
struct Slot {
    place: u64,
    newest: u64,
    /// Nanoseconds, or [`u64::MAX`] if the hold does not expire.
    deadline: u64,
    debit: u32,
    /// In a free slot: the number of the next free slot.
    credit: u32,
    /// The place in the heap, or [`NOTHING`] if the hold does not expire.
    heap_place: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    OneTransfer,
    MoreTransfers,
}

// ===== impl Hold =====

impl Hold {
    /// A new hold, whose record is at `place`. `accounts` are the debit and the credit account of each transfer.
    pub(crate) fn new(
        place: u64,
        deadline: Option<Timestamp>,
        mut accounts: impl Iterator<Item = (AccountIndex, AccountIndex)>,
    ) -> Self {
        let Some(first) = accounts.next() else {
            panic!("the hold at place {place} reserves nothing");
        };
        Hold {
            place,
            newest: place,
            deadline,
            first,
            has_more: accounts.next().is_some(),
        }
    }

    /// Appends the encoded hold to `out`, for a checkpoint.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_varint_u64(out, self.place);
        put_varint_u64(out, self.newest);
        put_varint_u64(out, self.deadline.map_or(u64::MAX, Timestamp::as_nanos));
        put_varint_u64(out, u64::from(self.first.0.0));
        put_varint_u64(out, u64::from(self.first.1.0));
        out.push(u8::from(self.has_more));
    }

    /// Reads an encoded hold.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes are not an encoded hold.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Hold {
            place: reader.varint_u64()?,
            newest: reader.varint_u64()?,
            deadline: Some(reader.varint_u64()?)
                .filter(|nanos| *nanos != u64::MAX)
                .map(Timestamp::from_nanos),
            first: (
                AccountIndex(reader.varint_u32()?),
                AccountIndex(reader.varint_u32()?),
            ),
            has_more: reader.u8()? != 0,
        })
    }
}

// ===== impl HoldTable =====

impl HoldTable {
    /// Creates an empty table.
    #[must_use]
    pub const fn new() -> Self {
        HoldTable {
            pages: Vec::new(),
            free: NOTHING,
            len: 0,
            by_place: HashTable::new(),
            by_deadline: Vec::new(),
        }
    }

    /// The number of outstanding holds.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no hold is outstanding.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Memory used, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.pages.len() * PAGE_HOLDS * size_of::<Slot>()
            + self.by_place.allocation_size()
            + self.by_deadline.capacity() * size_of::<u32>()
    }

    /// Returns the outstanding hold whose own record is at `place`.
    #[must_use]
    pub fn get(&self, place: u64) -> Option<Hold> {
        self.slot_of(place).map(|slot| self.slot(slot).hold())
    }

    /// Adds a hold.
    ///
    /// # Panics
    /// If the table has a hold with this place: a record would have been applied twice.
    pub fn insert(&mut self, hold: Hold) {
        let number = self.take_free();
        let slot = Slot {
            place: hold.place,
            newest: hold.newest,
            deadline: hold.deadline.map_or(u64::MAX, Timestamp::as_nanos),
            debit: hold.first.0.0,
            credit: hold.first.1.0,
            heap_place: NOTHING,
            state: if hold.has_more {
                State::MoreTransfers
            } else {
                State::OneTransfer
            },
        };
        *self.slot_mut(number) = slot;
        let (pages, place) = (&self.pages, hold.place);
        let entry = self.by_place.entry(
            hash(place),
            |other| slot_in(pages, *other).place == place,
            |other| hash(slot_in(pages, *other).place),
        );
        match entry {
            Entry::Vacant(vacant) => {
                vacant.insert(number);
            }
            Entry::Occupied(_) => panic!("the hold at place {place} is outstanding already"),
        }
        self.len += 1;
        if hold.deadline.is_some() {
            let Ok(last) = u32::try_from(self.by_deadline.len()) else {
                panic!("more holds are outstanding than the table allows");
            };
            self.by_deadline.push(number);
            self.slot_mut(number).heap_place = last;
            self.sift_up(last);
        }
    }

    /// Records that the newest record of a hold is at `newest`.
    ///
    /// # Panics
    /// If the hold is not outstanding, or an equal or later record of it was applied before.
    pub fn advance(&mut self, place: u64, newest: u64) {
        let Some(number) = self.slot_of(place) else {
            panic!("the hold at place {place} is not outstanding, although a part of it was posted");
        };
        let slot = self.slot_mut(number);
        assert!(
            slot.newest < newest,
            "the record at place {} of the hold at place {place} can't be followed by that at place {newest}",
            slot.newest
        );
        slot.newest = newest;
    }

    /// Removes a hold that has ended.
    ///
    /// # Panics
    /// If the hold is not outstanding.
    pub fn remove(&mut self, place: u64) {
        let pages = &self.pages;
        let found = self
            .by_place
            .find_entry(hash(place), |slot| slot_in(pages, *slot).place == place);
        let Ok(found) = found else {
            panic!("the hold at place {place} is not outstanding, although it has ended only now");
        };
        let (number, _) = found.remove();
        let heap_place = self.slot(number).heap_place;
        if heap_place != NOTHING {
            self.remove_deadline(heap_place);
        }
        let free = self.free;
        let slot = self.slot_mut(number);
        slot.state = State::Free;
        slot.credit = free;
        self.free = number;
        self.len -= 1;
    }

    /// Whether any hold expires.
    #[inline]
    #[must_use]
    pub const fn has_deadlines(&self) -> bool {
        !self.by_deadline.is_empty()
    }

    /// The hold that expires next, if any hold expires.
    #[must_use]
    pub fn next_to_expire(&self) -> Option<Hold> {
        self.by_deadline.first().map(|number| self.slot(*number).hold())
    }

    /// Takes a hold out of the heap of deadlines, so that it stays outstanding. Used for a hold whose record can't be read any
    /// more.
    pub fn suspend_expiry(&mut self, place: u64) {
        let heap_place = self
            .slot_of(place)
            .map(|number| (number, self.slot(number).heap_place));
        if let Some((number, heap_place)) = heap_place
            && heap_place != NOTHING
        {
            self.remove_deadline(heap_place);
            self.slot_mut(number).heap_place = NOTHING;
        }
    }

    /// Returns the holds in at most `slots` slots, from slot `from` on, and the number of the next slot if there is one.
    /// A hold stays in its slot, so a caller who reads all slots in several steps sees each hold that is outstanding all the
    /// time exactly once.
    #[must_use]
    pub fn page(&self, from: u32, slots: usize) -> (Vec<Hold>, Option<u32>) {
        let end = from.saturating_add(u32::try_from(slots).map_or(u32::MAX, |slots| slots));
        let all = self.slots_len();
        let holds = (from..end.min(all))
            .map(|number| self.slot(number))
            .filter(|slot| slot.state != State::Free)
            .map(Slot::hold)
            .collect();
        (holds, (end < all).then_some(end))
    }

    fn slots_len(&self) -> u32 {
        let full = self.pages.len().saturating_sub(1) * PAGE_HOLDS;
        let Ok(len) = u32::try_from(full + self.pages.last().map_or(0, Vec::len)) else {
            panic!("more holds are outstanding than the table allows");
        };
        len
    }

    fn slot_of(&self, place: u64) -> Option<u32> {
        let found = self
            .by_place
            .find(hash(place), |slot| self.slot(*slot).place == place);
        found.copied()
    }

    fn slot(&self, number: u32) -> &Slot {
        slot_in(&self.pages, number)
    }

    fn slot_mut(&mut self, number: u32) -> &mut Slot {
        let (page, place) = (number as usize / PAGE_HOLDS, number as usize % PAGE_HOLDS);
        let Some(slot) = self.pages.get_mut(page).and_then(|page| page.get_mut(place)) else {
            panic!("the table of holds has no slot {number}");
        };
        slot
    }

    /// Returns the number of a slot for a new hold.
    fn take_free(&mut self) -> u32 {
        if self.free != NOTHING {
            let number = self.free;
            self.free = self.slot(number).credit;
            return number;
        }
        let number = self.slots_len();
        assert!(
            number < NOTHING,
            "more holds are outstanding than the table allows"
        );
        if self.pages.last().is_none_or(|page| page.len() == PAGE_HOLDS) {
            self.pages.push(Vec::with_capacity(PAGE_HOLDS));
        }
        if let Some(page) = self.pages.last_mut() {
            page.push(Slot::FREE);
        }
        number
    }

    // ----- the heap of deadlines -----

    fn remove_deadline(&mut self, heap_place: u32) {
        let Some(last) = self.by_deadline.pop() else {
            panic!("a hold has place {heap_place} in the heap of deadlines, but the heap is empty");
        };
        if heap_place as usize == self.by_deadline.len() {
            return;
        }
        self.put_in_heap(heap_place, last);
        self.sift_up(heap_place);
        self.sift_down(self.slot(last).heap_place);
    }

    fn put_in_heap(&mut self, heap_place: u32, number: u32) {
        let Some(entry) = self.by_deadline.get_mut(heap_place as usize) else {
            panic!("the heap of deadlines has no place {heap_place}");
        };
        *entry = number;
        self.slot_mut(number).heap_place = heap_place;
    }

    fn in_heap(&self, heap_place: u32) -> u32 {
        let Some(number) = self.by_deadline.get(heap_place as usize) else {
            panic!("the heap of deadlines has no place {heap_place}");
        };
        *number
    }

    /// The order of two slots in the heap.
    fn is_earlier(&self, a: u32, b: u32) -> bool {
        let key = |number| {
            let slot = self.slot(number);
            (slot.deadline, slot.place)
        };
        key(a) < key(b)
    }

    fn sift_up(&mut self, from: u32) {
        let mut at = from;
        let number = self.in_heap(at);
        while at > 0 {
            let parent = (at - 1) / 2;
            let above = self.in_heap(parent);
            if !self.is_earlier(number, above) {
                break;
            }
            self.put_in_heap(at, above);
            at = parent;
        }
        self.put_in_heap(at, number);
    }

    fn sift_down(&mut self, from: u32) {
        let mut at = from;
        let number = self.in_heap(at);
        let Ok(len) = u32::try_from(self.by_deadline.len()) else {
            panic!("more holds are outstanding than the table allows");
        };
        loop {
            let left = 2 * u64::from(at) + 1;
            let Some(left) = u32::try_from(left).ok().filter(|left| *left < len) else {
                break;
            };
            let right = left + 1;
            let child = if right < len && self.is_earlier(self.in_heap(right), self.in_heap(left)) {
                right
            } else {
                left
            };
            let below = self.in_heap(child);
            if !self.is_earlier(below, number) {
                break;
            }
            self.put_in_heap(at, below);
            at = child;
        }
        self.put_in_heap(at, number);
    }
}

impl Default for HoldTable {
    fn default() -> Self {
        Self::new()
    }
}

// ===== impl Slot =====

impl Slot {
    const FREE: Slot = Slot {
        place: 0,
        newest: 0,
        deadline: u64::MAX,
        debit: 0,
        credit: NOTHING,
        heap_place: NOTHING,
        state: State::Free,
    };

    fn hold(&self) -> Hold {
        Hold {
            place: self.place,
            newest: self.newest,
            deadline: (self.deadline != u64::MAX).then(|| Timestamp::from_nanos(self.deadline)),
            first: (AccountIndex(self.debit), AccountIndex(self.credit)),
            has_more: self.state == State::MoreTransfers,
        }
    }
}

fn slot_in(pages: &[Vec<Slot>], number: u32) -> &Slot {
    let (page, place) = (number as usize / PAGE_HOLDS, number as usize % PAGE_HOLDS);
    let Some(slot) = pages.get(page).and_then(|page| page.get(place)) else {
        panic!("the table of holds has no slot {number}");
    };
    slot
}

/// When a hold that was committed at `time` expires.
pub(crate) fn deadline<'a, A: AccountRef<'a>>(
    transaction: &TransactionView<'a, A>,
    time: Timestamp,
) -> Option<Timestamp> {
    // A time that can't be represented never comes.
    time.checked_add_nanos(transaction.pending_timeout()?)
}

/// Spreads the places over the hash table. The hash needs no secret, because the log and not the client chooses the places.
const fn hash(place: u64) -> u64 {
    let mixed = place.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn hold(place: u64, deadline: Option<u64>) -> Hold {
        Hold {
            place,
            newest: place,
            deadline: deadline.map(Timestamp::from_nanos),
            first: (AccountIndex(1), AccountIndex(2)),
            has_more: place.is_multiple_of(2),
        }
    }

    proptest! {
        /// Steps: add a hold with a deadline, remove the hold that expires next, or remove any hold.
        #[test]
        fn the_table_agrees_with_a_sorted_map(
            steps in proptest::collection::vec((0..4_u8, proptest::option::of(0..20_u64), any::<usize>()), 0..300),
        ) {
            let mut table = HoldTable::new();
            let mut model = BTreeMap::new();
            for (place, (what, deadline, which)) in (1..).zip(steps) {
                match what {
                    0 | 1 => {
                        table.insert(hold(place, deadline));
                        model.insert(place, hold(place, deadline));
                    }
                    2 => {
                        if let Some(next) = table.next_to_expire() {
                            table.remove(next.place);
                            model.remove(&next.place);
                        }
                    }
                    _ => {
                        let any = model.keys().nth(which % model.len().max(1)).copied();
                        if let Some(any) = any {
                            table.advance(any, place);
                            prop_assert_eq!(table.get(any).map(|hold| hold.newest), Some(place));
                            table.remove(any);
                            model.remove(&any);
                        }
                    }
                }
                let next = model.values().filter(|hold| hold.deadline.is_some());
                let next = next.min_by_key(|hold| (hold.deadline, hold.place));
                prop_assert_eq!(table.next_to_expire(), next.copied());
                prop_assert_eq!(table.len(), model.len());
                let (mut page, rest) = table.page(0, usize::MAX);
                page.sort_by_key(|hold| hold.place);
                prop_assert_eq!(page, model.values().copied().collect::<Vec<_>>());
                prop_assert_eq!(rest, None);
            }
        }
    }

    #[test]
    fn a_hold_takes_at_most_64_bytes_at_any_number() {
        let mut table = HoldTable::new();
        for place in 1..=300_000_u64 {
            table.insert(hold(place, Some(u64::MAX - place)));
            // In a small table, the memory that is allocated first is the largest part.
            if place >= PAGE_HOLDS as u64 * 4 && place.is_multiple_of(PAGE_HOLDS as u64) {
                let bytes = table.memory_bytes() / table.len();
                assert!(bytes <= HOLD_BYTES_MAX, "{bytes} bytes for each of {place} holds");
            }
        }
    }

    #[test]
    fn a_default_table_is_empty() {
        let mut table = HoldTable::default();
        table.insert(hold(1, None));
        assert_eq!(table.len(), 1);
    }

    #[test]
    #[should_panic(expected = "is outstanding already")]
    fn a_hold_is_not_added_twice() {
        let mut table = HoldTable::new();
        table.insert(hold(1, None));
        table.insert(hold(1, None));
    }
}
