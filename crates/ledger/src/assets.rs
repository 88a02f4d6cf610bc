//! The names of assets, each with its dense number. Both directions take constant time.

use super::{
    account::AssetIndex,
    tag_index::{TagIndex, tag},
};

/// Most assets of a ledger. The names of that many, and their index, take at most 64 MiB.
pub const ASSETS_MAX: usize = 1 << 20;

/// All assets, in the order in which accounts first named them.
#[derive(Debug)]
pub(super) struct AssetTable {
    names: Vec<Box<str>>,
    by_name: TagIndex,
    /// Keys the hash of names, so that no client can choose names that collide.
    seed: u64,
    name_bytes: usize,
    /// Names that were compared with a name that was looked up.
    #[cfg(test)]
    comparisons: std::cell::Cell<u64>,
}

impl AssetTable {
    /// Without assets. `seed` keys the hash of their names.
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

    /// How many assets there are, at most [`ASSETS_MAX`].
    pub(super) const fn len(&self) -> usize {
        self.names.len()
    }

    /// The name of an asset.
    pub(super) fn name(&self, asset: AssetIndex) -> Option<&str> {
        let index = usize::try_from(asset.0).ok()?;
        self.names.get(index).map(|name| &**name)
    }

    /// The number of the asset named `name`.
    pub(super) fn find(&self, name: &str) -> Option<AssetIndex> {
        self.find_tagged(name, self.tag(name))
    }

    /// The number of the asset named `name`, which is added if it is new; `None` if there is no room for it.
    pub(super) fn find_or_add(&mut self, name: String) -> Option<AssetIndex> {
        let tag = self.tag(&name);
        if let Some(asset) = self.find_tagged(&name, tag) {
            return Some(asset);
        }
        let asset = u32::try_from(self.names.len()).ok()?;
        if self.names.len() >= ASSETS_MAX {
            return None;
        }
        self.by_name.insert(tag, u64::from(asset));
        self.name_bytes += name.len();
        self.names.push(name.into_boxed_str());
        Some(AssetIndex(asset))
    }

    /// Memory taken, in bytes: the names and the index.
    pub(super) const fn memory_bytes(&self) -> usize {
        self.names.capacity() * size_of::<Box<str>>() + self.name_bytes + self.by_name.memory_bytes()
    }

    fn tag(&self, name: &str) -> u64 {
        tag(name.as_bytes(), self.seed)
    }

    fn find_tagged(&self, name: &str, tag: u64) -> Option<AssetIndex> {
        let asset = |value| u32::try_from(value).ok().map(AssetIndex);
        let found = self.by_name.find(tag, |value| {
            #[cfg(test)]
            self.comparisons.set(self.comparisons.get() + 1);
            asset(value).and_then(|asset| self.name(asset)) == Some(name)
        });
        found.and_then(asset)
    }

    /// How many names were compared so far with a name that was looked up.
    #[cfg(test)]
    pub(super) const fn comparisons(&self) -> u64 {
        self.comparisons.get()
    }
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
    fn a_look_up_takes_constant_work_with_many_assets() {
        let assets = 50_000;
        let mut table = with_assets(assets);
        // A name is compared only with names whose hash agrees in 46 bits.
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
        assert!(most <= 64, "a look-up may read {most} cache lines");
    }

    #[test]
    fn the_bound_holds_and_so_does_the_memory() {
        let mut table = with_assets(ASSETS_MAX);
        assert_eq!(table.len(), ASSETS_MAX);
        assert_eq!(table.find_or_add("one more".to_owned()), None);
        assert_eq!(table.find("one more"), None);
        assert_eq!(table.len(), ASSETS_MAX);
        // What is there is found as before.
        assert_eq!(table.find_or_add(format!("{:016}", 5)), Some(AssetIndex(5)));
        let bytes = table.memory_bytes();
        assert!(bytes <= 64 << 20, "{bytes} bytes");
    }
}
