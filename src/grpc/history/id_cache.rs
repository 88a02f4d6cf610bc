//! A cache of the ids of accounts that watches have shown, so that watches need not ask EXEC for each account again. The id of an account
//! never changes.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tally_batch::BatchError;
use tally_ledger::AccountIndex;
use tonic::Status;

use crate::{
    engine::{EngineError, TallyEngine},
    grpc::transactions::lookup::{AccountIds, IDS_TOGETHER},
};

/// Maximum number of ids in each of the two generations. An id takes about 150 bytes, so the cache has at most about 10 MiB.
const GENERATION_IDS_MAX: usize = 32 << 10;
/// Maximum time until EXEC is asked for the ids again after the queue was full. A watch waits and does not fail, because after a failure
/// its client would only call again.
const FULL_QUEUE_WAIT_MAX: Duration = Duration::from_millis(100);

/// The ids of the accounts that were used last.
#[derive(Debug, Default)]
pub(super) struct IdCache(Mutex<Generations>);

/// When the young generation is full, it becomes the old generation, and the previous old generation is dropped. An id that is used again
/// moves to the young generation.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<AccountIndex, Arc<str>>,
    old: HashMap<AccountIndex, Arc<str>>,
}

// ===== impl IdCache =====

impl IdCache {
    /// Returns the ids of accounts. Asks EXEC for the ids that are not in the cache.
    ///
    /// # Errors
    /// An error of the engine.
    pub(super) async fn ids(
        &self,
        engine: &TallyEngine,
        accounts: HashSet<AccountIndex>,
    ) -> Result<AccountIds, Status> {
        let mut ids = HashMap::with_capacity(accounts.len());
        let mut missing = Vec::new();
        {
            let mut known = self.0.lock();
            for account in accounts {
                match known.get(account) {
                    Some(id) => {
                        ids.insert(account, id);
                    }
                    None => missing.push(account),
                }
            }
        }
        for some in missing.chunks(IDS_TOGETHER) {
            let read = read(engine, some).await?;
            let mut known = self.0.lock();
            for (account, id) in some.iter().zip(read) {
                let id: Arc<str> = id.into();
                known.put(*account, Arc::clone(&id));
                ids.insert(*account, id);
            }
        }
        Ok(AccountIds::of(ids))
    }
}

async fn read(engine: &TallyEngine, accounts: &[AccountIndex]) -> Result<Vec<String>, EngineError> {
    loop {
        let read = engine.account_ids(accounts.to_vec(), None).await;
        let Err(EngineError::Batch(BatchError::Full { retry_after })) = read else {
            return read;
        };
        tokio::time::sleep(retry_after.min(FULL_QUEUE_WAIT_MAX)).await;
    }
}

// ===== impl Generations =====

impl Generations {
    fn get(&mut self, account: AccountIndex) -> Option<Arc<str>> {
        if let Some(id) = self.young.get(&account) {
            return Some(Arc::clone(id));
        }
        let id = self.old.remove(&account)?;
        self.put(account, Arc::clone(&id));
        Some(id)
    }

    fn put(&mut self, account: AccountIndex, id: Arc<str>) {
        if self.young.len() >= GENERATION_IDS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(account, id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let mut cache = Generations::default();
        let hot = AccountIndex(0);
        cache.put(hot, "hot".into());
        for number in 1..10 * u32::try_from(GENERATION_IDS_MAX).unwrap() {
            cache.put(AccountIndex(number), "cold".into());
            assert_eq!(cache.get(hot).as_deref(), Some("hot"), "{number}");
            assert!(cache.young.len() <= GENERATION_IDS_MAX && cache.old.len() <= GENERATION_IDS_MAX);
        }
        assert!(cache.get(AccountIndex(1)).is_none());
    }
}
