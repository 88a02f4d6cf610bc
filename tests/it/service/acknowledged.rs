//! Every acknowledged transaction survives a restart after a failure of any disk operation. This also holds if a command spans
//! several blocks and EXEC notices the failure in the middle of the command.

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

use super::{described, expected};
use crate::support::{
    in_process::{Service, account, patient_config, pay},
    sim_disk::SimDisk,
};

/// The time after which a test that waits for a condition has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// The only segment that the tests with [`one_segment`] write.
const SEGMENT: &str = "/data/journal/0000000000.segment";
/// The maximum size of metadata. A block has room for about 1970 transactions with this much.
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
    }
}

/// The index in the request and the sequence of each committed transaction.
type Sequences = Vec<(usize, i64)>;

async fn process(service: &Service, request: ProcessTransactionsRequest) -> Result<Sequences, Status> {
    let answer = service.transactions().await.process_transactions(request).await?;
    let results = answer.into_inner().results.into_iter().enumerate();
    Ok(results
        .filter_map(|(place, result)| match result.outcome? {
            Outcome::Committed(committed) => Some((place, committed.sequence)),
            Outcome::Error(_) => None,
        })
        .collect())
}

async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(
        tokio::time::timeout(PATIENCE, holds).await.is_ok(),
        "waited in vain for {what}"
    );
}

async fn wait_for_stalled_sync(disk: &SimDisk) {
    let disk = disk.clone();
    tokio::task::spawn_blocking(move || disk.wait_for_stalled_sync())
        .await
        .unwrap();
}

/// Waits until EXEC has filled `blocks` blocks in the middle of commands. With three, one is in flight, one waits, and EXEC waits
/// to hand over the third.
async fn wait_for_full_blocks(service: &Service, blocks: u64) {
    let full = || service.engine.stats().batch.flushed(FlushReason::Bytes);
    wait_until("full blocks", || full() >= blocks).await;
    assert_eq!(full(), blocks);
}

fn not_acknowledged<T>(answer: Result<T, Status>) -> Status {
    answer.err().expect("a fault: the block was not written")
}

/// Fails the write in flight.
fn fail(disk: &SimDisk) {
    disk.fail_syncs_of(Path::new(SEGMENT));
    disk.release_syncs();
}

/// Cuts the power, and starts the service again on the remaining data.
async fn after_power_off(service: Service, config: &EngineConfig) -> Service {
    let disk = service.stop().await;
    disk.crash();
    Service::start_on(disk, config).await
}

async fn is_known(service: &Service, id: &str) -> bool {
    let request = GetTransactionRequest {
        transaction_id: id.to_owned(),
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
        wait_for_full_blocks(&service, 3).await;
        fail(&disk);
    };
    let (answer, ()) = tokio::join!(process(&service, bulk_of_five_blocks), failing);
    let status = not_acknowledged(answer);
    assert_eq!(
        described(&status),
        expected(Code::Unavailable, "STORE_FAILED", "unknown")
    );
    assert_eq!(service.engine.stats().unknown_outcomes, 1);
    let service = after_power_off(service, &one_segment()).await;
    // The same request resolves the unknown outcomes, and applies nothing twice.
    let sequences = process(&service, bulk("t", 8192)).await.unwrap();
    assert!(sequences.into_iter().eq((0..8192).zip(1..)));
}

/// EXEC notices the failure when the accounts, which must be in one block, do not fit the open one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_not_acknowledged_if_the_disk_fails_before_them() {
    let service = Service::start(&one_segment()).await;
    service.open_accounts(&["a", "b"]).await;
    service.disk.stall_syncs_of(Path::new(SEGMENT));
    let disk = service.disk.clone();
    // EXEC commits a single transaction. The requests that arrive meanwhile form one batch.
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
            wait_for_full_blocks(&service, 3).await;
            fail(&disk);
        };
        tokio::join!(bulk_of_three_blocks_and_a_half, creation, failing)
    };
    let (lone, (bulk, creation, ())) = tokio::join!(lone, driver);
    lone.unwrap();
    assert_eq!(
        described(&not_acknowledged(bulk)),
        expected(Code::Unavailable, "STORE_FAILED", "unknown")
    );
    // The accounts were not executed, because EXEC knew of the failure before.
    assert_eq!(
        described(&not_acknowledged(creation)),
        expected(Code::Unavailable, "STORE_FAILED", "false")
    );
    assert_eq!(service.engine.stats().unknown_outcomes, 1);
    let service = after_power_off(service, &one_segment()).await;
    assert!(is_known(&service, "lone").await);
    let account = GetAccountRequest {
        account_id: "new:0".to_owned(),
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

/// Runs callers with bulks of one to three blocks and a caller that creates accounts, until each receives an error. The power
/// fails during an operation of the disk.
async fn trial(seed: u64) {
    let service = Service::start_on(SimDisk::new(seed), &patient_config()).await;
    service.open_accounts(&["a", "b"]).await;
    service.disk.power_off_after(2 + seed * 5 % 37);
    let mut callers = JoinSet::new();
    let service = std::sync::Arc::new(service);
    for caller in 0..3 {
        let service = std::sync::Arc::clone(&service);
        let count = 2000 + 1500 * caller;
        callers.spawn(async move {
            let mut described = Acknowledged::default();
            for number in 0.. {
                let name = format!("{caller}:{number}");
                match process(&service, bulk(&name, count)).await {
                    Ok(sequences) => described.bulks.push((name, count, sequences)),
                    Err(_) => break,
                }
            }
            described
        });
    }
    let mut client = service.accounts().await;
    callers.spawn(async move {
        let mut described = Acknowledged::default();
        for number in 0.. {
            let name = format!("account:{number}");
            if client.batch_create_accounts(many_accounts(&name)).await.is_err() {
                break;
            }
            described.accounts.push(name);
        }
        described
    });
    let described = callers.join_all().await;
    let service = std::sync::Arc::into_inner(service).unwrap();
    let service = after_power_off(service, &patient_config()).await;
    for Acknowledged { bulks, accounts } in described {
        for (name, count, sequences) in bulks {
            assert_eq!(sequences.len(), count, "seed {seed}: bulk {name}");
            for place in [0, count / 2, count - 1] {
                let id = format!("{name}:{place}");
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
        trial(seed).await;
    }
}
