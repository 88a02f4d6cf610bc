//! Tests that `tally verify --expect` finds changes that `tally verify` alone can't find: a forger has computed all checksums and hashes
//! again.

use std::{fs, path::Path, process::Command};

use crate::{
    store::process::{result_of, server_with_transactions},
    support::server::BINARY,
};

const HEADER_BYTES: usize = 128;
/// The first blocks of a directory are in this file.
const SEGMENT: &str = "journal/0000000000.segment";

/// A forger, who changes the only segment of a journal and computes every checksum and hash again.
struct Forger {
    segment: Vec<u8>,
}

// ===== impl Forger =====

impl Forger {
    fn open(data: &Path) -> Self {
        // The marker of a clean stop and the checkpoints contain a hash. A start does not need them.
        for name in ["journal/CLEAN", "checkpoint"] {
            let path = data.join(name);
            if path.is_dir() {
                fs::remove_dir_all(&path).unwrap();
                fs::create_dir(&path).unwrap();
            } else if path.exists() {
                fs::remove_file(&path).unwrap();
            }
        }
        Forger {
            segment: fs::read(data.join(SEGMENT)).unwrap(),
        }
    }

    fn write(&self, data: &Path) {
        fs::write(data.join(SEGMENT), &self.segment).unwrap();
    }

    fn number<const N: usize>(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes[..N].copy_from_slice(&self.segment[at..at + N]);
        u64::from_le_bytes(bytes)
    }

    /// Returns the offset and the length of each block.
    fn blocks(&self) -> Vec<(usize, usize)> {
        let (mut blocks, mut at) = (Vec::new(), 0);
        while self.segment[at..].starts_with(b"TLYB") {
            let length = HEADER_BYTES + usize::try_from(self.number::<4>(at + 44)).unwrap();
            blocks.push((at, length));
            at += length.next_multiple_of(8);
        }
        blocks
    }

    /// Replaces the only occurrence of `from` in the bodies of the blocks by `to`, and computes the checksum of the record again.
    fn replace(&mut self, from: &[u8], to: &[u8]) {
        let mut found = Vec::new();
        for (at, length) in self.blocks() {
            let body = at + HEADER_BYTES..at + length;
            let mut record = body.start;
            while record < body.end {
                let (length, digits) = varint(&self.segment[record..]);
                let end = record + digits + length;
                let bytes = &self.segment[record..end];
                found.extend(
                    (0..bytes.len())
                        .filter(|start| bytes[*start..].starts_with(from))
                        .map(|start| (record, record + start, end)),
                );
                record = end;
            }
        }
        let [(record, start, end)] = found.as_slice() else {
            panic!("{found:?}")
        };
        let (record, start, end) = (*record, *start, *end);
        self.segment[start..start + to.len()].copy_from_slice(to);
        let seed = u32::try_from(record).unwrap();
        let crc = crc32c(seed, &self.segment[record..end - 4]);
        self.segment[end - 4..end].copy_from_slice(&crc.to_le_bytes());
    }

    /// Computes the checksums of all blocks again, and the hash of the previous block in each block.
    fn chain(&mut self) {
        let mut previous: Option<[u8; 32]> = None;
        for (at, length) in self.blocks() {
            if let Some(hash) = previous {
                self.segment[at + 72..at + 104].copy_from_slice(&hash);
            }
            let crc = crc32c(0, &self.segment[at + HEADER_BYTES..at + length]);
            self.segment[at + 104..at + 108].copy_from_slice(&crc.to_le_bytes());
            let crc = crc32c(0, &self.segment[at..at + 124]);
            self.segment[at + 124..at + 128].copy_from_slice(&crc.to_le_bytes());
            previous = Some(*blake3::hash(&self.segment[at..at + length]).as_bytes());
        }
    }

    /// Removes the last block.
    fn cut(&mut self) {
        let (at, _) = self.blocks().pop().unwrap();
        self.segment[at..].fill(0);
    }
}

/// Returns a varint and its length.
fn varint(bytes: &[u8]) -> (usize, usize) {
    let (mut value, mut digits) = (0, 0);
    loop {
        let byte = usize::from(bytes[digits]);
        value |= (byte & 0x7f) << (7 * digits);
        digits += 1;
        if byte < 0x80 {
            return (value, digits);
        }
    }
}

/// CRC-32C, continued from `seed`, as the crate `crc32c` computes it.
fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    let mut crc = !seed;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

fn verify(data: &Path, expected: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(BINARY);
    command.arg("verify").arg(data);
    for head in expected {
        command.args(["--expect", head]);
    }
    result_of(&command.output().unwrap())
}

/// Returns the head that `tally verify` prints.
fn head_of(data: &Path) -> String {
    let (code, text) = verify(data, &[]);
    assert_eq!(code, Some(0), "{text}");
    let head = text.lines().find_map(|line| line.strip_prefix("head"));
    head.expect("a head").trim().to_owned()
}

fn copy(data: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").arg(data).arg(to).status();
    assert!(copied.unwrap().success());
}

#[tokio::test]
async fn a_forged_journal_is_sound_but_does_not_have_the_head_that_was_kept() {
    let mut server = server_with_transactions().await;
    let printed = server.tally(&["head"]);
    assert!(printed.status.success(), "{printed:?}");
    let kept = String::from_utf8(printed.stdout).unwrap();
    let kept = kept
        .lines()
        .next()
        .unwrap()
        .strip_prefix("head")
        .unwrap()
        .trim()
        .to_owned();
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    let data = server.data();
    assert_eq!(head_of(data), kept);
    let (code, text) = verify(data, &[&kept]);
    let block = kept.split(':').next().unwrap();
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains(&format!("expected         block {block} has this hash\n")),
        "{text}"
    );

    // Somebody renames a transaction in the middle of the journal.
    let home = tempfile::tempdir().unwrap();
    let forged = home.path().join("forged");
    copy(data, &forged);
    let mut forger = Forger::open(&forged);
    forger.replace(b"t7", b"u7");
    forger.write(&forged);
    let (code, text) = verify(&forged, &[]);
    assert_eq!(
        code,
        Some(1),
        "without the right hashes, the change is damage: {text}"
    );
    forger.chain();
    forger.write(&forged);
    let other = head_of(&forged);
    assert_ne!(other, kept);
    let (code, text) = verify(&forged, &[&other, &kept]);
    assert_eq!(code, Some(1), "{text}");
    for words in [
        &format!("expected         block {block} has this hash\n"),
        &format!("NOT EXPECTED     block {block} has the hash "),
        "not sound: this is not the journal from which an expected head was taken",
    ] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    // A head of a block before the change is still the same.
    let first = first_head(data);
    assert_eq!(verify(&forged, &[&first]).0, Some(0));

    // Somebody removes the last block.
    let cut = home.path().join("cut");
    copy(data, &cut);
    let mut forger = Forger::open(&cut);
    forger.cut();
    forger.write(&cut);
    assert_ne!(head_of(&cut), kept);
    let (code, text) = verify(&cut, &[&kept]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("blocks are missing"), "{text}");
}

/// Returns the head of the first block.
fn first_head(data: &Path) -> String {
    let forger = Forger {
        segment: fs::read(data.join(SEGMENT)).unwrap(),
    };
    let (at, length) = forger.blocks()[0];
    format!("1:{}", blake3::hash(&forger.segment[at..at + length]).to_hex())
}
