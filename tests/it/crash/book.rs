//! The book of the crash harness: all transactions that the clients have sent, and the answers.

use std::collections::{BTreeMap, HashMap};

use prost_types::Timestamp;
use tally::proto::ProcessTransactionRequest;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::Random;
use crate::support::in_process::{transaction, transfer};

/// Number of accounts.
pub(super) const ACCOUNTS: u64 = 16;
/// Maximum length of the metadata of a transaction, in bytes. It makes the journal grow fast.
const METADATA_BYTES_MAX: u64 = 900;

/// Everything that was sent.
#[derive(Debug, Default)]
pub(super) struct Book {
    entries: HashMap<String, Entry>,
    /// The ids of acknowledged transactions, in the order of their acknowledgements.
    acknowledged: Vec<String>,
    /// The transactions that a client should repeat: their outcome is unknown, or they were certainly not executed.
    to_repeat: Vec<String>,
    /// Calls by the reason of their error.
    pub(super) errors: BTreeMap<String, u64>,
}

/// A transaction that was sent.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) content: Content,
    pub(super) known: Known,
    /// Whether an audit has read the transaction since it was sent last.
    pub(super) audited: bool,
    /// Whether another process may send the transaction at any time.
    is_imported: bool,
}

/// The content of a transaction. It is smaller than the request, because a long run keeps many contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) debit: u64,
    pub(super) credit: u64,
    pub(super) units: i64,
    /// Length of the metadata, in bytes; `None` if there is no metadata.
    pub(super) text: Option<usize>,
}

/// What the clients know about a transaction.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Known {
    /// It is unknown whether the transaction was executed.
    Unknown,
    /// Every answer says that the transaction was not executed, or an attempt is in flight.
    NotExecuted,
    /// The transaction was acknowledged, or an audit has found it.
    Committed(Place),
}

/// The place of a transaction in the order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Place {
    pub(super) sequence: i64,
    pub(super) time: Timestamp,
}

// ===== impl Book =====

impl Book {
    /// Makes the transaction `id`, and notes that it is sent.
    pub(super) fn new_transaction(&mut self, id: &str, random: &mut Random) -> ProcessTransactionRequest {
        let content = Content {
            text: Some(usize::try_from(random.below(METADATA_BYTES_MAX)).unwrap()),
            ..Content::random(random)
        };
        self.send(id, content);
        content.request(id)
    }

    /// Notes that a transaction is sent, perhaps again.
    fn send(&mut self, id: &str, content: Content) {
        let entry = self.entries.entry(id.to_owned()).or_insert_with(|| Entry {
            id: id.to_owned(),
            content,
            known: Known::NotExecuted,
            audited: false,
            is_imported: false,
        });
        entry.audited = false;
    }

    /// Notes that another process may send a transaction at any time.
    pub(super) fn may_be_sent(&mut self, id: &str, content: Content) {
        self.send(id, content);
        let entry = self.entries.get_mut(id).unwrap();
        (entry.known, entry.is_imported) = (Known::Unknown, true);
    }

    /// Returns up to `count` transactions that are to be sent again.
    pub(super) fn take_repeats(&mut self, count: usize) -> Vec<ProcessTransactionRequest> {
        let from = self.to_repeat.len().saturating_sub(count);
        let ids = self.to_repeat.split_off(from);
        let repeat = |id: &String| {
            let content = self.entries[id].content;
            self.send(id, content);
            content.request(id)
        };
        ids.iter().map(repeat).collect()
    }

    /// Notes the acknowledgement of a transaction.
    pub(super) fn acknowledge(&mut self, id: &str, place: Place) {
        self.settle(id, place);
        self.acknowledged.push(id.to_owned());
    }

    /// Notes the place of a transaction that is committed.
    pub(super) fn settle(&mut self, id: &str, place: Place) {
        let entry = self.entries.get_mut(id).unwrap();
        if let Known::Committed(before) = &entry.known {
            assert_eq!(*before, place, "{id} has two places");
        }
        entry.known = Known::Committed(place);
    }

    /// Notes that an audit has read a transaction that does not exist.
    pub(super) fn set_audited(&mut self, id: &str) {
        let entry = self.entries.get_mut(id).unwrap();
        entry.audited = !entry.is_imported;
    }

    /// Notes that a transaction failed.
    pub(super) fn fail(&mut self, id: &str, status: &Status) {
        *self.errors.entry(reason(status)).or_default() += 1;
        let entry = self.entries.get_mut(id).unwrap();
        if !matches!(entry.known, Known::Committed(_)) && !is_not_executed(status) {
            entry.known = Known::Unknown;
        }
        self.to_repeat.push(id.to_owned());
    }

    /// Drops some of the transactions that would be sent again, so that some transactions are never
    /// sent again.
    pub(super) fn drop_some_repeats(&mut self, random: &mut Random) {
        let entries = &self.entries;
        self.to_repeat
            .retain(|id| random.below(2) == 0 && !matches!(entries[id].known, Known::Committed(_)));
    }

    /// Returns a random acknowledged transaction.
    pub(super) fn any_acknowledged(&self, random: &mut Random) -> Option<Entry> {
        (!self.acknowledged.is_empty())
            .then(|| self.entries[&self.acknowledged[random.between(0, self.acknowledged.len())]].clone())
    }

    /// Returns the number of acknowledgements.
    pub(super) fn acknowledgements(&self) -> usize {
        self.acknowledged.len()
    }

    /// Returns the transactions that were acknowledged after the first `count`.
    pub(super) fn acknowledged_after(&self, count: usize) -> Vec<Entry> {
        let ids = self.acknowledged[count..].iter();
        ids.map(|id| self.entries[id].clone()).collect()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }
}

// ===== impl Content =====

impl Content {
    /// Makes a random content without metadata.
    pub(super) fn random(random: &mut Random) -> Self {
        let debit = random.below(ACCOUNTS);
        Content {
            debit,
            credit: (debit + 1 + random.below(ACCOUNTS - 1)) % ACCOUNTS,
            units: 1 + i64::try_from(random.below(1000)).unwrap(),
            text: None,
        }
    }

    /// Makes the request with this content.
    pub(super) fn request(self, id: &str) -> ProcessTransactionRequest {
        let (debit, credit) = (account_id(self.debit), account_id(self.credit));
        let mut request = transaction(id, vec![transfer(&debit, &credit, self.units)]);
        if let Some(length) = self.text {
            request.metadata.insert("text".to_owned(), "x".repeat(length));
        }
        request
    }
}

// ===== impl Place =====

impl Place {
    pub(super) fn new(sequence: i64, time: Option<Timestamp>) -> Self {
        let time = time.unwrap();
        Place { sequence, time }
    }
}

pub(super) fn account_id(number: u64) -> String {
    format!("account:{number}")
}

/// Returns the reason of an error of the service, or the code of an error of the connection.
pub(super) fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map_or_else(|| format!("{:?}", status.code()), |info| info.reason)
}

/// Returns whether the service says that the call was not executed.
pub(super) fn is_not_executed(status: &Status) -> bool {
    let info = status.get_details_error_info();
    info.is_some_and(|info| {
        info.metadata
            .get("executed")
            .is_some_and(|value| value == "false")
    })
}

/// Returns the status of a transaction in an answer about many transactions.
pub(super) fn status_of(value: &tonic_types::Status) -> Status {
    let details = prost::Message::encode_to_vec(value);
    Status::with_details(Code::from(value.code), value.message.clone(), details.into())
}
