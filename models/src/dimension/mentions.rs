//! How often members are mentioned.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int32Array, Int64Array, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{interleave, take};
use arrow::error::ArrowError;

use super::index::ByKey;
use super::{Action, Dimension, FIRST_KEY};
use crate::keys::UNKNOWN;

/// How often each member of a dimension is mentioned, and its natural key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mentions {
    members: ByKey<Mention>,
    /// Natural keys of members, a column a part.
    natural: Vec<Vec<ArrayRef>>,
}

#[derive(Clone, Copy, Debug)]
struct Mention {
    count: i64,
    /// Which of the natural keys.
    batch: u32,
    row: u32,
}

impl Mentions {
    /// Adds a mention (or takes one back) of each of these members.
    pub(crate) fn add(&mut self, durable: &Int64Array, natural: &[ArrayRef], sign: i64) -> Result<(), ArrowError> {
        let batch = self.natural.len() as u32;
        let mut first: Vec<u32> = Vec::new();
        for (row, &key) in durable.values().iter().enumerate().filter(|(_, key)| **key > UNKNOWN) {
            match self.members.entry(key) {
                Entry::Occupied(mut entry) => entry.get_mut().count += sign,
                Entry::Vacant(entry) => {
                    _ = entry.insert(Mention { count: sign, batch, row: first.len() as u32 });
                    first.push(row as u32);
                }
            }
        }
        if !first.is_empty() {
            let first = UInt32Array::from(first);
            let natural = natural.iter().map(|column| take(column, &first, None));
            self.natural.push(natural.collect::<Result<_, _>>()?);
        }
        Ok(())
    }

    /// Adds all of `others`.
    pub(crate) fn extend(&mut self, others: Self) {
        if self.members.is_empty() {
            *self = others;
            return;
        }
        let before = self.natural.len() as u32;
        self.natural.extend(others.natural);
        for (key, other) in others.members {
            let mention = Mention { batch: before + other.batch, ..other };
            self.members.entry(key).and_modify(|known| known.count += other.count).or_insert(mention);
        }
    }

    /// The rows of the change log that say so, in the order of members, so many at once; none where nothing changed.
    pub(crate) fn rows(
        self,
        dimension: &Dimension,
        at_once: usize,
    ) -> impl Iterator<Item = Result<RecordBatch, ArrowError>> {
        let mut members: Vec<(i64, Mention)> =
            self.members.into_iter().filter(|(_, mention)| mention.count != 0).collect();
        members.sort_unstable_by_key(|(key, _)| *key);
        let natural = self.natural;
        (0..members.len()).step_by(at_once.max(1)).map(move |first| {
            let end = members.len().min(first + at_once.max(1));
            changes(&members[first..end], &natural, dimension)
        })
    }
}

/// Rows of the change log that say how often these members are mentioned.
fn changes(
    members: &[(i64, Mention)],
    natural: &[Vec<ArrayRef>],
    dimension: &Dimension,
) -> Result<RecordBatch, ArrowError> {
    let schema = dimension.changes_schema();
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(members.iter().map(|(key, _)| *key))),
        Arc::new(Int32Array::from(vec![Action::Mention as i32; members.len()])),
        Arc::new(Int64Array::from_iter_values(members.iter().map(|(_, mention)| mention.count))),
    ];
    columns.extend(schema.fields()[3..FIRST_KEY].iter().map(|field| new_null_array(field.data_type(), members.len())));
    let places: Vec<(usize, usize)> =
        members.iter().map(|(_, mention)| (mention.batch as usize, mention.row as usize)).collect();
    for part in 0..dimension.key.len() {
        let arrays: Vec<&dyn Array> = natural.iter().map(|natural| natural[part].as_ref()).collect();
        columns.push(interleave(&arrays, &places)?);
    }
    let rest = schema.fields()[dimension.first_attribute()..].iter();
    columns.extend(rest.map(|field| new_null_array(field.data_type(), members.len())));
    RecordBatch::try_new(schema, columns)
}
