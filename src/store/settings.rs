//! The section `store` of the configuration: the path of the data directory, the sizes of the journal, and how often
//! the store writes checkpoints and scrubs.

use std::{ops::RangeInclusive, path::PathBuf};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use tally_journal::JournalError;

use super::embedded::{BLOCK_BYTES_MIN, StoreConfig};
use crate::settings::{SettingError, check};

/// The section `store` of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSettings {
    /// The path of the data directory. A missing directory is created.
    pub data: PathBuf,
    /// Size of a journal segment, 8 MiB to 1 GiB. An existing directory keeps the size that it was created with.
    pub segment_bytes: ByteSize,
    /// Largest block, 2 MiB to a quarter of a segment. An existing directory keeps the size that it was created with.
    pub block_bytes_max: ByteSize,
    /// Bytes that are appended to the journal between two checkpoints, at least 1 MiB. A start replays about this many
    /// bytes at most.
    pub checkpoint_bytes: ByteSize,
    /// Bytes of the journal that the scrub reads per second to find damage: 64 KiB to 1 GiB, or 0 to turn the scrub
    /// off.
    pub scrub_bytes_per_second: ByteSize,
}

/// The default of [`StoreSettings::checkpoint_bytes`].
pub const CHECKPOINT_BYTES: u64 = 256 << 20;
/// The default of [`StoreSettings::scrub_bytes_per_second`]. At this rate, the scrub reads a segment of 64 MiB in 16 s.
pub const SCRUB_BYTES_PER_SECOND: u64 = 4 << 20;

/// Smallest [`StoreSettings::checkpoint_bytes`], in bytes.
const CHECKPOINT_BYTES_MIN: u64 = 1 << 20;
/// Allowed values of [`StoreSettings::scrub_bytes_per_second`] other than 0, in bytes per second. With a lower rate, a
/// pass over a large journal would take months. A disk cannot read much faster than the highest rate.
const SCRUB_RATES: RangeInclusive<u64> = 64 << 10..=1 << 30;

// ===== impl StoreSettings =====

impl Default for StoreSettings {
    fn default() -> Self {
        let store = StoreConfig::default();
        StoreSettings {
            data: PathBuf::from("./tally-data"),
            segment_bytes: ByteSize(store.segment_bytes.into()),
            block_bytes_max: ByteSize(store.block_bytes_max.into()),
            checkpoint_bytes: ByteSize(CHECKPOINT_BYTES),
            scrub_bytes_per_second: ByteSize(SCRUB_BYTES_PER_SECOND),
        }
    }
}

impl StoreSettings {
    /// Checks the section, and returns the sizes for a new data directory.
    ///
    /// # Errors
    /// [`SettingError`] for the first key that is out of bounds.
    pub fn config(&self) -> Result<StoreConfig, SettingError> {
        let at_least = |key: &str, value: ByteSize, min: u64, bound: &str| {
            check(key, value, &(ByteSize(min)..=ByteSize(u64::MAX)), bound)
        };
        at_least(
            "store.block_bytes_max",
            self.block_bytes_max,
            BLOCK_BYTES_MIN.into(),
            "at least 2 MiB",
        )?;
        at_least(
            "store.checkpoint_bytes",
            self.checkpoint_bytes,
            CHECKPOINT_BYTES_MIN,
            "at least 1 MiB",
        )?;
        let scrub = self.scrub_bytes_per_second;
        if scrub.0 != 0 && !SCRUB_RATES.contains(&scrub.0) {
            let bound = "0, or 64 KiB to 1 GiB";
            return Err(SettingError::new("store.scrub_bytes_per_second", scrub, bound));
        }
        let size = |key: &str, size: ByteSize| {
            u32::try_from(size.0).map_err(|_| SettingError::new(key, size, "at most 1 GiB"))
        };
        let config = StoreConfig {
            segment_bytes: size("store.segment_bytes", self.segment_bytes)?,
            block_bytes_max: size("store.block_bytes_max", self.block_bytes_max)?,
        };
        match config.validate() {
            Ok(_geometry) => Ok(config),
            Err(JournalError::Config { field, value, bound }) => {
                Err(SettingError::new(format!("store.{field}"), value, bound))
            }
            Err(error) => Err(SettingError::new("store", &error, "sizes that a journal allows")),
        }
    }
}
