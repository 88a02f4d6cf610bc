//! Checks the fields of requests for accounts, and converts them for the ledger.

use tally_ledger::{
    AccountIndex, AccountStatus, BalanceRule, NewAccount,
    account::METADATA_ENTRIES_MAX,
    id::{check_asset, check_id},
    money::Amount,
};
use tonic::Status;

use crate::{
    engine::{CREATE_ACCOUNTS_MAX, PAGE_ACCOUNTS_MAX},
    grpc::{
        fields::{Violations, check_metadata, from_halves},
        protobuf::{Read, Reader},
        status,
    },
    proto::{self, BatchCreateAccountsRequest, amount},
};

/// Number of accounts of a page if the request does not set the size of the page.
const PAGE_ACCOUNTS_DEFAULT: usize = 100;

/// Checks a new account. `prefix` is the path of the account in the request. The returned value is meaningful only
/// without violations.
pub(crate) fn to_new_account(
    violations: &mut Violations,
    prefix: &str,
    account: Option<proto::Account>,
) -> Option<NewAccount> {
    let Some(account) = account else {
        violations.add(prefix, "must be set");
        return None;
    };
    violations.check(format_args!("{prefix}.id"), check_id(&account.id));
    violations.check(format_args!("{prefix}.asset"), check_asset(&account.asset));
    let rule = match proto::BalanceRule::try_from(account.balance_rule) {
        Ok(proto::BalanceRule::Unspecified | proto::BalanceRule::Unlimited) => BalanceRule::Unlimited,
        Ok(proto::BalanceRule::CreditBalance) => BalanceRule::CreditBalance,
        Ok(proto::BalanceRule::DebitBalance) => BalanceRule::DebitBalance,
        Err(_) => {
            violations.add(
                format_args!("{prefix}.balance_rule"),
                format_args!("{} is not a rule", account.balance_rule),
            );
            // The intended rule is unknown. The code goes on with a rule that allows an overdraft limit, so such a
            // limit does not add a second violation.
            BalanceRule::CreditBalance
        }
    };
    let status = match proto::AccountStatus::try_from(account.status) {
        Ok(proto::AccountStatus::Unspecified | proto::AccountStatus::Open) => AccountStatus::Open,
        Ok(proto::AccountStatus::Frozen) => AccountStatus::Frozen,
        Ok(proto::AccountStatus::Closed) => AccountStatus::Closed,
        Err(_) => {
            violations.add(
                format_args!("{prefix}.status"),
                format_args!("{} is not a status", account.status),
            );
            AccountStatus::Open
        }
    };
    let overdraft_limit = overdraft_limit(violations, prefix, account.overdraft_limit.as_ref());
    if rule == BalanceRule::Unlimited && !overdraft_limit.is_zero() {
        violations.add(
            format_args!("{prefix}.overdraft_limit"),
            "must be unset with BALANCE_RULE_UNLIMITED, which has no bound to move",
        );
    }
    for (field, is_set) in [
        ("balances", account.balances.is_some()),
        ("create_time", account.create_time.is_some()),
    ] {
        if is_set {
            violations.add(format_args!("{prefix}.{field}"), "is output only, must be unset");
        }
    }
    check_metadata(violations, &format!("{prefix}.metadata"), &account.metadata);
    let proto::Account {
        id, asset, metadata, ..
    } = account;
    Some(NewAccount {
        id,
        asset,
        rule,
        overdraft_limit,
        status,
        metadata,
    })
}

fn overdraft_limit(violations: &mut Violations, prefix: &str, limit: Option<&proto::Amount>) -> Amount {
    let Some(limit) = limit else { return Amount::ZERO };
    match &limit.value {
        None => {
            violations.add(
                format_args!("{prefix}.overdraft_limit"),
                "must have a value if it is set",
            );
            Amount::ZERO
        }
        Some(amount::Value::WideMinorUnits(wide)) => from_halves(wide.high, wide.low),
        Some(amount::Value::MinorUnits(units)) => match u64::try_from(*units) {
            Ok(units) => Amount::from(units),
            Err(_) => {
                violations.add(
                    format_args!("{prefix}.overdraft_limit.minor_units"),
                    format_args!("is {units}, must be 0 to {}", i64::MAX),
                );
                Amount::ZERO
            }
        },
    }
}

/// Counts the accounts in a `BatchCreateAccountsRequest` without decoding them. If an account has several entries of
/// metadata with the same key, all of them count.
///
/// # Errors
/// INTERNAL if the message is malformed. INVALID_ARGUMENT if the message has no accounts or too many accounts, or if an
/// account has too many entries of metadata.
pub(crate) fn count_accounts(message: &[u8]) -> Result<usize, Status> {
    let mut reader = Reader::new(message);
    let mut count = 0;
    while !reader.is_empty() {
        match reader.key()? {
            (1, kind) => {
                if count == CREATE_ACCOUNTS_MAX {
                    return Err(request_count(&format!("at least {}", CREATE_ACCOUNTS_MAX + 1)));
                }
                if count_entries(reader.message(kind)?)? > METADATA_ENTRIES_MAX {
                    let bound = METADATA_ENTRIES_MAX;
                    return Err(status::invalid_field(
                        format!("requests[{count}].account.metadata"),
                        format!("has more than {bound} entries, at most {bound} are allowed"),
                    ));
                }
                count += 1;
            }
            (field, kind) => reader.skip(field, kind)?,
        }
    }
    if count == 0 {
        return Err(request_count("0"));
    }
    Ok(count)
}

/// Counts the entries of metadata of the account in a `CreateAccountRequest`.
fn count_entries(mut request: Reader<'_>) -> Read<usize> {
    let mut count = 0;
    while !request.is_empty() {
        match request.key()? {
            (1, kind) => {
                let mut account = request.message(kind)?;
                while !account.is_empty() {
                    let (field, kind) = account.key()?;
                    count += usize::from(field == 6);
                    account.skip(field, kind)?;
                }
            }
            (field, kind) => request.skip(field, kind)?,
        }
    }
    Ok(count)
}

fn request_count(count: &str) -> Status {
    let description = format!("has {count} requests, 1 to {CREATE_ACCOUNTS_MAX} are allowed");
    status::invalid_field("requests", description)
}

/// Checks the accounts of a `BatchCreateAccountsRequest`.
///
/// # Errors
/// INVALID_ARGUMENT with the violations of all accounts, up to a bound.
pub(crate) fn new_accounts(request: BatchCreateAccountsRequest) -> Result<Vec<NewAccount>, Status> {
    let mut violations = Violations::default();
    let accounts = request.requests.into_iter().enumerate();
    let accounts = accounts.filter_map(|(place, request)| {
        let prefix = format!("requests[{place}].account");
        to_new_account(&mut violations, &prefix, request.account)
    });
    let accounts = accounts.collect();
    violations.finish().map_err(status::invalid)?;
    Ok(accounts)
}

/// Returns the maximum number of accounts of a page.
///
/// # Errors
/// INVALID_ARGUMENT if the size in the request is out of its bounds.
pub(crate) fn page_limit(page_size: i32) -> Result<usize, Status> {
    match usize::try_from(page_size) {
        Ok(0) => Ok(PAGE_ACCOUNTS_DEFAULT),
        Ok(size) if size <= PAGE_ACCOUNTS_MAX => Ok(size),
        _ => {
            let description =
                format!("is {page_size}, must be 0 (for {PAGE_ACCOUNTS_DEFAULT}) to {PAGE_ACCOUNTS_MAX}");
            Err(status::invalid_field("page_size", description))
        }
    }
}

/// Returns the token of the page that begins with the account `next`. Accounts are numbered in the order of their
/// creation and are never deleted, so the token contains only the number of the account.
pub(crate) fn page_token_of(next: AccountIndex) -> String {
    format!("a{:x}", next.0)
}

/// Returns the number of the first account of a page.
///
/// # Errors
/// INVALID_ARGUMENT if the token does not come from [`page_token_of`].
pub(crate) fn page_start(token: &str) -> Result<AccountIndex, Status> {
    if token.is_empty() {
        return Ok(AccountIndex(0));
    }
    let index = token
        .strip_prefix('a')
        .and_then(|digits| u32::from_str_radix(digits, 16).ok());
    // Accepts only the form that `page_token_of` writes: no sign, no leading zeros, no upper-case digits.
    index
        .map(AccountIndex)
        .filter(|index| page_token_of(*index) == token)
        .ok_or_else(|| status::invalid_field("page_token", "is not a next_page_token of ListAccounts"))
}
