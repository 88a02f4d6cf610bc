//! The topology as the wire has it.

use std::{io, time::Duration};

use super::engine::{count, duration};
use crate::{
    proto::{
        GetTopologyResponse, TopologyCgroup, TopologyCore, TopologyDecision, TopologyNode, TopologyRole,
        TopologyThread,
    },
    topology::{Cgroup, CgroupVersion, CpuSet, Machine, Plan, ThreadInfo, TopologyInfo},
};

/// A snapshot as the wire has it.
#[must_use]
pub fn from_info(info: &TopologyInfo) -> GetTopologyResponse {
    let machine = &info.machine;
    GetTopologyResponse {
        allowed_cpus: machine.allowed.to_string(),
        online_cpus: text(machine.online.as_ref()),
        cores: cores(machine),
        nodes: machine
            .nodes
            .iter()
            .map(|node| TopologyNode {
                node: small(node.id),
                cpus: node.cpus.to_string(),
            })
            .collect(),
        cgroup: Some(cgroup(&machine.cgroup)),
        isolated_cpus: text(machine.isolated.as_ref()),
        nohz_full_cpus: text(machine.nohz_full.as_ref()),
        exclusive: info.exclusive,
        kernel_release: machine.kernel.release.clone().unwrap_or_default(),
        decision: Some(decision(&info.plan, info)),
        threads: info.threads.iter().map(thread).collect(),
        affinity_lost: count(info.affinity_lost),
        layout_version: count(info.layout_version),
    }
}

fn cores(machine: &Machine) -> Vec<TopologyCore> {
    let cache_of = |index: Option<usize>| index.and_then(|index| machine.caches.get(index));
    machine
        .cores
        .iter()
        .map(|core| TopologyCore {
            cpus: core.cpus.to_string(),
            foreign_siblings: core.siblings.difference(&core.cpus).to_string(),
            last_level_cache_cpus: cache_of(core.cache)
                .map(|cache| cache.cpus.to_string())
                .unwrap_or_default(),
            node: core.node.map(small).unwrap_or_default(),
        })
        .collect()
}

fn cgroup(cgroup: &Cgroup) -> TopologyCgroup {
    let stat = cgroup.stat.unwrap_or_default();
    TopologyCgroup {
        version: match cgroup.version {
            Some(CgroupVersion::V1) => 1,
            Some(CgroupVersion::V2) => 2,
            None => 0,
        },
        path: cgroup.path.clone().unwrap_or_default(),
        cpuset_cpus: text(cgroup.cpuset_effective.as_ref()),
        quota_cpus: cgroup
            .quota
            .map(|quota| quota.millicpus() as f64 / 1000.0)
            .unwrap_or_default(),
        periods: count(stat.periods),
        throttled_periods: count(stat.throttled_periods),
        throttled: Some(duration(Duration::from_micros(stat.throttled_us))),
    }
}

fn decision(plan: &Plan, info: &TopologyInfo) -> TopologyDecision {
    TopologyDecision {
        mode: plan.requested.as_str().to_owned(),
        effect: plan.placement.as_str().to_owned(),
        why: plan.why.clone(),
        roles: plan
            .roles
            .iter()
            .map(|role| TopologyRole {
                role: role.role.to_string().to_uppercase(),
                cpus: role.cpus.to_string(),
            })
            .collect(),
        warnings: info.warnings.iter().map(ToString::to_string).collect(),
    }
}

fn thread(thread: &ThreadInfo) -> TopologyThread {
    TopologyThread {
        role: thread.role.to_string().to_uppercase(),
        name: thread.name.clone(),
        tid: thread.tid,
        wanted_cpus: text(thread.wanted.as_ref()),
        actual_cpus: text(thread.actual.as_ref()),
        last_cpu: thread.last_cpu.map(small).unwrap_or(-1),
        pinned: thread.pinned_ok && thread.wanted.is_some(),
        error: thread
            .errno
            .map(|errno| io::Error::from_raw_os_error(errno).to_string())
            .unwrap_or_default(),
        policy: thread.policy.to_owned(),
        priority: thread.priority,
        voluntary_switches: thread.voluntary_switches.map(count).unwrap_or_default(),
        involuntary_switches: thread.involuntary_switches.map(count).unwrap_or_default(),
    }
}

fn text(cpus: Option<&CpuSet>) -> String {
    cpus.map(ToString::to_string).unwrap_or_default()
}

fn small(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
