//! `GetAccount` with `as_of`.

use tally_ledger::{Account, AccountSnapshot, Timestamp};
use tokio::time::Instant;
use tonic::Status;

use super::range::{TIME_BOUNDS, time_of};
use crate::{
    engine::{AccountHistory, TallyEngine},
    grpc::status,
    proto::get_account_request::AsOf,
    store::embedded::history::Bound,
};

/// Reads an account as it was at a moment.
///
/// # Errors
/// INVALID_ARGUMENT if the moment is not in the past, NOT_FOUND if the account did not exist then, or an error of the engine.
pub(crate) async fn account_as_of(
    engine: &TallyEngine,
    id: &str,
    moment: AsOf,
    deadline: Option<Instant>,
) -> Result<AccountSnapshot, Status> {
    let bound = bound_of(&moment)?;
    let found = engine.account_history(id.to_owned(), deadline).await?;
    let not_found = || status::account_not_found(id);
    let AccountHistory {
        now,
        created,
        history,
        next_sequence,
        as_of_max,
    } = *found.ok_or_else(not_found)?;
    check_past(bound, next_sequence, as_of_max)?;
    let past = engine.read_history(deadline, move |reader, end| {
        let place = reader.place_after(bound, end)?;
        let Some(balances) = reader.balances_before(&history, place)? else {
            return Ok(None);
        };
        Ok(Some((balances, reader.terms_before(&history, place)?)))
    });
    let (balances, terms) = past.await?.ok_or_else(not_found)?;
    let account = match terms {
        Some(terms) => created.with_terms(terms),
        None => created,
    };
    let available = account
        .rule
        .bounded_side()
        .and_then(|side| Account::available_of(account.rule, &balances, account.overdraft_limit, side));
    Ok(AccountSnapshot {
        account,
        balances,
        available,
        create_time: now.create_time,
        revision: 0,
    })
}

fn bound_of(moment: &AsOf) -> Result<Bound, Status> {
    match moment {
        AsOf::AsOfSequence(sequence) => match u64::try_from(*sequence) {
            Ok(sequence) => Ok(Bound::Sequence(sequence)),
            Err(_) => {
                let description = format!("is {sequence}, must be at least 0");
                Err(status::invalid_field("as_of_sequence", description))
            }
        },
        AsOf::AsOfTime(time) => match time_of(time) {
            Some(time) => Ok(Bound::Time(time)),
            None => Err(status::invalid_field("as_of_time", TIME_BOUNDS)),
        },
    }
}

/// Checks that no later transaction can change what the moment shows.
fn check_past(bound: Bound, next_sequence: u64, as_of_max: Timestamp) -> Result<(), Status> {
    match bound {
        Bound::Sequence(sequence) => {
            let newest = next_sequence - 1;
            if sequence <= newest {
                return Ok(());
            }
            let description = format!("is {sequence}, must be at most {newest}, the newest durable sequence");
            Err(status::invalid_field("as_of_sequence", description))
        }
        Bound::Time(time) if time <= as_of_max => Ok(()),
        Bound::Time(time) => {
            let description =
                format!("is {time}, must be at most {as_of_max}: transactions with this time can still come");
            Err(status::invalid_field("as_of_time", description))
        }
    }
}
