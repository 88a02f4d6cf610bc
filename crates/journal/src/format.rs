//! The file `FORMAT` of a data directory: what all blocks and files of the directory have in common.

use std::path::Path;

use crate::{
    block::DataId,
    error::{FormatDefect, JournalError},
    geometry::{Geometry, JournalConfig},
};

/// The store to which a data directory belongs. Only this store appends to its journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StoreKind {
    /// The embedded store: the ledger has only this directory.
    #[default]
    Embedded,
    /// The replicated store: the directory is a copy of a replicated log. Only blocks that the log has accepted belong in it.
    Replicated,
}

/// The content of `FORMAT`. The data id, the hash seed and the sizes are set when the directory is made, and never change. The store
/// changes when a ledger becomes a replicated one, or is detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DirectoryFormat {
    pub(super) store: StoreKind,
    pub(super) data_id: DataId,
    pub(super) hash_seed: u64,
    pub(super) geometry: Geometry,
}

/// Why bytes are not the content of `FORMAT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FormatTextDefect {
    Malformed,
    /// The text has this version, which this program does not support.
    Version(u32),
}

/// Version of the layout of a data directory.
///
/// Version 6 added the links of records. Version 7 added the last update of an account to waypoints, the directories of the replicated
/// store, and the term, writer and kind of a block.
pub const DIRECTORY_FORMAT_VERSION: u32 = 7;

/// First line of `FORMAT`. The file is text, so an operator can read it in a damaged directory.
const FORMAT_TITLE: &str = "tally data directory";
const EMBEDDED: &str = "embedded";
const REPLICATED: &str = "replicated";

// ===== impl DirectoryFormat =====

impl DirectoryFormat {
    pub(super) fn render(&self) -> String {
        let mut text = format!(
            "{FORMAT_TITLE}\nformat_version = {DIRECTORY_FORMAT_VERSION}\nstore = {}\ndata_id = {}\nhash_seed = {:016x}\n\
             segment_bytes = {}\nblock_bytes_max = {}\n",
            match self.store {
                StoreKind::Embedded => EMBEDDED,
                StoreKind::Replicated => REPLICATED,
            },
            self.data_id,
            self.hash_seed,
            self.geometry.segment_bytes(),
            self.geometry.block_bytes_max(),
        );
        let checksum = crc32c::crc32c(text.as_bytes());
        text.push_str(&format!("crc32c = {checksum:08x}\n"));
        text
    }

    /// Reads the content of the file `path`.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, JournalError> {
        DirectoryFormat::parse_text(bytes).map_err(|defect| match defect {
            FormatTextDefect::Malformed => JournalError::Format {
                path: path.to_path_buf(),
                defect: FormatDefect::Malformed,
            },
            FormatTextDefect::Version(found) => JournalError::UnsupportedVersion {
                path: path.to_path_buf(),
                found,
                supported: DIRECTORY_FORMAT_VERSION,
            },
        })
    }

    pub(super) fn parse_text(bytes: &[u8]) -> Result<Self, FormatTextDefect> {
        let malformed = FormatTextDefect::Malformed;
        let text = std::str::from_utf8(bytes).map_err(|_| malformed)?;
        let mut lines = text.lines();
        if lines.next() != Some(FORMAT_TITLE) {
            return Err(malformed);
        }
        let mut value = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(" = ");
        let version: u32 = value("format_version")
            .and_then(|digits| digits.parse().ok())
            .ok_or(malformed)?;
        if version != DIRECTORY_FORMAT_VERSION {
            return Err(FormatTextDefect::Version(version));
        }
        let mut parse = || {
            let store = match value("store")? {
                EMBEDDED => StoreKind::Embedded,
                REPLICATED => StoreKind::Replicated,
                _ => return None,
            };
            let data_id = u128::from_str_radix(value("data_id")?, 16).ok()?;
            let hash_seed = u64::from_str_radix(value("hash_seed")?, 16).ok()?;
            let segment_bytes = value("segment_bytes")?.parse().ok()?;
            let block_bytes_max = value("block_bytes_max")?.parse().ok()?;
            let geometry = JournalConfig {
                segment_bytes,
                block_bytes_max,
            }
            .validate()
            .ok()?;
            Some(DirectoryFormat {
                store,
                data_id: DataId::from_bytes(data_id.to_be_bytes()),
                hash_seed,
                geometry,
            })
        };
        let format = parse().ok_or(malformed)?;
        // The decoded values determine the whole text, so this comparison checks the checksum and every line.
        if format.render() == text {
            Ok(format)
        } else {
            Err(malformed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format() -> DirectoryFormat {
        let config = JournalConfig {
            segment_bytes: 8192,
            block_bytes_max: 1024,
        };
        DirectoryFormat {
            store: StoreKind::Embedded,
            data_id: DataId::from_bytes([0x0a; 16]),
            hash_seed: 0x1234,
            geometry: config.validate().unwrap(),
        }
    }

    #[test]
    fn the_format_file_stays_readable() {
        let text = "tally data directory\nformat_version = 7\nstore = embedded\ndata_id = 0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a\n\
                    hash_seed = 0000000000001234\nsegment_bytes = 8192\nblock_bytes_max = 1024\ncrc32c = ab041568\n";
        assert_eq!(format().render(), text);
        assert_eq!(
            DirectoryFormat::parse(Path::new("FORMAT"), text.as_bytes()).unwrap(),
            format()
        );
    }

    #[test]
    fn every_changed_byte_of_the_format_file_is_detected() {
        let text = format().render();
        for index in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[index] ^= 1;
            assert!(
                DirectoryFormat::parse(Path::new("FORMAT"), &bytes).is_err(),
                "byte {index}"
            );
        }
        assert!(DirectoryFormat::parse(Path::new("FORMAT"), &text.as_bytes()[..text.len() - 1]).is_err());
    }

    #[test]
    fn another_version_is_reported_as_a_version_and_not_as_damage() {
        for other in [6, 8] {
            let text = format()
                .render()
                .replace("format_version = 7", &format!("format_version = {other}"));
            let error = DirectoryFormat::parse(Path::new("FORMAT"), text.as_bytes()).unwrap_err();
            assert!(
                matches!(error, JournalError::UnsupportedVersion { found, supported: 7, .. } if found == other),
                "{error}"
            );
            assert!(error.to_string().contains("reads version 7 only"), "{error}");
        }
    }
}
