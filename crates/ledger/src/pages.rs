//! The pages of the account table: values by account number, which never move in memory.

use super::account::AccountIndex;

/// Number of accounts of a page. Pages never move in memory, so adding an account never copies other accounts. The
/// metadata of the accounts of a page is in a separate page, which is allocated when the first of these accounts that
/// has metadata is added.
pub(super) const PAGE_ACCOUNTS: usize = 4096;

/// A vector of pages that have a fixed capacity.
#[derive(Debug)]
pub(super) struct Pages<T> {
    pages: Vec<Vec<T>>,
    pub(super) len: usize,
}

// ===== impl Pages =====

impl<T> Pages<T> {
    pub(super) const fn new() -> Self {
        Pages {
            pages: Vec::new(),
            len: 0,
        }
    }

    /// Returns the value with a number that was found in the id index.
    ///
    /// # Panics
    /// If no value has this number. If `None` were returned instead, the account would count as unknown, and could be
    /// created twice.
    #[inline]
    pub(super) fn indexed(&self, index: AccountIndex) -> &T {
        let Some(value) = self.get(index) else {
            panic!(
                "the index holds account number {}, but this account does not exist",
                index.0
            );
        };
        value
    }

    #[inline]
    pub(super) fn get(&self, index: AccountIndex) -> Option<&T> {
        let (page, place) = place_of(index);
        self.pages.get(page)?.get(place)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: AccountIndex) -> Option<&mut T> {
        let (page, place) = place_of(index);
        self.pages.get_mut(page)?.get_mut(place)
    }

    pub(super) fn push(&mut self, value: T) {
        if self.len.is_multiple_of(PAGE_ACCOUNTS) {
            self.pages.push(Vec::with_capacity(PAGE_ACCOUNTS));
        }
        let Some(page) = self.pages.last_mut() else {
            panic!("the table has {} accounts, but no page for them", self.len);
        };
        page.push(value);
        self.len += 1;
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.pages.len() * PAGE_ACCOUNTS * size_of::<T>() + self.pages.capacity() * size_of::<Vec<T>>()
    }
}

/// Returns the number of the account's page, and the account's index in the page.
#[inline]
pub(super) const fn place_of(index: AccountIndex) -> (usize, usize) {
    let index = index.0 as usize;
    (index / PAGE_ACCOUNTS, index % PAGE_ACCOUNTS)
}
