//! `ListTransactions`: the ledger in its order.

use std::{collections::HashSet, sync::Arc};

use tally_journal::Position;
use tally_ledger::{Record, id::check_id};
use tonic::Status;

use super::{
    event::Event,
    head::Blocks,
    range::{Range, RangeFields, bound_bytes, hex_numbers, order_of},
};
use crate::{
    engine::TallyEngine,
    grpc::{
        limits::QUERY_BYTES_MAX,
        paging::{fingerprint, page_limit, wrong_token},
        read_call::ReadCall,
        status,
        transactions::lookup::Lookup,
        transport::{
            framing::{AdmittedCall, Inbound},
            outbound::AnswerResult,
        },
    },
    proto::{self, ListTransactionsRequest, ListTransactionsResponse},
    security::Scope,
    store::embedded::{
        FoundRecord, HistoryReader, RecordError,
        history::{Order, TRANSACTIONS_BYTES_MAX},
    },
};

/// Maximum memory of the descriptions of a page, in bytes. A page ends early if its descriptions take more.
const DESCRIPTIONS_BYTES_MAX: usize = 4 << 20;

/// Which transactions a list or a watch shows.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    id_prefix: String,
    /// The ids that the caller may see.
    scope: Scope,
}

// ===== impl Filter =====

impl Filter {
    /// Reads the filter of a request.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if the prefix has other characters than an id.
    pub(super) fn of(id_prefix: &str, scope: Scope) -> Result<Self, Status> {
        if !id_prefix.is_empty() {
            check_id(id_prefix).map_err(|error| status::invalid_field("id_prefix", error.to_string()))?;
        }
        Ok(Filter {
            id_prefix: id_prefix.to_owned(),
            scope,
        })
    }

    /// Whether the list shows a record. An expiry counts as its hold.
    pub(super) fn accepts(&self, record: &FoundRecord) -> bool {
        let Ok(framed) = record.framed() else {
            return true;
        };
        let id = match &framed.record {
            Record::HoldExpired { hold_id, .. } => hold_id,
            Record::Committed { transaction, .. } => transaction.id_bytes(),
            Record::Rejected { .. } | Record::AccountCreated { .. } | Record::AccountUpdated { .. } => {
                return false;
            }
        };
        self.accepts_id(id)
    }

    /// Whether the list shows a transaction with this id, or the expiry of a hold with this id.
    pub(super) fn accepts_id(&self, id: &[u8]) -> bool {
        id.starts_with(self.id_prefix.as_bytes()) && self.scope.contains(id)
    }

    /// Whether the list shows all transactions, with all ids.
    pub(super) fn accepts_all(&self) -> bool {
        self.id_prefix.is_empty() && self.scope.prefix().is_none()
    }

    /// The ids that the caller may see.
    pub(super) const fn scope(&self) -> &Scope {
        &self.scope
    }
}

/// Answers `ListTransactions`.
///
/// # Errors
/// INVALID_ARGUMENT, or an error of the engine.
pub(crate) async fn list_transactions(engine: Arc<TallyEngine>, call: AdmittedCall) -> AnswerResult {
    let (request, mut inbound) =
        Inbound::read_request::<ListTransactionsRequest>(call, QUERY_BYTES_MAX).await?;
    let page = transactions_page(&engine, &request, &mut inbound).await?;
    Ok(inbound.answer(&page))
}

/// Reads a page of the ledger.
///
/// # Errors
/// INVALID_ARGUMENT, or an error of the engine.
pub(crate) async fn transactions_page(
    engine: &TallyEngine,
    request: &ListTransactionsRequest,
    call: &mut impl ReadCall,
) -> Result<ListTransactionsResponse, Status> {
    let limit = page_limit(request.page_size)?;
    let range = Range::of(RangeFields {
        from_sequence: request.from_sequence,
        to_sequence: request.to_sequence,
        from_time: request.from_time.as_ref(),
        to_time: request.to_time.as_ref(),
    })?;
    let filter = Filter::of(&request.id_prefix, call.scope())?;
    let token = Token::of(request, range, &filter)?;
    let order = order_of(request.newest_first);
    let durable = engine.durable();
    let next = durable.order().next_sequence;
    let head = request.with_blocks.then(|| durable.chain());
    call.hold(TRANSACTIONS_BYTES_MAX)?;
    let scanned = filter.clone();
    let read = engine.read_history(call.deadline(), move |reader, _| {
        let end = durable.chain().position;
        let (from, to) = match token {
            Some(Token { from, to, .. }) => (from, to.min(next)),
            None => sequences(reader, range, next, end)?,
        };
        let page = reader.transactions((from, to), order, limit, end, &|record| scanned.accepts(record))?;
        let blocks = Blocks::of(reader, page.records.iter(), head.as_ref())?;
        Ok((page, blocks, (from, to)))
    });
    let (page, blocks, (from, to)) = read.await?;
    let lookup = Lookup::new(engine, call.deadline());
    let (found, left_out) = fitting(page.records, call)?;
    let mut accounts = HashSet::new();
    for event in &found {
        accounts.extend(event.accounts()?);
    }
    let ids = lookup.ids(accounts).await?;
    let describe = |event: &Event| {
        let mut described = event.describe(&ids, &filter.scope)?;
        described.block = blocks.get(event.record());
        Ok::<_, Status>(described)
    };
    let transactions: Vec<proto::Transaction> = found.iter().map(describe).collect::<Result<_, _>>()?;
    // The newest sequence when the first page fixed the end of the range. A client that continues with the next sequence misses nothing.
    let durable = token.map_or(next - 1, |token| token.durable.min(next - 1));
    let rest = left_out.or(page.next);
    let rest = rest.map(|rest| Token { from, to, durable }.at(rest, order));
    Ok(ListTransactionsResponse {
        transactions,
        next_page_token: rest.map_or_else(String::new, |rest| rest.text(request, range, &filter)),
        durable_sequence: i64::try_from(durable).unwrap_or(i64::MAX),
    })
}

/// Returns the first sequence of a range, and the first sequence after the range.
fn sequences(
    reader: &HistoryReader,
    range: Range,
    next: u64,
    end: Position,
) -> Result<(u64, u64), RecordError> {
    let after = |bound| reader.sequence_after(bound, next, end);
    Ok((
        range.from.map_or(Ok(1), after)?,
        range.to.map_or(Ok(next), after)?,
    ))
}

/// Returns the records whose descriptions fit into the memory of a page, and the sequence of the first record that does not fit.
fn fitting(records: Vec<FoundRecord>, call: &mut impl ReadCall) -> Result<(Vec<Event>, Option<u64>), Status> {
    let mut found = Vec::new();
    let mut bytes = 0;
    for record in records {
        let sequence = record.place().sequence;
        let event = Event::of(record)?;
        bytes += event.memory_bytes()?;
        // The first record is always added, so that each page makes progress.
        if !found.is_empty() && bytes > DESCRIPTIONS_BYTES_MAX {
            return Ok((found, Some(sequence)));
        }
        call.hold(TRANSACTIONS_BYTES_MAX + bytes)?;
        found.push(event);
    }
    Ok((found, None))
}

/// The content of a page token: the range of sequences that is left, and the newest durable sequence when the first page was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token {
    from: u64,
    to: u64,
    durable: u64,
}

// ===== impl Token =====

impl Token {
    /// Reads the token of a request. `None` for the first page.
    fn of(request: &ListTransactionsRequest, range: Range, filter: &Filter) -> Result<Option<Self>, Status> {
        let text = request.page_token.as_str();
        if text.is_empty() {
            return Ok(None);
        }
        let read = || {
            let [from, to, durable, _] = hex_numbers(text.strip_prefix('t')?)?;
            let token = Token { from, to, durable };
            (token.text(request, range, filter) == text).then_some(token)
        };
        read().map(Some).ok_or_else(|| wrong_token("ListTransactions"))
    }

    /// The token of the page that begins with the sequence `next`.
    const fn at(self, next: u64, order: Order) -> Self {
        match order {
            Order::OldestFirst => Token { from: next, ..self },
            // The upper end is exclusive.
            Order::NewestFirst => Token { to: next + 1, ..self },
        }
    }

    fn text(self, request: &ListTransactionsRequest, range: Range, filter: &Filter) -> String {
        let print = fingerprint(&[
            request.id_prefix.as_bytes(),
            filter.scope.prefix().unwrap_or("").as_bytes(),
            &[u8::from(request.newest_first)],
            &bound_bytes(range.from),
            &bound_bytes(range.to),
        ]);
        let Token { from, to, durable } = self;
        format!("t{from:x}.{to:x}.{durable:x}.{print:x}")
    }
}
