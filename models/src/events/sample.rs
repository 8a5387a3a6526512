//! Golden samples: payloads of a version, and what models are to see of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, BooleanArray, Int32Array, RecordBatch, StringArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::util::display::array_value_to_string;

use super::{Decoder, Event, Field, Need};
use crate::define::{FieldType, Sample};

/// What of a sample does not come out as it says.
pub(crate) fn misfits(event: &Event, version: u32, sample: &Sample) -> Vec<String> {
    let newest = event.newest();
    let mut wrong = Vec::new();
    for name in sample.gives.keys().filter(|name| newest.field(name).is_none()) {
        let hint = crate::define::suggestion(name, newest.fields.iter().map(|field| field.name.as_str()));
        wrong.push(format!("the newest version has no field `{name}` ({hint})"));
    }
    for field in &newest.fields {
        if let Some(elements) = field.elements() {
            wrong.extend(list(event, version, sample, (&field.name, elements), sample.gives.get(&field.name)));
        }
    }
    if !wrong.is_empty() {
        return wrong;
    }
    // A payload that a model may reject is no sample of what they see, whatever else it gives.
    let need = Need { fields: of_one_value(&newest.fields), each: None };
    let decoded = match decoded(event, version, sample, need) {
        Ok(decoded) => decoded.0,
        Err(reason) => return vec![reason],
    };
    for (field, column) in decoded.schema().fields().iter().zip(decoded.columns()) {
        let Some(expected) = sample.gives.get(field.name()) else { continue };
        wrong.extend(differs(column, 0, expected).map(|words| format!("`{}` {words}", field.name())));
    }
    wrong
}

/// What of a list's elements does not come out.
fn list(
    event: &Event,
    version: u32,
    sample: &Sample,
    (name, fields): (&str, &[Field]),
    expected: Option<&serde_json::Value>,
) -> Vec<String> {
    let expected = match expected.map(|expected| expected.as_array()) {
        None => None,
        Some(Some(expected)) => Some(expected),
        Some(None) => return vec![format!("`{name}` is a list of elements")],
    };
    for (place, element) in expected.into_iter().flatten().enumerate() {
        let Some(element) = element.as_object() else {
            return vec![format!("element {} of `{name}` is to be a map of its fields", place + 1)];
        };
        if let Some(unknown) = element.keys().find(|key| !fields.iter().any(|known| known.name == **key)) {
            return vec![format!("elements of `{name}` have no field `{unknown}`")];
        }
    }
    let need = Need { fields: BTreeSet::new(), each: Some((name.to_owned(), of_one_value(fields))) };
    let (elements, expected) = match (decoded(event, version, sample, need), expected) {
        (Err(reason), _) => return vec![reason],
        (Ok(_), None) => return Vec::new(),
        (Ok((_, None)), Some(_)) => return vec![format!("`{name}` has no elements")],
        (Ok((_, Some(elements))), Some(expected)) => (elements, expected),
    };
    if elements.num_rows() != expected.len() {
        return vec![format!("`{name}` has {} elements, and {} are given", elements.num_rows(), expected.len())];
    }
    let mut wrong = Vec::new();
    for (row, expected) in expected.iter().enumerate() {
        for (field, column) in elements.schema().fields().iter().zip(elements.columns()) {
            let Some(value) = expected.get(field.name()) else { continue };
            let words = differs(column, row, value);
            wrong.extend(words.map(|words| format!("`{}` of element {} {words}", field.name(), row + 1)));
        }
    }
    wrong
}

/// The fields that hold one value.
pub(super) fn of_one_value(fields: &[Field]) -> BTreeSet<String> {
    fields.iter().filter(|field| field.field_type().is_some()).map(|field| field.name.clone()).collect()
}

/// The one row, and its elements; or why it is rejected.
fn decoded(
    event: &Event,
    version: u32,
    sample: &Sample,
    need: Need,
) -> Result<(RecordBatch, Option<RecordBatch>), String> {
    let decoder = Decoder::new(event, &need).map_err(|error| error.reason)?;
    let payload = match &sample.payload {
        serde_json::Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    let number = i32::try_from(version).unwrap_or(i32::MAX);
    let columns: [(&str, ArrayRef); 3] = [
        ("event_type", Arc::new(StringArray::from(vec![event.name.as_str()]))),
        ("event_version", Arc::new(Int32Array::from(vec![number]))),
        ("payload", Arc::new(BinaryArray::from(vec![payload.as_bytes()]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).map_err(|error| error.to_string())?;
    let decoded = decoder.decode(&batch, &BooleanArray::from(vec![true])).map_err(|error| error.to_string())?;
    match decoded.rejects.into_iter().next() {
        Some((_, reason)) => Err(format!("it is rejected: {reason}")),
        None => Ok((decoded.fields, decoded.elements.map(|elements| elements.fields))),
    }
}

/// How a value is another one than expected, in words.
fn differs(column: &ArrayRef, row: usize, expected: &serde_json::Value) -> Option<String> {
    let wanted: ArrayRef = match expected {
        serde_json::Value::Null => new_null_array(column.data_type(), 1),
        value => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let text: ArrayRef = Arc::new(StringArray::from(vec![text]));
            match (column.data_type(), cast(&text, column.data_type())) {
                (DataType::Utf8, _) => text,
                (_, Ok(values)) if values.is_valid(0) => values,
                (data_type, _) => return Some(format!("is {}, and `{value}` is none", FieldType::name_of(data_type))),
            }
        }
    };
    if column.slice(row, 1).to_data() == wanted.to_data() {
        return None;
    }
    let shown = |column: &ArrayRef, row| match column.is_null(row) {
        true => "null".to_owned(),
        false => array_value_to_string(column, row).unwrap_or_default(),
    };
    Some(format!("is {}, not {}", shown(column, row), shown(&wanted, 0)))
}
