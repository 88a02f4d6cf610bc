//! `ListHolds`: reads the table of outstanding holds step by step, and the records of the holds from the journal.

use std::{collections::HashSet, sync::Arc};

use tally_ledger::{Hold, id::check_id};
use tonic::Status;

use super::pages::HoldsStart;
use crate::{
    engine::TallyEngine,
    grpc::{
        limits::QUERY_BYTES_MAX,
        paging::page_limit,
        read_call::ReadCall,
        status,
        transactions::lookup::{Found, HOLDS_TOGETHER_BYTES, HOLDS_TOGETHER_MAX, Lookup},
        transport::{
            framing::{AdmittedCall, Inbound},
            outbound::AnswerResult,
        },
    },
    proto::{self, HoldState, ListHoldsRequest, ListHoldsResponse},
    security::Scope,
};

/// Maximum number of steps through the table of holds for one page.
const STEPS_MAX: usize = 16;
/// No more holds are added to a page that takes this much memory, in bytes.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Memory of the holds of one step and of the ids of their accounts, in bytes.
const STEP_BYTES: usize = 512 << 10;

/// A page of holds that is being collected.
struct Page<'a> {
    lookup: Lookup<'a>,
    account_id: &'a str,
    /// The holds that the caller may see.
    scope: Scope,
    /// Maximum number of holds.
    limit: usize,
    holds: Vec<proto::Transaction>,
    /// Memory of the holds, in bytes.
    bytes: usize,
}

/// Answers `ListHolds`.
///
/// # Errors
/// INVALID_ARGUMENT, or the error of the engine.
pub(super) async fn list(engine: Arc<TallyEngine>, call: AdmittedCall) -> AnswerResult {
    let (request, mut inbound) = Inbound::read_request::<ListHoldsRequest>(call, QUERY_BYTES_MAX).await?;
    let page = holds_page(&engine, &request, &mut inbound).await?;
    Ok(inbound.answer(&page))
}

/// Reads a page of outstanding holds.
///
/// # Errors
/// INVALID_ARGUMENT, or an error of the engine.
pub(crate) async fn holds_page(
    engine: &TallyEngine,
    request: &ListHoldsRequest,
    call: &mut impl ReadCall,
) -> Result<ListHoldsResponse, Status> {
    let limit = page_limit(request.page_size)?;
    if !request.account_id.is_empty() {
        check_id(&request.account_id)
            .map_err(|error| status::invalid_field("account_id", error.to_string()))?;
    }
    check_state(request.state)?;
    let scope = call.scope();
    let start = HoldsStart::of(&request.page_token, &request.account_id, &scope)?;
    let mut page = Page {
        lookup: Lookup::new(engine, call.deadline()),
        account_id: &request.account_id,
        scope: scope.clone(),
        limit,
        holds: Vec::new(),
        bytes: 0,
    };
    let next = page.fill(engine, start, call).await?;
    Ok(ListHoldsResponse {
        holds: page.holds,
        next_page_token: next.map_or_else(String::new, |next| next.token(&request.account_id, &scope)),
    })
}

fn check_state(state: i32) -> Result<(), Status> {
    let description = match HoldState::try_from(state) {
        Ok(HoldState::Unspecified | HoldState::Pending) => return Ok(()),
        Ok(state) => format!(
            "{} can't be listed, only outstanding holds can (HOLD_STATE_PENDING); GetTransaction shows holds that have ended",
            state.as_str_name()
        ),
        Err(_) => format!("{state} is not a state"),
    };
    Err(status::invalid_field("state", description))
}

impl Page<'_> {
    /// Reads the table from `start` on. Returns the start of the next page, if there is one.
    async fn fill(
        &mut self,
        engine: &TallyEngine,
        mut start: HoldsStart,
        call: &mut impl ReadCall,
    ) -> Result<Option<HoldsStart>, Status> {
        for _ in 0..STEPS_MAX {
            call.hold(self.bytes + STEP_BYTES + HOLDS_TOGETHER_BYTES)?;
            let (mut holds, next) = engine.holds(start.slot, call.deadline()).await?;
            // A slot can get a new hold between two pages, but new holds have greater places. So a hold that is outstanding during
            // both calls is neither left out nor listed twice.
            holds.retain(|hold| hold.place > start.after);
            holds.sort_unstable_by_key(|hold| hold.place);
            let holds = self.possible(holds).await?;
            for some in holds.chunks(HOLDS_TOGETHER_MAX) {
                if let Some(last) = self.add(some, call).await? {
                    let after = last.place;
                    return Ok(Some(HoldsStart { after, ..start }));
                }
            }
            let Some(slot) = next else {
                return Ok(None);
            };
            start = HoldsStart { slot, after: 0 };
        }
        Ok(Some(start))
    }

    /// Whether this is the account whose holds are listed. An account outside of the caller's scope is treated as if it did not exist.
    /// Otherwise the caller could find out which of its holds, made by an unrestricted caller, have a foreign account.
    fn is_listed(&self, account_id: &str) -> bool {
        account_id == self.account_id && self.scope.contains(account_id.as_bytes())
    }

    /// Returns the holds that may have the account. Only the first accounts of a hold are in memory.
    async fn possible(&self, mut holds: Vec<Hold>) -> Result<Vec<Hold>, Status> {
        if self.account_id.is_empty() {
            return Ok(holds);
        }
        let firsts: HashSet<_> = holds
            .iter()
            .flat_map(|hold| [hold.first.0, hold.first.1])
            .collect();
        let ids = self.lookup.ids(firsts).await?;
        let is_account = |index| self.is_listed(ids.get(index));
        holds.retain(|hold| hold.has_more || is_account(hold.first.0) || is_account(hold.first.1));
        Ok(holds)
    }

    /// Adds the holds that have the account. Returns the last hold that was added if the page is full.
    async fn add(&mut self, holds: &[Hold], call: &mut impl ReadCall) -> Result<Option<Hold>, Status> {
        let found: Vec<Found> = self.lookup.holds(holds).await?;
        let ids = self.lookup.ids_of(&found).await?;
        for (hold, found) in holds.iter().zip(&found) {
            let accounts = found.accounts()?;
            let mut accounts = accounts.iter().map(|account| ids.get(*account));
            if !self.account_id.is_empty() && !accounts.any(|id| self.is_listed(id)) {
                continue;
            }
            if !self.scope.contains(found.id()?.as_bytes()) {
                continue;
            }
            self.bytes += found.memory_bytes()?;
            call.hold(self.bytes + STEP_BYTES + HOLDS_TOGETHER_BYTES)?;
            self.holds.push(found.describe(&ids, &self.scope)?);
            if self.holds.len() >= self.limit || self.bytes >= PAGE_BYTES_MAX {
                return Ok(Some(*hold));
            }
        }
        Ok(None)
    }
}
