//! Tests of the `tally` binary: its signals, its exit codes, and the placement of its threads.

use std::{error::Error, fs, path::Path, process::Command};

use tally::proto::{
    GetTopologyRequest, GetTransactionRequest, engine_service_client::EngineServiceClient,
    transaction_service_client::TransactionServiceClient,
};
use tally_topology::{
    CpuSet,
    sys::affinity::{THIS_THREAD, get_affinity, set_affinity},
};
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{in_process::pay, server::TestServer};

const TALLY: &str = env!("CARGO_BIN_EXE_tally");

/// Runs `tally`. Returns its exit code, standard output and standard error.
fn tally(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(TALLY).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

async fn open_accounts(server: &TestServer) {
    let mut accounts = tally::proto::account_service_client::AccountServiceClient::connect(server.endpoint())
        .await
        .unwrap();
    for id in ["a", "b"] {
        let account = Some(crate::support::in_process::account(id));
        accounts
            .create_account(tally::proto::CreateAccountRequest { account })
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_answers_every_call_and_loses_nothing() {
    const CALLERS: usize = 16;
    let mut server = TestServer::start();
    open_accounts(&server).await;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let mut client = TransactionServiceClient::connect(server.endpoint())
            .await
            .unwrap();
        callers.spawn(async move {
            let mut acknowledged = Vec::new();
            for call in 0_usize.. {
                let id = format!("{caller}:{call}");
                match client.process_transaction(pay(&id)).await {
                    Ok(answer) => acknowledged.push((id, answer.into_inner().sequence)),
                    Err(status) => return (acknowledged, status),
                }
            }
            unreachable!("the loop ends with an error")
        });
    }
    // Wait until the load has committed a few hundred transactions.
    let mut stats = EngineServiceClient::connect(server.endpoint()).await.unwrap();
    loop {
        let batches = stats
            .get_batch_stats(tally::proto::GetBatchStatsRequest {})
            .await
            .unwrap()
            .into_inner();
        if batches.ledger.unwrap().committed >= 200 {
            break;
        }
    }
    drop(stats);
    server.terminate();
    let mut acknowledged = Vec::new();
    for (answers, last) in callers.join_all().await {
        acknowledged.extend(answers);
        // Either the service rejected the last call, or the call did not reach the service because the connection was
        // closing. In the second case, the error comes from the gRPC library of the client.
        match last.get_details_error_info() {
            Some(info) => {
                assert_eq!(last.code(), Code::Unavailable, "{last:?}");
                assert_eq!(
                    (info.reason.as_str(), info.metadata["executed"].as_str()),
                    ("SHUTTING_DOWN", "false")
                );
            }
            None => assert!(
                last.source().is_some(),
                "an error without details that is not from the client's library: {last:?}"
            ),
        }
    }
    assert_eq!(server.wait().code(), Some(0));

    server.restart();
    let mut client = TransactionServiceClient::connect(server.endpoint())
        .await
        .unwrap();
    assert!(acknowledged.len() >= 200);
    for (id, sequence) in acknowledged {
        let found = client
            .get_transaction(GetTransactionRequest {
                transaction_id: id.clone(),
                ..GetTransactionRequest::default()
            })
            .await
            .unwrap();
        let outcome = found.into_inner().transaction.unwrap().outcome.unwrap();
        let tally::proto::transaction::Outcome::Committed(committed) = outcome else {
            panic!("{id}: {outcome:?}")
        };
        assert_eq!(committed.sequence, sequence, "{id}");
    }
}

#[tokio::test]
async fn every_thread_runs_on_the_cpus_that_get_topology_reports() {
    let server = TestServer::start();
    let mut client = EngineServiceClient::connect(server.endpoint()).await.unwrap();
    let topology = client
        .get_topology(GetTopologyRequest {})
        .await
        .unwrap()
        .into_inner();
    let roles: Vec<&str> = topology
        .threads
        .iter()
        .map(|thread| thread.role.as_str())
        .collect();
    for role in ["EXEC", "WAL", "NET", "AUX"] {
        assert!(roles.contains(&role), "no {role} thread in {roles:?}");
    }
    for thread in &topology.threads {
        let status =
            fs::read_to_string(format!("/proc/{}/task/{}/status", server.pid(), thread.tid)).unwrap();
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .unwrap()
            .trim();
        assert_eq!(thread.actual_cpus, allowed, "{}", thread.name);
        if !thread.wanted_cpus.is_empty() {
            assert_eq!(thread.wanted_cpus, allowed, "{}", thread.name);
            assert!(thread.pinned, "{}", thread.name);
        }
    }
}

#[tokio::test]
async fn the_service_works_on_one_cpu() {
    // A child process inherits the CPU mask of the thread that starts it. The test restores the mask of its own thread
    // directly after the start.
    let before = get_affinity(THIS_THREAD).unwrap();
    let first = CpuSet::from_words(before.clone()).first().unwrap();
    set_affinity(THIS_THREAD, CpuSet::single(first).words()).unwrap();
    let server = TestServer::start();
    set_affinity(THIS_THREAD, &before).unwrap();
    open_accounts(&server).await;
    let mut client = TransactionServiceClient::connect(server.endpoint())
        .await
        .unwrap();
    assert_eq!(
        client
            .process_transaction(pay("t"))
            .await
            .unwrap()
            .into_inner()
            .sequence,
        1
    );
    let mut engine = EngineServiceClient::connect(server.endpoint()).await.unwrap();
    let decision = engine
        .get_topology(GetTopologyRequest {})
        .await
        .unwrap()
        .into_inner()
        .decision
        .unwrap();
    assert!(
        decision
            .warnings
            .iter()
            .any(|warning| warning.code == "single_cpu"),
        "{decision:?}"
    );
}

#[test]
fn each_result_has_its_exit_code() {
    let mut server = TestServer::start();
    let endpoint = server.endpoint();
    let (code, out, _) = tally(&["health", "--endpoint", &endpoint]);
    assert_eq!((code, out.as_str()), (Some(0), "SERVING\n"));
    let (code, out, _) = tally(&["stats", "--endpoint", &endpoint, "-o", "json"]);
    assert_eq!(code, Some(0));
    assert!(
        out.contains("CIRCUIT_STATE_CLOSED") && out.contains("bytes_per_transaction_id"),
        "{out}"
    );
    let json: serde_json::Value = serde_json::from_str(&out).expect("one document");
    assert_eq!(json["circuits"]["circuits"][0]["key"], "ProcessTransaction");
    assert_eq!(json["batches"]["queue_depth"], "0");
    let (code, out, _) = tally(&["topology", "--endpoint", &endpoint]);
    assert_eq!(code, Some(0));
    assert!(out.contains("tally-exec") && out.contains("tally-wal"), "{out}");

    // Another process already uses the data directory or the port.
    let data = server.data().to_str().unwrap().to_owned();
    let (code, _, error) = tally(&["serve", "--data", &data, "--listen", "127.0.0.1:0"]);
    assert_eq!(code, Some(74), "{error}");
    assert!(error.contains("lock"), "{error}");
    let other = tempfile::tempdir().unwrap();
    let listen = endpoint.trim_start_matches("http://");
    let (code, _, error) = tally(&[
        "serve",
        "--data",
        other.path().to_str().unwrap(),
        "--listen",
        listen,
    ]);
    assert_eq!(code, Some(69), "{error}");
    assert!(error.contains(listen), "{error}");

    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    let (code, _, _) = tally(&["health", "--endpoint", &endpoint, "--timeout", "1s"]);
    assert_eq!(code, Some(1));
    let (code, _, error) = tally(&["stats", "--endpoint", &endpoint]);
    assert_eq!(code, Some(69));
    assert!(error.contains(&endpoint), "{error}");
    let (code, _, error) = tally(&["stats", "--endpoint", "nowhere"]);
    assert_eq!(code, Some(64), "{error}");
    let (code, _, error) = tally(&["verify", "/nonexistent/data"]);
    assert_eq!(code, Some(74));
    assert!(error.contains("no such directory"), "{error}");
    let (code, out, _) = tally(&["verify", &data]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.ends_with("sound\n"), "{out}");
}

#[test]
fn a_wrong_configuration_is_an_error_and_the_service_does_not_start() {
    let (code, _, error) = tally(&["serve", "--nope"]);
    assert_eq!(code, Some(64), "{error}");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tally.toml");
    fs::write(&file, "[breaker]\nmin_calls = 0\n").unwrap();
    let (code, _, error) = tally(&["serve", "--check", "--config", file.to_str().unwrap()]);
    assert_eq!(code, Some(78), "{error}");
    assert!(error.contains("min_calls") && error.contains('0'), "{error}");
    assert!(!Path::new("./tally-data").exists());
}
