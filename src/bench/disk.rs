//! Measures the disk with the write pattern of the journal: a write into a file of zeros, followed by a sync.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;
use tally_journal::{Disk, DiskError, RealDisk};
use tokio::time::Instant;

use super::{
    error::BenchError,
    report::{command, machine, micros},
};
use crate::{terminal::table, version::COMMIT};

/// The commit times of a disk.
#[derive(Debug, Serialize)]
pub struct DiskReport {
    directory: PathBuf,
    disk: Vec<WriteTest>,
    machine: String,
    commit: &'static str,
    command: String,
}

/// One method of making writes of one size durable.
#[derive(Debug, Serialize)]
struct WriteTest {
    bytes: usize,
    method: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<Times>,
    /// Why the file system does not support the method.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip)]
    samples: Vec<Duration>,
}

#[derive(Debug, Serialize)]
struct Times {
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    commits: usize,
}

/// Block sizes: one transaction, hundreds of transactions, thousands of transactions.
const SIZES: [usize; 3] = [4 << 10, 64 << 10, 512 << 10];
const FDATASYNC: &str = "write, fdatasync";
const DIRECT: &str = "O_DSYNC|O_DIRECT";
/// Number of rounds. Every round runs every test, so that a disturbance affects all tests alike.
const ROUNDS: usize = 25;
/// Number of commits of one test in one round.
const COMMITS: usize = 8;
/// Longest total time of one test. A slow disk gets fewer commits.
const TEST_TIME_MAX: Duration = Duration::from_secs(3);
/// Size of the file. It is filled with zeros first, like a segment; writes start again at its beginning when they reach its end.
const FILE_BYTES: usize = 8 << 20;
/// Alignment of direct writes in memory and on the disk.
const ALIGNMENT: usize = 4096;
/// Name of the file. The benchmark removes the name right after it has opened the file, so that no file is left if the process is killed.
const FILE: &str = "bench-disk.tmp";

/// Measures the disk of directory `data`, or of the directory for temporary files.
///
/// # Errors
/// [`BenchError::Disk`].
pub(super) fn measure(data: Option<&Path>) -> Result<DiskReport, BenchError> {
    let directory = data.map_or_else(std::env::temp_dir, Path::to_path_buf);
    let disk = RealDisk;
    disk.create_dir_all(&directory)?;
    let path = directory.join(FILE);
    match disk.remove(&path) {
        Err(error) if !error.is_not_found() => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let tests = measure_file(&disk, &path)?;
    Ok(DiskReport {
        directory,
        disk: tests,
        machine: machine(),
        commit: COMMIT,
        command: command(),
    })
}

fn measure_file(disk: &RealDisk, path: &Path) -> Result<Vec<WriteTest>, DiskError> {
    let file = disk.create_new(path)?;
    // Opening can fail, because not every file system supports direct writes. The report then shows the error.
    let direct = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DSYNC | libc::O_DIRECT)
        .open(path);
    disk.remove(path)?;
    file.write_at(0, &vec![0; FILE_BYTES])?;
    file.sync_all()?;
    let buffer = vec![0x5a; SIZES.iter().max().copied().unwrap_or_default() + ALIGNMENT];
    let aligned = buffer
        .get(buffer.as_ptr().align_offset(ALIGNMENT)..)
        .unwrap_or_default();
    let mut tests: Vec<WriteTest> = SIZES
        .iter()
        .flat_map(|&bytes| [WriteTest::new(bytes, FDATASYNC), WriteTest::new(bytes, DIRECT)])
        .collect();
    for _ in 0..ROUNDS {
        for test in &mut tests {
            let block = aligned.get(..test.bytes).unwrap_or_default();
            if test.method == FDATASYNC {
                test.commit(|offset| {
                    file.write_at(offset, block)?;
                    file.sync_data()
                })?;
            } else if test.error.is_none()
                && let Err(error) = test.commit(|offset| write_direct(&direct, offset, block))
            {
                test.error = Some(error.to_string());
            }
        }
    }
    for test in &mut tests {
        test.finish();
    }
    Ok(tests)
}

fn write_direct(file: &io::Result<File>, offset: u64, block: &[u8]) -> io::Result<()> {
    match file {
        Ok(file) => file.write_all_at(block, offset),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    }
}

// ===== impl WriteTest =====

impl WriteTest {
    const fn new(bytes: usize, method: &'static str) -> Self {
        WriteTest {
            bytes,
            method,
            times: None,
            error: None,
            samples: Vec::new(),
        }
    }

    /// Measures a few commits, each at the next offset of the file.
    fn commit<E>(&mut self, commit: impl Fn(u64) -> Result<(), E>) -> Result<(), E> {
        for _ in 0..COMMITS {
            if self.samples.iter().sum::<Duration>() >= TEST_TIME_MAX {
                break;
            }
            let offset = (self.samples.len() * self.bytes) % FILE_BYTES;
            let begun = Instant::now();
            commit(offset as u64)?;
            self.samples.push(begun.elapsed());
        }
        Ok(())
    }

    fn finish(&mut self) {
        self.samples.sort_unstable();
        let at = |hundredths: usize| {
            let index = (self.samples.len() * hundredths).div_ceil(100).saturating_sub(1);
            self.samples.get(index).map(|time| time.as_secs_f64() * 1e6)
        };
        if let (None, Some(p50_us), Some(p90_us), Some(p99_us)) = (&self.error, at(50), at(90), at(99)) {
            self.times = Some(Times {
                p50_us,
                p90_us,
                p99_us,
                commits: self.samples.len(),
            });
        }
    }
}

// ===== impl DiskReport =====

impl DiskReport {
    pub(super) fn print_table(&self) {
        let mut table = table(&["KiB", "method", "p50", "p90", "p99", "commits"]);
        for test in &self.disk {
            let kib = (test.bytes >> 10).to_string();
            let mut row = vec![kib, test.method.to_owned()];
            match (&test.times, &test.error) {
                (Some(times), _) => {
                    row.extend([times.p50_us, times.p90_us, times.p99_us].map(micros));
                    row.push(times.commits.to_string());
                }
                (None, error) => row.push(error.clone().unwrap_or_default()),
            }
            table.add_row(row);
        }
        crate::terminal::outln!("{table}");
        crate::terminal::outln!("directory        {}", self.directory.display());
        crate::terminal::outln!("machine          {}", self.machine);
        crate::terminal::outln!("commit           {}", self.commit);
        crate::terminal::outln!("repeat           {}", self.command);
    }
}
