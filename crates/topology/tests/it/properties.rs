//! Properties of the plan for any machine and any settings.

use proptest::prelude::*;
use tally_topology::{
    AffinityConfig, CacheGroup, Core, CpuQuota, CpuSet, Machine, Mode, Node, Placement, Plan, Role, RoleCpus,
};

/// Maximum number of CPUs of a simulated machine.
const CPUS: u32 = 40;

prop_compose! {
    /// A machine with cores of 1, 2 or 4 hyper-threads, on up to three memory nodes. Some of its CPUs are allowed.
    fn machine()(
        allowed in proptest::collection::btree_set(0..CPUS, 1..24),
        threads in prop_oneof![Just(1_u32), Just(2), Just(4)],
        cpus_per_node in prop_oneof![Just(CPUS), Just(20), Just(16)],
        cpus_per_cache in prop_oneof![Just(CPUS), Just(8)],
        isolated in any::<bool>(),
        quota in proptest::option::of(20_000_u64..2_000_000),
    ) -> Machine {
        let allowed: CpuSet = allowed.into_iter().collect();
        let online: CpuSet = (0..CPUS).collect();
        let group = |first: u32, size: u32| (first..CPUS.min(first.saturating_add(size))).collect::<CpuSet>();
        let groups = |size: u32| (0..CPUS).step_by(size as usize).map(move |first| group(first, size));
        let mut machine = Machine { online: Some(online), allowed: allowed.clone(), ..Machine::default() };
        for siblings in groups(threads).filter(|core| core.intersects(&allowed)) {
            let first = siblings.first().unwrap();
            let cpus = siblings.intersection(&allowed);
            if cpus != siblings {
                machine.foreign_siblings = machine.foreign_siblings.union(&cpus);
            }
            let (node, cache) = (first.checked_div(cpus_per_node), first.checked_div(cpus_per_cache));
            machine.cores.push(Core { cpus, siblings, node, cache: cache.map(|cache| cache as usize) });
        }
        machine.caches = groups(cpus_per_cache)
            .map(|cpus| CacheGroup { cpus: cpus.intersection(&allowed), quiet_cores: 1 })
            .collect();
        machine.nodes = groups(cpus_per_node)
            .zip(0_u32..)
            .map(|(cpus, id)| Node { id, cpus: cpus.intersection(&allowed), devices: 0 })
            .filter(|node| !node.cpus.is_empty())
            .collect();
        machine.isolated = isolated.then(|| allowed.clone());
        machine.cgroup.quota = quota.map(|quota_us| CpuQuota { quota_us, period_us: 100_000 });
        machine
    }
}

fn list() -> impl Strategy<Value = Option<CpuSet>> {
    let ids = proptest::collection::btree_set(0..CPUS, 1..6);
    proptest::option::weighted(0.3, ids.prop_map(|ids| ids.into_iter().collect()))
}

prop_compose! {
    fn settings()(
        mode in prop_oneof![Just(Mode::Auto), Just(Mode::Off), Just(Mode::Fence), Just(Mode::Pin)],
        (exec, wal, net, aux) in (list(), list(), list(), list()),
        net_threads_max in 1..12_usize,
    ) -> AffinityConfig {
        let cpus = RoleCpus { exec, wal, net, aux };
        AffinityConfig { mode, cpus, net_threads_max, ..AffinityConfig::default() }
    }
}

proptest! {
    #[test]
    fn every_role_has_cpus_and_all_of_them_are_allowed(machine in machine(), settings in settings()) {
        let plan = Plan::new(&machine, &settings).unwrap();
        prop_assert!((1..=settings.net_threads_max).contains(&plan.net_threads));
        for role in Role::ALL {
            let cpus = &plan.role(role).cpus;
            prop_assert!(!cpus.is_empty(), "{role}: {}", plan.summary());
            prop_assert!(cpus.is_subset(&machine.allowed), "{role}: {}", plan.summary());
            prop_assert!(!cpus.intersects(&plan.spare), "{role}: {}", plan.summary());
            for index in [0, 1, 7, 1000] {
                let mask = plan.mask(role, index);
                prop_assert_eq!(mask.is_none(), plan.placement == Placement::Off);
                prop_assert!(mask.is_none_or(|mask| !mask.is_empty() && mask.is_subset(&machine.allowed)));
            }
        }
        prop_assert_eq!(Plan::new(&machine, &settings).unwrap(), plan, "the plan depends only on the machine and the settings");
    }

    #[test]
    fn with_two_cpus_the_writer_shares_its_cpu_with_no_role(mut machine in machine()) {
        machine.cgroup.quota = None;
        let settings = AffinityConfig { mode: Mode::Pin, ..AffinityConfig::default() };
        let plan = Plan::new(&machine, &settings).unwrap();
        prop_assume!(machine.allowed.len() >= 2);
        let exec = &plan.role(Role::Exec).cpus;
        prop_assert_eq!(exec.len(), 1);
        for role in [Role::Wal, Role::Net, Role::Aux] {
            prop_assert!(!plan.role(role).cpus.intersects(exec), "{}", plan.summary());
        }
        prop_assert_eq!(plan.net_threads, plan.role(Role::Net).cpus.len());
    }

    #[test]
    fn the_writer_gets_a_lone_sibling_only_without_another_cpu(mut machine in machine()) {
        machine.cgroup.quota = None;
        machine.nodes.clear();
        let settings = AffinityConfig { mode: Mode::Pin, ..AffinityConfig::default() };
        let plan = Plan::new(&machine, &settings).unwrap();
        let own = machine.allowed.difference(&machine.foreign_siblings);
        prop_assume!(machine.allowed.len() >= 2 && !own.is_empty());
        prop_assert!(plan.role(Role::Exec).cpus.is_subset(&own), "{}", plan.summary());
    }
}
