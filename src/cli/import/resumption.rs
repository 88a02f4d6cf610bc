//! Finds the updates of accounts that an earlier import of the same files has applied.
//!
//! A transaction has an id, so it can be sent again. An update has no id. If it were sent again, the account would go back to an earlier
//! state until the later updates of the file are sent again as well, and a closed account can't go back at all. But the import sends
//! nothing after an update before the service has applied the update. So if the service has committed a transaction that follows the
//! update in the files, the update was applied. The sequence of this transaction must be higher than the sequences of all transactions before
//! the update, because a file can contain a transaction twice.
//!
//! The import skips updates up to the first update after which the service knows no such transaction. From there on, it sends all
//! updates. So it never sends an update again without all later ones.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use super::{
    source::{Content, Part},
    source_error::SourceError,
};
use crate::{
    client::{CallError, Client},
    proto::{Account, Amount, UpdateAccountRequest, VelocityLimit, amount, transaction::Outcome},
};

/// Maximum number of transactions after an update for which the import asks the service, until it finds a committed one. More than one,
/// because some of them may have been rejected.
const ASKED_MAX: usize = 64;
/// Maximum number of parts that are read ahead to find these transactions.
const PARTS_MAX: usize = 128;

/// The parts of the files in their order, some of which are read ahead.
#[derive(Debug)]
pub(super) struct Parts {
    receiver: mpsc::Receiver<Result<Part, SourceError>>,
    ahead: VecDeque<Result<Part, SourceError>>,
}

/// Whether the import still repeats what an earlier import has sent.
#[derive(Debug, Default)]
pub(super) struct Resumption {
    is_over: bool,
}

// ===== impl Parts =====

impl Parts {
    pub(super) const fn new(receiver: mpsc::Receiver<Result<Part, SourceError>>) -> Self {
        Parts {
            receiver,
            ahead: VecDeque::new(),
        }
    }

    /// Returns the next part; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Result<Part, SourceError>> {
        match self.ahead.pop_front() {
            Some(part) => Some(part),
            None => self.receiver.recv().await,
        }
    }

    /// Returns the ids of the next transactions, up to [`ASKED_MAX`], without taking their parts.
    pub(super) async fn next_ids(&mut self) -> Vec<String> {
        loop {
            let batches = self.ahead.iter().filter_map(|part| match part {
                Ok(Part {
                    content: Content::Batch(batch),
                    ..
                }) => Some(batch),
                Ok(_) | Err(_) => None,
            });
            let rows = batches.flat_map(|batch| &batch.rows).take(ASKED_MAX);
            let ids: Vec<String> = rows.map(|row| row.transaction.transaction_id.clone()).collect();
            let is_complete = ids.len() == ASKED_MAX || self.ahead.len() == PARTS_MAX;
            if is_complete || matches!(self.ahead.back(), Some(Err(_))) {
                return ids;
            }
            match self.receiver.recv().await {
                Some(part) => self.ahead.push_back(part),
                None => return ids,
            }
        }
    }
}

// ===== impl Resumption =====

impl Resumption {
    pub(super) const fn is_over(&self) -> bool {
        self.is_over
    }

    /// Returns whether an earlier import has applied an update. `ids` are the next transactions after the update. `last_sequence` is the
    /// highest sequence of the transactions before the update, if there are any.
    ///
    /// # Errors
    /// [`CallError`] of a look-up.
    pub(super) async fn has_applied(
        &mut self,
        client: &Client,
        ids: &[String],
        last_sequence: Option<i64>,
    ) -> Result<bool, CallError> {
        for id in ids {
            let found = client.get_transaction(id).await?;
            if let Some(Outcome::Committed(committed)) = found.and_then(|found| found.outcome)
                && last_sequence.is_none_or(|last| committed.sequence > last)
            {
                return Ok(true);
            }
        }
        self.is_over = true;
        Ok(false)
    }
}

/// Returns whether `account` has all values that `request` sets.
pub(super) fn has_values(account: &Account, request: &UpdateAccountRequest) -> bool {
    let Some(wanted) = &request.account else {
        return false;
    };
    let paths = request.update_mask.iter().flat_map(|mask| &mask.paths);
    let mut equal = paths.map(|path| match path.as_str() {
        "status" => account.status == wanted.status,
        "overdraft_limit" => {
            units(account.overdraft_limit.as_ref()) == units(wanted.overdraft_limit.as_ref())
        }
        "metadata" => account.metadata == wanted.metadata,
        "velocity_limits" => {
            let limits = account.velocity_limits.iter().map(limit);
            limits.eq(wanted.velocity_limits.iter().map(limit))
        }
        // The check of the line has found all unknown paths.
        _ => false,
    });
    equal.all(|is_equal| is_equal)
}

/// Returns an amount in minor units. An unset amount is 0.
fn units(amount: Option<&Amount>) -> u128 {
    match amount.and_then(|amount| amount.value) {
        Some(amount::Value::MinorUnits(units)) => u128::from(units.unsigned_abs()),
        Some(amount::Value::WideMinorUnits(wide)) => u128::from(wide.high) << 64 | u128::from(wide.low),
        None => 0,
    }
}

/// Returns the values of a velocity limit. The service can send an amount in another form than it got.
fn limit(limit: &VelocityLimit) -> (i32, (i64, i32), i64, u128, u128) {
    let window = limit
        .window
        .map_or((0, 0), |window| (window.seconds, window.nanos));
    (
        limit.side,
        window,
        limit.max_count,
        units(limit.max_amount.as_ref()),
        units(limit.single_amount_max.as_ref()),
    )
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::{
        super::{
            row::{Row, UpdateRow},
            source::{Batch, Update},
        },
        *,
    };
    use crate::proto::{ProcessTransactionRequest, Uint128};

    fn batch(ids: &[&str]) -> Part {
        let row = |id: &&str| Row {
            line: 1,
            transaction: ProcessTransactionRequest {
                transaction_id: (*id).to_owned(),
                ..ProcessTransactionRequest::default()
            },
        };
        let (file, rows) = (Arc::from(Path::new("a")), ids.iter().map(row).collect());
        Part {
            content: Content::Batch(Batch { file, rows }),
            bytes_read: 0,
        }
    }

    fn update() -> Part {
        let row = UpdateRow {
            line: 1,
            request: UpdateAccountRequest::default(),
        };
        let file = Arc::from(Path::new("a"));
        Part {
            content: Content::Update(Box::new(Update { file, row })),
            bytes_read: 0,
        }
    }

    #[tokio::test]
    async fn the_next_transactions_are_found_behind_updates_and_are_not_taken() {
        let (sender, receiver) = mpsc::channel(100);
        let mut parts = Parts::new(receiver);
        for part in [update(), batch(&["t1", "t2"]), update(), batch(&["t3"])] {
            sender.send(Ok(part)).await.unwrap();
        }
        drop(sender);
        assert!(matches!(
            parts.next().await,
            Some(Ok(Part {
                content: Content::Update(_),
                ..
            }))
        ));
        assert_eq!(parts.next_ids().await, ["t1", "t2", "t3"]);
        assert_eq!(parts.next_ids().await, ["t1", "t2", "t3"]);
        let mut left = 0;
        while parts.next().await.is_some() {
            left += 1;
        }
        assert_eq!(left, 3);
    }

    #[tokio::test]
    async fn few_transactions_and_few_parts_are_read_ahead() {
        let (sender, receiver) = mpsc::channel(1000);
        let mut parts = Parts::new(receiver);
        for number in 0..100 {
            sender.send(Ok(batch(&[&format!("t{number}")]))).await.unwrap();
        }
        assert_eq!(parts.next_ids().await.len(), ASKED_MAX);
        assert_eq!(parts.ahead.len(), ASKED_MAX);
        let (sender, receiver) = mpsc::channel(1000);
        let mut parts = Parts::new(receiver);
        for _ in 0..200 {
            sender.send(Ok(update())).await.unwrap();
        }
        assert!(parts.next_ids().await.is_empty());
        assert_eq!(parts.ahead.len(), PARTS_MAX);
        // Nothing follows an error.
        let (sender, receiver) = mpsc::channel(1000);
        let mut parts = Parts::new(receiver);
        sender.send(Ok(batch(&["t1"]))).await.unwrap();
        sender.send(Err(SourceError::StdinFormat)).await.unwrap();
        assert_eq!(parts.next_ids().await, ["t1"]);
    }

    #[test]
    fn values_are_compared_by_the_mask_and_not_by_their_form() {
        let wide = |low| Amount {
            value: Some(amount::Value::WideMinorUnits(Uint128 { high: 0, low })),
        };
        let narrow = |units| Amount {
            value: Some(amount::Value::MinorUnits(units)),
        };
        let account = Account {
            status: 2,
            overdraft_limit: Some(narrow(0)),
            velocity_limits: vec![VelocityLimit {
                max_amount: Some(narrow(5)),
                ..VelocityLimit::default()
            }],
            ..Account::default()
        };
        let request = |wanted: Account, path: &str| UpdateAccountRequest {
            account: Some(wanted),
            update_mask: Some(prost_types::FieldMask {
                paths: vec![path.to_owned()],
            }),
        };
        let limits = |units| Account {
            velocity_limits: vec![VelocityLimit {
                max_amount: Some(wide(units)),
                ..VelocityLimit::default()
            }],
            ..Account::default()
        };
        let metadata = Account {
            metadata: [("k".to_owned(), "v".to_owned())].into(),
            ..Account::default()
        };
        for (request, is_equal) in [
            (request(Account::default(), "status"), false),
            (
                request(
                    Account {
                        status: 2,
                        ..Account::default()
                    },
                    "status",
                ),
                true,
            ),
            (request(Account::default(), "overdraft_limit"), true),
            (request(limits(5), "velocity_limits"), true),
            (request(limits(6), "velocity_limits"), false),
            (request(limits(5), "metadata"), true),
            (request(metadata, "metadata"), false),
        ] {
            assert_eq!(has_values(&account, &request), is_equal, "{request:?}");
        }
    }
}
