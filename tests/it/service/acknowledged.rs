//! Tests that every acknowledged transaction survives a restart after a failure of any disk operation. This must also
//! hold if the records of a command are in several blocks and EXEC notices the failure in the middle of the command.

use std::{collections::BTreeMap, path::Path, time::Duration};

use tally::{
    engine::EngineConfig,
    proto::{
        Account, BatchCreateAccountsRequest, CreateAccountRequest, GetAccountRequest, GetTransactionRequest,
        ProcessTransactionRequest, ProcessTransactionsRequest, transaction_result::Outcome,
    },
    store::embedded::StoreConfig,
};
use tally_batch::FlushReason;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::{expected, summary};
use crate::support::{
    in_process::{Service, account, patient_config, pay},
    sim_disk::SimDisk,
};

/// Maximum time to wait for a condition. After this time, the test fails.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The only segment that the tests with [`one_segment`] write.
const SEGMENT: &str = "/data/journal/0000000000.segment";
/// The maximum size of metadata, in bytes. A block has room for about 1970 transactions with this metadata.
const METADATA_BYTES: usize = 1020;

/// Returns settings with blocks of 2 MiB and one segment for all blocks.
fn one_segment() -> EngineConfig {
    EngineConfig {
        store: StoreConfig {
            segment_bytes: 32 << 20,
            block_bytes_max: 2 << 20,
        },
        ..patient_config()
    }
}

fn metadata() -> BTreeMap<String, String> {
    BTreeMap::from([("note".to_owned(), "x".repeat(METADATA_BYTES))])
}

fn bulk(name: &str, count: usize) -> ProcessTransactionsRequest {
    let transaction = |number| ProcessTransactionRequest {
        metadata: metadata(),
        ..pay(&format!("{name}:{number}"))
    };
    ProcessTransactionsRequest {
        transactions: (0..count).map(transaction).collect(),
    }
}

fn many_accounts(name: &str) -> BatchCreateAccountsRequest {
    let request = |number| {
        let account = Account {
            metadata: metadata(),
            ..account(&format!("{name}:{number}"))
        };
        CreateAccountRequest {
            account: Some(account),
        }
    };
    BatchCreateAccountsRequest {
        requests: (0..1000).map(request).collect(),
        skip_existing: false,
    }
}

/// The index in the request and the sequence of each committed transaction.
type Sequences = Vec<(usize, i64)>;

async fn process(service: &Service, request: ProcessTransactionsRequest) -> Result<Sequences, Status> {
    let answer = service.transactions().await.process_transactions(request).await?;
    let results = answer.into_inner().results.into_iter().enumerate();
    Ok(results
        .filter_map(|(index, result)| match result.outcome? {
            Outcome::Committed(committed) => Some((index, committed.sequence)),
            Outcome::Error(_) => None,
        })
        .collect())
}

async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let becomes_true = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(
        tokio::time::timeout(WAIT_MAX, becomes_true).await.is_ok(),
        "did not happen within {WAIT_MAX:?}: {what}"
    );
}

async fn wait_for_stalled_sync(disk: &SimDisk) {
    let disk = disk.clone();
    tokio::task::spawn_blocking(move || disk.wait_for_stalled_sync())
        .await
        .unwrap();
}

/// Waits until EXEC has handed over `blocks` blocks in the middle of commands. With two blocks, the first is in flight,
/// the second waits in the pipeline, and EXEC fills the third or waits to hand it over.
async fn wait_for_full_blocks(service: &Service, blocks: u64) {
    let full = || service.engine.stats().batch.flushed(FlushReason::Bytes);
    wait_until("full blocks", || full() >= blocks).await;
    assert_eq!(full(), blocks);
}

/// Returns the error of a call that must not be acknowledged.
fn error_of<T>(answer: Result<T, Status>) -> Status {
    answer
        .err()
        .expect("the call was acknowledged, although its block was not written")
}

/// Makes the write in flight fail.
fn fail(disk: &SimDisk) {
    disk.fail_syncs_of(Path::new(SEGMENT));
    disk.release_syncs();
}

/// Simulates a power failure, and starts the service again on the remaining data.
async fn restart_after_power_failure(service: Service, config: &EngineConfig) -> Service {
    let disk = service.stop().await;
    disk.crash();
    Service::start_on(disk, config).await
}

async fn is_known(service: &Service, id: &str) -> bool {
    let request = GetTransactionRequest {
        transaction_id: id.to_owned(),
        ..GetTransactionRequest::default()
    };
    match service.transactions().await.get_transaction(request).await {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(status.code(), Code::NotFound, "{status:?}");
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_is_not_acknowledged_if_the_disk_fails_in_the_middle_of_it() {
    let service = Service::start(&one_segment()).await;
    service.open_accounts(&["a", "b"]).await;
    service.disk.stall_syncs_of(Path::new(SEGMENT));
    let (bulk_of_five_blocks, disk) = (bulk("t", 8192), service.disk.clone());
    let failing = async {
        wait_for_full_blocks(&service, 2).await;
        fail(&disk);
    };
    let (answer, ()) = tokio::join!(process(&service, bulk_of_five_blocks), failing);
    let status = error_of(answer);
    assert_eq!(
        summary(&status),
        expected(Code::Unavailable, "STORE_FAILED", "unknown")
    );
    assert_eq!(service.engine.stats().unknown_outcomes, 1);
    let service = restart_after_power_failure(service, &one_segment()).await;
    // The same request resolves the unknown outcomes, and applies nothing twice.
    let sequences = process(&service, bulk("t", 8192)).await.unwrap();
    assert!(sequences.into_iter().eq((0..8192).zip(1..)));
}

/// All accounts of a request must be in one block. They do not fit the open block, so EXEC hands the open block over,
/// and then notices the failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_not_acknowledged_if_the_disk_fails_before_them() {
    let service = Service::start(&one_segment()).await;
    service.open_accounts(&["a", "b"]).await;
    service.disk.stall_syncs_of(Path::new(SEGMENT));
    let disk = service.disk.clone();
    // EXEC commits a single transaction first. The requests that arrive during this commit form one batch.
    let mut lone = service.transactions().await;
    let lone = async { lone.process_transaction(pay("lone")).await };
    let mut accounts = service.accounts().await;
    let driver = async {
        wait_for_stalled_sync(&disk).await;
        let depth = || service.engine.stats().batch.queue_depth;
        let bulk_of_three_blocks_and_a_half = process(&service, bulk("t", 7300));
        let creation = async {
            wait_until("the bulk in the queue", || depth() == 1).await;
            accounts.batch_create_accounts(many_accounts("new")).await
        };
        let failing = async {
            wait_until("the bulk and the accounts in the queue", || depth() == 2).await;
            disk.release_one_sync();
            wait_for_full_blocks(&service, 2).await;
            fail(&disk);
        };
        tokio::join!(bulk_of_three_blocks_and_a_half, creation, failing)
    };
    let (lone, (bulk, creation, ())) = tokio::join!(lone, driver);
    lone.unwrap();
    assert_eq!(
        summary(&error_of(bulk)),
        expected(Code::Unavailable, "STORE_FAILED", "unknown")
    );
    // The accounts were not created, because EXEC noticed the failure before their creation.
    assert_eq!(
        summary(&error_of(creation)),
        expected(Code::Unavailable, "STORE_FAILED", "false")
    );
    assert_eq!(service.engine.stats().unknown_outcomes, 1);
    let service = restart_after_power_failure(service, &one_segment()).await;
    assert!(is_known(&service, "lone").await);
    let account = GetAccountRequest {
        account_id: "new:0".to_owned(),
        ..GetAccountRequest::default()
    };
    let reading = service.accounts().await.get_account(account).await;
    assert_eq!(reading.unwrap_err().code(), Code::NotFound);
}

/// The answers that callers received before the disk failed.
#[derive(Debug, Default)]
struct Acknowledged {
    bulks: Vec<(String, usize, Sequences)>,
    accounts: Vec<String>,
}

/// Runs callers that send bulks of one to three blocks, and a caller that creates accounts, until each caller receives
/// an error. The power fails during an operation of the disk that depends on `seed`.
async fn power_failure(seed: u64) {
    let service = Service::start_on(SimDisk::new(seed), &patient_config()).await;
    service.open_accounts(&["a", "b"]).await;
    service.disk.power_off_after(2 + seed * 5 % 37);
    let mut callers = JoinSet::new();
    let service = std::sync::Arc::new(service);
    for caller in 0..3 {
        let service = std::sync::Arc::clone(&service);
        let count = 2000 + 1500 * caller;
        callers.spawn(async move {
            let mut acknowledged = Acknowledged::default();
            for number in 0.. {
                let name = format!("{caller}:{number}");
                match process(&service, bulk(&name, count)).await {
                    Ok(sequences) => acknowledged.bulks.push((name, count, sequences)),
                    Err(_) => break,
                }
            }
            acknowledged
        });
    }
    let mut client = service.accounts().await;
    callers.spawn(async move {
        let mut acknowledged = Acknowledged::default();
        for number in 0.. {
            let name = format!("account:{number}");
            if client.batch_create_accounts(many_accounts(&name)).await.is_err() {
                break;
            }
            acknowledged.accounts.push(name);
        }
        acknowledged
    });
    let acknowledged = callers.join_all().await;
    let service = std::sync::Arc::into_inner(service).unwrap();
    let service = restart_after_power_failure(service, &patient_config()).await;
    for Acknowledged { bulks, accounts } in acknowledged {
        for (name, count, sequences) in bulks {
            assert_eq!(sequences.len(), count, "seed {seed}: bulk {name}");
            for index in [0, count / 2, count - 1] {
                let id = format!("{name}:{index}");
                assert!(
                    is_known(&service, &id).await,
                    "seed {seed}: {id} was acknowledged and is lost"
                );
            }
            let again = process(&service, bulk(&name, count)).await.unwrap();
            assert_eq!(again, sequences, "seed {seed}: bulk {name} again");
        }
        for name in accounts {
            let account = GetAccountRequest {
                account_id: format!("{name}:999"),
                ..GetAccountRequest::default()
            };
            let reading = service.accounts().await.get_account(account).await;
            assert!(
                reading.is_ok(),
                "seed {seed}: accounts {name} were acknowledged and are lost"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_transactions_survive_a_failure_of_any_disk_operation() {
    for seed in 0..12 {
        power_failure(seed).await;
    }
}
