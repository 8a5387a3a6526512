//! Types of fields: what a definition calls them, and Arrow's.

use std::fmt;
use std::str::FromStr;

use arrow::datatypes::DataType;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use starmere_lake::events;

use crate::expression::with_our_types;

/// A text, a number, a truth value or null, with the digits that were written: `08001` and `1.10` are what they say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scalar(pub Option<String>);

impl JsonSchema for Scalar {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Scalar".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": ["string", "number", "boolean", "null"] })
    }
}

/// Type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldType {
    String,
    Bool,
    Int,
    Bigint,
    Decimal(u8, i8),
    Double,
    Date,
    Timestamp,
    Json,
}

impl FieldType {
    /// The type of its columns.
    pub fn arrow(self) -> DataType {
        match self {
            Self::String | Self::Json => DataType::Utf8,
            Self::Bool => DataType::Boolean,
            Self::Int => DataType::Int32,
            Self::Bigint => DataType::Int64,
            Self::Decimal(precision, scale) => DataType::Decimal128(precision, scale),
            Self::Double => DataType::Float64,
            Self::Date => DataType::Date32,
            Self::Timestamp => events::timestamp(),
        }
    }

    /// The type that has such columns.
    pub fn of(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => Self::String,
            DataType::Boolean => Self::Bool,
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => Self::Int,
            DataType::Int64 | DataType::UInt32 | DataType::UInt64 => Self::Bigint,
            DataType::Decimal128(precision, scale) => Self::Decimal(*precision, *scale),
            DataType::Float32 | DataType::Float64 => Self::Double,
            DataType::Date32 => Self::Date,
            DataType::Timestamp(_, _) => Self::Timestamp,
            _ => return None,
        })
    }

    /// What a definition would call the type of such columns.
    pub fn name_of(data_type: &DataType) -> String {
        let known = Self::of(data_type).map(|known| known.to_string());
        known.unwrap_or_else(|| with_our_types(&data_type.to_string()))
    }

    /// Whether sums of it do not depend on their order.
    pub fn adds_exactly(self) -> bool {
        matches!(self, Self::Int | Self::Bigint | Self::Decimal(..))
    }
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String => f.write_str("string"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Bigint => f.write_str("bigint"),
            Self::Decimal(precision, scale) => write!(f, "decimal({precision},{scale})"),
            Self::Double => f.write_str("double"),
            Self::Date => f.write_str("date"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Json => f.write_str("json"),
        }
    }
}

impl FromStr for FieldType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const NAMES: [(&str, FieldType); 8] = [
            ("string", FieldType::String),
            ("bool", FieldType::Bool),
            ("int", FieldType::Int),
            ("bigint", FieldType::Bigint),
            ("double", FieldType::Double),
            ("date", FieldType::Date),
            ("timestamp", FieldType::Timestamp),
            ("json", FieldType::Json),
        ];
        if let Some((_, found)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(*found);
        }
        if let Some(inner) = text.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')')) {
            let (precision, scale) = inner.split_once(',').unwrap_or((inner, "0"));
            if let (Ok(precision), Ok(scale)) = (precision.trim().parse::<u8>(), scale.trim().parse::<u8>())
                && (1..=38).contains(&precision)
                && scale <= precision
            {
                return Ok(Self::Decimal(precision, scale as i8));
            }
            return Err(format!("`{text}` is not a decimal: write decimal(p,s) with s ≤ p ≤ 38"));
        }
        let names = NAMES.iter().map(|(name, _)| *name).chain(["decimal(p,s)"]);
        Err(format!("`{text}` is not a type: {}", super::suggestion(text, names)))
    }
}

impl<'de> Deserialize<'de> for FieldType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for FieldType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for FieldType {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "FieldType".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^(string|bool|int|bigint|double|date|timestamp|json|decimal\\([0-9]+(, ?[0-9]+)?\\))$"
        })
    }
}
