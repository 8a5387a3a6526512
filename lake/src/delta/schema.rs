//! Schemas: Delta's JSON on one side, Arrow's types on the other.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use serde_json::{Value, json};

use crate::{Error, Result};

/// Delta's text of an Arrow schema.
pub fn to_delta(schema: &SchemaRef) -> Result<String> {
    Ok(structure(schema.fields())?.to_string())
}

fn structure(fields: &Fields) -> Result<Value> {
    let fields = fields
        .iter()
        .map(|field| {
            Ok(json!({
                "name": field.name(),
                "type": type_name(field.data_type()).map_err(|reason| Error::Invalid { what: format!("column `{}`", field.name()), reason })?,
                "nullable": field.is_nullable(),
                "metadata": field.metadata(),
            }))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(json!({ "type": "struct", "fields": fields }))
}

fn type_name(data_type: &DataType) -> Result<Value, String> {
    Ok(match data_type {
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => json!("string"),
        DataType::Int64 => json!("long"),
        DataType::Int32 => json!("integer"),
        DataType::Int16 => json!("short"),
        DataType::Boolean => json!("boolean"),
        DataType::Float64 => json!("double"),
        DataType::Float32 => json!("float"),
        DataType::Date32 => json!("date"),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => json!("timestamp"),
        DataType::Decimal128(precision, scale) => json!(format!("decimal({precision},{scale})")),
        DataType::Binary | DataType::BinaryView | DataType::LargeBinary => json!("binary"),
        DataType::List(item) => {
            json!({ "type": "array", "elementType": type_name(item.data_type())?, "containsNull": item.is_nullable() })
        }
        DataType::Struct(fields) => structure(fields).map_err(|error| error.to_string())?,
        other => return Err(format!("Delta has no type for {other}")),
    })
}

/// The Arrow schema of Delta's text, or what is wrong with it.
pub fn from_delta(text: &str) -> Result<SchemaRef, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Ok(Arc::new(Schema::new(fields(&value)?)))
}

fn fields(value: &Value) -> Result<Fields, String> {
    let fields = value["fields"].as_array().ok_or("a struct without fields")?;
    fields
        .iter()
        .map(|field| {
            let name = field["name"].as_str().ok_or("a field without a name")?;
            let metadata = field["metadata"].as_object().into_iter().flatten();
            let metadata =
                metadata.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
            let nullable = field["nullable"].as_bool().unwrap_or(true);
            Ok(Arc::new(Field::new(name, arrow_type(&field["type"])?, nullable).with_metadata(metadata)))
        })
        .collect()
}

fn arrow_type(value: &Value) -> Result<DataType, String> {
    let unknown = || format!("type {value} is not known");
    let Some(name) = value.as_str() else {
        return match value["type"].as_str() {
            Some("struct") => Ok(DataType::Struct(fields(value)?)),
            Some("array") => {
                let nullable = value["containsNull"].as_bool().unwrap_or(true);
                Ok(DataType::List(Arc::new(Field::new("element", arrow_type(&value["elementType"])?, nullable))))
            }
            _ => Err(unknown()),
        };
    };
    Ok(match name {
        "string" => DataType::Utf8,
        "long" => DataType::Int64,
        "integer" => DataType::Int32,
        "short" => DataType::Int16,
        "boolean" => DataType::Boolean,
        "double" => DataType::Float64,
        "float" => DataType::Float32,
        "date" => DataType::Date32,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        "binary" => DataType::Binary,
        decimal => {
            let inner = decimal.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')')).ok_or_else(unknown)?;
            let (precision, scale) = inner.split_once(',').ok_or_else(unknown)?;
            let number = |text: &str| text.trim().parse::<u8>().map_err(|_| unknown());
            DataType::Decimal128(number(precision)?, number(scale)? as i8)
        }
    })
}
