use std::{fs, io::Write};

use super::*;

fn csv(dir: &Path, name: &str, ids: std::ops::Range<u32>, tail: &str) -> PathBuf {
    let rows: String = ids.map(|id| format!("t{id},a,b,1\n")).collect();
    let path = dir.join(name);
    fs::write(
        &path,
        format!("transaction_id,debit_account_id,credit_account_id,minor_units\n{rows}{tail}"),
    )
    .unwrap();
    path
}

#[test]
fn the_file_name_selects_the_format_unless_the_format_is_given() {
    for (name, format, expected) in [
        ("a.csv", Format::Auto, Some(Format::Csv)),
        ("a.CSV", Format::Auto, Some(Format::Csv)),
        ("a.ndjson", Format::Auto, Some(Format::Ndjson)),
        ("a.jsonl", Format::Auto, Some(Format::Ndjson)),
        ("a.txt", Format::Auto, None),
        ("a", Format::Auto, None),
        ("a.txt", Format::Csv, Some(Format::Csv)),
        ("a.csv", Format::Ndjson, Some(Format::Ndjson)),
    ] {
        assert_eq!(format.resolve(Path::new(name)), expected, "{name} {format:?}");
    }
}

fn pending(files: &[PathBuf]) -> Vec<Pending> {
    let source = |file: &PathBuf| Source::open(file, &ReadOptions::default()).unwrap().set_aside();
    files.iter().map(source).collect()
}

/// Returns the transactions of a batch.
fn rows_of(part: Part) -> Vec<Row> {
    match part.content {
        Content::Batch(batch) => batch.rows,
        other @ (Content::Update(_) | Content::Accounts(_)) => panic!("{other:?}"),
    }
}

/// Returns the parts of an NDJSON file as texts: the ids of a batch, or the account of an update in brackets.
fn parts(lines: &[&str], rows_max: usize) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ndjson");
    fs::write(&path, lines.join("\n")).unwrap();
    let mut source = Source::open(&path, &ReadOptions::default()).unwrap();
    let mut parts = Vec::new();
    while let Some(part) = source.next_part(rows_max).unwrap() {
        parts.push(match part.content {
            Content::Batch(batch) => {
                let ids = batch
                    .rows
                    .iter()
                    .map(|row| row.transaction.transaction_id.as_str());
                ids.collect::<Vec<_>>().join(" ")
            }
            Content::Update(update) => format!("[{}]", update.row.account_id()),
            Content::Accounts(accounts) => format!("{{{}}}", accounts.rows.len()),
        });
    }
    assert_eq!(source.line_counts().rows, lines.len() as u64);
    parts
}

#[test]
fn an_update_is_a_part_and_a_row_begins_a_batch_if_it_names_a_row_of_the_previous_batch() {
    let transfers = r#""transfers":[{"debitAccountId":"a","creditAccountId":"b","minorUnits":"5"}]"#;
    let hold = |id| format!(r#"{{"transactionId":"{id}","phase":"TRANSACTION_PHASE_PENDING",{transfers}}}"#);
    let post = |id, hold| {
        format!(
            r#"{{"transactionId":"{id}","phase":"TRANSACTION_PHASE_POST_PENDING","pendingTransactionId":"{hold}"}}"#
        )
    };
    let reversal = |id, of| format!(r#"{{"transactionId":"{id}","reversesTransactionId":"{of}"}}"#);
    let update = r#"{"account":{"id":"a"},"updateMask":"metadata"}"#.to_owned();
    let lines = [
        hold("h1"),
        hold("h2"),
        // Refers to a row of the same batch.
        post("p1", "h1"),
        // Refers to a row of an earlier batch.
        post("p2", "h2"),
        // Refers to a row that itself refers to another row.
        reversal("r1", "p2"),
        update.clone(),
        update,
        reversal("r2", "p1"),
        reversal("r3", "elsewhere"),
        post("p3", "r3"),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(
        parts(&lines, 100),
        ["h1 h2", "p1 p2", "r1", "[a]", "[a]", "r2 r3", "p3"]
    );
    assert_eq!(
        parts(&lines, 1),
        ["h1", "h2", "p1", "p2", "r1", "[a]", "[a]", "r2", "r3", "p3"]
    );
}

fn append(file: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(file).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[tokio::test]
async fn files_come_in_order_and_a_batch_never_contains_rows_of_two_files() {
    let dir = tempfile::tempdir().unwrap();
    let files = vec![
        csv(dir.path(), "a.csv", 0..5, ""),
        csv(dir.path(), "b.csv", 5..7, ""),
    ];
    let total: u64 = files.iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    let ReadAhead { mut parts, reader } = read_ahead(pending(&files), 2);
    let mut sizes = Vec::new();
    let mut ids = Vec::new();
    let mut bytes = 0;
    while let Some(part) = parts.recv().await {
        let part = part.unwrap();
        assert!(part.bytes_read >= bytes);
        bytes = part.bytes_read;
        let rows = rows_of(part);
        sizes.push(rows.len());
        ids.extend(rows.into_iter().map(|row| row.transaction.transaction_id));
    }
    assert_eq!(sizes, [2, 2, 1, 2]);
    assert_eq!(ids, ["t0", "t1", "t2", "t3", "t4", "t5", "t6"]);
    assert_eq!(bytes, total);
    let counts = reader.await.unwrap();
    assert_eq!((counts.headers, counts.blank, counts.rows), (2, 0, 7));
}

#[tokio::test]
async fn a_malformed_row_discards_its_batch_and_ends_the_reading() {
    let dir = tempfile::tempdir().unwrap();
    let bad = csv(dir.path(), "bad.csv", 0..5, "t5,a,b,none\nt6,a,b,1\n");
    let mut parts = read_ahead(pending(&[bad.clone(), bad.clone()]), 4).parts;
    assert_eq!(rows_of(parts.recv().await.unwrap().unwrap()).len(), 4);
    let error = parts.recv().await.unwrap().unwrap_err().to_string();
    let expected = format!(
        "{}:7: column \"minor_units\" is \"none\", expected whole minor units",
        bad.display()
    );
    assert!(error.starts_with(&expected), "{error}");
    assert!(
        error.ends_with("; rows from line 6 on were not imported"),
        "{error}"
    );
    assert!(parts.recv().await.is_none());
}

#[test]
fn a_batch_is_closed_before_it_outgrows_a_message() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.ndjson");
    let transfer = format!(
        r#"{{"debitAccountId":"{0}","creditAccountId":"{0}","minorUnits":"1"}}"#,
        "x".repeat(64)
    );
    let transfers = vec![transfer; 256].join(",");
    let lines: String = (0..300)
        .map(|id| format!("{{\"transactionId\":\"t{id}\",\"transfers\":[{transfers}]}}\n"))
        .collect();
    fs::write(&path, lines).unwrap();
    let mut source = Source::open(&path, &ReadOptions::default()).unwrap();
    let first = rows_of(source.next_part(8192).unwrap().expect("a batch"));
    let bytes: usize = first.iter().map(|row| row.transaction.encoded_len()).sum();
    assert!(
        (BATCH_BYTES_MAX..BATCH_BYTES_MAX + (64 << 10)).contains(&bytes),
        "{bytes}"
    );
    let second = rows_of(source.next_part(8192).unwrap().expect("the rest"));
    assert_eq!(first.len() + second.len(), 300);
    assert!(source.next_part(8192).unwrap().is_none());
}

#[test]
fn the_header_selects_the_layout() {
    let dir = tempfile::tempdir().unwrap();
    let native = Source::open(&csv(dir.path(), "a.csv", 0..1, ""), &ReadOptions::default()).unwrap();
    assert_eq!(native.layout(), Some(CsvLayout::Native));
    let path = dir.path().join("bank.csv");
    fs::write(
        &path,
        "transaction_id,date,account_id,side,kind,amount,rounding,balance_after\n",
    )
    .unwrap();
    let bank = Source::open(&path, &ReadOptions::default()).unwrap();
    assert_eq!(bank.layout(), Some(CsvLayout::BankStatement));
}

#[test]
fn a_file_that_changes_between_its_check_and_its_import_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = csv(dir.path(), "a.csv", 0..5, "");
    let put_aside = |file: &PathBuf| pending(std::slice::from_ref(file)).remove(0);
    let before = put_aside(&file);
    append(&file, "t5,a,b,1\n");
    let error = before.open().unwrap_err();
    assert!(
        matches!(error, SourceError::Changed { unsent_from: 1, .. }),
        "{error}"
    );
    // The file is replaced by another file of the same length.
    let before = put_aside(&file);
    fs::rename(csv(dir.path(), "b.csv", 0..6, ""), &file).unwrap();
    let error = before.open().unwrap_err();
    assert!(
        matches!(error, SourceError::Changed { unsent_from: 1, .. }),
        "{error}"
    );
    put_aside(&file).open().unwrap();
}

#[test]
fn a_file_that_grows_or_shrinks_while_it_is_read_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = csv(dir.path(), "a.csv", 0..5, "");
    let length = fs::metadata(&file).unwrap().len();
    let changes: [&dyn Fn(); 2] = [&|| append(&file, "t6,a,b,1\n"), &|| {
        let file = fs::OpenOptions::new().write(true).open(&file).unwrap();
        file.set_len(length - 1).unwrap();
    }];
    for change in changes {
        let mut source = Source::open(&file, &ReadOptions::default()).unwrap();
        assert_eq!(rows_of(source.next_part(3).unwrap().unwrap()).len(), 3);
        change();
        let error = source.next_part(3).unwrap_err();
        assert!(
            matches!(error, SourceError::Changed { unsent_from: 5, .. }),
            "{error}"
        );
    }
}

#[test]
fn a_row_that_the_parser_loses_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = Source::open(&csv(dir.path(), "a.csv", 0..5, "\n"), &ReadOptions::default()).unwrap();
    assert!(source.next().unwrap().is_some());
    let error = source.next_part(100).unwrap_err().to_string();
    assert!(error.contains("has 7 lines, but the parser counted 6"), "{error}");
}
