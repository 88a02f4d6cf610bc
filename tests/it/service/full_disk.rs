//! Tests that on a full disk, writes are refused before anything is written, that reads still work, and that the service executes
//! writes again when there is space.

use std::{
    path::Path,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tally::{
    engine::{
        CheckpointInterval, CircuitOptions, Condition, Cores, EngineConfig, Existing, TallyEngine,
        ThresholdSource,
    },
    proto::{
        CreateAccountRequest, GetAccountRequest, GetTransactionRequest, ProcessTransactionRequest,
        ProcessTransactionsRequest,
    },
    wall_clock::SystemWallClock,
};
use tally_journal::Disk;
use tally_ledger::{AccountStatus, BalanceRule, Metadata, NewAccount, money::Amount};
use tally_topology::{AffinityConfig, CpuAffinityManager, Mode};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{expected, summary};
use crate::support::{
    in_process::{Service, account, patient_config, pay, transaction, transfer},
    sim_disk::SimDisk,
};

/// Maximum number of calls until the first two segments are full: more than 16 MiB.
const CALLS_MAX: usize = 40;
/// Number of transactions in a call.
const BATCH: usize = 600;
/// Interval of attempts after the disk has space.
const POLL: Duration = Duration::from_millis(20);
/// Maximum number of attempts after the disk has space: a minute.
const POLLS_MAX: usize = 3000;

/// Makes transactions with about 1 KiB each.
fn large(call: usize) -> Vec<ProcessTransactionRequest> {
    let make = |place| {
        let mut transaction = transaction(&format!("t{call}:{place}"), vec![transfer("a", "b", 1)]);
        transaction.metadata.insert("text".to_owned(), "x".repeat(1000));
        transaction
    };
    (0..BATCH).map(make).collect()
}

/// Sends transactions until the disk is full. Returns the error, and the transactions of the last two calls: the last one
/// that was executed, and the one that failed.
async fn fill(service: &Service, from: usize) -> (Status, [Vec<ProcessTransactionRequest>; 2]) {
    let mut client = service.transactions().await;
    for call in from..from + CALLS_MAX {
        let transactions = large(call);
        let request = ProcessTransactionsRequest { transactions };
        if let Err(status) = client.process_transactions(request).await {
            return (status, [large(call - 1), large(call)]);
        }
    }
    panic!("the disk does not become full");
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_space() {
    let service = Service::start(&patient_config()).await;
    service.open_accounts(&["a", "b"]).await;
    let mut client = service.transactions().await;
    client.process_transaction(pay("first")).await.unwrap();
    service.disk.set_free_bytes(100);

    let (status, [executed, refused]) = fill(&service, 1).await;
    let (code, reason, _) = summary(&status);
    assert_eq!(
        (code, reason.as_str()),
        (Code::ResourceExhausted, "DISK_FULL"),
        "{status:?}"
    );
    assert!(service.engine.disk_is_full());
    assert!(status.get_details_retry_info().is_some());
    // The executed part of the call that met the full disk is counted.
    let ledger = service.engine.stats().ledger;
    assert_eq!(ledger.committed, ledger.last_sequence);
    // Nothing of a later call is executed, and its error says so.
    let status = client.process_transaction(pay("second")).await.unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::ResourceExhausted, "DISK_FULL", "false")
    );
    let mut accounts = service.accounts().await;
    let create = |id: &str| CreateAccountRequest {
        account: Some(account(id)),
    };
    let status = accounts.create_account(create("c")).await.unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::ResourceExhausted, "DISK_FULL", "false")
    );

    // What exists is found, and a repetition gets its outcome.
    accounts.create_account(create("a")).await.unwrap();
    let account_id = "a".to_owned();
    accounts
        .get_account(GetAccountRequest {
            account_id,
            ..GetAccountRequest::default()
        })
        .await
        .unwrap();
    let again = client
        .process_transaction(pay("first"))
        .await
        .unwrap()
        .into_inner();
    assert!(again.replayed);
    // The call repeats known transactions before the new transaction that fails. So it has executed nothing.
    let transactions = vec![pay("first"), executed[0].clone(), pay("second")];
    let replayed = service.engine.stats().ledger.replayed;
    let status = client
        .process_transactions(ProcessTransactionsRequest { transactions })
        .await
        .unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::ResourceExhausted, "DISK_FULL", "false")
    );
    assert_eq!(service.engine.stats().ledger.replayed, replayed + 2);
    let transaction_id = executed[BATCH - 1].transaction_id.clone();
    client
        .get_transaction(GetTransactionRequest {
            transaction_id,
            ..GetTransactionRequest::default()
        })
        .await
        .unwrap();
    let find = |transaction_id: &str| GetTransactionRequest {
        transaction_id: transaction_id.to_owned(),
        ..GetTransactionRequest::default()
    };
    let status = client.get_transaction(find("second")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(service.engine.health().condition(), Condition::Running);
    assert_eq!(service.engine.stats().unknown_outcomes, 0);

    // Nothing is lost in a crash, and the service starts on the full disk.
    let committed = service.engine.stats().ledger.last_sequence;
    let disk = service.stop().await;
    disk.crash();
    disk.restart();
    disk.set_free_bytes(100);
    let service = Service::start_on(disk, &patient_config()).await;
    assert_eq!(service.engine.stats().ledger.last_sequence, committed);
    let mut client = service.transactions().await;
    let status = client.process_transaction(pay("second")).await.unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::ResourceExhausted, "DISK_FULL", "false")
    );
    client.get_transaction(find("first")).await.unwrap();

    service.disk.clear_faults();
    let transactions = refused;
    for _ in 0..POLLS_MAX {
        let request = ProcessTransactionsRequest {
            transactions: transactions.clone(),
        };
        match client.process_transactions(request).await {
            Ok(answer) => {
                assert_eq!(answer.into_inner().results.len(), BATCH);
                assert!(!service.engine.disk_is_full());
                return;
            }
            Err(status) => assert_eq!(summary(&status).1, "DISK_FULL"),
        }
        tokio::time::sleep(POLL).await;
    }
    panic!("the service does not look for space");
}

/// Somebody restored a backup as a sparse file, and the disk is full.
#[tokio::test]
async fn a_service_whose_segments_own_no_space_starts_on_a_full_disk() {
    let service = Service::start(&patient_config()).await;
    service.open_accounts(&["a", "b"]).await;
    let mut client = service.transactions().await;
    client.process_transaction(pay("first")).await.unwrap();
    let disk = service.stop().await;
    disk.restart();
    disk.set_sparse();
    disk.set_free_bytes(100);
    // The commits that measure the slow threshold find no space, either.
    let config = EngineConfig {
        circuits: CircuitOptions {
            threshold: ThresholdSource::Auto,
            ..CircuitOptions::default()
        },
        ..patient_config()
    };
    let service = Service::start_on(disk, &config).await;
    let [report, ..] = &service.engine.circuit_reports()[..] else {
        panic!("no circuit")
    };
    assert_eq!(report.threshold, ThresholdSource::Default);
    let mut client = service.transactions().await;
    let status = client.process_transaction(pay("second")).await.unwrap_err();
    assert_eq!(
        summary(&status),
        expected(Code::ResourceExhausted, "DISK_FULL", "false")
    );
    assert!(
        client
            .process_transaction(pay("first"))
            .await
            .unwrap()
            .into_inner()
            .replayed
    );
    service.disk.clear_faults();
    for _ in 0..POLLS_MAX {
        if client.process_transaction(pay("second")).await.is_ok() {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
    panic!("the service does not look for space");
}

/// An engine without threads, whose steps the test calls. Its time passes only when the test says so.
struct Stepped {
    engine: TallyEngine,
    cores: Cores,
    disk: SimDisk,
}

/// Number of accounts that a call creates, each with about 1 KiB: 7 calls fill a segment.
const ACCOUNTS: usize = 1000;
/// Maximum number of steps that a call takes.
const STEPS_MAX: usize = 10_000;

impl Stepped {
    fn start(disk: SimDisk, config: &EngineConfig) -> Self {
        let affinity = AffinityConfig {
            mode: Mode::Off,
            ..AffinityConfig::default()
        };
        let (engine, cores) = TallyEngine::without_threads(
            config,
            disk.handle(),
            Path::new("/data"),
            Arc::new(SystemWallClock),
            &CpuAffinityManager::detect(affinity).unwrap(),
            |log| Box::new(log),
        )
        .unwrap();
        Stepped { engine, cores, disk }
    }

    async fn create_accounts(&mut self, call: usize) {
        let account = |place| NewAccount {
            id: format!("{call}-{place}"),
            asset: "EUR".to_owned(),
            rule: BalanceRule::Unlimited,
            overdraft_limit: Amount::new(0),
            status: AccountStatus::Open,
            metadata: Metadata::from([("text".to_owned(), "x".repeat(900))]),
            velocity_limits: Vec::new(),
        };
        let accounts = (0..ACCOUNTS).map(account).collect();
        let engine = self.engine.clone();
        let mut created = Box::pin(engine.create_accounts(accounts, Existing::Compare, None));
        for _ in 0..STEPS_MAX {
            let polled = created.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            if let Poll::Ready(created) = polled {
                created.unwrap();
                return;
            }
            self.step(Duration::from_millis(1)).await;
        }
        panic!("the accounts are not created");
    }

    /// Lets `time` pass, and then EXEC and WAL work.
    async fn step(&mut self, time: Duration) {
        tokio::time::advance(time).await;
        self.cores.step_exec();
        self.cores.step_wal();
    }

    fn maintain(&mut self) {
        self.cores.step_maintenance(Waker::noop());
    }

    /// Returns the names of the checkpoints that end with `suffix`.
    fn checkpoints(&self, suffix: &str) -> usize {
        let names = self.disk.list(Path::new("/data/checkpoint")).unwrap();
        names.iter().filter(|name| name.ends_with(suffix)).count()
    }

    /// Works until the number of unfinished checkpoints is `unfinished`. Returns the time that has passed.
    async fn work_until_unfinished(&mut self, unfinished: usize) -> Duration {
        let tick = Duration::from_millis(20);
        for ticks in 0..STEPS_MAX {
            self.maintain();
            if self.checkpoints(".tmp") == unfinished {
                return tick * u32::try_from(ticks).unwrap();
            }
            for _ in 0..4 {
                self.step(tick / 4).await;
            }
        }
        panic!("{unfinished} unfinished checkpoints are expected");
    }
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_does_not_fit_gives_its_space_to_the_next_segment_and_is_tried_less_and_less_often()
{
    let config = EngineConfig {
        checkpoint: CheckpointInterval(4 << 20),
        circuits: CircuitOptions {
            untimed: true,
            ..CircuitOptions::default()
        },
        ..patient_config()
    };
    let segment = |number: u32| format!("/data/journal/{number:010}.segment");
    let mut stepped = Stepped::start(SimDisk::new(1), &config);
    stepped.maintain();
    for call in 0..5 {
        stepped.create_accounts(call).await;
    }
    stepped.maintain();
    assert_eq!(stepped.checkpoints(".tmp"), 1);
    for _ in 0..4 {
        stepped.step(Duration::from_millis(1)).await;
    }
    // The first 1024 accounts are written to the checkpoint. Without them, there is no space for the next segment.
    stepped.maintain();
    assert_eq!(stepped.checkpoints(".tmp"), 1);
    stepped
        .disk
        .set_free_bytes(u64::from(config.store.segment_bytes) - 1);
    for call in 5..10 {
        stepped.create_accounts(call).await;
    }
    let files = stepped.disk.snapshot();
    assert!(files.contains_key(Path::new(&segment(1))) && !files.contains_key(Path::new(&segment(2))));
    stepped.maintain();
    assert!(stepped.disk.snapshot().contains_key(Path::new(&segment(2))));
    assert!(!stepped.engine.disk_is_full());
    assert_eq!(stepped.checkpoints(".tmp"), 0);

    // The space is too little for a checkpoint, too.
    for seconds in [1, 2, 4] {
        let rest = stepped.work_until_unfinished(1).await;
        assert!(rest.as_secs_f64().round() == f64::from(seconds), "{rest:?}");
        stepped.work_until_unfinished(0).await;
        assert_eq!(stepped.checkpoints(".ckpt"), 0);
    }
    stepped.disk.clear_faults();
    stepped.work_until_unfinished(1).await;
    stepped.work_until_unfinished(0).await;
    assert_eq!(stepped.checkpoints(".ckpt"), 1);
}
