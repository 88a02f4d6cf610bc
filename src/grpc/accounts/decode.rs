//! Checks the fields of requests for accounts, and converts them for the ledger.

use tally_ledger::{
    AccountStatus, AccountUpdate, BalanceRule, NewAccount, Side, VelocityLimit,
    account::METADATA_ENTRIES_MAX,
    id::{check_asset, check_id},
    money::Amount,
    velocity::{VELOCITY_LIMITS_MAX, WINDOW_NANOS_MAX, WINDOW_NANOS_MIN},
};
use tonic::Status;

use crate::{
    engine::CREATE_ACCOUNTS_MAX,
    grpc::{
        fields::{Violations, check_metadata, from_halves, nanos_of},
        protobuf::{Read, Reader},
        status,
    },
    proto::{self, BatchCreateAccountsRequest, UpdateAccountRequest, amount},
};

/// The paths that the mask of an update may contain.
const UPDATE_PATHS: &str = "status, overdraft_limit, metadata and velocity_limits";

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
            // The intended rule is unknown. The check continues with a rule that allows an overdraft limit, so that an overdraft
            // limit does not add a second violation.
            BalanceRule::CreditBalance
        }
    };
    let status = status_of(violations, &format!("{prefix}."), account.status).unwrap_or_default();
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
        ("available", account.available.is_some()),
        ("etag", !account.etag.is_empty()),
    ] {
        if is_set {
            violations.add(format_args!("{prefix}.{field}"), "is output only, must be unset");
        }
    }
    check_metadata(violations, &format!("{prefix}.metadata"), &account.metadata);
    let velocity_limits = velocity_limits(violations, prefix, &account.velocity_limits);
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
        velocity_limits,
    })
}

/// Checks an update of an account.
///
/// # Errors
/// INVALID_ARGUMENT with all violations, up to a bound.
pub(crate) fn to_update(request: UpdateAccountRequest) -> Result<AccountUpdate, Status> {
    let Some(account) = request.account else {
        return Err(status::invalid_field("account", "must be set"));
    };
    let mut violations = Violations::default();
    let mut update = AccountUpdate::default();
    violations.check("account.id", check_id(&account.id));
    if !account.etag.is_empty() {
        update.expected_revision = revision_of(&account.etag);
        if update.expected_revision.is_none() {
            violations.add("account.etag", "is not the etag of an account");
        }
    }
    let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
    if paths.is_empty() {
        let problem = format_args!("must name at least one of {UPDATE_PATHS}");
        violations.add("update_mask", problem);
    }
    for path in &paths {
        match path.as_str() {
            "status" if account.status == 0 => violations.add("account.status", "must be set"),
            "status" => update.status = status_of(&mut violations, "account.", account.status),
            "overdraft_limit" => {
                let limit = account.overdraft_limit.as_ref();
                update.overdraft_limit = Some(overdraft_limit(&mut violations, "account", limit));
            }
            "metadata" => {
                check_metadata(&mut violations, "account.metadata", &account.metadata);
                update.metadata = Some(account.metadata.clone());
            }
            "velocity_limits" => {
                let limits = velocity_limits(&mut violations, "account", &account.velocity_limits);
                update.velocity_limits = Some(limits);
            }
            _ => violations.add(
                "update_mask",
                format_args!("{path:?} can't be updated, possible are {UPDATE_PATHS}"),
            ),
        }
    }
    violations.finish().map_err(status::invalid)?;
    update.id = account.id;
    Ok(update)
}

/// Checks the status of an account. Returns `None` with a violation.
pub(super) fn status_of(violations: &mut Violations, prefix: &str, sent: i32) -> Option<AccountStatus> {
    match proto::AccountStatus::try_from(sent) {
        Ok(proto::AccountStatus::Unspecified | proto::AccountStatus::Open) => Some(AccountStatus::Open),
        Ok(proto::AccountStatus::Frozen) => Some(AccountStatus::Frozen),
        Ok(proto::AccountStatus::Closed) => Some(AccountStatus::Closed),
        Ok(proto::AccountStatus::DebitsFrozen) => Some(AccountStatus::DebitsFrozen),
        Err(_) => {
            violations.add(
                format_args!("{prefix}status"),
                format_args!("{sent} is not a status"),
            );
            None
        }
    }
}

fn overdraft_limit(violations: &mut Violations, prefix: &str, limit: Option<&proto::Amount>) -> Amount {
    let field = format_args!("{prefix}.overdraft_limit");
    limit.map_or(Amount::ZERO, |limit| to_amount(violations, field, limit, 0))
}

/// Checks an amount that is at least `least`. The returned value is meaningful only without violations.
fn to_amount(
    violations: &mut Violations,
    field: std::fmt::Arguments<'_>,
    amount: &proto::Amount,
    least: u8,
) -> Amount {
    let (in_field, given, most) = match &amount.value {
        None => {
            violations.add(field, "must have a value if it is set");
            return Amount::ZERO;
        }
        Some(amount::Value::MinorUnits(units)) => {
            if let Ok(units) = u64::try_from(*units)
                && units >= u64::from(least)
            {
                return Amount::from(units);
            }
            ("minor_units", *units, "2^63 - 1")
        }
        Some(amount::Value::WideMinorUnits(wide)) => {
            let amount = from_halves(wide.high, wide.low);
            if amount >= Amount::from(u64::from(least)) {
                return amount;
            }
            ("wide_minor_units", 0, "2^128 - 1")
        }
    };
    violations.add(
        format_args!("{field}.{in_field}"),
        format_args!("is {given}, must be {least} to {most}"),
    );
    Amount::ZERO
}

/// Checks the velocity limits of an account. The returned value is meaningful only without violations.
fn velocity_limits(
    violations: &mut Violations,
    prefix: &str,
    limits: &[proto::VelocityLimit],
) -> Vec<VelocityLimit> {
    if limits.len() > VELOCITY_LIMITS_MAX {
        let count = limits.len();
        violations.add(
            format_args!("{prefix}.velocity_limits"),
            format_args!("has {count} limits, at most {VELOCITY_LIMITS_MAX} are allowed"),
        );
        return Vec::new();
    }
    let limits = limits.iter().enumerate();
    limits
        .map(|(place, limit)| {
            let prefix = format!("{prefix}.velocity_limits[{place}]");
            velocity_limit(violations, &prefix, limit)
        })
        .collect()
}

fn velocity_limit(violations: &mut Violations, prefix: &str, limit: &proto::VelocityLimit) -> VelocityLimit {
    let side = match proto::Side::try_from(limit.side) {
        Ok(proto::Side::Debit) => Side::Debit,
        Ok(proto::Side::Credit) => Side::Credit,
        Ok(proto::Side::Unspecified) => {
            violations.add(format_args!("{prefix}.side"), "must be set");
            Side::Debit
        }
        Err(_) => {
            let problem = format_args!("{} is not a side", limit.side);
            violations.add(format_args!("{prefix}.side"), problem);
            Side::Debit
        }
    };
    let max_count = u64::try_from(limit.max_count).unwrap_or_else(|_| {
        violations.add(
            format_args!("{prefix}.max_count"),
            format_args!("is {}, must be 0 to {}", limit.max_count, i64::MAX),
        );
        1
    });
    let mut maximum = |name, amount: Option<&proto::Amount>| {
        amount.map(|amount| to_amount(violations, format_args!("{prefix}.{name}"), amount, 1))
    };
    let max_amount = maximum("max_amount", limit.max_amount.as_ref());
    let single_amount_max = maximum("single_amount_max", limit.single_amount_max.as_ref());
    let is_windowed = max_count > 0 || max_amount.is_some();
    if !is_windowed && single_amount_max.is_none() {
        violations.add(
            prefix,
            "must have at least one of max_count, max_amount and single_amount_max",
        );
    }
    let window_nanos = window(violations, prefix, limit.window, is_windowed);
    VelocityLimit {
        side,
        window_nanos,
        max_count,
        max_amount,
        single_amount_max,
    }
}

/// Checks the window of a velocity limit. The returned value is meaningful only without violations.
fn window(
    violations: &mut Violations,
    prefix: &str,
    window: Option<prost_types::Duration>,
    is_windowed: bool,
) -> u64 {
    let field = format_args!("{prefix}.window");
    match window {
        None if is_windowed => {
            violations.add(field, "must be set with max_count or max_amount");
            0
        }
        None => 0,
        Some(_) if !is_windowed => {
            violations.add(field, "must be unset without max_count and max_amount");
            0
        }
        Some(prost_types::Duration { seconds, nanos }) => {
            let window = nanos_of(seconds, nanos);
            let window = window.filter(|window| (WINDOW_NANOS_MIN..=WINDOW_NANOS_MAX).contains(window));
            window.unwrap_or_else(|| {
                let problem = format_args!("is {seconds} s and {nanos} ns, must be 1 s to 30 days");
                violations.add(field, problem);
                0
            })
        }
    }
}

/// Returns the etag of an account with this revision.
pub(crate) fn etag_of(revision: u64) -> String {
    format!("r{revision:x}")
}

/// Returns whether an account with this etag was never updated, and so has the terms with which it was created.
#[must_use]
pub fn is_never_updated(etag: &str) -> bool {
    revision_of(etag) == Some(0)
}

/// Returns the revision of an etag, or `None` if the etag does not come from [`etag_of`].
fn revision_of(etag: &str) -> Option<u64> {
    let digits = etag.strip_prefix('r')?;
    let revision = u64::from_str_radix(digits, 16).ok()?;
    (etag_of(revision) == etag).then_some(revision)
}

/// Counts the accounts in a `BatchCreateAccountsRequest` without decoding them. If an account has several entries of
/// metadata with the same key, all of them count.
///
/// # Errors
/// INTERNAL if the message is malformed. INVALID_ARGUMENT if the message has no accounts or too many accounts, or if an
/// account has too many entries of metadata or too many velocity limits.
pub(crate) fn count_accounts(message: &[u8]) -> Result<usize, Status> {
    let mut reader = Reader::new(message);
    let mut count = 0;
    while !reader.is_empty() {
        match reader.key()? {
            (1, kind) => {
                if count == CREATE_ACCOUNTS_MAX {
                    return Err(request_count(&format!("at least {}", CREATE_ACCOUNTS_MAX + 1)));
                }
                let (entries, limits) = count_entries(reader.message(kind)?)?;
                for (field, noun, found, bound) in [
                    ("metadata", "entries", entries, METADATA_ENTRIES_MAX),
                    ("velocity_limits", "limits", limits, VELOCITY_LIMITS_MAX),
                ] {
                    check_count(
                        format_args!("requests[{count}].account.{field}"),
                        noun,
                        found,
                        bound,
                    )?;
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

/// Checks the number of velocity limits in a `CreateAccountRequest` or an `UpdateAccountRequest` without decoding it.
///
/// # Errors
/// INTERNAL if the message is malformed, INVALID_ARGUMENT if it has too many velocity limits.
pub(crate) fn check_limit_count(message: &[u8]) -> Result<(), Status> {
    let (_, limits) = count_entries(Reader::new(message))?;
    check_count("account.velocity_limits", "limits", limits, VELOCITY_LIMITS_MAX)
}

fn check_count(field: impl std::fmt::Display, noun: &str, count: usize, bound: usize) -> Result<(), Status> {
    if count <= bound {
        return Ok(());
    }
    let description = format!("has {count} {noun}, at most {bound} are allowed");
    Err(status::invalid_field(field.to_string(), description))
}

/// Counts the entries of metadata and the velocity limits of the account in a `CreateAccountRequest` or an `UpdateAccountRequest`.
fn count_entries(mut request: Reader<'_>) -> Read<(usize, usize)> {
    let (mut entries, mut limits) = (0, 0);
    while !request.is_empty() {
        match request.key()? {
            (1, kind) => {
                let mut account = request.message(kind)?;
                while !account.is_empty() {
                    let (field, kind) = account.key()?;
                    entries += usize::from(field == 6);
                    limits += usize::from(field == 10);
                    account.skip(field, kind)?;
                }
            }
            (field, kind) => request.skip(field, kind)?,
        }
    }
    Ok((entries, limits))
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
