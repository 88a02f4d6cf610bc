//! `tally bench --disk`: how long one durable append takes, by the ways there are to do it.
//!
//! The ways take turns, one append each, because a disk has good and bad minutes. Whatever a block's length is, one write
//! and what makes it durable is timed, into a file like a segment of the journal: written full of zeros before.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
};

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::Instant;

use super::report::machine;
use crate::cli::{OutputFormat, exit, fail};

/// Bytes of an append.
const APPEND_BYTES: [usize; 3] = [4 << 10, 64 << 10, 512 << 10];
/// Bytes of a file; a multiple of every append's.
const FILE_BYTES: usize = 64 << 20;
/// What direct writes must be aligned to: at least the sector of every disk.
const ALIGNMENT: usize = 4096;

/// A way to append durably.
#[derive(Debug, Clone, Copy)]
struct Way {
    name: &'static str,
    /// For `open`.
    flags: i32,
    /// Whether the file is as long as it will be, and its blocks are written.
    prepared: bool,
    /// Whether `fdatasync` comes behind the write.
    sync: bool,
}

const WAYS: [Way; 5] = [
    Way {
        name: "growing file, fdatasync",
        flags: 0,
        prepared: false,
        sync: true,
    },
    Way {
        name: "prepared file, fdatasync (the journal)",
        flags: 0,
        prepared: true,
        sync: true,
    },
    Way {
        name: "prepared file, O_DSYNC",
        flags: libc::O_DSYNC,
        prepared: true,
        sync: false,
    },
    Way {
        name: "prepared file, O_DIRECT, fdatasync",
        flags: libc::O_DIRECT,
        prepared: true,
        sync: true,
    },
    Way {
        name: "prepared file, O_DIRECT | O_DSYNC",
        flags: libc::O_DIRECT | libc::O_DSYNC,
        prepared: true,
        sync: false,
    },
];

/// What one way took for one length.
#[derive(Debug, Serialize)]
struct Figures {
    way: &'static str,
    bytes: usize,
    appends: u64,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
}

/// A file of one way, thrown away at the end.
#[derive(Debug)]
struct Target {
    way: Way,
    path: PathBuf,
    file: File,
    offset: u64,
    times: Histogram<u64>,
}

/// Measures in `directory`, `appends` times for each way and length.
pub(super) fn run(directory: &Path, appends: u32, output: OutputFormat) -> ExitCode {
    match measure(directory, appends) {
        Ok(figures) => print(&figures, output),
        Err(error) => fail(exit::IO, &error),
    }
}

fn measure(directory: &Path, appends: u32) -> io::Result<Vec<Figures>> {
    let mut figures = Vec::new();
    let block = Aligned::new(APPEND_BYTES.into_iter().max().unwrap_or_default());
    for bytes in APPEND_BYTES {
        let mut targets = WAYS
            .into_iter()
            .map(|way| Target::new(way, directory))
            .collect::<io::Result<Vec<_>>>()?;
        for _ in 0..appends {
            for target in &mut targets {
                target.append(block.bytes(bytes))?;
            }
        }
        figures.extend(targets.iter().map(|target| target.figures(bytes)));
    }
    Ok(figures)
}

#[expect(clippy::print_stdout, reason = "the command's result")]
fn print(figures: &[Figures], output: OutputFormat) -> ExitCode {
    if output == OutputFormat::Json {
        return match serde_json::to_string_pretty(figures) {
            Ok(text) => {
                println!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => fail(exit::SOFTWARE, &error),
        };
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["", "KiB", "p50 µs", "p99", "max"]);
    for row in figures {
        let times = [row.p50_us, row.p99_us, row.max_us].map(|time| format!("{time:.0}"));
        table.add_row(
            [
                vec![row.way.to_owned(), (row.bytes >> 10).to_string()],
                times.to_vec(),
            ]
            .concat(),
        );
    }
    println!("{table}");
    println!("machine          {}", machine());
    println!(
        "repeat           {}",
        std::env::args().collect::<Vec<_>>().join(" ")
    );
    ExitCode::SUCCESS
}

// ===== impl Target =====

impl Target {
    fn new(way: Way, directory: &Path) -> io::Result<Self> {
        let path = directory.join(format!("tally-bench-disk-{}", std::process::id()));
        let mut create = OpenOptions::new();
        create.write(true).create_new(true);
        let file = create.open(&path)?;
        if way.prepared {
            let zeros = vec![0; 1 << 20];
            for offset in (0..FILE_BYTES).step_by(zeros.len()) {
                file.write_all_at(&zeros, offset as u64)?;
            }
        }
        file.sync_all()?;
        let opened = OpenOptions::new().write(true).custom_flags(way.flags).open(&path);
        // It has no name from here on, so that it is gone whatever happens.
        std::fs::remove_file(&path)?;
        Ok(Target {
            way,
            path,
            file: opened?,
            offset: 0,
            times: Histogram::new(3).map_err(io::Error::other)?,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let started = Instant::now();
        let written = self.file.write_all_at(bytes, self.offset);
        let durable = written.and_then(|()| {
            if self.way.sync {
                self.file.sync_data()
            } else {
                Ok(())
            }
        });
        let elapsed = started.elapsed();
        durable.map_err(|error| {
            let (name, path) = (self.way.name, self.path.display());
            io::Error::new(error.kind(), format!("{name}, in {path}: {error}"))
        })?;
        self.times
            .saturating_record(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
        self.offset += bytes.len() as u64;
        if self.offset >= FILE_BYTES as u64 {
            self.offset = 0;
            if !self.way.prepared {
                self.file.set_len(0)?;
            }
        }
        Ok(())
    }

    fn figures(&self, bytes: usize) -> Figures {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        Figures {
            way: self.way.name,
            bytes,
            appends: self.times.len(),
            p50_us: micros(self.times.value_at_quantile(0.5)),
            p99_us: micros(self.times.value_at_quantile(0.99)),
            max_us: micros(self.times.max()),
        }
    }
}

/// Memory from which direct writes can be made.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new(bytes: usize) -> Self {
        // Not zeros, which a file system might not write at all.
        let memory = vec![0xa5; bytes + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Aligned { memory, start }
    }

    fn bytes(&self, length: usize) -> &[u8] {
        self.memory
            .get(self.start..self.start + length)
            .unwrap_or_default()
    }
}
