//! `ListAccountEntries`: the statement of an account.

use std::{collections::HashSet, sync::Arc};

use tally_journal::Position;
use tally_ledger::{Change, Names, Phase, Record, Side, id::check_id};
use tonic::Status;

use super::{
    head::{Blocks, damaged},
    range::{Range, RangeFields, bound_bytes, hex_numbers, order_of},
};
use crate::{
    engine::TallyEngine,
    grpc::{
        fields::{from_amount, from_balances, from_time},
        limits::QUERY_BYTES_MAX,
        paging::{fingerprint, page_limit, wrong_token},
        read_call::ReadCall,
        status,
        transactions::lookup::{AccountIds, Lookup, effective_time, phase_of, text},
        transport::{
            framing::{AdmittedCall, Inbound},
            outbound::AnswerResult,
        },
    },
    proto::{self, AccountEntry, ListAccountEntriesRequest, ListAccountEntriesResponse},
    security::Scope,
    store::embedded::{
        FoundRecord, HistoryReader, RecordError,
        history::{Order, Page, RowPlace, STATEMENT_BYTES_MAX, StatementRow},
    },
};

/// Maximum memory of a row in an answer, in bytes: the row with its ids, and its encoding.
const ENTRY_BYTES: usize = 1 << 10;

/// Answers `ListAccountEntries`.
///
/// # Errors
/// INVALID_ARGUMENT, NOT_FOUND if the account does not exist, or an error of the engine.
pub(crate) async fn list_entries(engine: Arc<TallyEngine>, call: AdmittedCall) -> AnswerResult {
    let (request, mut inbound) =
        Inbound::read_request::<ListAccountEntriesRequest>(call, QUERY_BYTES_MAX).await?;
    let page = entries_page(&engine, &request, &mut inbound).await?;
    Ok(inbound.answer(&page))
}

/// Reads a page of a statement.
///
/// # Errors
/// INVALID_ARGUMENT, NOT_FOUND if the account does not exist, or an error of the engine.
pub(crate) async fn entries_page(
    engine: &TallyEngine,
    request: &ListAccountEntriesRequest,
    call: &mut impl ReadCall,
) -> Result<ListAccountEntriesResponse, Status> {
    let limit = page_limit(request.page_size)?;
    check_id(&request.account_id).map_err(|error| status::invalid_field("account_id", error.to_string()))?;
    let range = Range::of(RangeFields {
        from_sequence: request.from_sequence,
        to_sequence: request.to_sequence,
        from_time: request.from_time.as_ref(),
        to_time: request.to_time.as_ref(),
    })?;
    let scope = call.scope();
    // An account of another tenant looks as if it did not exist.
    if !scope.contains(request.account_id.as_bytes()) {
        return Err(status::account_not_found(&request.account_id));
    }
    let token = Token::of(request, range)?;
    call.hold(STATEMENT_BYTES_MAX + limit * ENTRY_BYTES)?;
    let history = engine
        .account_history(request.account_id.clone(), call.deadline())
        .await?;
    let found = history.ok_or_else(|| status::account_not_found(&request.account_id))?;
    // The newest sequence when the first page fixed the end of the range. A client that continues with the next sequence misses nothing.
    let now = found.next_sequence - 1;
    let durable = token.map_or(now, |token| token.durable.min(now));
    let history = found.history;
    let order = order_of(request.newest_first);
    let head = request.with_blocks.then(|| engine.durable().chain());
    let read = engine.read_history(call.deadline(), move |reader, end| {
        let (from, to) = match token {
            Some(Token { from, to, .. }) => (from, to),
            None => rows_of(reader, range, history.newest.place, end)?,
        };
        let page = reader.statement(&history, (from, to), order, limit)?;
        let blocks = Blocks::of(reader, page.records.iter(), head.as_ref())?;
        Ok((page, blocks, (from, to)))
    });
    let (page, blocks, (from, to)) = read.await?;
    let lookup = Lookup::new(engine, call.deadline());
    let counterparties: HashSet<_> = page.rows.iter().map(|row| row.row.counterparty).collect();
    let ids = lookup.ids(counterparties).await?;
    let next = page.next;
    let next = next.map(|next| Token { from, to, durable }.at(next, order));
    Ok(ListAccountEntriesResponse {
        entries: entries(&page, &ids, &scope, &blocks)?,
        next_page_token: next.map_or_else(String::new, |next| next.text(request, range)),
        durable_sequence: i64::try_from(durable).unwrap_or(i64::MAX),
    })
}

/// Returns the places of the rows of a range: the first row, and the first row after the range. `newest` is the place of the account's newest
/// record.
fn rows_of(
    reader: &HistoryReader,
    range: Range,
    newest: u64,
    end: Position,
) -> Result<(RowPlace, RowPlace), RecordError> {
    let place = |bound| reader.place_after(bound, end);
    let from = range.from.map_or(Ok(0), place)?;
    let to = range.to.map_or(Ok(newest + 1), place)?.min(newest + 1);
    Ok((RowPlace { record: from, row: 0 }, RowPlace { record: to, row: 0 }))
}

fn entries(
    page: &Page,
    ids: &AccountIds,
    scope: &Scope,
    blocks: &Blocks,
) -> Result<Vec<AccountEntry>, Status> {
    let described = page.rows.iter().map(|row| {
        let record = page.records.get(row.record);
        let record = record.ok_or_else(|| Status::internal("a row of a page has no record"))?;
        entry(row, record, ids, scope, blocks)
    });
    described.collect()
}

/// Describes a row. Ids outside of `scope` are left out.
fn entry(
    row: &StatementRow,
    record: &FoundRecord,
    ids: &AccountIds,
    scope: &Scope,
    blocks: &Blocks,
) -> Result<AccountEntry, Status> {
    let framed = record.framed().map_err(|_| damaged(record))?;
    let place = record.place();
    let visible = |id: String| {
        if scope.contains(id.as_bytes()) {
            id
        } else {
            String::new()
        }
    };
    let Change {
        posted,
        reserved,
        released,
        ..
    } = row.row.change;
    let mut entry = AccountEntry {
        sequence: i64::try_from(place.sequence).unwrap_or(i64::MAX),
        commit_time: Some(from_time(place.time)),
        transfer_index: i32::try_from(row.row.leg).unwrap_or(i32::MAX),
        side: match row.row.side {
            Side::Debit => proto::Side::Debit,
            Side::Credit => proto::Side::Credit,
        }
        .into(),
        counterparty_account_id: visible(ids.get(row.row.counterparty).to_owned()),
        amount: Some(from_amount(posted)),
        released_amount: (!released.is_zero()).then(|| from_amount(released)),
        balances: Some(from_balances(&row.row.balances)),
        block: blocks.get(record),
        ..AccountEntry::default()
    };
    match &framed.record {
        Record::HoldExpired { hold_id, .. } => {
            entry.phase = proto::TransactionPhase::ExpirePending.into();
            entry.pending_transaction_id = visible(text(hold_id));
        }
        Record::Committed { transaction, .. } => {
            entry.transaction_id = visible(transaction.id().to_owned());
            entry.effective_time = transaction.effective_time().map(effective_time);
            entry.phase = phase_of(transaction.phase()).into();
            if transaction.phase() == Phase::Pending {
                entry.amount = Some(from_amount(reserved));
            }
            if let Names::Hold(hold) = transaction.names() {
                entry.pending_transaction_id = visible(text(hold));
            }
            let transfer = transaction.transfers().nth(row.row.leg).transpose();
            let transfer = transfer.map_err(|_| damaged(record))?;
            let code = transfer.map_or(0, |transfer| transfer.code);
            entry.code = i32::try_from(code).unwrap_or(i32::MAX);
        }
        Record::Rejected { .. } | Record::AccountCreated { .. } | Record::AccountUpdated { .. } => {
            return Err(damaged(record));
        }
    }
    Ok(entry)
}

/// The content of a page token: the range of rows that is left, and the newest durable sequence when the first page was read. Places
/// of rows never change, so a token stays valid for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token {
    from: RowPlace,
    to: RowPlace,
    durable: u64,
}

// ===== impl Token =====

impl Token {
    /// Reads the token of a request. `None` for the first page.
    fn of(request: &ListAccountEntriesRequest, range: Range) -> Result<Option<Self>, Status> {
        let text = request.page_token.as_str();
        if text.is_empty() {
            return Ok(None);
        }
        let read = || {
            let [from, from_row, to, to_row, durable, _] = hex_numbers(text.strip_prefix('e')?)?;
            let place = |record, row| {
                let row = u32::try_from(row).ok()?;
                Some(RowPlace { record, row })
            };
            let token = Token {
                from: place(from, from_row)?,
                to: place(to, to_row)?,
                durable,
            };
            (token.text(request, range) == text).then_some(token)
        };
        read().map(Some).ok_or_else(|| wrong_token("ListAccountEntries"))
    }

    /// The token of the page that begins with the row at `next`.
    const fn at(self, next: RowPlace, order: Order) -> Self {
        match order {
            Order::OldestFirst => Token { from: next, ..self },
            // The upper end is exclusive.
            Order::NewestFirst => Token {
                to: RowPlace {
                    row: next.row + 1,
                    ..next
                },
                ..self
            },
        }
    }

    fn text(self, request: &ListAccountEntriesRequest, range: Range) -> String {
        let print = fingerprint(&[
            request.account_id.as_bytes(),
            &[u8::from(request.newest_first)],
            &bound_bytes(range.from),
            &bound_bytes(range.to),
        ]);
        let Token { from, to, durable } = self;
        format!(
            "e{:x}.{:x}.{:x}.{:x}.{durable:x}.{print:x}",
            from.record, from.row, to.record, to.row
        )
    }
}
