//! Reading columns of a table's file.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::TryStreamExt;
use parquet::arrow::ProjectionMask;
use starmere_lake::Error as LakeError;
use starmere_lake::delta::{Add, Table};

use crate::{Error, Result};

/// The columns of `schema` of all rows of a file, as one batch in the order of the file.
pub async fn read_file(table: &Table, add: &Add, schema: &SchemaRef) -> Result<RecordBatch> {
    let path = table.path().file(&add.path);
    let damaged = |error| Error::Lake(LakeError::parquet(path.to_string())(error));
    let builder = table.reader(add).await?;
    let names = schema.fields().iter().map(|field| field.name().as_str());
    let mask = ProjectionMask::columns(builder.parquet_schema(), names);
    let rows = builder.metadata().file_metadata().num_rows().max(1) as usize;
    let stream = builder.with_projection(mask).with_batch_size(rows).build().map_err(damaged)?;
    let batches: Vec<RecordBatch> = stream.try_collect().await.map_err(damaged)?;
    let aligned = batches.iter().map(|batch| align(batch, schema)).collect::<Result<Vec<_>, _>>();
    let whole = aligned.and_then(|batches| concat_batches(schema, &batches));
    whole.map_err(Error::columns(path.to_string()))
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
