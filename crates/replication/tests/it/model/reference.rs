//! A second implementation of the rule by which a reader of the log accepts or skips a record. It is independent of the
//! code under test, and finds the chain that a log contains.

use tally_replication::{BlockFacts, BlockKind};

/// Returns the indexes of the accepted records of `log`, without genesis, which is the first record.
pub(crate) fn chain<'a>(log: impl Iterator<Item = &'a BlockFacts>) -> Vec<usize> {
    let mut accepted = Vec::new();
    let mut last: Option<&BlockFacts> = None;
    for (at, block) in log.enumerate() {
        let Some(before) = last else {
            assert_eq!(block.kind, BlockKind::Genesis);
            last = Some(block);
            continue;
        };
        let continues = block.number == before.number + 1 && block.previous == before.hash;
        let same_writer = (block.term, block.writer) == (before.term, before.writer);
        let new_leader = block.kind == BlockKind::Claim && block.term > before.term;
        if before.kind != BlockKind::End && continues && (same_writer || new_leader) {
            accepted.push(at);
            last = Some(block);
        }
    }
    accepted
}
