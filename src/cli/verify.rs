//! `tally verify`: checks a data directory.

use std::{
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use tally_journal::{BlockRun, Disk, JournalError, RealDisk};

use super::{
    exit::{self, Failure},
    head::{ChainHead, chain_head},
};
use crate::{
    store::embedded::{self, DirectoryReport, OpenError},
    terminal::file_advice,
};

/// Options of `tally verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The data directory.
    #[arg(default_value = "./tally-data")]
    data: PathBuf,
    /// A head that was kept earlier: the number of a block and its hash, as `tally head` and `tally verify` print them (hexadecimal, or base64
    /// as in JSON). The check fails
    /// if the journal does not contain this block with this hash. Can be repeated.
    #[arg(long, value_name = "BLOCK:HASH", value_parser = chain_head)]
    expect: Vec<ChainHead>,
}

/// The remedy for a directory that is not sound.
const REMEDY: &str = "not sound: nothing was changed; keep this directory for analysis, and restore a backup (docs/operations.md)";
const OTHER_JOURNAL: &str = "not sound: this is not the journal from which an expected head was taken, or it was changed or cut since; keep this \
     directory for analysis, and restore a backup from before that (docs/trust.md)";
const DERIVED_FILES_DIFFER: &str = "not sound, but the journal is undamaged and no transaction is lost: stop the service, keep a copy of the checkpoints and \
     id files that differ, and remove them; a start makes them again from the journal (docs/operations.md)";

/// Maximum number of foreign files that the report names.
const FOREIGN_FILES_SHOWN_MAX: usize = 8;

pub(super) fn run(args: &VerifyArgs) -> ExitCode {
    if let Err(failure) = check_directory(&args.data) {
        return failure.report();
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let blocks: Vec<u64> = args.expect.iter().map(|head| head.block).collect();
    match embedded::verify_blocks(&disk, &args.data, &blocks) {
        Ok(report) => {
            crate::terminal::write_stdout(format_args!("{}", text(&report, &args.expect)));
            let is_sound = report.is_sound() && has_all(&report, &args.expect);
            ExitCode::from(if is_sound { 0 } else { exit::FAILED })
        }
        Err(error) => Failure::from(error).report(),
    }
}

/// Checks that `data` is a directory.
pub(super) fn check_directory(data: &Path) -> Result<(), Failure> {
    match fault(data) {
        Some(message) => Err(Failure::with_message(exit::IO, message)),
        None => Ok(()),
    }
}

/// Returns whether the journal has all expected heads.
fn has_all(report: &DirectoryReport, expected: &[ChainHead]) -> bool {
    expected
        .iter()
        .all(|head| report.block_hashes.get(&head.block) == Some(&head.hash))
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Failure::new(exit_code(&error), &error)
    }
}

/// Returns why `data` is not a directory; `None` if it is one.
fn fault(data: &Path) -> Option<String> {
    let name = data.display();
    match fs::metadata(data) {
        Ok(found) if found.is_dir() => None,
        Ok(_) => Some(format!(
            "{name} is a file, not a directory; name a data directory"
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let advice = file_advice(data, &error);
            Some(format!("{name}: no such directory{advice}"))
        }
        Err(error) => {
            let advice = file_advice(data, &error);
            Some(format!("can't open the directory {name}: {error}{advice}"))
        }
    }
}

/// Returns [`exit::FAILED`] for damage, and [`exit::IO`] for a directory that could not be checked.
const fn exit_code(error: &OpenError) -> u8 {
    if matches!(
        error,
        OpenError::Store(
            JournalError::Format { .. }
                | JournalError::NoJournal { .. }
                | JournalError::NoSegmentNote { .. }
                | JournalError::Corrupt(_)
        )
    ) {
        exit::FAILED
    } else {
        exit::IO
    }
}

/// Returns the report as text: one fact per line, and the verdict in the last line.
fn text(report: &DirectoryReport, expected: &[ChainHead]) -> String {
    let mut lines = Lines::default();
    lines.add("blocks", report.journal.blocks);
    lines.add("bytes", report.journal.bytes);
    lines.add("records", report.journal.records);
    if let (claims @ 1.., Some(last)) = (report.journal.claims, &report.journal.last) {
        lines.add(
            "terms",
            format_args!("{claims} claimed, the last block is of term {}", last.term),
        );
    }
    let is_damaged = report.journal.corruption.is_some();
    let counted = if is_damaged {
        " before the first damage"
    } else {
        ""
    };
    lines.add("transactions", format_args!("{}{counted}", report.last_sequence));
    lines.add("accounts", format_args!("{}{counted}", report.accounts));
    add_assets(&mut lines, report);
    add_heads(&mut lines, report, expected);
    let last_stop = match (report.journal.clean, report.journal.marked) {
        (true, _) => "clean: the last block in the journal is the last one that was written",
        (false, true) => {
            "marked as clean (journal/CLEAN), but the marker is damaged or names another last block"
        }
        (false, false) => {
            "not clean: the service crashed, or this is a copy of a running service's directory"
        }
    };
    if !is_damaged {
        lines.add("last stop", last_stop);
    }
    if let Some(torn) = &report.journal.torn {
        lines.add(
            "torn tail",
            format_args!(
                "{} bytes after the last block: {}. After a crash, these bytes are an incomplete write, and nothing in it was \
                 acknowledged. Damage to the last acknowledged block looks the same. The next start deletes these bytes; if in \
                 doubt, keep a copy",
                torn.remains_bytes, torn.defect
            ),
        );
    }
    if is_damaged {
        add_damage(&mut lines, report);
    }
    for difference in &report.differences {
        lines.add("DIFFERS", difference);
    }
    add_foreign_files(&mut lines, &report.foreign_files);
    let mut text = lines.0;
    text.push_str(verdict(report, expected));
    text.push('\n');
    text
}

/// Warns of files that do not belong to the data directory: a backup copied to a wrong place, or notes.
fn add_foreign_files(lines: &mut Lines, files: &[String]) {
    for file in files.iter().take(FOREIGN_FILES_SHOWN_MAX) {
        lines.add(
            "WARNING",
            format_args!("{file} does not belong to the data directory, and is never read: move it away"),
        );
    }
    let more = files.len().saturating_sub(FOREIGN_FILES_SHOWN_MAX);
    if more > 0 {
        lines.add("WARNING", format_args!("{more} more such files"));
    }
}

/// Returns the last line: whether the directory is sound, and what to do if not.
fn verdict(report: &DirectoryReport, expected: &[ChainHead]) -> &'static str {
    let only_derived_files_differ = report.journal.corruption.is_none()
        && !report.may_lack_blocks
        && report
            .assets
            .values()
            .all(|totals| totals.debits == totals.credits);
    if report.is_sound() && !has_all(report, expected) {
        OTHER_JOURNAL
    } else if report.is_sound() {
        "sound"
    } else if only_derived_files_differ {
        DERIVED_FILES_DIFFER
    } else {
        REMEDY
    }
}

fn add_assets(lines: &mut Lines, report: &DirectoryReport) {
    for (asset, totals) in &report.assets {
        let balanced = if totals.debits == totals.credits {
            "balanced"
        } else {
            "NOT BALANCED"
        };
        let amount =
            |sum: Option<u128>| sum.map_or_else(|| "beyond 128 bits".to_owned(), |sum| sum.to_string());
        lines.add(
            &format!("asset {asset}"),
            format_args!(
                "debits {} credits {}: {balanced}",
                amount(totals.debits),
                amount(totals.credits)
            ),
        );
    }
}

/// Adds the head of the journal if its end is known, and whether the journal has the expected heads.
fn add_heads(lines: &mut Lines, report: &DirectoryReport, expected: &[ChainHead]) {
    // If the journal is damaged, the hash of its end is not certain.
    let end = report.journal.end.as_ref();
    let last = end
        .filter(|_| report.journal.corruption.is_none())
        .map(|end| ChainHead {
            block: end.last_block_sequence(),
            hash: end.previous_hash,
        });
    if let Some(head) = last.filter(|head| head.block > 0) {
        lines.add("head", head);
    }
    for head in expected {
        match (report.block_hashes.get(&head.block), &last) {
            (Some(found), _) if *found == head.hash => {
                lines.add("expected", format_args!("block {} has this hash", head.block));
            }
            (Some(found), _) => lines.add(
                "NOT EXPECTED",
                format_args!(
                    "block {} has the hash {found}, not {}: this block or a block before it was changed",
                    head.block, head.hash
                ),
            ),
            (None, Some(last)) if last.block < head.block => lines.add(
                "NOT EXPECTED",
                format_args!(
                    "the journal ends at block {}, before the expected block {}: blocks are missing",
                    last.block, head.block
                ),
            ),
            (None, _) => lines.add(
                "NOT EXPECTED",
                format_args!(
                    "the hash of block {} is unknown, because the journal is damaged before it",
                    head.block
                ),
            ),
        }
    }
}

/// Adds all damage, and the whole blocks before, between and after the damaged blocks.
fn add_damage(lines: &mut Lines, report: &DirectoryReport) {
    let journal = &report.journal;
    for corruption in journal.corruption.iter().chain(&journal.further_damages) {
        lines.add(
            "CORRUPT",
            format_args!("{}: {}", corruption.place(), corruption.kind),
        );
    }
    if journal.stopped {
        lines.add(
            "CORRUPT",
            "the check stopped at the last damage in this list; the journal after it was not checked",
        );
    }
    add_runs(lines, report);
    lines.add(
        "not compared",
        "checkpoints and id files, because the journal is damaged",
    );
}

/// Adds the runs of whole blocks, and the blocks that are lost before, between and after them.
fn add_runs(lines: &mut Lines, report: &DirectoryReport) {
    // The sequence of the last block before the run, and of the last transaction before the run if it is known.
    let (mut last_block, mut last_sequence) = (0, Some(report.last_sequence));
    if report
        .journal
        .runs
        .first()
        .is_none_or(|run| run.first.block_sequence > 1)
    {
        lines.add("still sound", "nothing: the first block is damaged or lost");
    }
    for BlockRun { first, last } in &report.journal.runs {
        if first.block_sequence > last_block + 1 {
            let (begin, end) = (last_block + 1, first.block_sequence - 1);
            let through = first.first_sequence.saturating_sub(1);
            let transactions = match last_sequence {
                Some(before) if before == through => "no transactions".to_owned(),
                Some(before) => range("transaction", before + 1, through),
                None => format!("transactions up to sequence {through}"),
            };
            let blocks = range("block", begin, end);
            lines.add("lost", format_args!("{blocks}: {transactions}"));
        }
        if first.block_sequence > 1 {
            last_sequence = None;
        }
        last_block = last.block_sequence;
        let blocks = format!(
            "blocks {} to {last_block}, from segment {}, offset {}, to the block at segment {}, offset {}",
            first.block_sequence,
            first.position.segment(),
            first.position.offset(),
            last.position.segment(),
            last.position.offset()
        );
        if first.block_sequence == 1 {
            let (sequence, accounts) = (report.last_sequence, report.accounts);
            lines.add(
                "still sound",
                format_args!(
                    "{blocks}: all transactions through sequence {sequence}, and {accounts} accounts"
                ),
            );
        } else {
            let sequence = first.first_sequence;
            lines.add(
                "still whole",
                format_args!(
                    "{blocks}: transactions from sequence {sequence} on; without the lost blocks before them, these blocks give \
                     no balances"
                ),
            );
        }
    }
    if report.journal.may_lack_last_blocks() {
        add_lost_end(lines, report, last_block, last_sequence);
    }
}

/// Adds the blocks that are lost after `last_block`, the last whole block. `last_sequence` is the last transaction in
/// that block if it is known.
fn add_lost_end(lines: &mut Lines, report: &DirectoryReport, last_block: u64, last_sequence: Option<u64>) {
    let blocks = match report.journal.marked_last_block {
        Some(marked) => {
            let blocks = range("block", last_block + 1, marked);
            format!("{blocks}, the last block according to journal/CLEAN")
        }
        None => format!(
            "all blocks from block {} on; their number is unknown, because no marker of a clean stop tells it",
            last_block + 1
        ),
    };
    let transactions = match last_sequence {
        Some(sequence) => format!("all transactions after sequence {sequence}"),
        None => "all transactions in them".to_owned(),
    };
    lines.add("lost", format_args!("{blocks}: {transactions}"));
}

/// Returns the numbers from `first` to `last` as text, for example `block 8` or `blocks 8 to 9`.
fn range(noun: &str, first: u64, last: u64) -> String {
    if first == last {
        format!("{noun} {first}")
    } else {
        format!("{noun}s {first} to {last}")
    }
}

/// Lines of the report: a label of a fixed width, and a value.
#[derive(Default)]
struct Lines(String);

// ===== impl Lines =====

impl Lines {
    fn add(&mut self, label: &str, value: impl std::fmt::Display) {
        // Writing into a string can't fail.
        let _ = writeln!(self.0, "{label:<16} {value}");
    }
}
