//! The transactions of a request.

use std::sync::Arc;

use smallvec::SmallVec;
use tally_ledger::{
    Heading, Names, Tags, TransactionView, Transfer, codec::Reader, tag_index::tag,
    transaction::put_transaction,
};

/// Maximum number of transactions in one request.
pub const TRANSACTIONS_MAX: usize = 8192;

/// Transactions in the ledger's encoding, back to back in one buffer, with the hashes of their transaction ids and
/// account ids. In this type, the *place* of a transaction is its index in the batch, from 0.
#[derive(Debug)]
pub struct TransactionBatch {
    bytes: Vec<u8>,
    entries: SmallVec<[Entry; 1]>,
    /// The hashes of the account ids of all transactions. The two hashes of a unary call with one transfer need no
    /// allocation.
    account_tags: SmallVec<[u64; 2]>,
    /// The key of the hash function.
    seed: u64,
    /// The charge to the memory budget for the batch. The batch holds the charge until the batch is dropped, also if
    /// the caller disconnects earlier.
    charge: Option<Box<dyn MemoryCharge>>,
    /// The name of the client's token, if it has one.
    principal: Option<Arc<str>>,
}

/// A charge to a memory budget. Dropping the charge returns the memory to the budget.
pub trait MemoryCharge: std::fmt::Debug + Send + Sync {
    /// Takes the memory for the answer about a transaction with this many legs from the budget. The charge already includes the memory for
    /// [`LEGS_CHARGED`](super::LEGS_CHARGED) legs. Returns `false` if the budget does not allow it. `with_balances` says whether the answer
    /// shows the balances of their accounts. EXEC calls this method, so it must not wait.
    #[must_use]
    fn hold_legs(&self, legs: usize, with_balances: bool) -> bool;
}

/// The ends of the parts of one transaction in the buffers of its batch. Each part begins where the same part of the
/// previous transaction ends.
#[derive(Debug, Clone, Copy)]
struct Entry {
    bytes_end: u32,
    tags_end: u32,
    id_tag: u64,
    /// The hash of the id of the transaction that this transaction names.
    named_tag: Option<u64>,
    return_balances: bool,
}

// ===== impl TransactionBatch =====

impl TransactionBatch {
    /// Makes an empty batch, with room for `bytes` bytes of encoded transactions. `seed` is the key of the hash
    /// function.
    #[must_use]
    pub(super) fn new(seed: u64, bytes: usize) -> Self {
        TransactionBatch {
            bytes: Vec::with_capacity(bytes),
            entries: SmallVec::new(),
            account_tags: SmallVec::new(),
            seed,
            charge: None,
            principal: None,
        }
    }

    /// Sets the name that the records of the transactions will show.
    pub fn set_principal(&mut self, principal: Option<Arc<str>>) {
        self.principal = principal;
    }

    /// The name that the records of the transactions will show.
    #[must_use]
    pub fn principal(&self) -> Option<&[u8]> {
        self.principal.as_ref().map(|name| name.as_bytes())
    }

    /// Whether the response of the transaction at `place` shows the balances after it.
    #[inline]
    #[must_use]
    pub fn returns_balances(&self, place: usize) -> bool {
        self.entries.get(place).is_some_and(|entry| entry.return_balances)
    }

    /// Takes the memory for the answer about the transaction at `place`, which has this many legs, from the budget. Returns `false` if the
    /// budget does not allow it. A batch without a charge belongs to no budget, and the result is `true`.
    pub(super) fn hold_legs(&self, place: usize, legs: usize) -> bool {
        let with_balances = self.returns_balances(place);
        let charge = self.charge.as_ref();
        charge.is_none_or(|charge| charge.hold_legs(legs, with_balances))
    }

    /// Keeps `charge` until the batch is dropped.
    pub fn hold_charge(&mut self, charge: Box<dyn MemoryCharge>) {
        self.charge = Some(charge);
    }

    /// Adds a transaction. The caller must have checked the bounds of the transaction, and that the batch
    /// [is not full](TransactionBatch::is_full).
    ///
    /// # Panics
    /// If the batch grows beyond 4 GiB. The bounds prevent this.
    pub fn push(&mut self, heading: &Heading<'_>, transfers: &[Transfer<&[u8]>], return_balances: bool) {
        put_transaction(&mut self.bytes, heading, transfers.iter().copied());
        for transfer in transfers {
            self.account_tags.push(tag(transfer.debit, self.seed));
            self.account_tags.push(tag(transfer.credit, self.seed));
        }
        // A batch has at most 8192 transactions of at most 35 KiB each, which is less than 2^32 bytes in total.
        let (Ok(bytes_end), Ok(tags_end)) = (
            u32::try_from(self.bytes.len()),
            u32::try_from(self.account_tags.len()),
        ) else {
            panic!(
                "a batch of transactions has outgrown its bounds: {} bytes",
                self.bytes.len()
            );
        };
        self.entries.push(Entry {
            bytes_end,
            tags_end,
            id_tag: tag(heading.id, self.seed),
            named_tag: match heading.names {
                Names::Nothing => None,
                Names::Hold(id) | Names::Reversed(id) => Some(tag(id, self.seed)),
            },
            return_balances,
        });
    }

    /// The number of transactions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the batch has no transaction.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the batch has [`TRANSACTIONS_MAX`] transactions.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.entries.len() >= TRANSACTIONS_MAX
    }

    /// Returns the hashes of the ids in the transaction at `place`; `None` if there is no such transaction.
    #[inline]
    #[must_use]
    pub fn tags(&self, place: usize) -> Option<Tags<'_>> {
        let entry = self.entries.get(place)?;
        let from = self.before(place).map_or(0, |before| before.tags_end);
        Some(Tags {
            id: entry.id_tag,
            named: entry.named_tag,
            accounts: self.account_tags.get(from as usize..entry.tags_end as usize)?,
        })
    }

    /// Returns the transaction at `place`; `None` if there is no such transaction.
    ///
    /// # Panics
    /// If the transaction can't be decoded. That is a bug, because [`TransactionBatch::push`] has encoded it.
    #[inline]
    #[must_use]
    pub fn get(&self, place: usize) -> Option<TransactionView<'_, &[u8]>> {
        match TransactionView::parse(self.encoded(place)?) {
            Ok(transaction) => Some(transaction),
            Err(error) => panic!("transaction {place} of a batch can't be decoded: {error}"),
        }
    }

    /// Returns the id of the transaction at `place`; `None` if there is no such transaction.
    #[must_use]
    pub fn id_bytes(&self, place: usize) -> Option<&[u8]> {
        Reader::new(self.encoded(place)?).short_bytes().ok()
    }

    /// Returns the bytes of the transaction at `place`; `None` if there is no such transaction.
    #[inline]
    fn encoded(&self, place: usize) -> Option<&[u8]> {
        let entry = self.entries.get(place)?;
        let from = self.before(place).map_or(0, |before| before.bytes_end);
        self.bytes.get(from as usize..entry.bytes_end as usize)
    }

    /// Returns the transaction at `place` and the hashes of its ids.
    ///
    /// # Panics
    /// If there is no such transaction.
    #[inline]
    pub(super) fn transaction(&self, place: usize) -> (TransactionView<'_, &[u8]>, Tags<'_>) {
        let (Some(transaction), Some(tags)) = (self.get(place), self.tags(place)) else {
            panic!(
                "a batch of {} transactions has no transaction {place}",
                self.len()
            );
        };
        (transaction, tags)
    }

    /// Returns the entry of the transaction before `place`; `None` for the first transaction.
    #[inline]
    fn before(&self, place: usize) -> Option<&Entry> {
        self.entries.get(place.checked_sub(1)?)
    }

    /// Returns the bytes of memory that the batch holds, including spare capacity.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
            + self.entries.capacity() * size_of::<Entry>()
            + self.account_tags.capacity() * 8
    }
}
