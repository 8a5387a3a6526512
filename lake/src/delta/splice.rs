//! A file with other values in some of its columns: the rest is copied as it stands, not decoded and encoded again.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::compute_leaves;
use parquet::bloom_filter::Sbbf;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use super::hashes::FooterEntry;
use super::statistics;
use super::write::{EncodedFile, FileOptions};

/// The file `bytes`, whose columns `schema` names, with the columns of `replaced` in place of its own; none of them nested.
/// `replaced` has a row for each of the file's, in its order.
pub(super) fn spliced(
    bytes: &Bytes,
    schema: &SchemaRef,
    replaced: &RecordBatch,
    options: &FileOptions,
) -> Result<EncodedFile> {
    let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
    reader.try_parse(bytes)?;
    let footer = reader.finish()?;
    let rows = footer.file_metadata().num_rows();
    if rows != replaced.num_rows() as i64 {
        return Err(ParquetError::General(format!("{} values for {rows} rows", replaced.num_rows())));
    }
    let options = options.clone().suited_to(replaced);
    // The columns are written anew into room for some more than they had.
    let room = Vec::with_capacity(bytes.len() + bytes.len() / 8);
    let writer = ArrowWriter::try_new(room, schema.clone(), Some(options.properties()))?;
    let (mut file, encoders) = writer.into_serialized_writer()?;
    let mut first = 0;
    for (number, group) in footer.row_groups().iter().enumerate() {
        let group_rows = group.num_rows() as usize;
        let mut writers: Vec<_> = encoders.create_column_writers(number)?.into_iter().map(Some).collect();
        if writers.len() != group.num_columns() || writers.len() != schema.fields().len() {
            return Err(ParquetError::General("a file has other columns than its table".to_owned()));
        }
        let mut copied = file.next_row_group()?;
        for (place, field) in schema.fields().iter().enumerate() {
            match replaced.column_by_name(field.name()).zip(writers[place].take()) {
                Some((values, mut writer)) => {
                    for leaf in compute_leaves(field, &values.slice(first, group_rows))? {
                        writer.write(&leaf)?;
                    }
                    writer.close()?.append_to_row_group(&mut copied)?;
                }
                None => copied.append_column(bytes, as_it_stands(&footer, number, place, bytes)?)?,
            }
        }
        copied.close()?;
        first += group_rows;
    }
    let entry = footer.file_metadata().key_value_metadata().and_then(|entries| FooterEntry::read(entries));
    let stays = |entry: &FooterEntry| entry.columns.iter().all(|name| replaced.column_by_name(name).is_none());
    if let Some(FooterEntry { bits, range, columns }) = entry.filter(stays)
        && let Some(hashes) = bytes.get(range.start as usize..range.end as usize)
    {
        let start = file.bytes_written() as u64;
        file.write_all(hashes)?;
        let range = start..start + hashes.len() as u64;
        file.append_key_value_metadata(FooterEntry { bits, range, columns }.write());
    }
    let footer = file.finish()?;
    let statistics = statistics::from_footer(schema, &footer);
    let rows = footer.file_metadata().num_rows() as u64;
    Ok(EncodedFile { bytes: std::mem::take(file.inner_mut()), rows, statistics, partition: None, group: None })
}

/// What is known of a column of a row group.
fn as_it_stands(footer: &ParquetMetaData, group: usize, column: usize, bytes: &Bytes) -> Result<ColumnCloseResult> {
    let metadata = footer.row_group(group).column(column);
    let of_pages = |index: Option<&Vec<Vec<_>>>| index.and_then(|all| all.get(group)?.get(column)).cloned();
    Ok(ColumnCloseResult {
        bytes_written: metadata.compressed_size() as u64,
        rows_written: footer.row_group(group).num_rows() as u64,
        bloom_filter: Sbbf::read_from_column_chunk(metadata, bytes)?,
        column_index: footer.column_index().and_then(|all| all.get(group)?.get(column)).cloned(),
        offset_index: of_pages(footer.offset_index()),
        metadata: metadata.clone(),
    })
}
