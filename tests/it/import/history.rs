//! Makes a history from a seed: the lines of an NDJSON file, the right answer to each line, and the state afterwards. The reference is
//! the model of the ledger's own tests, a second implementation of all rules. The generator of these tests makes the requests.

#[path = "../../../crates/ledger/tests/it/content.rs"]
#[expect(dead_code, reason = "the ledger's tests use all of it")]
mod content;
#[path = "../../../crates/ledger/tests/it/generators.rs"]
#[expect(dead_code, reason = "the ledger's tests use all of it")]
mod generators;
#[path = "../../../crates/ledger/tests/it/model.rs"]
mod model;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use tally::{
    grpc::error_kind::ErrorKind,
    proto::{self, Account, amount},
};
use tally_ledger::{
    AccountStatus, AccountUpdate, Amount, AmountRule, BalanceRule, Committed, Metadata, NewAccount, Outcome,
    Phase, Side, Timestamp, Transfer, UpdateOutcome, VelocityLimit,
};

use self::{
    content::{Content, Other},
    generators::{ACCOUNTS, Random},
    model::{HoldState, Model, Now},
};

const HOUR: u64 = 3600 * 1_000_000_000;
const DAY: u64 = 24 * HOUR;
/// The window of every velocity limit. It is much longer than a test, so no transfer leaves it.
const WINDOW: u64 = 30 * DAY;
/// The time of every block in the model. Holds that expire have a timeout of an hour, all others have many days.
const TIME: Timestamp = Timestamp::from_nanos(1_700_000_000_000_000_000);
/// Seconds of the years 1970 to 2096, for effective times.
const SECONDS: i64 = 4_000_000_000;
/// Accounts that the generator does not know: an unlimited account, an account with money for holds that expire, and another unlimited
/// account. They stay open, so transfers between the two unlimited accounts are always committed.
const SPARE: [&str; 3] = ["e0", "e1", "e2"];

/// The right answer to a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Committed,
    Replayed,
    /// Rejected with this reason.
    Rejected(&'static str),
    /// An update of an account.
    Updated,
}

/// A history.
#[derive(Debug)]
pub(super) struct History {
    /// The lines with their answers.
    pub(super) lines: Vec<(String, Answer)>,
    /// The features and outcomes that occurred.
    pub(super) reached: BTreeSet<&'static str>,
    /// The start of every id.
    prefix: String,
    random: Random,
    model: Model,
    sent: Vec<Content>,
    /// The ids whose rejection is not recorded.
    unrecorded: BTreeSet<String>,
    is_wide: bool,
}

/// The id and the state of a hold, and the amount of each transfer that it still reserves.
pub(super) type HoldAfter = (String, proto::HoldState, Vec<u128>);

// ===== impl History: steps =====

impl History {
    /// Begins the history of a seed. Its ids begin with `prefix`.
    pub(super) fn new(seed: u64, prefix: &str) -> Self {
        let mut random = Random(seed);
        let mut model = Model::new(usize::MAX);
        let known = &ACCOUNTS[..ACCOUNTS.len() - 1];
        let mut accounts: Vec<NewAccount> = known
            .iter()
            .map(|id| allowed_account(generators::new_account(&mut random, id)))
            .collect();
        for id in SPARE {
            accounts.push(NewAccount {
                id: id.to_owned(),
                asset: "EUR".to_owned(),
                rule: if id == "e1" {
                    BalanceRule::CreditBalance
                } else {
                    BalanceRule::Unlimited
                },
                overdraft_limit: Amount::ZERO,
                status: AccountStatus::Open,
                metadata: Metadata::new(),
                velocity_limits: Vec::new(),
            });
        }
        model.create(&accounts).expect("the accounts are new");
        History {
            lines: Vec::new(),
            reached: BTreeSet::new(),
            prefix: prefix.to_owned(),
            is_wide: random.percent(30),
            random,
            model,
            sent: Vec::new(),
            unrecorded: BTreeSet::new(),
        }
    }

    /// Adds `count` lines or a few more. The last line is a transaction that the service commits.
    pub(super) fn extend(&mut self, count: usize) {
        let count = self.lines.len() + count;
        while self.lines.len() < count {
            self.step();
        }
        self.commit();
    }

    /// Adds a transaction that the service commits.
    fn commit(&mut self) {
        let id = format!("t{}", self.sent.len());
        self.send(Content::posted(&id, &[content::transfer(SPARE[0], SPARE[2], 1)]));
        assert_eq!(
            self.lines.last().map(|(_, answer)| answer),
            Some(&Answer::Committed)
        );
    }

    /// Makes a request.
    fn step(&mut self) {
        let random = &mut self.random;
        let content = match random.below(100) {
            0..8 => return self.update(),
            20..28 => return self.commit(),
            8..14 if !self.sent.is_empty() => self.sent[random.index(self.sent.len())].clone(),
            14..20 if !self.sent.is_empty() => {
                let again = self.sent[random.index(self.sent.len())].clone();
                generators::change(random, again)
            }
            _ => {
                let id = format!("t{}", self.sent.len());
                let mut content = generators::content(&self.model, random, &id, self.is_wide);
                // A deadline in the far future, because the service has a real clock.
                content.pending_timeout = content.pending_timeout.map(|nanos| DAY * (1 + nanos % 3000));
                if let Some(time) = &mut content.effective_time {
                    time.seconds = time.seconds.rem_euclid(SECONDS);
                }
                content
            }
        };
        self.send(content);
    }

    fn send(&mut self, mut content: Content) {
        // `change` sets a timeout of some nanoseconds.
        content.pending_timeout = content.pending_timeout.map(|nanos| nanos.max(HOUR));
        // If an id had a rejection that is not recorded and then occurred again with other content, a repeated import could record another
        // content than the first import.
        if !is_allowed(&content) || self.unrecorded.contains(&content.id) {
            return;
        }
        let line = self.line_of(&content);
        let answer = self.answer(&content);
        if answer != Answer::Replayed && !matches!(answer, Answer::Rejected("TRANSACTION_ID_REUSED")) {
            self.sent.push(content);
        }
        self.lines.push((line, answer));
    }

    fn answer(&mut self, content: &Content) -> Answer {
        if let Other::Hold(named) | Other::Reversed(named) = &content.other
            && self.unrecorded.contains(named)
        {
            self.unrecorded.insert(content.id.clone());
            self.reached.insert("NOT_SENT");
            return Answer::Rejected("NOT_SENT");
        }
        let next = Committed {
            sequence: self.model.sequence + 1,
            time: TIME,
        };
        let now = Now {
            next,
            block_time: TIME,
        };
        let (outcome, legs) = self.model.process(content, now);
        let (answer, is_recorded) = match outcome {
            Outcome::Committed { replayed: true, .. } => (Answer::Replayed, true),
            Outcome::Committed { .. } => {
                let moved_less = content
                    .transfers
                    .iter()
                    .zip(&legs)
                    .any(|(sent, leg)| leg.moved < sent.amount.minor_units());
                self.reached.extend(features(content, moved_less));
                (Answer::Committed, true)
            }
            Outcome::Rejected { rejection, .. } => {
                let reason = ErrorKind::of_rejection(rejection.reason).reason;
                (Answer::Rejected(reason), model::is_recorded(rejection.reason))
            }
            Outcome::Reused { .. } => (Answer::Rejected("TRANSACTION_ID_REUSED"), true),
        };
        if !is_recorded {
            self.unrecorded.insert(content.id.clone());
        }
        match answer {
            Answer::Rejected(reason) => self.reached.insert(reason),
            Answer::Replayed => self.reached.insert("replayed"),
            Answer::Committed | Answer::Updated => false,
        };
        answer
    }

    /// Makes an update. An update that the service rejects would end the import, so it is left out.
    fn update(&mut self) {
        let mut update = generators::update(&self.model, &mut self.random);
        // The file can't know a later revision of the account.
        let is_unchanged = self.model.revision(&update.id) == 0;
        update.expected_revision = update
            .expected_revision
            .filter(|revision| *revision == 0 && is_unchanged);
        for limit in update.velocity_limits.iter_mut().flatten() {
            set_window(limit);
        }
        let Some(line) = self.line_of_update(&update) else {
            return;
        };
        let entry = self.lines.len() as u64 + 1;
        match self.model.update(&update, entry) {
            UpdateOutcome::Updated(_) => {}
            UpdateOutcome::NotFound
            | UpdateOutcome::ChangedSince
            | UpdateOutcome::Closed
            | UpdateOutcome::NotEmpty
            | UpdateOutcome::Unlimited => return,
        }
        for (name, is_set) in [
            ("update status", update.status.is_some()),
            ("update overdraft_limit", update.overdraft_limit.is_some()),
            ("update metadata", update.metadata.is_some()),
            ("update velocity_limits", update.velocity_limits.is_some()),
            ("update with etag", update.expected_revision.is_some()),
            ("close", update.status == Some(AccountStatus::Closed)),
        ] {
            if is_set {
                self.reached.insert(name);
            }
        }
        self.lines.push((line, Answer::Updated));
    }
}

/// The features that a committed transaction uses.
fn features(content: &Content, moved_less: bool) -> Vec<&'static str> {
    let has_transfers = !content.transfers.is_empty();
    let is_reversal = matches!(content.other, Other::Reversed(_));
    let mut features = vec![match content.phase {
        Phase::Posted if is_reversal && has_transfers => "reversal of a part",
        Phase::Posted if is_reversal => "reversal of all",
        Phase::Posted if moved_less => "clamped",
        Phase::Posted => "posted",
        Phase::Pending if moved_less => "clamped hold",
        Phase::Pending => "hold",
        Phase::PostPending if content.keep_remaining => "post and keep",
        Phase::PostPending if has_transfers => "post of a part",
        Phase::PostPending => "post of all",
        Phase::VoidPending => "void",
    }];
    for (name, is_set) in [
        ("timeout", content.pending_timeout.is_some()),
        ("effective time", content.effective_time.is_some()),
        ("metadata", !content.metadata.is_empty()),
        (
            "wide",
            content
                .transfers
                .iter()
                .any(|transfer| transfer.amount.minor_units() > u128::from(u64::MAX)),
        ),
    ] {
        if is_set {
            features.push(name);
        }
    }
    features
}

// ===== impl History: holds that expire =====

impl History {
    /// Adds holds that expire after an hour. Only they use the money of their accounts.
    pub(super) fn reserve_for_an_hour(&mut self) {
        let [unlimited, limited, _] = SPARE;
        let pay = |debit: &str, credit: &str, amount| [content::transfer(debit, credit, amount)];
        self.send(Content::posted("fund", &pay(unlimited, limited, 50)));
        self.send(Content::pending("x0", Some(HOUR), &pay(limited, unlimited, 50)));
        self.send(Content::pending("x1", Some(HOUR), &pay(unlimited, limited, 7)));
        self.send(Content::post_and_keep(
            "x1-part",
            "x1",
            &pay(unlimited, limited, 2),
        ));
        // The hold `x0` has reserved all of the 50, and the post has added 2.
        self.send(Content::posted("early", &pay(limited, unlimited, 3)));
        assert_eq!(
            self.lines.last().map(|(_, answer)| answer),
            Some(&Answer::Rejected("INSUFFICIENT_FUNDS"))
        );
    }

    /// Expires the holds of [`History::reserve_for_an_hour`], and adds lines that show it.
    pub(super) fn expire(&mut self) {
        let expired = self
            .model
            .expire_due(TIME.checked_add_nanos(2 * HOUR).unwrap(), usize::MAX);
        assert!(expired >= 2, "{expired}");
        let [unlimited, limited, _] = SPARE;
        let pay = |debit: &str, credit: &str, amount| [content::transfer(debit, credit, amount)];
        self.send(Content::posted("late", &pay(limited, unlimited, 52)));
        assert_eq!(
            self.lines.last().map(|(_, answer)| answer),
            Some(&Answer::Committed)
        );
        self.send(Content::post("x0-late", "x0", &[]));
        self.send(Content::void("x1-late", "x1"));
    }
}

// ===== impl History: JSON =====

impl History {
    fn name(&self, id: &str) -> String {
        format!("{}{id}", self.prefix)
    }

    fn line_of(&self, content: &Content) -> String {
        let mut line = Map::new();
        let mut put = |key: &str, value: Value| line.insert(key.to_owned(), value);
        put("transactionId", self.name(&content.id).into());
        // Posted transactions are written with and without their phase.
        if content.phase != Phase::Posted || content.transfers.len() > 1 {
            let phase = match content.phase {
                Phase::Posted => "POSTED",
                Phase::Pending => "PENDING",
                Phase::PostPending => "POST_PENDING",
                Phase::VoidPending => "VOID_PENDING",
            };
            put("phase", format!("TRANSACTION_PHASE_{phase}").into());
        }
        match &content.other {
            Other::Nothing => None,
            Other::Hold(id) => put("pendingTransactionId", self.name(id).into()),
            Other::Reversed(id) => put("reverses_transaction_id", self.name(id).into()),
        };
        if !content.transfers.is_empty() {
            let transfers = content.transfers.iter().map(|transfer| self.transfer(transfer));
            put("transfers", transfers.collect());
        }
        if content.keep_remaining {
            put("keepRemaining", true.into());
        }
        if let Some(nanos) = content.pending_timeout {
            put("pendingTimeout", seconds(nanos).into());
        }
        if let Some(time) = content.effective_time {
            let time = prost_types::Timestamp {
                seconds: time.seconds,
                nanos: i32::try_from(time.nanos).unwrap(),
            };
            put("effectiveTime", time.to_string().into());
        }
        if !content.metadata.is_empty() {
            put("metadata", json!(content.metadata));
        }
        Value::Object(line).to_string()
    }

    fn transfer(&self, transfer: &Transfer<String>) -> Value {
        let mut object = json_amount(transfer.amount);
        let members = object.as_object_mut().unwrap();
        members.insert("debitAccountId".to_owned(), self.name(&transfer.debit).into());
        members.insert("creditAccountId".to_owned(), self.name(&transfer.credit).into());
        members.insert("code".to_owned(), transfer.code.into());
        let rule = match transfer.rule {
            AmountRule::Exact => return object,
            AmountRule::UpToDebitAvailable => "UP_TO_DEBIT_AVAILABLE",
            AmountRule::UpToCreditAvailable => "UP_TO_CREDIT_AVAILABLE",
            AmountRule::UpToBothAvailable => "UP_TO_BOTH_AVAILABLE",
        };
        members.insert("amountRule".to_owned(), format!("AMOUNT_RULE_{rule}").into());
        object
    }

    /// Returns the line of an update; `None` if the update sets nothing.
    fn line_of_update(&self, update: &AccountUpdate) -> Option<String> {
        let (mut account, mut mask) = (Map::new(), Vec::new());
        account.insert("id".to_owned(), self.name(&update.id).into());
        let mut put = |field: &'static str, value: Value| {
            account.insert(field.to_owned(), value);
            mask.push(field);
        };
        if let Some(status) = update.status {
            let status = format!("ACCOUNT_STATUS_{}", status_name(status));
            put("status", status.into());
        }
        if let Some(limit) = update.overdraft_limit {
            put("overdraftLimit", json_amount(limit));
        }
        if let Some(metadata) = &update.metadata {
            put("metadata", json!(metadata));
        }
        if let Some(limits) = &update.velocity_limits {
            put("velocityLimits", limits.iter().map(velocity_limit).collect());
        }
        if mask.is_empty() {
            return None;
        }
        if update.expected_revision.is_some() {
            account.insert("etag".to_owned(), "r0".into());
        }
        Some(json!({ "account": account, "updateMask": mask.join(",") }).to_string())
    }
}

const fn status_name(status: AccountStatus) -> &'static str {
    match status {
        AccountStatus::Open => "OPEN",
        AccountStatus::Frozen => "FROZEN",
        AccountStatus::Closed => "CLOSED",
        AccountStatus::DebitsFrozen => "DEBITS_FROZEN",
    }
}

/// Returns a duration in the JSON form of protobuf.
fn seconds(nanos: u64) -> String {
    format!("{}.{:09}s", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// Returns an amount in one of its two forms.
fn json_amount(amount: Amount) -> Value {
    let units = amount.minor_units();
    match i64::try_from(units) {
        Ok(units) => json!({ "minorUnits": units.to_string() }),
        Err(_) => {
            let half = |units: u128| u64::try_from(units & u128::from(u64::MAX)).unwrap();
            json!({ "wideMinorUnits": { "high": half(units >> 64).to_string(), "low": half(units).to_string() } })
        }
    }
}

fn velocity_limit(limit: &VelocityLimit) -> Value {
    let side = match limit.side {
        Side::Debit => "SIDE_DEBIT",
        Side::Credit => "SIDE_CREDIT",
    };
    let mut object = json!({ "side": side, "maxCount": limit.max_count.to_string() });
    if limit.window_nanos > 0 {
        object["window"] = seconds(limit.window_nanos).into();
    }
    if let Some(max) = limit.max_amount {
        object["maxAmount"] = json_amount(max);
    }
    if let Some(max) = limit.single_amount_max {
        object["singleAmountMax"] = json_amount(max);
    }
    object
}

// ===== what the service allows =====

fn set_window(limit: &mut VelocityLimit) {
    if limit.window_nanos > 0 {
        limit.window_nanos = WINDOW;
    }
}

fn allowed_account(mut account: NewAccount) -> NewAccount {
    if account.rule == BalanceRule::Unlimited {
        account.overdraft_limit = Amount::ZERO;
    }
    account.velocity_limits.iter_mut().for_each(set_window);
    account
}

/// Returns whether the API accepts the form of a transaction. The generator makes some transactions that only the ledger accepts.
fn is_allowed(content: &Content) -> bool {
    match &content.other {
        Other::Nothing => true,
        Other::Hold(named) | Other::Reversed(named) => {
            let is_zero = content.transfers.iter().all(|transfer| transfer.amount.is_zero());
            *named != content.id && (content.transfers.is_empty() || !is_zero)
        }
    }
}

// ===== impl History: the state afterwards =====

impl History {
    /// Returns the accounts at the beginning.
    pub(super) fn accounts_before(&self) -> Vec<Account> {
        let known = ACCOUNTS[..ACCOUNTS.len() - 1].iter().chain(&SPARE);
        let created = known.map(|id| self.model.created(id).expect("it was created"));
        created.map(|account| self.to_proto(account)).collect()
    }

    /// Returns the accounts at the end, with the four columns and the available amounts.
    pub(super) fn accounts_after(&self) -> Vec<Account> {
        let accounts = self.model.accounts.iter().map(|(id, account)| {
            let columns = self.model.columns[id].balances();
            let amount = |amount: Amount| Some(proto_amount(amount));
            let side = match account.rule {
                BalanceRule::Unlimited => None,
                BalanceRule::CreditBalance => Some(Side::Debit),
                BalanceRule::DebitBalance => Some(Side::Credit),
            };
            let available = side.and_then(|side| self.model.available(id, side));
            Account {
                balances: Some(proto::Balances {
                    debits_pending: amount(columns.debits_pending),
                    debits_posted: amount(columns.debits_posted),
                    credits_pending: amount(columns.credits_pending),
                    credits_posted: amount(columns.credits_posted),
                }),
                available: available.map(|available| proto_amount(Amount::new(available))),
                ..self.to_proto(account)
            }
        });
        accounts.collect()
    }

    /// Returns all holds at the end.
    pub(super) fn holds_after(&self) -> Vec<HoldAfter> {
        let holds = self.model.holds.iter().map(|(id, hold)| {
            let is_pending = hold.state == HoldState::Pending;
            let left = hold
                .legs
                .iter()
                .map(|leg| if is_pending { leg.remaining } else { 0 });
            let state = match hold.state {
                HoldState::Pending => proto::HoldState::Pending,
                HoldState::Posted => proto::HoldState::Posted,
                HoldState::Voided => proto::HoldState::Voided,
                HoldState::Expired => proto::HoldState::Expired,
            };
            (self.name(id), state, left.collect())
        });
        holds.collect()
    }

    fn to_proto(&self, account: &NewAccount) -> Account {
        let status =
            proto::AccountStatus::from_str_name(&format!("ACCOUNT_STATUS_{}", status_name(account.status)));
        let limit = |limit: &VelocityLimit| proto::VelocityLimit {
            side: match limit.side {
                Side::Debit => proto::Side::Debit.into(),
                Side::Credit => proto::Side::Credit.into(),
            },
            window: (limit.window_nanos > 0).then(|| prost_types::Duration {
                seconds: i64::try_from(limit.window_nanos / 1_000_000_000).unwrap(),
                nanos: 0,
            }),
            max_count: i64::try_from(limit.max_count).unwrap(),
            max_amount: limit.max_amount.map(proto_amount),
            single_amount_max: limit.single_amount_max.map(proto_amount),
        };
        Account {
            id: self.name(&account.id),
            asset: account.asset.clone(),
            balance_rule: match account.rule {
                BalanceRule::Unlimited => proto::BalanceRule::Unlimited,
                BalanceRule::CreditBalance => proto::BalanceRule::CreditBalance,
                BalanceRule::DebitBalance => proto::BalanceRule::DebitBalance,
            }
            .into(),
            overdraft_limit: Some(proto_amount(account.overdraft_limit)),
            status: status.unwrap().into(),
            metadata: account.metadata.clone(),
            velocity_limits: account.velocity_limits.iter().map(limit).collect(),
            ..Account::default()
        }
    }
}

fn proto_amount(amount: Amount) -> proto::Amount {
    let units = amount.minor_units();
    let half = |units: u128| u64::try_from(units & u128::from(u64::MAX)).unwrap();
    let value = match i64::try_from(units) {
        Ok(units) => amount::Value::MinorUnits(units),
        Err(_) => amount::Value::WideMinorUnits(proto::Uint128 {
            high: half(units >> 64),
            low: half(units),
        }),
    };
    proto::Amount { value: Some(value) }
}
