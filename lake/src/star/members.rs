//! The members of a dimension that a query wants, by key.

use arrow::array::{Array, AsArray, Int64Array, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use datafusion::error::Result;

/// Where no member is.
const NOBODY: u32 = u32::MAX;
/// Multiplies keys apart, whether they are hashes or count up: 2^64 by the golden ratio.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// Rows of a dimension, and which of them has a key.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) rows: RecordBatch,
    /// The least and the greatest key.
    pub(super) bounds: Option<(i64, i64)>,
    lookup: Lookup,
}

#[derive(Debug)]
enum Lookup {
    /// Keys that lie close together: row by key.
    Direct { first: i64, rows: Vec<u32> },
    /// Any keys: a table with open addressing, behind a filter that fits into a near cache where the table does not.
    Hashed { filter: Bits, table: Vec<(i64, u32)>, shift: u32 },
}

/// A filter with one hash: about a sixteenth of its bits are set.
#[derive(Debug)]
struct Bits {
    words: Vec<u64>,
    shift: u32,
}

impl Bits {
    fn has(&self, hash: u64) -> bool {
        let bit = (hash >> self.shift) as usize;
        self.words[bit >> 6] >> (bit & 63) & 1 == 1
    }
}

fn hash(key: i64) -> u64 {
    (key as u64).wrapping_mul(SPREAD)
}

/// Whether keys of this type can be looked up.
pub(super) fn is_key(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Int64 | DataType::Int32 | DataType::Int16 | DataType::Int8 | DataType::Date32)
}

/// A column of keys, as 64-bit integers.
pub(super) fn keys(column: &dyn Array) -> Result<Int64Array> {
    let plain = match column.data_type() {
        DataType::Date32 => &cast(column, &DataType::Int32)?,
        _ => column,
    };
    Ok(match plain.as_primitive_opt::<Int64Type>() {
        Some(keys) => keys.clone(),
        None => cast(plain, &DataType::Int64)?.as_primitive::<Int64Type>().clone(),
    })
}

/// Two members have one key.
#[derive(Debug)]
pub(super) struct Duplicate(pub(super) i64);

impl Members {
    /// The members in `batches`, by the column `key`. Members without a key match nothing.
    pub(super) fn new(schema: &SchemaRef, batches: &[RecordBatch], key: usize) -> Result<Result<Self, Duplicate>> {
        let rows = concat_batches(schema, batches)?;
        let keys = keys(rows.column(key))?;
        let found = (0..keys.len()).filter(|&row| keys.is_valid(row)).map(|row| (keys.value(row), row as u32));
        let bounds = arrow::compute::min(&keys).zip(arrow::compute::max(&keys));
        Ok(Lookup::new(found, rows.num_rows(), bounds).map(|lookup| Self { rows, bounds, lookup }))
    }

    /// Bytes in use.
    pub(super) fn size(&self) -> usize {
        let lookup = match &self.lookup {
            Lookup::Direct { rows, .. } => size_of_val(rows.as_slice()),
            Lookup::Hashed { filter, table, .. } => {
                size_of_val(filter.words.as_slice()) + size_of_val(table.as_slice())
            }
        };
        self.rows.get_array_memory_size() + lookup
    }

    /// Keeps those of `rows` whose key has a member; `member[row]` is which.
    pub(super) fn keep(&self, keys: &Int64Array, rows: &mut Vec<u32>, member: &mut [u32]) {
        if keys.null_count() > 0 {
            rows.retain(|&row| keys.is_valid(row as usize));
        }
        let keys = &keys.values()[..];
        match &self.lookup {
            Lookup::Direct { first, rows: by_key } => keep(rows, |row| {
                let place = keys[row as usize].wrapping_sub(*first) as u64;
                let found = usize::try_from(place).ok().and_then(|place| by_key.get(place)).copied().unwrap_or(NOBODY);
                member[row as usize] = found;
                found != NOBODY
            }),
            Lookup::Hashed { filter, table, shift } => {
                keep(rows, |row| filter.has(hash(keys[row as usize])));
                keep(rows, |row| {
                    let key = keys[row as usize];
                    let found = find(table, *shift, key);
                    member[row as usize] = found;
                    found != NOBODY
                });
            }
        }
    }
}

/// `Vec::retain` without branches: whether a row stays is anybody's guess.
fn keep(rows: &mut Vec<u32>, mut stays: impl FnMut(u32) -> bool) {
    let mut kept = 0;
    for place in 0..rows.len() {
        let row = rows[place];
        rows[kept] = row;
        kept += usize::from(stays(row));
    }
    rows.truncate(kept);
}

fn find(table: &[(i64, u32)], shift: u32, key: i64) -> u32 {
    let mask = table.len() - 1;
    let mut place = (hash(key) >> shift) as usize;
    loop {
        let (here, row) = table[place & mask];
        if row == NOBODY || here == key {
            return row;
        }
        place += 1;
    }
}

impl Lookup {
    fn new(
        found: impl Iterator<Item = (i64, u32)>,
        count: usize,
        bounds: Option<(i64, i64)>,
    ) -> Result<Self, Duplicate> {
        let (first, last) = bounds.unwrap_or((0, 0));
        let span = last.abs_diff(first);
        if span < 8 * count as u64 + (1 << 16) {
            let mut rows = vec![NOBODY; span as usize + 1];
            for (key, row) in found {
                if std::mem::replace(&mut rows[key.abs_diff(first) as usize], row) != NOBODY {
                    return Err(Duplicate(key));
                }
            }
            return Ok(Self::Direct { first, rows });
        }
        let places = (2 * count).next_power_of_two().max(64);
        let bits = (16 * count).next_power_of_two().max(64);
        let shift = 64 - places.ilog2();
        let mut filter = Bits { words: vec![0; bits / 64], shift: 64 - bits.ilog2() };
        let mut table = vec![(0, NOBODY); places];
        for (key, row) in found {
            let hash = hash(key);
            let bit = (hash >> filter.shift) as usize;
            filter.words[bit >> 6] |= 1 << (bit & 63);
            let mut place = (hash >> shift) as usize;
            while table[place & (places - 1)].1 != NOBODY {
                if table[place & (places - 1)].0 == key {
                    return Err(Duplicate(key));
                }
                place += 1;
            }
            table[place & (places - 1)] = (key, row);
        }
        Ok(Self::Hashed { filter, table, shift })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn members(keys: &[Option<i64>]) -> Result<Members, Duplicate> {
        let schema = Arc::new(Schema::new(vec![Field::new("key", DataType::Int64, true)]));
        let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(keys.to_vec()))]).unwrap();
        Members::new(&schema, &[batch], 0).unwrap()
    }

    fn matches(members: &Members, keys: &[Option<i64>]) -> Vec<(u32, u32)> {
        let mut rows: Vec<u32> = (0..keys.len() as u32).collect();
        let mut member = vec![0; keys.len()];
        members.keep(&Int64Array::from(keys.to_vec()), &mut rows, &mut member);
        rows.into_iter().map(|row| (row, member[row as usize])).collect()
    }

    #[test]
    fn keys_are_found_near_and_far() {
        let extremes = [i64::MIN, -1, 0, 1, i64::MAX, 4_611_686_018_427_387_904];
        for keys in [&[5, 7, 6][..], &extremes, &[i64::MAX, i64::MAX - 1], &[]] {
            let some: Vec<Option<i64>> = keys.iter().copied().map(Some).collect();
            let members = members(&some).unwrap();
            let expected: Vec<(u32, u32)> = (0..keys.len() as u32).map(|row| (row, row)).collect();
            assert_eq!(matches(&members, &some), expected);
            assert_eq!(matches(&members, &[Some(2), Some(8), None, Some(i64::MAX - 2)]), []);
        }
    }

    #[test]
    fn nobody_matches_null() {
        let members = members(&[Some(3), None]).unwrap();
        assert_eq!(matches(&members, &[None, Some(3), Some(0)]), [(1, 0)]);
    }

    #[test]
    fn two_members_with_one_key_are_found() {
        assert!(members(&[Some(3), Some(4), Some(3)]).is_err());
        assert!(members(&[Some(3), Some(i64::MAX), Some(3)]).is_err());
        assert!(members(&[None, Some(4), None]).is_ok());
    }

    #[test]
    fn random_keys_are_found_as_by_a_map() {
        let mut state = 7_u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as i64
        };
        for spread in [1, 1000, 1 << 40] {
            let unique: std::collections::BTreeSet<i64> = (0..5000).map(|_| (random() % 20_000) * spread).collect();
            let keys: Vec<Option<i64>> = unique.iter().copied().map(Some).collect();
            let asked: Vec<Option<i64>> = (0..20_000).map(|_| Some((random() % 20_000) * spread)).collect();
            let place = |key: i64| unique.range(..key).count() as u32;
            let known = asked.iter().zip(0..).filter(|(key, _)| unique.contains(&key.unwrap()));
            let expected: Vec<(u32, u32)> = known.map(|(key, row)| (row, place(key.unwrap()))).collect();
            assert_eq!(matches(&members(&keys).unwrap(), &asked), expected);
        }
    }
}
