//! Converts the records of a data directory to messages of the API, for a program that reads the directory itself.

use tally_ledger::{AccountSnapshot, BalanceRule, Balances, NewAccount, Record, Timestamp};
use tonic::Status;

use super::{event::Event, head::damaged};
use crate::{
    grpc::{accounts::encode::from_account, transactions::lookup::AccountIds},
    proto,
    security::Scope,
    store::embedded::FoundRecord,
};

/// A record as a message of the API.
#[derive(Debug)]
pub enum Described {
    /// The account that was created, without its output-only fields.
    Account(Box<proto::Account>),
    /// The new terms of an account that was updated: its id, and the fields that an update can change.
    Update(Box<proto::Account>),
    /// A committed transaction, or the expiry of a hold, as in `ListTransactions`.
    Transaction(Box<proto::Transaction>),
}

/// Describes records. It must see all records that create accounts, because later records name accounts by their numbers.
#[derive(Debug, Default)]
pub struct Describer {
    ids: AccountIds,
}

// ===== impl Describer =====

impl Describer {
    /// Describes a record; `None` for a rejection.
    ///
    /// # Errors
    /// DATA_LOSS if the record can't be decoded, although its checksum is right.
    pub fn describe(&mut self, record: FoundRecord) -> Result<Option<Described>, Status> {
        let is_transaction = record
            .framed()
            .map_err(|_| damaged(&record))?
            .record
            .has_sequence();
        if is_transaction {
            let described = Event::of(record)?.describe(&self.ids, &Scope::default())?;
            return Ok(Some(Described::Transaction(Box::new(described))));
        }
        match record.framed().map_err(|_| damaged(&record))?.record {
            Record::AccountCreated { index, account } => {
                self.ids.insert(index, account.id.clone());
                Ok(Some(Described::Account(Box::new(content_of(account)))))
            }
            Record::AccountUpdated { index, terms, .. } => {
                let account = NewAccount {
                    id: self.ids.get(index).to_owned(),
                    asset: String::new(),
                    rule: BalanceRule::Unlimited,
                    overdraft_limit: terms.overdraft_limit,
                    status: terms.status,
                    metadata: terms.metadata,
                    velocity_limits: terms.velocity_limits,
                };
                let mut described = content_of(account);
                // An update can't change the rule.
                described.balance_rule = proto::BalanceRule::Unspecified.into();
                Ok(Some(Described::Update(Box::new(described))))
            }
            Record::Rejected { .. } | Record::Committed { .. } | Record::HoldExpired { .. } => Ok(None),
        }
    }
}

/// Describes an account without its output-only fields.
fn content_of(account: NewAccount) -> proto::Account {
    let described = from_account(AccountSnapshot {
        account,
        balances: Balances::default(),
        available: None,
        create_time: Timestamp::from_nanos(0),
        revision: 0,
    });
    proto::Account {
        balances: None,
        create_time: None,
        available: None,
        etag: String::new(),
        ..described
    }
}
