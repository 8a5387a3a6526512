//! Statistics of a file: Delta's JSON on one side, Parquet's footer and DataFusion's on the other.
//!
//! ```json
//! {"numRecords":3,"minValues":{"at":"2024-01-01T00:00:00.000Z"},"maxValues":{…},"nullCount":{"at":0}}
//! ```
//!
//! The JSON is narrower than the values: timestamps have milliseconds, text is cut, decimals are read as
//! floats. So a bound is always written outwards (a minimum down, a maximum up) and left out where that
//! cannot be done; and on reading, only counts, integers and dates are called exact, everything else a bound.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics as TableStatistics};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;
use serde_json::{Map, Value, json};

/// Text bounds are cut to this many characters.
const TEXT_BOUND: usize = 32;
/// Decimals with more digits than this do not survive a float.
const FLOAT_DIGITS: u32 = 15;

/// Delta's statistics, from the footer of the file that was written with `schema`.
pub(super) fn from_footer(schema: &SchemaRef, footer: &ParquetMetaData) -> String {
    let rows: i64 = footer.file_metadata().num_rows();
    let (mut minimums, mut maximums, mut nulls) = (Map::new(), Map::new(), Map::new());
    for field in schema.fields() {
        let mut bounds: Option<(Bound, Bound)> = None;
        let mut null_count = Some(0_u64);
        let mut complete = true;
        for group in footer.row_groups() {
            let column = group.columns().iter().find(|column| {
                let path = column.column_descr().path().parts();
                path.len() == 1 && path[0] == *field.name()
            });
            let Some(statistics) = column.and_then(|column| column.statistics()) else {
                (complete, null_count) = (false, None);
                break;
            };
            null_count = null_count.zip(statistics.null_count_opt()).map(|(sum, more)| sum + more);
            match Bound::of(field.data_type(), statistics) {
                Some((low, high)) => {
                    bounds = Some(match bounds {
                        Some((min, max)) => (min.least(low), max.greatest(high)),
                        None => (low, high),
                    });
                }
                // A group of nulls has no bounds and needs none.
                None => complete &= statistics.null_count_opt() == Some(group.num_rows() as u64),
            }
        }
        if let Some(count) = null_count {
            nulls.insert(field.name().clone(), json!(count));
        }
        if let (Some((low, high)), true) = (bounds, complete) {
            if let Some(low) = low.json(field.data_type(), false) {
                minimums.insert(field.name().clone(), low);
            }
            if let Some(high) = high.json(field.data_type(), true) {
                maximums.insert(field.name().clone(), high);
            }
        }
    }
    json!({ "numRecords": rows, "minValues": minimums, "maxValues": maximums, "nullCount": nulls }).to_string()
}

/// A bound as Parquet keeps it.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
enum Bound {
    Integer(i128),
    Float(f64),
    Text(String),
}

impl Bound {
    fn of(data_type: &DataType, statistics: &Statistics) -> Option<(Self, Self)> {
        let integers = |low: Option<i128>, high: Option<i128>| Some((Self::Integer(low?), Self::Integer(high?)));
        match (data_type, statistics) {
            (DataType::Boolean, _) => None,
            (_, Statistics::Int32(values)) => {
                integers(values.min_opt().map(|&v| v.into()), values.max_opt().map(|&v| v.into()))
            }
            (_, Statistics::Int64(values)) => {
                integers(values.min_opt().map(|&v| v.into()), values.max_opt().map(|&v| v.into()))
            }
            (DataType::Float64, Statistics::Double(values)) => {
                let (low, high) = (*values.min_opt()?, *values.max_opt()?);
                (low.is_finite() && high.is_finite()).then_some((Self::Float(low), Self::Float(high)))
            }
            (DataType::Utf8 | DataType::Utf8View, Statistics::ByteArray(values)) => {
                let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
                Some((Self::Text(text(values.min_opt()?.data())?), Self::Text(text(values.max_opt()?.data())?)))
            }
            (DataType::Decimal128(..), Statistics::FixedLenByteArray(values)) => {
                let number = |bytes: &[u8]| -> Option<i128> {
                    let first = *bytes.first()?;
                    let mut wide = [if first & 0x80 == 0 { 0 } else { 0xff }; 16];
                    wide.get_mut(16_usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
                    Some(i128::from_be_bytes(wide))
                };
                integers(number(values.min_opt()?.data()), number(values.max_opt()?.data()))
            }
            _ => None,
        }
    }

    fn least(self, other: Self) -> Self {
        if other < self { other } else { self }
    }

    fn greatest(self, other: Self) -> Self {
        if other > self { other } else { self }
    }

    /// As Delta writes it, never further inwards; `None` where that cannot be said.
    fn json(&self, data_type: &DataType, upper: bool) -> Option<Value> {
        match (self, data_type) {
            (Self::Integer(value), DataType::Int16 | DataType::Int32 | DataType::Int64) => {
                Some(json!(i64::try_from(*value).ok()?))
            }
            (Self::Integer(value), DataType::Date32) => Some(json!(date(i32::try_from(*value).ok()?)?.to_string())),
            (Self::Integer(value), DataType::Timestamp(TimeUnit::Microsecond, _)) => {
                let micros = i64::try_from(*value).ok()?;
                let millis = micros.div_euclid(1000) + i64::from(upper && micros.rem_euclid(1000) != 0);
                let at = chrono::DateTime::from_timestamp_millis(millis)?;
                Some(json!(at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()))
            }
            (Self::Integer(value), DataType::Decimal128(_, scale)) => {
                let digits = value.unsigned_abs().checked_ilog10().map_or(1, |log| log + 1);
                let scaled = *value as f64 / 10_f64.powi(i32::from(*scale));
                (digits <= FLOAT_DIGITS).then(|| json!(scaled))
            }
            (Self::Float(value), DataType::Float64) => Some(json!(value)),
            (Self::Text(text), _) => {
                let cut: String = text.chars().take(TEXT_BOUND).collect();
                let shorter = cut.len() < text.len();
                Some(json!(if upper && shorter { cut + "\u{10FFFF}" } else { cut }))
            }
            _ => None,
        }
    }
}

fn date(days: i32) -> Option<chrono::NaiveDate> {
    chrono::NaiveDate::from_ymd_opt(1970, 1, 1)?.checked_add_signed(chrono::Duration::days(days.into()))
}

/// DataFusion's statistics of a file, for the columns of `schema`.
pub(crate) fn to_datafusion(schema: &SchemaRef, statistics: Option<&str>) -> TableStatistics {
    let mut table = TableStatistics::new_unknown(schema);
    let Some(value) = statistics.and_then(|text| serde_json::from_str::<Value>(text).ok()) else { return table };
    let Some(rows) = value["numRecords"].as_u64() else { return table };
    table.num_rows = Precision::Exact(rows as usize);
    for (field, column) in schema.fields().iter().zip(&mut table.column_statistics) {
        *column = column_statistics(field.data_type(), &value, field.name());
    }
    table
}

fn column_statistics(data_type: &DataType, value: &Value, name: &str) -> ColumnStatistics {
    let exact = matches!(data_type, DataType::Int16 | DataType::Int32 | DataType::Int64 | DataType::Date32);
    let bound = |value: &Value, upper: bool| match scalar(data_type, value, upper) {
        Some(scalar) if exact => Precision::Exact(scalar),
        Some(scalar) => Precision::Inexact(scalar),
        None => Precision::Absent,
    };
    let mut column = ColumnStatistics::new_unknown();
    column.min_value = bound(&value["minValues"][name], false);
    column.max_value = bound(&value["maxValues"][name], true);
    if let Some(count) = value["nullCount"][name].as_u64() {
        column.null_count = Precision::Exact(count as usize);
    }
    column
}

/// A bound as a value of `data_type`, widened by what the JSON cannot say.
fn scalar(data_type: &DataType, value: &Value, upper: bool) -> Option<ScalarValue> {
    Some(match data_type {
        DataType::Int16 => ScalarValue::Int16(Some(value.as_i64()?.try_into().ok()?)),
        DataType::Int32 => ScalarValue::Int32(Some(value.as_i64()?.try_into().ok()?)),
        DataType::Int64 => ScalarValue::Int64(Some(value.as_i64()?)),
        DataType::Float64 => ScalarValue::Float64(Some(value.as_f64()?)),
        DataType::Date32 => {
            let date: chrono::NaiveDate = value.as_str()?.parse().ok()?;
            let days = date.signed_duration_since(chrono::NaiveDate::from_ymd_opt(1970, 1, 1)?).num_days();
            ScalarValue::Date32(Some(days.try_into().ok()?))
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let at = chrono::DateTime::parse_from_rfc3339(value.as_str()?).ok()?.timestamp_micros();
            // Others truncate both bounds to milliseconds.
            let at = if upper { at.checked_add(999)? } else { at };
            ScalarValue::TimestampMicrosecond(Some(at), zone.clone())
        }
        DataType::Decimal128(precision, scale) => {
            let scaled = value.as_f64()? * 10_f64.powi(i32::from(*scale));
            let outwards = if upper { scaled.ceil() + 1.0 } else { scaled.floor() - 1.0 };
            ScalarValue::Decimal128(Some(outwards as i128), *precision, *scale)
        }
        DataType::Utf8 => ScalarValue::Utf8(Some(value.as_str()?.to_owned())),
        DataType::Utf8View => ScalarValue::Utf8View(Some(value.as_str()?.to_owned())),
        _ => return None,
    })
}

/// A partition's value, as text in the log, as a value of `data_type`.
pub(crate) fn partition_value(data_type: &DataType, value: Option<&str>) -> Option<ScalarValue> {
    match value {
        None => ScalarValue::try_from(data_type).ok(),
        Some(text) => ScalarValue::try_from_string(text.to_owned(), data_type).ok(),
    }
}

/// The sum of the files' statistics.
pub(crate) fn merged<'a>(schema: &SchemaRef, files: impl Iterator<Item = &'a Arc<TableStatistics>>) -> TableStatistics {
    let mut files = files.peekable();
    if files.peek().is_none() {
        return TableStatistics::new_unknown(schema);
    }
    TableStatistics::try_merge_iter(files.map(|statistics| &**statistics), schema)
        .unwrap_or_else(|_| TableStatistics::new_unknown(schema))
}
