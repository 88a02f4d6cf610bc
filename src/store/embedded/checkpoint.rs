//! Checkpoints of the accounts, copied a few at a time while transactions go on.
//!
//! A checkpoint is *fuzzy*: its accounts were copied at different times, all of them after its start point. Each carries
//! the number of the entry that changed it last, and replaying from the start point leaves an account alone until the
//! entries are newer than that. So EXEC is never stopped, and nothing has to be locked or copied twice.
//!
//! It is published only when everything that it shows is durable: its chunks are read through the batch processor like
//! any other reading, whose answers wait for the blocks that they depend on.
//!
//! ```text
//! chunk 0:    version | start point of the chain | order
//! chunk 1..n: accounts, in the order of creation
//! last chunk: the sequence of the last block that was durable when the last account had been copied
//! ```

use super::{BookError, DurablePoint, OrderPoint};
use crate::{
    ledger::{
        AccountIndex, Balances, Ledger, Malformed, NewAccount,
        codec::{Reader, put_varint},
    },
    money::Amount,
    store::journal::{
        ChainPoint, ChunkedFileReader, ChunkedFileWriter, ChunkedFiles, DataDirectory, JournalError, Position,
    },
    time::Timestamp,
};

const DIRECTORY: &str = "checkpoint";
const SUFFIX: &str = "ckpt";
/// Version of the layout above.
const VERSION: u8 = 1;
/// Accounts that are copied in one go: well below 0.1 ms of EXEC's time.
pub const CHUNK_ACCOUNTS: usize = 1024;
/// Checkpoints that are kept: the newest, and one in case it is damaged.
pub const KEEP: usize = 2;

/// A checkpoint that is being written.
#[derive(Debug)]
pub struct CheckpointWriter {
    file: ChunkedFileWriter,
}

/// A checkpoint that was read.
#[derive(Debug)]
pub struct Loaded {
    /// The accounts.
    pub ledger: Ledger,
    /// From where the journal is to be replayed.
    pub start: DurablePoint,
    /// The journal must reach at least to this block.
    pub durable_through: u64,
}

/// The family of checkpoint files of a data directory, numbered by the block sequence they start from.
///
/// # Errors
/// If the directory can't be made or read.
pub fn files(directory: &DataDirectory) -> Result<ChunkedFiles, JournalError> {
    ChunkedFiles::open(directory, DIRECTORY, "", SUFFIX)
}

/// As [`files`], and changes nothing.
#[must_use]
pub(super) fn files_read_only(directory: &DataDirectory) -> ChunkedFiles {
    ChunkedFiles::open_read_only(directory, DIRECTORY, "", SUFFIX)
}

// ===== impl CheckpointWriter =====

impl CheckpointWriter {
    /// Begins a checkpoint from which the journal is to be replayed from `start` on.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn begin(files: &ChunkedFiles, start: &DurablePoint) -> Result<Self, JournalError> {
        let mut file = files.create(start.chain.block_sequence)?;
        let mut meta = vec![VERSION];
        meta.extend_from_slice(&start.chain.to_bytes());
        put_varint(&mut meta, u128::from(start.order.next_entry));
        put_varint(&mut meta, u128::from(start.order.next_sequence));
        put_varint(&mut meta, u128::from(start.order.last_time.as_nanos()));
        file.write_chunk(&meta)?;
        Ok(CheckpointWriter { file })
    }

    /// Adds accounts as [`put_accounts`] wrote them.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn accounts(&mut self, chunk: &[u8]) -> Result<(), JournalError> {
        self.file.write_chunk(chunk)
    }

    /// Publishes the checkpoint.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn finish(mut self, durable_through: u64) -> Result<u64, JournalError> {
        let mut last = Vec::new();
        put_varint(&mut last, u128::from(durable_through));
        self.file.write_chunk(&last)?;
        self.file.finish()
    }
}

/// Writes up to [`CHUNK_ACCOUNTS`] accounts from `from` on, and returns the next one to write; `None` behind the last.
pub fn put_accounts(ledger: &Ledger, from: AccountIndex, out: &mut Vec<u8>) -> Option<AccountIndex> {
    let accounts = ledger.accounts();
    let mut indexes = accounts.indexes_from(from);
    for index in indexes.by_ref().take(CHUNK_ACCOUNTS) {
        let (Some(hot), Some((content, create_time))) = (accounts.get(index), accounts.content(index)) else {
            continue;
        };
        content.put(out);
        let Balances {
            debits_pending,
            debits_posted,
            credits_pending,
            credits_posted,
        } = hot.balances;
        for column in [debits_pending, debits_posted, credits_pending, credits_posted] {
            put_varint(out, column.minor_units());
        }
        put_varint(out, u128::from(hot.version));
        put_varint(out, u128::from(create_time.as_nanos()));
    }
    indexes.next()
}

/// The newest checkpoint that is whole and can be read, if there is one. Others are passed over with a warning: an older one
/// and the journal hold everything.
///
/// # Errors
/// [`JournalError::UnsupportedVersion`] if a program of another version wrote one, [`JournalError::Disk`] if the directory of
/// checkpoints can't be listed.
pub fn load(files: &ChunkedFiles, seed: u64) -> Result<Option<Loaded>, JournalError> {
    files.newest(|_, file| read(file, seed))
}

/// Reads a checkpoint, all of which was checked before.
///
/// # Errors
/// [`JournalError::ChunkedFile`] if it does not hold a checkpoint, [`JournalError::Disk`] if the disk fails.
pub(super) fn read(file: &ChunkedFileReader, seed: u64) -> Result<Loaded, JournalError> {
    let malformed = |Malformed { what }| file.malformed(what);
    let last = file
        .chunks()
        .checked_sub(1)
        .ok_or_else(|| file.malformed("chunks"))?;
    let mut chunk = Vec::new();
    file.read_chunk(0, &mut chunk)?;
    let start = read_start(&chunk).map_err(malformed)?;
    let mut ledger = Ledger::new(seed);
    for number in 1..last {
        file.read_chunk(number, &mut chunk)?;
        let mut reader = Reader::new(&chunk);
        while !reader.is_empty() {
            read_account(&mut reader, &mut ledger).map_err(malformed)?;
        }
    }
    file.read_chunk(last, &mut chunk)?;
    let durable_through = Reader::new(&chunk).varint_u64().map_err(malformed)?;
    Ok(Loaded {
        ledger,
        start,
        durable_through,
    })
}

fn read_start(chunk: &[u8]) -> Result<DurablePoint, Malformed> {
    let mut reader = Reader::new(chunk);
    if reader.u8()? != VERSION {
        return Err(Malformed {
            what: "a checkpoint of a known version",
        });
    }
    let chain = reader.bytes(56)?.try_into().map_err(|_| Malformed {
        what: "a point of the chain",
    })?;
    let chain = ChainPoint::from_bytes(chain);
    let order = OrderPoint {
        next_entry: reader.varint_u64()?,
        next_sequence: reader.varint_u64()?,
        last_time: Timestamp::from_nanos(reader.varint_u64()?),
    };
    Ok(DurablePoint { chain, order })
}

fn read_account(reader: &mut Reader<'_>, ledger: &mut Ledger) -> Result<(), Malformed> {
    let account = NewAccount::take(reader)?;
    let mut column = || reader.varint_u128().map(Amount::new);
    let balances = Balances {
        debits_pending: column()?,
        debits_posted: column()?,
        credits_pending: column()?,
        credits_posted: column()?,
    };
    let version = reader.varint_u64()?;
    let create_time = Timestamp::from_nanos(reader.varint_u64()?);
    let accounts = ledger.accounts_mut();
    let pushed = accounts.push(account, version, create_time);
    let index = pushed.map_err(|_| Malformed {
        what: "no more accounts and assets than a ledger may hold",
    })?;
    if let Some(account) = accounts.get_mut(index) {
        account.balances = balances;
    }
    Ok(())
}

/// So that a reader's error and a record's error meet in one type.
pub(super) fn malformed_at(position: Position) -> impl Fn(Malformed) -> BookError {
    move |source| BookError::Malformed { position, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{AccountStatus, BalanceRule, Metadata, record::Record};

    #[test]
    fn a_checkpoint_of_many_assets_gives_the_same_accounts() {
        let accounts = 20_000_u32;
        let mut replayed = Ledger::new(7);
        for number in 0..accounts {
            let account = NewAccount {
                id: format!("a{number}"),
                asset: format!("asset-{number}"),
                rule: BalanceRule::Unlimited,
                overdraft_limit: Amount::default(),
                status: AccountStatus::Open,
                metadata: Metadata::new(),
            };
            let index = AccountIndex(number);
            let record = Record::AccountCreated { index, account };
            replayed
                .replay(record, u64::from(number) + 1, Timestamp::default())
                .unwrap();
        }
        let mut loaded = Ledger::new(7);
        let (mut next, mut chunk) = (Some(AccountIndex(0)), Vec::new());
        while let Some(from) = next {
            chunk.clear();
            next = put_accounts(&replayed, from, &mut chunk);
            let mut reader = Reader::new(&chunk);
            while !reader.is_empty() {
                read_account(&mut reader, &mut loaded).unwrap();
            }
        }
        for number in (0..accounts).map(AccountIndex) {
            assert_eq!(
                loaded.accounts().snapshot(number),
                replayed.accounts().snapshot(number)
            );
        }
    }
}
