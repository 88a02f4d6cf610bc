//! A transaction that owns its text.

use tally_ledger::{transaction::put_transaction, *};

/// The other transaction that a transaction names.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Other {
    #[default]
    Nothing,
    Hold(String),
    Reversed(String),
}

/// A transaction that owns its text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Content {
    pub(super) id: String,
    pub(super) phase: Phase,
    pub(super) effective_time: Option<EffectiveTime>,
    pub(super) metadata: Metadata,
    pub(super) other: Other,
    pub(super) keep_remaining: bool,
    pub(super) pending_timeout: Option<u64>,
    pub(super) transfers: Vec<Transfer<String>>,
}

/// A transfer of `amount` with the code 0.
pub(super) fn transfer(debit: &str, credit: &str, amount: u128) -> Transfer<String> {
    Transfer {
        debit: debit.to_owned(),
        credit: credit.to_owned(),
        amount: Amount::new(amount),
        code: 0,
        rule: AmountRule::Exact,
    }
}

// ===== impl Content =====

impl Content {
    fn new(id: &str, phase: Phase, other: Other, transfers: &[Transfer<String>]) -> Self {
        Content {
            id: id.to_owned(),
            phase,
            effective_time: None,
            metadata: Metadata::new(),
            other,
            keep_remaining: false,
            pending_timeout: None,
            transfers: transfers.to_vec(),
        }
    }

    pub(super) fn posted(id: &str, transfers: &[Transfer<String>]) -> Self {
        Content::new(id, Phase::Posted, Other::Nothing, transfers)
    }

    pub(super) fn pending(id: &str, timeout: Option<u64>, transfers: &[Transfer<String>]) -> Self {
        Content {
            pending_timeout: timeout,
            ..Content::new(id, Phase::Pending, Other::Nothing, transfers)
        }
    }

    pub(super) fn post(id: &str, hold: &str, transfers: &[Transfer<String>]) -> Self {
        Content::new(id, Phase::PostPending, Other::Hold(hold.to_owned()), transfers)
    }

    pub(super) fn post_and_keep(id: &str, hold: &str, transfers: &[Transfer<String>]) -> Self {
        Content {
            keep_remaining: true,
            ..Content::post(id, hold, transfers)
        }
    }

    pub(super) fn void(id: &str, hold: &str) -> Self {
        Content::new(id, Phase::VoidPending, Other::Hold(hold.to_owned()), &[])
    }

    pub(super) fn reversal(id: &str, reversed: &str, transfers: &[Transfer<String>]) -> Self {
        Content::new(
            id,
            Phase::Posted,
            Other::Reversed(reversed.to_owned()),
            transfers,
        )
    }

    /// Whether the record of the transaction says what it moved.
    pub(super) fn is_derived(&self) -> bool {
        let is_clamped = |transfer: &Transfer<String>| transfer.rule != AmountRule::Exact;
        self.other != Other::Nothing || self.transfers.iter().any(is_clamped)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let heading = Heading {
            id: self.id.as_bytes(),
            phase: self.phase,
            effective_time: self.effective_time,
            metadata: &self.metadata,
            names: match &self.other {
                Other::Nothing => Names::Nothing,
                Other::Hold(id) => Names::Hold(id.as_bytes()),
                Other::Reversed(id) => Names::Reversed(id.as_bytes()),
            },
            keep_remaining: self.keep_remaining,
            pending_timeout: self.pending_timeout,
        };
        let transfers = self.transfers.iter().map(|transfer| Transfer {
            debit: transfer.debit.as_str(),
            credit: transfer.credit.as_str(),
            amount: transfer.amount,
            code: transfer.code,
            rule: transfer.rule,
        });
        let mut bytes = Vec::new();
        put_transaction(&mut bytes, &heading, transfers);
        bytes
    }

    /// The first field in which `self` differs from the `recorded` transaction.
    pub(super) fn first_difference(&self, recorded: &Content) -> Option<ContentField> {
        let other = match (&self.other, &recorded.other) {
            (Other::Reversed(_), _) | (_, Other::Reversed(_)) => ContentField::ReversesTransaction,
            _ => ContentField::PendingTransaction,
        };
        let mut differences = vec![
            (self.phase != recorded.phase, ContentField::Phase),
            (
                self.effective_time != recorded.effective_time,
                ContentField::EffectiveTime,
            ),
            (self.other != recorded.other, other),
            (
                self.pending_timeout != recorded.pending_timeout,
                ContentField::PendingTimeout,
            ),
            (
                self.keep_remaining != recorded.keep_remaining,
                ContentField::KeepRemaining,
            ),
            (
                self.transfers.len() != recorded.transfers.len(),
                ContentField::Transfers,
            ),
        ];
        for (place, (sent, kept)) in (0..=u8::MAX).zip(self.transfers.iter().zip(&recorded.transfers)) {
            differences.extend([
                (sent.debit != kept.debit, ContentField::DebitAccount(place)),
                (sent.credit != kept.credit, ContentField::CreditAccount(place)),
                (sent.amount != kept.amount, ContentField::Amount(place)),
                (sent.code != kept.code, ContentField::Code(place)),
                (sent.rule != kept.rule, ContentField::AmountRule(place)),
            ]);
        }
        differences.push((self.metadata != recorded.metadata, ContentField::Metadata));
        let first = differences.into_iter().find(|(differs, _)| *differs);
        first.map(|(_, field)| field)
    }
}
