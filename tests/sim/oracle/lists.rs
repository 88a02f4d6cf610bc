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
    /// Checks that the answer shows every account of the request, with the content that was sent.
    pub(super) fn check_created(
        &self,
        invocation: &Invocation,
        snapshots: &[AccountSnapshot],
        window: Window,
    ) -> Result<u64, Violation> {
        for (sent, shown) in invocation.accounts().iter().zip(snapshots) {
            let created = self.records.created(&sent.id).map(|(_, created)| created);
            if sent.id != shown.account.id || created != Some(sent) {
                return violation(
                    "accounts",
                    format!(
                        "call {} asked to create {sent:?}, but was answered with {:?}, which was created as {created:?}",
                        invocation.id, shown.account
                    ),
                );
            }
        }
        self.check_snapshots(invocation, snapshots, window)
    }

    /// Checks that the answer shows the accounts that the call has created, in the order of the request and without amounts, and that the
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
            let existed = self.records.creation(&sent.id);
            let Some(existed) = existed.filter(|found| found.number <= window.to) else {
                return violation(
                    "accounts",
                    format!(
                        "call {call} was answered that account {} existed, but it did not",
                        sent.id
                    ),
                );
            };
            window.from = window.from.max(existed.number);
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

    /// Checks that a list has all accounts from the first requested one on, in the order of creation.
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
            let found = self.records.nth_creation(number).map(|(id, _)| id);
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
        let after = self.records.nth_creation(end);
        if let Some(next) = next {
            let after = after.filter(|(_, after)| after.number <= window.to);
            let Some((_, after)) =
                after.filter(|_| next as usize == end && snapshots.len() >= (*limit).min(PAGE_MAX))
            else {
                return violation(
                    "reads",
                    format!(
                        "call {call} was shown the accounts from number {from} to before {end} of a page of {limit}, and \
                         that the next page begins at {next}"
                    ),
                );
            };
            window.from = window.from.max(after.number);
        } else if let Some((missing, _)) = after {
            window = self.check_account_absent(invocation, missing, window)?;
        }
        self.check_snapshots(invocation, snapshots, window)
    }

    /// Checks the refusal of a request to create accounts: an account exists with other content, or the request has an id twice.
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
            .records
            .created(&sent.id)
            .filter(|(found, _)| found.begun < invocation.ended);
        let differences = [
            in_request.and_then(|other| account_difference(sent, other)),
            existing.and_then(|(_, created)| account_difference(sent, created)),
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
