//! Fills the disk under load. Writes are refused with a clear reason, reads still work, and writes are executed again when
//! there is space. The tests need root and the permission to mount. Without them, they print that they did not run.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use tally::proto::{
    CreateAccountRequest, GetAccountRequest, account_service_client::AccountServiceClient,
    transaction_service_client::TransactionServiceClient,
};
use tempfile::TempDir;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use super::{
    Random,
    audit::{Auditor, Scope},
    book::account_id,
    kills::create_accounts,
    load::{Load, Shared},
    report, small_files,
    stops::wait_for_acknowledgements,
};
use crate::support::{in_process::account, operators::get, server::TestServer};

/// Shell script that mounts a file system, and unmounts it when its input ends, which happens when the test ends for any
/// reason.
const KEEPER: &str = r#"
set -u
case $1 in
    tmpfs) mount -t tmpfs -o size=64m tmpfs "$3" ;;
    ext4) truncate -s 96M "$2" && mkfs.ext4 -q -F "$2" && mount -o loop "$2" "$3" ;;
    xfs) truncate -s 320M "$2" && mkfs.xfs -q -f "$2" && mount -o loop "$2" "$3" ;;
esac || exit 1
echo mounted
read -r _
umount "$3" || umount -l "$3"
"#;
/// Space that is left for the service, in bytes: enough for a segment of 8 MiB or two besides the first two, so that the
/// disk becomes full under load.
const LEFT_BYTES: u64 = 12 << 20;
/// Space that is left after a restore, in bytes: too little for the unallocated parts of the segments of 8 MiB.
const LEFT_AFTER_RESTORE_BYTES: u64 = 1 << 20;
/// Number of acknowledgements before the disk is filled, and after it has space again.
const ACKNOWLEDGED: usize = 500;
/// Number of refusals that the test waits for.
const REFUSALS: u64 = 50;
/// Interval of checks for an expected state.
const POLL: Duration = Duration::from_millis(5);
/// Maximum number of checks for an expected state: a minute.
const POLLS_MAX: usize = 12_000;

/// A mounted file system. Dropping this value unmounts it.
struct Mount {
    keeper: Child,
    home: TempDir,
}

// ===== impl Mount =====

impl Mount {
    /// Mounts a new file system. If mounting is not allowed, prints the reason and returns `None`.
    fn new(kind: &str) -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let (image, directory) = (home.path().join("image"), home.path().join("mount"));
        fs::create_dir(&directory).unwrap();
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper", kind])
            .args([&image, &directory])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        if line == "mounted\n" {
            return Some(Mount { keeper, home });
        }
        let output = keeper.wait_with_output().unwrap();
        let why = String::from_utf8_lossy(&output.stderr);
        report(&format!("DID NOT RUN, {kind} can't be mounted here: {why}"));
        None
    }

    fn directory(&self) -> PathBuf {
        self.home.path().join("mount")
    }

    /// Makes a file that leaves only `left` bytes free. Returns its path.
    fn fill(&self, left: u64) -> PathBuf {
        let filler = self.directory().join("filler");
        let free = Command::new("df")
            .args(["--output=avail", "-B1"])
            .arg(self.directory())
            .output()
            .unwrap();
        let free = String::from_utf8(free.stdout).unwrap();
        let free: u64 = free.lines().last().unwrap().trim().parse().unwrap();
        let bytes = free.checked_sub(left).unwrap();
        let made = Command::new("fallocate")
            .args(["-l", &bytes.to_string()])
            .arg(&filler)
            .status()
            .unwrap();
        assert!(made.success());
        filler
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Checks that a call was refused because the disk is full.
fn assert_disk_full(status: &Status) {
    let info = status.get_details_error_info().unwrap();
    assert_eq!(
        (
            status.code(),
            info.reason.as_str(),
            info.metadata["executed"].as_str(),
            info.metadata["retry"].as_str()
        ),
        (Code::ResourceExhausted, "DISK_FULL", "false", "same_id"),
        "{status:?}"
    );
    assert!(status.get_details_retry_info().is_some());
}

async fn wait_for_refusals(shared: &Shared, load: &mut Load, server: &TestServer) {
    for _ in 0..POLLS_MAX {
        assert!(load.is_running(), "{}", server.stderr());
        if shared.book().errors.get("DISK_FULL").copied().unwrap_or(0) >= REFUSALS {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
    panic!("nothing is refused: {:?}", shared.book().errors);
}

/// Checks what a client, an operator and the monitoring see while the disk is full.
async fn assert_refused_and_readable(server: &TestServer, shared: &Shared, random: &mut Random) {
    let channel = Channel::from_shared(server.endpoint())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut transactions = TransactionServiceClient::new(channel.clone());
    let mut accounts = AccountServiceClient::new(channel);
    let new = shared
        .book()
        .new_transaction(&format!("refused:{}", random.below(u64::MAX)), random);
    let status = transactions.process_transaction(new.clone()).await.unwrap_err();
    assert_disk_full(&status);
    shared.book().fail(&new.transaction_id, &status);
    let create = |id: &str| CreateAccountRequest {
        account: Some(account(id)),
    };
    assert_disk_full(&accounts.create_account(create("new")).await.unwrap_err());
    // Creating an existing account again still succeeds.
    accounts.create_account(create(&account_id(1))).await.unwrap();
    let account_id = account_id(1);
    accounts
        .get_account(GetAccountRequest {
            account_id,
            ..GetAccountRequest::default()
        })
        .await
        .unwrap();
    let known = shared.book().any_acknowledged(random).unwrap();
    let again = known.content.request(&known.id);
    let answer = transactions.process_transaction(again).await.unwrap();
    assert!(answer.into_inner().replayed);

    let (code, _, text) = get(server, "/ready").await;
    assert!(
        code.is_success() && text.contains("the disk has no space"),
        "{text}"
    );
    let (_, _, text) = get(server, "/metrics").await;
    assert!(text.contains("tally_disk_full 1\n"), "{text}");
    let output = server.tally(&["stats"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("THE DISK IS FULL"), "{text}");
    server
        .wait_for_stderr("the disk has no space for the next segment")
        .await;
}

async fn fill_and_free(kind: &str) {
    let Some(mount) = Mount::new(kind) else {
        return;
    };
    let mut random = Random::new();
    let mut server = small_files().home(&mount.directory()).start();
    create_accounts(&server).await;
    let shared = Arc::new(Shared::default());
    let mut auditor = Auditor::default();
    let mut load = Load::start(&shared, &server.endpoint(), "before", None, &mut random).await;
    wait_for_acknowledgements(&shared, ACKNOWLEDGED).await;
    let filler = mount.fill(LEFT_BYTES);
    wait_for_refusals(&shared, &mut load, &server).await;
    assert_refused_and_readable(&server, &shared, &mut random).await;
    load.stop().await;
    auditor.audit(&server, &shared, Scope::All, &mut random).await;

    // The same after a crash: the service starts on a full disk.
    server.kill9();
    server.restart();
    resume_when_freed(&server, &shared, &filler, &mut random).await;
    assert_eq!(get(&server, "/ready").await.2, "ready\n");
    assert!(get(&server, "/metrics").await.2.contains("tally_disk_full 0\n"));
    auditor.audit(&server, &shared, Scope::All, &mut random).await;
    server.terminate();
    assert!(server.wait().success(), "{}", server.stderr());
    server.assert_verified();
    report(&format!(
        "{kind} full and free again; {}; calls that failed, by reason: {:?}",
        auditor.counts(),
        shared.book().errors
    ));
}

/// Loads a service whose disk is full, and waits until it refuses writes and answers reads. Then frees the disk, and waits until the service
/// executes writes again.
async fn resume_when_freed(server: &TestServer, shared: &Arc<Shared>, filler: &Path, random: &mut Random) {
    shared.book().errors.clear();
    let mut load = Load::start(shared, &server.endpoint(), "full", None, random).await;
    wait_for_refusals(shared, &mut load, server).await;
    assert_refused_and_readable(server, shared, random).await;
    fs::remove_file(filler).unwrap();
    wait_for_acknowledgements(shared, ACKNOWLEDGED).await;
    load.stop().await;
}

/// Restores a backup with `cp` and `option`, which makes files without allocated space. Then fills the disk.
async fn restore_and_fill(kind: &str, option: &str) {
    let Some(mount) = Mount::new(kind) else {
        return;
    };
    let mut random = Random::new();
    let mut server = small_files().home(&mount.directory()).start();
    create_accounts(&server).await;
    let shared = Arc::new(Shared::default());
    let load = Load::start(&shared, &server.endpoint(), "before", None, &mut random).await;
    wait_for_acknowledgements(&shared, ACKNOWLEDGED).await;
    load.stop().await;
    server.terminate();
    assert!(server.wait().success());
    let (data, backup) = (server.data().to_owned(), mount.directory().join("backup"));
    fs::rename(&data, &backup).unwrap();
    let copied = Command::new("cp")
        .args(["--archive", option])
        .args([&backup, &data])
        .status()
        .unwrap();
    assert!(copied.success());
    if option == "--sparse=always" {
        fs::remove_dir_all(&backup).unwrap();
    }
    let filler = mount.fill(LEFT_AFTER_RESTORE_BYTES);

    server.restart();
    resume_when_freed(&server, &shared, &filler, &mut random).await;
    let mut auditor = Auditor::default();
    auditor.audit(&server, &shared, Scope::All, &mut random).await;
    server.terminate();
    assert!(server.wait().success(), "{}", server.stderr());
    server.assert_verified();
    report(&format!(
        "{kind} full after a restore with {option}; {}",
        auditor.counts()
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sparse_segments_on_a_full_ext4_refuse_writes_until_there_is_space() {
    restore_and_fill("ext4", "--sparse=always").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_segments_on_a_full_xfs_refuse_writes_until_there_is_space() {
    restore_and_fill("xfs", "--reflink=always").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_tmpfs_refuses_writes_until_there_is_space() {
    fill_and_free("tmpfs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_ext4_refuses_writes_until_there_is_space() {
    fill_and_free("ext4").await;
}
