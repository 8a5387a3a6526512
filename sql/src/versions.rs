//! What another version of a product has: told to a query that names it where it is not.
//!
//! A product without a version is its highest one. So a name that was found there yesterday may be found in the version
//! before only, once another one is published.

use datafusion::common::{DataFusionError, SchemaError, TableReference};

use crate::{error::missing_table, view::TableInfo};

/// Where the table or the column is that `error` misses, if it is in another version of the same product. `named`: the tables
/// that the statement names.
pub(crate) fn hint(
    tables: &[TableInfo],
    error: &DataFusionError,
    named: impl FnOnce() -> Vec<TableReference>,
) -> Option<String> {
    let (what, mut found) = match error.find_root() {
        DataFusionError::Plan(message) => {
            let table = TableReference::parse_str(missing_table(message)?);
            (format!("`{}`", table.table()), others(tables, &table))
        }
        DataFusionError::SchemaError(error, _) => {
            let SchemaError::FieldNotFound { field, .. } = error.as_ref() else { return None };
            let has_it = |table: &&TableInfo| table.arrow_schema.field_with_name(field.name()).is_ok();
            let found = named().iter().flat_map(|table| others(tables, table)).filter(has_it).collect();
            (format!("`{}`", field.name()), found)
        }
        _ => return None,
    };
    found.sort_by_key(|table| version(&table.schema));
    let found = found.iter().rfind(|table| version(&table.schema).is_some()).or(found.first())?;
    Some(format!("another version of the product has {what}: `{}`", found.full_name()))
}

/// The tables of this name in other versions of its product.
fn others<'a>(tables: &'a [TableInfo], named: &TableReference) -> Vec<&'a TableInfo> {
    let (Some(catalog), Some(schema)) = (named.catalog(), named.schema()) else { return Vec::new() };
    let is_other = |table: &&TableInfo| {
        table.catalog == catalog
            && table.name == named.table()
            && table.schema != schema
            && product(&table.schema) == product(schema)
    };
    tables.iter().filter(is_other).collect()
}

/// The product that a schema is of.
fn product(schema: &str) -> &str {
    match (schema.rsplit_once("_v"), version(schema)) {
        (Some((product, _)), Some(_)) => product,
        _ => schema,
    }
}

/// The version that a schema is of, if it names one.
fn version(schema: &str) -> Option<u32> {
    schema.rsplit_once("_v")?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::common::Column;

    use super::*;
    use crate::view::TableKind;

    fn table(schema: &str, name: &str, columns: &[&str]) -> TableInfo {
        let fields: Vec<Field> = columns.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect();
        TableInfo {
            catalog: "sales".to_owned(),
            schema: schema.to_owned(),
            name: name.to_owned(),
            kind: TableKind::Table,
            arrow_schema: Arc::new(Schema::new(fields)),
            description: None,
            primary_key: Vec::new(),
            foreign_keys: Vec::new(),
        }
    }

    /// Two versions of orders, the second one without heads and revenue, and another product.
    fn tables() -> Vec<TableInfo> {
        vec![
            table("orders", "lines", &["id"]),
            table("orders_v1", "heads", &["id"]),
            table("orders_v1", "lines", &["id", "revenue"]),
            table("orders_v2", "lines", &["id"]),
            table("visits_v1", "visits", &["id", "revenue"]),
        ]
    }

    #[test]
    fn a_table_of_another_version_is_told() {
        let told = |name: &str| {
            hint(&tables(), &DataFusionError::Plan(format!("table '{name}' not found")), || unreachable!("not asked"))
        };
        let heads = Some("another version of the product has `heads`: `sales.orders_v1.heads`".to_owned());
        assert_eq!(told("sales.orders.heads"), heads);
        assert_eq!(told("sales.orders_v2.heads"), heads);
        let lines = Some("another version of the product has `lines`: `sales.orders_v2.lines`".to_owned());
        assert_eq!(told("sales.orders_v3.lines"), lines, "the highest there is");
        for unknown in ["sales.orders_v1.visits", "sales.order.lines", "people.orders.heads", "datafusion.orders.heads"]
        {
            assert_eq!(told(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_column_of_another_version_is_told() {
        let told = |column: &str, named: &[&str]| {
            let missing =
                SchemaError::FieldNotFound { field: Box::new(Column::from_name(column)), valid_fields: Vec::new() };
            let error = DataFusionError::SchemaError(Box::new(missing), Box::new(None)).context("while planning");
            hint(&tables(), &error, || named.iter().map(|name| TableReference::parse_str(name)).collect())
        };
        let expected = "another version of the product has `revenue`: `sales.orders_v1.lines`";
        assert_eq!(told("revenue", &["sales.orders.lines"]).as_deref(), Some(expected));
        assert_eq!(told("revenue", &["sales.visits_v1.visits", "sales.orders_v2.lines"]).as_deref(), Some(expected));
        assert_eq!(told("revenue", &["sales.visits_v1.visits"]), None);
        assert_eq!(told("tax", &["sales.orders.lines"]), None);
    }
}
