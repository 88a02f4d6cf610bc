//! Provokes every error that the service can return. Each error must have an `ErrorInfo` with the reason, the domain,
//! and whether the call was executed.

mod provoke;
mod wire;

use std::{collections::BTreeSet, fs, path::Path, sync::Arc, time::Duration};

use bytesize::ByteSize;
use parking_lot::Mutex;
use tally::{
    grpc::{NetConfig, error_kind::ERROR_KINDS},
    proto::StreamTransactionsRequest,
    security::Security,
};
use tonic::Code;

use self::wire::Wire;
use crate::support::{
    in_process::{Service, patient_config},
    sim_disk::SimDisk,
};

const PROCESS_ONE: &str = "/tally.v1.TransactionService/ProcessTransaction";
const PROCESS_MANY: &str = "/tally.v1.TransactionService/ProcessTransactions";
const STREAM: &str = "/tally.v1.TransactionService/StreamTransactions";
const WATCH_TRANSACTIONS: &str = "/tally.v1.TransactionService/WatchTransactions";
const LIST_TRANSACTIONS: &str = "/tally.v1.TransactionService/ListTransactions";
const CHAIN_HEAD: &str = "/tally.v1.TransactionService/GetChainHead";
const LIST_ENTRIES: &str = "/tally.v1.AccountService/ListAccountEntries";
const GET_TRANSACTION: &str = "/tally.v1.TransactionService/GetTransaction";
const CREATE_ACCOUNT: &str = "/tally.v1.AccountService/CreateAccount";
const CREATE_ACCOUNTS: &str = "/tally.v1.AccountService/BatchCreateAccounts";
const GET_ACCOUNT: &str = "/tally.v1.AccountService/GetAccount";
const LIST_ACCOUNTS: &str = "/tally.v1.AccountService/ListAccounts";
const UPDATE_ACCOUNT: &str = "/tally.v1.AccountService/UpdateAccount";
const LIST_HOLDS: &str = "/tally.v1.AccountService/ListHolds";
const CIRCUITS: &str = "/tally.v1.EngineService/GetCircuitStats";
const WATCH: &str = "/tally.v1.EngineService/WatchCircuitStats";
const SET_MODE: &str = "/tally.v1.EngineService/SetCircuitMode";
const CONFIRM_CLOCK: &str = "/tally.v1.EngineService/ConfirmClock";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const REFLECTION_OLD: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

/// Methods with one request message that is decoded by Tally's own code.
const DECODED_BY_TALLY: [&str; 13] = [
    PROCESS_ONE,
    PROCESS_MANY,
    WATCH_TRANSACTIONS,
    LIST_TRANSACTIONS,
    CHAIN_HEAD,
    LIST_ENTRIES,
    GET_TRANSACTION,
    CREATE_ACCOUNT,
    CREATE_ACCOUNTS,
    GET_ACCOUNT,
    LIST_ACCOUNTS,
    UPDATE_ACCOUNT,
    LIST_HOLDS,
];
/// Methods with one request message that is decoded by tonic.
const DECODED_BY_TONIC: [&str; 6] = [CIRCUITS, WATCH, SET_MODE, CONFIRM_CLOCK, HEALTH, HEALTH_WATCH];

/// The file of the tests of the other rejections by the ledger. A test there checks that they provoke every reason of the ledger.
const REASONS: &str = "tests/it/service/reasons/mod.rs";
/// The list of all reasons of the ledger, which that test uses.
const ALL: &str = "Reason::ALL";
/// Tests of errors that no client can cause over the network.
const UNIT: &str = "src/grpc/status_tests.rs";
/// Tests of the calls at replicas.
const REPLICA: &str = "tests/it/service/forwarding/failures.rs";
const REPLICA_STATE: &str = "tests/it/service/forwarding/state.rs";
const TABLE: &str = "crates/ledger/src/table_tests.rs";

/// Reasons that this test does not provoke, each with the file of another test that does, and with a text in that file: the reason, or the
/// name that the file uses for it.
const NOT_PROVOKED: [(&str, &str, &str); 28] = [
    (
        "CLOCK_NOT_CONFIRMED",
        "tests/it/service/clock.rs",
        "CLOCK_NOT_CONFIRMED",
    ),
    // A bug of the engine.
    ("REPLY_LOST", UNIT, "REPLY_LOST"),
    // Needs 2^32 accounts.
    ("ACCOUNTS_FULL", TABLE, "TableFull::Accounts"),
    // Needs more assets than a test can create.
    ("ASSETS_FULL", TABLE, "TableFull::Assets"),
    ("DATA_DAMAGED", "tests/it/store/damage.rs", "DATA_DAMAGED"),
    ("DISK_FULL", "tests/it/service/full_disk.rs", "DISK_FULL"),
    (
        "STREAM_INTERRUPTED",
        "tests/it/service/streams.rs",
        "STREAM_INTERRUPTED",
    ),
    ("QUEUE_FULL", "tests/it/service/overload.rs", "QUEUE_FULL"),
    ("WATCH_TOO_SLOW", "tests/it/service/watch.rs", "WATCH_TOO_SLOW"),
    // The client has cancelled the call and sees no status.
    ("CALL_CANCELLED", UNIT, "CALL_CANCELLED"),
    ("MEMORY_LIMIT", "tests/it/security/slow.rs", "MEMORY_LIMIT"),
    ("NOT_LEADER", REPLICA, "NOT_LEADER"),
    ("LEADER_LOST", REPLICA, "LEADER_LOST"),
    ("NOT_REPLICATED", REPLICA_STATE, "NOT_REPLICATED"),
    ("NOTHING_AVAILABLE", REASONS, ALL),
    ("VELOCITY_LIMIT", REASONS, ALL),
    ("PENDING_NOT_FOUND", REASONS, ALL),
    ("PENDING_ALREADY_POSTED", REASONS, ALL),
    ("PENDING_ALREADY_VOIDED", REASONS, ALL),
    ("PENDING_EXPIRED", REASONS, ALL),
    ("PENDING_AMOUNT_EXCEEDED", REASONS, ALL),
    ("PENDING_TRANSFERS_DIFFER", REASONS, ALL),
    ("REVERSED_NOT_FOUND", REASONS, ALL),
    ("NOT_REVERSIBLE", REASONS, ALL),
    ("ALREADY_REVERSED", REASONS, ALL),
    ("HOLDS_FULL", REASONS, ALL),
    ("ACCOUNT_NOT_EMPTY", REASONS, "ACCOUNT_NOT_EMPTY"),
    ("ACCOUNT_CHANGED", REASONS, "ACCOUNT_CHANGED"),
];

#[tokio::test]
async fn every_error_has_a_reason_a_domain_and_whether_the_call_was_executed() {
    let reasons = Arc::new(Mutex::new(BTreeSet::new()));
    let limits = NetConfig {
        message_time_max: Duration::from_secs(1),
        memory_max: ByteSize::mib(64),
        ..NetConfig::default()
    };
    let security = Arc::new(Security::default());
    let service = Service::start_limited(SimDisk::new(1), &patient_config(), security, limits).await;
    service.open_accounts(&["a", "b"]).await;
    // The number of rejected calls per connection is limited, so the malformed calls have their own connection.
    provoke::malformed_calls(&mut Wire::connect(&service, &reasons).await).await;
    let mut wire = Wire::connect(&service, &reasons).await;
    provoke::invalid_fields(&mut wire).await;
    provoke::rejections(&mut wire).await;
    provoke::introspection(&mut wire, &service).await;
    provoke::slow_requests(&service, &wire).await;
    provoke::security(&reasons).await;
    // A service that drains ends an open stream with a reason.
    let draining = Service::start(&patient_config()).await;
    let mut client = draining.transactions().await;
    let requests = tokio_stream::pending::<StreamTransactionsRequest>();
    let mut answers = client.stream_transactions(requests).await.unwrap().into_inner();
    draining.begin_drain();
    let status = answers.message().await.unwrap_err();
    wire.check(STREAM, &status, Code::Unavailable, "SHUTTING_DOWN", "false");
    provoke::states(&mut wire, &service).await;

    let mut provoked = reasons.lock().clone();
    for (reason, file, text) in NOT_PROVOKED {
        let tests = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        assert!(tests.contains(text), "{file} does not test {reason}");
        assert!(provoked.insert(reason.to_owned()), "{reason} is provoked here");
    }
    let reasons = ERROR_KINDS.iter().map(|kind| kind.reason.to_owned()).collect();
    assert_eq!(provoked, reasons);
}
