//! The table of role placement: which CPUs EXEC, WAL, NET and AUX get on a machine of any shape.
//!
//! | allowed CPUs | EXEC | WAL | NET | AUX |
//! |---|---|---|---|---|
//! | 2 | last | with NET | first | with NET |
//! | 3 | last | with AUX | middle | first |
//! | 4 cores | last | next | the other two | with NET's last |
//! | 2 cores of 2 | last core, thread 0 | thread 1 | first core | with NET |
//! | 8 cores | last | next | 5 | the first |
//! | 4 cores of 2 | last core, thread 0 | thread 1 | 2 cores | first core |
//! | more | as 8 | | capped | 1 core per 16 |
//!
//! Cores are ranked, the best for EXEC first. EXEC and WAL get cores from the front of the list, AUX from the back. WAL shares EXEC's
//! core deliberately: WAL waits in fsync most of the time, and finds the log buffer in the L2 cache of that core.

use std::cmp::Reverse;

use super::{
    cpuset::CpuSet,
    detect::{Core, Machine},
    role::Role,
};

/// Minimum number of allowed CPUs for a memory node to hold all roles.
const HOME_CPUS_MIN: usize = 4;

/// AUX gets one core for this many cores. The figure is that of Seastar's perftune for interrupts.
const CORES_PER_AUX_CORE: usize = 16;

/// AUX gets its own cores only if at least this many CPUs are left for NET.
const NET_CPUS_MIN: usize = 3;

/// The reason for the CPUs of a role without a list, if other roles have lists.
const LEFT_OVER: &str = "what explicit lists leave";

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

/// Cores with free CPUs, the best first. A core is the list of its free CPUs.
struct Pool {
    cores: Vec<Vec<u32>>,
}

/// The rank of a core for EXEC: the lowest is the best. The most important criterion comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Whether another process may use the other hyper-thread, and so take half of the core's capacity at any time.
    lone: bool,
    /// Whether the core contains CPU 0, on which interrupts and kernel work usually run.
    has_cpu_0: bool,
    /// Rank of the memory node.
    node: usize,
    /// Number of CPUs: the second one is for WAL, which then shares the L2 cache with EXEC.
    threads: Reverse<usize>,
    /// Number of quiet cores at the same cache: the more there are, the more NET threads share the cache with EXEC.
    quiet_cores_of_cache: Reverse<usize>,
    /// Keeps the cores of one cache together.
    cache: Reverse<Option<usize>>,
    /// Prefers high CPU numbers.
    first_cpu: Reverse<Option<u32>>,
}

// ===== impl Layout =====

impl Layout {
    /// Places the roles on the allowed CPUs. With a single CPU, all roles share it.
    pub(super) fn of(machine: &Machine, net_threads_max: usize) -> Self {
        let mut pool = Pool::ranked(machine);
        match (pool.cpus(), pool.cores.len()) {
            (2, 1) => Self::one_core_of_two(&mut pool),
            (0..=2, _) => Self::two(&mut pool),
            (3, _) => Self::three(&mut pool),
            _ => Self::many(&mut pool, net_threads_max),
        }
    }

    /// Places the roles without an explicit list on the CPUs that the `lists` leave free, by the same ranking: EXEC and WAL first, NET
    /// and AUX on the rest. If there are too few CPUs, roles share them.
    pub(super) fn beside(lists: &[(Role, CpuSet)], machine: &Machine, net_threads_max: usize) -> Self {
        let listed = |role: Role| {
            let list = lists.iter().find(|(owner, _)| *owner == role);
            list.map(|(_, cpus)| assign(cpus.clone(), "explicit list"))
        };
        let taken = lists.iter().fold(CpuSet::new(), |all, (_, list)| all.union(list));
        let mut pool = Pool::ranked(machine).without(&taken);
        if pool.cpus() == 0 {
            return Self::without_free_cpus(listed, &machine.allowed);
        }
        let behind = |roles: &[Role]| roles.iter().any(|role| listed(*role).is_none());
        let mut single =
            |role, behind| listed(role).unwrap_or_else(|| assign(pool.take_or_share(behind), LEFT_OVER));
        let exec = single(Role::Exec, behind(&[Role::Wal, Role::Net, Role::Aux]));
        let wal = single(Role::Wal, behind(&[Role::Net, Role::Aux]));
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

    /// The layout if the lists leave no CPU free: the other roles share all CPUs except EXEC's listed ones.
    fn without_free_cpus(listed: impl Fn(Role) -> Option<Assignment>, allowed: &CpuSet) -> Self {
        let exec = listed(Role::Exec).map(|exec| exec.cpus).unwrap_or_default();
        let beside_exec = allowed.difference(&exec);
        let shared = if beside_exec.is_empty() {
            allowed
        } else {
            &beside_exec
        };
        let of = |role| listed(role).unwrap_or_else(|| assign(shared.clone(), "shared: lists leave no CPU"));
        Self {
            exec: of(Role::Exec),
            wal: of(Role::Wal),
            net: of(Role::Net),
            aux: of(Role::Aux),
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

    /// Two hyper-threads of one core: EXEC gets the second one, because interrupts run on CPU 0.
    fn one_core_of_two(pool: &mut Pool) -> Self {
        let first = pool.take_cpu();
        let exec = pool.take_rest();
        Self::with_rest(exec, "second thread of the only core", &first)
    }

    /// Two cores, or a single CPU, with which the plan does not pin.
    fn two(pool: &mut Pool) -> Self {
        let exec = pool.take_cpu();
        let rest = pool.take_rest();
        let rest = if rest.is_empty() { exec.clone() } else { rest };
        Self::with_rest(exec, "own core", &rest)
    }

    fn with_rest(exec: CpuSet, why: &'static str, rest: &CpuSet) -> Self {
        let shared = |why| assign(rest.clone(), why);
        Self {
            exec: assign(exec, why),
            wal: shared("with net and aux"),
            net: shared("with wal and aux"),
            aux: shared("with wal and net"),
        }
    }

    /// Three CPUs: EXEC, NET, and WAL with AUX. If EXEC's CPU has a sibling, WAL gets the sibling, because it sleeps most of the time.
    fn three(pool: &mut Pool) -> Self {
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

    fn many(pool: &mut Pool, net_threads_max: usize) -> Self {
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
    /// The cores of the home node, or all cores if there is no home node, sorted by [`Rank`].
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

    /// Removes the CPUs `taken`.
    fn without(mut self, taken: &CpuSet) -> Self {
        for core in &mut self.cores {
            core.retain(|cpu| !taken.contains(*cpu));
        }
        self.cores.retain(|core| !core.is_empty());
        self
    }

    /// Takes the first CPU. The last CPU stays in the pool if `others` still need it.
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

    /// Takes the first CPU of the first core. Its siblings stay at the front. Empty if the pool is empty.
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

    /// Takes the CPUs for EXEC and WAL, and returns whether they are siblings. The third and later CPUs of their core stay unused
    /// unless there is no other core.
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

    /// Takes cores from the back for AUX. AUX shares NET's last core if too few CPUs would be left for NET.
    fn take_aux(&mut self, cores: usize) -> (CpuSet, &'static str) {
        let keep = self.cores.len().saturating_sub(cores);
        let net_cpus: usize = self.cores.iter().take(keep).map(Vec::len).sum();
        if net_cpus >= NET_CPUS_MIN {
            let aux = self.cores.drain(keep..).flatten().collect();
            return (aux, "one core per 16, from the least quiet");
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

/// Memory nodes, the best first: by the number of storage and network devices, then by the number of allowed CPUs.
fn node_ranks(machine: &Machine) -> Vec<u32> {
    let mut nodes: Vec<_> = machine.nodes.iter().collect();
    nodes.sort_by_key(|node| (Reverse((node.devices, node.cpus.len())), node.id));
    nodes.into_iter().map(|node| node.id).collect()
}

/// The node that holds all roles: the best one, if there are several and it has enough CPUs.
fn home_node(machine: &Machine, node_ranks: &[u32]) -> Option<u32> {
    let home = *node_ranks.first()?;
    let node = machine.nodes.iter().find(|node| node.id == home)?;
    let several = node_ranks.len() > 1;
    (several && node.cpus.len() >= HOME_CPUS_MIN).then_some(home)
}
