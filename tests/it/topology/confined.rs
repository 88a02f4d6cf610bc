//! Runs the service in each kind of confinement that operators and orchestrators use: taskset, cpusets, CPU quotas and
//! pods. The tests compare the report of the service with the data that the kernel shows to other processes.

use std::{collections::BTreeMap, fs, process::Command, time::Duration};

use tally::proto::{
    GetTopologyRequest, GetTopologyResponse, TopologyThread, engine_service_client::EngineServiceClient,
};
use tally_topology::{CpuSet, startup_mask, sys::affinity::set_affinity};

use super::{
    group::Group,
    support::privileges::{fifo_allowed, skipped, unprivileged},
};
use crate::support::{
    in_process::pay,
    server::{BINARY, ServerOptions, TestServer},
};

/// Maximum number of polls for an expected state. [`PAUSE`] is the time between two polls.
const POLLS_MAX: u32 = 400;
const PAUSE: Duration = Duration::from_millis(25);

/// Options of a server that checks its affinity masks ten times per second.
fn frequent_checks() -> ServerOptions {
    ServerOptions::default().env("TALLY__AFFINITY__VERIFY_INTERVAL", "100ms")
}

fn under(options: ServerOptions, wrapper: &[String]) -> TestServer {
    let words: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    options.under(&words).start()
}

async fn topology(server: &TestServer) -> GetTopologyResponse {
    let mut client = EngineServiceClient::connect(server.endpoint()).await.unwrap();
    client
        .get_topology(GetTopologyRequest {})
        .await
        .unwrap()
        .into_inner()
}

/// Polls the topology until `reached` returns true. `what` describes the expected state.
async fn topology_when(
    server: &TestServer,
    what: &str,
    reached: impl Fn(&GetTopologyResponse) -> bool,
) -> GetTopologyResponse {
    let mut last = topology(server).await;
    for _ in 0..POLLS_MAX {
        if reached(&last) {
            return last;
        }
        tokio::time::sleep(PAUSE).await;
        last = topology(server).await;
    }
    panic!(
        "the topology did not reach this state: {what}: {last:#?}\n{}",
        server.stderr()
    );
}

/// Reads the affinity masks of all threads of the server from the kernel, by thread id.
fn masks(server: &TestServer) -> BTreeMap<i32, CpuSet> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    tasks
        .filter_map(|task| {
            let task = task.unwrap();
            // The thread may have ended after the directory was read.
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            let list = status
                .lines()
                .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
            Some((task.file_name().to_str()?.parse().ok()?, list.parse().unwrap()))
        })
        .collect()
}

/// Returns field `number` of the thread's file `stat` in `/proc`, see the manual page proc_pid_stat(5).
fn stat_field(server: &TestServer, thread: &TopologyThread, number: usize) -> i64 {
    let path = format!("/proc/{}/task/{}/stat", server.pid(), thread.tid);
    let stat = fs::read_to_string(path).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields
        .split_whitespace()
        .nth(number - 3)
        .unwrap()
        .parse()
        .unwrap()
}

/// Checks that each registered thread has the mask that the service reports, and that this mask is the planned mask.
/// Also checks that every thread of the process may run only on the allowed CPUs.
fn assert_report_is_true(server: &TestServer, topology: &GetTopologyResponse) {
    let masks = masks(server);
    let allowed: CpuSet = topology.allowed_cpus.parse().unwrap();
    for thread in &topology.threads {
        let mask = masks[&thread.tid].to_string();
        assert_eq!(
            (&thread.actual_cpus, &thread.wanted_cpus),
            (&mask, &mask),
            "{}",
            thread.name
        );
        assert!(thread.pinned && thread.errno == 0, "{thread:?}");
    }
    for (tid, mask) in &masks {
        assert!(
            mask.is_subset(&allowed),
            "thread {tid} is on {mask}, allowed are {allowed}"
        );
    }
    for role in ["EXEC", "WAL", "NET", "AUX"] {
        assert!(
            topology.threads.iter().any(|thread| thread.role == role),
            "no {role} thread"
        );
    }
    assert!(
        topology
            .decision
            .as_ref()
            .unwrap()
            .roles
            .iter()
            .all(|role| role.affinity_ok)
    );
}

fn warnings(topology: &GetTopologyResponse) -> Vec<&str> {
    let decision = topology.decision.as_ref().unwrap();
    decision
        .warnings
        .iter()
        .map(|warning| warning.code.as_str())
        .collect()
}

fn effect(topology: &GetTopologyResponse) -> &str {
    &topology.decision.as_ref().unwrap().effect
}

fn last_cpu() -> CpuSet {
    CpuSet::single(startup_mask().unwrap().iter().next_back().unwrap())
}

/// Returns all CPUs that the test may use; `None` if there is only one.
fn two_cpus() -> Option<CpuSet> {
    let all = startup_mask().unwrap();
    if all.len() < 2 {
        skipped(&format!("needs two CPUs, this process has {all}"));
        return None;
    }
    Some(all)
}

#[tokio::test]
async fn under_taskset_the_service_runs_on_one_cpu_and_reports_it() {
    let last = last_cpu();
    let wrapper = ["taskset", "-c", &last.to_string()].map(str::to_owned);
    if Command::new("taskset").arg("--version").output().is_err() {
        skipped("cannot run taskset");
        return;
    }
    let server = under(frequent_checks(), &wrapper);
    let found = topology(&server).await;
    assert_eq!(found.allowed_cpus, last.to_string());
    assert_report_is_true(&server, &found);
    assert!(warnings(&found).contains(&"single_cpu"), "{:?}", warnings(&found));
    let decision = found.decision.unwrap();
    assert_eq!(
        (decision.effect.as_str(), decision.why.as_str()),
        ("fence", "degraded: single_cpu")
    );
    // The log has the placement and its warning as fields.
    for field in [
        "\"placement\":\"fence\"".to_owned(),
        format!("\"exec\":\"{last}\""),
        "\"warning\":\"single_cpu\"".to_owned(),
        "\"remedy\":\"give the process two CPUs or more\"".to_owned(),
    ] {
        server.wait_for_stderr(&field).await;
    }
}

#[tokio::test]
async fn in_a_cpuset_the_service_stays_on_its_cpus_and_follows_changes() {
    let (Some(all), last) = (two_cpus(), last_cpu()) else {
        return;
    };
    let Some(group) = Group::with_cpus(&last) else {
        return;
    };
    let server = under(
        frequent_checks().env("TALLY__AFFINITY__MODE", "pin"),
        &group.wrapper(),
    );
    let found = topology(&server).await;
    assert_report_is_true(&server, &found);
    let (allowed, limits) = (&found.allowed_cpus, found.cgroup.as_ref().unwrap());
    assert_eq!(
        (allowed, &limits.cpuset_cpus),
        (&last.to_string(), &last.to_string())
    );
    assert_eq!(limits.version, group.version());
    assert!(limits.cpuset_path.contains("/tally-test-"), "{limits:?}");
    assert!(warnings(&found).contains(&"single_cpu"));

    group.set_cpus(&all);
    let grown = topology_when(&server, "pinned to both", |now| {
        effect(now) == "pin" && now.threads.iter().all(|thread| thread.pinned)
    })
    .await;
    assert_eq!(grown.allowed_cpus, all.to_string());
    assert!(grown.layout_version > found.layout_version);
    assert_report_is_true(&server, &grown);

    group.set_cpus(&last);
    let shrunk = topology_when(&server, "back on one", |now| {
        effect(now) == "fence" && now.threads.iter().all(|thread| thread.pinned)
    })
    .await;
    assert_report_is_true(&server, &shrunk);
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_quota_the_service_does_not_pin_and_reports_pauses_to_the_circuits() {
    let Some(group) = Group::with_quota(20_000, 100_000) else {
        return;
    };
    let options = frequent_checks().env("TALLY__TELEMETRY__LOG", "warn,tally_breaker=debug");
    let server = under(options, &group.wrapper());
    let found = topology(&server).await;
    assert_report_is_true(&server, &found);
    let limits = found.cgroup.as_ref().unwrap();
    assert_eq!(
        (
            limits.version,
            limits.quota_us,
            limits.period_us,
            limits.quota_cpus
        ),
        (group.version(), 20_000, 100_000, 0.2)
    );
    if startup_mask().unwrap().len() > 1 {
        let decision = found.decision.as_ref().unwrap();
        assert_eq!(decision.effect, "fence");
        assert!(
            decision.why.starts_with("a quota of 200 thousandths"),
            "{}",
            decision.why
        );
    }
    // The accounts of these calls do not exist, but the calls are enough work to use up the quota.
    let mut load = tokio::task::JoinSet::new();
    for caller in 0..4 {
        let client = server.client().await;
        load.spawn(async move {
            for call in 0..100_000 {
                // The result is ignored, because the outcome of the call does not matter.
                let _ = client.process_transaction(pay(&format!("{caller}:{call}"))).await;
            }
        });
    }
    // The kernel counts a throttled period when the period ends, and its time only when the group runs again.
    let throttled = topology_when(&server, "throttled", |now| {
        let time = now.cgroup.as_ref().and_then(|limits| limits.throttled);
        warnings(now).contains(&"throttled") && time.is_some_and(|time| time.nanos > 0 || time.seconds > 0)
    })
    .await;
    assert!(throttled.cgroup.unwrap().throttled_periods > 0);
    load.abort_all();
    server.wait_for_stderr("the process was throttled").await;
    drop(server);
}

#[tokio::test]
async fn a_mask_changed_by_another_process_is_restored_and_counted() {
    let Some(all) = two_cpus() else {
        return;
    };
    let server = frequent_checks().env("TALLY__AFFINITY__MODE", "pin").start();
    let before = topology(&server).await;
    assert_report_is_true(&server, &before);
    assert_eq!((before.affinity_lost, before.layout_version), (0, 1));
    for thread in before.threads.iter().filter(|thread| thread.role != "AUX") {
        let wanted: CpuSet = thread.wanted_cpus.parse().unwrap();
        set_affinity(thread.tid, all.difference(&wanted).words()).unwrap();
    }
    let moved = i64::try_from(
        before
            .threads
            .iter()
            .filter(|thread| thread.role != "AUX")
            .count(),
    )
    .unwrap();
    let after = topology_when(&server, "every mask restored", |now| {
        now.affinity_reapplied == moved && now.threads.iter().all(|thread| thread.pinned)
    })
    .await;
    assert_eq!(after.affinity_lost, moved);
    assert!(after.layout_version > 1);
    assert_report_is_true(&server, &after);
}

#[tokio::test]
async fn only_exec_and_wal_run_in_the_real_time_class() {
    if !fifo_allowed() {
        skipped("this process may not use SCHED_FIFO");
        return;
    }
    let server = frequent_checks()
        .env("TALLY__AFFINITY__FIFO__ENABLED", "true")
        .env("TALLY__AFFINITY__FIFO__PRIORITY", "3")
        .env("TALLY__AFFINITY__FIFO__REQUIRED", "true")
        .env("TALLY__AFFINITY__FIFO__RTTIME_MAX", "4s")
        .start();
    let found = topology(&server).await;
    for thread in &found.threads {
        let real_time = ["EXEC", "WAL"].contains(&thread.role.as_str());
        let wanted = if real_time { ("fifo", 3) } else { ("other", 0) };
        assert_eq!(
            (thread.policy.as_str(), thread.priority),
            wanted,
            "{}",
            thread.name
        );
        assert_eq!(thread.reset_on_fork, real_time, "{}", thread.name);
        // Field 40 is the real-time priority, and field 41 is the scheduling policy.
        let kernel = (stat_field(&server, thread, 40), stat_field(&server, thread, 41));
        assert_eq!(kernel, if real_time { (3, 1) } else { (0, 0) }, "{}", thread.name);
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let fuse = limits
        .lines()
        .find(|line| line.starts_with("Max realtime timeout"))
        .unwrap();
    assert!(fuse.contains(" 4000000 "), "{fuse}");
}

#[tokio::test]
async fn a_denied_real_time_class_is_a_warning_or_if_required_an_error() {
    let wrapper: Vec<String> = unprivileged().iter().map(|&word| word.to_owned()).collect();
    if let Some(program) = wrapper.first()
        && Command::new(program).arg("--version").output().is_err()
    {
        skipped(&format!("cannot run {program}"));
        return;
    }
    let fifo = || frequent_checks().env("TALLY__AFFINITY__FIFO__ENABLED", "true");
    let server = under(fifo(), &wrapper);
    let found = topology(&server).await;
    assert_report_is_true(&server, &found);
    assert!(warnings(&found).contains(&"fifo_refused"));
    for thread in found
        .threads
        .iter()
        .filter(|thread| ["EXEC", "WAL"].contains(&thread.role.as_str()))
    {
        assert_eq!((thread.policy.as_str(), thread.priority_requested), ("other", 1));
        assert!(
            thread.priority_error.contains("not permitted"),
            "{}",
            thread.priority_error
        );
    }
    let (text, _) = tally(&[], &["topology", "--endpoint", &server.endpoint()]);
    assert!(text.contains("REFUSED fifo 1: Operation not permitted"), "{text}");

    let words: Vec<&str> = wrapper
        .iter()
        .map(String::as_str)
        .chain([BINARY, "serve", "--data"])
        .collect();
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(words[0])
        .args(&words[1..])
        .arg(home.path().join("data"))
        .args(["--listen", "127.0.0.1:0"])
        .env("TALLY__AFFINITY__FIFO__ENABLED", "true")
        .env("TALLY__AFFINITY__FIFO__REQUIRED", "true")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(
        text.contains("cannot run under SCHED_FIFO with priority 1"),
        "{text}"
    );
}

/// Runs `tally` with environment variables and arguments. Returns its standard output and standard error as one text,
/// and its exit code.
fn tally(env: &[(&str, &str)], words: &[&str]) -> (String, Option<i32>) {
    let output = Command::new(BINARY)
        .args(words)
        .envs(env.iter().copied())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), output.status.code())
}

#[test]
fn forbidden_cpus_prevent_the_start_in_mode_strict_and_are_warnings_in_other_modes() {
    let list = ("TALLY__AFFINITY__CPUS__EXEC", "4000-4001");
    let strict = [list, ("TALLY__AFFINITY__MODE", "strict")];
    let expected = format!(
        "affinity.cpus.exec = 4000-4001: must be within {}, the CPUs that the process may use; 4000-4001 are not in \
         this list (from TALLY__AFFINITY__CPUS__EXEC)",
        startup_mask().unwrap()
    );
    for words in [&["serve", "--check"][..], &["topology"]] {
        let (text, code) = tally(&strict, words);
        assert_eq!(code, Some(78), "{text}");
        assert!(text.contains(&expected), "{text}");
    }
    let (text, code) = tally(&[list], &["topology"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("problem      list_ignored: "), "{text}");
    assert!(text.contains("CPUs 4000-4001 are not allowed"), "{text}");
}

#[test]
fn the_plan_is_printed_as_text_and_as_json() {
    let pin = [("TALLY__AFFINITY__MODE", "pin")];
    let (text, code) = tally(&pin, &["topology"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains(&format!("allowed      {} of ", startup_mask().unwrap())),
        "{text}"
    );
    for word in [
        "decision     ",
        "affinity.mode = pin",
        "EXEC",
        "WAL",
        "NET",
        "AUX",
        "problem",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let (text, code) = tally(&pin, &["topology", "-o", "json"]);
    assert_eq!(code, Some(0), "{text}");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["allowed_cpus"], startup_mask().unwrap().to_string());
    assert_eq!(json["decision"]["mode"], "pin");
    assert_eq!(json["decision"]["roles"][0]["role"], "EXEC");
}

#[test]
fn the_cpus_in_the_manifest_of_a_pod_are_reported_and_used() {
    let pod = [
        ("KUBERNETES_SERVICE_HOST", "192.0.2.1"),
        ("TALLY_POD_CPU_REQUEST_MILLI", "1500"),
        ("TALLY_POD_CPU_LIMIT_MILLI", "1500"),
        ("TALLY_POD_QOS_CLASS", "Guaranteed"),
    ];
    let (text, code) = tally(&pod, &["topology", "-o", "json"]);
    assert_eq!(code, Some(0), "{text}");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["pod"]["qos_class"], "Guaranteed");
    assert_eq!(
        (&json["pod"]["cpu_request"], &json["pod"]["cpu_limit"]),
        (&1.5.into(), &1.5.into())
    );
    let why = json["pod"]["shares_because"].as_str().unwrap();
    assert!(
        why.contains("1500 thousandths of a CPU, not a whole number"),
        "{why}"
    );
    assert_eq!(
        (&json["exclusive"], &json["decision"]["effect"]),
        (&false.into(), &"fence".into())
    );
}
