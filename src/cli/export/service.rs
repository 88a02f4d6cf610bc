//! Exports from a service.
//!
//! A service lists accounts as they are now, and does not say when they were updated. An import of the export must commit all transactions,
//! whenever the accounts were updated. So an account that was updated is first written without limits, and gets its
//! terms at the end. An account that was never updated is written as it was created, except for its velocity limits: they use the
//! time of the import, so they come at the end as well.

use prost_types::Timestamp;

use super::{counts::Counts, range::Range, writer::Writer};
use crate::{
    cli::{client_args::ClientArgs, exit::Failure, ledger_client::LedgerClient},
    client::PAGE_ACCOUNTS_MAX,
    grpc::is_never_updated,
    proto::{
        Account, AccountStatus, Amount, BalanceRule, ListTransactionsRequest, Uint128, amount,
        transaction::Outcome,
    },
};

/// Number of transactions of a page.
const PAGE_TRANSACTIONS: i32 = 1000;
/// The mask of an update of all terms.
const TERMS: &str = "status,overdraftLimit,metadata,velocityLimits";
/// The field of the velocity limits in an update.
const VELOCITY_LIMITS: &str = "velocityLimits";

/// Exports from the service of `client`. Returns what was written.
pub(super) async fn export(client: &ClientArgs, range: Range, mut writer: Writer) -> Result<Counts, Failure> {
    let ledger = LedgerClient::connect(client).await?;
    let resumes = !writer.place().is_empty();
    let mut request = ListTransactionsRequest {
        from_sequence: range.ends.from_sequence,
        to_sequence: range.ends.to_sequence,
        from_time: range.ends.from_time,
        to_time: range.ends.to_time,
        page_size: PAGE_TRANSACTIONS,
        page_token: writer.place().to_owned(),
        ..ListTransactionsRequest::default()
    };
    // The first page decides where the list of transactions ends. It is read before the accounts, so that the list of accounts has all
    // accounts of these transactions.
    let list = |request: ListTransactionsRequest| async { ledger.client.list_transactions(request).await };
    let failure = |error| ledger.failure(&error);
    let mut page = list(request.clone()).await.map_err(failure)?;
    writer.set_length(length(&range, page.durable_sequence));
    let terms = accounts(&ledger, &mut writer, resumes).await?;
    loop {
        for transaction in &page.transactions {
            writer.transaction(transaction)?;
            if let Some(Outcome::Committed(committed)) = &transaction.outcome {
                let first = range.ends.from_sequence.max(1);
                let done = committed.sequence.saturating_sub(first).saturating_add(1);
                writer.set_position(u64::try_from(done).unwrap_or_default());
            }
        }
        if writer.is_closed() {
            return writer.finish();
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
        writer.settle(|| request.page_token.clone())?;
        page = list(request.clone()).await.map_err(failure)?;
    }
    if range.is_open {
        for (account, mask) in &terms {
            writer.update(account, mask)?;
        }
    }
    writer.finish()
}

/// Returns the number of sequences in a range, for the progress bar.
fn length(range: &Range, durable_sequence: i64) -> u64 {
    let first = range.ends.from_sequence.max(1);
    let end = match range.ends.to_sequence {
        0 => durable_sequence.saturating_add(1),
        to => to.min(durable_sequence.saturating_add(1)),
    };
    u64::try_from(end.saturating_sub(first)).unwrap_or_default()
}

/// Lists all accounts, and writes them unless the export has written them before. Returns the updates of the end.
async fn accounts(
    ledger: &LedgerClient,
    writer: &mut Writer,
    resumes: bool,
) -> Result<Vec<(Account, &'static str)>, Failure> {
    let mut terms = Vec::new();
    let mut token = String::new();
    loop {
        let page = ledger.client.list_accounts(PAGE_ACCOUNTS_MAX, &token).await;
        let page = page.map_err(|error| ledger.failure(&error))?;
        for account in page.accounts {
            writer.note_account(&account);
            let Imported { created, update } = imported(account);
            if !resumes {
                writer.account(&created)?;
            }
            terms.extend(update);
        }
        token = page.next_page_token;
        if token.is_empty() {
            return Ok(terms);
        }
    }
}

/// How an import makes an account.
struct Imported {
    created: Account,
    /// The update at the end, and its mask.
    update: Option<(Account, &'static str)>,
}

fn imported(account: Account) -> Imported {
    let is_original = is_never_updated(&account.etag);
    // A closed account has no later transactions, and its limits can't be set later.
    let is_closed = account.status() == AccountStatus::Closed;
    let content = Account {
        balances: None,
        create_time: None::<Timestamp>,
        available: None,
        etag: String::new(),
        ..account
    };
    if is_original && is_closed {
        return Imported {
            created: content,
            update: None,
        };
    }
    if is_original {
        let update = (!content.velocity_limits.is_empty()).then(|| {
            let account = Account {
                id: content.id.clone(),
                velocity_limits: content.velocity_limits.clone(),
                ..Account::default()
            };
            (account, VELOCITY_LIMITS)
        });
        let created = Account {
            velocity_limits: Vec::new(),
            ..content
        };
        return Imported { created, update };
    }
    let no_limit = Amount {
        value: Some(amount::Value::WideMinorUnits(Uint128 {
            high: u64::MAX,
            low: u64::MAX,
        })),
    };
    let has_rule = content.balance_rule() != BalanceRule::Unlimited;
    let created = Account {
        id: content.id.clone(),
        asset: content.asset.clone(),
        balance_rule: content.balance_rule,
        overdraft_limit: has_rule.then_some(no_limit),
        status: AccountStatus::Open.into(),
        ..Account::default()
    };
    let update = Account {
        asset: String::new(),
        balance_rule: BalanceRule::Unspecified.into(),
        ..content
    };
    Imported {
        created,
        update: Some((update, TERMS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Side, VelocityLimit};

    fn account(etag: &str) -> Account {
        Account {
            id: "a".to_owned(),
            asset: "EUR".to_owned(),
            balance_rule: BalanceRule::CreditBalance.into(),
            status: AccountStatus::Frozen.into(),
            velocity_limits: vec![VelocityLimit {
                side: Side::Debit.into(),
                max_count: 1,
                ..VelocityLimit::default()
            }],
            etag: etag.to_owned(),
            create_time: Some(Timestamp::default()),
            ..Account::default()
        }
    }

    #[test]
    fn an_account_that_was_never_updated_is_created_as_it_is_except_for_velocity_limits() {
        let Imported { created, update } = imported(account("r0"));
        assert_eq!(created.status(), AccountStatus::Frozen);
        assert!(
            created.velocity_limits.is_empty() && created.etag.is_empty() && created.create_time.is_none()
        );
        let (update, mask) = update.unwrap();
        assert_eq!((update.velocity_limits.len(), mask), (1, "velocityLimits"));
        assert!(update.asset.is_empty());
        let closed = Account {
            status: AccountStatus::Closed.into(),
            ..account("r0")
        };
        let Imported { created, update } = imported(closed);
        assert_eq!((created.velocity_limits.len(), update), (1, None));
    }

    #[test]
    fn an_account_that_was_updated_has_no_limits_until_the_end() {
        let Imported { created, update } = imported(account("r5"));
        assert_eq!(created.status(), AccountStatus::Open);
        assert!(matches!(
            created.overdraft_limit.unwrap().value,
            Some(amount::Value::WideMinorUnits(Uint128 { high: u64::MAX, .. }))
        ));
        let (update, mask) = update.unwrap();
        assert_eq!((update.status(), mask), (AccountStatus::Frozen, TERMS));
        let unlimited = Account {
            balance_rule: BalanceRule::Unlimited.into(),
            ..account("r5")
        };
        assert!(imported(unlimited).created.overdraft_limit.is_none());
    }
}
