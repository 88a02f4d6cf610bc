//! The ledger: a pure state machine. No async, no I/O, no clock of its own.
//!
//! [`Ledger::process`] takes a transaction and a [`Journal`] and says what became of it. The journal is the ledger's
//! memory of transactions: it finds earlier ones by id and takes new records. The ledger itself keeps only accounts.
//!
//! What never changes, whatever happens:
//!
//! - every transfer debits and credits the same amount, so the debits of all accounts of an asset equal their credits;
//! - a transaction is applied whole or not at all;
//! - a recorded transaction id answers for ever as it did the first time;
//! - replaying the journal's records gives the same accounts, without evaluating a rule.

pub mod account;
mod assets;
pub mod codec;
mod difference;
pub mod id;
mod machine;
pub mod money;
pub mod record;
pub mod reject;
mod sys;
pub mod table;
pub mod tag_index;
pub mod time;
pub mod transaction;

pub use account::{
    Account, AccountIndex, AccountSnapshot, AccountStatus, AssetIndex, BalanceRule, Balances, Metadata,
    NewAccount,
};
pub use assets::ASSETS_MAX;
pub use codec::Malformed;
pub use difference::ContentField;
pub use machine::{AccountOutcome, Committed, Journal, Key, Ledger, Outcome, Recalled, ReplayError, Tags};
pub use money::Amount;
pub use reject::{Reason, Rejection, Side};
pub use table::{ACCOUNTS_MAX, TableFull};
pub use time::Timestamp;
pub use transaction::{EffectiveTime, Heading, Phase, TRANSFERS_MAX, TransactionView, Transfer};
