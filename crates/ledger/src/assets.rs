//! The assets of a ledger. Finds an asset's number by its name, and the name by the number, both in constant time.

use super::{
    account::AssetIndex,
    tag_index::{TagIndex, tag},
};

/// Maximum number of assets of a ledger. The names of all assets and the index of the names take at most 64 MiB of
/// memory.
pub const ASSETS_MAX: usize = 1 << 20;

/// All assets. Assets are numbered from 0, in the order in which accounts first used them.
#[derive(Debug)]
pub(super) struct AssetTable {
    names: Vec<Box<str>>,
    by_name: TagIndex,
    /// Seed of the hash of asset names. The seed is secret, so no client can choose names that collide.
    seed: u64,
    name_bytes: usize,
    /// Number of names that lookups have compared so far.
    #[cfg(test)]
    comparisons: std::cell::Cell<u64>,
}

impl AssetTable {
    /// Creates an empty table. `seed` is the seed of the hash of asset names.
    pub(super) fn new(seed: u64) -> Self {
        AssetTable {
            names: Vec::new(),
            by_name: TagIndex::new(),
            seed,
            name_bytes: 0,
            #[cfg(test)]
            comparisons: std::cell::Cell::default(),
        }
    }

    /// The number of assets, at most [`ASSETS_MAX`].
    pub(super) const fn len(&self) -> usize {
        self.names.len()
    }

    /// Returns the name of an asset, or `None` if no asset has this number.
    pub(super) fn name(&self, asset: AssetIndex) -> Option<&str> {
        self.names.get(asset.0 as usize).map(|name| &**name)
    }

    /// Returns the number of the asset named `name`, or `None` if no asset has this name.
    pub(super) fn find(&self, name: &str) -> Option<AssetIndex> {
        self.find_tagged(name, self.tag(name))
    }

    /// Returns the number of the asset named `name`, and adds the asset if it is new. Returns `None` if the
    /// asset is new and the table is full.
    pub(super) fn find_or_add(&mut self, name: String) -> Option<AssetIndex> {
        let tag = self.tag(&name);
        if let Some(asset) = self.find_tagged(&name, tag) {
            return Some(asset);
        }
        if self.names.len() >= ASSETS_MAX {
            return None;
        }
        let Ok(asset) = u32::try_from(self.names.len()) else {
            panic!("the number of an asset exceeds 32 bits, although ASSETS_MAX does not");
        };
        self.by_name.insert(tag, u64::from(asset));
        self.name_bytes += name.len();
        self.names.push(name.into_boxed_str());
        Some(AssetIndex(asset))
    }

    /// Memory used by the names and the index, in bytes.
    pub(super) const fn memory_bytes(&self) -> usize {
        self.names.capacity() * size_of::<Box<str>>() + self.name_bytes + self.by_name.memory_bytes()
    }

    fn tag(&self, name: &str) -> u64 {
        tag(name.as_bytes(), self.seed)
    }

    fn find_tagged(&self, name: &str, tag: u64) -> Option<AssetIndex> {
        let found = self.by_name.find(tag, |value| {
            #[cfg(test)]
            self.comparisons.set(self.comparisons.get() + 1);
            self.name(asset_of(value)) == Some(name)
        });
        found.map(asset_of)
    }

    /// The number of names that lookups have compared so far.
    #[cfg(test)]
    pub(super) const fn comparisons(&self) -> u64 {
        self.comparisons.get()
    }
}

/// Converts a value of the name index back to the asset's number.
fn asset_of(value: u64) -> AssetIndex {
    let Ok(number) = u32::try_from(value) else {
        panic!("the index of assets holds {value}, which is not the number of an asset");
    };
    AssetIndex(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_assets(count: usize) -> AssetTable {
        let mut table = AssetTable::new(7);
        for number in 0..count {
            let added = table.find_or_add(format!("{number:016}"));
            assert_eq!(added, u32::try_from(number).ok().map(AssetIndex));
        }
        table
    }

    #[test]
    fn a_lookup_takes_constant_work_with_many_assets() {
        let assets = 50_000;
        let mut table = with_assets(assets);
        // The index stores 46 bits of each hash. A lookup compares a name only with names that have the same 46 bits.
        // So a new name is compared with almost no other name.
        assert!(table.comparisons() < 10, "{} comparisons", table.comparisons());
        let before = table.comparisons();
        for number in (0..assets).rev() {
            let name = format!("{number:016}");
            let found = table.find_or_add(name.clone());
            assert_eq!(found.and_then(|asset| table.name(asset)), Some(&*name));
        }
        let comparisons = table.comparisons() - before;
        assert!(comparisons < assets as u64 + 10, "{comparisons} comparisons");
        let most = table.by_name.longest_walk();
        assert!(most <= 64, "a lookup may read {most} cache lines");
    }

    #[test]
    fn the_bounds_of_assets_and_of_memory_hold() {
        let mut table = with_assets(ASSETS_MAX);
        assert_eq!(table.len(), ASSETS_MAX);
        assert_eq!(table.find_or_add("one more".to_owned()), None);
        assert_eq!(table.find("one more"), None);
        assert_eq!(table.len(), ASSETS_MAX);
        // Existing assets are still found.
        assert_eq!(table.find_or_add(format!("{:016}", 5)), Some(AssetIndex(5)));
        let bytes = table.memory_bytes();
        assert!(bytes <= 64 << 20, "{bytes} bytes");
    }
}
