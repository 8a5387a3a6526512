//! Reading a data file: a stream of record batches, of the columns and rows that are asked for.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{FieldRef, Int64Type, SchemaRef};
use arrow::error::ArrowError;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::arrow_reader::{ArrowPredicateFn, RowFilter, RowSelection};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};

use super::hashes::{FooterEntry, Hashes};
use super::{Add, DataFile, Table};
use crate::{Error, Result};

/// Rows that are decoded at a time where few of them are wanted.
const BATCH_ROWS: usize = 1 << 13;

/// Which values of a column are wanted.
pub type Wanted = Arc<dyn Fn(i64) -> bool + Send + Sync>;

impl Table {
    /// A reader of a file of the table; its footer is read.
    pub async fn reader(&self, add: &Add) -> Result<ParquetRecordBatchStreamBuilder<DataFile>> {
        let builder = ParquetRecordBatchStreamBuilder::new(DataFile::of(self, add)?).await;
        builder.map_err(Error::parquet(self.path().file(&add.path)))
    }

    /// The columns of `schema` of all rows of a file, in its order.
    pub async fn read(&self, add: &Add, schema: &SchemaRef) -> Result<RecordBatch> {
        let builder = self.reader(add).await?;
        // One batch, which is not copied.
        let rows = builder.metadata().file_metadata().num_rows().max(1) as usize;
        self.rows(add, schema, builder.with_batch_size(rows)).await
    }

    /// The same, and how many bytes all columns of the file take, unpacked.
    pub async fn read_and_weigh(&self, add: &Add, schema: &SchemaRef) -> Result<(RecordBatch, u64)> {
        let builder = self.reader(add).await?;
        let groups = builder.metadata().row_groups();
        let unpacked = groups.iter().map(|group| u64::try_from(group.total_byte_size()).unwrap_or_default()).sum();
        let rows = builder.metadata().file_metadata().num_rows().max(1) as usize;
        Ok((self.rows(add, schema, builder.with_batch_size(rows)).await?, unpacked))
    }

    /// The columns of `schema` of all rows of a file, in its order, so many rows at a time. Of a group of rows, only the packed
    /// columns are in memory as a whole.
    pub async fn read_by(
        &self,
        add: &Add,
        schema: &SchemaRef,
        rows: usize,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let builder = self.reader(add).await?.with_batch_size(rows.max(1));
        self.batches(add, schema, builder)
    }

    /// The same, so many rows at a time as take about so many bytes.
    pub async fn read_within(
        &self,
        add: &Add,
        schema: &SchemaRef,
        bytes: usize,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let builder = self.reader(add).await?;
        let groups = builder.metadata().row_groups();
        let unpacked: u64 = groups.iter().map(|group| u64::try_from(group.total_byte_size()).unwrap_or_default()).sum();
        let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or_default();
        let at_once = (bytes as u64).saturating_mul(rows) / unpacked.max(1);
        let at_once = usize::try_from(at_once).unwrap_or(BATCH_ROWS).clamp(1, BATCH_ROWS);
        self.batches(add, schema, builder.with_batch_size(at_once))
    }

    fn batches(
        &self,
        add: &Add,
        schema: &SchemaRef,
        builder: ParquetRecordBatchStreamBuilder<DataFile>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let path = self.path().file(&add.path).to_string();
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let mask = ProjectionMask::columns(builder.parquet_schema(), names);
        let stream = builder.with_projection(mask).build().map_err(Error::parquet(path.clone()))?;
        let schema = schema.clone();
        let aligned = stream.map(move |batch| {
            let batch = batch.map_err(Error::parquet(path.clone()))?;
            align(&batch, &schema).map_err(Error::columns(path.clone()))
        });
        Ok(aligned.boxed())
    }

    /// The columns of `schema` of these rows of a file, in its order.
    pub async fn read_range(&self, add: &Add, schema: &SchemaRef, range: Range<usize>) -> Result<RecordBatch> {
        let builder = self.reader(add).await?;
        let rows = builder.metadata().file_metadata().num_rows().max(0) as usize;
        let most = range.len().max(1);
        let selection = RowSelection::from_consecutive_ranges(std::iter::once(range), rows);
        self.rows(add, schema, builder.with_batch_size(most).with_row_selection(selection)).await
    }

    /// The columns of `schema` of the rows whose value in `column`, of whole numbers, is wanted.
    pub async fn read_where(
        &self,
        add: &Add,
        schema: &SchemaRef,
        column: &str,
        wanted: &Wanted,
    ) -> Result<RecordBatch> {
        let builder = self.reader(add).await?;
        let mask = ProjectionMask::columns(builder.parquet_schema(), [column]);
        let wanted = wanted.clone();
        let is_wanted = move |batch: RecordBatch| {
            let values = batch.column(0).as_primitive_opt::<Int64Type>();
            let values =
                values.ok_or_else(|| ArrowError::SchemaError("rows are chosen by whole numbers".to_owned()))?;
            Ok(values.iter().map(|value| Some(value.is_some_and(|value| wanted(value)))).collect::<BooleanArray>())
        };
        let filter = RowFilter::new(vec![Box::new(ArrowPredicateFn::new(mask, is_wanted))]);
        self.rows(add, schema, builder.with_batch_size(BATCH_ROWS).with_row_filter(filter)).await
    }

    /// The same, of the rows at these places, in order.
    pub async fn read_at(&self, add: &Add, schema: &SchemaRef, places: &[usize]) -> Result<RecordBatch> {
        if places.is_empty() {
            return Ok(RecordBatch::new_empty(schema.clone()));
        }
        let builder = self.reader(add).await?;
        let rows = builder.metadata().file_metadata().num_rows().max(0) as usize;
        let runs = places.chunk_by(|a, b| a + 1 == *b).map(|run| run[0]..run[0] + run.len());
        let selection = RowSelection::from_consecutive_ranges(runs, rows);
        self.rows(add, schema, builder.with_batch_size(BATCH_ROWS).with_row_selection(selection)).await
    }

    /// The hashes of the values that a file has in `columns` (see [`super::hash_rows`]), where it says them.
    pub async fn hashes(&self, add: &Add, columns: &[&str]) -> Result<Option<Hashes>> {
        let path = self.path().file(&add.path);
        if let Some(known) = self.warehouse.hashes(&path, columns) {
            return Ok(known);
        }
        let read = self.read_hashes(add, columns).await?;
        self.warehouse.remember_hashes(&path, columns, read.as_ref());
        Ok(read)
    }

    async fn read_hashes(&self, add: &Add, columns: &[&str]) -> Result<Option<Hashes>> {
        let failed = || Error::parquet(self.path().file(&add.path));
        let mut file = DataFile::of(self, add)?;
        let footer = file.get_metadata(None).await.map_err(failed())?;
        let entries = footer.file_metadata().key_value_metadata();
        let entry = entries.and_then(|entries| FooterEntry::read(entries));
        let entry = entry.filter(|entry| entry.columns == columns && entry.range.end <= add.size as u64);
        let Some(FooterEntry { bits, range, .. }) = entry else { return Ok(None) };
        let bytes = file.get_bytes(range).await.map_err(failed())?;
        Ok(Hashes::new(bits, bytes))
    }

    async fn rows(
        &self,
        add: &Add,
        schema: &SchemaRef,
        builder: ParquetRecordBatchStreamBuilder<DataFile>,
    ) -> Result<RecordBatch> {
        let path = self.path().file(&add.path);
        let damaged = |error| Error::parquet(path.to_string())(error);
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let mask = ProjectionMask::columns(builder.parquet_schema(), names);
        let stream = builder.with_projection(mask).build().map_err(damaged)?;
        let batches: Vec<RecordBatch> = stream.try_collect().await.map_err(damaged)?;
        let aligned = batches.iter().map(|batch| align(batch, schema)).collect::<Result<Vec<_>, _>>();
        let whole = aligned.and_then(|batches| concat_batches(schema, &batches));
        whole.map_err(Error::columns(path.to_string()))
    }
}

/// The columns of a batch in the order and types of `schema`.
pub(crate) fn align(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let found = batch.schema();
    let column = |field: &FieldRef| cast(batch.column(found.index_of(field.name())?), field.data_type());
    RecordBatch::try_new(schema.clone(), schema.fields().iter().map(column).collect::<Result<_, _>>()?)
}
