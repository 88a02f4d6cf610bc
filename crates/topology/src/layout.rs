//! The table of roles: which CPUs the roles EXEC, WAL, NET and AUX get on a machine.
//!
//! In this table, *N cores* have one CPU each, and *N cores of 2* have two CPUs (hyper-threads) each. *Last* is the
//! core or CPU with the highest number, *next* is the core or CPU with the second highest number, and *first* is that
//! with the lowest number.
//!
//! | allowed CPUs | EXEC | WAL | NET | AUX |
//! |---|---|---|---|---|
//! | 2 | last | with NET | first | with NET |
//! | 3 | last | with AUX | middle | first |
//! | 4 cores | last | next | the other two | the first, with NET |
//! | 2 cores of 2 | last core, thread 0 | last core, thread 1 | first core | with NET |
//! | 8 cores | last | next | the other 5 | first |
//! | 4 cores of 2 | last core, thread 0 | last core, thread 1 | the other 2 cores | first core |
//! | more cores | as with 8 | as with 8 | at most `net_threads_max` CPUs | 1 core per 16 cores |
//!
//! Cores are sorted by [`Rank`], the best core for EXEC first. EXEC and WAL get cores from the front of this list, AUX
//! gets cores from the back. If EXEC's core has two CPUs, WAL gets the second one: WAL waits in fsync most of the time,
//! and finds the journal's buffer in the L2 cache of that core.

use std::cmp::Reverse;

use super::{
    cpuset::CpuSet,
    detect::{Core, Machine},
    role::Role,
};

/// Minimum number of allowed CPUs of a memory node on which all roles are placed.
const HOME_CPUS_MIN: usize = 4;

/// AUX gets one of every 16 cores, and at least one. Seastar's tool perftune uses the same number for interrupts.
const CORES_PER_AUX_CORE: usize = 16;

/// AUX gets its own cores only if at least this many CPUs are left for NET.
const NET_CPUS_MIN: usize = 3;

/// The reason that is reported for a role without an explicit list, if other roles have lists.
const LEFT_OVER: &str = "the CPUs that explicit lists leave free";

/// The CPUs of one role, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assignment {
    /// The CPUs.
    pub(super) cpus: CpuSet,
    /// The reason.
    pub(super) why: &'static str,
}

/// The CPUs of all roles on one machine.
#[derive(Debug)]
pub(super) struct Layout {
    exec: Assignment,
    wal: Assignment,
    net: Assignment,
    aux: Assignment,
}

/// The cores that have free CPUs, sorted by [`Rank`]. Each core is the list of its free CPUs.
struct Pool {
    cores: Vec<Vec<u32>>,
}

/// The rank of a core for EXEC. The core with the lowest rank is the best. The most important criterion is the first
/// field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Whether this process may use only some of the core's hyper-threads. Another process may run on the others, and
    /// take half of the core's capacity at any time.
    lone: bool,
    /// Whether the core contains CPU 0, on which interrupts and kernel work usually run.
    has_cpu_0: bool,
    /// Rank of the memory node, see [`node_ranks`].
    node: usize,
    /// Number of CPUs of the core. More are better: WAL gets the second CPU, and shares the L2 cache with EXEC.
    threads: Reverse<usize>,
    /// Number of [quiet cores](super::detect::CacheGroup::quiet_cores) that share the core's last-level cache. A quiet
    /// core does not contain CPU 0, and this process may use all its CPUs. More quiet cores are better: more NET
    /// threads then share the cache with EXEC.
    quiet_cores_of_cache: Reverse<usize>,
    /// Keeps the cores of one cache together.
    cache: Reverse<Option<usize>>,
    /// Prefers high CPU numbers.
    first_cpu: Reverse<Option<u32>>,
}

// ===== impl Layout =====

impl Layout {
    /// Places the roles on the allowed CPUs by the table. If only one CPU is allowed, all roles share this CPU.
    pub(super) fn by_table(machine: &Machine, net_threads_max: usize) -> Self {
        let mut pool = Pool::ranked(machine);
        match (pool.cpus(), pool.cores.len()) {
            (2, 1) => Self::two_threads_of_one_core(&mut pool),
            (0..=2, _) => Self::two_cores(&mut pool),
            (3, _) => Self::three_cpus(&mut pool),
            _ => Self::four_or_more_cpus(&mut pool, net_threads_max),
        }
    }

    /// Places the roles that have an explicit list on their lists. Places the other roles on the CPUs that the lists
    /// leave free, in the order of [`Rank`]: EXEC and WAL get the best CPUs, NET and AUX get the others. If too few
    /// CPUs are free, roles share CPUs.
    pub(super) fn with_lists(lists: &[(Role, CpuSet)], machine: &Machine, net_threads_max: usize) -> Self {
        let listed = |role: Role| {
            let list = lists.iter().find(|(owner, _)| *owner == role);
            list.map(|(_, cpus)| assign(cpus.clone(), "explicit list"))
        };
        let taken = lists.iter().fold(CpuSet::new(), |all, (_, list)| all.union(list));
        let mut pool = Pool::ranked(machine).without(&taken);
        if pool.cpus() == 0 {
            return Self::without_free_cpus(listed, &machine.allowed);
        }
        let others_need_cpus = |roles: &[Role]| roles.iter().any(|role| listed(*role).is_none());
        let mut single =
            |role, others| listed(role).unwrap_or_else(|| assign(pool.take_or_share(others), LEFT_OVER));
        let exec = single(Role::Exec, others_need_cpus(&[Role::Wal, Role::Net, Role::Aux]));
        let wal = single(Role::Wal, others_need_cpus(&[Role::Net, Role::Aux]));
        let aux_cores = machine.cores.len().div_ceil(CORES_PER_AUX_CORE);
        let aux = match (listed(Role::Aux), listed(Role::Net)) {
            (Some(aux), _) => aux,
            (None, Some(_)) => assign(pool.take_rest(), LEFT_OVER),
            (None, None) => {
                let (cpus, why) = pool.take_aux(aux_cores);
                assign(cpus, why)
            }
        };
        let net = listed(Role::Net).unwrap_or_else(|| {
            let rest = pool.take_rest_ordered().into_iter().take(net_threads_max);
            assign(rest.collect(), LEFT_OVER)
        });
        Self { exec, wal, net, aux }
    }

    /// Places the roles when the lists leave no CPU free. The roles without a list share all CPUs except those in
    /// EXEC's list. If EXEC's list has all CPUs, the roles without a list share all allowed CPUs.
    fn without_free_cpus(listed: impl Fn(Role) -> Option<Assignment>, allowed: &CpuSet) -> Self {
        let exec = listed(Role::Exec).map(|exec| exec.cpus).unwrap_or_default();
        let without_exec = allowed.difference(&exec);
        let shared = if without_exec.is_empty() {
            allowed
        } else {
            &without_exec
        };
        let assignment = |role| {
            listed(role).unwrap_or_else(|| assign(shared.clone(), "shared: explicit lists leave no CPU free"))
        };
        Self {
            exec: assignment(Role::Exec),
            wal: assignment(Role::Wal),
            net: assignment(Role::Net),
            aux: assignment(Role::Aux),
        }
    }

    /// The assignment of `role`.
    pub(super) const fn role(&self, role: Role) -> &Assignment {
        match role {
            Role::Exec => &self.exec,
            Role::Wal => &self.wal,
            Role::Net => &self.net,
            Role::Aux => &self.aux,
        }
    }

    /// Places the roles on two hyper-threads of one core. EXEC gets the second hyper-thread, because interrupts usually
    /// run on CPU 0.
    fn two_threads_of_one_core(pool: &mut Pool) -> Self {
        let first = pool.take_cpu();
        let exec = pool.take_rest();
        Self::with_rest(exec, "second thread of the only core", &first)
    }

    /// Places the roles on two cores. If there is only one CPU, all roles get this CPU, and the plan does not pin.
    fn two_cores(pool: &mut Pool) -> Self {
        let exec = pool.take_cpu();
        let rest = pool.take_rest();
        let rest = if rest.is_empty() { exec.clone() } else { rest };
        Self::with_rest(exec, "own core", &rest)
    }

    /// Gives EXEC its CPU, and gives the CPUs of `rest` to the three other roles together.
    fn with_rest(exec: CpuSet, why: &'static str, rest: &CpuSet) -> Self {
        let shared = |why| assign(rest.clone(), why);
        Self {
            exec: assign(exec, why),
            wal: shared("with net and aux"),
            net: shared("with wal and aux"),
            aux: shared("with wal and net"),
        }
    }

    /// Places the roles on three CPUs: EXEC and NET get one CPU each, WAL and AUX share one. If EXEC's CPU has a
    /// sibling (another CPU of the same core), WAL gets the sibling, because WAL sleeps most of the time.
    fn three_cpus(pool: &mut Pool) -> Self {
        let split = pool.front_has_sibling();
        let exec = pool.take_cpu();
        let second = pool.take_cpu();
        let third = pool.take_rest();
        let (wal, net) = if split { (second, third) } else { (third, second) };
        let why = if split {
            "sibling of exec, with aux"
        } else {
            "with aux"
        };
        Self {
            exec: assign(exec, "own CPU"),
            wal: assign(wal.clone(), why),
            net: assign(net, "own CPU"),
            aux: assign(wal, "with wal"),
        }
    }

    /// Places the roles on four or more CPUs.
    fn four_or_more_cpus(pool: &mut Pool, net_threads_max: usize) -> Self {
        let cores = pool.cores.len();
        let (exec, wal, split) = pool.take_writers();
        let (aux, aux_why) = pool.take_aux(cores.div_ceil(CORES_PER_AUX_CORE));
        let net = pool.take_rest_ordered().into_iter().take(net_threads_max);
        let (exec_why, wal_why) = if split {
            ("thread 0 of its core", "sibling of exec")
        } else {
            ("own core", "own core")
        };
        Self {
            exec: assign(exec, exec_why),
            wal: assign(wal, wal_why),
            net: assign(net.collect(), "the other cores, nearest to exec first"),
            aux: assign(aux, aux_why),
        }
    }
}

// ===== impl Pool =====

impl Pool {
    /// Returns the cores of the home node, sorted by [`Rank`]. Returns all cores if there is no home node.
    fn ranked(machine: &Machine) -> Self {
        let node_ranks = node_ranks(machine);
        let home = home_node(machine, &node_ranks);
        let mut ranked: Vec<_> = machine
            .cores
            .iter()
            .filter(|core| home.is_none() || core.node == home)
            .map(|core| (rank(core, machine, &node_ranks), core))
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        Self {
            cores: ranked
                .into_iter()
                .map(|(_, core)| core.cpus.iter().collect())
                .collect(),
        }
    }

    /// Returns the pool without the CPUs `taken`.
    fn without(mut self, taken: &CpuSet) -> Self {
        for core in &mut self.cores {
            core.retain(|cpu| !taken.contains(*cpu));
        }
        self.cores.retain(|core| !core.is_empty());
        self
    }

    /// Takes the first CPU. If the pool has only one CPU and `others` is true, the CPU also stays in the pool, because
    /// other roles need it.
    fn take_or_share(&mut self, others: bool) -> CpuSet {
        let last = self.cpus() == 1 && others;
        if last {
            return self.cores.iter().flatten().copied().collect();
        }
        self.take_cpu()
    }

    fn cpus(&self) -> usize {
        self.cores.iter().map(Vec::len).sum()
    }

    fn front_has_sibling(&self) -> bool {
        self.cores.first().is_some_and(|core| core.len() > 1)
    }

    /// Takes the first CPU of the first core. The other CPUs of the core stay at the front. Returns an empty set if the
    /// pool is empty.
    fn take_cpu(&mut self) -> CpuSet {
        let Some(core) = self.cores.first_mut() else {
            return CpuSet::new();
        };
        let taken: CpuSet = core.drain(..1.min(core.len())).collect();
        if core.is_empty() {
            self.cores.remove(0);
        }
        taken
    }

    /// Takes the CPUs for EXEC and WAL. Also returns whether both CPUs belong to the same core. The third and later
    /// CPUs of this core return to the pool only if there is no other core; otherwise no role uses them.
    fn take_writers(&mut self) -> (CpuSet, CpuSet, bool) {
        if !self.front_has_sibling() {
            return (self.take_cpu(), self.take_cpu(), false);
        }
        let mut core = self.cores.remove(0).into_iter().map(CpuSet::single);
        let exec = core.next().unwrap_or_default();
        let wal = core.next().unwrap_or_default();
        if self.cores.is_empty() {
            self.cores = core.map(|cpu| cpu.iter().collect()).collect();
        }
        (exec, wal, true)
    }

    /// Takes `cores` cores from the back for AUX. If fewer than [`NET_CPUS_MIN`] CPUs would be left for NET, AUX shares
    /// the last core with NET instead.
    fn take_aux(&mut self, cores: usize) -> (CpuSet, &'static str) {
        let keep = self.cores.len().saturating_sub(cores);
        let net_cpus: usize = self.cores.iter().take(keep).map(Vec::len).sum();
        if net_cpus >= NET_CPUS_MIN {
            let aux = self.cores.drain(keep..).flatten().collect();
            return (aux, "one core per 16, those that suit exec least");
        }
        let last = self.cores.last().into_iter().flatten().copied().collect();
        (last, "with net's last core")
    }

    fn take_rest(&mut self) -> CpuSet {
        self.take_rest_ordered().into_iter().collect()
    }

    fn take_rest_ordered(&mut self) -> Vec<u32> {
        self.cores.drain(..).flatten().collect()
    }
}

// ===== helpers =====

/// The rank of a core.
fn rank(core: &Core, machine: &Machine, node_ranks: &[u32]) -> Rank {
    let node = node_ranks.iter().position(|id| Some(*id) == core.node);
    Rank {
        lone: core.is_lone(),
        has_cpu_0: core.cpus.contains(0),
        node: node.unwrap_or(usize::MAX),
        threads: Reverse(core.cpus.len()),
        quiet_cores_of_cache: Reverse(core.cache.map_or(0, |cache| machine.quiet_cores(cache))),
        cache: Reverse(core.cache),
        first_cpu: Reverse(core.cpus.first()),
    }
}

const fn assign(cpus: CpuSet, why: &'static str) -> Assignment {
    Assignment { cpus, why }
}

/// Returns the memory nodes, the best first. The best node has the most storage and network devices; if several have
/// the same number, the best one has the most allowed CPUs.
fn node_ranks(machine: &Machine) -> Vec<u32> {
    let mut nodes: Vec<_> = machine.nodes.iter().collect();
    nodes.sort_by_key(|node| (Reverse((node.devices, node.cpus.len())), node.id));
    nodes.into_iter().map(|node| node.id).collect()
}

/// Returns the home node, on which all roles are placed: the best memory node. Returns `None` if there is only one
/// node, or if the best node has fewer than [`HOME_CPUS_MIN`] allowed CPUs.
fn home_node(machine: &Machine, node_ranks: &[u32]) -> Option<u32> {
    let home = *node_ranks.first()?;
    let node = machine.nodes.iter().find(|node| node.id == home)?;
    let several = node_ranks.len() > 1;
    (several && node.cpus.len() >= HOME_CPUS_MIN).then_some(home)
}
