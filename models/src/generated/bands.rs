//! Bands of a value: a dimension of ranges, such as small, medium and large.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Field, Schema, SchemaRef};
use starmere_lake::Error as LakeError;

use super::Columns;
use crate::define::{FieldType, SpecialMembers};
use crate::keys::UNKNOWN;
use crate::{Error, Result};

/// Ranges, from the least to the greatest.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Bands {
    /// The type of what is banded: a decimal or an integer.
    pub of: FieldType,
    pub names: Vec<String>,
    /// Where each band but the last ends, and the next begins; in the last digit of the type.
    pub bounds: Vec<i128>,
}

impl Bands {
    fn scale(&self) -> i8 {
        match self.of {
            FieldType::Decimal(_, scale) => scale,
            _ => 0,
        }
    }

    fn wide(&self) -> DataType {
        DataType::Decimal128(38, self.scale())
    }

    pub(super) fn schema(&self, name: &str) -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new(format!("{name}_key"), DataType::Int64, false),
            Field::new("band", DataType::Utf8, true),
            Field::new("number", DataType::Int32, true),
            Field::new("at_least", self.of.arrow(), true),
            Field::new("below", self.of.arrow(), true),
        ]))
    }

    /// The number of each value's band, from 1.
    pub(super) fn keys(&self, values: &ArrayRef) -> Int64Array {
        let Ok(wide) = cast(values, &self.wide()) else {
            return Int64Array::from(vec![UNKNOWN; values.len()]);
        };
        let values = wide.as_primitive::<Decimal128Type>();
        let key = |value: Option<i128>| {
            value.map_or(UNKNOWN, |value| 1 + self.bounds.partition_point(|bound| *bound <= value) as i64)
        };
        Int64Array::from_iter_values(values.iter().map(key))
    }

    pub(super) fn rows(&self, name: &str, members: &SpecialMembers) -> Result<RecordBatch> {
        let columns = Columns::new(members);
        let none = || std::iter::repeat_n(None, columns.special.len());
        let bounds = |bounds: Vec<Option<i128>>| -> Result<ArrayRef> {
            let failed = || LakeError::columns(format!("bands `{name}`"));
            let values = Decimal128Array::from_iter(none().chain(bounds)).with_data_type(self.wide());
            Ok(cast(&(Arc::new(values) as ArrayRef), &self.of.arrow()).map_err(failed())?)
        };
        let ends = || self.bounds.iter().copied().map(Some);
        let count = self.names.len();
        let rows = vec![
            columns.keys(1..=count as i64),
            columns.text(self.names.iter().cloned()),
            columns.whole(1..=count as i32),
            bounds(std::iter::once(None).chain(ends()).collect())?,
            bounds(ends().chain([None]).collect())?,
        ];
        RecordBatch::try_new(self.schema(name), rows)
            .map_err(LakeError::columns(format!("bands `{name}`")))
            .map_err(Error::Lake)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_one_band() {
        let names = ["small", "medium", "large"].map(str::to_owned).to_vec();
        let bands = Bands { of: FieldType::Decimal(9, 2), names, bounds: vec![2_000, 10_000] };
        let values = Decimal128Array::from(vec![Some(-5), Some(1_999), Some(2_000), Some(10_000), None])
            .with_data_type(DataType::Decimal128(9, 2));
        assert_eq!(bands.keys(&(Arc::new(values) as ArrayRef)).values(), &[1, 1, 2, 3, UNKNOWN]);
        let rows = bands.rows("size", &SpecialMembers::default()).unwrap();
        let printed = arrow::util::pretty::pretty_format_batches(&[rows]).unwrap().to_string();
        assert!(printed.contains("| 2        | medium | 2      | 20.00    | 100.00 |"), "{printed}");
    }
}
