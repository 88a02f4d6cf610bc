//! The section `store` of the configuration: the kind of store, the path of the data directory, the sizes of the journal, and how often
//! the store writes checkpoints and scrubs.

use std::{ops::RangeInclusive, path::PathBuf};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use tally_journal::{BLOCKS_PER_SEGMENT_MIN, JournalError, SEGMENT_GRANULE_BYTES};
use tally_ledger::HOLDS_MAX_DEFAULT;

use super::{
    embedded::{BLOCK_BYTES_MIN, StoreConfig},
    replicated::{ReplicatedConfig, ReplicatedSettings},
};
use crate::settings::{SettingError, bytes_text, range_text, serialize_bytes};

/// The section `store` of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSettings {
    /// The kind of store. With `embedded`, the ledger is in the data directory of one process. With `replicated`, several processes
    /// hold it, and `[store.replicated]` says how they replicate it.
    pub kind: StoreKind,
    /// The path of the data directory. A missing directory is created.
    pub data: PathBuf,
    /// Size of a journal segment: a multiple of 4 KiB, 8 MiB to 1 GiB. An existing directory keeps the size that it was created with.
    #[serde(serialize_with = "serialize_bytes")]
    pub segment_bytes: ByteSize,
    /// Largest block, 2 MiB to a quarter of a segment. An existing directory keeps the size that it was created with.
    #[serde(serialize_with = "serialize_bytes")]
    pub block_bytes_max: ByteSize,
    /// Minimum number of bytes that are appended to the journal between two checkpoints, 1 MiB to 1 TiB. If four times
    /// the size of the last checkpoint is more, that many bytes are appended. A start replays the bytes after the
    /// last checkpoint.
    #[serde(serialize_with = "serialize_bytes")]
    pub checkpoint_bytes: ByteSize,
    /// Bytes of the journal that the scrub reads per second to find damage: 64 KiB to 1 GiB, or 0 to turn the scrub
    /// off.
    #[serde(serialize_with = "serialize_bytes")]
    pub scrub_bytes_per_second: ByteSize,
    /// Maximum number of outstanding holds, 0 to 100000000. A hold takes at most 64 bytes of memory. When there are as many, new
    /// holds are refused with HOLDS_FULL until one ends.
    pub holds_max: usize,
    /// The replicated store.
    pub replicated: ReplicatedSettings,
}

/// The kind of store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// One process, whose ledger is in its data directory.
    #[default]
    Embedded,
    /// Several processes with the same ledger. Their blocks go through a log.
    Replicated,
}

/// The default of [`StoreSettings::checkpoint_bytes`].
pub const CHECKPOINT_BYTES: u64 = 256 << 20;
/// The default of [`StoreSettings::scrub_bytes_per_second`]. At this rate, the scrub reads a segment of 64 MiB in 16 s.
pub const SCRUB_BYTES_PER_SECOND: u64 = 4 << 20;

/// Greatest value of [`StoreSettings::holds_max`].
const HOLDS_MAX_HIGHEST: usize = 100_000_000;
/// Allowed values of [`StoreSettings::checkpoint_bytes`].
const CHECKPOINT_BYTES_BOUNDS: RangeInclusive<u64> = 1 << 20..=1 << 40;
/// Allowed values of [`StoreSettings::segment_bytes`]. A segment of the smallest size has space for four blocks of the
/// smallest size.
const SEGMENT_BYTES_BOUNDS: RangeInclusive<u64> = 8 << 20..=1 << 30;
/// Greatest value of [`StoreSettings::block_bytes_max`] in a replicated store. A request to the brokers has at most 8 MiB.
pub const REPLICATED_BLOCK_BYTES_MAX: u64 = 7 << 20;
/// Allowed values of [`StoreSettings::scrub_bytes_per_second`] other than 0, in bytes per second. With a lower rate, a
/// pass over a large journal would take months. A disk cannot read much faster than the highest rate.
const SCRUB_RATES: RangeInclusive<u64> = 64 << 10..=1 << 30;

// ===== impl StoreSettings =====

impl Default for StoreSettings {
    fn default() -> Self {
        let store = StoreConfig::default();
        StoreSettings {
            kind: StoreKind::Embedded,
            data: PathBuf::from("./tally-data"),
            segment_bytes: ByteSize(store.segment_bytes.into()),
            block_bytes_max: ByteSize(store.block_bytes_max.into()),
            checkpoint_bytes: ByteSize(CHECKPOINT_BYTES),
            scrub_bytes_per_second: ByteSize(SCRUB_BYTES_PER_SECOND),
            holds_max: HOLDS_MAX_DEFAULT,
            replicated: ReplicatedSettings::default(),
        }
    }
}

impl StoreSettings {
    /// Checks the section, and returns the sizes for a new data directory.
    ///
    /// # Errors
    /// [`SettingError`] for the first key that is out of bounds.
    pub fn config(&self) -> Result<StoreConfig, SettingError> {
        if self.data.as_os_str().is_empty() {
            return Err(SettingError::new("store.data", "\"\"", "the path of a directory"));
        }
        let refused = |key: &str, value: ByteSize, bound: String| {
            SettingError::new(format!("store.{key}"), bytes_text(value.0), bound)
        };
        let segment = self.segment_bytes;
        if !SEGMENT_BYTES_BOUNDS.contains(&segment.0)
            || !segment.0.is_multiple_of(SEGMENT_GRANULE_BYTES.into())
        {
            let bound = "a multiple of 4KiB, 8MiB to 1GiB".to_owned();
            return Err(refused("segment_bytes", segment, bound));
        }
        let block_max = segment.0 / u64::from(BLOCKS_PER_SEGMENT_MIN);
        if !(u64::from(BLOCK_BYTES_MIN)..=block_max).contains(&self.block_bytes_max.0) {
            let sizes = range_text(&bytes_text(BLOCK_BYTES_MIN.into()), &bytes_text(block_max));
            let bound = format!("{sizes}, a quarter of store.segment_bytes");
            return Err(refused("block_bytes_max", self.block_bytes_max, bound));
        }
        if !CHECKPOINT_BYTES_BOUNDS.contains(&self.checkpoint_bytes.0) {
            let bound = "1MiB to 1TiB".to_owned();
            return Err(refused("checkpoint_bytes", self.checkpoint_bytes, bound));
        }
        let scrub = self.scrub_bytes_per_second;
        if scrub.0 != 0 && !SCRUB_RATES.contains(&scrub.0) {
            let bound = "0, or 64KiB to 1GiB".to_owned();
            return Err(refused("scrub_bytes_per_second", scrub, bound));
        }
        if self.holds_max > HOLDS_MAX_HIGHEST {
            let bound = range_text("0", &HOLDS_MAX_HIGHEST.to_string());
            return Err(SettingError::new("store.holds_max", self.holds_max, bound));
        }
        let size = |key: &str, size: ByteSize| {
            u32::try_from(size.0).map_err(|_| refused(key, size, "at most 1GiB".to_owned()))
        };
        let config = StoreConfig {
            segment_bytes: size("segment_bytes", self.segment_bytes)?,
            block_bytes_max: size("block_bytes_max", self.block_bytes_max)?,
        };
        self.replicated()?;
        match config.validate() {
            Ok(_geometry) => Ok(config),
            Err(JournalError::Config { field, value, bound }) => {
                Err(SettingError::new(format!("store.{field}"), value, bound))
            }
            Err(error) => Err(SettingError::new("store", &error, "sizes that a journal allows")),
        }
    }

    /// Checks the key `replicated`, and returns its settings if the store is replicated.
    ///
    /// # Errors
    /// [`SettingError`] for the first key that is out of bounds, or that a replicated store needs.
    pub fn replicated(&self) -> Result<Option<ReplicatedConfig>, SettingError> {
        match self.kind {
            StoreKind::Embedded => self.replicated.check().map(|()| None),
            StoreKind::Replicated => {
                let largest = self.block_bytes_max;
                if largest.0 > REPLICATED_BLOCK_BYTES_MAX {
                    let bound = format!(
                        "at most {}, because store.kind is replicated and a block must fit a request to the brokers",
                        bytes_text(REPLICATED_BLOCK_BYTES_MAX)
                    );
                    return Err(SettingError::new(
                        "store.block_bytes_max",
                        bytes_text(largest.0),
                        bound,
                    ));
                }
                self.replicated.config().map(Some)
            }
        }
    }
}
