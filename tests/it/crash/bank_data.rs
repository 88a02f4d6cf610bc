//! Kills the server with SIGKILL during an import of bank data. No acknowledged transaction may be lost, and the
//! continued import must give the same result as an import without a kill.

use std::{
    collections::HashMap,
    process::{Child, Stdio},
    time::Duration,
};

use serde_json::Value;
use tally::{
    client::{Client, RetryPolicy, TRANSACTIONS_MAX},
    proto::{ProcessTransactionRequest, transaction},
};
use tokio::task::{JoinHandle, yield_now};

use super::{Random, small_files};
use crate::{
    real_data::{
        berka::{self, IMPORT_OPTIONS, Row, assert_final_balances, final_balances, import},
        committed, data, read_csv,
    },
    support::server::TestServer,
};

/// Number of kills in the test that records acknowledgements.
const KILLS: usize = 5;
/// Number of transactions in a call. The number is small, so that a kill can happen at many different moments.
const BATCH: usize = 40;
/// Number of calls that the test sends before a kill. Some of them may be answered when the server is killed.
const IN_FLIGHT: usize = 4;
/// Maximum number of times that the test yields to the tasks of the calls before it kills the server. This many yields
/// take about as long as the calls.
const YIELDS_MAX: u64 = 10_000;
/// Time for which the first import retries a call. It is longer than a server on a busy machine takes to answer.
const FIRST_GIVES_UP_AFTER: &str = "5s";
/// Maximum number of times that the test reads the last sequence number while it waits for the moment of the kill.
const POLLS_MAX: usize = 20_000;

/// The transactions to send, and the acknowledgements received.
struct Ledger {
    transactions: Vec<ProcessTransactionRequest>,
    /// The sequence number of every acknowledged transaction, by transaction id.
    acknowledged: HashMap<String, i64>,
}

/// A call in flight: the index of its first transaction, and the task that receives its answer.
type Call = (usize, JoinHandle<Option<Vec<(String, i64)>>>);

// ===== impl Ledger =====

impl Ledger {
    /// Starts a call with the [`BATCH`] transactions from `index` on.
    fn call(&self, client: &Client, index: usize) -> Call {
        let end = (index + BATCH).min(self.transactions.len());
        let batch = self.transactions[index..end].to_vec();
        let client = client.clone();
        let answers = async move {
            let results = client.process_transactions(batch).await.ok()?;
            Some(
                results
                    .iter()
                    .map(|result| (result.transaction_id.clone(), committed(result).sequence))
                    .collect(),
            )
        };
        (index, tokio::spawn(answers))
    }

    /// Records the answers of a call. Returns false if the call failed.
    async fn record(&mut self, (_, answers): Call) -> bool {
        let Some(answers) = answers.await.unwrap() else {
            return false;
        };
        for (id, sequence) in answers {
            let before = self.acknowledged.insert(id.clone(), sequence);
            assert!(
                before.is_none_or(|before| before == sequence),
                "{id}: {before:?}, then {sequence}"
            );
        }
        true
    }

    /// Sends the transactions with the indexes `from` to `to`, one call after the other.
    async fn send(&mut self, client: &Client, from: usize, to: usize) {
        for index in (from..to).step_by(BATCH) {
            let call = self.call(client, index);
            assert!(self.record(call).await, "the server is up");
        }
    }

    /// Sends [`IN_FLIGHT`] calls from the index `from` on, and kills the server a random time later. Returns the index
    /// of the first transaction without an answer.
    async fn send_and_kill(&mut self, server: &mut TestServer, from: usize, random: &mut Random) -> usize {
        let client = client_without_retry(server).await;
        let indexes = (from..).step_by(BATCH).take(IN_FLIGHT);
        let calls: Vec<Call> = indexes.map(|index| self.call(&client, index)).collect();
        for _ in 0..random.below(YIELDS_MAX) {
            yield_now().await;
        }
        server.kill9();
        let mut resume = None;
        let mut answered = 0;
        for call in calls {
            let index = call.0;
            if self.record(call).await {
                answered += 1;
            } else {
                resume.get_or_insert(index);
            }
        }
        println!("killed when {answered} of {IN_FLIGHT} calls were answered");
        resume.unwrap_or(from + BATCH * IN_FLIGHT)
    }

    /// Checks that a repetition of every acknowledged transaction gets the same answer. Also reads some of the
    /// transactions.
    async fn assert_all_present(&self, client: &Client, random: &mut Random) {
        let sent: Vec<&ProcessTransactionRequest> = self
            .transactions
            .iter()
            .filter(|transaction| self.acknowledged.contains_key(&transaction.transaction_id))
            .collect();
        for batch in sent.chunks(TRANSACTIONS_MAX) {
            let again = batch.iter().map(|transaction| (*transaction).clone()).collect();
            for result in client.process_transactions(again).await.unwrap() {
                let answer = committed(&result);
                assert!(answer.replayed, "{} was lost", result.transaction_id);
                assert_eq!(
                    answer.sequence, self.acknowledged[&result.transaction_id],
                    "{}",
                    result.transaction_id
                );
            }
        }
        let last = sent.iter().rev().take(BATCH).copied();
        let some: Vec<_> = (0..BATCH).map(|_| sent[random.between(0, sent.len())]).collect();
        for transaction in last.chain(some) {
            let id = &transaction.transaction_id;
            let found = client
                .get_transaction(id)
                .await
                .unwrap()
                .unwrap_or_else(|| panic!("{id} was lost"));
            assert_eq!(found.transfers, transaction.transfers, "{id}");
            match found.outcome {
                Some(transaction::Outcome::Committed(answer)) => {
                    assert_eq!(answer.sequence, self.acknowledged[id], "{id}");
                }
                other => panic!("{id}: {other:?}"),
            }
        }
    }
}

/// Makes a client that does not retry.
async fn client_without_retry(server: &TestServer) -> Client {
    server.client().await.with_retry(RetryPolicy {
        attempts_max: 1,
        ..RetryPolicy::default()
    })
}

#[tokio::test]
async fn no_acknowledged_transaction_is_lost_and_no_sequence_number_is_skipped() {
    let Some(file) = data("berka/transactions.csv") else {
        return;
    };
    let mut random = Random::new();
    let rows: Vec<Row> = read_csv(&file);
    let mut server = small_files().start();
    berka::open_accounts(&server.client().await, &rows).await;
    let transactions: Vec<_> = rows.iter().map(Row::to_request).collect();
    let count = transactions.len();
    let mut ledger = Ledger {
        transactions,
        acknowledged: HashMap::new(),
    };

    let mut index = 0;
    for kill in 0..KILLS {
        // Send whole batches, and leave enough batches for the remaining kills.
        let batches = random.between(1, count / BATCH / (KILLS + 1));
        ledger
            .send(&server.client().await, index, index + batches * BATCH)
            .await;
        index = ledger
            .send_and_kill(&mut server, index + batches * BATCH, &mut random)
            .await;
        println!(
            "kill {kill}: {} acknowledged, continuing from row {index}",
            ledger.acknowledged.len()
        );
        server.assert_verified();
        server.restart();
        ledger
            .assert_all_present(&server.client().await, &mut random)
            .await;
    }
    let client = server.client().await;
    ledger.send(&client, 0, count).await;

    ledger.assert_all_present(&client, &mut random).await;
    let mut sequences: Vec<i64> = ledger.acknowledged.values().copied().collect();
    sequences.sort_unstable();
    let all = 1..=i64::try_from(count).unwrap();
    assert!(
        sequences.iter().copied().eq(all),
        "the committed sequence numbers are not 1 to {count} without gaps"
    );
    assert_final_balances(
        &client,
        &final_balances(&file.with_file_name("final_balances.csv")),
    )
    .await;
    server.terminate();
    assert!(server.wait().success(), "{}", server.stderr());
    server.assert_verified();
}

/// Waits until the last sequence number of the ledger is at least `sequence`. Checks that the import has not ended
/// before.
async fn wait_for_sequence(client: &Client, import: &mut Child, sequence: usize) {
    for _ in 0..POLLS_MAX {
        let ledger = client.batch_stats().await.unwrap().ledger.unwrap();
        let ended = import.try_wait().unwrap();
        assert_eq!(
            ended, None,
            "the import ended at {} of {sequence}",
            ledger.last_sequence
        );
        if usize::try_from(ledger.last_sequence).unwrap() >= sequence {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the import does not reach sequence {sequence}");
}

#[tokio::test]
async fn an_import_continues_after_the_server_was_killed() {
    let Some(file) = data("berka/transactions.csv") else {
        return;
    };
    let mut random = Random::new();
    let rows = read_csv::<Row>(&file).len();
    let path = file.to_str().unwrap();
    let mut server = small_files().start();
    let args = [
        "import",
        path,
        "--create-accounts",
        "--batch",
        "100",
        "--output",
        "json",
    ];

    // The server is killed during the first import. The import gives up, exits with the code for an unavailable
    // service, and prints its summary.
    let mut impatient = server.command(&args);
    impatient
        .args(IMPORT_OPTIONS)
        .args(["--give-up-after", FIRST_GIVES_UP_AFTER])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut impatient = impatient.spawn().unwrap();
    let first = random.between(1, rows / 5);
    wait_for_sequence(&server.client().await, &mut impatient, first).await;
    server.kill9();
    let output = tokio::task::spawn_blocking(|| impatient.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(69),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    let acknowledged = done["last_sequence"].as_u64().unwrap();

    // The server is killed again during the second import. This import waits until the server runs again, and
    // continues.
    server.restart();
    let recovered = server
        .client()
        .await
        .batch_stats()
        .await
        .unwrap()
        .ledger
        .unwrap()
        .last_sequence;
    assert!(
        u64::try_from(recovered).unwrap() >= acknowledged,
        "{recovered} of {acknowledged} acknowledged"
    );
    let mut patient = server
        .command(&args)
        .args(IMPORT_OPTIONS)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let second = usize::try_from(recovered).unwrap() + random.between(1, rows / 5);
    wait_for_sequence(&server.client().await, &mut patient, second).await;
    server.kill9();
    server.restart_in_place();
    let output = tokio::task::spawn_blocking(|| patient.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&done["transactions"], &done["rejected"]),
        (&rows.into(), &0.into())
    );
    assert_eq!(done["last_sequence"], rows, "no sequence was skipped");
    println!("killed at {first} and {second} of {rows}");

    let expected = final_balances(&file.with_file_name("final_balances.csv"));
    let client = server.client().await;
    assert_final_balances(&client, &expected).await;
    let again = import(&server, &file);
    assert_eq!(
        (&again["replayed"], &again["last_sequence"]),
        (&rows.into(), &rows.into())
    );
    assert_final_balances(&client, &expected).await;
}
