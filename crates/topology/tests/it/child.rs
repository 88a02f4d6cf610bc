//! Starts this test program again with fewer CPUs or fewer privileges.
//!
//! [`report`] is an ordinary test, which prints the plan and the state of one thread. The other tests run only
//! [`report`] in child processes, and check the printed lines.

use std::{
    env,
    process::{Command, Stdio},
};

use tally_topology::{
    AffinityConfig, CpuAffinityManager, CpuSet, Role, startup_mask,
    sys::affinity::{self, THIS_THREAD},
};

use super::{
    fifo::fifo,
    support::privileges::{skipped, unprivileged},
};

/// Environment variable that makes [`report`] request real-time scheduling. Its value is `wanted` or `required`.
const FIFO: &str = "TALLY_TEST_FIFO";

/// Prefix of the lines that [`report`] prints.
const PREFIX: &str = "REPORT ";

#[test]
fn report() {
    let config = match env::var(FIFO).as_deref() {
        Ok("wanted") => fifo(false),
        Ok("required") => fifo(true),
        _ => AffinityConfig::default(),
    };
    let manager = CpuAffinityManager::detect(config).unwrap();
    println!("\n{PREFIX}allowed {}", manager.plan().allowed);
    println!(
        "{PREFIX}plan {}: {}",
        manager.plan().summary(),
        manager.plan().why
    );
    let inner = manager.clone();
    let body = move || {
        (
            inner.topology(),
            affinity::get_affinity(THIS_THREAD).map(CpuSet::from_words),
        )
    };
    match manager.spawn(Role::Exec, 0, "tally-exec", body) {
        Ok(handle) => {
            let (topology, mask) = handle.join().unwrap();
            let [exec] = topology.threads.as_slice() else {
                panic!("one thread is registered: {:?}", topology.threads);
            };
            assert!(exec.pinned_ok, "{exec:?}");
            assert_eq!(exec.actual, mask.ok());
            println!("{PREFIX}policy {} errno {:?}", exec.policy, exec.fifo_errno);
            for warning in &topology.warnings {
                println!("{PREFIX}warning {}", warning.code.as_str());
            }
        }
        Err(error) => println!("{PREFIX}error {error}"),
    }
}

/// Runs [`report`] in a child process that the program `wrapper` starts, and returns the lines that [`report`] prints.
///
/// Prints a message and returns `None` if the program `wrapper` is not installed.
fn report_of_child(wrapper: &[&str], fifo: Option<&str>) -> Option<Vec<String>> {
    let own = env::current_exe().unwrap();
    let test = concat!(module_path!(), "::report");
    // The module path begins with the name of the crate, but the name of the test does not.
    let (_, test) = test.split_once("::").unwrap();
    let mut words: Vec<&str> = wrapper.to_vec();
    words.push(own.to_str().unwrap());
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(["--exact", test, "--nocapture"]);
    if let Some(fifo) = fifo {
        command.env(FIFO, fifo);
    }
    let Ok(output) = command.stderr(Stdio::inherit()).output() else {
        skipped(&format!("cannot run {}", words[0]));
        return None;
    };
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let lines: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix(PREFIX))
        .map(str::to_owned)
        .collect();
    assert!(!lines.is_empty(), "{text}");
    Some(lines)
}

#[test]
fn on_one_cpu_the_threads_run_and_the_plan_has_a_warning() {
    let last = startup_mask().unwrap().iter().next_back().unwrap().to_string();
    let Some(lines) = report_of_child(&["taskset", "-c", &last], None) else {
        return;
    };
    assert_eq!(lines[0], format!("allowed {last}"));
    let plan =
        format!("plan fence exec={last} wal={last} net={last}(1) aux={last} spare=: degraded: single_cpu");
    assert_eq!(lines[1], plan);
    assert!(lines.contains(&"warning single_cpu".to_owned()), "{lines:?}");
}

#[test]
fn without_the_privilege_fifo_is_a_warning() {
    let Some(lines) = report_of_child(unprivileged(), Some("wanted")) else {
        return;
    };
    assert!(
        lines.contains(&"policy other errno Some(1)".to_owned()),
        "{lines:?}"
    );
    assert!(lines.contains(&"warning fifo_refused".to_owned()), "{lines:?}");
}

#[test]
fn without_the_privilege_required_fifo_is_an_error() {
    let Some(lines) = report_of_child(unprivileged(), Some("required")) else {
        return;
    };
    let error = "error exec cannot run under SCHED_FIFO with priority 2".to_owned();
    assert!(lines.contains(&error), "{lines:?}");
}
