//! The account table: dense, found by name, never moved as a whole.

use std::collections::HashSet;

use thiserror::Error;

use super::{
    account::{
        Account, AccountContent, AccountIndex, AccountSnapshot, AssetIndex, Balances, Metadata, NewAccount,
    },
    assets::{ASSETS_MAX, AssetTable},
    tag_index::{TagIndex, tag},
};
use crate::{sys::prefetch::prefetch_read, time::Timestamp};

/// Accounts in a page. Pages never move, so that adding the next account never copies the others. A page of metadata is
/// taken when the first of its accounts has some.
const PAGE_ACCOUNTS: usize = 4096;

/// Most accounts of a ledger: their numbers have 32 bits.
pub const ACCOUNTS_MAX: usize = u32::MAX as usize;

/// All accounts, in the order of their creation.
#[derive(Debug)]
pub struct AccountTable {
    places: Pages<Place>,
    metadata: Vec<Option<MetadataPage>>,
    by_name: TagIndex,
    assets: AssetTable,
    /// Keys the hash of names, so that nobody outside can choose names that collide.
    seed: u64,
    heap_bytes: usize,
}

/// What the ledger has no room left for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TableFull {
    /// There is no number for another account.
    #[error("the ledger has no room for these accounts: it may hold at most {ACCOUNTS_MAX}")]
    Accounts,
    /// An account has an asset that no other has, and there are [`ASSETS_MAX`].
    #[error("the ledger has no room for these accounts' new assets: it may hold at most {ASSETS_MAX} assets")]
    Assets,
}

/// All of an account but its metadata: two cache lines, and never on two pages of memory, since to find a page costs more
/// than to read a line once there are millions of accounts. The name comes first: a comparison may read 32 bytes of it,
/// and would touch the next account if it came last.
#[derive(Debug)]
#[repr(C, align(128))]
struct Place {
    name: Name,
    create_time: Timestamp,
    account: Account,
}

/// The metadata of the accounts of a page, each of which has it or not.
type MetadataPage = Box<[Option<Box<Metadata>>]>;

/// Bytes of a name that are kept without an allocation of their own.
const INLINE_BYTES: usize = 22;

/// An account's id. A short one stands where its account does, which saves memory and a cache miss.
#[derive(Debug)]
enum Name {
    Short { length: u8, bytes: [u8; INLINE_BYTES] },
    Long(Box<str>),
}

/// A vector in pages of fixed capacity.
#[derive(Debug)]
struct Pages<T> {
    pages: Vec<Vec<T>>,
    len: usize,
}

// ===== impl AccountTable =====

impl AccountTable {
    /// Without accounts. `seed` keys the hash of their names.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        AccountTable {
            places: Pages::new(),
            metadata: Vec::new(),
            by_name: TagIndex::new(),
            assets: AssetTable::new(seed),
            seed,
            heap_bytes: 0,
        }
    }

    /// How many accounts there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.places.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.places.len == 0
    }

    /// The number of the account named `id`.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<AccountIndex> {
        self.find_tagged(id.as_bytes(), tag(id.as_bytes(), self.seed))
    }

    /// The number of the account named `id`, whose [`tag`] with this table's seed is `tag`.
    #[must_use]
    pub fn find_tagged(&self, id: &[u8], tag: u64) -> Option<AccountIndex> {
        let found = self.by_name.find(tag, |value| {
            index_of(value)
                .and_then(|index| self.places.get(index))
                .is_some_and(|place| place.name.as_bytes() == id)
        });
        found.and_then(index_of)
    }

    /// Keys the hash of names.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Asks for the memory where the account with this `tag` is looked up.
    pub fn prefetch_name(&self, tag: u64) {
        self.by_name.prefetch(tag);
    }

    /// Asks for the memory of the account with this `tag`, once its place in the name index has been asked for.
    pub fn prefetch_account(&self, tag: u64) {
        let Some(index) = self.by_name.first(tag).and_then(index_of) else {
            return;
        };
        if let Some(place) = self.places.get(index) {
            prefetch_read(&place.name);
            // In the second line.
            prefetch_read(&place.account.version);
        }
    }

    /// What transfers touch of the account.
    #[must_use]
    pub fn get(&self, index: AccountIndex) -> Option<&Account> {
        self.places.get(index).map(|place| &place.account)
    }

    /// What transfers touch of the account, to be changed.
    pub fn get_mut(&mut self, index: AccountIndex) -> Option<&mut Account> {
        self.places.get_mut(index).map(|place| &mut place.account)
    }

    /// The account's name.
    #[must_use]
    pub fn id(&self, index: AccountIndex) -> Option<&str> {
        self.places.get(index).map(|place| place.name.as_str())
    }

    /// What was said of the account when it was created, and when that was.
    #[must_use]
    pub fn content(&self, index: AccountIndex) -> Option<(AccountContent<'_>, Timestamp)> {
        static NO_METADATA: Metadata = Metadata::new();
        let Place {
            name,
            create_time,
            account,
        } = self.places.get(index)?;
        let (page, place) = place_of(index);
        let metadata = self.metadata.get(page).and_then(Option::as_ref);
        let content = AccountContent {
            id: name.as_str(),
            asset: self.asset(account.asset)?,
            rule: account.rule,
            overdraft_limit: account.overdraft_limit,
            status: account.status,
            metadata: metadata
                .and_then(|page| page.get(place)?.as_deref())
                .unwrap_or(&NO_METADATA),
        };
        Some((content, *create_time))
    }

    /// The account as a reader sees it.
    #[must_use]
    pub fn snapshot(&self, index: AccountIndex) -> Option<AccountSnapshot> {
        let (content, create_time) = self.content(index)?;
        Some(AccountSnapshot {
            account: content.to_new(),
            balances: self.get(index)?.balances,
            create_time,
        })
    }

    /// The name of an asset.
    #[must_use]
    pub fn asset(&self, asset: AssetIndex) -> Option<&str> {
        self.assets.name(asset)
    }

    /// Whether all accounts of `new` that are not there yet can be added.
    ///
    /// # Errors
    /// [`TableFull`] if there is not enough room for them.
    pub fn check_room(&self, new: &[NewAccount]) -> Result<(), TableFull> {
        self.check_room_within(new, ACCOUNTS_MAX, ASSETS_MAX)
    }

    fn check_room_within(
        &self,
        new: &[NewAccount],
        accounts_max: usize,
        assets_max: usize,
    ) -> Result<(), TableFull> {
        let accounts_left = accounts_max.saturating_sub(self.len());
        let assets_left = assets_max.saturating_sub(self.assets.len());
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

    /// Adds an account whose name is not there yet, and returns its number.
    ///
    /// # Errors
    /// [`TableFull`] if there is no room for it or its asset. Nothing has changed then.
    pub fn push(
        &mut self,
        new: NewAccount,
        version: u64,
        create_time: Timestamp,
    ) -> Result<AccountIndex, TableFull> {
        let number = u32::try_from(self.len()).map_err(|_| TableFull::Accounts)?;
        if self.len() >= ACCOUNTS_MAX {
            return Err(TableFull::Accounts);
        }
        let index = AccountIndex(number);
        let asset = self.assets.find_or_add(new.asset).ok_or(TableFull::Assets)?;
        self.by_name
            .insert(tag(new.id.as_bytes(), self.seed), u64::from(index.0));
        let name = Name::new(new.id);
        self.heap_bytes += name.heap_bytes();
        self.places.push(Place {
            name,
            create_time,
            account: Account {
                balances: Balances::default(),
                overdraft_limit: new.overdraft_limit,
                version,
                asset,
                rule: new.rule,
                status: new.status,
            },
        });
        if !new.metadata.is_empty() {
            self.put_metadata(index, new.metadata);
        }
        Ok(index)
    }

    fn put_metadata(&mut self, index: AccountIndex, metadata: Metadata) {
        let text = |(key, value): (&String, &String)| key.len() + value.len();
        self.heap_bytes += size_of::<Metadata>() + metadata.iter().map(text).sum::<usize>();
        let (page, place) = place_of(index);
        if self.metadata.len() <= page {
            self.metadata.resize_with(page + 1, || None);
        }
        let Some(page) = self.metadata.get_mut(page) else {
            return;
        };
        let page = page.get_or_insert_with(|| {
            let empty: MetadataPage = (0..PAGE_ACCOUNTS).map(|_| None).collect();
            self.heap_bytes += size_of_val(&*empty);
            empty
        });
        if let Some(place) = page.get_mut(place) {
            *place = Some(Box::new(metadata));
        }
    }

    /// Memory taken, in bytes: the pages, the name index, long names, metadata and assets.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.places.memory_bytes()
            + self.by_name.memory_bytes()
            + self.assets.memory_bytes()
            + self.heap_bytes
    }

    /// Every account in the order of creation, from `from` on.
    pub fn indexes_from(&self, from: AccountIndex) -> impl Iterator<Item = AccountIndex> + use<> {
        let len = u32::try_from(self.len()).unwrap_or(u32::MAX);
        (from.0..len).map(AccountIndex)
    }

    /// How many names of assets were compared so far with a name that was looked up.
    #[cfg(test)]
    pub(crate) const fn asset_comparisons(&self) -> u64 {
        self.assets.comparisons()
    }
}

fn index_of(value: u64) -> Option<AccountIndex> {
    u32::try_from(value).ok().map(AccountIndex)
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

    fn as_bytes(&self) -> &[u8] {
        match self {
            Name::Short { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Name::Long(id) => id.as_bytes(),
        }
    }

    fn as_str(&self) -> &str {
        // It was made from text.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Name::Short { .. } => 0,
            Name::Long(id) => id.len(),
        }
    }
}

// ===== impl Pages =====

impl<T> Pages<T> {
    const fn new() -> Self {
        Pages {
            pages: Vec::new(),
            len: 0,
        }
    }

    fn get(&self, index: AccountIndex) -> Option<&T> {
        let (page, place) = place_of(index);
        self.pages.get(page)?.get(place)
    }

    fn get_mut(&mut self, index: AccountIndex) -> Option<&mut T> {
        let (page, place) = place_of(index);
        self.pages.get_mut(page)?.get_mut(place)
    }

    fn push(&mut self, value: T) {
        if self.len.is_multiple_of(PAGE_ACCOUNTS) {
            self.pages.push(Vec::with_capacity(PAGE_ACCOUNTS));
        }
        if let Some(page) = self.pages.last_mut() {
            page.push(value);
            self.len += 1;
        }
    }

    fn memory_bytes(&self) -> usize {
        self.pages.len() * PAGE_ACCOUNTS * size_of::<T>() + self.pages.capacity() * size_of::<Vec<T>>()
    }
}

const fn place_of(index: AccountIndex) -> (usize, usize) {
    let index = index.0 as usize;
    (index / PAGE_ACCOUNTS, index % PAGE_ACCOUNTS)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;
    use crate::{
        account::{AccountStatus, BalanceRule},
        money::Amount,
    };

    fn new(id: &str, asset: &str) -> NewAccount {
        NewAccount {
            id: id.to_owned(),
            asset: asset.to_owned(),
            rule: BalanceRule::CreditBalance,
            overdraft_limit: Amount::from(3),
            status: AccountStatus::Open,
            metadata: Metadata::new(),
        }
    }

    #[test]
    fn an_account_costs_no_more_when_assets_are_many() {
        let mut table = AccountTable::new(7);
        for number in 0..20_000 {
            let account = new(&format!("a{number}"), &format!("asset-{number}"));
            table.push(account, 1, Timestamp::default()).unwrap();
        }
        let comparisons = table.asset_comparisons();
        assert!(comparisons < 100, "{comparisons} comparisons");
    }

    #[test]
    fn finds_accounts_by_name_across_pages() {
        let mut table = AccountTable::new(7);
        let count = PAGE_ACCOUNTS * 2 + 1;
        // None of the first page has metadata.
        let account = |number: usize| {
            let text = || number.to_string();
            let has_some = number > PAGE_ACCOUNTS && number.is_multiple_of(3);
            NewAccount {
                metadata: has_some.then(|| (text(), text())).into_iter().collect(),
                ..new(&format!("a{number}"), ["EUR", "USD"][number % 2])
            }
        };
        for number in 0..count {
            let index = table.push(account(number), 1, Timestamp::default());
            assert_eq!(index, Ok(AccountIndex(u32::try_from(number).unwrap())));
        }
        assert_eq!(table.len(), count);
        // One asking for memory names its first line, the other the second.
        let version = offset_of!(Place, account.version);
        assert_eq!(
            (size_of::<Place>(), offset_of!(Place, name), version / 64),
            (128, 0, 1)
        );
        for number in (0..count).step_by(97) {
            let index = table.find(&format!("a{number}")).unwrap();
            assert_eq!(table.snapshot(index).unwrap().account, account(number));
        }
        let long = "b".repeat(INLINE_BYTES + 1);
        for id in [&long, &long[1..]] {
            assert_eq!(table.find(id), None);
            let index = table.push(new(id, "EUR"), 1, Timestamp::default()).ok();
            table.prefetch_account(tag(id.as_bytes(), table.seed()));
            assert_eq!(table.find(id), index);
            assert_eq!(index.and_then(|index| table.id(index)), Some(id));
        }
        assert_eq!(table.find("b"), None);
        assert_eq!(table.get(AccountIndex(u32::MAX)), None);
        assert_eq!(table.indexes_from(AccountIndex(5)).count(), count + 2 - 5);
    }
    #[test]
    fn room_is_checked_for_what_is_new_only() {
        let mut table = AccountTable::new(7);
        for (id, asset) in [("a", "EUR"), ("b", "USD")] {
            table.push(new(id, asset), 1, Timestamp::default()).unwrap();
        }
        let check = |new: &[NewAccount]| table.check_room_within(new, 4, 3);
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[new("c", "CZK"), new("d", "CZK")]), Ok(()));
        assert_eq!(check(&[new("c", "CZK"), new("d", "GBP")]), Err(TableFull::Assets));
        assert_eq!(
            check(&[new("c", "EUR"), new("d", "EUR"), new("e", "EUR")]),
            Err(TableFull::Accounts)
        );
        // What exists, or is named twice, takes no room.
        let again = [
            new("a", "EUR"),
            new("b", "USD"),
            new("c", "CZK"),
            new("c", "CZK"),
            new("d", "CZK"),
        ];
        assert_eq!(check(&again), Ok(()));
    }
}
