//! How long a commit takes on this disk: the journal's own pattern, tried on a file beside it.

use std::{path::Path, time::Duration};

use crate::{
    disk::{Disk, DiskError, DiskFile},
    stopwatch::now,
};

/// How many commits are timed, and for how long at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitTrial {
    /// Most commits, at least 1.
    pub commits_max: usize,
    /// No further commit is begun after this time.
    pub time_max: Duration,
}

/// What commits took, sorted; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitTimes(Vec<Duration>);

/// The file of a trial. It is removed at its end; one that a crash left behind is written over.
const TRIAL_FILE: &str = "commit-trial.tmp";
/// A small block: what a lone transaction makes.
const TRIAL_BLOCK_BYTES: usize = 4096;
/// Blocks that the file has room for; it is written full of zeros first, as segments are.
const TRIAL_BLOCKS: usize = 16;

/// Times commits in the directory `dir`: a small write into a file that was written full of zeros, and one sync.
///
/// # Errors
/// When the disk refuses. The file may be left behind then.
pub fn time_commits(disk: &dyn Disk, dir: &Path, trial: CommitTrial) -> Result<CommitTimes, DiskError> {
    let path = dir.join(TRIAL_FILE);
    let file = match disk.remove(&path) {
        Ok(()) => disk.create_new(&path)?,
        Err(error) if error.is_not_found() => disk.create_new(&path)?,
        Err(error) => return Err(error),
    };
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
    /// The time that the share `quantile` (0 to 1) of the commits did not exceed.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a number of commits is a number of commits"
    )]
    pub fn quantile(&self, quantile: f64) -> Duration {
        let rank = (self.0.len() as f64 * quantile.clamp(0.0, 1.0)).ceil() as usize;
        let index = rank.saturating_sub(1).min(self.0.len().saturating_sub(1));
        self.0.get(index).copied().unwrap_or_default()
    }

    /// How many commits were timed.
    #[must_use]
    pub const fn commits(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_ranks() {
        let times = CommitTimes((1..=200).map(Duration::from_millis).collect());
        assert_eq!(times.quantile(0.5), Duration::from_millis(100));
        assert_eq!(times.quantile(0.99), Duration::from_millis(198));
        assert_eq!(times.quantile(0.0), Duration::from_millis(1));
        assert_eq!(times.quantile(1.0), Duration::from_millis(200));
    }
}
