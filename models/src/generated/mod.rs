//! Dimensions that need no events: their rows follow from their definition.
//!
//! | module | rows |
//! | --- | --- |
//! | [`calendar`] | days |
//! | [`time_of_day`] | hours, minutes or seconds of a day |
//! | [`bands`] | ranges of a value |

pub mod bands;
pub mod calendar;
pub mod time_of_day;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;

pub use bands::Bands;
pub use calendar::Days;
pub use time_of_day::Times;

use crate::Result;
use crate::define::{FieldType, SpecialMembers};

/// What such a dimension is made of.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub enum Generated {
    Days(Days),
    Times(Times),
    Bands(Bands),
}

impl Generated {
    /// What it is, in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Days(_) => "calendar",
            Self::Times(_) => "time_of_day",
            Self::Bands(_) => "bands",
        }
    }

    /// The columns of the rows of the dimension `name`.
    pub fn schema(&self, name: &str) -> SchemaRef {
        match self {
            Self::Days(days) => days.schema(name),
            Self::Times(times) => times.schema(name),
            Self::Bands(bands) => bands.schema(name),
        }
    }

    /// All rows: those of special members first.
    pub fn rows(&self, name: &str, members: &SpecialMembers) -> Result<RecordBatch> {
        match self {
            Self::Days(days) => days.rows(name, members),
            Self::Times(times) => times.rows(name, members),
            Self::Bands(bands) => bands.rows(name, members),
        }
    }

    /// The type of what tells which row is meant.
    pub fn key_type(&self) -> FieldType {
        match self {
            Self::Days(_) => FieldType::Date,
            Self::Times(_) => FieldType::Timestamp,
            Self::Bands(bands) => bands.of,
        }
    }

    /// The key of each value's row; 0 where there is none.
    pub fn keys(&self, values: &ArrayRef) -> Int64Array {
        match self {
            Self::Days(days) => days.keys(values),
            Self::Times(times) => times.keys(values),
            Self::Bands(bands) => bands.keys(values),
        }
    }
}

/// Columns of rows, those of special members first.
struct Columns<'a> {
    special: Vec<(i64, Option<&'a str>)>,
}

impl<'a> Columns<'a> {
    fn new(members: &'a SpecialMembers) -> Self {
        Self { special: members.rows() }
    }

    fn keys(&self, rows: impl Iterator<Item = i64>) -> ArrayRef {
        std::sync::Arc::new(Int64Array::from_iter_values(self.special.iter().map(|(key, _)| *key).chain(rows)))
    }

    fn whole(&self, rows: impl Iterator<Item = i32>) -> ArrayRef {
        let none = std::iter::repeat_n(None, self.special.len());
        std::sync::Arc::new(none.chain(rows.map(Some)).collect::<Int32Array>())
    }

    /// What special members are called, then each row's text.
    fn text(&self, rows: impl Iterator<Item = String>) -> ArrayRef {
        let labels = self.special.iter().map(|(_, label)| label.map(str::to_owned));
        std::sync::Arc::new(labels.chain(rows.map(Some)).collect::<StringArray>())
    }
}
