//! The history of each account: its records form a chain, from the newest back to the record that created the account.
//!
//! A record contains a link for each account that it changes: the distance back to the account's previous record. The
//! account remembers the place of its newest record, its *head*. So a reader walks through the history of an account
//! without any index, and knows the balances at each step: it starts with the current balances, and undoes what each record did.
//!
//! Single steps would take too long for accounts with many records. So about every [`WAYPOINT_SPACING`]th link of an
//! account is a *waypoint*: it also states the balances after its record, and the distances to earlier waypoints. The
//! waypoints of an account are numbered from 1. A waypoint also says where the account was last updated before its record, because the
//! updates of an account can be any number of records apart. Each waypoint points to the previous waypoint. A waypoint whose number is a
//! multiple of [`WAYPOINT_FANOUT`] also points that many waypoints back, and so on for each power of [`WAYPOINT_FANOUT`]. This is a skip
//! list (W. Pugh, 1990), with fixed instead of random heights. A reader that starts from the newest waypoint of each height finds any
//! record of an account with n records with O(log n) reads.
//!
//! ```text
//! links:  for each account of the record, in the order in which its legs first name it:
//!         2 * distance + is_waypoint: varint
//!         if is_waypoint:  number: varint | the four balances: varints
//!                          | the distance to the account's last update, or 0: varint
//!                          | the distance to the previous waypoint of each height, or 0: varints
//! ```

use std::collections::{HashMap, HashSet};

use smallvec::SmallVec;

use super::{
    account::{AccountIndex, Balances},
    codec::{Malformed, Reader, put_varint, put_varint_u64},
    effects::Leg,
    money::Amount,
};

/// Number of links of an account from one waypoint to the next. The number can be greater if more than [`WAYPOINTS_OF_RECORD_MAX`]
/// accounts of a record are due for a waypoint. In this case, the accounts with the most links since their last waypoint get a waypoint.
pub const WAYPOINT_SPACING: u8 = 32;
/// The number of waypoints of one height, divided by the number of waypoints of the next height.
pub const WAYPOINT_FANOUT: u64 = 16;
/// Maximum number of waypoints in the links of a record. This bounds the length of a record.
pub const WAYPOINTS_OF_RECORD_MAX: usize = 16;
/// Maximum length of the links of a record, in bytes: a record has up to 512 accounts. A waypoint has a number, four balances, the
/// distance to an update, and one distance per height.
pub const LINKS_BYTES_MAX: usize = 2 * 256 * 10 + WAYPOINTS_OF_RECORD_MAX * (10 + 4 * 19 + 10 + 16 * 10);

/// Number of accounts of a page.
const PAGE_ACCOUNTS: usize = 1024;

/// The accounts of a record, each once.
pub(crate) type Accounts = SmallVec<[AccountIndex; 2]>;
/// Distances to earlier waypoints, by height.
pub(crate) type Pointers = SmallVec<[u64; 4]>;

/// The encoded links of a record.
#[derive(Debug, Clone, Copy, Default)]
pub struct Links<'a>(pub(crate) &'a [u8]);

/// A link of a record: where the account's previous record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The distance to the place of the account's previous record.
    pub distance: u64,
    /// What a waypoint states in addition.
    pub waypoint: Option<Waypoint>,
}

/// What a waypoint states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waypoint {
    /// The number of the waypoint, from 1.
    pub number: u64,
    /// The balances of the account after the record.
    pub balances: Balances,
    /// The distance to the record of the account's last update before this record; 0 if there is none.
    pub update: u64,
    /// The distances to the previous waypoints of the heights 0, 1, and so on. A distance is 0 if there is no such waypoint.
    pub pointers: Pointers,
}

/// Collects the links of a record.
#[derive(Debug, Default)]
pub(crate) struct LinkBuffer {
    bytes: Vec<u8>,
    due: Due,
}

/// Which accounts of a record get a waypoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// All accounts whose last waypoint is more than this number of links ago. The link of the record counts.
    above: u8,
    /// Also this number of the accounts whose last waypoint is exactly `above` links ago.
    exactly: usize,
}

/// The newest waypoints of all accounts that have one: 16 bytes for an account, and more for an account with at least
/// [`WAYPOINT_FANOUT`] waypoints. They are in pages, because a table that grows as a whole would stop the ledger while it is copied.
#[derive(Debug, Default)]
pub(crate) struct NewestWaypoints {
    pages: Vec<Option<Box<Page>>>,
    /// The number of pages that exist, and the number of entries of [`Page::higher`].
    counts: (usize, usize),
}

/// The newest waypoints of [`PAGE_ACCOUNTS`] accounts.
#[derive(Debug)]
struct Page {
    newest: [Newest; PAGE_ACCOUNTS],
    /// The places of the newest waypoints of the heights 1, 2, and so on, of the accounts with at least [`WAYPOINT_FANOUT`]
    /// waypoints.
    higher: HashMap<u32, Box<[u64]>>,
}

/// The newest waypoint of an account.
#[derive(Debug, Clone, Copy, Default)]
struct Newest {
    place: u64,
    /// The number of the waypoint; 0 if the account has none.
    number: u64,
}

// ===== impl Due =====

impl Default for Due {
    /// All accounts that are due. A record with at most [`WAYPOINTS_OF_RECORD_MAX`] accounts has room for all of them.
    fn default() -> Self {
        Due {
            above: WAYPOINT_SPACING - 1,
            exactly: 0,
        }
    }
}

impl Due {
    /// Chooses the accounts with the most links since their last waypoint, among the accounts of a record that are due. `since` contains
    /// the number of links since the last waypoint, for each account that is due. A choice by the order of the accounts could leave out
    /// the last accounts of each record for ever.
    pub(crate) fn most_overdue(mut since: Vec<u8>) -> Self {
        since.sort_unstable_by(|one, other| other.cmp(one));
        let Some(least) = since.get(WAYPOINTS_OF_RECORD_MAX - 1).copied() else {
            return Due::default();
        };
        let above = since.partition_point(|links| *links > least);
        Due {
            above: least,
            exactly: WAYPOINTS_OF_RECORD_MAX - above,
        }
    }
}

// ===== impl LinkBuffer =====

impl LinkBuffer {
    pub(crate) fn clear(&mut self) {
        self.begin(Due::default());
    }

    /// Begins the links of a record in which these accounts get a waypoint.
    pub(crate) fn begin(&mut self, due: Due) {
        self.bytes.clear();
        self.due = due;
    }

    pub(crate) fn links(&self) -> Links<'_> {
        Links(&self.bytes)
    }

    /// Whether an account gets a waypoint if its last waypoint is `since` links ago. The link of this record counts.
    #[inline]
    pub(crate) const fn takes_waypoint(&mut self, since: u8) -> bool {
        if since == self.due.above && self.due.exactly > 0 {
            self.due.exactly -= 1;
            return true;
        }
        since > self.due.above
    }

    /// Appends a link that is no waypoint. Places are less than 2^63, so twice a distance fits 64 bits.
    #[inline]
    pub(crate) fn push(&mut self, distance: u64) {
        put_varint_u64(&mut self.bytes, distance << 1);
    }

    /// Appends a link that is a waypoint.
    #[cold]
    pub(crate) fn push_waypoint(&mut self, distance: u64, waypoint: &Waypoint) {
        let out = &mut self.bytes;
        put_varint_u64(out, distance << 1 | 1);
        put_varint_u64(out, waypoint.number);
        put_balances(out, &waypoint.balances);
        put_varint_u64(out, waypoint.update);
        for distance in &waypoint.pointers {
            put_varint_u64(out, *distance);
        }
    }
}

/// Appends the four balance columns.
pub fn put_balances(out: &mut Vec<u8>, balances: &Balances) {
    let Balances {
        debits_pending,
        debits_posted,
        credits_pending,
        credits_posted,
    } = balances;
    for column in [debits_pending, debits_posted, credits_pending, credits_posted] {
        put_varint(out, column.minor_units());
    }
}

/// Reads what [`put_balances`] wrote.
///
/// # Errors
/// [`Malformed`] if the bytes do not begin with four amounts.
pub fn take_balances(reader: &mut Reader<'_>) -> Result<Balances, Malformed> {
    let mut column = || reader.varint_u128().map(Amount::new);
    Ok(Balances {
        debits_pending: column()?,
        debits_posted: column()?,
        credits_pending: column()?,
        credits_posted: column()?,
    })
}

// ===== impl Links =====

impl<'a> Links<'a> {
    /// Decodes the links, in the order of the [accounts](linked_accounts) of the record's legs.
    pub fn iter(self) -> impl Iterator<Item = Result<Link, Malformed>> + 'a {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || {
            let link = (!reader.is_empty()).then(|| Link::take(&mut reader))?;
            if link.is_err() {
                reader = Reader::new(&[]);
            }
            Some(link)
        })
    }
}

impl Link {
    fn take(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let first = reader.varint_u64()?;
        let distance = first >> 1;
        let waypoint = match first & 1 {
            0 => None,
            _ => Some(Waypoint::take(reader)?),
        };
        Ok(Link { distance, waypoint })
    }
}

impl Waypoint {
    fn take(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let number = reader.varint_u64()?;
        if number == 0 {
            return Err(Malformed {
                what: "the number of a waypoint",
            });
        }
        let balances = take_balances(reader)?;
        let update = reader.varint_u64()?;
        let mut pointers = Pointers::new();
        for _ in 0..=height(number) {
            pointers.push(reader.varint_u64()?);
        }
        Ok(Waypoint {
            number,
            balances,
            update,
            pointers,
        })
    }
}

/// The height of the waypoint with this number: how often [`WAYPOINT_FANOUT`] divides it.
fn height(number: u64) -> usize {
    (number.trailing_zeros() / WAYPOINT_FANOUT.trailing_zeros()) as usize
}

/// The accounts of these legs, each once, in the order in which the links of a record name them.
#[must_use]
pub fn linked_accounts(legs: &[Leg]) -> SmallVec<[AccountIndex; 2]> {
    let named = legs.iter().flat_map(|leg| [leg.debit, leg.credit]);
    let mut accounts = Accounts::new();
    if legs.len() <= 8 {
        for account in named {
            if !accounts.contains(&account) {
                accounts.push(account);
            }
        }
    } else {
        let mut seen = HashSet::with_capacity(2 * legs.len());
        accounts.extend(named.filter(|account| seen.insert(*account)));
    }
    accounts
}

// ===== impl NewestWaypoints =====

impl NewestWaypoints {
    /// Makes the next waypoint of an account, at `place`. `last_update` is the place of the account's last update before it.
    pub(crate) fn next(
        &mut self,
        index: AccountIndex,
        place: u64,
        balances: Balances,
        last_update: Option<u64>,
    ) -> Waypoint {
        let number = self.newest_of(index).number + 1;
        let heads = self.heads(index);
        let pointer = |head: Option<&u64>| {
            let Some(distance) = place.checked_sub(head.map_or(place, |head| *head)) else {
                panic!(
                    "account number {} has a waypoint or an update after its newest record, at place {place}",
                    index.0
                );
            };
            distance
        };
        let update = pointer(last_update.as_ref());
        let pointers = (0..=height(number))
            .map(|height| pointer(heads.get(height)))
            .collect();
        self.set(index, place, number);
        Waypoint {
            number,
            balances,
            update,
            pointers,
        }
    }

    /// Stores the newest waypoint of an account, which is in the record at `place`.
    pub(crate) fn set(&mut self, index: AccountIndex, place: u64, number: u64) {
        let height = height(number);
        let (newest, higher) = self.entry(index);
        *newest = Newest { place, number };
        if height == 0 {
            return;
        }
        let heads = higher.entry(index.0).or_default();
        let is_first = heads.is_empty();
        if heads.len() < height {
            let mut longer = std::mem::take(heads).into_vec();
            longer.resize(height, 0);
            *heads = longer.into_boxed_slice();
        }
        for head in heads.iter_mut().take(height) {
            *head = place;
        }
        self.counts.1 += usize::from(is_first);
    }

    /// The places of the newest waypoints of an account, by height.
    pub(crate) fn heads(&self, index: AccountIndex) -> Pointers {
        let newest = self.newest_of(index);
        if newest.number == 0 {
            return Pointers::new();
        }
        let higher = self.page(index).and_then(|page| page.higher.get(&index.0));
        let higher = higher.into_iter().flatten();
        std::iter::once(newest.place).chain(higher.copied()).collect()
    }

    /// Appends what a checkpoint needs to know about the waypoints of an account.
    pub(crate) fn put(&self, index: AccountIndex, out: &mut Vec<u8>) {
        let newest = self.newest_of(index);
        put_varint_u64(out, newest.number);
        for head in self.heads(index) {
            put_varint_u64(out, head);
        }
    }

    /// Reads what [`NewestWaypoints::put`] wrote.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes are not encoded waypoints.
    pub(crate) fn take(&mut self, index: AccountIndex, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        let number = reader.varint_u64()?;
        if number == 0 {
            return Ok(());
        }
        let place = reader.varint_u64()?;
        self.set(index, place, number);
        let (mut left, mut higher) = (number / WAYPOINT_FANOUT, Vec::new());
        while left > 0 {
            higher.push(reader.varint_u64()?);
            left /= WAYPOINT_FANOUT;
        }
        if !higher.is_empty() {
            let before = self.entry(index).1.insert(index.0, higher.into_boxed_slice());
            self.counts.1 += usize::from(before.is_none());
        }
        Ok(())
    }

    /// Memory used, in bytes.
    pub(crate) const fn memory_bytes(&self) -> usize {
        let (pages, higher) = self.counts;
        // A map has at most about twice the room that it needs. Most boxes have one or two heads.
        let higher = higher * (2 * size_of::<(u32, Box<[u64]>)>() + 2 * size_of::<u64>());
        self.pages.capacity() * size_of::<Option<Box<Page>>>() + pages * size_of::<Page>() + higher
    }

    fn page(&self, index: AccountIndex) -> Option<&Page> {
        self.pages.get(index.0 as usize / PAGE_ACCOUNTS)?.as_deref()
    }

    fn newest_of(&self, index: AccountIndex) -> Newest {
        self.page(index)
            .and_then(|page| page.newest.get(index.0 as usize % PAGE_ACCOUNTS))
            .map_or(Newest::default(), |newest| *newest)
    }

    /// The entry of an account, and the map of its page.
    fn entry(&mut self, index: AccountIndex) -> (&mut Newest, &mut HashMap<u32, Box<[u64]>>) {
        let (page, place) = (index.0 as usize / PAGE_ACCOUNTS, index.0 as usize % PAGE_ACCOUNTS);
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        let found = self.pages.get_mut(page).map(|page| {
            page.get_or_insert_with(|| {
                self.counts.0 += 1;
                Box::new(Page {
                    newest: [Newest::default(); PAGE_ACCOUNTS],
                    higher: HashMap::new(),
                })
            })
        });
        let Some(Page { newest, higher }) = found.map(|page| &mut **page) else {
            panic!("the waypoints of account number {} have no page", index.0);
        };
        let Some(newest) = newest.get_mut(place) else {
            panic!(
                "the waypoints of account number {} have no place in their page",
                index.0
            );
        };
        (newest, higher)
    }
}
