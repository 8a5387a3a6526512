//! Reading columns of a table's file.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use starmere_lake::Error as LakeError;
use starmere_lake::delta::{Add, Table};

use crate::{Error, Result};

/// The columns of `schema` of all rows of a file, as one batch in the order of the file.
pub async fn read_file(table: &Table, add: &Add, schema: &SchemaRef) -> Result<RecordBatch> {
    let path = table.path().file(&add.path);
    let damaged = |error| Error::Lake(LakeError::parquet(path.to_string())(error));
    let reader = Object { objects: table.store().objects().clone(), path: path.clone(), size: add.size as u64 };
    let builder = ParquetRecordBatchStreamBuilder::new(reader).await.map_err(damaged)?;
    let names = schema.fields().iter().map(|field| field.name().as_str());
    let mask = ProjectionMask::columns(builder.parquet_schema(), names);
    let rows = builder.metadata().file_metadata().num_rows().max(1) as usize;
    let stream = builder.with_projection(mask).with_batch_size(rows).build().map_err(damaged)?;
    let batches: Vec<RecordBatch> = stream.try_collect().await.map_err(damaged)?;
    let aligned = batches.iter().map(|batch| align(batch, schema)).collect::<Result<Vec<_>, _>>();
    let whole = aligned.and_then(|batches| concat_batches(schema, &batches));
    whole.map_err(Error::columns(path.to_string()))
}

/// A Parquet file in the store; only the ranges that are needed are read.
struct Object {
    objects: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

impl AsyncFileReader for Object {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { self.objects.get_range(&self.path, range).await.map_err(external) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move { self.objects.get_ranges(&self.path, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let size = self.size;
            let metadata =
                ParquetMetaDataReader::new().with_prefetch_hint(Some(1 << 16)).load_and_finish(self, size).await?;
            Ok(Arc::new(metadata))
        }
        .boxed()
    }
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

/// The columns in the order and types of `schema`.
fn align(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, arrow::error::ArrowError> {
    let columns = schema.fields().iter().map(|field| {
        let index = batch.schema().index_of(field.name())?;
        cast(batch.column(index), field.data_type())
    });
    RecordBatch::try_new(schema.clone(), columns.collect::<Result<_, _>>()?)
}

/// A schema of some of the lake's columns.
pub(super) fn lake_columns(names: &[&str]) -> SchemaRef {
    let all = starmere_lake::events::file_schema();
    let fields = names.iter().filter_map(|name| all.field_with_name(name).ok().cloned());
    Arc::new(Schema::new(fields.map(relaxed).collect::<Vec<_>>()))
}

fn relaxed(field: Field) -> Field {
    match field.data_type() {
        DataType::Utf8 | DataType::Binary => field.with_nullable(true),
        _ => field,
    }
}
