//! Which Arrow types leave this process, and that what arrives is what was promised.
//!
//! Old clients do not know string views, many do not know dictionaries, and ADBC refuses a stream whose
//! schema differs from the promised one in as little as nullability. So one function, [`wire_schema`], turns
//! a plan's schema into the promise, and another, [`wire_batch`], makes every batch keep it.
//!
//! | inside | on the wire |
//! | --- | --- |
//! | `Utf8View`, `BinaryView` | `Utf8`, `Binary` |
//! | `Dictionary`, `RunEndEncoded` | the values' type |
//! | `LargeList`, `ListView`, `LargeListView` | `List` |
//! | everything else | itself, its children likewise |
//!
//! arrow-flight's encoder makes the same of dictionaries and large lists on its own; doing it here first keeps
//! the promise in one place and gives HTTP the same types.

use std::sync::Arc;

use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, UnionFields},
};
use sha2::{Digest, Sha256};

use starmere_lake::arithmetic::loses;

use crate::error::QueryError;

#[cfg(test)]
mod tests;

/// The schema that clients are promised for a plan with this schema.
pub fn wire_schema(schema: &Schema) -> SchemaRef {
    let fields: Fields = schema.fields().iter().map(wire_field).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// The type on the wire of a type inside.
pub fn wire_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => wire_type(values),
        DataType::RunEndEncoded(_, values) => wire_type(values.data_type()),
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) | DataType::LargeListView(item) => {
            DataType::List(wire_field(item))
        }
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(wire_field(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(wire_field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(wire_field(entries), *sorted),
        DataType::Union(fields, mode) => {
            let fields: UnionFields = fields.iter().map(|(id, field)| (id, wire_field(field))).collect();
            DataType::Union(fields, *mode)
        }
        plain => plain.clone(),
    }
}

fn wire_field(field: &FieldRef) -> FieldRef {
    let data_type = wire_type(field.data_type());
    if let DataType::Union(..) = data_type {
        // A union has no nulls of its own, and arrow-flight sends it without metadata.
        return Arc::new(Field::new(field.name(), data_type, false));
    }
    if data_type == *field.data_type() {
        return Arc::clone(field);
    }
    Arc::new(Field::new(field.name(), data_type, field.is_nullable()).with_metadata(field.metadata().clone()))
}

/// The batch with the promised schema, cast where types differ.
///
/// # Errors
/// `Internal` when the batch cannot keep the promise: another number of columns, a type that cannot be
/// cast without loss, or a null in a column that was promised to have none.
pub fn wire_batch(batch: &RecordBatch, promised: &SchemaRef) -> Result<RecordBatch, QueryError> {
    if batch.num_columns() != promised.fields().len() {
        return Err(QueryError::internal(format!(
            "the query gave {} columns where {} were promised",
            batch.num_columns(),
            promised.fields().len()
        )));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (column, field) in batch.columns().iter().zip(promised.fields()) {
        if column.data_type() == field.data_type() {
            columns.push(Arc::clone(column));
            continue;
        }
        if loses(column.data_type(), field.data_type()) {
            let (name, given, type_) = (field.name(), column.data_type(), field.data_type());
            return Err(QueryError::internal(format!("column `{name}` is {given} where {type_} was promised")));
        }
        let cast = cast_with_options(column, field.data_type(), &options).map_err(|error| {
            QueryError::internal(format!("column `{}` does not fit its promised type", field.name())).caused_by(error)
        })?;
        columns.push(cast);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(promised), columns, &options)
        .map_err(|error| QueryError::internal("the query gave rows that break its promised schema").caused_by(error))
}

/// Tells result types apart: names, types and nullability of the columns, not their metadata.
pub fn schema_digest(schema: &Schema) -> String {
    let mut digest = Sha256::new();
    for field in schema.fields() {
        let line = format!("{}\u{1f}{}\u{1f}{}\n", field.name(), field.data_type(), field.is_nullable());
        digest.update(line.as_bytes());
    }
    hex::encode(digest.finalize())
}
