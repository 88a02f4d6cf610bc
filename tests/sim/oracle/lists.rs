//! Rule 5, for answers about several accounts: created accounts and lists.

use tally_ledger::{AccountField, AccountSnapshot, Balances};

use super::{
    Violation, calls::Request, content::account_difference, history::Invocation, moments::Moments, violation,
    window::Window,
};

/// Maximum number of accounts of a page.
const PAGE_MAX: usize = tally::engine::PAGE_ACCOUNTS_MAX;

// ===== impl Moments: several accounts =====

impl Moments<'_> {
    /// The answer shows every account of the request, with its content.
    pub(super) fn check_created(
        &self,
        invocation: &Invocation,
        snapshots: &[AccountSnapshot],
        window: Window,
    ) -> Result<u64, Violation> {
        for (sent, created) in invocation.accounts().iter().zip(snapshots) {
            if *sent != created.account {
                return violation(
                    "accounts",
                    format!(
                        "call {} asked to create {sent:?}, but was answered with {:?}",
                        invocation.id, created.account
                    ),
                );
            }
        }
        self.check_snapshots(invocation, snapshots, window)
    }

    /// The answer shows the accounts that the call has created, in the order of the request and without amounts. The
    /// other accounts of the request existed.
    pub(super) fn check_missing_created(
        &self,
        invocation: &Invocation,
        snapshots: &[AccountSnapshot],
        mut window: Window,
    ) -> Result<u64, Violation> {
        let call = invocation.id;
        let mut created = snapshots.iter().peekable();
        for (place, sent) in invocation.accounts().iter().enumerate() {
            if invocation.is_repeated(place) {
                continue;
            }
            if let Some(created) = created.next_if(|created| created.account == *sent) {
                if created.balances != Balances::default() {
                    return violation(
                        "accounts",
                        format!(
                            "call {call} was answered that it created account {} with {:?}",
                            sent.id, created.balances
                        ),
                    );
                }
                continue;
            }
            let existed = self
                .accounts
                .get(&sent.id)
                .filter(|found| found.begun < invocation.ended);
            let Some(existed) = existed else {
                return violation(
                    "accounts",
                    format!(
                        "call {call} was answered that account {} existed, but it did not",
                        sent.id
                    ),
                );
            };
            window.from = window.from.max(self.first_with(existed.snapshot.create_time));
        }
        if let Some(other) = created.next() {
            return violation(
                "accounts",
                format!(
                    "call {call} was answered that it created {:?}, for which it did not ask at this place",
                    other.account
                ),
            );
        }
        self.check_snapshots(invocation, snapshots, window)
    }

    /// A list has the accounts from the first that was asked for, in the order of creation, and as many as there were.
    pub(super) fn check_list(
        &self,
        invocation: &Invocation,
        snapshots: &[AccountSnapshot],
        next: Option<u32>,
        mut window: Window,
    ) -> Result<u64, Violation> {
        let (call, Request::Accounts { from, limit }) = (invocation.id, &invocation.call.request) else {
            return Ok(window.from);
        };
        let from = *from as usize;
        for (number, shown) in (from..).zip(snapshots) {
            let found = self
                .accounts
                .all
                .get(number)
                .map(|found| &found.snapshot.account.id);
            if found != Some(&shown.account.id) {
                return violation(
                    "reads",
                    format!(
                        "call {call} was shown account {} as number {number}, but this is account {found:?}",
                        shown.account.id
                    ),
                );
            }
        }
        let end = from + snapshots.len();
        let after = self.accounts.all.get(end);
        if let Some(next) = next {
            let exists = after.is_some_and(|after| after.begun < invocation.ended);
            if next as usize != end || !exists || snapshots.len() < (*limit).min(PAGE_MAX) {
                return violation(
                    "reads",
                    format!(
                        "call {call} was shown the accounts from number {from} to before {end} of a page of {limit}, and \
                         that the next page begins at {next}"
                    ),
                );
            }
            if let Some(after) = after {
                window.from = window.from.max(self.first_with(after.snapshot.create_time));
            }
        } else if let Some(missing) = after {
            window = self.check_account_absent(invocation, &missing.snapshot.account.id, window)?;
        }
        self.check_snapshots(invocation, snapshots, window)
    }

    /// A request to create accounts was refused because of an account that exists with other content, or because the
    /// request has an id twice.
    pub(super) fn check_account_reused(
        &self,
        invocation: &Invocation,
        place: usize,
        field: AccountField,
    ) -> Result<(), Violation> {
        let accounts = invocation.accounts();
        let Some(sent) = accounts.get(place) else {
            return Ok(());
        };
        let in_request = accounts.iter().take(place).find(|other| other.id == sent.id);
        let existing = self
            .accounts
            .get(&sent.id)
            .filter(|found| found.begun < invocation.ended);
        let differences = [
            in_request.and_then(|other| account_difference(sent, other)),
            existing.and_then(|found| account_difference(sent, &found.snapshot.account)),
        ];
        if differences.contains(&Some(field)) {
            return Ok(());
        }
        violation(
            "accounts",
            format!(
                "call {}: account {} was refused because {field} differs, but the differences from the request and from \
                 the existing account are {differences:?}",
                invocation.id, sent.id
            ),
        )
    }
}
