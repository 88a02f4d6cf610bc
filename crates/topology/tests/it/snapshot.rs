//! Writes the plans of many kinds of machines as one text, and compares this text with the file `plans.txt`.

use std::fmt::Write;

use tally_topology::{AffinityConfig, CpuSet, Mode, PodHints};

use super::support::tree::{Tree, set};

/// One machine: its name, its description, and the mode.
type Row = (&'static str, Tree, Mode);

fn pod(class: &str) -> PodHints {
    PodHints {
        kubernetes: true,
        qos_class: Some(class.to_owned()),
        ..PodHints::default()
    }
}

/// The machines of the table of roles, then other machines and modes.
fn rows() -> Vec<Row> {
    let quad = || Tree::of_cores(vec![set("0-3"), set("4-7"), set("8-11")]);
    let auto = |name, tree| (name, tree, Mode::Auto);
    vec![
        auto("1", Tree::cores(1)),
        ("2 cores", Tree::cores(2), Mode::Pin),
        ("2, one core", Tree::smt(1), Mode::Pin),
        ("3", Tree::cores(3), Mode::Pin),
        auto("4", Tree::cores(4)),
        auto("2 cores of 2", Tree::smt(2)),
        auto("8", Tree::cores(8)),
        auto("4 cores of 2", Tree::smt(4)),
        auto("3 cores of 4", quad()),
        auto("16", Tree::cores(16)),
        auto("16, caches of 8", Tree::cores(16).caches(&["0-7", "8-15"])),
        auto("64, 2 nodes", Tree::cores(64).nodes(&["0-31", "32-63"])),
        auto(
            "64, drive on node 1",
            Tree::cores(64).nodes(&["0-31", "32-63"]).nvme_node(1),
        ),
        auto("scattered ids", Tree::cores(48).mask("2,5,9-11,40")),
        auto("lone sibling of 1+5", Tree::smt(4).mask("1,2,3,6,7")),
        auto("only lone siblings", Tree::smt(4).mask("1-2")),
        auto("ids beyond 1024", Tree::cores(2048).mask("1023-1025,2040-2047")),
        auto("auto on 2", Tree::cores(2)),
        auto("auto on 3", Tree::cores(3)),
        auto("2 of 8", Tree::cores(8).mask("2-3")),
        auto("isolated, all", Tree::cores(4).isolated("0-3")),
        auto("quota of 3 on 8", Tree::cores(8).cpu_max("300000 100000")),
        (
            "the same, mode pin",
            Tree::cores(8).cpu_max("300000 100000"),
            Mode::Pin,
        ),
        auto(
            "4 of 8, quota of 4",
            Tree::cores(8).mask("2-5").cpu_max("400000 100000"),
        ),
        auto(
            "pod, Guaranteed",
            Tree::cores(8).mask("2-5").pod(pod("Guaranteed")),
        ),
        auto("pod, Burstable", Tree::cores(8).mask("2-5").pod(pod("Burstable"))),
        ("fence", Tree::cores(4), Mode::Fence),
        ("off", Tree::cores(4), Mode::Off),
        ("strict", Tree::cores(4), Mode::Strict),
    ]
}

/// Writes CPU ids as a list, and an empty set as `-`.
fn short(cpus: &CpuSet) -> String {
    if cpus.is_empty() {
        "-".to_owned()
    } else {
        cpus.to_string()
    }
}

fn table() -> String {
    let mut text = String::new();
    let mut line = |columns: [&str; 9]| {
        let [name, allowed, effect, exec, wal, net, aux, spare, because] = columns;
        let line = format!(
            "{name:<20} {allowed:<20} {effect:<6} {exec:<5} {wal:<5} {net:<25} {aux:<6} {spare:<12} {because}"
        );
        writeln!(text, "{}", line.trim_end()).unwrap();
    };
    line([
        "machine",
        "allowed",
        "plan",
        "EXEC",
        "WAL",
        "NET (threads)",
        "AUX",
        "spare",
        "because",
    ]);
    for (name, tree, mode) in rows() {
        let config = AffinityConfig {
            mode,
            ..AffinityConfig::default()
        };
        let plan = tree.plan_with(&config);
        let [exec, wal, net, aux] = plan.roles.each_ref().map(|role| short(&role.cpus));
        let net = format!("{net} ({})", plan.net_threads);
        let because = if plan.spin_allowed {
            format!("{}; exec may spin", plan.why)
        } else {
            plan.why.clone()
        };
        line([
            name,
            &plan.allowed.to_string(),
            plan.placement.as_str(),
            &exec,
            &wal,
            &net,
            &aux,
            &short(&plan.spare),
            &because,
        ]);
        for warning in &plan.warnings {
            line(["", &format!("! {warning}"), "", "", "", "", "", "", ""]);
        }
    }
    text
}

#[test]
fn the_plan_of_every_machine() {
    let (found, expected) = (table(), include_str!("plans.txt"));
    assert!(
        found == expected,
        "the plans differ from tests/it/plans.txt. If the change is intended, the file must contain this:\n{found}"
    );
}
