//! A double-entry ledger as a pure state machine: it does no I/O, uses no async code and reads no clock.
//!
//! [`Ledger`] holds the accounts. [`Ledger::process`] takes a transaction and a [`TransactionLog`], and returns an
//! [`Outcome`]. The log finds earlier transactions by id, and stores new records: the effects of the requests. A
//! program supplies the log; the simplest log is a vector and a map, as in `examples/ledger.rs`.
//!
//! These invariants hold after every call:
//!
//! - Every transfer debits and credits the same amount. So for each asset, the sum of all debits equals the sum of all
//!   credits.
//! - A transaction is applied completely or not at all.
//! - If a transaction id is recorded, a retry with the same content gets the recorded outcome.
//! - Applying the records of the log to an empty ledger, without evaluating any rule, gives the same accounts.
//!
//! A broken invariant is a bug in this crate or in the caller's log. The ledger then panics with a message that names
//! the invariant, in release builds too: an execution that continues could lose money, or apply a transaction twice. A
//! transaction that breaks a rule gets a [rejection](Rejection), and damaged bytes give an [error](Malformed); neither
//! panics.

pub mod account;
mod assets;
pub mod chain;
mod change;
pub mod codec;
mod difference;
pub mod effects;
pub mod history;
pub mod holds;
pub mod id;
mod keys;
mod lifecycle;
mod linked;
mod links;
mod log;
mod machine;
pub mod money;
#[cfg(not(feature = "mutations"))]
mod mutation;
#[cfg(feature = "mutations")]
pub mod mutation;
pub mod own_record;
mod pages;
pub mod record;
pub mod reject;
mod replay;
mod shape;
mod side;
mod sys;
pub mod table;
pub mod tag_index;
pub mod time;
pub mod transaction;
mod transfers;
pub mod velocity;

pub use account::{
    Account, AccountIndex, AccountSnapshot, AccountStatus, AccountTerms, AssetIndex, BalanceRule, Balances,
    Column, HasExtras, Metadata, NewAccount,
};
pub use assets::ASSETS_MAX;
pub use chain::{Link, Links, Waypoint, linked_accounts};
pub use change::{Change, Changes};
pub use codec::Malformed;
pub use difference::{AccountField, ContentField};
pub use effects::{Effects, Leg, Legs};
pub use history::History;
pub use holds::{Hold, HoldTable};
pub use keys::RecordKey;
pub use lifecycle::{AccountOutcome, AccountUpdate, UpdateOutcome};
pub use log::{Committed, PlacedRecord, RecordedTransaction, TransactionKey, TransactionLog};
pub use machine::{HOLDS_MAX_DEFAULT, Ledger, Outcome, Tags};
pub use money::Amount;
pub use record::{NewRecord, Record};
pub use reject::{Reason, Rejection};
pub use replay::{RecordPlace, ReplayError};
pub use side::Side;
pub use table::{ACCOUNTS_MAX, TableFull};
pub use time::Timestamp;
pub use transaction::{
    AmountRule, EffectiveTime, Heading, Names, Phase, TRANSFERS_MAX, TransactionView, Transfer,
};
pub use velocity::VelocityLimit;
