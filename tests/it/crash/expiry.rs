//! Kills the server before, at and after the deadlines of holds. Each hold must expire exactly once. An idle server must expire holds
//! without a call: while the test waits, it reads only the metrics, which do not pass through the queue.

use std::time::Duration;

use tally::proto::{
    Account, BalanceRule, GetAccountRequest, GetTransactionRequest, HoldState, ProcessTransactionRequest,
    ProcessTransactionResponse, ProcessTransactionsRequest, Transaction, TransactionPhase,
    account_service_client::AccountServiceClient, amount, transaction_result::Outcome,
    transaction_service_client::TransactionServiceClient,
};
use tokio::time::Instant;
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt;

use super::small_files;
use crate::support::{
    in_process::{account, transaction, transfer},
    operators::get,
    server::TestServer,
};

/// Number of holds of a round, whose deadlines come one after the other.
const HOLDS: usize = 400;
/// The time until the first of these holds expires.
const FIRST: Duration = Duration::from_millis(400);
/// The time between two deadlines.
const STEP: Duration = Duration::from_millis(4);
/// The time until the last hold of a round expires. A part of this hold is posted.
const LAST: Duration = Duration::from_secs(2);
/// Number of holds that outlive the test.
const KEPT: u64 = 2;
/// The available amount without the holds of the rounds: 1000, less 10 and 5 for the holds that are kept.
const AVAILABLE: i64 = 985;
/// Interval of checks.
const POLL: Duration = Duration::from_millis(2);
/// Maximum number of checks. Only a server that lets no hold expire reaches it.
const POLLS_MAX: u32 = 60_000;

/// When the server is killed, and when it is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Killed before the deadlines, and started again before them.
    Before,
    /// Killed before the deadlines, and started again after them.
    Across,
    /// Killed when some holds have expired, and usually not yet all.
    At,
    /// Killed after all holds have expired.
    After,
}

/// The server and the sequence of its last committed transaction or expired hold.
struct Expiry {
    server: TestServer,
    sequence: i64,
}

// ===== impl Expiry =====

impl Expiry {
    async fn start() -> Self {
        let server = small_files().start();
        let wallet = Account {
            balance_rule: BalanceRule::CreditBalance.into(),
            ..account("wallet")
        };
        let accounts = vec![account("bank"), wallet];
        server
            .client()
            .await
            .batch_create_accounts(accounts)
            .await
            .unwrap();
        let mut expiry = Expiry { server, sequence: 0 };
        let fund = transaction("fund", vec![transfer("bank", "wallet", 1000)]);
        expiry.commits(fund).await;
        expiry
            .commits(hold("long", 10, Some(Duration::from_secs(3600))))
            .await;
        expiry.commits(hold("for-ever", 5, None)).await;
        expiry
    }

    async fn transactions(&self) -> TransactionServiceClient<Channel> {
        TransactionServiceClient::connect(self.server.endpoint())
            .await
            .unwrap()
    }

    async fn process(
        &self,
        request: ProcessTransactionRequest,
    ) -> Result<ProcessTransactionResponse, Status> {
        let processed = self.transactions().await.process_transaction(request).await;
        processed.map(tonic::Response::into_inner)
    }

    /// Commits a transaction, whose sequence must be the next one. So nothing has expired twice, and nothing was lost.
    async fn commits(&mut self, request: ProcessTransactionRequest) {
        self.sequence += 1;
        let id = request.transaction_id.clone();
        assert_eq!(
            self.process(request).await.unwrap().sequence,
            self.sequence,
            "{id}"
        );
    }

    /// Makes the holds of a round, and posts 3 of the last hold. Returns the posted amount: 0 if the hold had already expired.
    async fn make_holds(&self, round: usize) -> i64 {
        let mut transactions: Vec<_> = (0_u32..)
            .zip(0..HOLDS)
            .map(|(number, _)| hold(&format!("{round}-{number}"), 1, Some(FIRST + STEP * number)))
            .collect();
        transactions.push(hold(&format!("{round}-part"), 10, Some(LAST)));
        let request = ProcessTransactionsRequest { transactions };
        let answer = self.transactions().await.process_transactions(request).await;
        for result in answer.unwrap().into_inner().results {
            assert!(
                matches!(result.outcome, Some(Outcome::Committed(_))),
                "{result:?}"
            );
        }
        let part = ProcessTransactionRequest {
            keep_remaining: true,
            transfers: vec![transfer("wallet", "bank", 3)],
            ..ends(
                &format!("{round}-post"),
                TransactionPhase::PostPending,
                &format!("{round}-part"),
            )
        };
        match self.process(part).await {
            Ok(_) => 3,
            Err(status) => {
                assert_eq!(reason(&status), "PENDING_EXPIRED", "{status:?}");
                0
            }
        }
    }

    /// Returns the value of a metric.
    async fn metric(&self, name: &str) -> u64 {
        let metrics = get(&self.server, "/metrics").await.2;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    }

    /// Waits until the holds of all rounds are gone, without a call that passes through the queue.
    async fn wait_until_expired(&self) {
        for _ in 0..POLLS_MAX {
            if self.metric("tally_holds ").await == KEPT {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("the holds do not expire:\n{}", self.server.stderr());
    }

    /// Kills the server at `moment`, and starts it again. `made` is when the holds were made.
    async fn kill(&mut self, moment: Moment, made: Instant) {
        match moment {
            Moment::Before | Moment::Across => {}
            Moment::At => {
                let before = KEPT + HOLDS as u64 + 1;
                for _ in 0..POLLS_MAX {
                    if self.metric("tally_holds ").await < before {
                        break;
                    }
                    tokio::time::sleep(POLL).await;
                }
            }
            Moment::After => self.wait_until_expired().await,
        }
        self.server.kill9();
        while moment == Moment::Across && made.elapsed() < LAST {
            tokio::time::sleep(POLL).await;
        }
        self.server.restart();
    }

    async fn find(&self, id: &str) -> Transaction {
        let request = GetTransactionRequest {
            transaction_id: id.to_owned(),
            ..GetTransactionRequest::default()
        };
        let found = self.transactions().await.get_transaction(request).await;
        found.unwrap().into_inner().transaction.unwrap()
    }

    /// Checks that a hold has expired at its deadline, and can be neither posted nor voided.
    async fn assert_expired(&self, id: &str, timeout: Duration, posted: i64) {
        let found = self.find(id).await;
        assert_eq!(found.hold_state(), HoldState::Expired, "{found:?}");
        assert_eq!(units(&found.posted_amounts[0]), posted, "{found:?}");
        assert_eq!(units(&found.remaining_amounts[0]), 0, "{found:?}");
        assert_eq!(found.ended_by, "", "{found:?}");
        let Some(tally::proto::transaction::Outcome::Committed(made)) = &found.outcome else {
            panic!("{found:?}");
        };
        let nanos = |time: Option<prost_types::Timestamp>| {
            let time = time.unwrap();
            i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
        };
        let after = nanos(found.expire_time) - nanos(made.commit_time);
        assert_eq!(after, i128::try_from(timeout.as_nanos()).unwrap(), "{found:?}");
    }

    async fn assert_cannot_end(&self, id: &str) {
        for (name, phase) in [
            ("late-post", TransactionPhase::PostPending),
            ("late-void", TransactionPhase::VoidPending),
        ] {
            let status = self
                .process(ends(&format!("{name}-{id}"), phase, id))
                .await
                .unwrap_err();
            assert_eq!(reason(&status), "PENDING_EXPIRED", "{status:?}");
        }
    }

    /// Checks that the reserved amount is free again, except for the holds that are kept.
    async fn assert_free(&self, available: i64) {
        let request = GetAccountRequest {
            account_id: "wallet".to_owned(),
            ..GetAccountRequest::default()
        };
        let mut accounts = AccountServiceClient::connect(self.server.endpoint())
            .await
            .unwrap();
        let wallet = accounts
            .get_account(request)
            .await
            .unwrap()
            .into_inner()
            .account
            .unwrap();
        assert_eq!(units(wallet.available.as_ref().unwrap()), available);
        let pending = wallet.balances.unwrap().debits_pending;
        assert_eq!(units(pending.as_ref().unwrap()), 15);
    }
}

fn hold(id: &str, amount: i64, timeout: Option<Duration>) -> ProcessTransactionRequest {
    ProcessTransactionRequest {
        phase: TransactionPhase::Pending.into(),
        pending_timeout: timeout.map(|timeout| timeout.try_into().unwrap()),
        ..transaction(id, vec![transfer("wallet", "bank", amount)])
    }
}

fn ends(id: &str, phase: TransactionPhase, hold: &str) -> ProcessTransactionRequest {
    ProcessTransactionRequest {
        phase: phase.into(),
        pending_transaction_id: hold.to_owned(),
        ..transaction(id, Vec::new())
    }
}

fn units(amount: &tally::proto::Amount) -> i64 {
    match amount.value {
        Some(amount::Value::MinorUnits(units)) => units,
        _ => panic!("{amount:?}"),
    }
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().expect("a reason").reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_expires_exactly_once_whenever_the_server_is_killed() {
    let mut expiry = Expiry::start().await;
    let mut available = AVAILABLE;
    for (round, moment) in [Moment::Before, Moment::Across, Moment::At, Moment::After]
        .into_iter()
        .enumerate()
    {
        let posted = expiry.make_holds(round).await;
        expiry.kill(moment, Instant::now()).await;
        expiry.wait_until_expired().await;
        // Each hold was made and has expired, and a part of one hold may have been posted.
        expiry.sequence += 2 * (i64::try_from(HOLDS).unwrap() + 1) + i64::from(posted > 0);
        available -= posted;
        expiry.assert_free(available).await;
        for (number, _) in (0_u32..).zip(0..HOLDS) {
            let id = format!("{round}-{number}");
            expiry.assert_expired(&id, FIRST + STEP * number, 0).await;
        }
        expiry
            .assert_expired(&format!("{round}-part"), LAST, posted)
            .await;
        for name in ["0", "part"] {
            expiry.assert_cannot_end(&format!("{round}-{name}")).await;
        }
        let next = transaction(&format!("{round}-fund"), vec![transfer("bank", "wallet", 1)]);
        expiry.commits(next).await;
        available += 1;
    }
    for id in ["long", "for-ever"] {
        assert_eq!(expiry.find(id).await.hold_state(), HoldState::Pending);
    }
    expiry.server.terminate();
    assert!(expiry.server.wait().success(), "{}", expiry.server.stderr());
    expiry.server.assert_verified();
}
