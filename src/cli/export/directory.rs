//! Exports from the data directory of a stopped service.
//!
//! The journal has the creations and updates of accounts at their places in the order, and the export keeps these places. Only velocity
//! limits come at the end: they use the time of the import, so at their places in the order they would reject transactions.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use tally_journal::RealDisk;
use tally_ledger::{Committed, Timestamp};

use super::{counts::Counts, range::Range, writer::Writer};
use crate::{
    cli::{
        exit::{self, Failure},
        verify::check_directory,
    },
    grpc::{Described, Describer},
    proto::{Account, AccountStatus, VelocityLimit},
    store::embedded::{FoundRecord, OpenError, StoppedDirectory},
};

/// The mask of an update at its place in the order.
const TERMS: &str = "status,overdraftLimit,metadata";
/// The mask of an update that closes an account.
const ALL_TERMS: &str = "status,overdraftLimit,metadata,velocityLimits";
/// The field of the velocity limits in an update.
const VELOCITY_LIMITS: &str = "velocityLimits";

/// An export from a directory.
struct Export {
    range: Bounds,
    writer: Writer,
    describer: Describer,
    /// The velocity limits of the accounts that have some, by id.
    velocity_limits: BTreeMap<String, Vec<VelocityLimit>>,
    /// The place of the last record that an interrupted export has written.
    resumes_after: Option<u64>,
    segment_bytes: u64,
}

/// The range, in the types of the journal.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    from_sequence: Option<u64>,
    to_sequence: Option<u64>,
    from_time: Option<Timestamp>,
    to_time: Option<Timestamp>,
}

/// Why the reading of the directory ended early.
enum Stop {
    Failed(Failure),
    /// Nobody reads the output any more.
    Closed,
}

/// Exports from the directory `data`. Returns what was written.
pub(super) fn export(data: &Path, range: Range, writer: Writer) -> Result<Counts, Failure> {
    check_directory(data)?;
    let directory = StoppedDirectory::open(Arc::new(RealDisk), data)?;
    writer.set_length(journal_bytes(data));
    let resumes_after = match writer.place() {
        "" => None,
        place => Some(place.parse().map_err(|_| {
            let message =
                format!("the note of the interrupted export has the place {place:?}, which is not a number");
            Failure::with_message(exit::DATA, message)
        })?),
    };
    let mut export = Export {
        range: Bounds::of(&range),
        writer,
        describer: Describer::default(),
        velocity_limits: BTreeMap::new(),
        resumes_after,
        segment_bytes: directory.segment_bytes().into(),
    };
    match directory.each_record(|record| export.record(record)) {
        Ok(()) => {}
        Err(Stop::Closed) => return export.writer.finish(),
        Err(Stop::Failed(failure)) => return Err(failure),
    }
    if range.is_open {
        for (id, velocity_limits) in export.velocity_limits {
            let account = Account {
                id,
                velocity_limits,
                ..Account::default()
            };
            export.writer.update(&account, VELOCITY_LIMITS)?;
        }
    }
    export.writer.finish()
}

/// Returns the length of the journal, for the progress bar. It is too long by the unused part of the last segment.
fn journal_bytes(data: &Path) -> u64 {
    let Ok(files) = data.join("journal").read_dir() else {
        return 0;
    };
    let lengths = files.filter_map(|file| file.ok()?.metadata().ok().map(|metadata| metadata.len()));
    lengths.sum()
}

// ===== impl Export =====

impl Export {
    fn record(&mut self, record: FoundRecord) -> Result<(), Stop> {
        let (place, position) = (record.position(), record.place());
        let is_written =
            self.range.contains(&position) && self.resumes_after.is_none_or(|after| place.as_u64() > after);
        // Accounts are read in any case, because later records name them by their numbers.
        let is_transaction = record.framed().is_ok_and(|framed| framed.record.has_sequence());
        if is_transaction && !is_written {
            return Ok(());
        }
        let described = self.describer.describe(record).map_err(|status| {
            Stop::Failed(Failure::with_message(exit::FAILED, status.message().to_owned()))
        })?;
        match described {
            None => return Ok(()),
            Some(Described::Account(account)) => self.account(*account, is_written)?,
            Some(Described::Update(account)) => self.update(*account, is_written)?,
            Some(Described::Transaction(transaction)) => {
                self.writer.transaction(&transaction)?;
            }
        }
        if is_written {
            let done = u64::from(place.segment()) * self.segment_bytes + u64::from(place.offset());
            self.writer.set_position(done);
            self.writer.settle(|| place.as_u64().to_string())?;
        }
        if self.writer.is_closed() {
            return Err(Stop::Closed);
        }
        Ok(())
    }

    fn account(&mut self, mut account: Account, is_written: bool) -> Result<(), Failure> {
        self.writer.note_account(&account);
        self.note_limits(&mut account);
        if is_written {
            self.writer.account(&account)?;
        }
        Ok(())
    }

    fn update(&mut self, mut account: Account, is_written: bool) -> Result<(), Failure> {
        self.note_limits(&mut account);
        if is_written {
            let is_closed = account.status() == AccountStatus::Closed;
            let mask = if is_closed { ALL_TERMS } else { TERMS };
            self.writer.update(&account, mask)?;
        }
        Ok(())
    }

    /// Takes the velocity limits out of an account, and notes them for the end. A closed account keeps its limits: it has no later
    /// transactions, and its limits can't be set later.
    fn note_limits(&mut self, account: &mut Account) {
        if account.status() == AccountStatus::Closed {
            self.velocity_limits.remove(&account.id);
            return;
        }
        let limits = std::mem::take(&mut account.velocity_limits);
        if limits.is_empty() {
            self.velocity_limits.remove(&account.id);
        } else {
            self.velocity_limits.insert(account.id.clone(), limits);
        }
    }
}

// ===== impl Bounds =====

impl Bounds {
    fn of(range: &Range) -> Self {
        let sequence = |sequence: i64| u64::try_from(sequence).ok().filter(|sequence| *sequence > 0);
        // A time before 1970 is before everything, and a time that is too late for the ledger is after everything.
        let time = |time: prost_types::Timestamp| {
            let seconds = u64::try_from(time.seconds).unwrap_or_default();
            let nanos = u64::try_from(time.nanos).unwrap_or_default();
            Timestamp::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
        };
        Bounds {
            from_sequence: sequence(range.ends.from_sequence),
            to_sequence: sequence(range.ends.to_sequence),
            from_time: range.ends.from_time.map(time),
            to_time: range.ends.to_time.map(time),
        }
    }

    /// Whether a record at this place of the order belongs to the range. Creations and updates of accounts have the place of the next
    /// transaction after them.
    fn contains(&self, place: &Committed) -> bool {
        self.from_sequence.is_none_or(|from| place.sequence >= from)
            && self.to_sequence.is_none_or(|to| place.sequence < to)
            && self.from_time.is_none_or(|from| place.time >= from)
            && self.to_time.is_none_or(|to| place.time < to)
    }
}

// ===== impl Stop =====

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failed(failure)
    }
}

impl From<OpenError> for Stop {
    fn from(error: OpenError) -> Self {
        Stop::Failed(error.into())
    }
}
