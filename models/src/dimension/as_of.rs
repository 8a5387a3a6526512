//! Versions of a child that its parents' versions open.
//!
//! ```text
//! child    ├──────── c1, of parent p ────────┼──── c2, of q ────
//! p        ├──── p1 ────┼──────── p2 ─────────────
//!          ├ c1, p1 ────┼── c1', p2 ─────────┼──── c2, q1 ──────      c1' has a key made of c1 and p2
//! ```

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;

use super::{Dimension, END, Index, Reference};
use crate::keys::UNKNOWN;

/// The members that rows of versions refer to by `reference`.
pub(super) fn referred(rows: &RecordBatch, reference: &Reference) -> impl Iterator<Item = i64> + use<> {
    let durable = rows.column_by_name(&reference.durable_column()).map(|keys| keys.as_primitive::<Int64Type>().clone());
    let keys = durable.into_iter().flat_map(|keys| keys.values().to_vec());
    keys.filter(|&key| key != UNKNOWN)
}

/// The rows with the keys of the parent's versions, and with a row for each of them.
pub(super) fn split(
    dimension: &Dimension,
    reference: &Reference,
    rows: &RecordBatch,
    parent: &Index,
) -> Result<RecordBatch, ArrowError> {
    let schema = rows.schema();
    let keys = dimension.keys();
    let long = |place: usize| rows.column(place).as_primitive::<Int64Type>().values();
    let (version, durable) = (long(0), long(1));
    let of_parent = long(schema.index_of(&reference.durable_column())?);
    let time = |place: usize| rows.column(place).as_primitive::<TimestampMicrosecondType>().values();
    let validity = schema.index_of("valid_from")?;
    let (from, to) = (time(validity), time(validity + 1));
    let (mut taken, mut version_keys, mut parent_keys) = (Vec::new(), Vec::new(), Vec::new());
    let (mut begins, mut ends) = (Vec::new(), Vec::new());
    for row in 0..rows.num_rows() {
        let mut begin = from[row];
        let (mut key, mut parent_key) = (version[row], parent.key(of_parent[row], begin));
        for (at, next) in parent.versions(of_parent[row]).filter(|&(at, _)| from[row] < at && at < to[row]) {
            taken.push(row as u32);
            version_keys.push(key);
            parent_keys.push(parent_key);
            begins.push(begin);
            ends.push(at);
            (begin, key, parent_key) = (at, keys.beside(durable[row], version[row], next), next);
        }
        taken.push(row as u32);
        version_keys.push(key);
        parent_keys.push(parent_key);
        begins.push(begin);
        ends.push(to[row]);
    }
    let is_current: BooleanArray = ends.iter().map(|&end| Some(end == END)).collect();
    let times = |times: Vec<i64>| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")) };
    let split = take_record_batch(rows, &UInt32Array::from(taken))?;
    let mut columns = split.columns().to_vec();
    columns[0] = Arc::new(Int64Array::from(version_keys));
    columns[schema.index_of(&reference.key_column())?] = Arc::new(Int64Array::from(parent_keys));
    columns[validity] = times(begins);
    columns[validity + 1] = times(ends);
    columns[validity + 2] = Arc::new(is_current);
    RecordBatch::try_new(schema, columns)
}
