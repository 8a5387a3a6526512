//! The number of different values that have parts: pairs, lists.

use std::collections::HashSet;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;
use arrow::row::{Row, RowConverter, SortField};
use datafusion::common::ScalarValue;
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::error::Result;
use datafusion::logical_expr::Accumulator;

/// Each value that was seen, as bytes that are the same for the same values.
#[derive(Debug)]
pub(super) struct DistinctRows {
    converter: RowConverter,
    rows: HashSet<Box<[u8]>>,
    bytes: usize,
}

impl DistinctRows {
    /// `None` for values of a type of which bytes cannot be made, or not be read again.
    pub(super) fn of(data_type: &DataType) -> Result<Option<Self>> {
        let fields = vec![SortField::new(data_type.clone())];
        if !RowConverter::supports_fields(&fields) {
            return Ok(None);
        }
        let rows = Self { converter: RowConverter::new(fields)?, rows: HashSet::new(), bytes: 0 };
        let is_read_again = rows.values()?.data_type() == data_type;
        Ok(is_read_again.then_some(rows))
    }

    fn values(&self) -> Result<ArrayRef> {
        let parser = self.converter.parser();
        let rows: Vec<Row<'_>> = self.rows.iter().map(|bytes| parser.parse(bytes)).collect();
        Ok(self.converter.convert_rows(rows)?.remove(0))
    }

    fn add(&mut self, values: &ArrayRef) -> Result<()> {
        let rows = self.converter.convert_columns(std::slice::from_ref(values))?;
        for (place, row) in rows.iter().enumerate() {
            if values.is_valid(place) && !self.rows.contains(row.data()) {
                self.bytes += row.data().len();
                self.rows.insert(row.data().into());
            }
        }
        Ok(())
    }
}

impl Accumulator for DistinctRows {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        values.iter().try_for_each(|values| self.add(values))
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for lists in states {
            for values in lists.as_list::<i32>().iter().flatten() {
                self.add(&values)?;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Int64(i64::try_from(self.rows.len()).ok()))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![SingleRowListArrayBuilder::new(self.values()?).build_list_scalar()])
    }

    fn size(&self) -> usize {
        // A place of the set has a pointer, a length and a byte of the hash, and not all places are taken.
        let places = self.rows.capacity() * (size_of::<Box<[u8]>>() + 1);
        size_of_val(self) + self.converter.size() + places + self.bytes
    }
}
