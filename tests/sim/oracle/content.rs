//! Compares the content that clients sent with the content that the service has.

use tally_ledger::{AccountField, ContentField, NewAccount};

use super::calls::{Kind, Transaction};

/// The first field in which `sent` differs from the `recorded` transaction with the same id.
pub(super) fn transaction_difference(sent: &Transaction, recorded: &Transaction) -> Option<ContentField> {
    if phase(&sent.kind) != phase(&recorded.kind) {
        return Some(ContentField::Phase);
    }
    if sent.effective_time != recorded.effective_time {
        return Some(ContentField::EffectiveTime);
    }
    if let Some(field) = kind_difference(&sent.kind, &recorded.kind) {
        return Some(field);
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
        if sent.rule != recorded.rule {
            return Some(ContentField::AmountRule(place));
        }
    }
    (sent.note != recorded.note).then_some(ContentField::Metadata)
}

/// The phase of a transaction. A reversal posts its transfers like any other transaction.
const fn phase(kind: &Kind) -> u8 {
    match kind {
        Kind::Move | Kind::Reverse { .. } => 1,
        Kind::Hold { .. } => 2,
        Kind::Post { .. } => 3,
        Kind::Void { .. } => 4,
    }
}

/// The first difference between transactions of the same phase.
fn kind_difference(sent: &Kind, recorded: &Kind) -> Option<ContentField> {
    match (sent, recorded) {
        (Kind::Hold { timeout: sent }, Kind::Hold { timeout: recorded }) => {
            (sent != recorded).then_some(ContentField::PendingTimeout)
        }
        (
            Kind::Post { hold, keep_remaining },
            Kind::Post {
                hold: recorded,
                keep_remaining: recorded_keep,
            },
        ) => {
            if hold != recorded {
                Some(ContentField::PendingTransaction)
            } else {
                (keep_remaining != recorded_keep).then_some(ContentField::KeepRemaining)
            }
        }
        (Kind::Void { hold }, Kind::Void { hold: recorded }) => {
            (hold != recorded).then_some(ContentField::PendingTransaction)
        }
        (sent, recorded) => (sent != recorded).then_some(ContentField::ReversesTransaction),
    }
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
    } else if sent.velocity_limits != existing.velocity_limits {
        Some(AccountField::VelocityLimits)
    } else {
        None
    }
}
