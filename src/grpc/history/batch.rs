//! Encodes consecutive transactions into the frames that watchers get.

use std::collections::HashSet;

use bytes::Bytes;
use prost::Message;
use tally_ledger::AccountIndex;
use tonic::Status;

use super::{
    event::{Event, restrict},
    transactions::Filter,
};
use crate::{
    engine::StoreFault,
    grpc::{
        status,
        transactions::lookup::AccountIds,
        transport::frame::{begin_frame, end_frame},
    },
    proto::WatchTransactionsResponse,
    security::Scope,
    store::embedded::FoundRecord,
};

/// A frame has at most this many bytes, unless it has only one transaction.
pub(super) const FRAME_BYTES: usize = 16 << 10;

/// The transactions of a range of sequences, as the frame of one response. Watchers that want the whole frame share its bytes.
#[derive(Debug)]
pub(super) struct Batch {
    /// The first sequence of the range.
    pub(super) first: u64,
    /// The sequence after the range.
    pub(super) next: u64,
    frame: Bytes,
    items: Vec<Item>,
}

/// A transaction of a batch.
#[derive(Debug)]
struct Item {
    sequence: u64,
    /// The id of the transaction, or of the hold that has expired.
    id: Box<str>,
    /// Where the encoded transaction is in the frame, with its tag and its length.
    start: usize,
    end: usize,
}

/// Encodes a batch.
struct Encoder {
    first: u64,
    frame: Vec<u8>,
    items: Vec<Item>,
}

// ===== impl Batch =====

impl Batch {
    /// Returns the frame for a watcher that wants the transactions of `filter` from the sequence `from` on; `None` if the batch has no such
    /// transaction.
    pub(super) fn frame_for(&self, filter: &Filter, from: u64) -> Option<Bytes> {
        if from <= self.first && filter.accepts_all() {
            return Some(self.frame.clone());
        }
        let wanted = |item: &&Item| item.sequence >= from && filter.accepts_id(item.id.as_bytes());
        let mut wanted = self.items.iter().filter(wanted).peekable();
        wanted.peek()?;
        let mut encoder = Encoder::new(self.first);
        for item in wanted {
            let encoded = self.frame.get(item.start..item.end).unwrap_or_default();
            encoder.put_visible(encoded, filter.scope());
        }
        Some(encoder.end(self.next).frame)
    }

    /// Returns a batch with this frame, and without transactions.
    #[cfg(test)]
    pub(super) fn of_bytes(first: u64, next: u64, frame: Vec<u8>) -> Self {
        Batch {
            first,
            next,
            frame: frame.into(),
            items: Vec::new(),
        }
    }

    /// Memory of the batch, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        let ids: usize = self.items.iter().map(|item| item.id.len()).sum();
        size_of::<Self>() + self.frame.len() + self.items.capacity() * size_of::<Item>() + ids
    }
}

/// Returns the frame of a response without transactions. The stream is complete up to the sequence before `next`.
pub(super) fn heartbeat(next: u64) -> Bytes {
    Encoder::new(next).end(next).frame
}

/// Takes records from `records` until their encoded descriptions can take `bytes_max` bytes. Returns them with an upper bound of the
/// memory that they take, in bytes, and the sequence of the first record that is left.
///
/// # Errors
/// DATA_LOSS if a record is damaged, although its checksum is right.
pub(super) fn take_events(
    records: &mut std::iter::Peekable<impl Iterator<Item = FoundRecord>>,
    bytes_max: usize,
) -> Result<(Vec<Event>, usize, Option<u64>), Status> {
    let (mut events, mut bytes) = (Vec::new(), 0);
    for record in records.by_ref() {
        let event = Event::of(record)?;
        bytes += event.encoded_bytes_max()?;
        events.push(event);
        if bytes >= bytes_max {
            break;
        }
    }
    let rest = records.peek().map(|record| record.place().sequence);
    Ok((events, bytes, rest))
}

/// The accounts whose ids the descriptions of `events` need.
///
/// # Errors
/// DATA_LOSS if a record is damaged, although its checksum is right.
pub(super) fn accounts_of(events: &[Event]) -> Result<HashSet<AccountIndex>, Status> {
    let mut accounts = HashSet::new();
    for event in events {
        accounts.extend(event.accounts()?);
    }
    Ok(accounts)
}

/// Encodes the events of the sequences from `first` up to `next`, on a thread for blocking calls, because many events take
/// milliseconds. Returns no batch if there are no events.
///
/// # Errors
/// DATA_LOSS if a record is damaged, although its checksum is right.
pub(super) async fn encode(
    events: Vec<Event>,
    ids: AccountIds,
    first: u64,
    next: u64,
) -> Result<Vec<Batch>, Status> {
    let encoding = tokio::task::spawn_blocking(move || encode_here(&events, &ids, first, next));
    match encoding.await {
        Ok(batches) => batches,
        // The encoding has panicked, which is a bug, or the runtime ends.
        Err(_) => Err(status::engine(&StoreFault::ReadFailed.into())),
    }
}

fn encode_here(events: &[Event], ids: &AccountIds, first: u64, next: u64) -> Result<Vec<Batch>, Status> {
    let mut batches = Vec::new();
    let mut encoder = Encoder::new(first);
    for event in events {
        let described = event.describe(ids, &Scope::ALL)?;
        let id = match described.transaction_id.as_str() {
            "" => described.pending_transaction_id.clone(),
            id => id.to_owned(),
        };
        let sequence = event.record().place().sequence;
        let one = WatchTransactionsResponse {
            transactions: vec![described],
            durable_sequence: 0,
        };
        if !encoder.items.is_empty() && encoder.frame.len() + one.encoded_len() > FRAME_BYTES {
            let full = std::mem::replace(&mut encoder, Encoder::new(sequence));
            batches.push(full.end(sequence));
        }
        encoder.put(sequence, id, &one);
    }
    if !encoder.items.is_empty() {
        batches.push(encoder.end(next));
    }
    Ok(batches)
}

// ===== impl Encoder =====

impl Encoder {
    fn new(first: u64) -> Self {
        let mut frame = Vec::new();
        begin_frame(&mut frame);
        Encoder {
            first,
            frame,
            items: Vec::new(),
        }
    }

    /// Appends the transaction of `one`. Encoded messages can be appended to each other: the result has the transactions of all.
    fn put(&mut self, sequence: u64, id: String, one: &WatchTransactionsResponse) {
        let start = self.frame.len();
        one.encode_raw(&mut self.frame);
        self.items.push(Item {
            sequence,
            id: id.into(),
            start,
            end: self.frame.len(),
        });
    }

    /// Appends an encoded transaction, without the ids outside of `scope`.
    fn put_visible(&mut self, encoded: &[u8], scope: &Scope) {
        if scope.prefix().is_none() {
            self.frame.extend_from_slice(encoded);
            return;
        }
        // This file has encoded the bytes, so decoding cannot fail. If it failed, leaving out the transaction would not show foreign ids.
        let mut one = WatchTransactionsResponse::decode(encoded).unwrap_or_default();
        for described in &mut one.transactions {
            restrict(described, scope);
        }
        one.encode_raw(&mut self.frame);
    }

    /// Ends the frame. The stream is complete up to the sequence before `next`.
    fn end(self, next: u64) -> Batch {
        let Encoder {
            first,
            mut frame,
            mut items,
        } = self;
        let end = WatchTransactionsResponse {
            transactions: Vec::new(),
            durable_sequence: i64::try_from(next.saturating_sub(1)).unwrap_or(i64::MAX),
        };
        end.encode_raw(&mut frame);
        end_frame(&mut frame, 0);
        frame.shrink_to_fit();
        items.shrink_to_fit();
        Batch {
            first,
            next,
            frame: frame.into(),
            items,
        }
    }
}
