//! Smaller batches where rows are wide.
//!
//! The engine makes batches of 8,192 rows, of numbers as of lists of 64 MiB. A join that repeats such a list takes half
//! a terabyte in one step, which nothing stops. So what goes into operators that repeat rows is measured, and what comes
//! out of them:
//!
//! | measured | because | most in a batch of all the rows that one may have |
//! | --- | --- | --- |
//! | values that are copied with their row, on the way in | they are copied within one step | [`MOST_OF_BATCH`] |
//! | texts that rows share, on the way out | what is computed of them next is computed for each row | [`MOST_SHARED`] |
//!
//! Rows that are too wide end the query with [`TooWide`], which says how many rows a batch may have. The caller runs the
//! query again with such batches, unless rows were given out before. UNNEST makes all elements of a row in one step,
//! however small the batch is, so a row with too many of them is refused.

use std::error::Error;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use datafusion::common::exec_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_plan::unnest::ListUnnest;

use crate::bounds::{ELEMENT, MOST_OF_BATCH, MOST_OF_VALUE, sizes_of};

/// Bytes of shared texts in a batch, each counted as often as it stands there.
const MOST_SHARED: u64 = 2 << 30;

/// Rows are too wide for batches of as many rows as they have now.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "rows of {} KiB are repeated, by a join, UNNEST, a window or a subquery, and take too much memory: make their values \
     shorter, as by `substr`, or leave them out there",
    bytes.div_ceil(1 << 10)
)]
pub struct TooWide {
    bytes: u64,
    rows: usize,
}

impl TooWide {
    pub(crate) fn of(bytes: u64) -> DataFusionError {
        // Several steps of a query, and several queries, have such a batch at a time.
        let rows = usize::try_from(MOST_OF_VALUE / bytes.max(1)).unwrap_or(usize::MAX).max(1);
        DataFusionError::External(Box::new(Self { bytes, rows }))
    }

    /// So many rows a batch may have.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// Why a query failed, if that is for wide rows.
pub fn too_wide(error: &DataFusionError) -> Option<TooWide> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(wide) = error.downcast_ref::<TooWide>() {
            return Some(*wide);
        }
        next = error.source();
    }
    None
}

/// What of a batch is measured before its rows are repeated, or after.
#[derive(Clone, Debug)]
pub(crate) enum Measured {
    /// These columns are copied with their row.
    Copied(Vec<usize>),
    /// These columns share their texts.
    Shared(Vec<usize>),
    /// Lists are taken apart, and these columns are copied with their row for each element, all in one step.
    Unnested { lists: Vec<(usize, bool)>, copied: Vec<usize> },
}

impl Measured {
    /// For what goes into an operator that repeats rows.
    pub(crate) fn copied(schema: &Schema) -> Option<Self> {
        let columns = columns(schema, is_copied);
        (!columns.is_empty()).then_some(Self::Copied(columns))
    }

    /// For what goes into UNNEST, which takes these columns apart.
    pub(crate) fn unnested(schema: &Schema, unnested: &[ListUnnest]) -> Option<Self> {
        let lists: Vec<(usize, bool)> =
            unnested.iter().map(|list| (list.index_in_input_schema, list.depth > 1)).collect();
        let is_taken_apart = |column: &usize| lists.iter().any(|(list, _)| list == column);
        let copied: Vec<usize> = columns(schema, is_copied).into_iter().filter(|of| !is_taken_apart(of)).collect();
        (!copied.is_empty()).then_some(Self::Unnested { lists, copied })
    }

    /// For what comes out of it.
    pub(crate) fn shared(schema: &Schema) -> Option<Self> {
        let columns = columns(schema, |of| matches!(of, DataType::Utf8View | DataType::BinaryView));
        (!columns.is_empty()).then_some(Self::Shared(columns))
    }

    /// Fails where batches of `rows` rows such as these would be too large.
    pub(crate) fn check(&self, batch: &RecordBatch, rows: usize) -> Result<()> {
        let most = MOST_OF_BATCH / rows.max(1) as u64;
        let widest = match self {
            Self::Copied(columns) => widths(batch, columns, most).and_then(|widths| widths.into_iter().max()),
            Self::Unnested { lists, copied } => {
                let widths = widths(batch, copied, most);
                if let Some(widths) = &widths {
                    fits_unnested(batch, lists, widths)?;
                }
                widths.and_then(|widths| widths.into_iter().max())
            }
            Self::Shared(columns) => {
                let all = columns.iter().map(|column| shared(batch.column(*column))).sum::<u64>();
                if all > MOST_SHARED {
                    return Err(TooWide::of(all / batch.num_rows().max(1) as u64));
                }
                None
            }
        };
        widest.filter(|bytes| *bytes > most).map_or(Ok(()), |bytes| Err(TooWide::of(bytes)))
    }
}

fn columns(schema: &Schema, counts: impl Fn(&DataType) -> bool) -> Vec<usize> {
    let fields = schema.fields().iter().enumerate();
    fields.filter(|(_, field)| counts(field.data_type())).map(|(column, _)| column).collect()
}

/// Whether a value of any size is copied when its row is.
fn is_copied(of: &DataType) -> bool {
    match of {
        DataType::Utf8View | DataType::BinaryView => false,
        DataType::Struct(fields) => fields.iter().any(|field| is_copied(field.data_type())),
        DataType::Union(fields, _) => fields.iter().any(|(_, field)| is_copied(field.data_type())),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => true,
        other => other.is_nested(),
    }
}

/// The sizes of all rows, where one may have more than `most`.
fn widths(batch: &RecordBatch, columns: &[usize], most: u64) -> Option<Vec<u64>> {
    let held = columns.iter().map(|column| batch.column(*column).get_array_memory_size() as u64).sum::<u64>();
    if held <= most {
        return None;
    }
    let mut rows = vec![0; batch.num_rows()];
    for column in columns {
        for (row, bytes) in rows.iter_mut().zip(sizes_of(batch.column(*column))) {
            *row += bytes;
        }
    }
    Some(rows)
}

/// However few rows a batch has, all elements of a row are made rows in one step.
fn fits_unnested(batch: &RecordBatch, lists: &[(usize, bool)], widths: &[u64]) -> Result<()> {
    for (list, is_deep) in lists {
        let list = batch.column(*list);
        // Those of lists in lists take as much at least.
        let deep = if *is_deep { sizes_of(list) } else { Vec::new() };
        for (row, width) in widths.iter().enumerate() {
            let elements = match (list.data_type(), deep.get(row)) {
                (_, Some(bytes)) => bytes / ELEMENT,
                (DataType::List(_), _) => list.as_list::<i32>().value_length(row).unsigned_abs().into(),
                (DataType::LargeList(_), _) => list.as_list::<i64>().value_length(row).unsigned_abs(),
                (DataType::FixedSizeList(_, length), _) => length.unsigned_abs().into(),
                _ => 0,
            };
            if elements.saturating_mul(*width) > MOST_OF_BATCH {
                return exec_err!(
                    "UNNEST would repeat {} KiB for each of {elements} elements, and take more than {} MiB in one step; \
                     leave out what is repeated, and join it afterwards",
                    width.div_ceil(1 << 10),
                    MOST_OF_BATCH >> 20
                );
            }
        }
    }
    Ok(())
}

/// Bytes of texts, each counted as often as it stands there. The lower half of a view's lower half is a length.
fn shared(texts: &dyn Array) -> u64 {
    let views = match texts.data_type() {
        DataType::Utf8View => texts.as_string_view().views(),
        _ => texts.as_binary_view().views(),
    };
    views.iter().map(|view| u64::from(*view as u32)).sum()
}
