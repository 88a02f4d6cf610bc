//! What the disk can do: the journal's own pattern, a write into a file that was written full of zeros and is synced.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;
use thiserror::Error;
use tokio::time::Instant;

use super::report::{COMMIT, command, machine, print_json};
use crate::{
    cli::OutputFormat,
    store::journal::{Disk, DiskError, RealDisk},
};

/// The directory can't be written to.
#[derive(Debug, Error)]
#[error(transparent)]
pub(super) struct DiskBenchError(#[from] DiskError);

/// What was measured.
#[derive(Debug, Serialize)]
pub(super) struct DiskReport {
    directory: PathBuf,
    disk: Vec<Cell>,
    machine: String,
    commit: &'static str,
    command: String,
}

/// One way of making writes of one size durable.
#[derive(Debug, Serialize)]
struct Cell {
    bytes: usize,
    method: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<Times>,
    /// Why there are no times.
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

/// A lone transaction's block, and those of some hundreds and of some thousands.
const SIZES: [usize; 3] = [4 << 10, 64 << 10, 512 << 10];
const FDATASYNC: &str = "write, fdatasync";
const DIRECT: &str = "O_DSYNC|O_DIRECT";
/// All cells are measured once a turn, so that a disturbance meets all of them.
const TURNS: usize = 25;
/// Commits of a cell in one turn.
const COMMITS: usize = 8;
/// A cell takes no more commits after this time: on a slow disk there are fewer.
const CELL_TIME_MAX: Duration = Duration::from_secs(3);
/// The file goes round after so many bytes; it is written full of zeros first, as segments are.
const FILE_BYTES: usize = 8 << 20;
/// Direct writes start at a multiple of this in memory and on the disk.
const ALIGNMENT: usize = 4096;
/// The file. It is removed at the end; one that a crash left behind is written over.
const FILE: &str = "bench-disk.tmp";

/// Measures the disk of `data`, or of the directory for temporary files.
pub(super) fn measure(data: Option<&Path>) -> Result<DiskReport, DiskBenchError> {
    let directory = data.map_or_else(std::env::temp_dir, Path::to_path_buf);
    let disk = RealDisk;
    disk.create_dir_all(&directory)?;
    let path = directory.join(FILE);
    match disk.remove(&path) {
        Err(error) if !error.is_not_found() => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let measured = measure_file(&disk, &path);
    let removed = disk.remove(&path);
    let cells = measured?;
    removed?;
    Ok(DiskReport {
        directory,
        disk: cells,
        machine: machine(),
        commit: COMMIT,
        command: command(),
    })
}

fn measure_file(disk: &RealDisk, path: &Path) -> Result<Vec<Cell>, DiskError> {
    let file = disk.create_new(path)?;
    file.write_at(0, &vec![0; FILE_BYTES])?;
    file.sync_all()?;
    // Not every file system takes it.
    let direct = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DSYNC | libc::O_DIRECT)
        .open(path);
    let room = vec![0x5a; SIZES.iter().max().copied().unwrap_or_default() + ALIGNMENT];
    let aligned = room
        .get(room.as_ptr().align_offset(ALIGNMENT)..)
        .unwrap_or_default();
    let mut cells: Vec<Cell> = SIZES
        .iter()
        .flat_map(|&bytes| [Cell::new(bytes, FDATASYNC), Cell::new(bytes, DIRECT)])
        .collect();
    for _ in 0..TURNS {
        for cell in &mut cells {
            let block = aligned.get(..cell.bytes).unwrap_or_default();
            if cell.method == FDATASYNC {
                cell.commit(|offset| {
                    file.write_at(offset, block)?;
                    file.sync_data()
                })?;
            } else if cell.error.is_none()
                && let Err(error) = cell.commit(|offset| write_direct(&direct, offset, block))
            {
                cell.error = Some(error.to_string());
            }
        }
    }
    for cell in &mut cells {
        cell.finish();
    }
    Ok(cells)
}

fn write_direct(file: &io::Result<File>, offset: u64, block: &[u8]) -> io::Result<()> {
    match file {
        Ok(file) => file.write_all_at(block, offset),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    }
}

// ===== impl Cell =====

impl Cell {
    const fn new(bytes: usize, method: &'static str) -> Self {
        Cell {
            bytes,
            method,
            times: None,
            error: None,
            samples: Vec::new(),
        }
    }

    /// Some commits, each at the next place of the file.
    fn commit<E>(&mut self, commit: impl Fn(u64) -> Result<(), E>) -> Result<(), E> {
        for _ in 0..COMMITS {
            if self.samples.iter().sum::<Duration>() >= CELL_TIME_MAX {
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
    #[expect(clippy::print_stdout, reason = "the command's result")]
    pub(super) fn print(&self, output: OutputFormat) -> ExitCode {
        if output == OutputFormat::Json {
            return print_json(self);
        }
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header(["KiB", "how", "p50 µs", "p90", "p99", "commits"]);
        for cell in &self.disk {
            let kib = (cell.bytes >> 10).to_string();
            let mut row = vec![kib, cell.method.to_owned()];
            match (&cell.times, &cell.error) {
                (Some(times), _) => {
                    row.extend([times.p50_us, times.p90_us, times.p99_us].map(|time| format!("{time:.0}")));
                    row.push(times.commits.to_string());
                }
                (None, error) => row.push(error.clone().unwrap_or_default()),
            }
            table.add_row(row);
        }
        println!("{table}");
        println!("directory        {}", self.directory.display());
        println!("machine          {}", self.machine);
        println!("commit           {}", self.commit);
        println!("repeat           {}", self.command);
        ExitCode::SUCCESS
    }
}
