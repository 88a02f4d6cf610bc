//! Tests of the table of roles. Each test makes plans for simulated machines, and compares each plan as one line.

use tally_topology::{
    AffinityConfig, AffinityError, CpuSet, Mode, Placement, Plan, PodHints, RoleCpus, WarningCode,
};

use super::support::tree::{Tree, set};

fn codes(plan: &Plan) -> Vec<WarningCode> {
    plan.warnings.iter().map(|warning| warning.code).collect()
}

fn config(mode: Mode) -> AffinityConfig {
    AffinityConfig {
        mode,
        ..AffinityConfig::default()
    }
}

/// Four cores of two CPUs each. The process may use one CPU of the first core, and both CPUs of the other cores.
fn with_lone_sibling() -> Tree {
    Tree::smt(4).mask("1,5,2,6,3")
}

#[test]
fn one_cpu_is_a_warning() {
    let plan = Tree::cores(1).plan();
    assert_eq!(plan.summary(), "fence exec=0 wal=0 net=0(1) aux=0 spare=");
    assert_eq!(plan.why, "degraded: single_cpu");
    assert_eq!(codes(&plan), [WarningCode::SingleCpu]);
}

#[test]
fn two_cores() {
    let plan = Tree::cores(2).plan_with(&config(Mode::Pin));
    assert_eq!(plan.summary(), "pin exec=1 wal=0 net=0(1) aux=0 spare= spin");
    assert_eq!(codes(&plan), []);
}

#[test]
fn auto_does_not_pin_on_a_small_machine() {
    for (tree, summary) in [
        (Tree::cores(2), "fence exec=0-1 wal=0-1 net=0-1(1) aux=0-1 spare="),
        (Tree::smt(1), "fence exec=0-1 wal=0-1 net=0-1(1) aux=0-1 spare="),
        (Tree::cores(3), "fence exec=0-2 wal=0-2 net=0-2(1) aux=0-2 spare="),
    ] {
        let plan = tree.plan();
        assert_eq!(plan.summary(), summary);
        assert_eq!(codes(&plan), [], "no warning");
    }
    // On a part of a machine, `auto` pins even with two CPUs.
    let plan = Tree::cores(8).mask("2-3").plan();
    assert_eq!(plan.summary(), "pin exec=3 wal=2 net=2(1) aux=2 spare= spin");
}

#[test]
fn two_hyper_threads_of_one_core() {
    let plan = Tree::smt(1).plan_with(&config(Mode::Pin));
    assert_eq!(
        plan.summary(),
        "pin exec=1 wal=0 net=0(1) aux=0 spare= shared_core"
    );
    assert_eq!(codes(&plan), [WarningCode::SharedCore]);
}

#[test]
fn three_cores() {
    let plan = Tree::cores(3).plan_with(&config(Mode::Pin));
    assert_eq!(plan.summary(), "pin exec=2 wal=0 net=1(1) aux=0 spare= spin");
}

#[test]
fn a_core_of_two_and_a_lone_sibling() {
    let plan = Tree::smt(4).mask("1-2,5").plan();
    assert_eq!(
        plan.summary(),
        "pin exec=1 wal=5 net=2(1) aux=5 spare= shared_core"
    );
}

#[test]
fn four_cores() {
    let plan = Tree::cores(4).plan();
    assert_eq!(plan.summary(), "pin exec=3 wal=2 net=0-1(2) aux=0 spare= spin");
}

#[test]
fn two_cores_of_two() {
    let plan = Tree::smt(2).plan();
    assert_eq!(plan.summary(), "pin exec=1 wal=3 net=0,2(2) aux=0,2 spare= spin");
}

#[test]
fn eight_cores() {
    let plan = Tree::cores(8).plan();
    assert_eq!(plan.summary(), "pin exec=7 wal=6 net=1-5(5) aux=0 spare= spin");
}

#[test]
fn four_cores_of_two() {
    let plan = Tree::smt(4).plan();
    assert_eq!(
        plan.summary(),
        "pin exec=3 wal=7 net=1-2,5-6(4) aux=0,4 spare= spin"
    );
}

#[test]
fn on_sixteen_cores_net_gets_its_maximum_of_cpus() {
    let plan = Tree::cores(16).plan();
    assert_eq!(
        plan.summary(),
        "pin exec=15 wal=14 net=6-13(8) aux=0 spare=1-5 spin"
    );
}

#[test]
fn on_sixteen_cores_net_gets_the_cores_at_the_cache_of_exec() {
    // Both caches have 8 cores. The cache without CPU 0 has more quiet cores, so EXEC gets a core of this cache.
    let plan = Tree::cores(16).caches(&["8-15", "0-7"]).plan();
    assert_eq!(
        plan.summary(),
        "pin exec=15 wal=14 net=6-13(8) aux=0 spare=1-5 spin"
    );
    // The cache of CPUs 12 to 15 has fewer quiet cores, so EXEC does not get a core of this cache, although these
    // CPUs have the highest ids.
    let plan = Tree::cores(16).caches(&["0-3", "4-11", "12-15"]).plan();
    assert_eq!(
        plan.summary(),
        "pin exec=11 wal=10 net=4-9,14-15(8) aux=0 spare=1-3,12-13 spin"
    );
}

#[test]
fn sixty_four_cores_on_two_nodes_use_one_node() {
    let tree = Tree::cores(64).nodes(&["0-31", "32-63"]);
    let plan = tree.plan();
    assert_eq!(
        plan.summary(),
        "pin exec=31 wal=30 net=22-29(8) aux=0-1 spare=2-21,32-63 spin"
    );
    assert_eq!(plan.home_node, Some(0));

    // The node with the drive is the home node.
    let plan = tree.nvme_node(1).plan();
    assert_eq!(
        plan.summary(),
        "pin exec=63 wal=62 net=54-61(8) aux=32-33 spare=0-31,34-53 spin"
    );
    assert_eq!(plan.home_node, Some(1));
}

#[test]
fn a_node_with_one_cpu_is_not_a_home_node() {
    let plan = Tree::cores(4).nodes(&["0", "1", "2", "3"]).plan();
    assert_eq!(plan.summary(), "pin exec=1 wal=2 net=0,3(2) aux=0 spare= spin");
}

#[test]
fn scattered_ids() {
    let plan = Tree::cores(48).mask("2,5,9-11,40").plan();
    assert_eq!(
        plan.summary(),
        "pin exec=40 wal=11 net=5,9-10(3) aux=2 spare= spin"
    );
}

#[test]
fn the_writer_avoids_lone_siblings() {
    let plan = with_lone_sibling().plan();
    assert_eq!(plan.summary(), "pin exec=2 wal=6 net=1,3,5(3) aux=3 spare= spin");

    // The process may use only one hyper-thread of each of the two cores.
    let plan = Tree::smt(4).mask("1-2").plan();
    assert_eq!(plan.summary(), "pin exec=2 wal=1 net=1(1) aux=1 spare=");
    assert_eq!(codes(&plan), [WarningCode::ForeignSibling]);
}

#[test]
fn ids_beyond_1024() {
    let plan = Tree::cores(2048).mask("1023-1025,2040-2047").plan();
    assert_eq!(
        plan.summary(),
        "pin exec=2047 wal=2046 net=1024-1025,2040-2045(8) aux=1023 spare= spin"
    );
    assert_eq!(
        plan.mask(tally_topology::Role::Net, 7),
        Some(CpuSet::single(2045))
    );
}

#[test]
fn four_threads_per_core() {
    // Cores of four hyper-threads, as on POWER machines. No role uses the third and fourth hyper-thread of EXEC's core.
    let plan = Tree::of_cores(vec![set("0-3"), set("4-7"), set("8-11")]).plan();
    assert_eq!(
        plan.summary(),
        "pin exec=8 wal=9 net=4-7(4) aux=0-3 spare=10-11 spin"
    );
    let plan = Tree::of_cores(vec![set("0-3")]).plan();
    assert_eq!(
        plan.summary(),
        "pin exec=0 wal=1 net=2-3(2) aux=3 spare= shared_core"
    );
}

#[test]
fn under_a_quota_on_the_whole_machine_only_mode_pin_pins() {
    let tree = Tree::cores(8).cpu_max("300000 100000");
    let plan = tree.plan();
    assert_eq!(plan.summary(), "fence exec=0-7 wal=0-7 net=0-7(1) aux=0-7 spare=");
    assert_eq!(
        plan.why,
        "a quota of 3000 thousandths of a CPU over 8 allowed CPUs: they are shared"
    );
    assert_eq!(codes(&plan), [WarningCode::SharedCpus]);

    let plan = tree.plan_with(&config(Mode::Pin));
    assert_eq!(plan.summary(), "pin exec=7 wal=6 net=1-5(5) aux=0 spare=");
    assert_eq!(codes(&plan), [WarningCode::Quota]);

    let plan = Tree::cores(8).cpu_max("max 100000").plan();
    assert_eq!(plan.summary(), "pin exec=7 wal=6 net=1-5(5) aux=0 spare= spin");
}

#[test]
fn under_a_quota_as_large_as_the_cpuset_auto_pins() {
    // Kubernetes before 1.33 also sets a quota on exclusive CPUs.
    let plan = Tree::cores(8).mask("2-5").cpu_max("400000 100000").plan();
    assert_eq!(plan.summary(), "pin exec=5 wal=4 net=2-3(2) aux=2 spare=");
    assert_eq!(codes(&plan), [WarningCode::Quota]);
    // The CPUs of the shared pool of a Kubernetes node are a part of the machine, and are more than the quota allows.
    let plan = Tree::cores(8).mask("2-5").cpu_max("250000 100000").plan();
    assert_eq!(plan.summary(), "fence exec=2-5 wal=2-5 net=2-5(1) aux=2-5 spare=");
}

#[test]
fn pods_that_share_cpus_are_fenced() {
    let pod = PodHints {
        kubernetes: true,
        ..PodHints::default()
    };
    let plan = Tree::cores(4).pod(pod.clone()).plan();
    assert_eq!(
        plan.why,
        "a pod without CPU limit on the whole machine: its CPUs are shared"
    );
    let burstable = PodHints {
        qos_class: Some("Burstable".to_owned()),
        ..pod.clone()
    };
    let plan = Tree::cores(8).mask("0-5").pod(burstable).plan();
    assert_eq!(
        plan.why,
        "the pod is Burstable, not Guaranteed: its CPUs are shared"
    );
    let guaranteed = PodHints {
        qos_class: Some("Guaranteed".to_owned()),
        ..pod
    };
    let plan = Tree::cores(8).mask("2-5").pod(guaranteed).plan();
    assert_eq!(plan.summary(), "pin exec=5 wal=4 net=2-3(2) aux=2 spare= spin");
}

#[test]
fn modes_without_pins() {
    let plan = Tree::cores(4).plan_with(&config(Mode::Off));
    assert_eq!(plan.summary(), "off exec=0-3 wal=0-3 net=0-3(2) aux=0-3 spare=");
    assert_eq!(plan.mask(tally_topology::Role::Exec, 0), None);
    let plan = Tree::cores(4).isolated("2-3").plan_with(&config(Mode::Fence));
    assert_eq!(plan.summary(), "fence exec=0-3 wal=0-3 net=0-3(2) aux=0-3 spare=");
    assert_eq!(codes(&plan), [WarningCode::Isolated]);
}

#[test]
fn on_isolated_cpus_aux_threads_get_single_cpus_too() {
    use tally_topology::Role;
    let tree = Tree::smt(4);
    let aux = |tree: &Tree, index| tree.plan().mask(Role::Aux, index).unwrap().to_string();
    assert_eq!(aux(&tree, 0), "0,4");
    let tree = tree.isolated("0-7");
    assert_eq!(aux(&tree, 0), "0");
    assert_eq!(aux(&tree, 1), "4");
    assert_eq!(aux(&tree, 2), "0");
}

#[test]
fn more_threads_than_cpus_share_cpus_in_turn() {
    use tally_topology::Role;
    let plan = Tree::cores(4).plan();
    let net = |index| plan.mask(Role::Net, index).unwrap().to_string();
    assert_eq!([net(0), net(1), net(2)], ["0", "1", "0"]);
    assert_eq!(plan.mask(Role::Exec, 3), Some(CpuSet::single(3)));
}

#[test]
fn explicit_lists_come_first_and_other_roles_get_the_rest() {
    let mut wishes = config(Mode::Auto);
    wishes.cpus = RoleCpus {
        exec: Some(set("1")),
        net: Some(set("2-3")),
        ..RoleCpus::default()
    };
    let plan = Tree::cores(4).plan_with(&wishes);
    assert_eq!(plan.summary(), "pin exec=1 wal=0 net=2-3(2) aux=0 spare= spin");
    assert_eq!(plan.why, "explicit CPU lists for exec, net");

    // NET's list has the core that EXEC would get without the list. EXEC and WAL still get separate CPUs.
    wishes.cpus = RoleCpus {
        net: Some(set("3")),
        ..RoleCpus::default()
    };
    let plan = Tree::cores(4).plan_with(&wishes);
    assert_eq!(plan.summary(), "pin exec=2 wal=1 net=3(1) aux=0 spare= spin");

    wishes.cpus = RoleCpus {
        exec: Some(set("7")),
        ..RoleCpus::default()
    };
    let plan = Tree::cores(8).plan_with(&wishes);
    assert_eq!(plan.summary(), "pin exec=7 wal=6 net=1-5(5) aux=0 spare= spin");

    wishes.cpus.exec = Some(set("1"));
    // The lists leave no CPU free for WAL and AUX. WAL and AUX share the CPUs of NET.
    wishes.cpus.net = Some(set("0,2-3"));
    let plan = Tree::cores(4).plan_with(&wishes);
    assert_eq!(
        plan.summary(),
        "pin exec=1 wal=0,2-3 net=0,2-3(3) aux=0,2-3 spare= spin"
    );
}

#[test]
fn overlapping_and_oversized_lists_are_followed_with_a_warning() {
    let mut wishes = config(Mode::Pin);
    wishes.net_threads_max = 2;
    wishes.cpus = RoleCpus {
        exec: Some(set("3")),
        net: Some(set("1-3")),
        ..RoleCpus::default()
    };
    let plan = Tree::cores(4).plan_with(&wishes);
    assert_eq!(plan.summary(), "pin exec=3 wal=0 net=1-2(2) aux=0 spare= spin");
    assert_eq!(codes(&plan), [WarningCode::Overlap, WarningCode::ListIgnored]);
}

#[test]
fn a_list_outside_the_allowed_cpus_is_ignored_and_an_error_in_strict() {
    let mut wishes = config(Mode::Auto);
    wishes.cpus.exec = Some(set("3,7-9"));
    let tree = Tree::cores(16).mask("0-3");
    let plan = tree.plan_with(&wishes);
    assert_eq!(plan.summary(), "pin exec=3 wal=2 net=0-1(2) aux=0 spare= spin");
    assert_eq!(
        plan.warnings[0].to_string(),
        "list_ignored: affinity.cpus.exec = 3,7-9: CPUs 7-9 are not allowed (allowed: 0-3), so the list is ignored"
    );

    wishes.mode = Mode::Strict;
    let error = Plan::new(&tree.machine(), &wishes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "affinity.cpus.exec = 3,7-9: CPUs 7-9 are not allowed (allowed: 0-3)"
    );
}

#[test]
fn an_ignored_list_does_not_decide_about_the_placement() {
    let mut wishes = config(Mode::Auto);
    wishes.cpus.exec = Some(set("99"));
    // Without a list, `auto` does not pin on a whole machine with few CPUs.
    let tree = Tree::cores(2);
    let plan = tree.plan_with(&wishes);
    assert_eq!((plan.placement, &plan.why), (Placement::Fence, &tree.plan().why));
    assert_eq!(codes(&plan), [WarningCode::ListIgnored]);

    wishes.cpus.wal = Some(set("1"));
    let plan = tree.plan_with(&wishes);
    assert_eq!(
        (plan.placement, &*plan.why),
        (Placement::Pin, "explicit CPU lists for wal")
    );
    assert_eq!(plan.role(tally_topology::Role::Wal).cpus, set("1"));
}

#[test]
fn only_strict_fails_on_a_machine_that_is_too_small() {
    let machine = Tree::cores(1).machine();
    for mode in [Mode::Auto, Mode::Off, Mode::Fence, Mode::Pin] {
        assert!(Plan::new(&machine, &config(mode)).is_ok());
    }
    let error = Plan::new(&machine, &config(Mode::Strict)).unwrap_err();
    assert!(matches!(
        error,
        AffinityError::InsufficientCpus {
            allowed: 1,
            needed: 2
        }
    ));
}

#[test]
fn on_isolated_cpus_auto_always_pins() {
    let tree = Tree::cores(4).isolated("2-3").cpu_max("100000 100000");
    let plan = tree.plan();
    assert_eq!(plan.summary(), "pin exec=3 wal=2 net=0-1(2) aux=0 spare=");
    assert_eq!(
        plan.why,
        "isolated CPUs, between which the kernel does not balance load"
    );
    assert_eq!(codes(&plan), [WarningCode::Quota]);
    // Isolated CPUs that the process may not use have no effect.
    let plan = Tree::cores(8)
        .mask("0-3")
        .isolated("6-7")
        .cpu_max("100000 100000")
        .plan();
    assert_eq!(plan.summary(), "fence exec=0-3 wal=0-3 net=0-3(1) aux=0-3 spare=");
}

#[test]
fn the_cpus_of_an_isolated_partition_count_as_isolated() {
    let mut machine = Tree::smt(4).mask("2-3,6-7").machine();
    let aux = |machine: &tally_topology::Machine| {
        let plan = Plan::new(machine, &config(Mode::Pin)).unwrap();
        plan.mask(tally_topology::Role::Aux, 0).unwrap().to_string()
    };
    assert_eq!(aux(&machine), "2,6");
    machine.cgroup.partition = Some("isolated".to_owned());
    assert_eq!(aux(&machine), "2");
    machine.cgroup.partition = Some("member".to_owned());
    assert_eq!(aux(&machine), "2,6");
}

#[test]
fn remote_memory_of_the_writer_is_a_warning() {
    let mut wishes = config(Mode::Pin);
    wishes.cpus.exec = Some(set("5"));
    wishes.cpus.aux = Some(set("0"));
    let plan = Tree::cores(8).nodes(&["0-3", "4-7"]).plan_with(&wishes);
    assert_eq!(
        plan.warnings.last().unwrap().to_string(),
        "remote_memory: exec is on memory node 1, but aux, which opens the store, is on memory node 0"
    );
}

#[test]
fn hints_of_the_downward_api_are_used() {
    let pod = |request, limit| PodHints {
        kubernetes: true,
        cpu_request_milli: Some(request),
        cpu_limit_milli: Some(limit),
        ..PodHints::default()
    };
    let plan = |request, limit| Tree::cores(8).mask("2-5").pod(pod(request, limit)).plan();
    assert_eq!(
        plan(4000, 4000).summary(),
        "pin exec=5 wal=4 net=2-3(2) aux=2 spare= spin"
    );
    assert!(
        plan(2000, 4000)
            .why
            .contains("requests 2000 and is limited to 4000")
    );
    assert!(plan(3500, 3500).why.contains("not a whole number"));
}

#[test]
fn the_long_form_contains_the_reasons() {
    let plan = Tree::smt(4)
        .cpu_max("400000 100000")
        .plan_with(&config(Mode::Pin));
    assert_eq!(
        plan.to_string(),
        "\
pin (affinity.mode = pin): as configured
  exec  3            thread 0 of its core
  wal   7            sibling of exec
  net   1-2,5-6      the other cores, nearest to exec first
  aux   0,4          one core per 16, those that suit exec least
  ! quota: a quota of 400000 µs per 100000 µs can stop pinned threads
"
    );
}
