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

/// Accounts of a page if the request does not set a size.
const PAGE_ACCOUNTS_DEFAULT: usize = 100;

/// Checks an account that is to be created. `prefix` is its path in the request.
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
            // The intended rule is unknown, so an overdraft limit counts as allowed.
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
    if account.balances.is_some() {
        violations.add(format_args!("{prefix}.balances"), "is output only, must be unset");
    }
    if account.create_time.is_some() {
        violations.add(
            format_args!("{prefix}.create_time"),
            "is output only, must be unset",
        );
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

/// Counts the accounts in a `BatchCreateAccountsRequest` without decoding them. Entries of metadata that a later entry
/// replaces count, too.
///
/// # Errors
/// INTERNAL if the message is malformed. INVALID_ARGUMENT if it has no accounts or too many, or an account has too many
/// entries of metadata.
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

pub(crate) fn new_accounts(request: BatchCreateAccountsRequest) -> Result<Vec<NewAccount>, Status> {
    let mut violations = Violations::default();
    let accounts = request.requests.into_iter().enumerate();
    let accounts = accounts.filter_map(|(place, request)| {
        to_new_account(
            &mut violations,
            &format!("requests[{place}].account"),
            request.account,
        )
    });
    let accounts = accounts.collect();
    violations.finish().map_err(status::invalid)?;
    Ok(accounts)
}

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

/// Accounts are numbered in the order of their creation, and are never deleted, so a page begins at a number.
pub(crate) fn page_token_of(next: AccountIndex) -> String {
    format!("a{:x}", next.0)
}

pub(crate) fn page_start(token: &str) -> Result<AccountIndex, Status> {
    if token.is_empty() {
        return Ok(AccountIndex(0));
    }
    let index = token
        .strip_prefix('a')
        .and_then(|digits| u32::from_str_radix(digits, 16).ok());
    // Accepts only the form that `page_token_of` writes: no sign, no leading zeros, no capitals.
    index
        .map(AccountIndex)
        .filter(|index| page_token_of(*index) == token)
        .ok_or_else(|| status::invalid_field("page_token", "is not a next_page_token of ListAccounts"))
}
