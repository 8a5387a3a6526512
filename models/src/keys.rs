//! Surrogate keys: 64 bits, derived, so that a rebuild gives the same keys on any machine.
//!
//! A member's durable key, which is also the key of its first version, comes from the dimension's name and the
//! natural key alone; so a fact knows it before the member is known, and an inferred member keeps it. A later
//! version's key comes from the event that opened it as well. Keys are positive and above the reserved ones;
//! the hash is XXH3 (64 bits, seed 0), cut to 62 bits.

use arrow::array::ArrayRef;
use arrow::array::{Array, Int64Array};
use starmere_lake::delta::{append_value, hash_rows};
use xxhash_rust::xxh3::Xxh3;

/// The member that is not known.
pub const UNKNOWN: i64 = 0;
/// The member that stands for there being none, rightly.
pub const NOT_APPLICABLE: i64 = -1;
/// The member that stands for what cannot be right.
pub const ERROR: i64 = -2;

/// Keys up to here are reserved.
const RESERVED: i64 = 1 << 10;

/// Makes keys of one dimension.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Length-framed name of the dimension.
    prefix: Vec<u8>,
}

impl Keys {
    /// Keys of the dimension `domain.name`.
    pub fn new(dimension: &str) -> Self {
        let mut prefix = Vec::new();
        frame(&mut prefix, dimension.as_bytes());
        Self { prefix }
    }

    /// The durable key of each row's natural key; 0 where a part of it is null.
    pub fn durable(&self, natural: &[ArrayRef]) -> Int64Array {
        let rows = natural.first().map_or(0, |column| column.len());
        let mut bytes = Vec::with_capacity(64);
        let key = |row| {
            bytes.clear();
            bytes.extend_from_slice(&self.prefix);
            for column in natural {
                if column.is_null(row) {
                    return UNKNOWN;
                }
                value(&mut bytes, column, row);
            }
            cut(xxhash_rust::xxh3::xxh3_64(&bytes))
        };
        Int64Array::from_iter_values((0..rows).map(key))
    }

    /// The key of each row's values, where they are what tells members apart; nulls are values, too.
    pub fn of_values(&self, values: &[ArrayRef]) -> Int64Array {
        let rows = values.first().map_or(0, |column| column.len());
        let mut bytes = Vec::with_capacity(64);
        let key = |row| {
            bytes.clear();
            bytes.extend_from_slice(&self.prefix);
            append_values(&mut bytes, values, row);
            cut(xxhash_rust::xxh3::xxh3_64(&bytes))
        };
        Int64Array::from_iter_values((0..rows).map(key))
    }

    /// The key of a later version of the member `durable`, opened by this event.
    pub fn version(&self, durable: i64, stream: &str, event_id: &str) -> i64 {
        let mut hash = Xxh3::new();
        hash.update(&self.prefix);
        hash.update(&durable.to_le_bytes());
        let mut bytes = Vec::with_capacity(64);
        frame(&mut bytes, stream.as_bytes());
        frame(&mut bytes, event_id.as_bytes());
        hash.update(&bytes);
        cut(hash.digest())
    }

    /// The key of what is left of the version `version` of the member `durable` once a parent's version `parent` begins.
    pub fn beside(&self, durable: i64, version: i64, parent: i64) -> i64 {
        let mut hash = Xxh3::new();
        hash.update(&self.prefix);
        for key in [durable, version, parent] {
            hash.update(&key.to_le_bytes());
        }
        cut(hash.digest())
    }
}

/// A hash of each row of `columns`, nulls included.
pub(crate) fn hashes(columns: &[ArrayRef]) -> Vec<u64> {
    hash_rows(columns).unwrap_or_else(|| unreachable!("a grain has declared types"))
}

fn cut(hash: u64) -> i64 {
    let key = (hash >> 2) as i64;
    if key <= RESERVED { key + RESERVED + 1 } else { key }
}

fn frame(into: &mut Vec<u8>, bytes: &[u8]) {
    into.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    into.extend_from_slice(bytes);
}

/// The canonical bytes of a row's values; nulls are values, too.
pub(crate) fn append_values(into: &mut Vec<u8>, columns: &[ArrayRef], row: usize) {
    for column in columns {
        into.push(u8::from(column.is_valid(row)));
        if column.is_valid(row) {
            value(into, column, row);
        }
    }
}

/// The canonical bytes of a value; columns have the dimension's own types, so equal values have equal bytes.
fn value(into: &mut Vec<u8>, column: &ArrayRef, row: usize) {
    if !append_value(into, column, row) {
        unreachable!("a natural key has a declared type, not {}", column.data_type());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::StringArray;

    use super::*;

    #[test]
    fn keys_stay_what_they_are() {
        let keys = Keys::new("customers.customer");
        let natural: ArrayRef = Arc::new(StringArray::from(vec![Some("c1"), None, Some("c2"), Some("c1")]));
        let durable = keys.durable(&[natural]);
        assert_eq!(durable.value(0), durable.value(3));
        assert_ne!(durable.value(0), durable.value(2));
        assert_eq!(durable.value(1), UNKNOWN);
        // A change here re-keys every warehouse: it needs a new number in `resolve::FOLD`.
        assert_eq!(durable.value(0), FIRST);
        assert_ne!(
            keys.version(durable.value(0), "customers", "e1"),
            keys.version(durable.value(0), "customers", "e2")
        );
    }

    const FIRST: i64 = 3_767_021_802_416_212_029;

    #[test]
    fn parts_of_a_key_are_not_run_together() {
        let keys = Keys::new("d");
        let column = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
        assert_ne!(keys.durable(&[column("ab"), column("c")]), keys.durable(&[column("a"), column("bc")]));
    }
}
