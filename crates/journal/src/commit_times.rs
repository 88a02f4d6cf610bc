//! Measures how long a commit takes on a disk. A commit is one write and one sync, as in an append to the journal. The
//! measurement uses a temporary file, not the journal.

use std::{path::Path, time::Duration};

use crate::{
    disk::{Disk, DiskError, DiskFile, remove_if_present},
    stopwatch::now,
};

/// The limits of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitTrial {
    /// Maximum number of commits. At least one commit is measured.
    pub commits_max: usize,
    /// Maximum duration of the measurement. No commit begins after this time has passed; the last commit may end
    /// later.
    pub time_max: Duration,
}

/// The durations of the measured commits, in ascending order. Contains at least one duration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitTimes(Vec<Duration>);

/// The name of the temporary file, which is removed after the measurement. If an earlier measurement crashed and left
/// the file, the next measurement replaces it.
const TRIAL_FILE: &str = "commit-trial.tmp";
/// Length of one write, in bytes: as long as a block with few records.
const TRIAL_BLOCK_BYTES: usize = 4096;
/// Length of the file, in writes of [`TRIAL_BLOCK_BYTES`]. Before the measurement, the file is filled with zeros, like
/// a segment before its use.
const TRIAL_BLOCKS: usize = 16;

/// Measures commits in the directory `dir`. A commit is one write of 4 KiB into a file full of zeros, and one sync.
///
/// # Errors
/// If the disk fails. In that case, the temporary file may remain.
pub fn time_commits(disk: &dyn Disk, dir: &Path, trial: CommitTrial) -> Result<CommitTimes, DiskError> {
    let path = dir.join(TRIAL_FILE);
    remove_if_present(disk, &path)?;
    let file = disk.create_new(&path)?;
    let times = time_on(&*file, trial);
    drop(file);
    disk.remove(&path)?;
    times
}

fn time_on(file: &dyn DiskFile, trial: CommitTrial) -> Result<CommitTimes, DiskError> {
    file.write_at(0, &[0; TRIAL_BLOCK_BYTES * TRIAL_BLOCKS])?;
    file.sync_all()?;
    let block = [0x5a; TRIAL_BLOCK_BYTES];
    let begun = now();
    let mut times = Vec::with_capacity(trial.commits_max);
    loop {
        let started = now();
        let offset = (times.len() % TRIAL_BLOCKS) * TRIAL_BLOCK_BYTES;
        file.write_at(offset as u64, &block)?;
        file.sync_data()?;
        times.push(started.elapsed());
        if times.len() >= trial.commits_max || begun.elapsed() >= trial.time_max {
            times.sort_unstable();
            return Ok(CommitTimes(times));
        }
    }
}

// ===== impl CommitTimes =====

impl CommitTimes {
    /// Returns the duration that the share `quantile` (0 to 1) of the commits did not exceed.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the rank is between 0 and the number of commits"
    )]
    pub fn quantile(&self, quantile: f64) -> Duration {
        let rank = (self.0.len() as f64 * quantile.clamp(0.0, 1.0)).ceil() as usize;
        let index = rank.saturating_sub(1).min(self.0.len().saturating_sub(1));
        let Some(time) = self.0.get(index) else {
            panic!("at least one commit is measured");
        };
        *time
    }

    /// Returns the number of measured commits.
    #[must_use]
    pub const fn commits(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_duration_at_its_rank() {
        let times = CommitTimes((1..=200).map(Duration::from_millis).collect());
        assert_eq!(times.quantile(0.5), Duration::from_millis(100));
        assert_eq!(times.quantile(0.99), Duration::from_millis(198));
        assert_eq!(times.quantile(0.0), Duration::from_millis(1));
        assert_eq!(times.quantile(1.0), Duration::from_millis(200));
    }
}
