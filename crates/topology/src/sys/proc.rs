//! Reads facts about the threads of this process from `/proc`. This module has no `unsafe` code.
//!
//! Every function takes the directory to use as `/proc`, so tests can use simulated files.

use std::{fs, io, io::Read as _, path::Path};

use super::affinity::Tid;

/// Maximum number of bytes that are read from a file. The rest of the file is ignored. The largest file is `mountinfo`,
/// which has some tens of KiB on a node with many containers.
pub const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Maximum number of threads that [`thread_ids`] lists.
pub const THREADS_MAX: usize = 4096;

/// The facts about one thread. A fact that the kernel does not report is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ThreadSample {
    /// CPUs on which the thread may run, in cpuset list syntax.
    pub cpus_allowed_list: Option<String>,
    /// NUMA nodes from which the thread may allocate memory, in cpuset list syntax.
    pub mems_allowed_list: Option<String>,
    /// Number of times that the thread gave up the CPU voluntarily since its start.
    pub voluntary_switches: Option<u64>,
    /// Number of times that the thread was preempted since its start.
    pub involuntary_switches: Option<u64>,
    /// Number of times that the thread was moved to another CPU since its start (needs `CONFIG_SCHED_DEBUG`).
    pub migrations: Option<u64>,
    /// CPU on which the thread last ran.
    pub last_cpu: Option<u32>,
}

/// Reads `<proc>/self/task/<tid>/{status,sched,stat}`.
///
/// # Errors
/// If `status` can't be read, usually because the thread has ended (`NotFound`).
pub fn read_thread(proc: &Path, tid: Tid) -> io::Result<ThreadSample> {
    let directory = proc.join("self/task").join(tid.to_string());
    let status = read_bounded(&directory.join("status"))?;
    let mut sample = parse_status(&status);
    sample.migrations = read_bounded(&directory.join("sched"))
        .ok()
        .and_then(|text| parse_migrations(&text));
    sample.last_cpu = read_bounded(&directory.join("stat"))
        .ok()
        .and_then(|text| parse_last_cpu(&text));
    Ok(sample)
}

/// Returns the ids of the threads of this process in ascending order, at most [`THREADS_MAX`].
///
/// # Errors
/// If `<proc>/self/task` can't be listed.
pub fn thread_ids(proc: &Path) -> io::Result<Vec<Tid>> {
    let mut ids: Vec<Tid> = fs::read_dir(proc.join("self/task"))?
        .take(THREADS_MAX)
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Reads at most [`FILE_BYTES_MAX`] bytes of a text file. Replaces bytes that are not UTF-8.
///
/// # Errors
/// If the file can't be opened or read.
pub fn read_bounded(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Parses the lines `Key:<tab>value` of a `status` file.
fn parse_status(text: &str) -> ThreadSample {
    let mut sample = ThreadSample::default();
    for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match key {
            "Cpus_allowed_list" => sample.cpus_allowed_list = Some(value.to_owned()),
            "Mems_allowed_list" => sample.mems_allowed_list = Some(value.to_owned()),
            "voluntary_ctxt_switches" => sample.voluntary_switches = value.parse().ok(),
            "nonvoluntary_ctxt_switches" => sample.involuntary_switches = value.parse().ok(),
            _ => {}
        }
    }
    sample
}

/// Parses the line `se.nr_migrations   :   12` of a `sched` file.
fn parse_migrations(text: &str) -> Option<u64> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == "se.nr_migrations")
        .and_then(|(_, value)| value.trim().parse().ok())
}

/// Parses field 39 (`processor`) of a `stat` file, see proc_pid_stat(5).
///
/// The command name (field 2) may contain blanks and parentheses. So counting starts after the last `)`, with field 3.
fn parse_last_cpu(text: &str) -> Option<u32> {
    const FIELDS_BEFORE_PROCESSOR: usize = 36;
    let (_, fields) = text.rsplit_once(')')?;
    fields
        .split_ascii_whitespace()
        .nth(FIELDS_BEFORE_PROCESSOR)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_status_file_are_parsed() {
        let sample = parse_status(
            "Name:\ttally: odd (name)\nCpus_allowed:\tff\nCpus_allowed_list:\t2,5,9-11\n\
             Mems_allowed_list:\t0\nvoluntary_ctxt_switches:\t17\nnonvoluntary_ctxt_switches:\t3\n",
        );
        assert_eq!(sample.cpus_allowed_list.as_deref(), Some("2,5,9-11"));
        assert_eq!(sample.mems_allowed_list.as_deref(), Some("0"));
        assert_eq!(sample.voluntary_switches, Some(17));
        assert_eq!(sample.involuntary_switches, Some(3));
    }

    #[test]
    fn migrations_line_is_found_and_its_absence_is_none() {
        let text = "cat (3, #threads: 1)\n----\nse.nr_migrations            :                   12\n";
        assert_eq!(parse_migrations(text), Some(12));
        assert_eq!(parse_migrations("se.load.weight : 1048576"), None);
    }

    #[test]
    fn the_processor_field_is_found_after_a_name_with_parentheses() {
        let text = "42 (a) b (c)) S 1 1 1 0 -1 4194304 90 0 0 0 0 0 0 0 20 0 1 0 100 1000 200 \
                    18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 37 5 1 0 0 0";
        assert_eq!(parse_last_cpu(text), Some(37));
        assert_eq!(parse_last_cpu("42 (short) S 1"), None);
    }

    #[test]
    fn the_calling_thread_is_listed_and_readable() {
        let tid = crate::sys::affinity::gettid();
        let proc = Path::new("/proc");
        assert!(thread_ids(proc).unwrap().contains(&tid));
        let sample = read_thread(proc, tid).unwrap();
        assert!(sample.cpus_allowed_list.is_some());
        assert!(sample.last_cpu.is_some());
    }

    #[test]
    fn a_thread_that_does_not_exist_is_not_found() {
        let error = read_thread(Path::new("/proc"), Tid::MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
