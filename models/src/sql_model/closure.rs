//! Who is above whom, at any distance: the closure of a hierarchy.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int32Array, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};

/// Of rows with a member and, in the place of its ancestor, the natural key of the member right above: a row for each
/// member and each one above it, itself included. A way up ends where it would come by a member again.
///
/// Columns: the ancestor's durable key, the member's; the ancestor's natural key, the member's; distance; whether there
/// is nobody above the ancestor; whether there is nobody below the member.
pub(super) fn closure(members: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let (durable, above, natural) = (members.column(1), members.column(2), members.column(3));
    let converter = RowConverter::new(vec![SortField::new(natural.data_type().clone())])?;
    let (names, above_names) = (
        converter.convert_columns(std::slice::from_ref(natural))?,
        converter.convert_columns(std::slice::from_ref(above))?,
    );
    let count = members.num_rows();
    let by_name: HashMap<_, usize> = (0..count).map(|row| (names.row(row), row)).collect();
    let parent: Vec<Option<usize>> = (0..count)
        .map(|row| above.is_valid(row).then(|| by_name.get(&above_names.row(row)).copied()).flatten())
        .collect();
    let mut has_below = vec![false; count];
    parent.iter().flatten().for_each(|&above| has_below[above] = true);
    let (mut ancestors, mut descendants, mut distances) = (Vec::new(), Vec::new(), Vec::new());
    let mut way: Vec<usize> = Vec::new();
    for member in 0..count {
        way.clear();
        let mut at = Some(member);
        while let Some(row) = at.filter(|row| !way.contains(row)) {
            ancestors.push(row as u32);
            descendants.push(member as u32);
            distances.push(way.len() as i32);
            way.push(row);
            at = parent[row];
        }
    }
    let (ancestors, descendants) = (UInt32Array::from(ancestors), UInt32Array::from(descendants));
    let is_top = ancestors.values().iter().map(|&row| Some(parent[row as usize].is_none()));
    let is_bottom = descendants.values().iter().map(|&row| Some(!has_below[row as usize]));
    let columns: Vec<ArrayRef> = vec![
        take(durable, &ancestors, None)?,
        take(durable, &descendants, None)?,
        take(natural, &ancestors, None)?,
        take(natural, &descendants, None)?,
        Arc::new(Int32Array::from(distances)),
        Arc::new(is_top.collect::<BooleanArray>()),
        Arc::new(is_bottom.collect::<BooleanArray>()),
    ];
    RecordBatch::try_new(members.schema(), columns)
}
