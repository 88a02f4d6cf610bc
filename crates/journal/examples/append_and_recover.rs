//! Appends blocks, stops without closing the journal, recovers the journal and reads the blocks again. After that,
//! changes one byte on disk and shows the error that the next recovery reports.
//!
//! Run with `cargo run -p tally-journal --example append_and_recover`.

#![allow(clippy::print_stdout, reason = "the example prints what it does")]

use std::{convert::Infallible, error::Error, fs, path::Path, sync::Arc};

use tally_journal::{
    BlockBuffer, BlockMeta, ChainPoint, Journal, JournalConfig, OpenJournal, Position, RealDisk, ScanError,
    Tail,
};

fn main() -> Result<(), Box<dyn Error>> {
    let temporary = tempfile::tempdir()?;
    let path = temporary.path().join("data");

    let positions = append(&path, &["deposit 100", "withdraw 30", "deposit 5"])?;
    println!(
        "appended {} blocks and stopped without closing the journal",
        positions.len()
    );

    let journal = open(&path)?;
    println!("recovery reads:");
    let tail = scan(&journal)?;
    println!(
        "the journal ends after block {}, clean stop: {}",
        tail.blocks, tail.clean
    );
    // This time, `finish` closes the journal cleanly.
    let OpenJournal { mut writer, .. } = journal.resume(tail)?;
    writer.finish()?;
    drop(writer);

    let second = positions.get(1).ok_or("three blocks were appended")?;
    damage(&path, *second)?;
    println!("changed one byte of the second block; now recovery reads:");
    match scan(&open(&path)?) {
        Ok(_) => Err("the scan must detect the damage".into()),
        Err(ScanError::Store(error)) => {
            println!("error: {error}");
            Ok(())
        }
        Err(ScanError::Visitor(never)) => match never {},
    }
}

fn open(path: &Path) -> Result<Journal, Box<dyn Error>> {
    Ok(Journal::open(
        Arc::new(RealDisk),
        path,
        &JournalConfig {
            segment_bytes: 1 << 20,
            block_bytes_max: 64 << 10,
        },
    )?)
}

/// Appends one block for each text and returns the positions of the blocks. Each block is durable when
/// `JournalWriter::append` returns.
fn append(path: &Path, texts: &[&str]) -> Result<Vec<Position>, Box<dyn Error>> {
    let journal = open(path)?;
    let tail = scan(&journal)?;
    // `directory` holds the lock until it is dropped.
    let OpenJournal {
        directory: _directory,
        mut placement,
        mut writer,
        ..
    } = journal.resume(tail)?;
    let mut block = BlockBuffer::with_capacity(1024);
    let mut positions = Vec::new();
    for (index, text) in (0_u64..).zip(texts) {
        block.clear();
        block.push(text.as_bytes());
        let position = placement.advance(u32::try_from(block.body_bytes())?);
        let receipt = writer.append(
            &BlockMeta {
                position,
                first_entry: index,
                first_sequence: index,
                base_time_ns: 0,
                record_count: 1,
            },
            &mut block,
        )?;
        let ChainPoint { position: end, .. } = receipt.end;
        println!(
            "block {} is durable at {position}; the next block goes to {end}",
            receipt.block_sequence
        );
        positions.push(position);
    }
    Ok(positions)
}

/// Prints all blocks and returns the end of the journal.
fn scan(journal: &Journal) -> Result<Tail, ScanError<Infallible>> {
    journal.scan(journal.start(), 0, |header, position, body| {
        let text = String::from_utf8_lossy(body);
        println!("  block {} at {position}: {text}", header.block_sequence);
        Ok(())
    })
}

/// Changes one byte of the body of the block at `position`, as a failing disk does.
fn damage(path: &Path, position: Position) -> Result<(), Box<dyn Error>> {
    let segment = path
        .join("journal")
        .join(format!("{:010}.segment", position.segment()));
    let mut bytes = fs::read(&segment)?;
    let byte = bytes
        .get_mut(position.offset() as usize + tally_journal::HEADER_BYTES)
        .ok_or("the segment is too short")?;
    *byte ^= 1;
    Ok(fs::write(&segment, bytes)?)
}
