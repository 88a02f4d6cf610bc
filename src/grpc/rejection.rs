//! Describes rejections by the ledger: the text of the error, and the metadata for programs. `status.rs` makes the statuses.

use std::time::{Duration, UNIX_EPOCH};

use tally_ledger::{
    Names, Reason, Rejection, Side, money::Amount, reject::VelocityFigures, velocity::Maximum,
};

use crate::terminal::units::unsigned_number;

/// The part of a rejected transaction that its error names.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rejected<'a> {
    /// The account of the transfer that causes the rejection. `None` if the transaction was sent without this transfer, or if the caller
    /// must not see the account.
    pub account_id: Option<&'a str>,
    /// The amount of this transfer.
    pub amount: Option<Amount>,
    /// The transaction that the rejected transaction names. [`Names::Nothing`] if the caller must not see it.
    pub names: Names<'a>,
    /// Whether the caller possibly must not see the account. The error then has no figures of the account.
    pub hides_accounts: bool,
}

/// The text and the metadata of an error.
#[derive(Debug)]
pub(super) struct Description {
    pub(super) message: String,
    pub(super) metadata: Vec<(&'static str, String)>,
}

/// The field of the request to which a reason refers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    /// An account of a transfer.
    Account,
    /// The amount of a transfer.
    Amount,
    /// The number of transfers.
    Transfers,
    /// The transaction that the rejected transaction names.
    Named,
    /// No field.
    Ledger,
}

/// Describes a rejection. `about` is the part of the transaction that the error names.
pub(super) fn describe(rejection: Rejection, about: &Rejected<'_>) -> Description {
    let subject = subject(rejection, about);
    let mut description = Description {
        message: String::new(),
        metadata: Vec::new(),
    };
    description.put_field(subject, rejection, about);
    description.message.push_str(words(rejection.reason, subject));
    description.put_figures(rejection, about);
    description
}

/// Returns the field of the request to which a rejection refers.
fn subject(rejection: Rejection, about: &Rejected<'_>) -> Subject {
    // A transfer that was sent has an amount, also if its account is hidden.
    let was_sent = about.account_id.is_some() || (about.hides_accounts && about.amount.is_some());
    match rejection.reason {
        Reason::AccountNotFound
        | Reason::SameAccount
        | Reason::AssetMismatch
        | Reason::AccountFrozen
        | Reason::AccountClosed
        | Reason::InsufficientFunds
        | Reason::BalanceOverflow
        | Reason::NothingAvailable
        | Reason::VelocityLimit => Subject::Account,
        Reason::PendingNotFound
        | Reason::PendingAlreadyPosted
        | Reason::PendingAlreadyVoided
        | Reason::PendingExpired
        | Reason::ReversedNotFound => Subject::Named,
        Reason::PendingTransfersDiffer if was_sent => Subject::Account,
        Reason::PendingTransfersDiffer => Subject::Transfers,
        Reason::NotReversible if (rejection.transfer, rejection.side) == (0, Side::Debit) => Subject::Named,
        Reason::NotReversible if was_sent => Subject::Account,
        Reason::NotReversible => Subject::Transfers,
        Reason::PendingAmountExceeded => Subject::Amount,
        // If nothing is left to reverse, the amounts of the transfers do not matter.
        Reason::AlreadyReversed if about.amount > Some(rejection.available()) => Subject::Amount,
        Reason::AlreadyReversed => Subject::Named,
        Reason::HoldsFull | Reason::MemoryLimit => Subject::Ledger,
    }
}

/// Returns the end of the sentence whose subject is the field.
fn words(reason: Reason, subject: Subject) -> &'static str {
    match reason {
        Reason::AccountNotFound => "does not exist",
        Reason::SameAccount => "is on both sides of the transfer",
        Reason::AssetMismatch => "has a different asset than the debit account",
        Reason::AccountFrozen => "is frozen",
        Reason::AccountClosed => "is closed",
        Reason::InsufficientFunds => "has insufficient funds under its balance rule",
        Reason::BalanceOverflow => "would exceed 2^128 - 1 minor units",
        Reason::NothingAvailable => "has nothing available under its balance rule",
        Reason::VelocityLimit => "has a velocity limit that the transfer exceeds",
        Reason::PendingNotFound => "is not a hold",
        Reason::PendingAlreadyPosted => "was posted before",
        Reason::PendingAlreadyVoided => "was voided before",
        Reason::PendingExpired => "has expired",
        Reason::PendingAmountExceeded => "is more than the hold still reserves",
        Reason::PendingTransfersDiffer => match subject {
            Subject::Transfers => "are fewer than those of the hold",
            Subject::Account | Subject::Amount | Subject::Named | Subject::Ledger => {
                "is not the account of the hold's transfer, or the hold has fewer transfers"
            }
        },
        Reason::ReversedNotFound => "does not exist",
        Reason::NotReversible => match subject {
            Subject::Transfers => "are fewer than those of the transaction to reverse",
            Subject::Account | Subject::Amount | Subject::Ledger => {
                "is not the opposite account of the transfer to reverse, or the transaction has fewer transfers"
            }
            Subject::Named => {
                "can't be reversed: it is a hold, a void, a reversal or a rejection, or the transfers are not its transfers with \
                 swapped accounts"
            }
        },
        Reason::AlreadyReversed => match subject {
            Subject::Amount => "is more than what is left to reverse",
            Subject::Account | Subject::Transfers | Subject::Named | Subject::Ledger => {
                "was reversed completely before"
            }
        },
        Reason::HoldsFull => "the ledger has its maximum number of outstanding holds (store.holds_max)",
        Reason::MemoryLimit => {
            "the calls of this client, or of all clients, hold too much memory for the answer about all transfers (server.memory_max)"
        }
    }
}

// ===== impl Description =====

impl Description {
    fn with(&mut self, key: &'static str, value: impl Into<String>) {
        self.metadata.push((key, value.into()));
    }

    /// Writes the field at the beginning of the message, and puts it into the metadata.
    fn put_field(&mut self, subject: Subject, rejection: Rejection, about: &Rejected<'_>) {
        let Rejection { transfer, side, .. } = rejection;
        let (side_field, side_name) = match side {
            Side::Debit => ("debit_account_id", "debit"),
            Side::Credit => ("credit_account_id", "credit"),
        };
        let named = match about.names {
            Names::Nothing => None,
            // Ids are ASCII, so the conversions cannot fail.
            Names::Hold(id) => Some(("pending_transaction_id", "hold", std::str::from_utf8(id))),
            Names::Reversed(id) => Some(("reverses_transaction_id", "transaction", std::str::from_utf8(id))),
        };
        let (field, text) = match (subject, about.account_id, named) {
            (Subject::Account, Some(account_id), _) => {
                self.with("account_id", account_id);
                let field = format!("transfers[{transfer}].{side_field}");
                (field, format!("account {account_id:?} "))
            }
            // The transaction was sent without transfers, so the request does not contain the account.
            (Subject::Account, None, Some((field, noun, Ok(id)))) => {
                self.with("side", side_name);
                let text = format!("the {side_name} account of transfer {transfer} of {noun} {id:?} ");
                (field.to_owned(), text)
            }
            (Subject::Account, None, _) => (format!("transfers[{transfer}].{side_field}"), "it ".to_owned()),
            (Subject::Amount, ..) => (format!("transfers[{transfer}].amount"), "it ".to_owned()),
            (Subject::Transfers, ..) => ("transfers".to_owned(), "they ".to_owned()),
            (Subject::Named, _, Some((field, noun, Ok(id)))) => (field.to_owned(), format!("{noun} {id:?} ")),
            (Subject::Named, ..) => (String::new(), "the other transaction ".to_owned()),
            (Subject::Ledger, ..) => (String::new(), String::new()),
        };
        if let Some((key, _, Ok(id))) = named {
            self.with(key, id);
        }
        if matches!(subject, Subject::Account | Subject::Amount) {
            self.with("transfer", transfer.to_string());
        }
        if !field.is_empty() {
            self.message = format!("{field}: ");
            self.with("field", field);
        }
        self.message.push_str(&text);
    }

    /// Writes the figures of the rejection at the end of the message, and puts them into the metadata.
    fn put_figures(&mut self, rejection: Rejection, about: &Rejected<'_>) {
        if about.hides_accounts && subject(rejection, about) == Subject::Account {
            return;
        }
        if let Some(figures) = rejection.velocity_figures() {
            return self.put_velocity(figures);
        }
        let number = |amount: Amount| unsigned_number(amount.minor_units());
        let available = match rejection.reason {
            Reason::InsufficientFunds | Reason::PendingAmountExceeded | Reason::AlreadyReversed => {
                rejection.available()
            }
            Reason::AccountNotFound
            | Reason::SameAccount
            | Reason::AssetMismatch
            | Reason::AccountFrozen
            | Reason::AccountClosed
            | Reason::BalanceOverflow
            | Reason::NothingAvailable
            | Reason::VelocityLimit
            | Reason::PendingNotFound
            | Reason::PendingAlreadyPosted
            | Reason::PendingAlreadyVoided
            | Reason::PendingExpired
            | Reason::PendingTransfersDiffer
            | Reason::ReversedNotFound
            | Reason::NotReversible
            | Reason::HoldsFull
            | Reason::MemoryLimit => return,
        };
        // A reversal without transfers has no amount if nothing is left to reverse.
        if let Some(needs) = about.amount.filter(|amount| *amount > available) {
            let text = format!(": needs {}, has {}", number(needs), number(available));
            self.message.push_str(&text);
            self.with("needs", needs.to_string());
        }
        self.with("available", available.to_string());
    }

    fn put_velocity(&mut self, figures: VelocityFigures) {
        let maximum = match figures.maximum {
            Maximum::Count => "max_count",
            Maximum::Amount => "max_amount",
            Maximum::Single => "single_amount_max",
        };
        let (limit, used) = (figures.limit, figures.used);
        let text = format!(
            ": velocity_limits[{limit}].{maximum}, used {}",
            unsigned_number(used.minor_units())
        );
        self.message.push_str(&text);
        self.with("limit", limit.to_string());
        self.with("maximum", maximum);
        self.with("used", used.to_string());
        if let Some(seconds) = figures.room_at_seconds {
            let time = UNIX_EPOCH + Duration::from_secs(u64::from(seconds));
            let room_at = humantime::format_rfc3339_seconds(time).to_string();
            self.message.push_str(&format!(", room again at {room_at}"));
            self.with("room_at", room_at);
        }
    }
}
