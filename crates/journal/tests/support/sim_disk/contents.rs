//! The bytes of a file of the simulated disk: as a process reads them, and as they survive a crash.

use std::ops::Range;

use super::{
    FaultCounts,
    plan::CrashModel,
    random::{Digest, SplitMix64},
};

#[derive(Default)]
pub(super) struct SimContents {
    /// The bytes that a process reads.
    view: Vec<u8>,
    /// The bytes that survive every crash. Never longer than `view`.
    durable: Vec<u8>,
    /// The ranges of the writes since the last sync, in their order.
    unsynced: Vec<Range<usize>>,
    /// The bytes of the unsynced writes, one after the other. A later write may overwrite them in `view`, and a crash
    /// may keep the earlier bytes.
    unsynced_bytes: Vec<u8>,
    /// The ranges in which `view` may differ from `durable` because of a failed sync.
    divergent: Vec<Range<usize>>,
    /// The sectors of which at least one byte was synced.
    synced: Sectors,
}

/// What decides about unsynced bytes.
pub(super) struct Chance<'a> {
    pub(super) random: &'a mut SplitMix64,
    pub(super) model: CrashModel,
    pub(super) counts: &'a mut FaultCounts,
}

/// A set of sectors, one bit for each.
#[derive(Default)]
struct Sectors {
    bits: Vec<u64>,
}

/// Length of a sector, in bytes. A disk writes it as a whole, unless the crash tears it.
pub(super) const SECTOR_BYTES: usize = 512;
/// Capacity of the buffer of unsynced bytes that a file keeps after a sync.
const KEPT_CAPACITY_BYTES: usize = 64 << 10;

// ===== impl SimContents =====

impl SimContents {
    /// Makes a file that contains these bytes, durably.
    pub(super) fn durable_from(bytes: &[u8]) -> Self {
        let mut contents = SimContents::default();
        contents.change(|durable| *durable = bytes.to_vec());
        contents
    }

    pub(super) fn view(&self) -> &[u8] {
        &self.view
    }

    pub(super) fn durable(&self) -> &[u8] {
        &self.durable
    }

    pub(super) fn into_durable(self) -> Vec<u8> {
        self.durable
    }

    pub(super) fn has_unsynced_writes(&self) -> bool {
        !self.unsynced.is_empty()
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = usize::try_from(offset).unwrap();
        put(&mut self.view, start, bytes);
        self.unsynced.push(start..start + bytes.len());
        self.unsynced_bytes.extend_from_slice(bytes);
    }

    pub(super) fn sync(&mut self) {
        let mut at = 0;
        for range in self.unsynced.drain(..) {
            put(
                &mut self.durable,
                range.start,
                &self.unsynced_bytes[at..at + range.len()],
            );
            at += range.len();
            self.synced.add(range);
        }
        self.unsynced_bytes.clear();
        if self.unsynced_bytes.capacity() > KEPT_CAPACITY_BYTES {
            self.unsynced_bytes.shrink_to(KEPT_CAPACITY_BYTES);
        }
    }

    /// Applies a failed sync: a random part of the unsynced bytes becomes durable, and no later sync writes the other
    /// bytes.
    pub(super) fn fail_sync(&mut self, chance: &mut Chance<'_>) {
        self.make_some_durable(chance, |_| ());
    }

    /// Applies a crash: a random part of the unsynced bytes becomes durable, and the other bytes are lost. Calls `lost`
    /// with each part of a sector that is lost and in which no byte was ever synced.
    pub(super) fn crash(
        &mut self,
        chance: &mut Chance<'_>,
        digest: &mut Digest,
        lost: impl FnMut(Range<usize>),
    ) {
        self.make_some_durable(chance, lost);
        for range in self.divergent.drain(..) {
            let end = range.end.min(self.durable.len());
            let start = range.start.min(end);
            self.view[start..end].copy_from_slice(&self.durable[start..end]);
            digest.add_bytes(&self.durable[start..end]);
        }
        self.view.truncate(self.durable.len());
    }

    /// Puts bytes that no process wrote there onto the disk.
    pub(super) fn put_durable(&mut self, start: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.synced.add(start..start + bytes.len());
        put(&mut self.durable, start, bytes);
        put(&mut self.view, start, bytes);
    }

    /// Flips a bit on the disk. A process reads the flipped bit, unless it reads a byte that is not durable.
    pub(super) fn flip(&mut self, byte: usize, bit: u32) {
        let is_durable = self.view[byte] == self.durable[byte];
        self.durable[byte] ^= 1 << bit;
        if is_durable {
            self.view[byte] = self.durable[byte];
        }
    }

    /// Changes the durable bytes without an operation of the disk. There must be no unsynced writes.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.durable);
        self.view = self.durable.clone();
        self.divergent.clear();
        if !self.durable.is_empty() {
            self.synced.add(0..self.durable.len());
        }
    }

    /// Makes a random part of the unsynced sectors durable, and forgets the other sectors. Draws a number n from 0 to
    /// 8, and keeps each sector with the probability n / 8.
    fn make_some_durable(&mut self, chance: &mut Chance<'_>, mut lost: impl FnMut(Range<usize>)) {
        if self.unsynced.is_empty() {
            return;
        }
        let kept_of_8 = chance.random.below(9);
        let mut at = 0;
        for write in std::mem::take(&mut self.unsynced) {
            let mut start = write.start;
            while start < write.end {
                let sector = start / SECTOR_BYTES;
                let end = write.end.min((sector + 1) * SECTOR_BYTES);
                let bytes = at..at + (end - start);
                at = bytes.end;
                if chance.random.happens(chance.model.torn_sectors) {
                    let torn_at = chance.random.length_below(bytes.len() + 1);
                    let prefix = chance.random.below(2) == 0;
                    let kept = if prefix { 0..torn_at } else { torn_at..bytes.len() };
                    self.keep(
                        start,
                        bytes.start + kept.start..bytes.start + kept.end,
                        kept.start,
                    );
                    chance.counts.torn_sectors += 1;
                } else if chance.random.below(8) < kept_of_8 {
                    self.keep(start, bytes, 0);
                } else {
                    chance.counts.lost_sectors += 1;
                    if !self.synced.has(sector) {
                        lost(sector * SECTOR_BYTES..self.view.len().min((sector + 1) * SECTOR_BYTES));
                    }
                }
                start = end;
            }
            self.divergent.push(write);
        }
        self.unsynced_bytes.clear();
    }

    /// Makes a part of the unsynced bytes durable, `skipped` bytes after `start`.
    fn keep(&mut self, start: usize, bytes: Range<usize>, skipped: usize) {
        if bytes.is_empty() {
            return;
        }
        let to = start + skipped;
        self.synced.add(to..to + bytes.len());
        put(&mut self.durable, to, &self.unsynced_bytes[bytes]);
    }
}

fn put(contents: &mut Vec<u8>, start: usize, bytes: &[u8]) {
    let end = start + bytes.len();
    if contents.len() == start {
        contents.extend_from_slice(bytes);
        return;
    }
    if contents.len() < end {
        contents.resize(end, 0);
    }
    contents[start..end].copy_from_slice(bytes);
}

// ===== impl Sectors =====

impl Sectors {
    /// Adds the sectors of a range of bytes, which must not be empty.
    fn add(&mut self, bytes: Range<usize>) {
        let (first, last) = (bytes.start / SECTOR_BYTES, (bytes.end - 1) / SECTOR_BYTES);
        if self.bits.len() <= last / 64 {
            self.bits.resize(last / 64 + 1, 0);
        }
        for sector in first..=last {
            self.bits[sector / 64] |= 1 << (sector % 64);
        }
    }

    fn has(&self, sector: usize) -> bool {
        self.bits
            .get(sector / 64)
            .is_some_and(|bits| *bits & (1 << (sector % 64)) != 0)
    }
}
