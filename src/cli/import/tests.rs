//! Property tests: the import reads every row of a file or rejects the file, whatever bytes are between the rows.

use std::{io::Write, path::Path};

use proptest::prelude::*;

use super::{
    format::Format,
    source::{Content, ReadOptions, Source},
    source_error::SourceError,
};

const HEADER: &str = "transaction_id,debit_account_id,credit_account_id,minor_units";

/// Bytes between two rows or within a row: valid and invalid line ends, and bytes that could hide a line end from a parser.
const ODD: [&[u8]; 24] = [
    b"\n",
    b"\r\n",
    b"\r",
    b"\n\r",
    b"\r\r\n",
    b"\n\n",
    b"\r\n \t\r\n",
    b"\0",
    b"\x0b",
    b"\x0c",
    b"\x1a",
    b"\x1c",
    b"\x1e",
    b"\x7f",
    "\u{85}".as_bytes(),
    "\u{2028}".as_bytes(),
    "\u{2029}".as_bytes(),
    "\u{feff}".as_bytes(),
    b"\xff",
    b"\"",
    b"\"\n",
    b",",
    b"#",
    b" ",
];

#[derive(Debug, Clone)]
enum Piece {
    Row { quoted: bool },
    Odd(usize),
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    // Most rows end with a valid line end, so the import accepts many of the files.
    let odd = prop_oneof![6 => Just(0), 3 => Just(1), 1 => 0..ODD.len()].prop_map(Piece::Odd);
    let row = any::<bool>().prop_map(|quoted| Piece::Row { quoted });
    proptest::collection::vec((row, odd), 0..24)
        .prop_map(|pairs| pairs.into_iter().flat_map(|(row, odd)| [row, odd]).collect())
}

fn csv_row(number: usize, quoted: bool) -> String {
    if quoted {
        format!("\"t{number}\",\"a\", \"b\",\"{}\"", number + 1)
    } else {
        format!("t{number},a,b,{}", number + 1)
    }
}

fn json_row(number: usize, quoted: bool) -> String {
    let space = if quoted { " " } else { "" };
    let units = number + 1;
    format!(
        r#"{{"transactionId":{space}"t{number}","transfers":[{{"debitAccountId":"a","creditAccountId":"b","minorUnits":{units}}}]}}"#
    )
}

/// Returns the bytes of a file and the number of its rows.
fn file(head: &str, pieces: &[Piece], row: fn(usize, bool) -> String) -> (Vec<u8>, usize) {
    let (mut bytes, mut rows) = (head.as_bytes().to_vec(), 0);
    for piece in pieces {
        match piece {
            Piece::Row { quoted } => {
                bytes.extend_from_slice(row(rows, *quoted).as_bytes());
                rows += 1;
            }
            Piece::Odd(place) => bytes.extend_from_slice(ODD[*place]),
        }
    }
    (bytes, rows)
}

/// Returns the ids and amounts of all rows and the number of lines, or the error that rejects the file.
fn import(dir: &Path, bytes: &[u8], format: Format) -> Result<(Vec<(String, i64)>, u64), SourceError> {
    let path = dir.join("rows");
    let mut written = std::fs::File::create(&path).unwrap();
    written.write_all(bytes).unwrap();
    let options = ReadOptions {
        format,
        ..ReadOptions::default()
    };
    let mut source = Source::open(&path, &options)?;
    let mut all = Vec::new();
    while let Some(part) = source.next_part(5)? {
        let Content::Batch(batch) = part.content else {
            panic!("{part:?}")
        };
        all.extend(batch.rows.into_iter().map(|row| {
            let amount = row.transaction.transfers[0].amount.unwrap();
            let crate::proto::transfer::Amount::MinorUnits(units) = amount else {
                panic!("{amount:?}")
            };
            (row.transaction.transaction_id, units)
        }));
    }
    Ok((all, source.line_counts().lines()))
}

/// Counts the lines that are not blank, without knowledge of the format. Every character that any program treats as the end of a
/// line ends a line.
fn naive_count(bytes: &[u8]) -> usize {
    let ends = [
        '\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}',
    ];
    let text = String::from_utf8_lossy(bytes);
    text.split(ends)
        .filter(|piece| !piece.trim_matches([' ', '\t', '\u{feff}']).is_empty())
        .count()
}

fn check(bytes: &[u8], rows: usize, headers: usize, format: Format) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let Ok((imported, lines)) = import(dir.path(), bytes, format) else {
        return Ok(());
    };
    let expected: Vec<_> = (0..rows)
        .map(|number| (format!("t{number}"), i64::try_from(number + 1).unwrap()))
        .collect();
    prop_assert_eq!(imported, expected);
    prop_assert_eq!(rows + headers, naive_count(bytes));
    let line_feeds = bytes.iter().filter(|byte| **byte == b'\n').count();
    let open = usize::from(bytes.last().is_some_and(|last| *last != b'\n'));
    prop_assert_eq!(usize::try_from(lines).unwrap(), line_feeds + open);
    Ok(())
}

proptest! {
    #[test]
    fn a_csv_file_is_rejected_or_all_its_rows_are_read(pieces in pieces()) {
        let (bytes, rows) = file(&format!("{HEADER}\n"), &pieces, csv_row);
        check(&bytes, rows, 1, Format::Csv)?;
        // The same check with odd bytes directly after the header.
        let (mut bytes, rows) = file(HEADER, &pieces[pieces.len().min(1)..], csv_row);
        if bytes.len() == HEADER.len() {
            bytes.push(b'\n');
        }
        check(&bytes, rows, 1, Format::Csv)?;
    }

    #[test]
    fn an_ndjson_file_is_rejected_or_all_its_rows_are_read(pieces in pieces()) {
        let (bytes, rows) = file("", &pieces, json_row);
        check(&bytes, rows, 0, Format::Ndjson)?;
    }
}

#[test]
fn valid_files_are_accepted() {
    let dir = tempfile::tempdir().unwrap();
    for end in ["\n", "\r\n", "\n \t\n", "\r\n\r\n"] {
        for last in ["", end] {
            let rows: Vec<_> = (0..12).map(|number| csv_row(number, number % 2 == 0)).collect();
            let text = format!("\u{feff}{HEADER}{end}{}{last}", rows.join(end));
            assert_eq!(
                import(dir.path(), text.as_bytes(), Format::Csv).unwrap().0.len(),
                12
            );
            let rows: Vec<_> = (0..12).map(|number| json_row(number, number % 2 == 0)).collect();
            let text = format!("\u{feff}{}{last}", rows.join(end));
            assert_eq!(
                import(dir.path(), text.as_bytes(), Format::Ndjson)
                    .unwrap()
                    .0
                    .len(),
                12
            );
        }
    }
}
