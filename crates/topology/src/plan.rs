//! [`Plan`]: the CPUs of each role, computed from the machine and the settings alone.

use std::fmt;

use super::{
    config::{AffinityConfig, Mode},
    cpuset::CpuSet,
    detect::{Core, Machine},
    error::AffinityError,
    layout::{Assignment, Layout},
    role::Role,
    warning::{Figures, Warning, WarningCode},
};

/// Minimum number of CPUs in mode `strict`. With two CPUs, EXEC does not share its CPU with another role.
pub const STRICT_CPUS_MIN: usize = 2;

/// Minimum number of CPUs with which `auto` pins threads if the process may use the whole machine. With fewer CPUs,
/// NET, WAL and AUX would share one CPU while EXEC's CPU is mostly idle. Any other process on the shared CPU would
/// delay all three roles. docs/pinning.md has the measurement.
pub const AUTO_CPUS_MIN: usize = 4;

/// How the masks of threads are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Masks are not changed.
    Off,
    /// Every thread gets all allowed CPUs.
    Fence,
    /// Each EXEC, WAL and NET thread gets one CPU. AUX threads get the CPUs of AUX.
    Pin,
}

/// The CPUs of one role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolePlan {
    /// The role.
    pub role: Role,
    /// The CPUs of the role's threads.
    pub cpus: CpuSet,
    /// The reason for these CPUs.
    pub why: &'static str,
}

/// The CPUs of every thread, and the reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The configured mode.
    pub requested: Mode,
    /// How the masks are set.
    pub placement: Placement,
    /// The reason for this placement.
    pub why: String,
    /// CPUs that the process may use.
    pub allowed: CpuSet,
    /// The roles in the order of [`Role::ALL`].
    pub roles: [RolePlan; 4],
    /// Allowed CPUs without a role.
    pub spare: CpuSet,
    /// Memory node of EXEC; `None` if threads are not pinned or the node is unknown. A thread on this node should be
    /// the first to write to the memory that EXEC uses.
    pub home_node: Option<u32>,
    /// Number of NET threads to start.
    pub net_threads: usize,
    /// Whether NET or AUX runs on the physical core of EXEC.
    pub shared_core: bool,
    /// Whether EXEC may poll instead of blocking. EXEC may poll only if NET and AUX do not use its core, no other
    /// process can use its core, WAL does not use its CPU, no quota limits the process, and `SCHED_FIFO` is off.
    pub spin_allowed: bool,
    /// Warnings for the operator.
    pub warnings: Vec<Warning>,
    /// Whether each AUX thread gets a single CPU. This is needed on isolated CPUs: the kernel does not balance load
    /// between them, so it would run all AUX threads on the first of them.
    single_cpu_aux: bool,
}

// ===== impl Placement =====

impl Placement {
    /// Returns the stable name: `off`, `fence` or `pin`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Fence => "fence",
            Self::Pin => "pin",
        }
    }
}

// ===== impl Plan =====

impl Plan {
    /// Makes the plan for `machine` under the settings `config`.
    ///
    /// # Errors
    /// [`AffinityError::InvalidConfig`] if a setting is out of bounds. [`AffinityError::CpusNotAllowed`] and
    /// [`AffinityError::InsufficientCpus`] only in mode `strict`; in the other modes, these faults cause warnings.
    pub fn new(machine: &Machine, config: &AffinityConfig) -> Result<Self, AffinityError> {
        config.validate()?;
        let allowed = machine.allowed.len();
        if config.mode == Mode::Strict && allowed < STRICT_CPUS_MIN {
            return Err(AffinityError::InsufficientCpus {
                allowed,
                needed: STRICT_CPUS_MIN,
            });
        }
        // A list that can't be used must not decide about the placement, so the lists are checked first.
        let (lists, ignored) = usable_lists(machine, config)?;
        let (placement, why) = decide(machine, config, &lists);
        let mut plan = Self::unpinned(machine, config, placement, why);
        plan.warnings = ignored;
        if placement == Placement::Pin {
            plan.pin(machine, config, &lists);
        } else if !lists.is_empty() {
            plan.warn(
                WarningCode::ListIgnored,
                format!("explicit CPU lists are not used: {}", plan.why),
            );
        }
        plan.add_warnings(machine, config);
        Ok(plan)
    }

    /// Returns the plan of `role`.
    #[must_use]
    pub const fn role(&self, role: Role) -> &RolePlan {
        let [exec, wal, net, aux] = &self.roles;
        match role {
            Role::Exec => exec,
            Role::Wal => wal,
            Role::Net => net,
            Role::Aux => aux,
        }
    }

    /// Returns the mask of thread `index` of `role`; `None` if masks are not changed.
    ///
    /// If a role has more threads than CPUs, threads share CPUs, and [`RoleInfo::oversubscribed`](super::RoleInfo)
    /// reports this.
    #[must_use]
    pub fn mask(&self, role: Role, index: usize) -> Option<CpuSet> {
        let cpus = &self.role(role).cpus;
        let one_each = match role {
            Role::Exec | Role::Wal | Role::Net => true,
            Role::Aux => self.single_cpu_aux,
        };
        match self.placement {
            Placement::Off => None,
            Placement::Fence => Some(self.allowed.clone()),
            Placement::Pin if one_each => {
                let nth = index.checked_rem(cpus.len())?;
                cpus.iter().nth(nth).map(CpuSet::single)
            }
            Placement::Pin => Some(cpus.clone()),
        }
    }

    /// Returns the plan in one line, such as `pin exec=3 wal=2 net=0-1(2) aux=0 spare=`.
    #[must_use]
    pub fn summary(&self) -> String {
        let [exec, wal, net, aux] = &self.roles;
        let mut line = format!(
            "{} exec={} wal={} net={}({}) aux={} spare={}",
            self.placement.as_str(),
            exec.cpus,
            wal.cpus,
            net.cpus,
            self.net_threads,
            aux.cpus,
            self.spare
        );
        if self.shared_core {
            line.push_str(" shared_core");
        }
        if self.spin_allowed {
            line.push_str(" spin");
        }
        line
    }

    /// Returns this plan with a warning that the plan stays in force, because the machine has changed and the mode
    /// `strict` allows no plan for the new machine. `error` is the reason.
    pub(super) fn kept_in_force(&self, error: &AffinityError) -> Self {
        tracing::warn!(%error, "the machine has changed, and mode strict allows no plan for it; the old plan stays in force");
        let mut plan = self.clone();
        plan.warnings
            .retain(|warning| warning.code != WarningCode::PlanKept);
        plan.warn(WarningCode::PlanKept, error.to_string());
        plan
    }

    /// Makes a plan in which every role has all allowed CPUs.
    fn unpinned(machine: &Machine, config: &AffinityConfig, placement: Placement, why: String) -> Self {
        let roles = Role::ALL.map(|role| RolePlan {
            role,
            cpus: machine.allowed.clone(),
            why: "all allowed CPUs",
        });
        Self {
            requested: config.mode,
            placement,
            why,
            allowed: machine.allowed.clone(),
            roles,
            spare: CpuSet::new(),
            home_node: None,
            net_threads: unpinned_net_threads(machine).min(config.net_threads_max),
            shared_core: false,
            spin_allowed: false,
            warnings: Vec::new(),
            single_cpu_aux: false,
        }
    }

    /// Places the roles by the explicit lists and, for roles without a list, by the table of roles.
    fn pin(&mut self, machine: &Machine, config: &AffinityConfig, lists: &[(Role, CpuSet)]) {
        let layout = if lists.is_empty() {
            Layout::by_table(machine, config.net_threads_max)
        } else {
            Layout::with_lists(lists, machine, config.net_threads_max)
        };
        for entry in &mut self.roles {
            let Assignment { cpus, why } = layout.role(entry.role).clone();
            (entry.cpus, entry.why) = (cpus, why);
        }
        self.warn_of_overlaps(lists);
        self.cap_net(config.net_threads_max);
        let used = self
            .roles
            .iter()
            .fold(CpuSet::new(), |all, role| all.union(&role.cpus));
        self.spare = machine.allowed.difference(&used);
        self.single_cpu_aux = machine.isolated_allowed().intersects(&self.role(Role::Aux).cpus);
    }

    fn warn_of_overlaps(&mut self, lists: &[(Role, CpuSet)]) {
        for (index, (role, list)) in lists.iter().enumerate() {
            for (other, other_list) in lists.iter().skip(index.saturating_add(1)) {
                let common = list.intersection(other_list);
                if !common.is_empty() {
                    self.warn_with(
                        WarningCode::Overlap,
                        of_cpus(&common),
                        format!("{role} and {other} both list CPU {common}"),
                    );
                }
            }
        }
    }

    /// Limits NET to one thread per CPU and to `threads_max` threads. Uses only the first CPUs of an explicit list that
    /// is longer.
    fn cap_net(&mut self, threads_max: usize) {
        let [_, _, net, _] = &mut self.roles;
        let wanted = net.cpus.len();
        net.cpus = net.cpus.iter().take(threads_max).collect();
        self.net_threads = net.cpus.len();
        if wanted > threads_max {
            self.warn_with(
                WarningCode::ListIgnored,
                Figures {
                    listed: Some(wanted),
                    limit: Some(threads_max),
                    ..Figures::default()
                },
                format!("affinity.cpus.net has {wanted} CPUs, but affinity.net_threads_max allows only {threads_max}"),
            );
        }
    }

    /// Derives the flags and the warnings from the finished placement.
    fn add_warnings(&mut self, machine: &Machine, config: &AffinityConfig) {
        if machine.allowed.len() == 1 {
            self.warn(
                WarningCode::SingleCpu,
                "all roles share one CPU; latency under load depends on the scheduler",
            );
        }
        if self.placement == Placement::Fence
            && config.mode == Mode::Auto
            && machine.allowed.len() > 1
            && let Some(why) = sharing_reason(machine)
        {
            let mut figures = quota_figures(machine);
            figures.allowed = Some(machine.allowed.clone());
            self.warn_with(WarningCode::SharedCpus, figures, why);
        }
        self.add_fifo_warnings(machine, config);
        if self.placement != Placement::Pin {
            let isolated = machine.isolated_allowed();
            if !isolated.is_empty() {
                self.warn_with(
                    WarningCode::Isolated,
                    of_cpus(&isolated),
                    format!("CPUs {isolated} are isolated: unpinned threads stay on one of them"),
                );
            }
            return;
        }
        self.add_pin_warnings(machine, config);
    }

    fn add_fifo_warnings(&mut self, machine: &Machine, config: &AffinityConfig) {
        if !config.fifo.enabled {
            return;
        }
        if machine.cgroup.rt_runtime_us == Some(0) {
            self.warn(
                WarningCode::FifoRefused,
                "the control group has no real-time budget (cpu.rt_runtime_us = 0)",
            );
        }
        let kernel = &machine.kernel;
        if let (Some(runtime), Some(period)) = (kernel.sched_rt_runtime_us, kernel.sched_rt_period_us)
            && (0..period).contains(&runtime)
        {
            self.warn_with(
                WarningCode::RtThrottling,
                Figures {
                    time_us: u64::try_from(runtime).ok(),
                    period_us: u64::try_from(period).ok(),
                    ..Figures::default()
                },
                format!("a busy real-time thread gets {runtime} µs of each {period} µs"),
            );
        }
    }

    fn add_pin_warnings(&mut self, machine: &Machine, config: &AffinityConfig) {
        let exec = self.role(Role::Exec).cpus.clone();
        let on_exec_core = |core: &&Core| core.cpus.intersects(&exec);
        let exec_cores = machine
            .cores
            .iter()
            .filter(on_exec_core)
            .fold(CpuSet::new(), |all, core| all.union(&core.cpus));
        let busy = self.role(Role::Net).cpus.union(&self.role(Role::Aux).cpus);
        self.home_node = machine.cores.iter().find(on_exec_core).and_then(|core| core.node);
        self.shared_core = busy.intersects(&exec_cores);
        if self.shared_core {
            self.warn_with(
                WarningCode::SharedCore,
                of_cpus(&exec_cores),
                format!("network or background threads share the core of exec (CPUs {exec_cores})"),
            );
        }
        let foreign = machine.foreign_siblings.intersection(&exec);
        if !foreign.is_empty() {
            self.warn_with(
                WarningCode::ForeignSibling,
                of_cpus(&foreign),
                format!("the other hyper-thread of exec's CPU {foreign} is not allowed"),
            );
        }
        if let Some(quota) = machine.cgroup.quota {
            self.warn_with(
                WarningCode::Quota,
                quota_figures(machine),
                format!(
                    "a quota of {} µs per {} µs can stop pinned threads",
                    quota.quota_us, quota.period_us
                ),
            );
        }
        self.add_memory_warnings(machine);
        self.spin_allowed = !self.shared_core
            && foreign.is_empty()
            && machine.cgroup.quota.is_none()
            && !config.fifo.enabled
            && !self.role(Role::Wal).cpus.intersects(&exec);
    }

    /// Warns if EXEC and AUX are on different memory nodes. Linux allocates a page on the node of the thread that first
    /// writes to the page. AUX opens the store and is the first to write to the store's memory; EXEC extends
    /// the store.
    fn add_memory_warnings(&mut self, machine: &Machine) {
        let node = |role| {
            let cpu = self.role(role).cpus.first()?;
            machine.node_of(cpu)
        };
        if let (Some(exec), Some(aux)) = (node(Role::Exec), node(Role::Aux))
            && exec != aux
            && machine.nodes.len() > 1
        {
            self.warn_with(
                WarningCode::RemoteMemory,
                Figures {
                    exec_node: Some(exec),
                    aux_node: Some(aux),
                    ..Figures::default()
                },
                format!(
                    "exec is on memory node {exec}, but aux, which opens the store, is on memory node {aux}"
                ),
            );
        }
    }

    fn warn(&mut self, code: WarningCode, detail: impl Into<String>) {
        self.warn_with(code, Figures::default(), detail);
    }

    fn warn_with(&mut self, code: WarningCode, figures: Figures, detail: impl Into<String>) {
        self.warnings.push(Warning::new(code, detail).with(figures));
    }
}

impl fmt::Display for Plan {
    /// Writes the placement and its reason, one line per role, and the warnings. The command `tally topology` prints
    /// this text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (placement, requested) = (self.placement.as_str(), self.requested.as_str());
        writeln!(f, "{placement} (affinity.mode = {requested}): {}", self.why)?;
        for entry in &self.roles {
            let RolePlan { role, cpus, why } = entry;
            writeln!(f, "  {role:<5} {:<12} {why}", cpus.to_string())?;
        }
        if !self.spare.is_empty() {
            writeln!(f, "  spare {}", self.spare)?;
        }
        for warning in &self.warnings {
            writeln!(f, "  ! {warning}")?;
        }
        Ok(())
    }
}

// ===== helpers =====

/// The roles that have an explicit list of CPUs, each with its list.
type ExplicitLists = Vec<(Role, CpuSet)>;

/// Returns the explicit lists that can be used, and a warning for each list that has a CPU that is not allowed. In mode
/// `strict`, such a list is an error.
fn usable_lists(
    machine: &Machine,
    config: &AffinityConfig,
) -> Result<(ExplicitLists, Vec<Warning>), AffinityError> {
    let (mut lists, mut ignored) = (Vec::new(), Vec::new());
    let allowed = &machine.allowed;
    for role in Role::ALL {
        let Some(list) = config.cpus.get(role) else {
            continue;
        };
        let offending = list.difference(allowed);
        if offending.is_empty() {
            lists.push((role, list.clone()));
            continue;
        }
        let field = role.cpus_field();
        if config.mode == Mode::Strict {
            return Err(AffinityError::CpusNotAllowed {
                field,
                list: list.clone(),
                offending,
                allowed: allowed.clone(),
            });
        }
        let detail = format!(
            "{field} = {list}: CPUs {offending} are not allowed (allowed: {allowed}), so the list is ignored"
        );
        ignored.push(Warning::new(WarningCode::ListIgnored, detail).with(Figures {
            cpus: Some(offending),
            allowed: Some(allowed.clone()),
            ..Figures::default()
        }));
    }
    Ok((lists, ignored))
}

/// Returns the figures of a warning about `cpus`.
fn of_cpus(cpus: &CpuSet) -> Figures {
    Figures {
        cpus: Some(cpus.clone()),
        ..Figures::default()
    }
}

/// Returns the figures of the CPU quota. Returns no figures without a quota.
fn quota_figures(machine: &Machine) -> Figures {
    let quota = machine.cgroup.quota;
    Figures {
        time_us: quota.map(|quota| quota.quota_us),
        period_us: quota.map(|quota| quota.period_us),
        ..Figures::default()
    }
}

/// Chooses the placement, and states the reason. `lists` are the explicit lists that can be used.
fn decide(machine: &Machine, config: &AffinityConfig, lists: &[(Role, CpuSet)]) -> (Placement, String) {
    let allowed = machine.allowed.len();
    let because = |placement, why: &str| (placement, why.to_owned());
    match config.mode {
        Mode::Off => because(Placement::Off, "switched off"),
        _ if allowed == 1 => because(Placement::Fence, "degraded: single_cpu"),
        Mode::Fence => because(Placement::Fence, "as configured"),
        Mode::Pin | Mode::Strict => because(Placement::Pin, "as configured"),
        Mode::Auto if !lists.is_empty() => {
            let roles: Vec<String> = lists.iter().map(|(role, _)| role.to_string()).collect();
            let why = format!("explicit CPU lists for {}", roles.join(", "));
            (Placement::Pin, why)
        }
        // If threads were not pinned, the kernel would leave them all on one isolated CPU. That is worse than sharing
        // CPUs with other processes.
        Mode::Auto if !machine.isolated_allowed().is_empty() => because(
            Placement::Pin,
            "isolated CPUs, between which the kernel does not balance load",
        ),
        Mode::Auto => match sharing_reason(machine) {
            Some(why) => (Placement::Fence, why),
            None if machine.is_whole_machine() && allowed < AUTO_CPUS_MIN => because(
                Placement::Fence,
                "fewer than 4 CPUs, the whole machine: the scheduler uses them better",
            ),
            None if machine.is_whole_machine() => because(Placement::Pin, "the whole machine, no quota"),
            None => because(Placement::Pin, "a part of the machine, no binding quota"),
        },
    }
}

/// Returns the reason to assume that other processes also use the allowed CPUs, and could be pinned to the same CPUs.
/// Returns `None` if there is no reason.
fn sharing_reason(machine: &Machine) -> Option<String> {
    let whole = machine.is_whole_machine();
    if let Some(quota) = machine.cgroup.quota
        && (whole || machine.quota_binds())
    {
        return Some(format!(
            "a quota of {} thousandths of a CPU over {} allowed CPUs: they are shared",
            quota.millicpus(),
            machine.allowed.len()
        ));
    }
    if let Some(why) = machine.pod.shares_because() {
        return Some(why);
    }
    if machine.pod.kubernetes && whole {
        return Some("a pod without CPU limit on the whole machine: its CPUs are shared".to_owned());
    }
    None
}

/// Returns the number of NET threads if threads are not pinned. This is the number of allowed CPUs, or the quota if it
/// is smaller, without one CPU for EXEC and one for WAL. The result is at least 1.
fn unpinned_net_threads(machine: &Machine) -> usize {
    let budget = machine.cgroup.quota.map_or(usize::MAX, |quota| {
        usize::try_from(quota.millicpus().div_ceil(1000)).unwrap_or(usize::MAX)
    });
    machine.allowed.len().min(budget).saturating_sub(2).max(1)
}
