//! The account table: stores accounts by number and finds them by id. Existing accounts never move in memory.

use std::collections::{HashMap, HashSet};

use thiserror::Error;

use super::{
    account::{
        Account, AccountContent, AccountIndex, AccountSnapshot, AccountTerms, AssetIndex, Balances,
        HasExtras, Metadata, NewAccount,
    },
    assets::{ASSETS_MAX, AssetTable},
    chain::NewestWaypoints,
    codec::{Malformed, Reader, put_varint_u64},
    pages::{PAGE_ACCOUNTS, Pages, place_of},
    tag_index::{TagIndex, tag},
    velocity::{Velocity, VelocityLimit},
};
use crate::{sys::prefetch::prefetch_read, time::Timestamp};

/// Maximum number of accounts of a ledger. Account numbers have 32 bits.
pub const ACCOUNTS_MAX: usize = u32::MAX as usize;

/// All accounts, in the order of their creation.
#[derive(Debug)]
pub struct AccountTable {
    slots: Pages<AccountSlot>,
    metadata: Vec<Option<MetadataPage>>,
    /// The data that only accounts with velocity limits or updates have.
    extras: HashMap<u32, Box<Extras>>,
    pub(super) waypoints: NewestWaypoints,
    by_name: TagIndex,
    assets: AssetTable,
    /// Seed of the hash of account ids and asset names. The seed is secret, so no client can choose ids that collide.
    seed: u64,
    heap_bytes: usize,
}

/// The ledger is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TableFull {
    /// The new accounts would exceed [`ACCOUNTS_MAX`].
    #[error("the ledger has no room for these accounts: the maximum is {ACCOUNTS_MAX} accounts")]
    Accounts,
    /// The new assets of the new accounts would exceed [`ASSETS_MAX`].
    #[error(
        "the ledger has no room for the new assets of these accounts: the maximum is {ASSETS_MAX} assets"
    )]
    Assets,
}

/// An account without its metadata: two cache lines. The alignment keeps both lines on one page of memory. With
/// millions of accounts, reading a second cache line costs less than translating the address of a second page (a TLB
/// miss). The id (`name`) is the first field, because a comparison may read 32 bytes, which would reach into the next
/// account if the id were the last field.
#[derive(Debug)]
#[repr(C, align(128))]
struct AccountSlot {
    name: Name,
    create_time: Timestamp,
    account: Account,
}

/// The data that only accounts with velocity limits or updates have.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    pub(crate) velocity: Velocity,
    /// The last update, if there was one.
    pub(crate) updated: Option<Updated>,
}

/// The last update of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Updated {
    /// The number of the record of the update.
    pub(crate) entry: u64,
    /// The place of the record of the update.
    pub(crate) place: u64,
    /// The terms with which the account was created.
    pub(crate) created: AccountTerms,
}

/// The metadata of the accounts of a page.
type MetadataPage = Box<[Option<Box<Metadata>>]>;

/// Maximum length of an id that needs no allocation, in bytes.
const INLINE_BYTES: usize = 22;

/// An account's id. A short id is stored in the account's slot, which saves memory and a cache miss.
#[derive(Debug)]
enum Name {
    Short { length: u8, bytes: [u8; INLINE_BYTES] },
    Long(Box<str>),
}

// ===== impl AccountTable =====

impl AccountTable {
    /// Creates an empty table. `seed` is the seed of the hash of account ids and asset names.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        AccountTable {
            slots: Pages::new(),
            metadata: Vec::new(),
            extras: HashMap::new(),
            waypoints: NewestWaypoints::default(),
            by_name: TagIndex::new(),
            assets: AssetTable::new(seed),
            seed,
            heap_bytes: 0,
        }
    }

    /// The number of accounts.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.slots.len
    }

    /// Whether the table has no accounts.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.slots.len == 0
    }

    /// Returns the number of the account with this `id`, or `None` if no account has this id.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<AccountIndex> {
        self.find_tagged(id.as_bytes(), tag(id.as_bytes(), self.seed))
    }

    /// Returns the number of the account with this `id`, or `None` if no account has this id. `tag` is the [`tag`] of
    /// `id` with this table's seed.
    #[must_use]
    pub fn find_tagged(&self, id: &[u8], tag: u64) -> Option<AccountIndex> {
        let found = self.by_name.find(tag, |value| {
            self.slots.indexed(index_of(value)).name.as_bytes() == id
        });
        found.map(index_of)
    }

    /// The seed of the hash of account ids and asset names.
    #[inline]
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Prefetches the entry of the id index for `tag`.
    #[inline]
    pub fn prefetch_name(&self, tag: u64) {
        self.by_name.prefetch(tag);
    }

    /// Prefetches the account with this `tag`. This method reads the id index, so call [`Self::prefetch_name`] earlier.
    pub fn prefetch_account(&self, tag: u64) {
        if let Some(value) = self.by_name.first(tag) {
            self.prefetch(index_of(value));
        }
    }

    /// Prefetches an account that an earlier lookup has found.
    #[inline]
    pub fn prefetch(&self, index: AccountIndex) {
        let slot = self.slots.indexed(index);
        prefetch_read(&slot.name);
        // This field is in the second cache line, so it needs its own prefetch.
        prefetch_read(&slot.account.head);
    }

    /// Returns the part of an account that transfers change, or `None` if no account has this number.
    #[inline]
    #[must_use]
    pub fn get(&self, index: AccountIndex) -> Option<&Account> {
        self.slots.get(index).map(|slot| &slot.account)
    }

    /// Returns the part of an account that transfers change, or `None` if no account has this number.
    #[inline]
    pub fn get_mut(&mut self, index: AccountIndex) -> Option<&mut Account> {
        self.slots.get_mut(index).map(|slot| &mut slot.account)
    }

    /// Returns an account that an earlier lookup has found.
    ///
    /// # Panics
    /// If no account has this number.
    #[inline]
    pub(crate) fn found(&self, index: AccountIndex) -> &Account {
        &self.slots.indexed(index).account
    }

    /// Returns an account that an earlier lookup has found.
    ///
    /// # Panics
    /// If no account has this number.
    #[inline]
    pub(crate) fn found_mut(&mut self, index: AccountIndex) -> &mut Account {
        let Some(account) = self.get_mut(index) else {
            panic!(
                "account number {} was found before, but is not in the table",
                index.0
            );
        };
        account
    }

    /// Returns the id of an account, or `None` if no account has this number.
    #[must_use]
    pub fn id(&self, index: AccountIndex) -> Option<&str> {
        self.slots.get(index).map(|slot| slot.name.as_str())
    }

    /// Returns the account, and its creation time. Returns `None` if no account has this number.
    #[must_use]
    pub fn content(&self, index: AccountIndex) -> Option<(AccountContent<'_>, Timestamp)> {
        static NO_METADATA: Metadata = Metadata::new();
        let AccountSlot {
            name,
            create_time,
            account,
        } = self.slots.get(index)?;
        let Some(asset) = self.asset(account.asset) else {
            panic!("account number {} has an asset that is not in the table", index.0);
        };
        let (page, place) = place_of(index);
        let page = self.metadata.get(page).and_then(Option::as_ref);
        let metadata = page.and_then(|page| page.get(place)?.as_deref());
        let limits = self
            .extras(index)
            .map_or(&[][..], |extras| extras.velocity.limits());
        let content = AccountContent {
            id: name.as_str(),
            asset,
            rule: account.rule,
            overdraft_limit: account.overdraft_limit,
            status: account.status,
            metadata: metadata.map_or(&NO_METADATA, |metadata| metadata),
            velocity_limits: limits,
        };
        Some((content, *create_time))
    }

    /// Copies an account and its balances. Returns `None` if no account has this number.
    #[must_use]
    pub fn snapshot(&self, index: AccountIndex) -> Option<AccountSnapshot> {
        let (content, create_time) = self.content(index)?;
        let account = self.get(index)?;
        let updated = self.extras(index).and_then(|extras| extras.updated.as_ref());
        let bounded = account.rule.bounded_side();
        Some(AccountSnapshot {
            account: content.to_new(),
            balances: account.balances,
            available: bounded.and_then(|side| account.available(side)),
            create_time,
            revision: updated.map_or(0, |updated| updated.entry),
        })
    }

    /// Returns the name of an asset, or `None` if no asset has this number.
    #[must_use]
    pub fn asset(&self, asset: AssetIndex) -> Option<&str> {
        self.assets.name(asset)
    }

    /// Checks that all accounts of `new` that do not exist yet can be added.
    ///
    /// # Errors
    /// [`TableFull`] if the table does not have room for all of them.
    pub fn check_room(&self, new: &[NewAccount]) -> Result<(), TableFull> {
        self.check_room_within(new, ACCOUNTS_MAX, ASSETS_MAX)
    }

    fn check_room_within(
        &self,
        new: &[NewAccount],
        accounts_max: usize,
        assets_max: usize,
    ) -> Result<(), TableFull> {
        let left = accounts_max
            .checked_sub(self.len())
            .zip(assets_max.checked_sub(self.assets.len()));
        let Some((accounts_left, assets_left)) = left else {
            panic!(
                "the table has {} accounts and {} assets, which is more than allowed",
                self.len(),
                self.assets.len()
            );
        };
        if new.len() <= accounts_left.min(assets_left) {
            return Ok(());
        }
        let (mut ids, mut assets) = (HashSet::new(), HashSet::new());
        for account in new.iter().filter(|account| self.find(&account.id).is_none()) {
            ids.insert(account.id.as_str());
            if self.assets.find(&account.asset).is_none() {
                assets.insert(account.asset.as_str());
            }
        }
        if ids.len() > accounts_left {
            Err(TableFull::Accounts)
        } else if assets.len() > assets_left {
            Err(TableFull::Assets)
        } else {
            Ok(())
        }
    }

    /// Returns the number that the next account gets.
    ///
    /// # Errors
    /// [`TableFull::Accounts`] if the table has no room for another account.
    pub fn next_index(&self) -> Result<AccountIndex, TableFull> {
        if self.len() >= ACCOUNTS_MAX {
            return Err(TableFull::Accounts);
        }
        let next = u32::try_from(self.len()).map_err(|_| TableFull::Accounts)?;
        Ok(AccountIndex(next))
    }

    /// Adds an account, whose record is at `place`, and returns its number. The caller ensures that the table has no account with
    /// this id.
    ///
    /// # Errors
    /// [`TableFull`] if the table has no room for the account or its asset. The table is then unchanged.
    pub fn push(
        &mut self,
        new: NewAccount,
        place: u64,
        create_time: Timestamp,
    ) -> Result<AccountIndex, TableFull> {
        let index = self.next_index()?;
        let asset = self.assets.find_or_add(new.asset).ok_or(TableFull::Assets)?;
        self.by_name
            .insert(tag(new.id.as_bytes(), self.seed), u64::from(index.0));
        let name = Name::new(new.id);
        self.heap_bytes += name.heap_bytes();
        self.slots.push(AccountSlot {
            name,
            create_time,
            account: Account {
                balances: Balances::default(),
                overdraft_limit: new.overdraft_limit,
                head: place,
                asset,
                rule: new.rule,
                status: new.status,
                since_waypoint: 0,
                extras: HasExtras::No,
            },
        });
        if !new.metadata.is_empty() {
            self.put_metadata(index, new.metadata);
        }
        if !new.velocity_limits.is_empty() {
            self.change_extras(index, |extras| extras.velocity.set_limits(&new.velocity_limits));
        }
        Ok(index)
    }

    /// Returns the account as it was created. Returns `None` if no account has this number.
    #[must_use]
    pub fn as_created(&self, index: AccountIndex) -> Option<NewAccount> {
        let mut account = self.content(index)?.0.to_new();
        if let Some(Updated { created, .. }) = self.extras(index).and_then(|extras| extras.updated.as_ref()) {
            account = account.with_terms(created.clone());
        }
        Some(account)
    }

    /// Gives an account new terms. `entry` and `place` are the number and the place of the record of the update. The
    /// caller ensures that the account exists, and [links](AccountTable::link) the record.
    pub(crate) fn update(&mut self, index: AccountIndex, terms: AccountTerms, (entry, place): (u64, u64)) {
        let Some((before, _)) = self.content(index) else {
            panic!("account number {} is updated, but does not exist", index.0);
        };
        let before = before.to_new().into_terms();
        self.change_extras(index, |extras| {
            extras.velocity.set_limits(&terms.velocity_limits);
            let created = extras.updated.take().map_or(before, |updated| updated.created);
            extras.updated = Some(Updated {
                entry,
                place,
                created,
            });
        });
        self.put_metadata(index, terms.metadata);
        let account = self.found_mut(index);
        account.status = terms.status;
        account.overdraft_limit = terms.overdraft_limit;
    }

    /// Appends what a checkpoint needs to know about an account besides its content, balances, head and times: its last update, what
    /// its velocity limits have counted, and its waypoints.
    pub fn put_extras(&self, index: AccountIndex, out: &mut Vec<u8>) {
        let extras = self.extras(index);
        let updated = extras.and_then(|extras| extras.updated.as_ref());
        out.push(u8::from(updated.is_some()));
        if let Some(Updated {
            entry,
            place,
            created,
        }) = updated
        {
            put_varint_u64(out, *entry);
            put_varint_u64(out, *place);
            created.put(out);
        }
        if let Some(extras) = extras {
            extras.velocity.put_slices(out);
        }
        let Some(account) = self.get(index) else {
            panic!("account number {} is copied, but not in the table", index.0);
        };
        out.push(account.since_waypoint);
        self.waypoints.put(index, out);
    }

    /// Reads what [`AccountTable::put_extras`] wrote, for an account that was just added with its content.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes do not belong to such an account.
    pub fn take_extras(&mut self, index: AccountIndex, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        let updated = match reader.u8()? {
            0 => None,
            _ => Some(Updated {
                entry: reader.varint_u64()?,
                place: reader.varint_u64()?,
                created: AccountTerms::take(reader)?,
            }),
        };
        let has_extras = self.has_extras(index);
        let mut read = Ok(());
        if has_extras || updated.is_some() {
            self.change_extras(index, |extras| {
                extras.updated = updated;
                read = extras.velocity.take_slices(reader);
            });
        }
        read?;
        self.found_mut(index).since_waypoint = reader.u8()?;
        self.waypoints.take(index, reader)
    }

    fn has_extras(&self, index: AccountIndex) -> bool {
        self.get(index)
            .is_some_and(|account| account.extras != HasExtras::No)
    }

    /// The data that only accounts with velocity limits or updates have.
    pub(crate) fn extras(&self, index: AccountIndex) -> Option<&Extras> {
        let has_extras = self.has_extras(index);
        has_extras
            .then(|| self.extras.get(&index.0))
            .flatten()
            .map(|extras| &**extras)
    }

    /// Changes the extras of an account. The account gets extras if it has none.
    pub(crate) fn change_extras(&mut self, index: AccountIndex, change: impl FnOnce(&mut Extras)) {
        let size = |extras: &Extras| size_of::<Extras>() + extras.heap_bytes();
        let had_extras = self.has_extras(index);
        let extras = self.extras.entry(index.0).or_default();
        let before = if had_extras { size(extras) } else { 0 };
        change(extras);
        self.heap_bytes = self.heap_bytes + size(extras) - before;
        let has = if extras.velocity.is_empty() {
            HasExtras::Updated
        } else {
            HasExtras::Limited
        };
        self.found_mut(index).extras = has;
    }

    fn put_metadata(&mut self, index: AccountIndex, metadata: Metadata) {
        let text = |metadata: &Metadata| {
            let text = |(key, value): (&String, &String)| key.len() + value.len();
            size_of::<Metadata>() + metadata.iter().map(text).sum::<usize>()
        };
        self.heap_bytes += text(&metadata);
        let (page, place) = place_of(index);
        if self.metadata.len() <= page {
            self.metadata.resize_with(page + 1, || None);
        }
        let page = self.metadata.get_mut(page).map(|page| {
            page.get_or_insert_with(|| {
                let empty: MetadataPage = (0..PAGE_ACCOUNTS).map(|_| None).collect();
                self.heap_bytes += size_of_val(&*empty);
                empty
            })
        });
        let Some(place) = page.and_then(|page| page.get_mut(place)) else {
            panic!(
                "the metadata of account number {} has no place in its page",
                index.0
            );
        };
        if let Some(before) = place.replace(Box::new(metadata)) {
            self.heap_bytes -= text(&before);
        }
    }

    /// Memory used, in bytes: the pages, the id index, long ids, metadata and assets.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.slots.memory_bytes()
            + self.waypoints.memory_bytes()
            + self.by_name.memory_bytes()
            + self.assets.memory_bytes()
            + self.heap_bytes
    }

    /// The numbers of all accounts from `from` on, in the order of creation.
    pub fn indexes_from(&self, from: AccountIndex) -> impl Iterator<Item = AccountIndex> + use<> {
        let Ok(len) = u32::try_from(self.len()) else {
            panic!(
                "the table has {} accounts, but at most {ACCOUNTS_MAX} are allowed",
                self.len()
            );
        };
        (from.0..len).map(AccountIndex)
    }

    /// The number of asset names that lookups have compared so far.
    #[cfg(test)]
    pub(crate) const fn asset_comparisons(&self) -> u64 {
        self.assets.comparisons()
    }
}

/// Converts a value of the id index back to the account's number.
#[inline]
fn index_of(value: u64) -> AccountIndex {
    let Ok(number) = u32::try_from(value) else {
        panic!("the index of accounts holds {value}, which is not the number of an account");
    };
    AccountIndex(number)
}

// ===== impl Extras =====

impl Extras {
    /// Memory on the heap, in bytes.
    fn heap_bytes(&self) -> usize {
        let text = |(key, value): (&String, &String)| key.len() + value.len();
        let created = self.updated.as_ref().map_or(0, |updated| {
            updated.created.metadata.iter().map(text).sum::<usize>()
                + updated.created.velocity_limits.capacity() * size_of::<VelocityLimit>()
        });
        created + self.velocity.heap_bytes()
    }
}

// ===== impl Name =====

impl Name {
    fn new(id: String) -> Self {
        let mut bytes = [0; INLINE_BYTES];
        match (bytes.get_mut(..id.len()), u8::try_from(id.len())) {
            (Some(room), Ok(length)) => {
                room.copy_from_slice(id.as_bytes());
                Name::Short { length, bytes }
            }
            _ => Name::Long(id.into_boxed_str()),
        }
    }

    #[inline]
    fn as_bytes(&self) -> &[u8] {
        match self {
            Name::Short { length, bytes } => bytes.split_at(usize::from(*length)).0,
            Name::Long(id) => id.as_bytes(),
        }
    }

    fn as_str(&self) -> &str {
        let Ok(name) = std::str::from_utf8(self.as_bytes()) else {
            panic!(
                "the account id {:?} is not UTF-8, although it was created as UTF-8",
                self.as_bytes()
            );
        };
        name
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Name::Short { .. } => 0,
            Name::Long(id) => id.len(),
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
