//! Questions about keys. arrow-flight has no builders for these, so the schemas here are Flight SQL's own,
//! written out.
//!
//! A key's name is made from what it is, because definitions do not name keys: `<table>_pkey` and
//! `<table>_<first column>_informational_fkey`, since nobody checks references. Nothing is ever updated or deleted
//! through a client, so the rules for that are `NO ACTION`.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int32Array, RecordBatch, StringArray, UInt8Array},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use arrow_flight::sql::{
    CommandGetCrossReference, CommandGetExportedKeys, CommandGetImportedKeys, CommandGetPrimaryKeys, UpdateDeleteRules,
};

use super::metadata::Metadata;
use crate::{
    error::QueryError,
    view::{ForeignKey, TableInfo, View},
};

/// Which tables are meant. An omitted catalog or schema matches every one.
struct Wanted<'a> {
    catalog: Option<&'a str>,
    schema: Option<&'a str>,
    table: &'a str,
}

impl Wanted<'_> {
    fn is(&self, [catalog, schema, table]: [&str; 3]) -> bool {
        self.catalog.is_none_or(|wanted| wanted == catalog)
            && self.schema.is_none_or(|wanted| wanted == schema)
            && self.table == table
    }
}

fn name(table: &TableInfo) -> [&str; 3] {
    [&table.catalog, &table.schema, &table.name]
}

fn field(name: &str, data_type: DataType, nullable: bool) -> Field {
    Field::new(name, data_type, nullable)
}

fn primary_key_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        field("catalog_name", DataType::Utf8, true),
        field("db_schema_name", DataType::Utf8, true),
        field("table_name", DataType::Utf8, false),
        field("column_name", DataType::Utf8, false),
        field("key_name", DataType::Utf8, true),
        field("key_sequence", DataType::Int32, false),
    ]))
}

fn foreign_key_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        field("pk_catalog_name", DataType::Utf8, true),
        field("pk_db_schema_name", DataType::Utf8, true),
        field("pk_table_name", DataType::Utf8, false),
        field("pk_column_name", DataType::Utf8, false),
        field("fk_catalog_name", DataType::Utf8, true),
        field("fk_db_schema_name", DataType::Utf8, true),
        field("fk_table_name", DataType::Utf8, false),
        field("fk_column_name", DataType::Utf8, false),
        field("key_sequence", DataType::Int32, false),
        field("fk_key_name", DataType::Utf8, true),
        field("pk_key_name", DataType::Utf8, true),
        field("update_rule", DataType::UInt8, false),
        field("delete_rule", DataType::UInt8, false),
    ]))
}

fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn primary_key_name(table: &str) -> String {
    format!("{table}_pkey")
}

impl Metadata for CommandGetPrimaryKeys {
    fn schema(&self) -> SchemaRef {
        primary_key_schema()
    }

    fn rows(self, view: &View) -> Result<RecordBatch, QueryError> {
        let wanted = Wanted { catalog: self.catalog.as_deref(), schema: self.db_schema.as_deref(), table: &self.table };
        let mut tables: Vec<&TableInfo> = view.tables.iter().filter(|table| wanted.is(name(table))).collect();
        tables.sort_by(|left, right| name(left).cmp(&name(right)));
        let rows: Vec<(&TableInfo, &str, String, i32)> = tables
            .into_iter()
            .flat_map(|table| {
                let numbered = table.primary_key.iter().zip(1..);
                numbered.map(move |(column, number)| (table, column.as_str(), primary_key_name(&table.name), number))
            })
            .collect();
        let columns = vec![
            texts(rows.iter().map(|row| row.0.catalog.as_str())),
            texts(rows.iter().map(|row| row.0.schema.as_str())),
            texts(rows.iter().map(|row| row.0.name.as_str())),
            texts(rows.iter().map(|row| row.1)),
            texts(rows.iter().map(|row| row.2.as_str())),
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.3))) as ArrayRef,
        ];
        Ok(RecordBatch::try_new(primary_key_schema(), columns)?)
    }
}

/// One column of one reference.
struct Reference<'a> {
    to: [&'a str; 3],
    to_column: &'a str,
    from: [&'a str; 3],
    from_column: &'a str,
    sequence: i32,
    foreign_name: String,
    primary_name: String,
}

/// The references between the wanted tables, a row for each column.
fn references<'a>(view: &'a View, from: Option<&Wanted<'_>>, to: Option<&Wanted<'_>>) -> Vec<Reference<'a>> {
    let mut rows = Vec::new();
    for table in view.tables.iter() {
        let here = name(table);
        if from.is_some_and(|wanted| !wanted.is(here)) {
            continue;
        }
        for key in &table.foreign_keys {
            let there = [key.to[0].as_str(), key.to[1].as_str(), key.to[2].as_str()];
            if to.is_none_or(|wanted| wanted.is(there)) {
                push_reference(&mut rows, here, there, key);
            }
        }
    }
    rows
}

fn push_reference<'a>(rows: &mut Vec<Reference<'a>>, from: [&'a str; 3], to: [&'a str; 3], key: &'a ForeignKey) {
    let first = key.columns.first().map_or("", String::as_str);
    for ((from_column, to_column), sequence) in key.columns.iter().zip(&key.to_columns).zip(1..) {
        rows.push(Reference {
            to,
            to_column,
            from,
            from_column,
            sequence,
            foreign_name: format!("{}_{first}_informational_fkey", from[2]),
            primary_name: primary_key_name(to[2]),
        });
    }
}

fn reference_batch(rows: &[Reference<'_>]) -> Result<RecordBatch, QueryError> {
    let rules: ArrayRef = Arc::new(UInt8Array::from(vec![UpdateDeleteRules::NoAction as u8; rows.len()]));
    let sequence = Int32Array::from_iter_values(rows.iter().map(|row| row.sequence));
    let columns = vec![
        texts(rows.iter().map(|row| row.to[0])),
        texts(rows.iter().map(|row| row.to[1])),
        texts(rows.iter().map(|row| row.to[2])),
        texts(rows.iter().map(|row| row.to_column)),
        texts(rows.iter().map(|row| row.from[0])),
        texts(rows.iter().map(|row| row.from[1])),
        texts(rows.iter().map(|row| row.from[2])),
        texts(rows.iter().map(|row| row.from_column)),
        Arc::new(sequence) as ArrayRef,
        texts(rows.iter().map(|row| row.foreign_name.as_str())),
        texts(rows.iter().map(|row| row.primary_name.as_str())),
        Arc::clone(&rules),
        rules,
    ];
    Ok(RecordBatch::try_new(foreign_key_schema(), columns)?)
}

/// Flight SQL's order where the referring table is what differs.
fn sort_by_referring(rows: &mut [Reference<'_>]) {
    rows.sort_by(|left, right| {
        (left.from, &left.foreign_name, left.sequence).cmp(&(right.from, &right.foreign_name, right.sequence))
    });
}

/// Flight SQL's order where the table referred to is what differs. Two references to one table are kept
/// apart by their names, so that the columns of each stay together.
fn sort_by_referred(rows: &mut [Reference<'_>]) {
    rows.sort_by(|left, right| {
        (left.to, &left.primary_name, &left.foreign_name, left.sequence).cmp(&(
            right.to,
            &right.primary_name,
            &right.foreign_name,
            right.sequence,
        ))
    });
}

impl Metadata for CommandGetExportedKeys {
    fn schema(&self) -> SchemaRef {
        foreign_key_schema()
    }

    fn rows(self, view: &View) -> Result<RecordBatch, QueryError> {
        let wanted = Wanted { catalog: self.catalog.as_deref(), schema: self.db_schema.as_deref(), table: &self.table };
        let mut rows = references(view, None, Some(&wanted));
        sort_by_referring(&mut rows);
        reference_batch(&rows)
    }
}

impl Metadata for CommandGetImportedKeys {
    fn schema(&self) -> SchemaRef {
        foreign_key_schema()
    }

    fn rows(self, view: &View) -> Result<RecordBatch, QueryError> {
        let wanted = Wanted { catalog: self.catalog.as_deref(), schema: self.db_schema.as_deref(), table: &self.table };
        let mut rows = references(view, Some(&wanted), None);
        sort_by_referred(&mut rows);
        reference_batch(&rows)
    }
}

impl Metadata for CommandGetCrossReference {
    fn schema(&self) -> SchemaRef {
        foreign_key_schema()
    }

    fn rows(self, view: &View) -> Result<RecordBatch, QueryError> {
        let to =
            Wanted { catalog: self.pk_catalog.as_deref(), schema: self.pk_db_schema.as_deref(), table: &self.pk_table };
        let from =
            Wanted { catalog: self.fk_catalog.as_deref(), schema: self.fk_db_schema.as_deref(), table: &self.fk_table };
        let mut rows = references(view, Some(&from), Some(&to));
        sort_by_referred(&mut rows);
        reference_batch(&rows)
    }
}
