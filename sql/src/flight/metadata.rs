//! Questions about what there is: catalogs, schemas, tables, types of tables.
//!
//! Each command knows the schema of its answer without looking at anything, and its rows given a view.
//! Filtering and ordering are arrow-flight's.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{ArrayRef, RecordBatch, StringArray},
    datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef},
};
use arrow_flight::{
    error::FlightError,
    sql::{CommandGetCatalogs, CommandGetDbSchemas, CommandGetTableTypes, CommandGetTables, ProstMessageExt},
};

use crate::{
    error::QueryError,
    types::{precision, scale, sql_name},
    view::{TableInfo, TableKind, View},
    wire::wire_schema,
};

/// A command that is answered from the list of tables.
pub(super) trait Metadata: ProstMessageExt + Clone {
    /// The schema of the answer, as Flight SQL prescribes it.
    fn schema(&self) -> SchemaRef;

    /// The answer.
    fn rows(self, view: &View) -> Result<RecordBatch, QueryError>;
}

/// arrow-flight's builders fail only when they build what they cannot.
pub(super) fn built<T>(result: Result<T, FlightError>) -> Result<T, QueryError> {
    result.map_err(|error| QueryError::internal("could not build an answer about metadata").caused_by(error))
}

/// Ordered, each once.
fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.collect();
    values.sort();
    values.dedup();
    values
}

impl Metadata for CommandGetCatalogs {
    fn schema(&self) -> SchemaRef {
        (*self).into_builder().schema()
    }

    fn rows(self, view: &View) -> Result<RecordBatch, QueryError> {
        let mut builder = self.into_builder();
        for catalog in distinct(view.tables.iter().map(|table| table.catalog.as_str())) {
            builder.append(catalog);
        }
        built(builder.build())
    }
}

impl Metadata for CommandGetDbSchemas {
    fn schema(&self) -> SchemaRef {
        self.clone().into_builder().schema()
    }

    fn rows(self, view: &View) -> Result<RecordBatch, QueryError> {
        let mut builder = self.into_builder();
        let schemas = view.tables.iter().map(|table| (table.catalog.as_str(), table.schema.as_str()));
        for (catalog, schema) in distinct(schemas) {
            builder.append(catalog, schema);
        }
        built(builder.build())
    }
}

impl Metadata for CommandGetTables {
    fn schema(&self) -> SchemaRef {
        self.clone().into_builder().schema()
    }

    fn rows(self, view: &View) -> Result<RecordBatch, QueryError> {
        let described = self.include_schema;
        let mut builder = self.into_builder();
        let undescribed = Schema::empty();
        for table in view.tables.iter() {
            let schema = if described { described_schema(table) } else { undescribed.clone() };
            let kind = table.kind.word();
            built(builder.append(&table.catalog, &table.schema, &table.name, kind, &schema))?;
        }
        built(builder.build())
    }
}

impl Metadata for CommandGetTableTypes {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("table_type", DataType::Utf8, false)]))
    }

    fn rows(self, _view: &View) -> Result<RecordBatch, QueryError> {
        let words = distinct(TableKind::ALL.into_iter().map(TableKind::word));
        let words: ArrayRef = Arc::new(StringArray::from(words));
        Ok(RecordBatch::try_new(self.schema(), vec![words])?)
    }
}

/// A table's columns with what drivers read from their metadata.
fn described_schema(table: &TableInfo) -> Schema {
    let schema = wire_schema(&table.arrow_schema);
    let fields: Fields = schema.fields().iter().map(|field| described_field(table, field)).collect();
    Schema::new_with_metadata(fields, schema.metadata().clone())
}

fn described_field(table: &TableInfo, field: &FieldRef) -> FieldRef {
    let data_type = field.data_type();
    let mut notes: HashMap<&str, String> = HashMap::from([
        ("CATALOG_NAME", table.catalog.clone()),
        ("DB_SCHEMA_NAME", table.schema.clone()),
        ("TABLE_NAME", table.name.clone()),
        ("TYPE_NAME", sql_name(data_type).to_owned()),
        ("IS_AUTO_INCREMENT", "0".to_owned()),
        ("IS_CASE_SENSITIVE", if data_type.is_string() { "1" } else { "0" }.to_owned()),
        ("IS_READ_ONLY", "1".to_owned()),
        ("IS_SEARCHABLE", "1".to_owned()),
    ]);
    if let Some(precision) = precision(data_type) {
        notes.insert("PRECISION", precision.to_string());
    }
    if let Some(scale) = scale(data_type) {
        notes.insert("SCALE", scale.to_string());
    }
    if let Some(description) = field.metadata().get("description") {
        notes.insert("REMARKS", description.clone());
    }
    let mut metadata = field.metadata().clone();
    metadata.extend(notes.into_iter().map(|(name, value)| (format!("ARROW:FLIGHT:SQL:{name}"), value)));
    Arc::new(field.as_ref().clone().with_metadata(metadata))
}
