//! `tally verify`: checks a data directory.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use clap::Args;
use tally_journal::{Disk, RealDisk};

use super::exit::{self, fail};
use crate::store::embedded;

/// Options of `tally verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The data directory.
    #[arg(default_value = "./tally-data")]
    data: PathBuf,
}

#[expect(clippy::print_stdout, reason = "the command's result")]
pub(super) fn run(args: &VerifyArgs) -> ExitCode {
    if !args.data.is_dir() {
        let missing = std::io::Error::new(
            std::io::ErrorKind::NotFound,
            format!("{}: no such directory", args.data.display()),
        );
        return fail(exit::IO, &missing);
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let report = match embedded::verify(&disk, &args.data) {
        Ok(report) => report,
        Err(error) => return fail(exit::IO, &error),
    };
    println!("blocks           {}", report.journal.blocks);
    println!("bytes            {}", report.journal.bytes);
    println!("records          {}", report.journal.records);
    println!("transactions     {}", report.last_sequence);
    println!("accounts         {}", report.accounts);
    for (asset, totals) in &report.assets {
        let balanced = if totals.debits == totals.credits {
            "balanced"
        } else {
            "NOT BALANCED"
        };
        let amount =
            |sum: Option<u128>| sum.map_or_else(|| "beyond 128 bits".to_owned(), |sum| sum.to_string());
        println!(
            "asset {asset:<10} debits {} credits {}: {balanced}",
            amount(totals.debits),
            amount(totals.credits)
        );
    }
    println!(
        "last stop        {}",
        match (report.journal.clean, report.journal.marked) {
            (true, _) => "clean: the last block in the journal is the last one that was written",
            (false, true) =>
                "marked as clean (journal/CLEAN), but the marker is damaged or names another last block",
            (false, false) =>
                "not clean: the service crashed, or this is a copy of a running service's directory",
        }
    );
    if let Some(torn) = &report.journal.torn {
        println!(
            "torn tail        {} bytes after the last block: {}. After a crash, these bytes are an incomplete write, and \
             nothing in it was acknowledged. Damage to the last acknowledged block looks the same. The next start deletes these \
             bytes; if in doubt, keep a copy",
            torn.remains_bytes, torn.defect
        );
    }
    for corruption in report
        .journal
        .corruption
        .iter()
        .chain(&report.journal.further_damages)
    {
        println!("CORRUPT          {corruption}");
    }
    for difference in &report.differences {
        println!("DIFFERS          {difference}");
    }
    if report.is_sound() {
        println!("sound");
        ExitCode::SUCCESS
    } else {
        ExitCode::from(exit::FAILED)
    }
}
