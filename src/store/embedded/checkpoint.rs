//! Checkpoints: copies of all accounts, made in small steps while EXEC, the thread that executes batches, continues to
//! process transactions.
//!
//! A checkpoint is *fuzzy*: its accounts are copied at different times, all after its start point. Each copy stores the
//! place of the last record that changed the account. A replay from the start point applies a record to an account
//! only if the record has a later place than the copy stores. A hold is copied with the place of its newest record, and a
//! replay skips older records. So EXEC does not stop for a checkpoint, and no account
//! is locked or copied twice.
//!
//! A checkpoint gets its final name only when all changes that it contains are durable. AUX, the thread that does
//! maintenance, requests each chunk from EXEC through the batch processor, as a client reads an account. The batch
//! processor sends the reply after the blocks on which the chunk depends are durable.
//!
//! ```text
//! chunk 0:    version | start point in the journal | start point in the order of records
//! chunk 1..n: 0 | accounts, in the order of creation
//!             1 | outstanding holds
//! last chunk: the number of the last block that was durable after the last account had been copied
//! ```

use tally_journal::{
    CHAIN_POINT_BYTES, ChainPoint, ChunkedFileReader, ChunkedFileWriter, ChunkedFiles, DataDirectory,
    FileFamily, JournalError, Position,
};
use tally_ledger::{
    AccountIndex, Hold, Ledger, Malformed, NewAccount, Timestamp,
    chain::{put_balances, take_balances},
    codec::{Reader, put_varint_u64},
};

use super::point::{DurablePoint, OrderPoint};
use crate::mutation::planted;

const DIRECTORY: &str = "checkpoint";
const SUFFIX: &str = "ckpt";
/// Version of the layout that the module documentation describes.
const VERSION: u8 = 3;
/// Number of accounts that are copied in one step. A step occupies EXEC for much less than 0.1 ms. The simulation has few
/// accounts, and its checkpoints must have several chunks, too.
pub const CHUNK_ACCOUNTS: usize = if cfg!(feature = "simulation") { 4 } else { 1024 };
/// Number of slots of the table of holds that are copied in one step, fewer in the simulation.
const CHUNK_HOLDS: usize = if cfg!(feature = "simulation") { 4 } else { 2048 };
/// The first byte of a chunk of accounts.
const ACCOUNTS: u8 = 0;
/// The first byte of a chunk of holds.
const HOLDS: u8 = 1;

/// Where the next chunk of a checkpoint begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkStart {
    /// At this account.
    Accounts(AccountIndex),
    /// At this slot of the table of holds.
    Holds(u32),
}
/// Number of checkpoints that are kept: the newest, and the one before it in case the newest is damaged.
pub const KEEP: usize = 2;

/// A checkpoint that is being written.
#[derive(Debug)]
pub struct CheckpointWriter {
    file: ChunkedFileWriter,
}

/// A checkpoint that was read.
#[derive(Debug)]
pub struct LoadedCheckpoint {
    /// The accounts.
    pub ledger: Ledger,
    /// The point from which the journal must be replayed.
    pub start: DurablePoint,
    /// The number of the last block that was durable when the checkpoint was written. The journal must contain this
    /// block.
    pub durable_through: u64,
    /// The position of the last record that changed an account of the checkpoint; `None` if the checkpoint has no accounts.
    /// The journal must contain this record.
    pub last_record: Option<Position>,
}

/// Opens the checkpoint files of a data directory. The number of a file is the number of the first block after the
/// start point of the checkpoint.
///
/// # Errors
/// [`JournalError::Disk`] if the directory of checkpoints cannot be made or read.
pub fn files(directory: &DataDirectory) -> Result<ChunkedFiles, JournalError> {
    ChunkedFiles::open(directory, DIRECTORY, "", SUFFIX)
}

/// Opens the checkpoint files like [`files`], but changes nothing on disk.
#[must_use]
pub(super) fn files_read_only(directory: &DataDirectory) -> ChunkedFiles {
    ChunkedFiles::open_read_only(directory, DIRECTORY, "", SUFFIX)
}

/// The names of the checkpoint files.
pub(super) const FAMILY: FileFamily = FileFamily {
    subdirectory: DIRECTORY,
    prefix: "",
    suffix: SUFFIX,
};

// ===== impl ChunkStart =====

impl ChunkStart {
    /// The start of a checkpoint.
    pub const FIRST: ChunkStart = ChunkStart::Accounts(AccountIndex(0));

    /// The start of the next chunk if this one is full; `None` if no number is left.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "both constants are small")]
    pub const fn after_full_chunk(self) -> Option<Self> {
        match self {
            ChunkStart::Accounts(from) => match from.0.checked_add(CHUNK_ACCOUNTS as u32) {
                Some(next) => Some(ChunkStart::Accounts(AccountIndex(next))),
                None => None,
            },
            ChunkStart::Holds(from) => match from.checked_add(CHUNK_HOLDS as u32) {
                Some(next) => Some(ChunkStart::Holds(next)),
                None => None,
            },
        }
    }
}

// ===== impl LoadedCheckpoint =====

impl LoadedCheckpoint {
    /// Makes the state before the first block: a ledger without accounts. `start` is the start of the journal.
    pub(super) fn empty(start: ChainPoint, seed: u64) -> Self {
        LoadedCheckpoint {
            ledger: Ledger::new(seed),
            start: DurablePoint {
                chain: start,
                order: OrderPoint::START,
            },
            durable_through: 0,
            last_record: None,
        }
    }
}

// ===== impl CheckpointWriter =====

impl CheckpointWriter {
    /// Begins a checkpoint with the start point `start`. A recovery from this checkpoint replays the blocks after
    /// `start`.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk is full or fails.
    pub fn begin(files: &ChunkedFiles, start: &DurablePoint) -> Result<Self, JournalError> {
        let mut file = files.create(start.chain.block_sequence)?;
        let mut meta = vec![VERSION];
        meta.extend_from_slice(&start.chain.to_bytes());
        put_varint_u64(&mut meta, start.order.next_entry);
        put_varint_u64(&mut meta, start.order.next_sequence);
        put_varint_u64(&mut meta, start.order.last_time.as_nanos());
        file.write_chunk(&meta)?;
        Ok(CheckpointWriter { file })
    }

    /// Adds a chunk, encoded by [`put_chunk`].
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk is full or fails.
    pub fn chunk(&mut self, chunk: &[u8]) -> Result<(), JournalError> {
        self.file.write_chunk(chunk)
    }

    /// Completes the checkpoint and gives it its final name. `durable_through` is the number of the last durable block.
    /// Returns the length of the file, in bytes.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk is full or fails.
    pub fn finish(mut self, durable_through: u64) -> Result<u64, JournalError> {
        let mut last = Vec::new();
        put_varint_u64(&mut last, durable_through);
        self.file.write_chunk(&last)?;
        self.file.finish()
    }
}

/// Appends the chunk of a checkpoint that begins at `from`. Returns the start of the next chunk, or `None` after the last one.
/// The holds come after the accounts.
pub fn put_chunk(ledger: &Ledger, from: ChunkStart, out: &mut Vec<u8>) -> Option<ChunkStart> {
    match from {
        ChunkStart::Accounts(from) => {
            out.push(ACCOUNTS);
            let next = put_accounts(ledger, from, out);
            Some(next.map_or(ChunkStart::Holds(0), ChunkStart::Accounts))
        }
        ChunkStart::Holds(from) => {
            out.push(HOLDS);
            let (holds, next) = ledger.holds().page(from, CHUNK_HOLDS);
            for hold in holds {
                hold.put(out);
            }
            next.map(ChunkStart::Holds)
        }
    }
}

/// Appends the encodings of up to [`CHUNK_ACCOUNTS`] accounts to `out`, beginning with the account `from`. Returns the
/// number of the next account, or `None` if no account is left.
///
/// # Panics
/// If the table of accounts does not contain an account that it lists: the checkpoint would lose the account's
/// balances.
fn put_accounts(ledger: &Ledger, from: AccountIndex, out: &mut Vec<u8>) -> Option<AccountIndex> {
    let accounts = ledger.accounts();
    let mut indexes = accounts.indexes_from(from);
    for index in indexes.by_ref().take(CHUNK_ACCOUNTS) {
        let (Some(account), Some((content, create_time))) = (accounts.get(index), accounts.content(index))
        else {
            panic!(
                "account number {} is in the list of accounts, but not in the table",
                index.0
            );
        };
        content.put(out);
        put_balances(out, &account.balances);
        put_varint_u64(out, account.head);
        put_varint_u64(out, create_time.as_nanos());
        accounts.put_extras(index, out);
    }
    indexes.next()
}

/// Loads the newest checkpoint that is undamaged and readable. Returns `None` if no such checkpoint exists. Skips a
/// damaged checkpoint and logs a warning. The result of the recovery is the same with an older checkpoint, because the
/// replay then begins earlier in the journal.
///
/// # Errors
/// [`JournalError::UnsupportedVersion`] if a checkpoint has a format version that this program does not support,
/// [`JournalError::Disk`] if the directory of checkpoints cannot be listed.
pub fn load(files: &ChunkedFiles, seed: u64) -> Result<Option<LoadedCheckpoint>, JournalError> {
    let mut loaded = files.newest(|_, file| read(file, seed))?;
    if planted("stale_checkpoint_for_newer")
        && let Some(newest) = &mut loaded
        && let Some(oldest) = files.numbers()?.first()
    {
        newest.ledger = read(&files.open_checked(*oldest)?, seed)?.ledger;
    }
    Ok(loaded)
}

/// Reads a checkpoint file whose checksums have been verified.
///
/// # Errors
/// [`JournalError::ChunkedFile`] if the file does not contain a checkpoint, [`JournalError::Disk`] if the disk fails.
pub(super) fn read(file: &ChunkedFileReader, seed: u64) -> Result<LoadedCheckpoint, JournalError> {
    let malformed = |Malformed { what }| file.malformed(what);
    let last = file
        .chunks()
        .checked_sub(1)
        .ok_or_else(|| file.malformed("chunks"))?;
    let mut chunk = Vec::new();
    file.read_chunk(0, &mut chunk)?;
    let start = read_start(&chunk).map_err(malformed)?;
    let mut ledger = Ledger::new(seed);
    let mut last_record = None;
    for number in 1..last {
        file.read_chunk(number, &mut chunk)?;
        let mut reader = Reader::new(&chunk);
        let kind = reader.u8().map_err(malformed)?;
        while !reader.is_empty() {
            match kind {
                ACCOUNTS => {
                    let head = read_account(&mut reader, &mut ledger).map_err(malformed)?;
                    last_record = last_record.max(Some(Position::from_u64(head)));
                }
                HOLDS => {
                    let hold = Hold::take(&mut reader).map_err(malformed)?;
                    if ledger.holds().get(hold.place).is_some() {
                        return Err(file.malformed("each hold once"));
                    }
                    ledger.holds_mut().insert(hold);
                }
                _ => return Err(file.malformed("accounts or holds")),
            }
        }
    }
    file.read_chunk(last, &mut chunk)?;
    let durable_through = Reader::new(&chunk).varint_u64().map_err(malformed)?;
    Ok(LoadedCheckpoint {
        ledger,
        start,
        durable_through,
        last_record,
    })
}

fn read_start(chunk: &[u8]) -> Result<DurablePoint, Malformed> {
    let mut reader = Reader::new(chunk);
    if reader.u8()? != VERSION {
        return Err(Malformed {
            what: "a checkpoint of a known version",
        });
    }
    let chain = reader
        .bytes(CHAIN_POINT_BYTES)?
        .try_into()
        .map_err(|_| Malformed {
            what: "a chain point",
        })?;
    let chain = ChainPoint::from_bytes(chain);
    let order = OrderPoint {
        next_entry: reader.varint_u64()?,
        next_sequence: reader.varint_u64()?,
        last_time: Timestamp::from_nanos(reader.varint_u64()?),
    };
    if order.next_entry == 0 || order.next_sequence == 0 {
        return Err(Malformed {
            what: "numbers of records and transactions, which start at 1",
        });
    }
    Ok(DurablePoint { chain, order })
}

/// Decodes the next account and adds it to `ledger`. Returns the place of the record that last changed the account.
fn read_account(reader: &mut Reader<'_>, ledger: &mut Ledger) -> Result<u64, Malformed> {
    let account = NewAccount::take(reader)?;
    let balances = take_balances(reader)?;
    let head = reader.varint_u64()?;
    let create_time = Timestamp::from_nanos(reader.varint_u64()?);
    let accounts = ledger.accounts_mut();
    let pushed = accounts.push(account, head, create_time);
    let index = pushed.map_err(|_| Malformed {
        what: "no more accounts and assets than a ledger may hold",
    })?;
    let Some(account) = accounts.get_mut(index) else {
        panic!(
            "account number {} was added, but is not in the table of accounts",
            index.0
        );
    };
    account.balances = balances;
    accounts.take_extras(index, reader)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tally_ledger::{AccountStatus, Amount, BalanceRule, Links, Metadata, RecordPlace, record::Record};

    #[test]
    fn a_checkpoint_with_many_assets_restores_the_same_accounts() {
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
                velocity_limits: Vec::new(),
            };
            let index = AccountIndex(number);
            let record = Record::AccountCreated { index, account };
            let at = RecordPlace {
                entry: u64::from(number) + 1,
                place: u64::from(number),
                time: Timestamp::default(),
            };
            replayed.replay(record, Links::default(), at).unwrap();
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
