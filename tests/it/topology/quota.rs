//! Tests of throttling by the CPU quota. The engine reads the times from a simulated control group, and reports pauses
//! to its circuits.

use std::{path::Path, sync::Arc, time::Duration};

use tally::{engine::TallyEngine, wall_clock::SystemWallClock};
use tally_breaker::ManualClock;
use tally_topology::{AffinityConfig, CpuAffinityManager, Mode, Sources, Throttled, WarningCode};

use super::support::tree::{Tree, put};
use crate::support::{in_process::config, sim_disk::SimDisk};

const PERIOD: Duration = Duration::from_millis(100);

fn manager(sources: Sources) -> CpuAffinityManager {
    let off = AffinityConfig {
        mode: Mode::Off,
        ..AffinityConfig::default()
    };
    CpuAffinityManager::detect_from(sources, None, off).unwrap()
}

/// Writes the file `cpu.stat` of the simulated control group `group`, in the format of version 2. `time_us` is the
/// throttled time in microseconds.
fn count(root: &Path, group: &str, periods: u64, throttled: u64, time_us: u64) {
    let text =
        format!("usage_usec 1\nnr_periods {periods}\nnr_throttled {throttled}\nthrottled_usec {time_us}");
    put(root, &format!("sys/fs/cgroup/{group}/cpu.stat"), &text);
}

#[test]
fn a_sample_is_the_difference_from_the_last_one() {
    let (files, sources) = Tree::cores(4).cpu_max("50000 100000").write();
    let tally = |periods, throttled, time_us| count(files.path(), "tally", periods, throttled, time_us);
    // The group was already throttled before the process started. This time must not be counted.
    tally(1000, 900, 9_000_000);
    let manager = manager(sources);
    assert_eq!(manager.sample_throttling(), None);
    assert_eq!(manager.topology().warnings, []);

    tally(1002, 901, 9_030_000);
    let sample = Throttled {
        periods: 1,
        time: Duration::from_millis(30),
    };
    assert_eq!(manager.sample_throttling(), Some(sample));
    assert_eq!(manager.sample_throttling(), None);
    let figures = manager.figures();
    assert_eq!(figures.throttled_periods, Some(901));
    assert_eq!(figures.throttled, Some(Duration::from_millis(9030)));
    let warnings = manager.topology().warnings;
    assert_eq!(
        warnings.last().unwrap().to_string(),
        "throttled: the CPU quota has stopped this process: number of periods 1, CPU time in total 30000 µs"
    );

    // The counters are smaller now, because the process has moved to a new group. A sample is a difference, so it needs
    // two reads of the new group.
    tally(2, 1, 10);
    assert_eq!(manager.sample_throttling(), None);
    tally(3, 2, 20);
    assert_eq!(manager.sample_throttling().map(|sample| sample.periods), Some(1));
}

#[test]
fn throttling_is_sampled_only_after_a_quota_is_set() {
    let (files, sources) = Tree::cores(4).write();
    count(files.path(), "tally", 1, 1, 1000);
    let manager = manager(sources);
    count(files.path(), "tally", 9, 9, 9000);
    assert_eq!(manager.sample_throttling(), None);

    put(files.path(), "sys/fs/cgroup/tally/cpu.max", "50000 100000");
    manager.verify_now();
    assert_eq!(manager.sample_throttling().map(|sample| sample.periods), Some(8));
}

#[test]
fn the_group_with_the_binding_quota_is_sampled() {
    let (files, sources) = Tree::cores(4).write();
    put(files.path(), "proc/self/cgroup", "0::/pod/tally");
    put(files.path(), "sys/fs/cgroup/pod/tally/cpu.max", "400000 100000");
    put(files.path(), "sys/fs/cgroup/pod/cpu.max", "100000 100000");
    count(files.path(), "pod/tally", 5, 0, 0);
    count(files.path(), "pod", 5, 0, 0);
    let manager = manager(sources);
    count(files.path(), "pod", 6, 1, 70_000);
    let time = manager.sample_throttling().map(|sample| sample.time);
    assert_eq!(time, Some(Duration::from_millis(70)));
    let topology = manager.topology();
    assert_eq!(topology.machine.cgroup.stat.unwrap().throttled_periods, 1);
    assert!(
        topology
            .warnings
            .iter()
            .any(|warning| warning.code == WarningCode::Throttled)
    );
}

#[test]
fn pauses_by_the_quota_are_reported_to_every_circuit() {
    let (files, sources) = Tree::cores(4).cpu_max("50000 100000").write();
    count(files.path(), "tally", 10, 0, 0);
    let clock = Arc::new(ManualClock::new(0));
    let mut config = config();
    config.circuits.clock = Some(clock.clone());
    let engine = TallyEngine::start(
        &config,
        Arc::new(SimDisk::new(1)),
        Path::new("/data"),
        Arc::new(SystemWallClock),
        &manager(sources),
    )
    .unwrap();
    let self_throttled_ms_after_a_period = || {
        clock.advance(PERIOD);
        engine.note_throttling(PERIOD);
        let ms: Vec<u64> = engine
            .circuits()
            .iter()
            .map(|circuit| circuit.stats().lifetime.self_throttled_ms)
            .collect();
        assert!(ms.iter().all(|each| *each == ms[0]), "{ms:?}");
        ms[0]
    };
    assert_eq!(self_throttled_ms_after_a_period(), 0);
    count(files.path(), "tally", 11, 1, 40_000);
    assert_eq!(self_throttled_ms_after_a_period(), 40);
    assert_eq!(self_throttled_ms_after_a_period(), 40, "counted once");
    // Ten CPUs were stopped for 40 ms each, which is 400 ms of CPU time. The reported pause is limited to the elapsed
    // 100 ms.
    count(files.path(), "tally", 12, 2, 440_000);
    assert_eq!(self_throttled_ms_after_a_period(), 140);
    // No time has passed since the last report, so nothing is added.
    count(files.path(), "tally", 13, 3, 480_000);
    engine.note_throttling(PERIOD);
    let circuit = engine.circuits().first().unwrap().stats();
    assert_eq!(circuit.lifetime.self_throttled_ms, 140);
    engine.drain();
}
