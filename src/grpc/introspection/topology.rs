//! `GetTopology`: converts the CPUs, the threads and their placement for the API.

use std::{io, time::Duration};

use tally_topology::{Cgroup, Machine, PodHints, RoleInfo, ThreadInfo, TopologyInfo, Warning};

use super::values::{count, duration, small, text};
use crate::proto::{
    GetTopologyResponse, TopologyCgroup, TopologyCore, TopologyDecision, TopologyKernel, TopologyNode,
    TopologyPod, TopologyRole, TopologyThread, TopologyWarning,
};

/// Returns the answer of `GetTopology`.
#[must_use]
pub fn topology_response(info: &TopologyInfo) -> GetTopologyResponse {
    let machine = &info.machine;
    GetTopologyResponse {
        allowed_cpus: machine.allowed.to_string(),
        online_cpus: text(machine.online.as_ref()),
        possible_cpus: text(machine.possible.as_ref()),
        allowed_memory_nodes: text(machine.mems_allowed.as_ref()),
        cores: cores(machine),
        nodes: machine
            .nodes
            .iter()
            .map(|node| TopologyNode {
                node: small(node.id),
                cpus: node.cpus.to_string(),
                devices: small(node.devices),
            })
            .collect(),
        cgroup: Some(cgroup(&machine.cgroup)),
        pod: machine.pod.kubernetes.then(|| pod(&machine.pod)),
        isolated_cpus: text(machine.isolated.as_ref()),
        nohz_full_cpus: text(machine.nohz_full.as_ref()),
        exclusive: info.exclusive,
        kernel_release: machine.kernel.release.clone().unwrap_or_default(),
        kernel: Some(kernel(info)),
        decision: Some(decision(info)),
        threads: info.threads.iter().map(thread).collect(),
        affinity_lost: count(info.affinity_lost),
        affinity_reapplied: count(info.affinity_reapplied),
        layout_version: count(info.layout_version),
        unregistered_threads: small(info.unregistered_threads),
        register_overflow: count(info.register_overflow),
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
            last_level_cache_cpus: text(cache_of(core.cache).map(|cache| &cache.cpus)),
            node: core.node.map(small).unwrap_or_default(),
        })
        .collect()
}

fn cgroup(cgroup: &Cgroup) -> TopologyCgroup {
    let stat = cgroup.stat.unwrap_or_default();
    let quota = cgroup.quota;
    TopologyCgroup {
        version: cgroup.version.map_or(0, |version| small(version.number())),
        path: cgroup.path.clone().unwrap_or_default(),
        cpuset_path: cgroup.cpuset_path.clone().unwrap_or_default(),
        cpuset_cpus: text(cgroup.cpuset_effective.as_ref()),
        cpuset_requested: text(cgroup.cpuset.as_ref()),
        cpuset_partition: cgroup.partition.clone().unwrap_or_default(),
        quota_cpus: quota.map_or(0.0, |quota| cpus(quota.millicpus())),
        quota_us: quota.map_or(0, |quota| count(quota.quota_us)),
        period_us: quota.map_or(0, |quota| count(quota.period_us)),
        periods: count(stat.periods),
        throttled_periods: count(stat.throttled_periods),
        throttled: Some(duration(Duration::from_micros(stat.throttled_us))),
        rt_runtime_us: cgroup.rt_runtime_us,
    }
}

fn pod(pod: &PodHints) -> TopologyPod {
    TopologyPod {
        qos_class: pod.qos_class.clone().unwrap_or_default(),
        cpu_request: pod.cpu_request_milli.map(cpus),
        cpu_limit: pod.cpu_limit_milli.map(cpus),
        shares_because: pod.shares_because().unwrap_or_default(),
    }
}

fn kernel(info: &TopologyInfo) -> TopologyKernel {
    let kernel = &info.machine.kernel;
    TopologyKernel {
        rt_group_sched: kernel.rt_group_sched,
        sched_rt_runtime_us: kernel.sched_rt_runtime_us,
        sched_rt_period_us: kernel.sched_rt_period_us,
        clock_source: kernel.clock_source.clone().unwrap_or_default(),
        // The largest number means "no limit".
        rtprio_limit: info.rtprio_limit.map(|limit| limit.soft.map_or(i64::MAX, count)),
    }
}

fn decision(info: &TopologyInfo) -> TopologyDecision {
    let plan = &info.plan;
    TopologyDecision {
        mode: plan.requested.as_str().to_owned(),
        effect: plan.placement.as_str().to_owned(),
        why: plan.why.clone(),
        roles: info.roles.iter().map(role).collect(),
        warnings: info.warnings.iter().map(warning).collect(),
        spare_cpus: plan.spare.to_string(),
        home_node: plan.home_node.map(small),
        net_threads: small(plan.net_threads),
        shared_core: plan.shared_core,
        spin_allowed: plan.spin_allowed,
    }
}

fn role(role: &RoleInfo) -> TopologyRole {
    TopologyRole {
        role: role.role.to_string().to_uppercase(),
        cpus: role.cpus.to_string(),
        why: role.why.to_owned(),
        threads: small(role.threads),
        oversubscribed: role.oversubscribed,
        affinity_ok: role.pinned_ok,
    }
}

fn warning(warning: &Warning) -> TopologyWarning {
    TopologyWarning {
        code: warning.code.as_str().to_owned(),
        detail: warning.detail.clone(),
        remedy: warning.code.remedy().to_owned(),
    }
}

fn thread(thread: &ThreadInfo) -> TopologyThread {
    let words = |errno: Option<i32>| text(errno.map(io::Error::from_raw_os_error));
    TopologyThread {
        role: thread.role.to_string().to_uppercase(),
        index: small(thread.index),
        name: thread.name.clone(),
        tid: thread.tid,
        wanted_cpus: text(thread.wanted.as_ref()),
        actual_cpus: text(thread.actual.as_ref()),
        last_cpu: thread.last_cpu.map(small).unwrap_or(-1),
        node: thread.node.map(small),
        pinned: thread.pinned_ok && thread.wanted.is_some(),
        errno: thread.errno.unwrap_or_default(),
        error: words(thread.errno),
        policy: thread.policy.to_owned(),
        priority: thread.priority,
        priority_requested: thread.fifo_requested.map(i32::from).unwrap_or_default(),
        priority_error: words(thread.fifo_errno),
        reset_on_fork: thread.reset_on_fork,
        voluntary_switches: thread.voluntary_switches.map(count).unwrap_or_default(),
        involuntary_switches: thread.involuntary_switches.map(count).unwrap_or_default(),
        migrations: thread.migrations.map(count),
    }
}

/// Converts thousandths of a CPU into CPUs.
fn cpus(millicpus: u64) -> f64 {
    millicpus as f64 / 1000.0
}
