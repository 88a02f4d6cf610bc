//! `tally topology`: prints the plan for the threads on this machine, or the placement of a running service, with reasons and
//! problems.

use std::{
    fmt::{self, Display, Formatter},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use tally_topology::CpuAffinityManager;

use super::{
    client_args::{Credentials, Engine, TIMEOUT, within},
    exit::{self, Failure, block_on, finish},
    output::{OutputFormat, json_document},
    values::endpoint,
};
use crate::{
    config::Loaded,
    grpc,
    proto::{
        GetTopologyRequest, GetTopologyResponse, TopologyCgroup, TopologyDecision, TopologyKernel,
        TopologyPod, TopologyThread,
    },
    terminal::{
        outln, table,
        units::{counted, number, proto_time, time},
        without_error_numbers,
    },
};

/// Options of `tally topology`.
#[derive(Debug, Args)]
pub struct TopologyArgs {
    /// Address of a service; https:// for TLS. Shows the placement of its threads instead of a plan for this machine. Of several
    /// addresses, with commas between them, shows the replica that leads.
    #[arg(long, value_name = "URL", env = "TALLY_ENDPOINT", value_delimiter = ',', value_parser = endpoint)]
    endpoint: Vec<String>,
    #[command(flatten)]
    credentials: Credentials,
    /// Plan with the settings in this file and in the environment.
    #[arg(long, value_name = "FILE", env = "TALLY_CONFIG", conflicts_with = "endpoint")]
    config: Option<PathBuf>,
    /// How to print the topology.
    #[arg(short, long, env = "TALLY_OUTPUT", value_enum, default_value_t)]
    output: OutputFormat,
}

/// Maximum number of groups (cores, caches) that are listed. Further groups are only counted.
const GROUPS_MAX: usize = 16;

/// A topology in text form.
struct Text<'a>(&'a GetTopologyResponse);

pub(super) fn run(args: &TopologyArgs) -> ExitCode {
    if args.endpoint.is_empty() {
        return finish(plan(args).and_then(|topology| print(&topology, args.output)));
    }
    block_on(async {
        let topology = placement(args).await;
        finish(topology.and_then(|topology| print(&topology, args.output)))
    })
}

/// Returns the plan for this machine.
fn plan(args: &TopologyArgs) -> Result<GetTopologyResponse, Failure> {
    let wrong = |error: &dyn std::error::Error| Failure::new(exit::CONFIG, error);
    let loaded = Loaded::load(args.config.as_deref(), &[]).map_err(|error| wrong(&error))?;
    let settings = loaded.affinity().map_err(|error| wrong(&error))?;
    let affinity =
        CpuAffinityManager::detect(settings).map_err(|error| match loaded.placement_error(error) {
            Ok(setting) => wrong(&setting),
            Err(error) => wrong(&error),
        })?;
    Ok(grpc::topology_response(&affinity.topology()))
}

/// Returns the placement of the threads of the service at `--endpoint`.
async fn placement(args: &TopologyArgs) -> Result<GetTopologyResponse, Failure> {
    let mut engine = Engine::connect(args.credentials.config(&args.endpoint)).await?;
    let answer = engine
        .client
        .get_topology(within(TIMEOUT, GetTopologyRequest {}))
        .await;
    Ok(answer.map_err(|status| engine.failure(&status))?.into_inner())
}

fn print(topology: &GetTopologyResponse, output: OutputFormat) -> Result<(), Failure> {
    match output {
        OutputFormat::Table => outln!("{}", Text(topology).to_string().trim_end()),
        OutputFormat::Json => outln!("{}", json_document("GetTopologyResponse", topology)?),
    }
    Ok(())
}

// ===== impl Text =====

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let topology = self.0;
        self.machine(f)?;
        let decision = topology.decision.clone().unwrap_or_default();
        writeln!(
            f,
            "decision     {} (affinity.mode = {}): {}",
            decision.effect, decision.mode, decision.why
        )?;
        roles(f, &decision)?;
        if !topology.threads.is_empty() {
            threads(f, &topology.threads)?;
            writeln!(
                f,
                "layout       version {}; affinity masks changed by other processes {}, restored {}; threads without a role {}",
                topology.layout_version,
                number(topology.affinity_lost),
                number(topology.affinity_reapplied),
                topology.unregistered_threads
            )?;
        }
        if decision.warnings.is_empty() {
            writeln!(f, "problems     none")?;
        }
        for warning in &decision.warnings {
            let detail = without_error_numbers(warning.detail.clone());
            writeln!(f, "problem      {}: {detail}", warning.code)?;
            writeln!(f, "  to do      {}", warning.remedy)?;
        }
        Ok(())
    }
}

impl Text<'_> {
    fn machine(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let topology = self.0;
        writeln!(
            f,
            "allowed      {} of {} online",
            topology.allowed_cpus,
            or(&topology.online_cpus, "?")
        )?;
        writeln!(
            f,
            "cores        {}",
            groups(topology.cores.iter().map(|core| &*core.cpus))
        )?;
        for core in topology
            .cores
            .iter()
            .filter(|core| !core.foreign_siblings.is_empty())
        {
            writeln!(
                f,
                "  half core  {} (siblings not allowed: {})",
                core.cpus, core.foreign_siblings
            )?;
        }
        let mut caches: Vec<&str> = topology
            .cores
            .iter()
            .map(|core| &*core.last_level_cache_cpus)
            .collect();
        caches.dedup();
        writeln!(f, "caches       {}", groups(caches.into_iter()))?;
        for node in &topology.nodes {
            write!(f, "memory       node {}: {}", node.node, node.cpus)?;
            if node.devices > 0 {
                write!(f, " ({} drives and network cards)", node.devices)?;
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "isolated     {}, nohz_full {}",
            or(&topology.isolated_cpus, "none"),
            or(&topology.nohz_full_cpus, "none")
        )?;
        group(f, &topology.cgroup.clone().unwrap_or_default())?;
        if let Some(described) = &topology.pod {
            pod(f, described)?;
        }
        kernel(
            f,
            &topology.kernel_release,
            &topology.kernel.clone().unwrap_or_default(),
        )?;
        let exclusive = if topology.exclusive { "yes" } else { "no" };
        writeln!(f, "exclusive    {exclusive} (inferred)")
    }
}

// ===== parts =====

fn group(f: &mut Formatter<'_>, group: &TopologyCgroup) -> fmt::Result {
    if group.version == 0 {
        return writeln!(f, "cgroup       none found");
    }
    write!(
        f,
        "cgroup       version {}, {}, granted {}",
        group.version,
        group.path,
        or(&group.cpuset_cpus, "?")
    )?;
    if !group.cpuset_path.is_empty() && group.cpuset_path != group.path {
        write!(f, " by {}", group.cpuset_path)?;
    }
    if !group.cpuset_partition.is_empty() {
        write!(f, " ({})", group.cpuset_partition)?;
    }
    if group.period_us == 0 {
        writeln!(f, ", no quota")
    } else {
        writeln!(
            f,
            ", quota {} in each {}; throttled in {} of {}, {}",
            micros(group.quota_us),
            micros(group.period_us),
            number(group.throttled_periods),
            counted(group.periods, "period"),
            proto_time(group.throttled)
        )
    }
}

/// Returns a time in microseconds with its unit.
fn micros(micros: i64) -> String {
    time(Duration::from_micros(u64::try_from(micros).unwrap_or_default()))
}

fn pod(f: &mut Formatter<'_>, pod: &TopologyPod) -> fmt::Result {
    let cpus = |cpus: Option<f64>| cpus.map_or_else(|| "?".to_owned(), |cpus| cpus.to_string());
    write!(
        f,
        "pod          {}, requests {} CPUs, limit {}",
        or(&pod.qos_class, "unknown class"),
        cpus(pod.cpu_request),
        cpus(pod.cpu_limit)
    )?;
    if !pod.shares_because.is_empty() {
        write!(f, "; {}", pod.shares_because)?;
    }
    writeln!(f)
}

fn kernel(f: &mut Formatter<'_>, release: &str, kernel: &TopologyKernel) -> fmt::Result {
    let unknown = || "?".to_owned();
    let runtime = match kernel.sched_rt_runtime_us {
        // The kernel's value -1 means no limit.
        Some(-1) => "all".to_owned(),
        Some(runtime) => micros(runtime),
        None => unknown(),
    };
    let budgets = match kernel.rt_group_sched {
        Some(true) => "the cgroup needs a real-time budget",
        Some(false) => "the cgroup needs no real-time budget",
        None => "the cgroup may need a real-time budget",
    };
    writeln!(
        f,
        "kernel       {}, clock {}; real-time threads run {runtime} of each {}, {budgets}, highest priority without \
         CAP_SYS_NICE {}",
        or(release, "?"),
        or(&kernel.clock_source, "?"),
        kernel.sched_rt_period_us.map_or_else(unknown, micros),
        kernel
            .rtprio_limit
            .map_or_else(unknown, |limit| limit.to_string())
    )
}

fn roles(f: &mut Formatter<'_>, decision: &TopologyDecision) -> fmt::Result {
    let mut roles = table(&["role", "CPUs", "threads", "why"]);
    for role in &decision.roles {
        // A plan for this machine has no threads.
        let mut count = match role.threads {
            0 => "not running".to_owned(),
            threads => threads.to_string(),
        };
        if role.oversubscribed {
            count.push_str(" (more than CPUs)");
        }
        roles.add_row([&role.role, &role.cpus, &count, &role.why]);
    }
    if !decision.spare_cpus.is_empty() {
        roles.add_row(["spare", &decision.spare_cpus, "", "not used"]);
    }
    writeln!(f, "{roles}")
}

fn threads(f: &mut Formatter<'_>, threads: &[TopologyThread]) -> fmt::Result {
    let mut rows = table(&[
        "thread",
        "role",
        "tid",
        "wanted",
        "actual",
        "on CPU",
        "node",
        "policy",
        "waits",
        "preempted",
        "moved",
        "state",
    ]);
    let known = |value: Option<String>| value.unwrap_or_else(|| "?".to_owned());
    for thread in threads {
        let priority = if thread.priority > 0 {
            format!("{} {}", thread.policy, thread.priority)
        } else {
            thread.policy.clone()
        };
        rows.add_row([
            thread.name.clone(),
            thread.role.clone(),
            thread.tid.to_string(),
            or(&thread.wanted_cpus, "any").to_owned(),
            thread.actual_cpus.clone(),
            thread.last_cpu.to_string(),
            known(thread.node.map(|node| node.to_string())),
            priority,
            number(thread.voluntary_switches),
            number(thread.involuntary_switches),
            known(thread.migrations.map(number)),
            state(thread),
        ]);
    }
    writeln!(f, "{rows}")
}

fn state(thread: &TopologyThread) -> String {
    let mut words = Vec::new();
    if !thread.wanted_cpus.is_empty() && !thread.pinned {
        words.push(format!("CPUs LOST {}", thread.error).trim_end().to_owned());
    }
    if thread.priority_requested > 0 && thread.priority == 0 {
        words.push(format!(
            "REFUSED fifo {}: {}",
            thread.priority_requested, thread.priority_error
        ));
    }
    if words.is_empty() {
        words.push("ok".to_owned());
    }
    words.join(", ")
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

/// Returns the number of sets and the first [`GROUPS_MAX`] sets, for example `4: 0,4 | 1,5 | 2,6 | 3,7`.
fn groups<'a>(sets: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = sets.len();
    let mut parts: Vec<&str> = sets.take(GROUPS_MAX).collect();
    if count > GROUPS_MAX {
        parts.push("...");
    }
    format!("{count}: {}", parts.join(" | "))
}

#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
