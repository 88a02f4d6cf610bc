//! Pages of accounts and of holds: their sizes, tokens and filters.

use tally_ledger::{
    AccountIndex, AccountSnapshot, AccountStatus,
    id::{check_asset, check_id},
};
use tonic::Status;

use super::decode::status_of;
use crate::{
    grpc::{
        fields::Violations,
        paging::{fingerprint, wrong_token},
        status,
    },
    proto::ListAccountsRequest,
    security::Scope,
};

/// The accounts that a list contains.
#[derive(Debug, Default)]
pub(super) struct Filter {
    id_prefix: String,
    asset: String,
    status: Option<AccountStatus>,
    /// The accounts that the caller may see.
    scope: Scope,
}

// ===== impl Filter =====

impl Filter {
    /// Reads the filter of a request.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if a field of the filter is invalid.
    pub(super) fn of(request: &ListAccountsRequest, scope: Scope) -> Result<Self, Status> {
        let mut violations = Violations::default();
        // A prefix of an id has the characters and at most the length of an id.
        if !request.id_prefix.is_empty() {
            violations.check("id_prefix", check_id(&request.id_prefix));
        }
        if !request.asset.is_empty() {
            violations.check("asset", check_asset(&request.asset));
        }
        let status = match request.status {
            0 => None,
            sent => status_of(&mut violations, "", sent),
        };
        violations.finish().map_err(status::invalid)?;
        Ok(Filter {
            id_prefix: request.id_prefix.clone(),
            asset: request.asset.clone(),
            status,
            scope,
        })
    }

    /// Whether all accounts pass the filter.
    pub(super) fn is_empty(&self) -> bool {
        self.id_prefix.is_empty()
            && self.asset.is_empty()
            && self.status.is_none()
            && self.scope.prefix().is_none()
    }

    /// Whether an account passes the filter.
    pub(super) fn accepts(&self, snapshot: &AccountSnapshot) -> bool {
        let account = &snapshot.account;
        account.id.starts_with(&self.id_prefix)
            && self.scope.contains(account.id.as_bytes())
            && (self.asset.is_empty() || account.asset == self.asset)
            && self.status.is_none_or(|status| account.status == status)
    }

    /// Returns the token of the page that begins with the account `next`. Accounts are numbered in the order of their
    /// creation and are never deleted, so the token contains the number of the account, and the filter.
    pub(super) fn token_of(&self, next: AccountIndex) -> String {
        if self.is_empty() {
            return format!("a{:x}", next.0);
        }
        let status = self.status.map_or(0, |status| status as u8);
        let filter = fingerprint(&[
            self.id_prefix.as_bytes(),
            self.asset.as_bytes(),
            &[status],
            self.scope.prefix().unwrap_or("").as_bytes(),
        ]);
        format!("a{:x}.{filter:x}", next.0)
    }

    /// Returns the number of the first account of a page.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if the token does not come from [`Filter::token_of`] of the same filter.
    pub(super) fn start(&self, token: &str) -> Result<AccountIndex, Status> {
        if token.is_empty() {
            return Ok(AccountIndex(0));
        }
        let digits = token
            .strip_prefix('a')
            .map(|rest| rest.split_once('.').map_or(rest, |(digits, _)| digits));
        let index = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        // Accepts only the form that `token_of` writes: no sign, no leading zeros, no upper-case digits, the same filter.
        index
            .map(AccountIndex)
            .filter(|index| self.token_of(*index) == token)
            .ok_or_else(|| wrong_token("ListAccounts"))
    }
}

// ===== tokens of holds =====

/// The position at which a page of holds begins: the first slot of a step through the table of holds (`slot`), and the place of the last
/// hold of this step that was already listed (`after`), or 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct HoldsStart {
    pub(super) slot: u32,
    pub(super) after: u64,
}

impl HoldsStart {
    /// Returns the token of a page with the holds of an account, or of all accounts if the id is empty. The caller may see the holds of
    /// `scope`.
    pub(super) fn token(self, account_id: &str, scope: &Scope) -> String {
        let HoldsStart { slot, after } = self;
        let prefix = scope.prefix().unwrap_or("");
        let filter = fingerprint(&[account_id.as_bytes(), prefix.as_bytes()]);
        format!("h{slot:x}.{after:x}.{filter:x}")
    }

    /// Returns the place at which a page begins.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if the token does not come from [`HoldsStart::token`] for the same account and scope.
    pub(super) fn of(token: &str, account_id: &str, scope: &Scope) -> Result<Self, Status> {
        if token.is_empty() {
            return Ok(HoldsStart::default());
        }
        let read = || {
            let (slot, rest) = token.strip_prefix('h')?.split_once('.')?;
            let (after, _) = rest.split_once('.')?;
            let start = HoldsStart {
                slot: u32::from_str_radix(slot, 16).ok()?,
                after: u64::from_str_radix(after, 16).ok()?,
            };
            (start.token(account_id, scope) == token).then_some(start)
        };
        read().ok_or_else(|| wrong_token("ListHolds"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_belongs_to_its_filter() {
        let filter = |id_prefix: &str, asset: &str, status| Filter {
            id_prefix: id_prefix.to_owned(),
            asset: asset.to_owned(),
            status,
            scope: Scope::ALL,
        };
        let filters = [
            Filter::default(),
            filter("a", "", None),
            filter("", "a", None),
            filter("", "", Some(AccountStatus::Open)),
            filter("", "", Some(AccountStatus::Frozen)),
        ];
        for (place, one) in filters.iter().enumerate() {
            let token = one.token_of(AccountIndex(0x1f));
            for (other_place, other) in filters.iter().enumerate() {
                let start = other.start(&token).ok();
                assert_eq!(
                    start,
                    (place == other_place).then_some(AccountIndex(0x1f)),
                    "{token}"
                );
            }
        }
        for token in ["a01f", "a1F", "a+1", "a", "b1", "a1.", "a1.0"] {
            assert!(Filter::default().start(token).is_err(), "{token}");
        }
    }

    #[test]
    fn a_token_of_holds_belongs_to_its_account_and_scope() {
        let start = HoldsStart {
            slot: 7,
            after: 1 << 40,
        };
        let all = Scope::ALL;
        let token = start.token("a", &all);
        assert_eq!(HoldsStart::of(&token, "a", &all).unwrap(), start);
        assert!(HoldsStart::of(&token, "", &all).is_err());
        assert!(HoldsStart::of(&token, "a", &Scope::with_prefix("a/").unwrap()).is_err());
        assert!(HoldsStart::of(&token.to_uppercase(), "a", &all).is_err());
        assert!(HoldsStart::of("h7", "a", &all).is_err());
    }
}
