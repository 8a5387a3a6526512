//! Columns of the lake's files.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

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
