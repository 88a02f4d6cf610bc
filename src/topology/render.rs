//! The text form of a [`TopologyInfo`]: what `tally topology` prints.

use std::fmt::{self, Display, Formatter};

use super::{Cgroup, CpuSet, Machine, Node, ThreadInfo, TopologyInfo};

/// Groups (cores, caches) that are written out before the rest is only counted.
const GROUPS_MAX: usize = 16;

// ===== impl TopologyInfo =====

impl Display for TopologyInfo {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let exclusive = if self.exclusive { "yes" } else { "no" };
        write!(f, "{}", self.machine)?;
        writeln!(f, "exclusive  {exclusive} (inferred)")?;
        write!(f, "{}", self.plan)?;
        for thread in &self.threads {
            writeln!(f, "  {thread}")?;
        }
        writeln!(
            f,
            "layout {}, masks lost {}, set right {}, threads not registered {}",
            self.layout_version, self.affinity_lost, self.affinity_reapplied, self.unregistered_threads
        )
    }
}

// ===== impl Machine =====

impl Display for Machine {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let kernel = &self.kernel;
        writeln!(
            f,
            "allowed    {} of {} online",
            self.allowed,
            list(self.online.as_ref())
        )?;
        writeln!(
            f,
            "cores      {}",
            groups(self.cores.iter().map(|core| &core.cpus))
        )?;
        if !self.foreign_siblings.is_empty() {
            writeln!(
                f,
                "lone       {} (the other thread of the core is not ours)",
                self.foreign_siblings
            )?;
        }
        writeln!(
            f,
            "caches     {}",
            groups(self.caches.iter().map(|group| &group.cpus))
        )?;
        let nodes: Vec<String> = self.nodes.iter().map(Node::to_string).collect();
        writeln!(
            f,
            "memory     {}, allowed {}",
            nodes.join(" | "),
            list(self.mems_allowed.as_ref())
        )?;
        let (isolated, nohz_full) = (list(self.isolated.as_ref()), list(self.nohz_full.as_ref()));
        writeln!(f, "isolated   {isolated}, without tick {nohz_full}")?;
        writeln!(f, "cgroup     {}", self.cgroup)?;
        if self.pod.kubernetes {
            let class = self.pod.qos_class.as_deref().unwrap_or("of unknown class");
            writeln!(f, "pod        {class}")?;
        }
        writeln!(
            f,
            "kernel     {}, clock {}, real-time {} of {} µs",
            or_unknown(kernel.release.as_ref()),
            or_unknown(kernel.clock_source.as_ref()),
            or_unknown(kernel.sched_rt_runtime_us.as_ref()),
            or_unknown(kernel.sched_rt_period_us.as_ref()),
        )?;
        self.warnings
            .iter()
            .try_for_each(|warning| writeln!(f, "  ! {warning}"))
    }
}

// ===== impl Node =====

impl Display for Node {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "node {}: {}", self.id, self.cpus)?;
        if self.devices > 0 {
            write!(f, " ({} devices)", self.devices)?;
        }
        Ok(())
    }
}

// ===== impl Cgroup =====

impl Display for Cgroup {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(version) = self.version else {
            return f.write_str("none found");
        };
        let path = or_unknown(self.path.as_ref());
        write!(
            f,
            "v{} {path}, granted {}",
            version.number(),
            list(self.cpuset_effective.as_ref())
        )?;
        if let Some(partition) = &self.partition {
            write!(f, " ({partition})")?;
        }
        match self.quota {
            Some(quota) => write!(f, ", quota {} of {} µs", quota.quota_us, quota.period_us)?,
            None => f.write_str(", no quota")?,
        }
        if let Some(stat) = self.stat {
            let (throttled, periods) = (stat.throttled_periods, stat.periods);
            write!(
                f,
                ", throttled in {throttled} of {periods} periods ({} µs)",
                stat.throttled_us
            )?;
        }
        Ok(())
    }
}

// ===== impl ThreadInfo =====

impl Display for ThreadInfo {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let verdict = if self.pinned_ok { "ok" } else { "LOST" };
        write!(
            f,
            "{} {} tid {}: {verdict}, wanted {}, mask {}, on CPU {}, {}",
            self.role,
            self.name,
            self.tid,
            self.wanted
                .as_ref()
                .map_or_else(|| "any".to_owned(), CpuSet::to_string),
            list(self.actual.as_ref()),
            or_unknown(self.last_cpu.as_ref()),
            self.policy,
        )?;
        if self.priority > 0 {
            write!(f, " {}", self.priority)?;
        }
        write!(
            f,
            ", switches {} own {} forced, moved {}",
            or_unknown(self.voluntary_switches.as_ref()),
            or_unknown(self.involuntary_switches.as_ref()),
            or_unknown(self.migrations.as_ref()),
        )
    }
}

// ===== helpers =====

fn or_unknown<T: Display>(value: Option<&T>) -> String {
    value.map_or_else(|| "?".to_owned(), T::to_string)
}

fn list(set: Option<&CpuSet>) -> String {
    match set {
        None => "?".to_owned(),
        Some(set) if set.is_empty() => "none".to_owned(),
        Some(set) => set.to_string(),
    }
}

/// `4: 0,4 | 1,5 | 2,6 | 3,7`
fn groups<'a>(sets: impl ExactSizeIterator<Item = &'a CpuSet>) -> String {
    let count = sets.len();
    let mut parts: Vec<String> = sets.take(GROUPS_MAX).map(CpuSet::to_string).collect();
    if count > GROUPS_MAX {
        parts.push("...".to_owned());
    }
    format!("{count}: {}", parts.join(" | "))
}
