//! Compares the readers of `tally import` with naive readers that know the whole file. Both must accept the same files and
//! find the same rows. Each line of an accepted file is a header, blank or a row.
//!
//! The crate `csv` reads each accepted line of CSV again. It treats blanks around quotes differently, so lines with such
//! blanks are left to the naive reader. `serde_json` reads each accepted line of NDJSON again.

use std::{collections::BTreeMap, str::FromStr};

use prost_types::Timestamp;
use serde_json::Value;
use tally::{
    cli::fuzzing::{Names, ReadFile, Rejected, read_csv, read_ndjson},
    json::to_json_line,
    proto::{ProcessTransactionRequest, Transfer, UpdateAccountRequest, transfer},
};

/// The required and the optional columns of each layout.
const LAYOUTS: [(&[&str], &[&str]); 3] = [
    (
        &[
            "transaction_id",
            "debit_account_id",
            "credit_account_id",
            "minor_units",
        ],
        &["code", "effective_time"],
    ),
    (
        &["transaction_id", "date", "account_id", "side", "kind", "amount"],
        &["rounding", "balance_after"],
    ),
    (
        &["i", "source", "target", "amount_minor"],
        &["decision", "source_balance_after", "target_balance_after"],
    ),
];
const KINDS: [&str; 6] = [
    "cash-deposit",
    "cash-withdrawal",
    "card-withdrawal",
    "transfer-in",
    "transfer-out",
    "interest",
];
const BLANKS: [char; 2] = [' ', '\t'];
const LINE_BYTES_MAX: usize = 1 << 20;

/// The rows of a file, and the number of blank lines.
type Rows = (Vec<(u64, ProcessTransactionRequest)>, u64);

/// Checks the readers on an input. The first byte selects the format. For CSV, the options of the names follow, each
/// terminated by a zero byte: `--columns`, `--ignore-columns` and `--kinds`. The rest is the file.
pub(crate) fn check(input: &[u8]) {
    let Some((format, rest)) = input.split_first() else {
        return;
    };
    if *format == b'n' {
        check_ndjson(rest);
        return;
    }
    let parts: Vec<&[u8]> = rest.splitn(4, |byte| *byte == 0).collect();
    let [columns, ignored, kinds, file] = parts.as_slice() else {
        return;
    };
    let list = |bytes: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let names = Names {
        columns: list(columns),
        ignored: list(ignored),
        kinds: list(kinds),
    };
    check_csv(file, &names);
}

/// Returns inputs with valid files.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = [
        "c\0\0\0transaction_id,debit_account_id,credit_account_id,minor_units\nt1,a,b,5\r\n\n\"t2\", \"a\" ,b,9223372036854775807\n",
        "c\0\0\0\u{feff}minor_units,credit_account_id,debit_account_id,transaction_id,code,effective_time\n1,a,b,t1,7,1993-01-31\n2,a,b,t2,,1993-01-31T01:00:00.5+01:00",
        "cdate=Datum,amount=Betrag\0Notiz\0interest=Zins,interest=Habenzins\0transaction_id,Datum,account_id,side,kind,Betrag,rounding,balance_after,Notiz\nt1,1993-01-01,c,credit,Zins,100,-4,0,x\nt2,1993-01-02,c,debit,cash-withdrawal,100,4,,\"a \"\"b\"\"\"\n",
        "c\0\0\0i,source,target,amount_minor,decision,source_balance_after,target_balance_after\n17,360,18984,10355,OK,0,63709\n 0 ,a,b,1,,,\n",
        "n{\"transactionId\":\"t1\",\"transfers\":[{\"debitAccountId\":\"a\",\"creditAccountId\":\"b\",\"minorUnits\":\"5\",\"code\":2},{\"debitAccountId\":\"b\",\"creditAccountId\":\"c\",\"wideMinorUnits\":{\"high\":\"1\",\"low\":2}}],\"effectiveTime\":\"1993-01-31T00:00:00Z\",\"metadata\":{\"note\":\"\\u010d\"},\"phase\":\"TRANSACTION_PHASE_POSTED\"}\n\n{\"transaction_id\":\"t2\",\"transfers\":[{\"debit_account_id\":\"a\",\"credit_account_id\":\"b\",\"minor_units\":7}]}\n",
        "n\u{feff}{\"transaction_id\":\"h\",\"pendingTimeout\":\"1.5s\",\"phase\":2,\"transfers\":[{\"debitAccountId\":\"a\",\"creditAccountId\":\"b\",\"minorUnits\":9}]}\r\n \t\n{\"transactionId\":\"p\",\"phase\":\"TRANSACTION_PHASE_POST_PENDING\",\"pendingTransactionId\":\"h\",\"keepRemaining\":true,\"transfers\":[{\"debitAccountId\":\"a\",\"creditAccountId\":\"b\",\"minorUnits\":4}]}\n{\"transactionId\":\"v\",\"phase\":4,\"pendingTransactionId\":\"h\"}\n{\"transactionId\":\"r\",\"reversesTransactionId\":\"p\"}\n",
        "n{\"account\":{\"id\":\"a\",\"status\":\"ACCOUNT_STATUS_FROZEN\",\"etag\":\"r0\",\"overdraftLimit\":{\"minorUnits\":\"5\"}},\"updateMask\":\"status,overdraftLimit\"}\n{\"update_mask\":\"velocityLimits,metadata\",\"account\":{\"id\":\"b\",\"metadata\":{\"k\":\"v\"},\"velocity_limits\":[{\"side\":1,\"window\":\"3600s\",\"maxCount\":\"3\",\"singleAmountMax\":{\"wideMinorUnits\":{\"high\":1}}}]}}\n",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    seeds.push(
        concat!(
            r#"n{"account":{"id":"a","asset":"EUR","metadata":{"k":"v"}}}"#,
            "\n",
            r#"{"transaction_id":"t","phase":"TRANSACTION_PHASE_PENDING","transfers":[{"debit_account_id":"a","#,
            r#""credit_account_id":"b","minor_units":"9","amount_rule":"AMOUNT_RULE_UP_TO_DEBIT_AVAILABLE"}],"#,
            r#""committed":{"sequence":"1","moved_amounts":[{"minor_units":"4"}]}}"#,
            "\n",
            r#"{"phase":"TRANSACTION_PHASE_EXPIRE_PENDING","pending_transaction_id":"t","committed":{"sequence":"2"}}"#,
            "\n"
        )
        .as_bytes()
        .to_vec(),
    );
    seeds.push(b"c\0\0\0\x1f\x8b\x08\n".to_vec());
    seeds
}

fn check_csv(file: &[u8], names: &Names) {
    let (ours, theirs) = (read_csv(file, names), naive_csv(file, names));
    compare(file, &ours, theirs.as_ref(), 1);
    if ours.is_ok() {
        let lines = naive_lines(file)
            .expect("the naive reader has accepted the lines")
            .0;
        for (_, line) in lines {
            check_with_csv_crate(line);
        }
    }
}

/// Checks that both readers accept the file and find the same rows, or that both reject it.
fn compare(file: &[u8], ours: &Result<ReadFile, Rejected>, theirs: Option<&Rows>, headers: u64) {
    match (ours, theirs) {
        (Ok(ours), Some((rows, blank))) => {
            assert_eq!(&ours.rows, rows);
            assert!(
                ours.updates.is_empty() && ours.accounts.is_empty(),
                "CSV contains posted transactions only"
            );
            assert_eq!((ours.headers, ours.blank), (headers, *blank));
            assert_accounted(file, ours);
        }
        (Err(rejected), None) => assert_explained(file, rejected),
        (ours, theirs) => panic!("the import: {ours:?}, the naive reader: {theirs:?}"),
    }
}

fn line_count(file: &[u8]) -> u64 {
    let line_feeds = file.iter().filter(|byte| **byte == b'\n').count();
    let is_open = file.last().is_some_and(|last| *last != b'\n');
    (line_feeds + usize::from(is_open)) as u64
}

fn assert_accounted(file: &[u8], read: &ReadFile) {
    let rows = (read.rows.len() + read.updates.len() + read.accounts.len()) as u64;
    assert_eq!(read.headers + read.blank + rows, line_count(file));
}

fn assert_explained(file: &[u8], rejected: &Rejected) {
    assert!(!rejected.message.is_empty());
    assert!(rejected.line <= line_count(file).max(1), "{rejected:?}");
}

/// Returns the lines that are not blank, with their numbers, and the number of blank lines. Returns `None` if a line is
/// not valid text.
fn naive_lines(file: &[u8]) -> Option<(Vec<(u64, &str)>, u64)> {
    let text = file.strip_prefix("\u{feff}".as_bytes());
    // A file with only a byte order mark has one line, which is blank.
    let (mut lines, mut blank) = (Vec::new(), u64::from(text.is_some_and(<[u8]>::is_empty)));
    let file = text.unwrap_or(file);
    for (number, line) in (1..).zip(file.split_inclusive(|byte| *byte == b'\n')) {
        let line = match line.strip_suffix(b"\n") {
            Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
            None => line,
        };
        let text = std::str::from_utf8(line).ok()?;
        if text.len() > LINE_BYTES_MAX || text.chars().any(|c| c.is_ascii_control() && c != '\t') {
            return None;
        }
        if text.trim_matches(BLANKS).is_empty() {
            blank += 1;
        } else {
            lines.push((number, text));
        }
    }
    Some((lines, blank))
}

/// Splits a line of CSV into its fields.
fn naive_fields(line: &str) -> Option<Vec<String>> {
    let characters: Vec<char> = line.chars().collect();
    let (mut fields, mut at) = (Vec::new(), 0);
    let skip_blanks = |at: &mut usize| {
        while characters.get(*at).is_some_and(|c| BLANKS.contains(c)) {
            *at += 1;
        }
    };
    loop {
        skip_blanks(&mut at);
        let mut field = String::new();
        if characters.get(at) == Some(&'"') {
            at += 1;
            loop {
                match (characters.get(at)?, characters.get(at + 1)) {
                    ('"', Some('"')) => {
                        field.push('"');
                        at += 2;
                    }
                    ('"', _) => break,
                    (other, _) => {
                        field.push(*other);
                        at += 1;
                    }
                }
            }
            at += 1;
            skip_blanks(&mut at);
        } else {
            while let Some(character) = characters.get(at).filter(|c| **c != ',') {
                field.push(*character);
                at += 1;
            }
            if field.contains('"') {
                return None;
            }
        }
        let hides_a_line = |c: char| c.is_control() && c != '\t' || ['\u{2028}', '\u{2029}'].contains(&c);
        if field.contains(hides_a_line) {
            return None;
        }
        fields.push(field.trim_matches(BLANKS).to_owned());
        match characters.get(at) {
            Some(',') => at += 1,
            None => return Some(fields),
            Some(_) => return None,
        }
    }
}

fn check_with_csv_crate(line: &str) {
    let has_blank_at_quote = ["\" ", "\"\t", " \"", "\t\""]
        .iter()
        .any(|pair| line.contains(pair));
    if has_blank_at_quote {
        return;
    }
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(line.as_bytes());
    let records: Vec<csv::StringRecord> = reader.records().map(|record| record.expect("a record")).collect();
    let [record] = records.as_slice() else {
        panic!("{line:?}: the crate csv finds {records:?}")
    };
    let fields: Vec<&str> = record.iter().map(|field| field.trim_matches(BLANKS)).collect();
    assert_eq!(naive_fields(line).expect("accepted"), fields, "{line:?}");
}

/// Parses `NAME=NAME-IN-FILE`.
fn naive_pairs(texts: &[String], known: &[&str]) -> Option<Vec<(String, String)>> {
    let pair = |text: &String| {
        let (name, in_file) = text.split_once('=')?;
        let (name, in_file) = (name.trim(), in_file.trim());
        (known.contains(&name) && !in_file.is_empty()).then(|| (name.to_owned(), in_file.to_owned()))
    };
    texts.iter().map(pair).collect()
}

fn is_unique<T: Ord>(names: impl IntoIterator<Item = T>) -> bool {
    let mut names: Vec<T> = names.into_iter().collect();
    names.sort();
    names.windows(2).all(|pair| pair[0] != pair[1])
}

fn naive_csv(file: &[u8], names: &Names) -> Option<Rows> {
    let all_columns: Vec<&str> = LAYOUTS
        .iter()
        .flat_map(|(required, optional)| [*required, *optional].concat())
        .collect();
    let columns = naive_pairs(&names.columns, &all_columns)?;
    let kinds = naive_pairs(&names.kinds, &KINDS)?;
    let in_file: Vec<&String> = columns
        .iter()
        .map(|(_, in_file)| in_file)
        .chain(&names.ignored)
        .collect();
    if !is_unique(columns.iter().map(|(name, _)| name))
        || !is_unique(in_file.clone())
        || !is_unique(kinds.iter().map(|(_, in_file)| in_file))
    {
        return None;
    }
    let (lines, blank) = naive_lines(file)?;
    let ((_, header), rows) = lines.split_first()?;
    let header = naive_fields(header)?;
    if !in_file.iter().all(|name| header.contains(name)) {
        return None;
    }
    let place_of: Vec<(usize, &str)> = header
        .iter()
        .enumerate()
        .filter(|(_, name)| !names.ignored.contains(name))
        .map(|(place, in_file)| {
            let pair = columns.iter().find(|(_, other)| other == in_file);
            (place, pair.map_or(in_file.as_str(), |(name, _)| name.as_str()))
        })
        .collect();
    let used: Vec<&str> = place_of.iter().map(|(_, name)| *name).collect();
    let fits = |(required, optional): &(&[&str], &[&str])| {
        required.iter().all(|name| used.contains(name))
            && used
                .iter()
                .all(|name| required.contains(name) || optional.contains(name))
    };
    let layout = LAYOUTS
        .iter()
        .position(fits)
        .filter(|_| is_unique(used.clone()))?;
    let rows = rows.iter().map(|(number, line)| {
        let fields = naive_fields(line).filter(|fields| fields.len() == header.len())?;
        let cells: BTreeMap<&str, &str> = place_of
            .iter()
            .map(|(place, name)| (*name, fields[*place].as_str()))
            .collect();
        let transaction = match layout {
            0 => naive_native(&cells),
            1 => naive_statement(&cells, &kinds),
            _ => naive_list(&cells),
        };
        Some((*number, transaction?))
    });
    Some((rows.collect::<Option<_>>()?, blank))
}

fn naive_number(text: &str) -> Option<i128> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value = digits.bytes().try_fold(0_i128, |value, digit| {
        value.checked_mul(10)?.checked_add(i128::from(digit - b'0'))
    })?;
    Some(if text.starts_with('-') { -value } else { value })
}

fn naive_id(text: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:/@".contains(&byte);
    ((1..=64).contains(&text.len()) && text.bytes().all(allowed)).then(|| text.to_owned())
}

/// Reads a time. `Some(None)` if the field is empty.
fn naive_time(text: &str) -> Option<Option<Timestamp>> {
    if text.is_empty() {
        Some(None)
    } else {
        Timestamp::from_str(text).ok().map(Some)
    }
}

fn naive_amount(text: &str) -> Option<i64> {
    i64::try_from(naive_number(text)?).ok().filter(|units| *units > 0)
}

fn naive_transfer(debit: String, credit: String, units: i64, code: i32) -> Transfer {
    Transfer {
        debit_account_id: debit,
        credit_account_id: credit,
        amount: Some(transfer::Amount::MinorUnits(units)),
        code,
        ..Transfer::default()
    }
}

fn naive_native(cells: &BTreeMap<&str, &str>) -> Option<ProcessTransactionRequest> {
    let code = match cells.get("code").copied().unwrap_or_default() {
        "" => 0,
        text => i32::try_from(naive_number(text)?)
            .ok()
            .filter(|code| *code >= 0)?,
    };
    let transfer = naive_transfer(
        naive_id(cells["debit_account_id"])?,
        naive_id(cells["credit_account_id"])?,
        naive_amount(cells["minor_units"])?,
        code,
    );
    Some(ProcessTransactionRequest {
        transaction_id: naive_id(cells["transaction_id"])?,
        transfers: vec![transfer],
        effective_time: naive_time(cells.get("effective_time").copied().unwrap_or_default())?,
        ..ProcessTransactionRequest::default()
    })
}

fn naive_statement(
    cells: &BTreeMap<&str, &str>,
    kinds: &[(String, String)],
) -> Option<ProcessTransactionRequest> {
    let customer = naive_id(cells["account_id"])?;
    let word = cells["kind"];
    let kind = kinds
        .iter()
        .find(|(_, in_file)| in_file == word)
        .map_or(word, |(kind, _)| kind);
    let code = KINDS.iter().position(|known| *known == kind)? + 1;
    let is_credit = match cells["side"] {
        "credit" => true,
        "debit" => false,
        _ => return None,
    };
    let transfer = |bank: String, is_credit: bool, units, code| {
        let (debit, credit) = if is_credit {
            (bank, customer.clone())
        } else {
            (customer.clone(), bank)
        };
        naive_transfer(debit, credit, units, code)
    };
    let mut transfers = vec![transfer(
        format!("bank:{kind}"),
        is_credit,
        naive_amount(cells["amount"])?,
        i32::try_from(code).ok()?,
    )];
    let rounding = match cells.get("rounding").copied().unwrap_or_default() {
        "" => 0,
        text => i64::try_from(naive_number(text)?)
            .ok()
            .filter(|units| *units != i64::MIN)?,
    };
    if rounding != 0 {
        transfers.push(transfer(
            "bank:rounding".to_owned(),
            rounding > 0,
            rounding.abs(),
            7,
        ));
    }
    Some(ProcessTransactionRequest {
        transaction_id: naive_id(cells["transaction_id"])?,
        transfers,
        effective_time: Some(naive_time(cells["date"])??),
        ..ProcessTransactionRequest::default()
    })
}

fn naive_list(cells: &BTreeMap<&str, &str>) -> Option<ProcessTransactionRequest> {
    let index = u64::try_from(naive_number(cells["i"])?).ok()?;
    if index.to_string() != cells["i"] {
        return None;
    }
    let transfer = naive_transfer(
        naive_id(cells["source"])?,
        naive_id(cells["target"])?,
        naive_amount(cells["amount_minor"])?,
        0,
    );
    Some(ProcessTransactionRequest {
        transaction_id: format!("amlsim-{index}"),
        transfers: vec![transfer],
        ..ProcessTransactionRequest::default()
    })
}

fn check_ndjson(file: &[u8]) {
    let ours = match read_ndjson(file) {
        Ok(ours) => ours,
        Err(rejected) => return assert_explained(file, &rejected),
    };
    assert_accounted(file, &ours);
    let (lines, blank) = naive_lines(file).expect("the import has accepted the lines");
    assert_eq!(ours.blank, blank);
    let (mut rows, mut updates) = (ours.rows.iter(), ours.updates.iter());
    let mut accounts = ours.accounts.iter();
    for (line, json) in lines {
        let value: Value = serde_json::from_str(json).expect("JSON");
        let has = |names: &[&str]| names.iter().any(|name| value.get(name).is_some());
        if has(&["committed"]) {
            // The line is a transaction of an export.
            let (row_line, transaction) = rows.next().expect("a transaction");
            assert_eq!(*row_line, line);
            assert_same_exported(transaction, &value);
        } else if has(&["account"]) && !has(&["updateMask", "update_mask"]) {
            let (row_line, account) = accounts.next().expect("an account");
            assert_eq!(*row_line, line);
            let theirs = field(&value, "account", "account").expect("an account");
            assert_eq!(account.id, text(theirs, "id", "id"));
            assert_eq!(account.asset, text(theirs, "asset", "asset"));
            assert_eq!(account.metadata, texts(theirs, "metadata"));
        } else if has(&["account", "updateMask", "update_mask"]) {
            let (row_line, update) = updates.next().expect("an update");
            assert_eq!(*row_line, line);
            assert_same_update(update, &value);
            let written = to_json_line("UpdateAccountRequest", update).expect("JSON");
            let again = read_ndjson(written.as_bytes()).expect("the import reads what it writes");
            assert_eq!(&again.updates[0].1, update, "{written}");
        } else {
            let (row_line, transaction) = rows.next().expect("a transaction");
            assert_eq!(*row_line, line);
            assert_same_json(transaction, &value);
            let written = to_json_line("ProcessTransactionRequest", transaction).expect("JSON");
            let again = read_ndjson(written.as_bytes()).expect("the import reads what it writes");
            assert_eq!(&again.rows[0].1, transaction, "{written}");
        }
    }
    assert!(rows.next().is_none() && updates.next().is_none() && accounts.next().is_none());
}

/// Returns a field of a message, by either of its names. `None` if it is absent or null.
fn field<'a>(message: &'a Value, camel: &str, snake: &str) -> Option<&'a Value> {
    let message = message.as_object().expect("a message is an object");
    let found = [message.get(camel), message.get(snake).filter(|_| camel != snake)];
    let mut found = found.into_iter().flatten();
    let first = found.next();
    assert!(
        found.next().is_none(),
        "{camel} has two values, and one of them is lost"
    );
    first.filter(|value| !value.is_null())
}

/// Returns a field with a text; empty if it is absent or null.
fn text(message: &Value, camel: &str, snake: &str) -> String {
    field(message, camel, snake).map_or(String::new(), |text| text.as_str().expect("text").to_owned())
}

/// Returns a field with an object of texts.
fn texts(message: &Value, name: &str) -> BTreeMap<String, String> {
    let texts = field(message, name, name).and_then(Value::as_object);
    texts
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.as_str().expect("text").to_owned()))
        .collect()
}

fn assert_same_exported(transaction: &ProcessTransactionRequest, value: &Value) {
    let id = text(value, "transactionId", "transaction_id");
    // Only an expiry has no id.
    assert!(transaction.transaction_id == id || id.is_empty());
    assert_eq!(
        transaction.pending_transaction_id,
        text(value, "pendingTransactionId", "pending_transaction_id")
    );
    assert_eq!(transaction.metadata, texts(value, "metadata"));
    assert!(transaction.pending_timeout.is_none());
    let transfers = field(value, "transfers", "transfers").and_then(Value::as_array);
    assert_eq!(transaction.transfers.len(), transfers.map_or(0, Vec::len));
    let written = to_json_line("ProcessTransactionRequest", transaction).expect("JSON");
    let again = read_ndjson(written.as_bytes()).expect("the import reads what it writes");
    assert_eq!(&again.rows[0].1, transaction, "{written}");
}

fn assert_same_update(update: &UpdateAccountRequest, value: &Value) {
    let account = field(value, "account", "account").expect("an account");
    let ours = update.account.as_ref().expect("an account");
    assert_eq!(ours.id, text(account, "id", "id"));
    assert_eq!(ours.etag, text(account, "etag", "etag"));
    assert_eq!(ours.metadata, texts(account, "metadata"));
    let limits = field(account, "velocityLimits", "velocity_limits").and_then(Value::as_array);
    assert_eq!(ours.velocity_limits.len(), limits.map_or(0, Vec::len));
    let mask = text(value, "updateMask", "update_mask");
    let names: Vec<String> = mask
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    let camel = |path: &String| match path.as_str() {
        "overdraft_limit" => "overdraftLimit".to_owned(),
        "velocity_limits" => "velocityLimits".to_owned(),
        other => other.to_owned(),
    };
    let paths = update
        .update_mask
        .as_ref()
        .map(|mask| mask.paths.iter().map(camel).collect());
    assert_eq!(paths, Some(names));
}

fn assert_same_json(transaction: &ProcessTransactionRequest, value: &Value) {
    assert_eq!(
        transaction.pending_transaction_id,
        text(value, "pendingTransactionId", "pending_transaction_id")
    );
    assert_eq!(
        transaction.reverses_transaction_id,
        text(value, "reversesTransactionId", "reverses_transaction_id")
    );
    let keeps = field(value, "keepRemaining", "keep_remaining").and_then(Value::as_bool);
    assert_eq!(transaction.keep_remaining, keeps == Some(true));
    assert_eq!(
        transaction.transaction_id,
        text(value, "transactionId", "transaction_id")
    );
    let transfers: Vec<Value> = field(value, "transfers", "transfers").map_or(Vec::new(), |transfers| {
        transfers.as_array().expect("a list").clone()
    });
    assert_eq!(transaction.transfers.len(), transfers.len());
    for (ours, theirs) in transaction.transfers.iter().zip(&transfers) {
        assert_eq!(
            ours.debit_account_id,
            text(theirs, "debitAccountId", "debit_account_id")
        );
        assert_eq!(
            ours.credit_account_id,
            text(theirs, "creditAccountId", "credit_account_id")
        );
        let narrow = field(theirs, "minorUnits", "minor_units");
        let wide = field(theirs, "wideMinorUnits", "wide_minor_units");
        assert!(
            narrow.is_none() || wide.is_none(),
            "two amounts, and one of them is lost"
        );
        let units = narrow.and_then(|units| {
            units
                .as_str()
                .map_or_else(|| units.as_i64(), |text| text.parse().ok())
        });
        match (ours.amount, units) {
            (Some(transfer::Amount::MinorUnits(ours)), Some(theirs)) => assert_eq!(ours, theirs),
            (Some(transfer::Amount::MinorUnits(_)), None) => assert!(narrow.is_some()),
            (Some(transfer::Amount::WideMinorUnits(_)), _) => assert!(wide.is_some()),
            (None, _) => assert!(narrow.is_none() && wide.is_none(), "an amount is lost"),
        }
        if let Some(code) = field(theirs, "code", "code").and_then(Value::as_i64) {
            assert_eq!(i64::from(ours.code), code);
        }
    }
    assert_eq!(transaction.metadata, texts(value, "metadata"));
}
