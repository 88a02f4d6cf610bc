//! Compares what clients sent with what the service has.

use tally_ledger::{AccountField, ContentField, NewAccount};

use super::calls::Transaction;

/// The first field in which `sent` differs from the `recorded` transaction with the same id.
pub(super) fn transaction_difference(sent: &Transaction, recorded: &Transaction) -> Option<ContentField> {
    if sent.effective_time != recorded.effective_time {
        return Some(ContentField::EffectiveTime);
    }
    if sent.legs.len() != recorded.legs.len() {
        return Some(ContentField::Transfers);
    }
    for (place, (sent, recorded)) in (0..=u8::MAX).zip(sent.legs.iter().zip(&recorded.legs)) {
        if sent.debit != recorded.debit {
            return Some(ContentField::DebitAccount(place));
        }
        if sent.credit != recorded.credit {
            return Some(ContentField::CreditAccount(place));
        }
        if sent.amount != recorded.amount {
            return Some(ContentField::Amount(place));
        }
        if sent.code != recorded.code {
            return Some(ContentField::Code(place));
        }
    }
    (sent.note != recorded.note).then_some(ContentField::Metadata)
}

/// The first field in which `sent` differs from the `existing` account with the same id.
pub(super) fn account_difference(sent: &NewAccount, existing: &NewAccount) -> Option<AccountField> {
    if sent.asset != existing.asset {
        Some(AccountField::Asset)
    } else if sent.rule != existing.rule {
        Some(AccountField::BalanceRule)
    } else if sent.overdraft_limit != existing.overdraft_limit {
        Some(AccountField::OverdraftLimit)
    } else if sent.status != existing.status {
        Some(AccountField::Status)
    } else if sent.metadata != existing.metadata {
        Some(AccountField::Metadata)
    } else {
        None
    }
}
