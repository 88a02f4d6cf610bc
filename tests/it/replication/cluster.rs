//! The replicas of a test.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tally::{
    engine::{CallKind, CreatedAccounts, EngineConfig, EngineError, Existing, TallyEngine},
    replica::{
        Driver, DriverConfig, DriverParts, End, Peers, PublishError, Published, check_resume, detach,
        name_directory, prepare, publish,
    },
    store::replicated::{DirectoryName, Exchange, Replica, ReplicaIdentity, ReplicaRole, ReplicaView},
    wall_clock::{SystemWallClock, WallClock},
};
use tally_journal::{JournalConfig, RealDisk};
use tally_ledger::{
    AccountStatus, Amount, AmountRule, BalanceRule, Heading, Metadata, Names, NewAccount, Outcome, Phase,
    Timestamp, Transfer,
};
use tally_replication::Timing;
use tally_topology::{AffinityConfig, CpuAffinityManager, Mode};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::memory_log::{Link, MemoryLog};

/// A replica that runs.
pub(super) struct Running {
    pub(super) engine: TallyEngine,
    pub(super) replica: Replica,
    pub(super) link: Link,
    pub(super) peers: Peers,
    pub(super) clock: Arc<ShiftedClock>,
    stop: CancellationToken,
    driver: JoinHandle<End>,
}

/// The clock of the machine, ahead by a time that a test sets.
#[derive(Debug, Default)]
pub(super) struct ShiftedClock {
    ahead_ms: AtomicU64,
}

/// The directories of the replicas, and their log.
pub(super) struct Cluster {
    pub(super) log: MemoryLog,
    directories: Vec<TempDir>,
    config: EngineConfig,
    /// Number of processes started so far. Each process gets its own writer number from this count.
    processes: u32,
}

/// A placement of threads that pins none.
pub(super) fn no_affinity() -> CpuAffinityManager {
    let config = AffinityConfig {
        mode: Mode::Off,
        ..AffinityConfig::default()
    };
    CpuAffinityManager::detect(config).unwrap()
}

fn sizes() -> JournalConfig {
    JournalConfig {
        segment_bytes: 8 << 20,
        block_bytes_max: 2 << 20,
    }
}

/// The address of a replica.
pub(super) fn address(index: usize) -> String {
    format!("http://replica-{index}:1")
}

// ===== impl ShiftedClock =====

impl ShiftedClock {
    pub(super) fn set_ahead(&self, ahead: Duration) {
        let ms = u64::try_from(ahead.as_millis()).unwrap();
        self.ahead_ms.store(ms, Ordering::Relaxed);
    }
}

impl WallClock for ShiftedClock {
    fn now(&self) -> Timestamp {
        let ahead = self.ahead_ms.load(Ordering::Relaxed) * 1_000_000;
        Timestamp::from_nanos(SystemWallClock.now().as_nanos() + ahead)
    }
}

// ===== impl Cluster =====

impl Cluster {
    /// Publishes a new ledger, and makes room for `count` replicas.
    pub(super) async fn new(count: usize) -> Self {
        let log = MemoryLog::default();
        let directories: Vec<TempDir> = (0..count).map(|_| TempDir::new().unwrap()).collect();
        let cluster = Cluster {
            log,
            directories,
            config: EngineConfig {
                store: sizes(),
                ..EngineConfig::default()
            },
            processes: 0,
        };
        let published = cluster.publish(0).await.unwrap();
        assert_eq!((published.last_block, published.next_offset), (0, 1));
        cluster
    }

    pub(super) fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Publishes a directory in a log: at first an empty one, and later in another one.
    pub(super) async fn publish(&self, index: usize) -> Result<Published, PublishError> {
        let is_first = self.log.len() == 0;
        let log = if is_first {
            self.log.clone()
        } else {
            MemoryLog::default()
        };
        let (disk, dir) = (Arc::new(RealDisk), self.directory(index));
        publish(&mut log.link(), disk, &dir, &sizes(), false, &mut |_, _| ()).await
    }

    /// Copies the directory of a replica that does not run, with all its files.
    pub(super) fn copy(&self, from: usize, to: usize) {
        let copied = std::process::Command::new("cp")
            .arg("-r")
            .args([self.directory(from), self.directory(to)])
            .status();
        assert!(copied.unwrap().success());
    }

    pub(super) fn directory(&self, index: usize) -> PathBuf {
        self.directories[index].path().join("data")
    }

    /// Starts a replica.
    pub(super) async fn start(&mut self, index: usize) -> Running {
        self.processes += 1;
        let mut link = self.log.link();
        let disk = Arc::new(RealDisk);
        let dir = self.directory(index);
        let facts = prepare(&mut link, disk.clone(), &dir, false).await.unwrap();
        let affinity = no_affinity();
        let exchange = Exchange::default();
        let clock = Arc::new(ShiftedClock::default());
        let (engine, origin) =
            TallyEngine::start_replica(&self.config, disk, &dir, clock.clone(), &affinity, &exchange)
                .unwrap();
        let resume = check_resume(origin.resume, &facts).unwrap();
        let peers = Peers::new(ReplicaIdentity {
            data_id: origin.data_id,
            topic_id: resume.topic_id,
        });
        let view = ReplicaView {
            own_address: address(index),
            ..ReplicaView::default()
        };
        let (replica, side) = Replica::new(view);
        engine.set_replica(replica.clone());
        let stop = CancellationToken::new();
        let others = (0..self.directories.len()).filter(|other| *other != index);
        let driver = Driver::new(DriverParts {
            config: DriverConfig {
                own_address: address(index),
                peers: others.map(address).collect(),
                version: "test".to_owned(),
                heartbeat: Duration::from_millis(20),
                timing: Timing {
                    claim_after: Duration::from_millis(150),
                    backoff: Duration::from_millis(50),
                    ..Timing::default()
                },
                jitter: Duration::from_millis(40 * u64::from(self.processes % 5)),
                writer: self.processes,
                requests_max: 2,
            },
            log: link.clone(),
            engine: engine.clone(),
            exchange,
            replica: side,
            peers: peers.clone(),
            data_id: origin.data_id,
            geometry: origin.geometry,
            resume,
            has_ended: origin.has_ended,
            stop: stop.clone(),
        })
        .unwrap();
        Running {
            engine,
            replica,
            link,
            peers,
            clock,
            stop,
            driver: tokio::spawn(driver.run()),
        }
    }

    /// Names the directory of a replica that does not run, for the end of the log.
    pub(super) fn name(&self, index: usize) -> DirectoryName {
        name_directory(Arc::new(RealDisk), &self.directory(index)).unwrap()
    }

    /// Makes the directory of a replica one of an embedded store.
    pub(super) fn go_on_alone(&self, index: usize) -> Result<(), PublishError> {
        detach(Arc::new(RealDisk), &self.directory(index))
    }

    /// Opens the directory of an embedded store, writes to it, and returns the amount that was debited from `a`.
    pub(super) async fn paid_alone(&self, index: usize) -> u128 {
        let affinity = no_affinity();
        let clock = Arc::new(SystemWallClock);
        let disk = Arc::new(RealDisk);
        let dir = self.directory(index);
        let engine = TallyEngine::start(&self.config, disk, &dir, clock, &affinity).unwrap();
        engine.heartbeat().await.unwrap();
        let account = engine.account("a".to_owned(), None).await.unwrap().unwrap();
        tokio::task::spawn_blocking(move || engine.drain()).await.unwrap();
        account.balances.debits_posted.minor_units()
    }

    /// Returns the bytes of the journal and of `FORMAT` of a replica that is stopped.
    pub(super) fn bytes(&self, index: usize) -> Vec<(String, Vec<u8>)> {
        let dir = self.directory(index);
        let mut files = vec![("FORMAT".to_owned(), std::fs::read(dir.join("FORMAT")).unwrap())];
        let mut names: Vec<_> = std::fs::read_dir(dir.join("journal"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".segment"))
            .collect();
        names.sort();
        for name in names {
            let bytes = std::fs::read(dir.join("journal").join(&name)).unwrap();
            files.push((name, without_zeros(&bytes)));
        }
        // One replica may have prepared its next segment when another has not.
        files.retain(|(_, bytes)| !bytes.is_empty());
        files
    }
}

fn without_zeros(bytes: &[u8]) -> Vec<u8> {
    let end = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    bytes[..end].to_vec()
}

// ===== impl Running =====

impl Running {
    /// Waits until the view of the replica is as wanted.
    pub(super) async fn until(&self, what: &str, wanted: impl Fn(&ReplicaView) -> bool) -> ReplicaView {
        let mut changes = self.replica.changes();
        let found =
            tokio::time::timeout(Duration::from_secs(30), changes.wait_for(|view| wanted(view))).await;
        match found {
            Ok(Ok(view)) => view.clone(),
            Ok(Err(_)) | Err(_) => panic!("{what}: {:?}", self.replica.view()),
        }
    }

    pub(super) async fn until_leader(&self) -> ReplicaView {
        self.until("leader", |view| view.role == ReplicaRole::Leader)
            .await
    }

    /// Ends the replica as a crash would, without a resignation. Waits until its threads have ended.
    pub(super) async fn kill(self) -> End {
        self.stop.cancel();
        let end = self.driver.await.unwrap();
        let engine = self.engine;
        tokio::task::spawn_blocking(move || engine.drain()).await.unwrap();
        end
    }

    /// Ends the driver.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Ends the engine of a replica whose driver has ended.
    pub(super) async fn drain(&self) {
        let engine = self.engine.clone();
        tokio::task::spawn_blocking(move || engine.drain()).await.unwrap();
    }

    /// Waits until the driver has ended by itself.
    pub(super) async fn ended(&mut self) -> End {
        (&mut self.driver).await.unwrap()
    }

    /// Creates accounts.
    pub(super) async fn open_accounts(&self, ids: &[&str]) {
        let accounts = ids.iter().map(|id| NewAccount {
            id: (*id).to_owned(),
            asset: "EUR".to_owned(),
            rule: BalanceRule::Unlimited,
            overdraft_limit: Amount::new(0),
            status: AccountStatus::Open,
            metadata: Metadata::default(),
            velocity_limits: Vec::new(),
        });
        let created = self
            .engine
            .create_accounts(accounts.collect(), Existing::Compare, None)
            .await;
        assert!(matches!(created, Ok(CreatedAccounts::All(_))), "{created:?}");
    }

    /// Pays an amount from `a` to `b`.
    pub(super) async fn pay(&self, id: &str, units: u128) -> Result<Outcome, EngineError> {
        let mut batch = self.engine.batch(256);
        let metadata = Metadata::default();
        let heading = Heading {
            id: id.as_bytes(),
            phase: Phase::Posted,
            effective_time: None,
            metadata: &metadata,
            names: Names::Nothing,
            keep_remaining: false,
            pending_timeout: None,
        };
        let transfer = Transfer {
            debit: b"a".as_slice(),
            credit: b"b".as_slice(),
            amount: Amount::new(units),
            code: 1,
            rule: AmountRule::Exact,
        };
        batch.push(&heading, &[transfer], false);
        let processed = self
            .engine
            .process(CallKind::Unary, &Arc::new(batch), None)
            .await?;
        Ok(processed.outcomes.into_iter().next().unwrap())
    }

    /// Returns the amount that was debited from `a`.
    pub(super) async fn paid(&self) -> Result<u128, EngineError> {
        let account = self.engine.account("a".to_owned(), None).await?;
        Ok(account.map_or(0, |account| account.balances.debits_posted.minor_units()))
    }
}

/// A record that is not a block of any replica.
pub(super) fn noise() -> Bytes {
    Bytes::from_static(b"not a block")
}
