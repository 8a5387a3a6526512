//! Reading a data file: a stream of record batches, of the columns and rows that are asked for.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{FieldRef, SchemaRef};
use arrow::error::ArrowError;
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

use super::{Add, Table};
use crate::{Error, Result};

impl Table {
    /// A reader of a file of the table; its footer is read.
    pub async fn reader(&self, add: &Add) -> Result<ParquetRecordBatchStreamBuilder<DataFile>> {
        let path = self.path().file(&add.path);
        let file = DataFile { objects: self.store().objects().clone(), path: path.clone(), size: add.size as u64 };
        ParquetRecordBatchStreamBuilder::new(file).await.map_err(Error::parquet(path.to_string()))
    }

    /// The columns of `schema` of all rows of a file, in its order.
    pub async fn read(&self, add: &Add, schema: &SchemaRef) -> Result<RecordBatch> {
        let path = self.path().file(&add.path);
        let damaged = |error| Error::parquet(path.to_string())(error);
        let builder = self.reader(add).await?;
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let mask = ProjectionMask::columns(builder.parquet_schema(), names);
        let rows = builder.metadata().file_metadata().num_rows().max(1) as usize;
        let stream = builder.with_projection(mask).with_batch_size(rows).build().map_err(damaged)?;
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

/// A Parquet file in the store; only the ranges that are needed are read.
#[derive(Debug)]
pub struct DataFile {
    objects: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

impl AsyncFileReader for DataFile {
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
