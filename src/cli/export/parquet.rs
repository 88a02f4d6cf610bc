//! Writes Apache Parquet. A Parquet file has its index at the end, so an interrupted export can't be resumed: the same command begins again.
//! Therefore the file gets its name only when it is complete.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use ::parquet::{
    basic::Compression,
    data_type::{
        ByteArray, ByteArrayType, DataType, FixedLenByteArray, FixedLenByteArrayType, Int32Type, Int64Type,
    },
    errors::ParquetError,
    file::{
        properties::WriterProperties,
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::parser::parse_message_type,
};
use prost_types::Timestamp;

use super::{io_failure::io_failure, rows::EffectRow};
use crate::cli::{
    exit::{self, Failure},
    ledger_text::phase_name,
};

/// The columns of CSV, with types. Times are in microseconds.
const SCHEMA: &str = "message transfer {
    required int64 sequence;
    required int64 commit_time (TIMESTAMP(MICROS, true));
    required binary transaction_id (STRING);
    required binary phase (STRING);
    required int32 transfer_index;
    required binary debit_account_id (STRING);
    required binary credit_account_id (STRING);
    required binary asset (STRING);
    required fixed_len_byte_array(16) posted (DECIMAL(38, 0));
    required fixed_len_byte_array(16) reserved (DECIMAL(38, 0));
    required fixed_len_byte_array(16) unreserved (DECIMAL(38, 0));
    required fixed_len_byte_array(16) released (DECIMAL(38, 0));
    required int32 code;
    optional int64 effective_time (TIMESTAMP(MICROS, true));
    required binary pending_transaction_id (STRING);
    required binary reverses_transaction_id (STRING);
    required binary principal (STRING);
}";
/// Number of rows of a row group. The rows of one group are kept in memory.
const GROUP_ROWS: usize = 1 << 16;
/// The largest amount of DECIMAL(38, 0).
const AMOUNT_MAX: u128 = 10_u128.pow(38) - 1;
const MICROS: i64 = 1_000_000;

/// A Parquet file.
pub(super) struct ParquetFile {
    path: PathBuf,
    /// The name of the file until it is complete.
    unfinished: PathBuf,
    writer: SerializedFileWriter<File>,
    columns: Columns,
}

/// The rows of the next row group, by column.
#[derive(Debug, Default)]
struct Columns {
    sequence: Vec<i64>,
    commit_time: Vec<i64>,
    transaction_id: Vec<ByteArray>,
    phase: Vec<ByteArray>,
    transfer_index: Vec<i32>,
    debit_account_id: Vec<ByteArray>,
    credit_account_id: Vec<ByteArray>,
    asset: Vec<ByteArray>,
    amounts: [Vec<FixedLenByteArray>; 4],
    code: Vec<i32>,
    effective_time: Vec<i64>,
    /// 1 for each row that has an effective time, otherwise 0.
    has_effective_time: Vec<i16>,
    pending_transaction_id: Vec<ByteArray>,
    reverses_transaction_id: Vec<ByteArray>,
    principal: Vec<ByteArray>,
}

// ===== impl ParquetFile =====

impl ParquetFile {
    /// Creates the file.
    ///
    /// # Errors
    /// [`Failure`] if the file exists or can't be written.
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        if path.exists() {
            let message = format!("{} exists; name another file, or remove this one", path.display());
            return Err(Failure::with_message(exit::USAGE, message));
        }
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let unfinished = PathBuf::from(unfinished);
        let file = File::create(&unfinished).map_err(|error| io_failure("write", &unfinished, &error))?;
        let opened = parse_message_type(SCHEMA).and_then(|schema| {
            let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
            SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties.build()))
        });
        Ok(ParquetFile {
            writer: opened.map_err(|error| unwritten(&unfinished, &error))?,
            path: path.to_owned(),
            unfinished,
            columns: Columns::default(),
        })
    }

    /// Writes rows.
    ///
    /// # Errors
    /// [`Failure`] if an amount has more than 38 digits, or the file can't be written.
    pub(super) fn write<'a>(&mut self, rows: impl Iterator<Item = EffectRow<'a>>) -> Result<(), Failure> {
        for row in rows {
            self.columns.push(&row)?;
        }
        if self.columns.sequence.len() >= GROUP_ROWS {
            self.write_group()?;
        }
        Ok(())
    }

    fn write_group(&mut self) -> Result<(), Failure> {
        let columns = std::mem::take(&mut self.columns);
        if columns.sequence.is_empty() {
            return Ok(());
        }
        let group = self
            .writer
            .next_row_group()
            .and_then(|group| columns.write(group));
        group.map_err(|error| unwritten(&self.unfinished, &error))
    }

    /// Completes the file.
    ///
    /// # Errors
    /// [`Failure`] if the file can't be written.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        self.write_group()?;
        let file = self.writer.into_inner();
        let file = file.map_err(|error| unwritten(&self.unfinished, &error))?;
        let named = file
            .sync_data()
            .and_then(|()| fs::rename(&self.unfinished, &self.path));
        named.map_err(|error| io_failure("write", &self.path, &error))
    }
}

impl std::fmt::Debug for ParquetFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn unwritten(path: &Path, error: &ParquetError) -> Failure {
    let message = format!("can't write {}: {error}", path.display());
    Failure::with_message(exit::IO, message)
}

// ===== impl Columns =====

impl Columns {
    fn push(&mut self, row: &EffectRow<'_>) -> Result<(), Failure> {
        let transaction = row.transaction;
        self.sequence.push(row.sequence);
        self.commit_time.push(row.commit_time.map_or(0, micros));
        self.transaction_id
            .push(transaction.transaction_id.as_str().into());
        self.phase.push(phase_name(transaction.phase()).into());
        self.transfer_index
            .push(i32::try_from(row.index).unwrap_or(i32::MAX));
        self.debit_account_id
            .push(row.effect.debit_account_id.as_str().into());
        self.credit_account_id
            .push(row.effect.credit_account_id.as_str().into());
        self.asset.push(row.asset.into());
        for (column, amount) in self.amounts.iter_mut().zip(row.amounts()) {
            if amount > AMOUNT_MAX {
                let message = format!(
                    "the transaction with sequence {} has the amount {amount}, but Parquet has at most 38 digits: use --format csv",
                    row.sequence
                );
                return Err(Failure::with_message(exit::DATA, message));
            }
            column.push(amount.to_be_bytes().to_vec().into());
        }
        self.code.push(row.code);
        self.has_effective_time
            .push(i16::from(transaction.effective_time.is_some()));
        self.effective_time
            .extend(transaction.effective_time.as_ref().map(micros));
        self.pending_transaction_id
            .push(transaction.pending_transaction_id.as_str().into());
        self.reverses_transaction_id
            .push(transaction.reverses_transaction_id.as_str().into());
        self.principal.push(transaction.principal.as_str().into());
        Ok(())
    }

    /// Writes the columns in the order of the schema.
    fn write(self, mut group: SerializedRowGroupWriter<'_, File>) -> Result<(), ParquetError> {
        put::<Int64Type>(&mut group, &self.sequence, None)?;
        put::<Int64Type>(&mut group, &self.commit_time, None)?;
        put::<ByteArrayType>(&mut group, &self.transaction_id, None)?;
        put::<ByteArrayType>(&mut group, &self.phase, None)?;
        put::<Int32Type>(&mut group, &self.transfer_index, None)?;
        put::<ByteArrayType>(&mut group, &self.debit_account_id, None)?;
        put::<ByteArrayType>(&mut group, &self.credit_account_id, None)?;
        put::<ByteArrayType>(&mut group, &self.asset, None)?;
        for amounts in &self.amounts {
            put::<FixedLenByteArrayType>(&mut group, amounts, None)?;
        }
        put::<Int32Type>(&mut group, &self.code, None)?;
        put::<Int64Type>(&mut group, &self.effective_time, Some(&self.has_effective_time))?;
        put::<ByteArrayType>(&mut group, &self.pending_transaction_id, None)?;
        put::<ByteArrayType>(&mut group, &self.reverses_transaction_id, None)?;
        put::<ByteArrayType>(&mut group, &self.principal, None)?;
        group.close()?;
        Ok(())
    }
}

/// Writes the next column of a row group. `present` says which rows have a value, if the column is optional.
fn put<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: &[T::T],
    present: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let column = group.next_column()?;
    let Some(mut column) = column else {
        return Err(ParquetError::General("the schema has too few columns".to_owned()));
    };
    column.typed::<T>().write_batch(values, present, None)?;
    column.close()
}

/// Returns a time in microseconds since 1970, rounded down.
fn micros(time: &Timestamp) -> i64 {
    time.seconds
        .saturating_mul(MICROS)
        .saturating_add(i64::from(time.nanos / 1000))
}

#[cfg(test)]
mod tests {
    use ::parquet::{
        file::reader::{FileReader, SerializedFileReader},
        record::RowAccessor,
    };

    use super::*;
    use crate::cli::export::rows::rows;
    use crate::proto::{
        Amount, ProcessTransactionResponse, Transaction, TransactionPhase, TransferEffect, amount,
        transaction::Outcome,
    };

    #[test]
    fn the_rows_are_read_back() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("ledger.parquet");
        let mut file = ParquetFile::create(&path).unwrap();
        let time = Timestamp {
            seconds: 5,
            nanos: 7000,
        };
        for sequence in 1..=3 {
            let transaction = Transaction {
                transaction_id: format!("t{sequence}"),
                phase: TransactionPhase::Posted.into(),
                effects: vec![TransferEffect {
                    debit_account_id: "a".to_owned(),
                    posted_amount: Some(Amount {
                        value: Some(amount::Value::MinorUnits(sequence * 100)),
                    }),
                    ..TransferEffect::default()
                }],
                effective_time: (sequence == 2).then_some(time),
                outcome: Some(Outcome::Committed(ProcessTransactionResponse {
                    sequence,
                    commit_time: Some(time),
                    ..ProcessTransactionResponse::default()
                })),
                ..Transaction::default()
            };
            file.write(rows(&transaction, |_| Some("EUR"))).unwrap();
        }
        assert!(!path.exists());
        file.finish().unwrap();
        assert!(ParquetFile::create(&path).is_err());
        let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        let read: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        assert_eq!(read.len(), 3);
        assert_eq!(read[2].get_long(0).unwrap(), 3);
        assert_eq!(read[2].get_string(2).unwrap(), "t3");
        assert_eq!(read[2].get_string(7).unwrap(), "EUR");
        let decimal = read[2].get_decimal(8).unwrap();
        assert_eq!(decimal.data(), 300_u128.to_be_bytes());
        assert_eq!(read[1].get_timestamp_micros(13).unwrap(), 5_000_007);
        assert!(read[0].get_timestamp_micros(13).is_err());
    }
}
