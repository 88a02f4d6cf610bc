use super::*;
use crate::proto::{TopologyCore, TopologyNode, TopologyRole, TopologyWarning};

fn core(cpus: &str, foreign: &str) -> TopologyCore {
    TopologyCore {
        cpus: cpus.to_owned(),
        foreign_siblings: foreign.to_owned(),
        last_level_cache_cpus: "1-2,5".to_owned(),
        node: 0,
    }
}

fn machine() -> GetTopologyResponse {
    GetTopologyResponse {
        allowed_cpus: "1-2,5".to_owned(),
        online_cpus: "0-7".to_owned(),
        cores: vec![core("1,5", ""), core("2", "6")],
        nodes: vec![TopologyNode {
            node: 0,
            cpus: "1-2,5".to_owned(),
            devices: 1,
        }],
        isolated_cpus: "7".to_owned(),
        cgroup: Some(TopologyCgroup {
            version: 2,
            path: "/tally".to_owned(),
            cpuset_cpus: "1-2,5".to_owned(),
            quota_us: 400_000,
            period_us: 100_000,
            periods: 90,
            throttled_periods: 3,
            throttled: Some(prost_types::Duration {
                seconds: 1,
                nanos: 25_000_000,
            }),
            ..TopologyCgroup::default()
        }),
        pod: Some(TopologyPod {
            qos_class: "Burstable".to_owned(),
            cpu_request: Some(1.5),
            ..TopologyPod::default()
        }),
        kernel_release: "6.1".to_owned(),
        kernel: Some(TopologyKernel {
            rt_group_sched: Some(true),
            sched_rt_runtime_us: Some(-1),
            ..TopologyKernel::default()
        }),
        ..GetTopologyResponse::default()
    }
}

fn decision() -> TopologyDecision {
    TopologyDecision {
        mode: "auto".to_owned(),
        effect: "pin".to_owned(),
        why: "because".to_owned(),
        roles: vec![TopologyRole {
            role: "EXEC".to_owned(),
            cpus: "1".to_owned(),
            why: "own core".to_owned(),
            threads: 2,
            oversubscribed: true,
            affinity_ok: true,
        }],
        ..TopologyDecision::default()
    }
}

fn thread() -> TopologyThread {
    TopologyThread {
        name: "tally-exec".to_owned(),
        wanted_cpus: "1".to_owned(),
        actual_cpus: "1".to_owned(),
        pinned: true,
        policy: "other".to_owned(),
        ..TopologyThread::default()
    }
}

#[test]
fn the_machine_as_text() {
    let text = Text(&machine()).to_string();
    let (before, _) = text.split_once("decision").unwrap();
    assert_eq!(
        before,
        "\
allowed      1-2,5 of 0-7 online
cores        2: 1,5 | 2
  half core  2 (siblings not allowed: 6)
caches       1: 1-2,5
memory       node 0: 1-2,5 (1 drives and network cards)
isolated     7, nohz_full none
cgroup       version 2, /tally, granted 1-2,5, quota 400 ms in each 100 ms; throttled in 3 of 90 periods, 1.03 s
pod          Burstable, requests 1.5 CPUs, limit ?
kernel       6.1, clock ?; real-time threads run all of each ?, the cgroup needs a real-time budget, highest priority without CAP_SYS_NICE ?
exclusive    no (inferred)
"
    );
}

#[test]
fn a_problem_comes_with_its_remedy_and_no_problem_is_stated() {
    let mut topology = machine();
    topology.decision = Some(decision());
    let text = Text(&topology).to_string();
    assert!(
        text.contains("decision     pin (affinity.mode = auto): because\n"),
        "{text}"
    );
    assert!(text.contains("2 (more than CPUs)"), "{text}");
    assert!(text.ends_with("problems     none\n"), "{text}");

    let mut troubled = decision();
    troubled.warnings.push(TopologyWarning {
        code: "single_cpu".to_owned(),
        detail: "one".to_owned(),
        remedy: "two".to_owned(),
    });
    topology.decision = Some(troubled);
    let text = Text(&topology).to_string();
    assert!(
        text.ends_with("problem      single_cpu: one\n  to do      two\n"),
        "{text}"
    );
}

#[test]
fn a_misplaced_thread_is_marked() {
    assert_eq!(state(&thread()), "ok");
    let lost = TopologyThread {
        pinned: false,
        error: "Invalid argument".to_owned(),
        priority_requested: 2,
        priority_error: "Operation not permitted".to_owned(),
        ..thread()
    };
    assert_eq!(
        state(&lost),
        "CPUs LOST Invalid argument, REFUSED fifo 2: Operation not permitted"
    );
    let free = TopologyThread {
        wanted_cpus: String::new(),
        pinned: false,
        ..thread()
    };
    assert_eq!(state(&free), "ok");
}

#[test]
fn many_groups_are_counted_rather_than_listed() {
    let cpus: Vec<String> = (0..20).map(|cpu| cpu.to_string()).collect();
    let text = groups(cpus.iter().map(String::as_str));
    assert!(
        text.starts_with("20: 0 | 1 | ") && text.ends_with("| 15 | ..."),
        "{text}"
    );
}
