//! Values as JSON, by arrow-json's encoders, with what it would lose put right: decimals are text, and what it
//! refuses (unions, maps whose keys are not text) is shown as Arrow shows it.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, RecordBatch, StringBuilder},
    datatypes::{DataType, Field, FieldRef, Schema},
    error::ArrowError,
    json::writer::{Encoder, EncoderFactory, EncoderOptions, NullableEncoder, make_encoder},
    util::display::{ArrayFormatter, FormatOptions},
};
use serde_json::Value;

use crate::error::QueryError;

/// How this server writes values.
pub(super) fn options() -> EncoderOptions {
    EncoderOptions::default().with_explicit_nulls(true).with_encoder_factory(Arc::new(Exact))
}

/// One encoder for each column of a batch.
pub(super) fn encoders<'a>(
    batch: &'a RecordBatch,
    options: &'a EncoderOptions,
) -> Result<Vec<NullableEncoder<'a>>, QueryError> {
    let columns = batch.schema_ref().fields().iter().zip(batch.columns());
    let encoders = columns.map(|(field, column)| make_encoder(field, column.as_ref(), options));
    Ok(encoders.collect::<Result<_, _>>()?)
}

/// Writes one value, null where it is.
pub(super) fn write(encoder: &mut NullableEncoder<'_>, row: usize, out: &mut Vec<u8>) {
    if encoder.is_null(row) {
        out.extend_from_slice(b"null");
    } else {
        encoder.encode(row, out);
    }
}

/// A name or text as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The batch with nested columns as JSON text, for CSV has no other way to say them.
///
/// # Errors
/// `Internal` when a column cannot be written as JSON.
pub fn nested_as_text(batch: &RecordBatch) -> Result<RecordBatch, QueryError> {
    let schema = batch.schema_ref();
    if !schema.fields().iter().any(|field| field.data_type().is_nested()) {
        return Ok(batch.clone());
    }
    let options = options();
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, values) in schema.fields().iter().zip(batch.columns()) {
        if field.data_type().is_nested() {
            fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
            columns.push(column_as_text(field, values, &options)?);
        } else {
            fields.push(Arc::clone(field));
            columns.push(Arc::clone(values));
        }
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// A column as JSON text, value by value; nulls stay nulls.
fn column_as_text(field: &FieldRef, column: &ArrayRef, options: &EncoderOptions) -> Result<ArrayRef, QueryError> {
    let mut encoder = make_encoder(field, column.as_ref(), options)?;
    let mut texts = StringBuilder::new();
    let mut buffer = Vec::new();
    for row in 0..column.len() {
        if encoder.is_null(row) {
            texts.append_null();
            continue;
        }
        buffer.clear();
        encoder.encode(row, &mut buffer);
        texts.append_value(String::from_utf8_lossy(&buffer));
    }
    Ok(Arc::new(texts.finish()))
}

/// Encodes what arrow-json would lose or refuse.
#[derive(Debug)]
struct Exact;

impl EncoderFactory for Exact {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let as_text = match array.data_type() {
            DataType::Decimal32(..)
            | DataType::Decimal64(..)
            | DataType::Decimal128(..)
            | DataType::Decimal256(..)
            | DataType::Union(..) => true,
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(pair) => !pair.first().is_some_and(|key| key.data_type().is_string()),
                _ => true,
            },
            _ => false,
        };
        if !as_text {
            return Ok(None);
        }
        let formatter = ArrayFormatter::try_new(array, &FormatOptions::new().with_display_error(true))?;
        Ok(Some(NullableEncoder::new(Box::new(Text(formatter)), array.logical_nulls())))
    }
}

/// A value as Arrow shows it, in quotes.
struct Text<'a>(ArrayFormatter<'a>);

impl Encoder for Text<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(quoted(&self.0.value(row).to_string()).as_bytes());
    }
}
